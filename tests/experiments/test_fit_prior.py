"""A prior fitted after training: what it learns, and that nothing else changes."""

import pytest
import torch

import multiebm.experiments.fit_prior as module
from multiebm.core.errors import ConfigError
from multiebm.core.random import make_generator
from multiebm.data import from_arrays
from multiebm.experiments.fit_prior import TILT, TILT_ON_CODES, fit_prior, tilted
from multiebm.experiments.load import load_experiment
from multiebm.experiments.saved import from_pretrained
from multiebm.models.inference import InferenceModel
from multiebm.models.interaction import FROM_POSTERIOR
from multiebm.priors.energy import Energy
from multiebm.priors.mixture import Mixture
from multiebm.priors.prior import Settling
from small_models import small_model, vectors

SMALL = {"kind": "energy", "width": 16, "layers": 1, "steps": 30, "step_size": 0.4, "penalty": 0.0}


class Codes:
    """A posterior whose codes are N(1, 0.25) in every coordinate whatever it has seen."""

    def sample(self, generator):
        return {"shared": 1 + 0.5 * torch.randn(64, 3, generator=generator)}, torch.zeros(64, dtype=torch.long)


class Clusters:
    """A posterior whose codes lie in four clusters at (+-2, +-2), 0.3 wide."""

    def sample(self, generator):
        corner = 4.0 * torch.randint(2, (64, 2), generator=generator) - 2
        return {"shared": corner + 0.3 * torch.randn(64, 2, generator=generator)}, torch.zeros(64, dtype=torch.long)


def discrepancy(a, b):
    """Maximum mean discrepancy of draws [N, D] and [N, D] under a Gaussian kernel of width 1."""
    inside = [torch.exp(-torch.pdist(x).square() / 2).mean() for x in (a, b)]
    return (sum(inside) - 2 * torch.exp(-torch.cdist(a, b).square() / 2).mean()).clamp_min(0).sqrt().item()


def data():
    values = {n: torch.randn(200, 2, generator=make_generator(i)).numpy() for i, n in enumerate("ab")}
    return from_arrays(values, {name: {"kind": "vector"} for name in values})


@pytest.mark.parametrize("family", ["normal", "laplace"])
def test_samples_of_the_fitted_prior_reach_the_codes_and_the_model_stays_as_it_was(family, monkeypatch):
    """The base is at 0, the codes at 1; one chain step of 0.4 biases the moments by less than a tenth."""
    monkeypatch.setattr(InferenceModel, "forward", lambda self, batch: Codes())
    model = small_model(vectors(a=2, b=2), family=family, prior={"kind": family})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fitted = fit_prior(model, data(), Energy(**SMALL), Settling(steps=250, rate=1e-2))
    z = fitted.generator.prior.sample(2000, make_generator(1))
    assert z.mean().item() == pytest.approx(1.0, abs=0.15)
    assert z.var(0).mean().item() == pytest.approx(0.25, abs=0.12)
    assert model.generator.prior.sample(2000, make_generator(1)).mean().abs() < 0.1
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
        if not name.startswith("generator.prior."):
            assert torch.equal(fitted.state_dict()[name], value), name


def test_samples_reach_clusters_that_the_plain_prior_misses(monkeypatch):
    monkeypatch.setattr(InferenceModel, "forward", lambda self, batch: Clusters())
    model = small_model(vectors(a=2, b=2), shared=2)
    prior = Energy(**SMALL | {"width": 64, "layers": 2, "steps": 40, "step_size": 0.3})
    fitted = fit_prior(model, data(), prior, Settling(steps=300, rate=6e-3))
    generator = make_generator(1)
    codes = torch.cat([Clusters().sample(generator)[0]["shared"] for _ in range(24)])
    plain, tilted = (m.generator.prior.sample(len(codes), generator) for m in (model, fitted))
    assert discrepancy(codes, tilted) <= discrepancy(codes, plain) / 3
    shares = torch.bincount((tilted > 0).long() @ torch.tensor([1, 2]), minlength=4) / len(tilted)
    assert (shares - 0.25).abs().sum() / 2 < 0.1


def test_a_mixture_base_is_fitted_before_the_tilt(monkeypatch):
    monkeypatch.setattr(InferenceModel, "forward", lambda self, batch: Codes())
    prior = Energy(**SMALL | {"components": 1})
    fitted = fit_prior(small_model(vectors(a=2, b=2)), data(), prior, Settling(steps=1))
    base = fitted.generator.prior.base
    assert base.mean.mean().item() == pytest.approx(1.0, abs=0.02)


def test_the_base_keeps_the_scales_that_the_prior_had_learned(tmp_path):
    model = small_model(vectors(a=2, b=2), family="laplace", prior={"kind": "laplace", "learned_scale": True})
    model.generator.prior.log_scale.data = torch.tensor([0.1, -0.7, 0.4])
    prior = Energy(**SMALL | {"learned_scale": True})
    fitted = fit_prior(model, data(), prior, Settling(steps=2))
    assert torch.equal(fitted.generator.prior.base.scale, model.generator.prior.scale)
    fitted.save_pretrained(tmp_path / "model")
    again = from_pretrained(tmp_path / "model")
    for name, view in fitted.sample(3).items():
        assert torch.equal(again.sample(3)[name], view)


def test_a_ratio_learns_on_from_draws_of_the_fitted_prior(monkeypatch):
    """One that has not learned is left as it is."""
    monkeypatch.setattr(module, "STEPS", 8)
    several = {"kind": "pair", "best_of": FROM_POSTERIOR + 1}
    for before, after in ((0, 0), (5, 13)):
        model = small_model(vectors(a=2, b=2), interaction=several)
        model.ratio.steps.fill_(before)
        model.interaction.steps.fill_(before)
        model.interaction.weight.fill_(0.3)
        fitted = fit_prior(model, data(), Energy(**SMALL), Settling(steps=1))
        assert (int(model.ratio.steps), int(fitted.ratio.steps)) == (before, after)
        moved = not torch.equal(model.ratio.head.net[0].weight, fitted.ratio.head.net[0].weight)
        assert moved == (after > 0)
        assert (fitted.ratio.pool(fitted.generator.temperature) is not None) == (after > 0)


def test_another_kind_of_prior_is_refused():
    with pytest.raises(ConfigError, match=r"model\.prior\.kind: got mixture, expected energy"):
        fit_prior(small_model(vectors(a=2)), data(), Mixture(components=2))


MIXTURE, PLAIN = (
    ["components=60", "steps=20", "step_size=0.1"],
    ["components=0", *(f"{k}={v}" for k, v in TILT.items())],
)


@pytest.mark.parametrize(
    ("source", "overrides", "expected"),
    [
        ("polydigits-mopoe", [], PLAIN),
        ("polydigits-cooperative", [], PLAIN),
        ("polydigits-cmvae", [], PLAIN),
        ("polydigits-mopoe", ["components=60"], MIXTURE),
        ("polydigits-mixture", [], MIXTURE),
        ("polydigits-mixture", ["components=0", "steps=7"], ["components=0", "steps=7", "step_size=0.2"]),
        ("polydigits", [], [*MIXTURE, "layers=3", "penalty=0.003"]),
        ("polydigits", ["components=0"], PLAIN),
        ("polydigits-mvebm", ["layers=2"], ["components=0", "layers=2", "steps=50"]),
        ("polymnist-mvebm", [], ["components=0", "width=400", "step_size=0.4"]),
    ],
)
def test_the_base_is_that_of_training_and_the_chain_one_for_this_base(source, overrides, expected):
    """A fitted base is where the codes are; a standard one is wider than twenty steps of 0.1 cross."""
    after = tilted(load_experiment(source), [f"model.prior.{text}" for text in overrides], 7)
    found, settle = after.model.prior, after.training.phase("settle")
    assert (found.kind, after.model.temperature, settle.widen_base, settle.steps) == ("energy", 1, 1, 7)
    assert {text: f"{getattr(found, text.split('=')[0]):g}" for text in expected} == {
        text: text.split("=")[1] for text in expected
    }


def test_a_row_that_is_given_a_tilt_has_the_chain_of_the_rows_that_have_one():
    """Not that of the preset under it, whose base is a fitted mixture: 20 steps of 0.1."""
    changes = ["model.prior.kind=energy", "training.phases.bound.divergence=component"]
    found = load_experiment("polydigits-mopoe", changes).model.prior
    assert {key: getattr(found, key) for key in TILT} == TILT
    assert (found.steps, found.step_size) == (50, 0.2)
    assert TILT_ON_CODES == {"steps": 20, "step_size": 0.1}
    assert load_experiment("polydigits-mopoe").training.optimiser.prior == 2e-3
