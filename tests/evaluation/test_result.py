from math import e

import pytest
import torch
from evaluation_standins import Oracle, known_dataset

from multiebm.core.errors import DataError
from multiebm.evaluation.metrics import evaluation_mode
from multiebm.evaluation.result import (
    Evaluation,
    bootstrap_deviation,
    mean_of_items,
    proportion,
    stream_seed,
)


def test_a_proportion_has_the_binomial_standard_error():
    hits = torch.arange(400) < 320
    assert proportion(hits) == pytest.approx((0.8, (0.8 * 0.2 / 400) ** 0.5, 400))  # 0.02
    assert proportion(torch.ones(7, dtype=torch.bool)) == (1.0, 0.0, 7)


def test_a_proportion_of_nothing_is_an_error():
    with pytest.raises(DataError, match="no items"):
        proportion(torch.empty(0, dtype=torch.bool))


def test_one_column_of_zeros_and_ones_has_the_binomial_error_and_copies_of_it_add_no_information():
    column = (torch.arange(400) < 320).double()
    assert mean_of_items(column[:, None]) == pytest.approx(tuple(proportion(column)))
    assert mean_of_items(torch.stack([column] * 20, 1)) == pytest.approx(tuple(proportion(column)))


def test_undefined_entries_are_left_out_and_every_column_counts_the_same():
    nan = float("nan")
    values = torch.tensor([[1.0, nan], [0.0, nan], [1.0, 1.0], [nan, nan]])
    result = mean_of_items(values)
    assert result.value == pytest.approx((2 / 3 + 1) / 2)
    assert result.n == 3
    with pytest.raises(DataError, match="undefined"):
        mean_of_items(torch.full((3, 2), nan))


def test_the_error_of_a_mean_over_judges_by_hand():
    """x = a_i + b_s + e_is with a = (0, 1, 0, 1), b = (-0.1, 0.1), e = 0: var of row means 1/4, of judges' 0.02."""
    items = torch.tensor([0.0, 1.0, 0.0, 1.0])
    one = mean_of_items(items[:, None])
    assert one == pytest.approx((0.5, (0.25 / 4) ** 0.5, 4))
    alike = mean_of_items(items[:, None, None].expand(4, 3, 2))  # judges that agree know nothing of others
    assert alike == pytest.approx(tuple(one))
    shifted = items[:, None, None] + torch.tensor([-0.1, 0.1])
    assert mean_of_items(shifted) == pytest.approx((0.5, (0.25 / 4 + 0.02 / 2) ** 0.5, 4))
    # each misreads another item: sums of judges are equal, and what they disagree on is in the items' part
    crossed = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 1.0]])[:, None]
    assert mean_of_items(crossed) == pytest.approx((0.75, (0.0625 / 4) ** 0.5, 4))


def test_the_error_of_a_mean_over_judges_is_its_deviation_over_items_and_judges():
    """Deviations 1, 0.2 and 0.5 of items, judges and both, N = 50, S = 3: 1 / 50 + 0.04 / 3 + 0.25 / 150 = 0.035.

    2,000 repeats know the variance of means to 3.2 %: 5 of these. Of the estimate var(correction=0) is 2 % low.
    """
    g, repeats, n, s = torch.Generator().manual_seed(0), 2000, 50, 3
    parts = ((1.0, (repeats, n, 1)), (0.2, (repeats, 1, s)), (0.5, (repeats, n, s)))
    x = sum(scale * torch.randn(shape, generator=g, dtype=torch.float64) for scale, shape in parts)
    results = [mean_of_items(of[:, None]) for of in x]
    truth = 1 / n + 0.04 / s + 0.25 / (n * s)
    assert float(torch.tensor([of.value for of in results]).var()) == pytest.approx(truth, rel=0.16)
    estimated = torch.tensor([of.standard_error**2 for of in results]).mean()
    assert float(estimated) == pytest.approx(truth, rel=0.06)


def test_bootstrap_deviation_of_a_mean_is_its_standard_error():
    """400 resamples of n = 500: relative deviation 1 / sqrt(800) = 3.5 %; 5 of them, false alarm < 1e-6."""
    x = torch.randn(500, generator=torch.Generator().manual_seed(0))
    measured = bootstrap_deviation(lambda rows: x[rows].mean(), 500, torch.Generator().manual_seed(1), resamples=400)
    assert float(measured) == pytest.approx(float(x.std(correction=0)) / 500**0.5, rel=0.18)


def test_a_bootstrap_draws_as_many_items_as_there_are_with_replacement():
    """Half of the items without replacement would give a mean the same deviation, and a variance another one. Of n
    draws with replacement n (1 - 1/e) items are there, deviation sqrt(n (1/e - 2/e^2)); 5 of them, 8 times: < 1e-5."""
    n, drawn = 1000, []
    bootstrap_deviation(
        lambda rows: drawn.append(rows) or rows.double().mean(), n, torch.Generator().manual_seed(0), resamples=8
    )
    for rows in drawn:
        assert rows.shape == (n,)
        assert len(rows.unique()) == pytest.approx(n * (1 - 1 / e), abs=5 * (n * (1 / e - 2 / e**2)) ** 0.5)


def test_streams_of_different_names_and_seeds_differ():
    seeds = {stream_seed(seed, name) for seed in range(3) for name in ("joint", "cond/a", "cond/b")}
    assert len(seeds) == 9
    assert stream_seed(0, "joint") == stream_seed(0, "joint")


def test_evaluation_mode_needs_no_graph_and_leaves_the_model_as_it_was():
    model = Oracle(known_dataset())

    def fail_inside():
        with evaluation_mode(model):
            assert not model.training
            assert not torch.is_grad_enabled()
            raise DataError("inside")

    with pytest.raises(DataError, match="inside"):
        fail_inside()
    assert model.training
    assert torch.is_grad_enabled()


def test_the_worst_judge_decides_about_trust():
    trusted, distrusted = (Evaluation({}, {}, {"a": 0.99, "b": b}, "", 0, 0.0).trustworthy for b in (0.95, 0.949))
    assert trusted
    assert not distrusted
