"""Whether the shared code is used: divergence from the prior and active units, against closed forms."""

from dataclasses import replace
from math import log

import pytest
import torch
from evaluation_standins import ExactJudges, GaussianCodes, Oracle, Wobbly, known_dataset

from multiebm.cli.outputs import remarks
from multiebm.data.dataset import Split
from multiebm.evaluation import codes
from multiebm.evaluation.measurement import Measurement
from multiebm.evaluation.metrics import QUICK, evaluate, measured
from multiebm.evaluation.result import EvaluationSettings
from multiebm.priors.energy import Energy, EnergyPrior
from multiebm.priors.mixture import MixturePrior
from multiebm.priors.prior import Prior

SMALL = EvaluationSettings(samples=20, items=20, sizes=(1, 2), latent_steps=1)


def model_with(gain: float, scale: float, n: int = 500):
    model = Oracle(known_dataset(n))
    model.inference = GaussianCodes(gain, scale)
    return model


def used(model, dataset=None, **more):
    m = Measurement(model, dataset or model.dataset, None, **{"batch_size": 100, **more})
    return codes.divergence(m, "latent/kl") | codes.units(m, "latent/active_units") | codes.units(m, "latent/units")


@pytest.mark.parametrize(("gain", "scale"), [(2.0, 0.5), (1.0, 0.1), (0.0, 0.7)])
def test_the_divergence_has_the_closed_form_of_gaussians(gain, scale):
    """KL = D (s^2 / 2 - 1/2 - log s) + m^2 / 2 with D = 10 and one location m = gain. A draw of log q / p deviates by
    sqrt(D (s^2 - 1)^2 / 2 + (m s)^2); 16 draws of 500 items, 5 standard errors: false alarm < 1e-6."""
    expected = 10 * (scale**2 / 2 - 0.5 - log(scale)) + gain**2 / 2
    deviation = (10 * (scale**2 - 1) ** 2 / 2 + (gain * scale) ** 2) ** 0.5 / (16 * 500) ** 0.5
    result = used(model_with(gain, scale))["latent/kl"]
    assert result.value == pytest.approx(expected, abs=5 * deviation)
    assert result.n == 500
    assert result.standard_error == pytest.approx(
        deviation, rel=0.2
    )  # of 500 items: known to 3.2 %, 5 of them and more


def test_a_code_that_is_the_prior_has_no_divergence_and_no_active_unit():
    results = used(model_with(0.0, 1.0))
    assert results["latent/kl"].value == pytest.approx(0.0, abs=1e-5)
    assert results["latent/active_units"] == (0, 0.0, 500)
    assert results["latent/units"].value == 10


def test_units_are_active_where_their_mean_varies_by_more_than_a_hundredth():
    """Ten classes equally often: a coordinate's mean has variance 0.09 gain^2, 0.0101 at 0.335, 0.0099 at 0.331."""
    assert used(model_with(0.335, 0.5))["latent/active_units"].value == 10
    assert used(model_with(0.331, 0.5))["latent/active_units"].value == 0
    model = model_with(1.0, 0.5)
    view = {name: part.clone() for name, part in model.dataset.test.views.items()}
    for part in view.values():
        part[:, 6:10] = 0.0
    rows = Split(view, model.dataset.test.present, model.dataset.test.labels)
    assert used(model, replace(model.dataset, test=rows))["latent/active_units"].value == 6


def test_neither_depends_on_the_batch_size_and_both_are_of_as_many_items_as_told(monkeypatch):
    model = model_with(1.0, 0.5)
    monkeypatch.setattr(codes, "CODES", 200)
    small, large = (used(model, batch_size=size)["latent/kl"] for size in (7, 200))
    assert small == pytest.approx(large, rel=1e-6)
    assert used(model)["latent/kl"].n == 200
    assert used(model, seed=1)["latent/kl"] != used(model)["latent/kl"]


def test_of_an_energy_prior_the_divergence_is_to_its_base():
    """A tilt that is not normalised would move it by any constant."""
    model = model_with(1.0, 0.5)
    plain = used(model)["latent/kl"]
    model.generator.prior = EnergyPrior(model.generator.prior, Energy(layers=3, steps=40))
    assert used(model)["latent/kl"] == plain
    mixture = MixturePrior(10, 1)  # N(0, I) until it is fitted, up to its ridge of 1e-4
    model.generator.prior = mixture
    assert used(model)["latent/kl"].value == pytest.approx(plain.value, abs=0.01)


class Shifted(Prior):
    """A density of no kind of the package, a constant away from one that is normalised."""

    normalised, dim = False, 10

    def __init__(self, base):
        super().__init__()
        self.base = base

    def log_prob(self, z):
        return self.base.log_prob(z) + 7

    def sample(self, n, rng, temperature=1.0):
        return self.base.sample(n, rng, temperature)

    def untilted(self):
        return self.base


def test_a_prior_of_another_package_says_itself_what_it_tilts():
    model = model_with(1.0, 0.5)
    plain = used(model)["latent/kl"]
    model.generator.prior = Shifted(model.generator.prior)
    assert used(model)["latent/kl"] == plain


def test_items_without_any_part_are_left_out():
    model = model_with(1.0, 0.5, 60)
    present = torch.ones(60, 3, dtype=torch.bool)
    present[:20] = False
    partial = replace(model.dataset, test=Split(model.dataset.test.views, present, model.dataset.test.labels))
    assert used(model, partial)["latent/kl"].n == 40


def test_a_collapsed_code_is_said_and_a_used_one_is_not():
    dataset = known_dataset(60)
    model = Wobbly(dataset)
    judges = ExactJudges(dataset)
    alive = evaluate(model, dataset, judges, SMALL)
    assert alive.collapse is None
    assert not any("collapsed" in line for line in remarks(alive))
    model.inference = GaussianCodes(0.001, 1.0)
    dead = evaluate(model, dataset, judges, SMALL)
    assert "0 of 10 latents are used" in dead.collapse
    assert "lower training.phases.bound.beta" in dead.collapse
    assert dead.collapse in remarks(dead)
    assert dead.to_json()["collapsed"] is True
    model.inference = GaussianCodes(0.001, 0.1)  # far from the prior, yet the same for every item
    assert "0 of 10" in evaluate(model, dataset, judges, SMALL).collapse
    unlabelled = known_dataset(60, labels=False)
    assert evaluate(model, unlabelled, None, SMALL).collapse
    assert measured(Measurement(model, dataset, judges, SMALL), QUICK).collapse is None


def test_looking_at_the_code_moves_no_other_result():
    dataset = known_dataset(60)
    model, judges = Wobbly(dataset), ExactJudges(dataset)
    before = evaluate(model, dataset, judges, SMALL).results
    model.inference = GaussianCodes(3.0, 0.1)
    after = evaluate(model, dataset, judges, SMALL).results
    assert {name for name in before if before[name] != after[name]} == {"latent/kl"}


def test_few_items_are_said_with_their_results():
    dataset = known_dataset(4)
    lines = remarks(evaluate(Oracle(dataset), dataset, ExactJudges(dataset), SMALL))
    (line,) = [line for line in lines if line.startswith("Fewer than 10 items")]
    assert "cond/size1" in line
    assert "gen/" not in line
