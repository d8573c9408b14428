from dataclasses import replace

import pytest
import torch
from report_standin import PICTURES, VECTORS, data_uris, html, make_dataset, make_evaluation, make_scene, pixels

from multiebm.data.dataset import Split
from multiebm.modalities import Vector
from multiebm.report.gallery import (
    NO_ENERGY,
    amplified_change,
    cross_section,
    interpolate,
    interpolation_section,
    joint_section,
)
from multiebm.report.scene import SHOWN, common_cell, pick_items, strip
from small_models import small_model


def sheet(views, name):
    return strip(views[name], common_cell({key: views[key] for key in PICTURES}))


def test_gen_ebm_and_real_pictures_are_those_of_the_model_and_the_test_set():
    scene = make_scene()
    shown = [pixels(uri) for uri in data_uris(html(joint_section(scene)))]
    gen, ebm = scene.model.sample(SHOWN, 0, seed=3), scene.model.sample(SHOWN, None, seed=3)
    real = {n: v[pick_items(scene.dataset.test, SHOWN)] for n, v in scene.dataset.test.views.items()}
    expected = [sheet(views, name) for views in (gen, ebm, real) for name in PICTURES]
    assert len(shown) == 4 * len(PICTURES)
    for got, wanted in zip(shown, expected, strict=False):
        assert got.shape == wanted.shape
        assert abs(got.astype(int) - wanted.astype(int)).max() <= 1  # real pictures travel through the state space


@pytest.mark.parametrize("section", [joint_section, cross_section, interpolation_section])
def test_pictures_of_a_declared_range_are_shown_as_any_others(section):
    """The same networks and the same values in other units: the same pictures within a level of grey."""
    scanned = {name: replace(m, range=(-1000.0, 3000.0)) for name, m in PICTURES.items()}
    plain, ranged = (data_uris(html(section(make_scene(parts)))) for parts in (PICTURES, scanned))
    assert len(plain) == len(ranged)
    for a, b in zip(plain, ranged, strict=True):
        assert abs(pixels(a).astype(int) - pixels(b)).max() <= 1


def test_without_an_energy_there_is_no_word_of_ebm_and_of_one_that_has_not_learned_a_sentence():
    section = html(joint_section(make_scene(energy=False)))
    assert len(data_uris(section)) == 2 * len(PICTURES)
    assert "EBM" not in section
    assert "left out" not in section
    fresh = make_scene()
    fresh.model.energy_steps.zero_()
    assert NO_ENERGY.format(reason="the energy has not had a step of training") in html(joint_section(fresh))
    assert "left out" not in html(joint_section(make_scene()))


def test_the_steps_of_both_chains_are_told():
    scene = make_scene()
    steps = scene.model.data_chain.steps
    assert f"The same, after {steps} Langevin steps on the energy." in html(joint_section(scene))
    moved = small_model(PICTURES, interaction={"kind": "pair", "latent_steps": 7}).eval()
    moved.energy_steps += 1
    moved.interaction.weight.fill_(0.1)
    told = html(joint_section(scene._replace(model=moved)))
    first = "7 steps of the latents to where parts belong together"
    assert f"The same, after {first}, and {moved.data_chain.steps} Langevin steps on the energy." in told


def test_the_change_is_amplified_by_a_whole_factor_around_grey():
    before = {"up": torch.full((2, 3, 4, 4), 0.5)}
    after = {"up": before["up"] + 0.04}
    change, factor = amplified_change(before, after)
    assert factor == 12  # 0.5 / 0.04, rounded down
    assert list(change) == ["up"]
    assert torch.allclose(change["up"], torch.tensor(0.98))
    assert amplified_change(before, before)[1] == 1


def test_the_change_of_large_pictures_is_amplified_by_what_99_percent_of_their_pixels_stay_below():
    """17 million values: more than torch.quantile takes."""
    after = torch.zeros(17, 1, 1000, 1000)
    after[:, :, :11], after[:, :, 11:40] = 1.0, 0.25  # 1.1 % and 2.9 % of the rows
    before = torch.zeros(1).expand_as(after)
    assert amplified_change({"up": before}, {"up": after})[1] == 1
    after[:, :, 9:11] = 0.25
    assert amplified_change({"up": before}, {"up": after})[1] == 2


def test_the_cross_table_has_the_given_pictures_and_every_pair_with_its_coherence():
    m = len(PICTURES)
    plain = html(cross_section(make_scene(energy=False)))
    assert len(data_uris(plain)) == m * (1 + m)
    assert "multiebm evaluate" in plain
    both = html(cross_section(make_scene(evaluation=make_evaluation())))
    assert len(data_uris(both)) == 2 * m * (1 + m)  # again after the data chain
    for value in ("0.90", "0.30", "0.40", "0.91"):
        assert f'<p class="figure">{value}</p>' in both
    assert "measured on 40 test items" in both
    assert "multiebm evaluate" not in both


def test_what_is_given_stays_as_it_is_when_the_data_chain_completes():
    uris = data_uris(html(cross_section(make_scene())))
    m = len(PICTURES)
    refined = uris[m * (1 + m) :]
    for i in range(m):
        row = refined[i * (1 + m) : (i + 1) * (1 + m)]
        assert abs(pixels(row[0]).astype(int) - pixels(row[1 + i]).astype(int)).max() == 0


def test_interpolation_ends_at_the_draws_moves_evenly_and_keeps_private_latents():
    draws = torch.Generator().manual_seed(0)
    ends = {"shared": torch.randn(2, 3, generator=draws), "up": torch.randn(2, 2, generator=draws)}
    path = interpolate(ends, 8)
    assert torch.equal(path["shared"][0], ends["shared"][0])
    assert torch.equal(path["shared"][-1], ends["shared"][1])
    steps = path["shared"].diff(dim=0)
    assert torch.allclose(steps, steps[:1].expand_as(steps), atol=1e-6)
    assert torch.equal(path["up"], ends["up"][:1].expand(8, -1))


def test_interpolation_shows_two_paths_in_all_modalities():
    section = html(interpolation_section(make_scene()))
    assert len(data_uris(section)) == 2 * len(PICTURES)
    assert section.count("<b>0.14</b>") == 2


@pytest.mark.parametrize("make", [joint_section, cross_section, interpolation_section])
def test_vectors_are_drawn_as_points_instead_of_pictures(make):
    section = html(make(make_scene(VECTORS)))
    assert data_uris(section) == []
    assert section.count("<svg") == (2 * 2 * 3 if make is cross_section else 2)


def test_pictures_and_vectors_go_together():
    section = html(joint_section(make_scene(PICTURES | VECTORS)))
    assert len(data_uris(section)) == 4 * len(PICTURES)
    assert section.count("<svg") == len(VECTORS)


def test_shown_items_spread_over_the_classes_in_their_order():
    dataset = make_dataset(PICTURES, n=40, classes=4)
    labels = dataset.test.labels
    assert labels is not None
    assert labels[pick_items(dataset.test, 2)].tolist() == [0, 2]
    assert labels[pick_items(dataset.test, 8)].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert len(pick_items(dataset.test, 8).unique()) == 8
    assert pick_items(make_dataset(PICTURES, classes=None).test, 3).tolist() == [0, 1, 2]


def test_complete_items_are_shown_first():
    present = torch.ones(6, 2, dtype=torch.bool)
    present[:3, 1] = False
    split = Split({}, present)
    assert pick_items(split, 3).tolist() == [3, 4, 5]
    assert pick_items(split, 5).tolist() == [0, 1, 2, 3, 4]  # too few are complete


class Word(Vector):
    """A kind that shows itself as text."""

    shows = "text"

    def show(self, raw):
        return [f"word {value:.2f}" for value in raw[:, 0].tolist()]


class Sheet(Vector):
    """A kind whose states are vectors [B, 32], and whose raw values are pictures of two channels."""

    shows, raw_shape = "pictures", (2, 4, 4)

    def to_state(self, raw):
        return super().to_state(raw.reshape(len(raw), -1))

    def to_raw(self, state):
        return super().to_raw(state).reshape(len(state), *self.raw_shape)

    def show(self, raw):
        return raw.sigmoid()


def test_channels_are_those_of_what_is_shown_whatever_the_shape_of_the_states():
    assert "sheet has 2 channels" in html(joint_section(make_scene({"sheet": Sheet("sheet", (32,))})))


def test_texts_have_no_note_on_colours():
    texts = html(interpolation_section(make_scene(VECTORS | {"word": Word("word", (2,))})))
    assert "word -" in texts or "word 0" in texts
    assert texts.count("A colour for each of") == len(VECTORS)


def test_a_text_that_an_item_lacks_is_an_empty_line():
    scene = make_scene({"word": Word("word", (2,)), "left": VECTORS["left"]})
    scene.dataset.test.present[1:, 0] = False
    real = html(joint_section(scene)).split("Real test items")[-1]
    assert real.count("word ") == 3 * SHOWN - (SHOWN - 1)  # Gen and EBM stand in the same row
