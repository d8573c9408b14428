"""The energy of interaction in a model: its heads by hand, its part in scores, matches, chains and completions."""

from math import log
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

import multiebm
from multiebm.core.batch import Batch
from multiebm.core.errors import ConfigError, DataError
from multiebm.core.random import item_generators, make_generator
from multiebm.core.tree import item_square_norm
from multiebm.evaluation import measurement, samples
from multiebm.evaluation.completion import Conditioning, completions
from multiebm.evaluation.measurement import Measurement
from multiebm.evaluation.result import EvaluationSettings
from multiebm.experiments.saved import start_from
from multiebm.models import choosing, use
from multiebm.models import model as model_module
from multiebm.models.choosing import MARGIN, best_fill, best_sample, joint_samples
from multiebm.models.inference import SHARED
from multiebm.models.interaction import (
    FEATURES,
    FROM_POSTERIOR,
    LATENT_STEP,
    START,
    Interaction,
    InteractionNetwork,
    MlpHead,
    PairHead,
)
from multiebm.models.use import threshold
from small_models import mixed, random_views, small_model, vectors, whole

HEADS = pytest.mark.parametrize("kind", ["pair", "mlp"])


def model_with(kind: str = "pair", weight: float = 0.3, **sections):
    """A small model whose energy of interaction counts as learned; its batch norms have seen a batch."""
    model = small_model(mixed(), **({"interaction": {"kind": kind}} | sections))
    draws = make_generator(5)
    for p in model.interaction.parameters():
        p.data.add_(0.1 * torch.randn(p.shape, generator=draws))
    with torch.no_grad():
        model.interaction.train()(random_views(model.modalities, 32, seed=9))
    model.interaction.steps.fill_(1)
    model.interaction.weight.fill_(weight)
    return model.eval()


def raw(model, n: int = 6, seed: int = 1):
    return {name: model.modalities[name].to_raw(v) for name, v in random_views(model.modalities, n, seed).items()}


def test_the_pair_head_is_the_scaled_sum_of_cosines_of_the_pairs_that_are_there():
    head, features = PairHead(3), torch.randn(2, 4, 3, FEATURES, generator=make_generator(0))
    present = torch.ones(2, 4, 3, dtype=torch.bool)
    present[1, :, 2] = False
    cosines = [F.cosine_similarity(features[:, :, a], features[:, :, b], dim=-1) for a, b in ((0, 1), (0, 2), (1, 2))]
    expected = torch.stack([sum(cosines)[0], cosines[0][1]])  # without part 2 one pair is left
    torch.testing.assert_close(head(features, present), START / 2 * expected)
    assert head.log_scale.item() == pytest.approx(log(START / 2))
    assert head(features, present[:1] & torch.tensor([True, False, False])).abs().max() < 1e-5  # one part: no pair
    nothing = head(torch.zeros(1, 3, FEATURES, requires_grad=True), torch.ones(1, 3, dtype=torch.bool))
    assert torch.autograd.grad(nothing.sum(), head.log_scale)[0] == 0  # features of zeros give no NaN


@pytest.mark.parametrize("head", [PairHead(3), MlpHead(3)])
def test_a_part_has_a_term_of_its_own_whatever_the_others_are(head):
    """Where it changes, f does by its term and by what it is beside the others; one that is absent has none."""
    draws = make_generator(0)
    features, present = torch.randn(4, 3, FEATURES, generator=draws), torch.ones(4, 3, dtype=torch.bool)
    present[0, 1] = False
    without = head(features, present)
    head.alone.data = torch.randn(3, FEATURES, generator=draws)
    terms = torch.einsum("bmf,mf->bm", features, head.alone.data)
    terms[0, 1] = 0
    torch.testing.assert_close(head(features, present), without + terms.sum(1))


def test_the_mlp_reads_zeros_for_what_is_absent_and_which_parts_there_are():
    head, features = MlpHead(3), torch.randn(4, 3, 32, generator=make_generator(0))
    present = torch.ones(4, 3, dtype=torch.bool)
    unit = F.normalize(features, dim=-1) * FEATURES**0.5  # their lengths say nothing to it
    assert torch.equal(head(features, present), head.net(torch.cat([unit.flatten(1), torch.ones(4, 3)], 1))[:, 0])
    present[:, 1] = False
    spoilt = features.clone()
    spoilt[:, 1] = 1e3
    assert torch.equal(head(spoilt, present), head(features, present))
    told = features.clone()
    told[:, 1] = 0
    assert not torch.allclose(head(told, torch.ones(4, 3, dtype=torch.bool)), head(told, present))  # by the mask


@HEADS
def test_an_absent_part_is_not_looked_at(kind):
    model = model_with(kind)
    batch = whole(random_views(model.modalities, 5))
    present = torch.ones(5, 3, dtype=torch.bool)
    present[1:3, 0] = False
    spoilt = {name: view.clone() for name, view in batch.views.items()}
    spoilt["face"][1:3] = torch.nan
    found = [model.interaction(views, present) for views in (batch.views, spoilt)]
    assert torch.equal(*found)
    torch.testing.assert_close(found[0][[0, 3, 4]], model.interaction(batch.views)[[0, 3, 4]])
    assert not torch.allclose(found[0][1:3], model.interaction(batch.views)[1:3])


@HEADS
def test_a_part_is_told_by_f_with_and_without_it(kind):
    model = model_with(kind)
    batch = whole(random_views(model.modalities, 5))
    present = torch.ones(5, 3, dtype=torch.bool)
    present[0, 1], present[1] = False, torch.tensor([True, False, False])
    found = model.score_parts(raw(model, 5, seed=0), present)
    f = model.interaction
    for i, name in enumerate(model.modalities):
        without = present.clone()
        without[:, i] = False
        expected = f(batch.views, present) - f(batch.views, without)
        expected[~present[:, i]] = torch.nan
        expected[1] = torch.nan  # alone
        torch.testing.assert_close(found[name], expected, equal_nan=True, atol=1e-4, rtol=1e-4)


def test_a_part_of_the_pair_head_is_its_term_and_the_sum_of_its_pairs():
    model = model_with()
    views, present = random_views(model.modalities, 4), torch.ones(4, 3, dtype=torch.bool)
    features, head = model.interaction.features(views, present), model.interaction.head
    unit = F.normalize(features, dim=-1)
    cosines = torch.einsum("bif,bjf->bij", unit, unit)
    own = head.log_scale.exp() * (cosines.sum(2) - 1) + (features * head.alone).sum(2)
    torch.testing.assert_close(model.interaction.by_part(views, present), own)


def test_a_threshold_is_the_value_below_which_a_share_of_held_out_items_lies(monkeypatch):
    """Of 19 items the least at a rate of 0.05, of 40 the second; NaN, of which nothing is known, does not count."""
    model, values = model_with(), torch.arange(40.0).flip(0)
    monkeypatch.setattr(type(model), "match", lambda self, parts, present=None: parts)
    assert model.threshold(values[:19]) == 21
    assert model.threshold(values) == 1
    assert model.threshold(torch.cat([values, torch.full((60,), torch.nan)])) == 1
    assert model.threshold(values, 0.5) == 19
    with pytest.raises(DataError, match="^match: got 18 held-out items .*, expected at least 19 for a rate of 0.05"):
        model.threshold(values[:18])
    with pytest.raises(ConfigError, match="^rate: got 1.5, expected a share of false alarms between 0 and 1"):
        model.threshold(values, 1.5)
    with pytest.raises(ConfigError, match="^of: got 'energy', expected match, score or score_parts"):
        model.threshold(values, of="energy")


def test_false_alarms_of_new_items_are_as_rare_as_the_rate_says():
    """500 repetitions of 39 held-out values and one new one: 0.05 within four deviations of a binomial share."""
    draws, alarms = make_generator(0), 0
    for _ in range(500):
        values = torch.randn(40, generator=draws)
        alarms += float(values[-1]) <= threshold(values[:-1], 0.05, "match")
    assert alarms / 500 == pytest.approx(0.05, abs=4 * (0.05 * 0.95 / 500) ** 0.5)


def test_thresholds_of_parts_are_by_name():
    model = model_with()
    views = raw(model, 40)
    ends = model.threshold(views, 0.1, "score_parts")
    found = model.score_parts(views)
    assert ends == {name: pytest.approx(float(of.sort().values[3])) for name, of in found.items()}
    assert model.threshold(views, 0.1, "score") == pytest.approx(float(model.score(views).sort().values[3]))


@HEADS
def test_the_density_is_minus_the_energy_and_weighted_f(kind):
    model = model_with(kind, weight=0.3)
    views, batch = raw(model), whole(random_views(model.modalities, 6, seed=1))
    with torch.no_grad():
        energy, f = model.energy(batch.views), model.interaction(batch.views)
        expected = -energy + 0.3 * f
        torch.testing.assert_close(model.log_density_unnorm(batch.views), expected)
    torch.testing.assert_close(model.score(views), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.match(views), f, atol=1e-4, rtol=1e-4)
    model.interaction.weight.fill_(0)  # not weighed yet: as if there were none
    torch.testing.assert_close(model.score(views), -energy, atol=1e-4, rtol=1e-4)
    model.energy_steps.fill_(0)  # E has not learned: f alone
    torch.testing.assert_close(model.score(views), f, atol=1e-4, rtol=1e-4)


def test_a_model_without_an_energy_scores_by_f_and_matches_by_f():
    model = model_with(energy=None)
    views, batch = raw(model), whole(random_views(model.modalities, 6, seed=1))
    f = model.interaction(batch.views).detach()
    torch.testing.assert_close(model.score(views), f, atol=1e-4, rtol=1e-4)
    present = torch.ones(6, 3, dtype=torch.bool)
    present[0, 1:] = present[1, 0] = False
    matched = model.match(views, present)
    assert matched[0].isnan()
    torch.testing.assert_close(matched[1:], model.interaction(batch.views, present)[1:], atol=1e-4, rtol=1e-4)
    model.interaction.steps.fill_(0)
    assert not torch.allclose(model.score(views), f)  # the likelihood, and codes' distances
    assert not torch.allclose(model.match(views), f)


@HEADS
def test_the_data_chain_climbs_the_density_with_what_is_observed_held_fixed(kind):
    """One step without noise: along the gradient of -E + weight f, by the displacement."""
    chain = {"kind": "displaced", "steps": 1, "noise_scale": 0.0}
    model, batch = model_with(kind, data_chain=chain), whole(random_views(mixed(), 5))
    held = torch.zeros(5, 3, dtype=torch.bool)
    held[:, 1] = True
    at = {name: view.clone().requires_grad_() for name, view in batch.views.items()}
    value = (-model.energy(at) + 0.3 * model.interaction(at)).sum()
    free = dict(zip(at, torch.autograd.grad(value, list(at.values())), strict=True))
    free["left"] = torch.zeros_like(free["left"])
    moved, info = model.refine_data(batch.views, make_generator(0), clamp=held)
    assert torch.equal(moved["left"], batch.views["left"])
    delta = {name: moved[name] - batch.views[name] for name in moved}
    product = sum((delta[name] * free[name]).flatten(1).sum(1) for name in delta)
    cosine = product / (item_square_norm(delta) * item_square_norm(free)).sqrt()
    torch.testing.assert_close(cosine, torch.ones(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(info.logdensity[0], model.log_density_unnorm(batch.views).detach())
    model.interaction.weight.fill_(0)
    plain, _ = model.refine_data(batch.views, make_generator(0), clamp=held)
    assert not torch.allclose(plain["face"], moved["face"])


def test_latents_of_samples_climb_the_prior_times_exp_f():
    """One step as written out: s^2 / 2 times the gradient of log p(z) / T + log p(w) + f(G(z, w)), and the noise."""
    model = model_with()
    model.interaction.steps.fill_(1)
    latents = model.sample_latents(4, item_generators(3, 4))
    moved, _ = model.refine_sampled(latents, item_generators(0, 4), 1, temperature=0.5)
    still, _ = model.refine_sampled(latents, item_generators(0, 4), 0)
    at = {key: value.clone().requires_grad_() for key, value in latents.items()}
    priors = model.generator.priors()
    value = sum(priors[key].log_prob(at[key]) / (0.5 if key == SHARED else 1.0) for key in at)
    value = value + model.interaction(model.generator(at))
    grads = torch.autograd.grad(value.sum(), list(at.values()))
    noise = item_generators(0, 4).draw(torch.randn, (4, sum(v.shape[1] for v in at.values())))
    for (key, start), grad, eps in zip(
        latents.items(), grads, noise.split([v.shape[1] for v in at.values()], 1), strict=True
    ):
        torch.testing.assert_close(moved[key], start + LATENT_STEP**2 / 2 * grad + LATENT_STEP * eps)
        assert torch.equal(still[key], start)


def test_samples_depend_on_seed_and_item_alone_and_belong_better_after_the_latent_chain():
    model = model_with()
    four, two = (model.sample(n, seed=3, latent_steps=5) for n in (4, 2))
    for name, view in two.items():
        torch.testing.assert_close(four[name][:2], view)
    assert not torch.equal(four["face"], model.sample(4, seed=3)["face"])
    matches = [model.match(model.sample(200, seed=1, latent_steps=steps)).mean() for steps in (0, 40)]
    assert float(matches[1]) > float(matches[0])


def test_the_best_of_several_completions_has_the_largest_f_and_one_is_as_ever():
    model = model_with()
    views = {name: view for name, view in raw(model, 8).items() if name == "left"}
    assert all(map(torch.equal, model.impute(views, seed=2).values(), model.impute(views, seed=2, best_of=1).values()))
    batch = Batch(random_views(model.modalities, 8, seed=1), torch.tensor([[False, True, False]]).expand(8, 3))
    rng = item_generators(2, 8)
    drawn = [model.fill(batch, model.infer_latents(batch, rng)) for _ in range(5)]
    f = torch.stack([model.interaction(of) for of in drawn])
    best = best_fill(model, batch, item_generators(2, 8), best_of=5)
    torch.testing.assert_close(model.interaction(best), f.max(0).values)
    found = model.impute(views, seed=2, best_of=5)
    torch.testing.assert_close(found["right"], model.modalities["right"].to_raw(best["right"]), atol=1e-4, rtol=1e-4)
    refined = model.impute(views, seed=2, best_of=5, data_steps=2)
    assert torch.equal(refined["left"], found["left"])
    assert not torch.equal(refined["right"], found["right"])


def test_of_joint_samples_that_is_taken_whose_absent_parts_belong_best_to_the_present_ones():
    """By f(x_S, x_T) - f(x_T), the importance weight of a sample; each item looks through a half of them."""
    model, n = model_with(), 40
    views = random_views(model.modalities, 8, seed=1)
    for mask in ([False, True, False], [True, True, False]):  # two parts are absent, whose own f counts, or one
        batch = Batch(views, torch.tensor([mask]).expand(8, 3))
        drawn = model.sample_latents(n, make_generator(0))
        states, alone = model.decode(drawn), ~batch.present[:1].expand(n, -1)
        weights = []
        for i in range(8):
            tuples = {
                name: views[name][i].expand(n, *views[name].shape[1:]) if here else states[name]
                for name, here in zip(views, mask, strict=True)
            }
            weights.append(model.interaction(tuples) - model.interaction(states, alone))
        lots = torch.rand(8, n, generator=make_generator(7))
        looks = lots >= lots.median(1, keepdim=True).values  # at least a half
        best = torch.stack(weights).masked_fill(~looks, -torch.inf).argmax(1)
        pool = joint_samples(model, FROM_POSTERIOR + n)
        found = best_sample(model.interaction, pool, batch, make_generator(7))
        assert torch.equal(found[SHARED], drawn[SHARED][best])
        assert len(set(best.tolist())) > 1


def test_a_joint_sample_has_to_be_better_by_a_margin_than_what_the_posterior_gives():
    model = model_with()
    batch = Batch(random_views(model.modalities, 8, seed=1), torch.tensor([[False, True, False]]).expand(8, 3))
    model.interaction.head.log_scale.data.add_(2.0)
    drawn = best_fill(model, batch, rng := item_generators(2, 8), best_of=FROM_POSTERIOR)
    pool = joint_samples(model, FROM_POSTERIOR + 30)
    other = model.fill(batch, best_sample(model.interaction, pool, batch, rng))
    f, of_other = (model.interaction(of) - model.interaction(of, ~batch.present) for of in (drawn, other))
    found = best_fill(model, batch, item_generators(2, 8), best_of=FROM_POSTERIOR + 30)
    taken = of_other > f + MARGIN
    assert 0 < int(taken.sum()) < 8
    for name, view in found.items():
        torch.testing.assert_close(
            view,
            torch.where(taken[:, None] if view.dim() == 2 else taken[:, None, None, None], other[name], drawn[name]),
        )


def test_joint_samples_are_made_once_a_call_and_anew_by_the_next_one(monkeypatch):
    model, views = model_with(), raw(model_with(), 200)
    made, plain = [], choosing.joint_samples
    for where in (model_module, choosing):
        monkeypatch.setattr(where, "joint_samples", lambda *given: made.append(plain(*given)) or made[-1])
    monkeypatch.setattr(use, "PLACES", 16 * sum(m.places for m in model.modalities.values()))  # many chunks
    first = model.impute({"left": views["left"]}, best_of=50, draws=2).draws["right"]
    assert len(made) == 1
    with torch.no_grad():
        model.interaction.head.log_scale.data.add_(3.0)  # which no version of a tensor counts
        model.interaction.trunks["right"][1].weight.data.mul_(-1.5)
    again = model.impute({"left": views["left"]}, best_of=50, draws=2).draws["right"]
    assert len(made) == 2
    assert not torch.equal(made[0].features, made[1].features)
    assert not torch.equal(first, again)


def test_joint_samples_leave_items_alone_of_which_nothing_is_present_and_others_do_not_matter():
    model = model_with()
    model.interaction.head.log_scale.data.add_(2.0)
    views = random_views(model.modalities, 8, seed=1)
    present = torch.tensor([[False, True, False], [False, False, False]]).repeat(4, 1)
    few, many = (best_fill(model, Batch(views, present), item_generators(2, 8), best_of=k) for k in (16, 50))
    assert torch.equal(few["right"][1::2], many["right"][1::2])
    assert not torch.equal(few["right"][::2], many["right"][::2])
    raws = raw(model, 8)
    alone = model.impute({"left": raws["left"][:3]}, seed=2, best_of=50)
    together = model.impute({"left": raws["left"]}, seed=2, best_of=50)
    torch.testing.assert_close(alone["right"], together["right"][:3])


def test_where_the_data_chain_runs_the_settings_say_what_is_chosen_first_unless_it_is_asked_for():
    plain = model_with()
    model = model_with(interaction={"kind": "pair", "latent_steps": 4, "best_of": 3})
    views = {name: view for name, view in raw(model, 8).items() if name == "left"}

    def same(a, b):
        return all(map(torch.equal, a.values(), b.values()))

    assert same(model.sample(4), plain.sample(4))  # "Gen"
    assert same(model.sample(4, None), plain.sample(4, None, latent_steps=4))
    assert same(model.sample(4, 2, latent_steps=0), plain.sample(4, 2))
    assert not same(model.sample(4, None), plain.sample(4, None))
    assert same(model.impute(views), plain.impute(views))
    assert same(model.impute(views, data_steps=None), plain.impute(views, data_steps=None, best_of=3))
    assert same(model.impute(views, data_steps=2, best_of=1), plain.impute(views, data_steps=2))
    assert not same(model.impute(views, data_steps=None), plain.impute(views, data_steps=None))
    for own in (model, plain):
        own.interaction.weight.fill_(0)  # not weighed: it has not learned enough, and chooses nothing
    assert same(model.sample(4, None), plain.sample(4, None))


def test_figures_called_ebm_are_of_what_sample_and_impute_give(monkeypatch):
    """A joint sample and a completion of a measurement, by the generators of the items that it has there."""
    model = model_with(interaction={"kind": "pair", "latent_steps": 4, "best_of": 3})
    batch = Batch(random_views(model.modalities, 6, seed=3), torch.tensor([[False, True, False]]).expand(6, 3))
    data = SimpleNamespace(test=[0] * 6, batch=lambda split, rows: batch.select(rows), modalities=model.modalities)
    m = Measurement(model, data, None, EvaluationSettings(samples=6, items=6), seed=5)  # type: ignore[arg-type]
    monkeypatch.setattr(measurement, "stream_seed", lambda *_: 7)
    drawn = model.sample(6, None, seed=7)
    for (what, name), kept in m.once(samples.samples)["ebm"].items():
        assert what == samples.PART
        torch.testing.assert_close(model._raw({name: kept}, [name], None)[name], drawn[name])
    given = {"left": model._raw(batch.views, ["left"], None)["left"]}
    filled = model.impute(given, data_steps=None, seed=7)
    (found,) = completions(m, torch.arange(6), ("left",), Conditioning("cond_ebm", data_chain=True))
    for name in ("face", "right"):
        torch.testing.assert_close(model._raw({name: found[name]}, [name], None)[name], filled[name])


def test_what_needs_an_energy_of_interaction_says_so_without_one():
    plain, untaught = small_model(mixed()), model_with()
    untaught.interaction.steps.fill_(0)
    views = raw(plain)
    for model in (plain, untaught):
        for asked, got in (
            (lambda m: m.sample(2, latent_steps=3), "latent_steps: got 3 without an energy of interaction"),
            (lambda m: m.impute(views, best_of=4), "best_of: got 4 without an energy of interaction"),
            (lambda m: m.score_parts(views), "score_parts: got a model without an energy of interaction"),
        ):
            with pytest.raises(ConfigError, match=got):
                asked(model)
    with pytest.raises(ConfigError, match="best_of: got 0"):
        model_with().impute(views, best_of=0)


@HEADS
def test_a_saved_model_keeps_f_and_its_weight(kind, tmp_path):
    model, views = model_with(kind, weight=0.25), raw(mixed_holder())
    model.interaction.louder.fill_(4)
    model.save_pretrained(tmp_path / "model")
    again = multiebm.from_pretrained(tmp_path / "model")
    assert float(again.interaction.weight) == 0.25
    assert float(again.interaction.louder) == 4
    assert again.interaction_learned
    assert torch.equal(again.score(views), model.score(views))
    assert torch.equal(again.match(views), model.match(views))


def mixed_holder():
    return small_model(mixed())


def test_without_the_setting_there_is_nothing_of_it_and_other_weights_are_the_same():
    without, beside = small_model(mixed()), small_model(mixed(), interaction={"kind": "pair"})
    assert without.interaction is None
    own = {name: value for name, value in beside.state_dict().items() if not name.startswith("interaction.")}
    assert own.keys() == without.state_dict().keys()
    assert all(torch.equal(value, own[name]) for name, value in without.state_dict().items())
    views = raw(without)
    one, other = (m.sample(3, data_steps=2, seed=1) | {"score": m.score(views)} for m in (without, beside))
    assert all(torch.equal(one[key], other[key]) for key in one)  # f that has not learned is inert


def test_cells_may_be_missing():
    gaps = {name: type(m)(name, m.shape, missing="nan") for name, m in vectors(left=2, right=3).items()}
    network = InteractionNetwork(gaps, Interaction("pair")).eval()
    views = random_views(gaps, 4)
    views["left"][1, 0] = torch.nan
    zero = {name: view.nan_to_num(0.0) for name, view in views.items()}
    assert torch.equal(network(views), network(zero))


@pytest.mark.parametrize("lacks", ["interaction.louder", "ratio."])
def test_a_model_saved_before_it_had_a_number_or_a_network_of_these_is_read(lacks, tmp_path, monkeypatch):
    """It scores as before: f as often as in chains; and its samples are of the draws that they were of."""
    several = {"kind": "pair", "best_of": FROM_POSTERIOR + 1}
    model, views = model_with("pair", weight=0.25, interaction=several), raw(mixed_holder())
    state = model.state_dict
    monkeypatch.setattr(
        model, "state_dict", lambda *a, **k: {n: t for n, t in state(*a, **k).items() if not n.startswith(lacks)}
    )
    model.save_pretrained(tmp_path / "model")
    again = multiebm.from_pretrained(tmp_path / "model")
    assert float(again.interaction.louder) == 1
    assert not again.compares
    assert torch.equal(again.score(views), model.score(views))
    assert torch.equal(again.sample(3, data_steps=2)["face"], model.sample(3, data_steps=2)["face"])
    other = model_with("pair", weight=0.5, interaction=several)
    start_from(other, tmp_path / "model")  # and other data may go on from it
    assert float(other.interaction.weight) == 0.25
    assert float(other.interaction.louder) == 1


def test_a_model_that_starts_from_another_has_a_ratio_of_its_own(tmp_path):
    """That of the other one knows draws of another prior, which this one will learn."""
    several = {"kind": "pair", "best_of": FROM_POSTERIOR + 1}
    saved, model = (model_with("pair", interaction=several) for _ in range(2))
    saved.ratio.steps.fill_(7)
    saved.save_pretrained(tmp_path / "model")
    start_from(model, tmp_path / "model")
    assert not model.compares
    assert multiebm.from_pretrained(tmp_path / "model").compares
