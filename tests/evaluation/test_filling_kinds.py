"""Categories and counts, filled in: their errors by hand, and regressions that find what there is to find."""

from math import log

import numpy as np
import pytest
import sklearn.metrics
import torch

from multiebm.data import from_arrays
from multiebm.data.arrays import Rows
from multiebm.evaluation.filling import average, filled, share_saved
from multiebm.evaluation.measurement import Measurement
from multiebm.evaluation.metrics import measured
from multiebm.evaluation.result import EvaluationSettings
from multiebm.modalities.category import SMOOTHED, Category
from multiebm.modalities.counts import LEAST_MEAN, Counts
from small_models import small_model

NAN = float("nan")


def test_the_log_loss_and_accuracy_of_each_column_by_hand():
    m = Category("m", (("a", "b"), ("x", "y", "z")))
    true = torch.tensor([[1.0, 0, 0, 1, 0], [0, 1, NAN, NAN, NAN]])
    predicted = torch.tensor([[0.8, 0.2, 0.5, 0.3, 0.2], [0.8, 0.2, 1, 0, 0]])
    found = m.errors(true, predicted, torch.ones(5))
    expected = [[-log(0.99 * 0.8 + SMOOTHED / 2), -log(0.99 * 0.3 + SMOOTHED / 3)], [-log(0.99 * 0.2 + 0.005), NAN]]
    torch.testing.assert_close(found["log_loss"], torch.tensor(expected), equal_nan=True)
    torch.testing.assert_close(found["accuracy"], torch.tensor([[1.0, 0.0], [0.0, NAN]]), equal_nan=True)
    never = m.errors(torch.tensor([[1.0, 0, 1, 0, 0]]), torch.tensor([[0.0, 1, 1, 0, 0]]), torch.ones(5))
    assert never["log_loss"][0, 0].item() == pytest.approx(-log(SMOOTHED / 2))


def test_the_deviance_of_counts_by_hand():
    m = Counts("m", (3,))
    true, rate = torch.tensor([[3.0, 0.0, NAN]]), torch.tensor([[2.0, 0.0, 1.0]])
    found = m.errors(true, rate, torch.ones(3))["deviance"]
    expected = torch.tensor([[2 * (3 * log(3 / 2) - 1), 2 * LEAST_MEAN, NAN]])
    torch.testing.assert_close(found, expected, equal_nan=True)
    assert m.errors(true, rate, torch.zeros(3))["deviance"].isnan().all()


def test_logistic_regression_finds_classes_and_their_chances():
    """P(b | x) = 1 / (1 + exp(-2 x)): at 20,000 rows a chance is off by less than 0.02."""
    draws = np.random.default_rng(0)
    x = draws.normal(size=(20_000, 1))
    b = draws.random(20_000) < 1 / (1 + np.exp(-2 * x[:, 0]))
    y = np.stack([~b, b, np.ones(20_000)], 1).astype(float)
    y[:100, :2] = NAN
    found = Category("m", (("a", "b"), ("only",))).regress(x, y, np.array([[-1.0], [0.0], [1.0]]))
    np.testing.assert_allclose(found[:, 1], 1 / (1 + np.exp(-2 * np.array([-1, 0, 1]))), atol=0.02)
    np.testing.assert_allclose(found[:, 0] + found[:, 1], 1)
    assert (found[:, 2] == 1).all()


def test_poisson_regression_finds_rates():
    """Rate exp(1 + x / 2): at 20,000 rows it is off by less than 5 %, the ridge included."""
    draws = np.random.default_rng(0)
    x = draws.normal(size=(20_000, 1))
    y = draws.poisson(np.exp(1 + x / 2)).astype(float)
    y = np.concatenate([y, np.zeros_like(y)], 1)
    y[:100, 0] = NAN
    found = Counts("m", (2,)).regress(x, y, np.array([[-1.0], [0.0], [1.0]]))
    np.testing.assert_allclose(found[:, 0], np.exp(1 + np.array([-1, 0, 1]) / 2), rtol=0.05)
    assert (found[:, 1] == 0).all()
    many = Counts("m", (101,)).regress(x, np.repeat(y[:, 1:], 101, 1), x[:2])
    assert many.shape == (2, 101)
    assert (many >= 0).all()


@pytest.fixture(scope="module")
def mixed():
    """A number, the class that its sign says nine times of ten, and counts of its exponential."""
    draws = np.random.default_rng(0)
    z = draws.normal(size=(500, 1))
    sign = np.where(draws.random((500, 1)) < 0.9, z > 0, z <= 0)
    arrays = {"number": z, "sign": np.where(sign, "plus", "minus"), "count": draws.poisson(np.exp(1 + z))}
    declared = {"number": {"kind": "vector"}, "sign": {"kind": "category"}, "count": {"kind": "counts"}}
    train, test = ({name: of[rows] for name, of in arrays.items()} for rows in (slice(300), slice(300, None)))
    data = from_arrays(train, declared, test=Rows(test))
    return data, Measurement(small_model(data.modalities, energy=None), data, None, EvaluationSettings(100, 200))


def test_every_kind_is_measured_by_its_own_numbers(mixed):
    data, m = mixed
    found = measured(m, ["fill/rmse", "fill/log_loss", "fill/accuracy", "fill/deviance", "fill/mean"])
    results = found.results
    own = ("fill/rmse/number", "fill/log_loss/sign", "fill/accuracy/sign", "fill/deviance/count")
    whole = {*own, *(f"fill/mean/{part}" for part in data.modalities)}
    alone = {f"{name}/{other}" for name in whole for other in data.modalities if other != name.split("/")[2]}
    means = {f"fill/{key}" for key in ("rmse", "log_loss", "accuracy", "deviance")}  # of the one part that has it
    assert set(results) == whole | alone | means
    assert "fill/mean" not in results  # a mean of unlike errors says nothing
    shares = data.train.views["sign"].mean(0).double()
    at_mean = -float((data.test.views["sign"].double() * ((1 - SMOOTHED) * shares + SMOOTHED / 2).log()).sum(1).mean())
    assert results["fill/mean/sign"].value == pytest.approx(at_mean, rel=1e-5)
    mean = float(data.train.views["count"].mean())
    counts = data.test.views["count"].double()
    deviance = 2 * (counts.xlogy(counts / mean) - counts + mean)
    assert results["fill/mean/count"].value == pytest.approx(float(deviance.mean()), rel=1e-4)


def test_regressions_of_their_kinds_come_near_what_can_be_known(mixed):
    _, m = mixed
    found = m.once(filled)
    sign, count = found["sign", ("number", "count")], found["count", ("number", "sign")]
    assert float(sign.beside["regression"].nanmean()) < 0.85 * float(sign.beside["mean"].nanmean())
    assert float(count.beside["regression"].nanmean()) == pytest.approx(1.1, abs=0.3)  # about 1 around the true rate
    assert float(count.beside["mean"].nanmean()) > 2
    assert not sign.inside  # classes have no intervals
    assert count.inside["coverage90"].shape == (200, 1)


def test_errors_of_categories_and_counts_are_those_of_scikit_learn():
    """Their R2 is the share of deviance that is explained, scikit-learn's D2, where the mean is that of these rows."""
    draws = np.random.default_rng(0)
    p = draws.dirichlet(np.ones(3), size=200)
    label = np.array([draws.choice(3, p=row) for row in p])
    m, truth = Category("m", (("a", "b", "c"),)), torch.nn.functional.one_hot(torch.from_numpy(label), 3).double()
    found = m.errors(truth, torch.from_numpy(p), torch.ones(3))
    smoothed = (1 - SMOOTHED) * p + SMOOTHED / 3
    assert average(found["log_loss"]).value == pytest.approx(sklearn.metrics.log_loss(label, smoothed), rel=1e-6)
    hits = sklearn.metrics.accuracy_score(label, p.argmax(1))
    assert average(found["accuracy"]).value == pytest.approx(hits)
    shares = truth.mean(0).expand(200, 3)
    d2 = sklearn.metrics.d2_log_loss_score(label, smoothed)
    at_mean = m.errors(truth, (shares - SMOOTHED / 3) / (1 - SMOOTHED), torch.ones(3))["log_loss"]
    assert share_saved(found["log_loss"], at_mean).value == pytest.approx(d2, rel=1e-6)

    rate = draws.gamma(2.0, 2.0, size=(200, 1)) + 0.1
    count = draws.poisson(rate).astype(float)
    m, tensors = Counts("m", (1,)), [torch.from_numpy(of) for of in (count, rate, np.ones(1))]
    own = m.errors(*tensors)["deviance"]
    assert average(own).value == pytest.approx(sklearn.metrics.mean_poisson_deviance(count[:, 0], rate[:, 0]), rel=1e-6)
    at_mean = m.errors(tensors[0], tensors[0].mean(0).expand(200, 1), tensors[2])["deviance"]
    d2 = sklearn.metrics.d2_tweedie_score(count[:, 0], rate[:, 0], power=1)
    assert share_saved(own, at_mean).value == pytest.approx(d2, rel=1e-6)
