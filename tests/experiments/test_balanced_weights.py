"""Weights of parts by the gradients of the shared latent: measured, set once, kept by a run, and not in likelihoods."""

import json
import logging

import pytest
import torch
from run_standins import tiny, tiny_data

import multiebm
from multiebm.cli.main import main
from multiebm.core.errors import ConfigError
from multiebm.core.random import item_generators, make_generator
from multiebm.experiments.load import load_experiment
from multiebm.experiments.run import run_experiment
from multiebm.models.likelihood import importance_log_likelihood
from multiebm.objectives.vae import BoundSettings, vae_loss
from multiebm.training.phases.bound import Bound
from multiebm.training.weights import BATCHES, LEAST, MOST, gradient_norms, weights_by_norms
from small_models import linear_model, make_state, random_views, small_model, vectors, whole

SIZES = {"left": 3, "right": 4}
BALANCED = {"right": {"weight": "balance"}}


def linear(parts=BALANCED, scale=0.5, **sections):
    return linear_model(SIZES, 2, scale=scale, parts=parts, energy=None, **sections)


def by_hand(model, batch, rng, scale):
    """A^T (x - A z - c) / s^2 of each part, its length: the gradient of log N(x; A z + c, s^2) by z."""
    z = model.inference(batch).sample(rng)[0]["shared"]
    found = {}
    for name, decoder in model.generator.decoders.items():
        pull = (batch.views[name] - decoder(z)) @ decoder.matrix / scale[name] ** 2
        found[name] = pull.norm(dim=1).detach()
    return found


# the rule


def test_the_gradients_of_balanced_parts_become_as_long_as_those_of_the_others():
    assert weights_by_norms({"picture": 2.0, "caption": 0.5}, {"picture": 1.0}) == pytest.approx({"caption": 4.0})
    assert weights_by_norms({"picture": 2.0, "caption": 0.5}, {"picture": 3.0}) == pytest.approx({"caption": 12.0})
    two = weights_by_norms({"a": 1.0, "b": 9.0, "c": 0.5, "d": 6.0}, {"a": 1.0, "b": 1.0})
    assert two == pytest.approx({"c": 6.0, "d": 0.5})  # the geometric mean of 1 and 9 is 3


def test_where_all_parts_are_balanced_the_geometric_mean_of_weights_is_1():
    assert weights_by_norms({"a": 8.0, "b": 0.5}, {}) == pytest.approx({"a": 0.25, "b": 4.0})
    assert weights_by_norms({"a": 0.7, "b": 0.7, "c": 0.7}, {}) == pytest.approx({"a": 1.0, "b": 1.0, "c": 1.0})


def test_a_part_without_a_gradient_gets_no_weight_and_no_weight_is_beyond_the_limits():
    assert weights_by_norms({"a": 2.0, "b": 0.0, "c": float("nan")}, {"a": 1.0}) == {}
    assert weights_by_norms({"a": 2.0, "b": 0.0, "c": 1.0}, {"b": 1.0}) == pytest.approx({"a": 0.5**0.5, "c": 2**0.5})
    assert weights_by_norms({"a": 1.0, "b": 1e-9, "c": 1e9}, {"a": 1.0}) == {"b": MOST, "c": LEAST}


# what is measured


def test_the_gradients_of_a_linear_gaussian_model_are_those_one_can_write_down():
    scale = {"left": 0.5, "right": 0.25}
    model = linear(BALANCED | {"right": {"scale": 0.25, "weight": "balance"}})
    batch = whole(random_views(model.modalities, 16))
    present = batch.present.clone()
    present[3:, 1] = False
    found = gradient_norms(model, batch._replace(present=present), make_generator(3))
    for name, norms in by_hand(model, batch._replace(present=present), make_generator(3), scale).items():
        n = {"left": 16, "right": 3}[name]
        assert found[name].shape == (n,)
        torch.testing.assert_close(found[name], norms[:n])
    present[:] = torch.tensor([True, False])
    assert len(gradient_norms(model, batch._replace(present=present), make_generator(3))["right"]) == 0
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_a_likelihood_that_is_c_times_as_sharp_gets_a_weight_divided_by_c():
    """A Gaussian of half the scale has four times the gradient."""
    batch, weight = whole(random_views(vectors(**SIZES), 16)), {}
    for scale in (0.5, 0.25):
        model = linear({"right": {"scale": scale, "weight": "balance"}})
        norms = gradient_norms(model, batch, make_generator(0))
        means = {name: float(of.mean()) for name, of in norms.items()}
        weight[scale] = weights_by_norms(means, {"left": 1.0})["right"]
    assert weight[0.25] == pytest.approx(weight[0.5] / 4)


def test_a_bound_sets_the_weights_behind_its_warm_up_and_leaves_them(caplog):
    model = linear({"right": {"weight": "balance"}, "left": {"weight": 2}})
    state, phase = make_state(model), Bound(steps=100)  # a tenth of which is the warm-up
    with torch.no_grad():
        for optimiser in state.optimisers.values():
            optimiser.param_groups[0]["lr"] = 0.0
    batches = [whole(random_views(model.modalities, 8, seed)) for seed in range(20)]
    batches[10] = batches[10]._replace(present=batches[10].present & torch.tensor([True, False]))  # of right nothing
    sums, said = {"left": 0.0, "right": 0.0}, []
    for done, batch in enumerate(batches):
        if 10 <= done < 10 + BATCHES:
            rng = torch.Generator().set_state(state.rng.get_state())
            for name, norms in by_hand(model, batch, rng, dict.fromkeys(SIZES, 0.5)).items():
                sums[name] += float(norms.sum()) * (done > 10 or name == "left")
        with caplog.at_level(logging.WARNING):
            metrics = phase.step(state, batch, done)
        state.step += 1
        said.append(metrics["balance/right"])
        assert metrics["balance/left"] == 2
    expected = 2 * (sums["left"] / (8 * BATCHES)) / (sums["right"] / (8 * (BATCHES - 1)))
    assert said[:11] == [1.0] * 11  # and as long as nothing of it was seen
    assert said[-1] == pytest.approx(expected, rel=1e-5)
    assert len(set(said[10 + BATCHES - 1 :])) == 1
    assert caplog.text.count("weights of the parts") == 1
    assert f"step {10 + BATCHES}: weights of the parts: left 2, right {expected:.3g}" in caplog.text


def test_equal_parts_have_the_weight_1():
    model = linear_model({"left": 3, "right": 3}, 2, parts={n: {"weight": "balance"} for n in SIZES}, energy=None)
    left, right = model.generator.decoders.values()
    right.load_state_dict(left.state_dict())
    state, views = make_state(model), random_views(model.modalities, 8)
    batch = whole({"left": views["left"], "right": views["left"]})
    metrics = Bound(steps=5).step(state, batch, 0)
    assert (metrics["balance/left"], metrics["balance/right"]) == pytest.approx((1, 1))


# where weights count


@pytest.mark.parametrize("estimator", ["elbo", "predictive", "predictive_values"])
def test_a_weight_that_was_found_is_as_one_that_was_set(estimator):
    settings = {"inference": {"subsets": "every", "prior_expert": "all", "pooled": True}, "private": 0}
    found = small_model(vectors(**SIZES), parts=BALANCED, **settings)
    given = small_model(vectors(**SIZES), parts={"right": {"weight": 3}}, **settings)
    found.generator.balance.copy_(torch.tensor([1.0, 3.0]))
    batch = whole(random_views(found.modalities, 8))
    s = BoundSettings(estimator=estimator, samples=2, components="all", divergence="component")
    losses, joint, told = [], [], []
    for model in (found, given):
        posterior, prior, rng = model.inference(batch), model.generator.prior, make_generator(0)
        losses.append(vae_loss(model.generator, prior.for_bound(False), posterior, batch, rng, s)[0])
        latents = model.generator.sample_latents(8, make_generator(1))
        joint.append(model.generator.log_joint(batch.views, latents, batch.present))
        told.append(importance_log_likelihood(model, batch, 4, item_generators(0, 8)).value)
    torch.testing.assert_close(*losses, rtol=1e-6, atol=0)
    torch.testing.assert_close(*joint, rtol=1e-6, atol=0)
    assert found.generator.weights() == given.generator.weights() == {"left": 1, "right": 3}
    # and a likelihood is that of the model, without weights
    plain = small_model(vectors(**SIZES), **settings)
    alone = importance_log_likelihood(plain, batch, 4, item_generators(0, 8)).value
    assert torch.equal(told[0], told[1])
    assert torch.equal(told[0], alone)


def test_likelihoods_are_logged_without_their_weights():
    logged = []
    for weight in (1.0, 5.0):
        model = linear({"right": {"weight": weight}})
        batch = whole(random_views(model.modalities, 8))
        logged.append(Bound(steps=5).step(make_state(model), batch, 0))
    for name in SIZES:
        assert logged[0][f"log_likelihood/{name}"] == pytest.approx(logged[1][f"log_likelihood/{name}"], rel=1e-6)
    assert logged[0]["loss/elbo"] != pytest.approx(logged[1]["loss/elbo"])


def test_a_model_without_balanced_parts_has_the_tensors_it_had():
    assert not [name for name in linear({}).state_dict() if "balance" in name]


# runs

RUN = ["model.likelihood.weights.b=balance", "training.phases.bound.steps=20", "training.checkpoint_every=4"]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("balance") / "whole"
    return folder, run_experiment(tiny(*RUN), folder, tiny_data()).model


def test_a_run_stopped_while_it_measures_goes_on_bit_for_bit(whole_run, tmp_path):
    folder, model = whole_run
    for until in (4, 7, 12):  # gradients are measured in steps 3 to 10
        out = tmp_path / str(until)
        assert run_experiment(tiny(*RUN), out, tiny_data(), until=until).fit.reason == "stopped"
        again = run_experiment(tiny(*RUN), out, tiny_data(), resume=True).model
        assert 0 < again.generator.weights()["b"] != 1
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, again.state_dict()[name]), name
        runs = [json.loads((of / "run.json").read_text())["weights"] for of in (folder, out)]
        assert runs[0] == runs[1] == {"a": 1, "b": float(f"{model.generator.weights()['b']:.3g}")}


def test_the_weights_are_saved_said_by_show_and_found_anew_by_a_run_that_starts_from_it(whole_run, tmp_path, capsys):
    folder, model = whole_run
    loaded = multiebm.from_pretrained(folder)
    assert loaded.generator.weights() == model.generator.weights()
    with pytest.raises(SystemExit):
        main(["show", str(folder)])
    assert f"\n# weights of the parts: a 1, b {model.generator.weights()['b']:.3g}\n" in capsys.readouterr().out
    short = ["training.phases=[{kind: bound, steps: 1}]", "model.energy=null"]
    plain = run_experiment(tiny(*RUN[1:], *short), tmp_path / "plain", tiny_data()).model
    began = run_experiment(
        tiny(RUN[0], *short), tmp_path / "began", tiny_data(), init_from=tmp_path / "plain"
    ).model  # which has no such weights
    assert plain.generator.weights() == {"a": 1, "b": 1} != began.generator.weights()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["model.likelihood.weights.b=balance", "training.phases=[{kind: energy, steps: 1}]"],
            "model.likelihood.weights.b: got balance without a phase bound, expected a number above 0: that phase "
            "measures the gradients; set model.likelihood.weights.b=1",
        ),
        (
            ["model.parts.b.weight=balance", "model.shared=0", "model.prior={kind: normal}"],
            "model.parts.b.weight: got balance with model.shared 0, expected a number above 0: there is no latent by "
            "which all have a gradient; set model.parts.b.weight=1",
        ),
        (
            ["model.likelihood.weights.b=balanced"],
            'model.likelihood.weights.b: got "balanced", expected a number > 0 or balance',
        ),
    ],
)
def test_what_could_not_be_balanced_is_refused(overrides, said):
    with pytest.raises(ConfigError) as error:
        load_experiment("toy2d", overrides)
    assert any(problem.startswith(said) for problem in error.value.problems), error.value.problems
