"""Held-out parts filled in: errors against numbers by hand and scikit-learn's, and regressions beside them."""

from math import sqrt
from types import SimpleNamespace

import numpy as np
import pytest
import sklearn.metrics
import torch

from multiebm.core.random import randn
from multiebm.data import from_arrays
from multiebm.data.arrays import Rows
from multiebm.data.dataset import MultimodalDataset, Split
from multiebm.evaluation.filling import DRAWS, INSIDE, average, filled, share_inside, share_saved
from multiebm.evaluation.measurement import Measurement
from multiebm.evaluation.metrics import METRICS, measured
from multiebm.evaluation.regressions import COMPONENTS, predictions, training
from multiebm.evaluation.result import EvaluationSettings
from multiebm.modalities import Picture, Vector
from multiebm.nn.pictures import ssim
from small_models import linear_model, vectors

NAN = float("nan")
FILL = [name for name in METRICS if name.startswith("fill")]


def test_an_average_over_what_is_there_and_its_error_by_hand():
    """Cells 1, 3, 5 of two rows: mean 3; totals 4 and 5, counts 2 and 1, so residuals -2 and 2: sqrt(8) / 3."""
    values = torch.tensor([[1.0, 3.0], [5.0, NAN], [NAN, NAN]])
    assert average(values) == pytest.approx((3.0, sqrt(8) / 3, 2))
    assert average(values, root=True) == pytest.approx((sqrt(3), sqrt(8) / 3 / (2 * sqrt(3)), 2))
    assert average(torch.full((2, 2), NAN)) is None
    assert average(torch.zeros(3, 1), root=True) == (0.0, 0.0, 3)


def test_the_share_of_an_error_that_is_saved_by_hand():
    """Squares 1 + 1 beside 4 + 4: half the root is saved, without doubt; 0 + 2 beside 4 + 4 saves as much with one."""
    own, other = torch.tensor([[1.0], [1.0]]), torch.tensor([[4.0], [4.0]])
    assert share_saved(own, other) == pytest.approx((0.75, 0.0, 2))
    assert share_saved(own, other, root=True) == pytest.approx((0.5, 0.0, 2))
    doubtful = share_saved(torch.tensor([[0.0], [2.0]]), other)  # residuals -1 and 1: sqrt(2) / 8
    assert doubtful == pytest.approx((0.75, sqrt(2) / 8, 2))
    assert share_saved(own, torch.zeros(2, 1)) is None


def test_errors_are_in_deviations_of_training_and_leave_out_missing_and_constant_cells():
    m, spread = Vector("m", (3,)), torch.tensor([2.0, 1.0, 0.0])
    true, predicted = torch.tensor([[1.0, NAN, 5.0]]), torch.tensor([[5.0, 7.0, 9.0]])
    found = m.errors(true, predicted, spread)
    assert list(found) == ["rmse"]
    torch.testing.assert_close(found["rmse"], torch.tensor([[4.0, NAN, NAN]]), equal_nan=True)  # (4 / 2)^2


def test_the_place_of_a_value_among_draws_is_its_interval():
    """Of 19 draws 1 to 19: the 18 middle intervals of 20 hold 1.5 to 18.5, the ten middle ones 5.5 to 14.5."""
    drawn = torch.arange(1.0, 20.0)[:, None]
    for value, inside90, inside50 in ((0.5, 0, 0), (1.5, 1, 0), (5.5, 1, 1), (14.5, 1, 1), (15.5, 1, 0), (19.5, 0, 0)):
        true = torch.tensor([value])
        assert share_inside(true, drawn, *INSIDE["coverage90"]).item() == inside90
        assert share_inside(true, drawn, *INSIDE["coverage50"]).item() == inside50
    # ties with all draws: as likely in each of 20 places
    assert share_inside(torch.tensor([3.0]), torch.full((19, 1), 3.0), 1, 18).item() == pytest.approx(0.9)
    assert share_inside(torch.tensor([NAN]), drawn, 1, 18).isnan().all()


def test_similarity_is_one_of_equal_pictures_and_follows_its_definition():
    draws = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 3, 14, 13, generator=draws), torch.rand(2, 3, 14, 13, generator=draws)
    torch.testing.assert_close(ssim(x, x, 1.0), torch.ones(2))
    flat_x, flat_y = torch.full((1, 1, 12, 12), 0.2), torch.full((1, 1, 12, 12), 0.6)
    low = 0.01**2
    assert ssim(flat_x, flat_y, 1.0).item() == pytest.approx((2 * 0.12 + low) / (0.04 + 0.36 + low), rel=1e-4)
    # by loops over every window, in float64
    at = np.arange(11) - 5.0
    weights = np.exp(-0.5 * (at / 1.5) ** 2)
    window = np.outer(weights, weights) / weights.sum() ** 2
    values = []
    for a, b in zip(x[0].double().numpy(), y[0].double().numpy(), strict=True):
        for i in range(4):
            for j in range(3):
                p, q = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
                mp, mq = (window * p).sum(), (window * q).sum()
                vp, vq, both = (window * p * p).sum() - mp**2, (window * q * q).sum() - mq**2, (window * p * q).sum()
                top = (2 * mp * mq + 0.01**2) * (2 * (both - mp * mq) + 0.03**2)
                values.append(top / ((mp**2 + mq**2 + 0.01**2) * (vp + vq + 0.03**2)))
    assert ssim(x, y, 1.0)[0].item() == pytest.approx(np.mean(values), rel=1e-4)


def gaps(n: int = 60) -> MultimodalDataset:
    """Two parts, y = 2 x; a tenth of the cells of y, and every fifth row's x, are missing."""
    draws = np.random.default_rng(0)
    x = draws.normal(size=(n, 1))
    y = np.concatenate([2 * x, -x], 1)
    y[draws.random(y.shape) < 0.1] = np.nan
    present = np.ones((n, 2), bool)
    present[::5, 0] = False
    declared = {"x": {"kind": "vector"}, "y": {"kind": "vector", "missing": "nan"}}
    rows = Rows({"x": x, "y": y}, present=present)
    return from_arrays(rows.views, declared, present=present, test=rows)


def test_regressions_see_through_missing_inputs_and_cells():
    data = gaps()
    model = linear_model({"x": 1, "y": 2}, shared=2, energy=None, modalities=data.modalities)
    m = Measurement(model, data, None, EvaluationSettings(100, 100))
    found = m.once(filled)
    own = found["y", ("x",)]
    there = data.test.present[:, 0]
    assert len(own.log_likelihood) == int(there.sum())  # rows that have x and y
    missing = data.batch("test", there.nonzero()[:, 0]).views["y"].isnan()
    assert torch.equal(own.errors["rmse"].isnan(), missing)
    assert missing.any()
    # y is a line of x, which ridge with little penalty finds in whatever cells there are
    assert sqrt(float(own.beside["regression"].nanmean())) < 0.02
    back = found["x", ("y",)]
    assert len(back.log_likelihood) == int(there.sum())


def test_large_parts_are_reduced_before_regression():
    n, shape = 300, (1, 18, 18)
    draws = torch.Generator().manual_seed(0)
    pictures = torch.rand(n, *shape, generator=draws)
    modalities = {"p": Picture("p", shape), "v": Vector("v", (2,))}
    split = Split({"p": pictures, "v": pictures.flatten(1)[:, :2] * 2 - 1}, torch.ones(n, 2).bool())
    data = MultimodalDataset("p", modalities, split, split, None, "", "p")
    m = Measurement(linear_model({"v": 2}, 2, modalities=modalities, energy=None), data, None)
    t = m.once(training)
    assert t.columns(t.batch, ["p", "v"]).shape == (n, COMPONENTS + 2)
    test = data.batch("test", torch.arange(10))
    beside, spread = predictions(m, "p", ["v"], test)
    assert beside["regression"].shape == (10, *shape)
    assert spread.shape == shape
    torch.testing.assert_close(beside["mean"][0], (pictures * 2 - 1).mean(0))


def test_a_prediction_is_the_mean_over_draws():
    """A part that is noise alone: one draw of variance 1 is off by sqrt(2), the mean of 20 by sqrt(1 + 1 / 20)."""
    n = 1000
    draws = torch.Generator().manual_seed(0)
    views = {"a": torch.zeros(n, 1), "b": torch.randn(n, 1, generator=draws)}
    modalities = vectors(a=1, b=1)
    split = Split(views, torch.ones(n, 2).bool())
    data = MultimodalDataset("noise", modalities, split, split, None, "", "noise")
    likelihood = SimpleNamespace(log_density=lambda x, mean: mean.sum(1), sample=lambda mean, rng: mean)
    model = SimpleNamespace(
        modalities=modalities,
        device=torch.device("cpu"),
        training=False,
        train=lambda mode: None,
        energy=None,
        diffusion=None,
        likeliest=lambda means: means,
        generator=SimpleNamespace(likelihoods=dict.fromkeys(modalities, likelihood), temperature=1.0),
        inference=SimpleNamespace(given=lambda batch: None),
        infer_latents=lambda batch, rng, posterior: randn(rng, (len(batch.present), 1), torch.zeros(1)),
        decode=lambda z, wanted: dict.fromkeys(modalities, z),
    )
    found = measured(Measurement(model, data, None, EvaluationSettings(2, n)), ["fill/rmse"]).results["fill/rmse/b"]
    assert found.value == pytest.approx(sqrt(1 + 1 / DRAWS), abs=4 * found.standard_error)
    assert found.value < 1.2 < sqrt(2)


def test_no_items_leave_it_out():
    data = gaps()
    model = linear_model({"x": 1, "y": 2}, shared=2, energy=None, modalities=data.modalities)
    none = measured(Measurement(model, data, None, EvaluationSettings(100, 0)), [*FILL, "belong/match"])
    assert not none.results
    assert none.skipped["fill/rmse"] == none.skipped["belong/match"] == "left out by the settings"


def test_a_part_that_does_not_vary_is_said_to_and_the_others_are_measured():
    data = from_arrays(
        {"a": np.ones((40, 2)), "b": np.random.default_rng(0).normal(size=(40, 1))},
        {name: {"kind": "vector"} for name in "ab"},
    )
    model = linear_model({"a": 2, "b": 1}, shared=2, energy=None, modalities=data.modalities)
    found = measured(Measurement(model, data, None, EvaluationSettings(100, 100)), FILL)
    assert "fill/r2/b" in found.results
    assert not [name for name in found.results if name.startswith("fill/rmse/a")]
    assert found.skipped["fill a given b"] == "it does not vary, so there is nothing to tell"


def test_errors_of_numbers_are_those_of_scikit_learn():
    """R2 is pooled over columns that are scaled by their deviation: scikit-learn's, weighted by variance."""
    draws = np.random.default_rng(0)
    y = draws.normal(size=(50, 3)) * [1, 5, 0.1]
    predicted, spread = y + 0.5 * draws.normal(size=y.shape), y.std(0)
    m, tensors = Vector("m", (3,)), [torch.from_numpy(of) for of in (y, predicted, spread)]
    own = m.errors(*tensors)["rmse"]
    at_mean = m.errors(tensors[0], tensors[0].mean(0).expand(50, 3), tensors[2])["rmse"]
    scaled = y / spread, predicted / spread
    assert average(own, root=True).value == pytest.approx(sqrt(sklearn.metrics.mean_squared_error(*scaled)), rel=1e-6)
    r2 = sklearn.metrics.r2_score(*scaled, multioutput="variance_weighted")
    assert share_saved(own, at_mean).value == pytest.approx(r2, rel=1e-6)
