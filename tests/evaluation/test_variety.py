"""Variety: a ratio of variances, against known ones."""

import pytest
import torch

from multiebm.evaluation.samples import total_variance, variety_results


def parts(scale: float, n: int = 400, shape: tuple[int, ...] = (3, 4, 4), seed: int = 0) -> torch.Tensor:
    return scale * torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed)) + 0.3


def measured(real, generated):
    return variety_results(real, generated, "gen/variety", torch.Generator().manual_seed(0))


def test_the_variance_is_over_items_and_means_over_coordinates():
    x = torch.tensor([[[0.0, 1.0]], [[2.0, 1.0]], [[4.0, 4.0]]])
    assert total_variance(x).item() == pytest.approx((4 + 3) / 2)


def test_the_data_itself_has_variety_one_and_one_repeated_part_none():
    real = {"a": parts(0.5), "b": parts(2.0, shape=(7,))}
    same = measured(real, real)
    assert same["gen/variety"].value == pytest.approx(1.0)
    repeated = measured(real, {name: part[:1].expand_as(part) for name, part in real.items()})
    assert repeated["gen/variety"].value == pytest.approx(0.0, abs=1e-6)
    assert repeated["gen/variety"].n == 400


def test_it_is_the_square_of_a_contrast_by_modality_and_its_error_is_that_of_a_variance():
    """Half the contrast of one modality: 1/4 there, 5/8 in the mean. 400 x 48 normal coordinates: error about 1 %."""
    real = {"a": parts(1.0), "b": parts(1.0, seed=1)}
    results = measured(real, {"a": parts(0.5, seed=2), "b": parts(1.0, seed=3)})
    assert results["gen/variety/a"].value == pytest.approx(0.25, rel=0.05)
    assert results["gen/variety/b"].value == pytest.approx(1.0, rel=0.05)
    assert results["gen/variety"].value == pytest.approx(0.625, rel=0.05)
    assert 0 < results["gen/variety/b"].standard_error < 0.05


def test_missing_cells_are_left_out_of_the_variance_and_rows_with_them_are_not():
    """Columns (0, 2, 4) and (1, -, 3) by hand: variances 4 and 2; a column with one value does not count."""
    nan = float("nan")
    x = torch.tensor([[0.0, 1.0], [2.0, nan], [4.0, 3.0]])
    assert total_variance(x).item() == pytest.approx((4 + 2) / 2)
    assert total_variance(torch.cat([x, torch.tensor([[5.0], [nan], [nan]])], 1)).item() == pytest.approx(3)
    assert total_variance(torch.full((3, 2), nan)).item() == 0


def test_parts_of_which_every_row_lacks_a_cell_have_a_variety():
    """A tenth of 400 x 48 cells is missing, in every row some: error about 1 %."""
    real = {"a": parts(1.0)}
    gone = torch.rand(real["a"].shape, generator=torch.Generator().manual_seed(1)) < 0.1
    real["a"][gone] = float("nan")
    assert real["a"].flatten(1).isnan().any(1).all()
    assert measured(real, {"a": parts(1.0, seed=2)})["gen/variety/a"].value == pytest.approx(1.0, rel=0.05)
