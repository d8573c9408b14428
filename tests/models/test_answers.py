"""Several completions, observation noise, codes by name, data frames, and a log Z that is kept."""

import numpy as np
import pandas as pd
import pytest
import torch

from multiebm.core.errors import ConfigError, DataError
from multiebm.core.random import item_generators
from multiebm.experiments.saved import from_pretrained
from multiebm.modalities import Vector
from multiebm.models import model as answers
from multiebm.models.model import Completion
from small_models import energy_prior, linear_model, make_batch, mixed, random_views, small_model

LEFT = Vector("left", (2,), loc=(10.0, 20.0), scale=(2.0, 4.0), columns=("height", "weight"))
GAPS = Vector("right", (3,), missing="nan")
MODALITIES = mixed() | {"left": LEFT, "right": GAPS}
PARTS = {name: MODALITIES[name].to_raw(view) for name, view in random_views(MODALITIES, 5).items()}
GIVEN = {
    "left": PARTS["left"],
    "right": torch.where(torch.arange(5)[:, None] % 3 == torch.arange(3), torch.nan, PARTS["right"]),
}


def model_of(**sections):
    return small_model(MODALITIES, **({"latent_chain": {"steps": 2, "step_size": 0.1}} | sections))


@pytest.mark.parametrize("noise", [False, True])
def test_each_draw_is_a_completion_with_the_next_seed(noise):
    model = model_of()
    found = model.impute(GIVEN, latent_steps=1, seed=7, draws=3, noise=noise)
    assert isinstance(found, Completion)
    for k in range(3):
        single = model.impute(GIVEN, latent_steps=1, seed=7 + k, noise=noise)
        assert all(torch.equal(found.draws[name][k], view) for name, view in single.items())
    for name, draws in found.draws.items():
        assert found.mean[name].shape == found.std[name].shape == (5, *MODALITIES[name].shape)
        torch.testing.assert_close(found.mean[name], draws.mean(0))
        torch.testing.assert_close(found.std[name], draws.std(0), atol=1e-6, rtol=1e-5)
    assert (found.std["face"] > 0).any()


def test_items_are_encoded_once_for_all_draws(monkeypatch):
    model, calls = model_of(), []
    given = model.inference.given
    monkeypatch.setattr(
        model.inference, "given", lambda batch, **more: calls.append(len(batch.present)) or given(batch)
    )
    model.impute(GIVEN, latent_steps=1, draws=6)
    assert calls == [5]


def test_what_was_observed_is_exact_in_mean_and_draws_and_has_no_deviation():
    found = model_of().impute(GIVEN, draws=7, noise=True)
    there = ~GIVEN["right"].isnan()
    for mean, std, draws, given, cells in (
        (found.mean["left"], found.std["left"], found.draws["left"], GIVEN["left"], torch.ones(5, 2, dtype=torch.bool)),
        (found.mean["right"], found.std["right"], found.draws["right"], GIVEN["right"], there),
    ):
        assert torch.equal(mean[cells], given[cells])
        assert torch.equal(draws[:, cells], given[cells].expand(7, -1))
        assert not std[cells].any()
    assert (found.std["right"][~there] > 0).all()
    assert found.mean["right"].isfinite().all()


def test_a_draw_of_an_item_does_not_depend_on_the_batch():
    model = model_of(data_chain={"steps": 3, "kind": "langevin", "step_size": 0.3, "noise_scale": 0.1})
    for steps in (0, 3):
        whole = model.impute(GIVEN, latent_steps=2, data_steps=steps, draws=2).draws
        alone = model.impute(
            {n: part[:2] for n, part in GIVEN.items()}, latent_steps=2, data_steps=steps, draws=2
        ).draws
        for name in whole:
            torch.testing.assert_close(whole[name][:, :2], alone[name], rtol=1e-4, atol=1e-4)


def test_an_item_with_a_seed_of_its_own_is_completed_alike_wherever_it_stands():
    model, order = model_of(), torch.tensor([3, 0, 4, 2, 1])
    seeds = [5, 6, 7, 8, 9]
    first = model.impute(GIVEN, seed=seeds, noise=True)
    moved = model.impute({n: part[order] for n, part in GIVEN.items()}, seed=np.array(seeds)[order], noise=True)
    alone = model.impute({n: part[3:4] for n, part in GIVEN.items()}, seed=8, noise=True)
    for name in first:
        torch.testing.assert_close(first[name][order], moved[name], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(first[name][3:4], alone[name], rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError, match="seed: got 4 of them, expected a whole number .*, or one for each of 5"):
        model.impute(GIVEN, seed=seeds[:4])
    with pytest.raises(ConfigError, match="draws: got 1, expected a number of draws from 2"):
        model.impute(GIVEN, draws=1)


def test_noise_is_that_of_the_likelihood_around_the_same_means():
    """Scale 0.5 in states: of 4000 draws the deviation is off by less than 4 %, twice over four of its errors."""
    model = model_of(likelihood={"scale": 0.5})
    means, noisy = (model.sample(4000, seed=3, noise=noise) for noise in (False, True))
    residual = (noisy["left"] - means["left"]) / torch.tensor(LEFT.scale)
    assert residual.std(0).tolist() == pytest.approx([0.5, 0.5], rel=0.09)
    assert residual.mean(0).abs().max() < 4 * 0.5 / 4000**0.5
    g = item_generators(3, 4)
    drawn = model.with_noise(model.decode(model.sample_latents(4, g)), g)
    assert torch.equal(model.sample(4, seed=3, noise=True)["right"], drawn["right"].double())
    with pytest.raises(ConfigError, match=r"noise: got true with data_steps=2, expected one of them: the energy is"):
        model.sample(2, 2, noise=True)
    with pytest.raises(ConfigError, match=r"noise: got true with data_steps=None"):
        model.impute(GIVEN, data_steps=None, noise=True)


def test_draws_of_a_linear_model_have_the_moments_of_its_predictive_density():
    """x_b = A z + c + noise for z of the encoder, q(z | x_a): 2000 draws."""
    model = linear_model({"a": 1, "b": 1}, shared=1, private=0, scale=0.5, energy=None, inference={"subsets": "full"})
    batch = make_batch(model.modalities, {"a": torch.zeros(1, 1)})
    q = model.inference.given(batch).shared
    matrix, offset = model.generator.decoders["b"].matrix[0, 0], model.generator.decoders["b"].offset[0]
    found = model.impute({"a": torch.zeros(1, 1)}, draws=2000, noise=True)
    scale = (q.scale[0, 0, 0] * matrix).square() + 0.25
    assert found.std["b"].item() == pytest.approx(scale.sqrt().item(), rel=0.07)
    mean = (q.loc[0, 0, 0] * matrix + offset).item()
    assert found.mean["b"].item() == pytest.approx(mean, abs=4 * scale.sqrt().item() / 2000**0.5)


def test_private_codes_come_by_name_and_are_nan_where_the_part_is_absent():
    model = model_of(private=2)
    present = torch.ones(5, 3, dtype=torch.bool)
    present[1, 0] = False
    codes = model.encode(PARTS, present, private=True)
    assert torch.equal(codes["shared"], model.encode(PARTS, present))
    q = model.inference.given(make_batch(MODALITIES, PARTS, present))
    assert list(codes) == ["shared", *MODALITIES]
    for i, name in enumerate(MODALITIES):
        torch.testing.assert_close(codes[name][present[:, i]], q.private[name].loc.detach()[present[:, i]])
        assert codes[name][~present[:, i]].isnan().all()


def test_codes_and_parts_become_data_frames_with_names():
    model = model_of(private=2)
    frame = model.frame(model.encode(PARTS))
    assert list(frame.columns) == ["shared_0", "shared_1", "shared_2"]
    np.testing.assert_array_equal(frame.to_numpy(), model.encode(PARTS).numpy())
    codes = model.frame(model.encode(PARTS, private=True))
    assert list(codes.columns[3:7]) == ["face_0", "face_1", "left_0", "left_1"]
    full = model.impute(GIVEN, want=["left", "right"])
    frame = model.frame(full)
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == ["height", "weight", "right_0", "right_1", "right_2"]
    np.testing.assert_array_equal(frame[["height", "weight"]].to_numpy(), GIVEN["left"].numpy())
    with pytest.raises(DataError, match=r"frame, 'face': got shape \[5, 3, 8, 8\], expected rows of numbers"):
        model.frame(model.impute(GIVEN))


def test_columns_that_two_parts_have_are_told_apart():
    twins = {name: Vector(name, (2,), columns=("a", name)) for name in ("x", "y")}
    model = small_model(twins)
    assert list(model.frame(model.sample(2)).columns) == ["x_a", "x", "y_a", "y"]


def test_log_z_is_estimated_once_kept_and_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(answers, "PATHS", 20)
    monkeypatch.setattr(answers, "STAGES", 5)
    model = model_of(prior=energy_prior())
    calls = []
    estimate = type(model.generator.prior).estimate_log_normalizer
    monkeypatch.setattr(
        type(model.generator.prior),
        "estimate_log_normalizer",
        lambda self, n, *rest: calls.append(n) or estimate(self, n, *rest),
    )
    first = [model.log_likelihood(PARTS, samples=5) for _ in range(2)]
    assert calls == [20]
    assert torch.equal(*first)
    kept = model.log_normalizer()
    assert kept.error > 0
    torch.testing.assert_close(model.log_likelihood(PARTS, samples=5, log_z=kept.value), first[0])
    model.save_pretrained(tmp_path / "model")
    again = from_pretrained(tmp_path / "model")
    assert again.log_normalizer() == kept
    assert torch.equal(again.log_likelihood(PARTS, samples=5), first[0])
    assert calls == [20]
    better = again.log_normalizer(samples=40, stages=9)
    assert again.log_normalizer() == better != kept
    with torch.no_grad():
        again.generator.prior.net[0].weight.mul_(1.5)
    assert again.log_normalizer() != better
    assert calls == [20, 40, 20]


def test_a_folder_without_a_log_z_loads(tmp_path):
    model = model_of(prior=energy_prior())
    model.save_pretrained(tmp_path)
    assert "log_normalizer" not in (tmp_path / "model.json").read_text()
    assert from_pretrained(tmp_path).kept is None


def test_the_error_of_a_likelihood_is_its_spread_over_seeds():
    """Over 200 seeds the mean estimated error is the deviation of the values, within a fifth; so given a part."""
    model = linear_model({"a": 1, "b": 1}, shared=1, private=0, scale=1.0, energy=None)
    views = random_views(model.modalities, 3)
    for given in (None, ["a"]):
        found = [model.log_likelihood_with_error(views, given, samples=200, seed=3 * seed) for seed in range(200)]
        spread = torch.stack([one.value for one in found]).std(0)
        torch.testing.assert_close(torch.stack([one.error for one in found]).mean(0), spread, rtol=0.2, atol=0)
    assert model.log_likelihood_with_error(views, samples=1).error.isnan().all()


def test_rough_likelihoods_are_said_with_how_many_rows_they_are(caplog):
    """Encoders that say little of a decoder with little noise: few draws carry all of the weight."""
    rough = linear_model({"a": 4, "b": 4}, shared=4, private=0, scale=0.05, energy=None)
    fine = linear_model({"a": 1, "b": 1}, shared=1, private=0, scale=1.0, energy=None)
    for model, said in ((fine, ""), (rough, "log_likelihood: 6 of 6 rows have a standard error above 0.3 nats")):
        views = random_views(model.modalities, 6)
        caplog.clear()
        value = model.log_likelihood(views, samples=100, progress=False)
        assert said in caplog.text
        assert bool(caplog.records) == bool(said)
        found = model.log_likelihood_with_error(views, samples=100, progress=False)
        assert torch.equal(found.value, value)
        assert bool((found.error > 0.3).all()) == bool(said)


def test_the_error_of_log_z_is_a_part_of_it_unless_it_cancels_or_is_given(monkeypatch):
    model = model_of(prior=energy_prior())
    z = model.log_normalizer(samples=5, stages=2)
    exact, whole = (model.log_likelihood_with_error(PARTS, samples=9, log_z=of).error for of in (0.0, None))
    torch.testing.assert_close(whole, (exact.square() + z.error**2).sqrt())
    cancelled = [model.log_likelihood_with_error(PARTS, ["left"], samples=9, log_z=of).error for of in (0.0, None)]
    torch.testing.assert_close(*cancelled)


def test_likelihoods_show_how_far_they_are_unless_muted(monkeypatch, capsys):
    monkeypatch.setattr("multiebm.core.bars.LINE_SECONDS", -1.0)
    model = model_of(prior=energy_prior())
    model.log_likelihood(PARTS, samples=5, progress=False)
    assert capsys.readouterr().err == ""
    model.log_likelihood(PARTS, samples=5)
    assert "importance samples: 25 of 25" in capsys.readouterr().err
    model.kept = None
    model.log_normalizer(progress=False)
    assert capsys.readouterr().err == ""
    model.log_normalizer(samples=5, stages=3)
    assert "log Z of the prior: 3 of 3" in capsys.readouterr().err
