"""Completions of a linear-Gaussian model by its exact posterior: errors, nats and intervals are what theory says."""

from dataclasses import replace
from math import sqrt
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm

from multiebm.core.random import randn
from multiebm.data.dataset import MultimodalDataset, Split
from multiebm.evaluation.filling import INSIDE, PLACES
from multiebm.evaluation.measurement import Measurement
from multiebm.evaluation.metrics import METRICS, measured
from multiebm.evaluation.result import EvaluationSettings
from small_models import linear_model, vectors

FILL = [name for name in METRICS if name.startswith("fill")]


class Exact:
    """The Gaussian posterior of a linear model without private latents, of what is present."""

    def __init__(self, model, scale: float) -> None:
        self.decoders, self.scale = model.generator.decoders, scale

    def given(self, batch):
        """Of items with the same parts present, as all of a measurement have."""
        d = next(iter(self.decoders.values())).matrix.shape[1]
        present = batch.present[0].tolist()
        assert batch.present.tolist() == [present] * len(batch.present)
        precision, at = torch.eye(d, dtype=torch.float64), torch.zeros(len(batch.present), d, dtype=torch.float64)
        for name in (name for name, there in zip(batch.views, present, strict=True) if there):
            a, c = self.decoders[name].matrix.double(), self.decoders[name].offset.double()
            precision = precision + a.T @ a / self.scale**2
            at = at + (batch.views[name].double() - c) @ a / self.scale**2
        covariance = precision.inverse()
        loc, chol = at @ covariance, torch.linalg.cholesky(covariance)

        def sample(rng):
            noise = randn(rng, tuple(loc.shape), loc.float()).double()
            return {"shared": (loc + noise @ chol.T).float()}, None

        return SimpleNamespace(sample=sample)


SIZES, SCALE, TRAIN, TEST = {"a": 4, "b": 3, "c": 2}, 0.5, 4000, 400


@pytest.fixture(scope="module")
def exact():
    """A linear-Gaussian model with its exact posterior, data of it, and what is measured."""
    model = linear_model(SIZES, shared=2, scale=SCALE, energy=None, modalities=vectors(**SIZES))
    rng = torch.Generator().manual_seed(3)
    z = torch.randn(TRAIN + TEST, 2, generator=rng)
    with torch.no_grad():
        views = {
            name: model.generator.decoders[name](z) + SCALE * torch.randn(len(z), size, generator=rng)
            for name, size in SIZES.items()
        }
    train, test = (
        Split({name: view[rows] for name, view in views.items()}, torch.ones(n, 3).bool())
        for rows, n in ((slice(TRAIN), TRAIN), (slice(TRAIN, None), TEST))
    )
    data = MultimodalDataset("linear", model.modalities, train, test, None, "", "linear")
    m = Measurement(model, data, None, EvaluationSettings(100, TEST))
    given, sample = model.inference.given, Exact(model, SCALE)
    model.inference.given = sample.given  # type: ignore[method-assign]
    found = measured(m, FILL).results
    model.inference.given = given  # type: ignore[method-assign]
    return model, m, found


def test_draws_of_an_exact_posterior_reach_regression(exact):
    """Ridge on 4,000 rows is the conditional mean but for 1e-3 of the error. A mean of 20 draws adds a twentieth of the
    posterior's variance of the mean, which is less than the noise's: the root is at most sqrt(1 + 1 / 20) = 1.025 as
    large. False alarm beyond four errors: 1e-4.
    """
    _, _, found = exact
    for part in SIZES:
        saved = found[f"fill/over_regression/{part}"]
        assert -0.025 - 0.002 - 4 * saved.standard_error < saved.value < 4 * saved.standard_error + 0.002, part
        assert found[f"fill/over_neighbours/{part}"].value > 0
        assert found[f"fill/mean/{part}"].value == pytest.approx(1, abs=4 * found[f"fill/mean/{part}"].standard_error)
        r2 = 1 - (found[f"fill/rmse/{part}"].value / found[f"fill/mean/{part}"].value) ** 2
        assert found[f"fill/r2/{part}"].value == pytest.approx(r2, abs=1e-6)
    assert found["fill/rmse"].value == pytest.approx(sum(found[f"fill/rmse/{part}"].value for part in SIZES) / 3)


def test_intervals_of_an_exact_posterior_hold_what_they_say(exact):
    """A value's place among 19 draws is uniform over 20, so 18 of 20 are exactly 90 %, and 10 are 50 %. 400 rows of
    three parts with 9 cells: were the cells of a row one and the same, the error were sqrt(0.09 / 400) = 0.015, and two
    of these are 0.03.
    """
    _, _, found = exact
    assert 0.87 < found["fill/coverage90"].value < 0.93
    assert 0.45 < found["fill/coverage50"].value < 0.55  # sqrt(0.25 / 400) = 0.025
    for part in SIZES:
        result = found[f"fill/coverage90/{part}"]
        assert abs(result.value - 0.9) < 4 * result.standard_error


def test_the_nats_of_an_exact_posterior_are_those_of_the_conditional(exact):
    """log 1/20 sum p(x | z_d) is below log p(x | others) on average (Jensen), and above the mean of log p(x | z)."""
    model, _, found = exact
    total = sum(SIZES.values())
    a = torch.cat([model.generator.decoders[name].matrix.detach().double() for name in SIZES])
    whole = a @ a.T + SCALE**2 * torch.eye(total, dtype=torch.float64)
    at = 0
    for part, size in SIZES.items():
        own = torch.arange(at, at + size)
        rest = torch.tensor([i for i in range(total) if i not in own])
        at += size
        cross = whole[own][:, rest]
        left = whole[own][:, own] - cross @ whole[rest][:, rest].inverse() @ cross.T
        nats = -0.5 * (torch.logdet(2 * torch.pi * left) + size).item()  # the mean of log p(x | others)
        result = found[f"fill/log_likelihood/{part}"]
        assert nats - 0.5 - 4 * result.standard_error < result.value < nats + 4 * result.standard_error


def test_from_one_part_alone_less_is_known_than_from_both(exact):
    _, _, found = exact
    for part in SIZES:
        for other in SIZES.keys() - {part}:
            assert found[f"fill/rmse/{part}/{other}"].value > found[f"fill/rmse/{part}"].value - 0.02


def test_too_narrow_noise_is_caught(exact):
    model, m, found = exact
    noise = dict(model.generator.likelihoods)
    model.generator.likelihoods = {name: replace(like, scale=SCALE / 5) for name, like in noise.items()}
    given = model.inference.given
    model.inference.given = Exact(model, SCALE / 5).given  # type: ignore[method-assign]
    narrow = measured(Measurement(model, m.dataset, None, m.settings), ["fill/coverage90"]).results
    model.inference.given, model.generator.likelihoods = given, noise  # type: ignore[method-assign]
    assert narrow["fill/coverage90"].value < 0.5 < found["fill/coverage90"].value


def test_from_one_part_alone_the_exact_posterior_reaches_regression_and_its_intervals_hold_what_they_say(exact):
    """Tolerances as from both parts: the same bounds on a mean of 20 draws and on shares of 400 rows."""
    _, _, found = exact
    for part in SIZES:
        for other in SIZES.keys() - {part}:
            pair = f"{part}/{other}"
            saved = found[f"fill/over_regression/{pair}"]
            assert -0.025 - 0.002 - 4 * saved.standard_error < saved.value < 4 * saved.standard_error + 0.002, pair
            for share in (50, 90):
                result = found[f"fill/coverage{share}/{pair}"]
                assert abs(result.value - share / 100) < 4 * result.standard_error, (pair, share)
            r2 = 1 - (found[f"fill/rmse/{pair}"].value / found[f"fill/mean/{pair}"].value) ** 2
            assert found[f"fill/r2/{pair}"].value == pytest.approx(r2, abs=1e-6)
            assert f"fill/log_likelihood/{pair}" in found


def inside_of(spread: float, true: float, low: int, high: int) -> float:
    """The chance that x ~ N(0, true) lies in places low..high among 19 draws of N(0, spread), variances: the number of
    draws below x is binomial with p = Phi(x / sqrt(spread)).
    """

    x = np.linspace(-12, 12, 4001) * sqrt(true)  # a smooth integrand that ends at 0: trapezia are exact to 1e-10
    p = norm.cdf(x / sqrt(spread))
    inside = binom.cdf(high, PLACES, p) - binom.cdf(low - 1, PLACES, p)
    return float(np.trapezoid(inside * norm.pdf(x, scale=sqrt(true)), x))


def test_the_closed_form_of_a_share_is_what_it_says_of_equal_spreads():
    assert inside_of(0.7, 0.7, *INSIDE["coverage90"]) == pytest.approx(0.9, abs=1e-8)
    assert inside_of(0.7, 0.7, *INSIDE["coverage50"]) == pytest.approx(0.5, abs=1e-8)


def test_half_the_noise_covers_too_little_by_the_amount_of_the_closed_form(exact):
    """The posterior stays right and the noise is halved: a cell is N(mean, v) where its draws are N(mean, v'), with
    v = a S a^T + s^2 and v' = a S a^T + s^2 / 4, S the covariance of the code given the other parts.
    """
    model, m, found = exact
    noise, given = dict(model.generator.likelihoods), model.inference.given
    model.generator.likelihoods = {name: replace(like, scale=SCALE / 2) for name, like in noise.items()}
    model.inference.given = Exact(model, SCALE).given  # type: ignore[method-assign]
    names = ["fill/coverage50", "fill/coverage90"]
    halved = measured(Measurement(model, m.dataset, None, m.settings), names).results
    model.inference.given, model.generator.likelihoods = given, noise  # type: ignore[method-assign]
    matrices = {name: model.generator.decoders[name].matrix.detach().double() for name in SIZES}
    for part, own in matrices.items():
        precision = torch.eye(2, dtype=torch.float64)
        for other in SIZES.keys() - {part}:
            precision = precision + matrices[other].T @ matrices[other] / SCALE**2
        mean_variance = (own @ precision.inverse() * own).sum(1).tolist()  # of each cell
        for name in names:
            places = INSIDE[name.removeprefix("fill/")]
            shares = [inside_of(v + SCALE**2 / 4, v + SCALE**2, *places) for v in mean_variance]
            expected, result = sum(shares) / len(shares), halved[f"{name}/{part}"]
            assert result.value == pytest.approx(expected, abs=4 * result.standard_error), (name, part)
            assert expected < found[f"{name}/{part}"].value - 4 * result.standard_error  # so it could fail


def test_rows_that_a_model_learned_from_are_no_better_known_by_one_that_has_not_learned(exact):
    """The exact model has seen neither split: both errors are one number, but for their own errors."""
    _, _, found = exact
    for part in SIZES:
        learned, held_out = found[f"fill/learned/{part}"], found[f"fill/rmse/{part}"]
        assert learned.n == TEST
        assert abs(learned.value - held_out.value) < 4 * (learned.standard_error + held_out.standard_error)
