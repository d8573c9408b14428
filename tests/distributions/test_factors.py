"""Factor analysis: the density with gaps, scikit-learn's likelihood without them, and a prior for few rows."""

import pytest
import torch
from sklearn.decomposition import FactorAnalysis
from torch.distributions import MultivariateNormal

from multiebm.distributions.factors import Factors, _start, chosen_factors, factor_analysis

rng = torch.Generator().manual_seed(0)
LOADINGS = torch.randn(7, 2, generator=rng, dtype=torch.float64)
NOISE = torch.rand(7, generator=rng, dtype=torch.float64) * 0.5 + 0.1
LOC = torch.randn(7, generator=rng, dtype=torch.float64) * 100
PARTS = [torch.arange(7) < 3, torch.arange(7) >= 3]
TRUE = Factors(LOC, LOADINGS, NOISE)


def drawn(n, seed=1):
    draws = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 2, generator=draws, dtype=torch.float64)
    return LOC + z @ LOADINGS.T + NOISE.sqrt() * torch.randn(n, 7, generator=draws, dtype=torch.float64)


def with_gaps(x, share, seed=2):
    hidden = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < share
    return torch.where(hidden, torch.nan, x)


def test_what_is_there_of_a_row_has_the_marginal_density_and_the_exact_posterior():
    x = with_gaps(drawn(20), 0.4)
    for row, value, mean in zip(x, TRUE.log_prob(x), TRUE.posterior(x), strict=True):
        there = ~row.isnan()
        w, noise, off = LOADINGS[there], NOISE[there].diag(), row[there] - LOC[there]
        marginal = MultivariateNormal(torch.zeros_like(off), w @ w.T + noise)
        torch.testing.assert_close(value, marginal.log_prob(off))
        torch.testing.assert_close(mean, w.T @ torch.linalg.solve(w @ w.T + noise, off))


@pytest.mark.parametrize("patterns", [1, 3])
def test_rows_of_few_patterns_of_gaps_are_summed_together_and_one_by_one_alike(monkeypatch, patterns):
    """By products of matrices for each pattern, or by each row: the same to rounding."""
    x = drawn(40)
    for i in range(1, patterns):
        x[i::patterns, PARTS[i - 1]] = torch.nan
    few = factor_analysis(x, 3, 10.0)
    monkeypatch.setattr("multiebm.distributions.factors.FEW", 0)
    torch.testing.assert_close(few, factor_analysis(x, 3, 10.0), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(few.log_prob(x), few.log_prob(x.flip(0)).flip(0))


def test_a_row_of_which_nothing_is_there_has_the_prior():
    x = torch.full((1, 7), torch.nan)
    torch.testing.assert_close(TRUE.posterior(x), torch.zeros(1, 2, dtype=torch.float64))
    torch.testing.assert_close(TRUE.log_prob(x), torch.zeros(1, dtype=torch.float64))


@pytest.mark.parametrize("k", [1, 2, 4])
def test_without_gaps_it_is_as_likely_as_scikit_learns(k):
    """The prior on loadings takes less than k F / (2 n) nats a row or so; EM ends 1e-4 from where it goes."""
    x = drawn(800)
    theirs = FactorAnalysis(k, tol=1e-8, max_iter=5000, svd_method="lapack").fit(x.numpy())
    ours = factor_analysis(x, k).log_prob(x).mean()
    assert float(ours) == pytest.approx(theirs.score(x.numpy()), abs=0.01)


def test_with_a_third_of_the_cells_gone_it_finds_the_covariance():
    """Ten times the standard error, sqrt(2 / n) of a variance, at n = 4,000."""
    found = factor_analysis(with_gaps(drawn(4000), 0.33), 2)
    true, own = (f.loadings @ f.loadings.T + f.noise.diag() for f in (TRUE, found))
    scale = true.diagonal().sqrt()
    assert ((own - true) / (scale[:, None] * scale)).abs().max() < 10 * (2 / 4000) ** 0.5
    assert ((found.loc - LOC) / scale).abs().max() < 10 / 4000**0.5


def test_units_do_not_matter():
    x, units = drawn(300), torch.tensor([1e-6, 1e6, 1, 10, 1e3, 1e-3, 1], dtype=torch.float64)
    one, other = factor_analysis(x, 2), factor_analysis(x * units, 2)
    torch.testing.assert_close(other.loadings / units[:, None], one.loadings, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(other.noise / units.square(), one.noise, rtol=1e-6, atol=0)


def test_a_column_without_two_values_has_no_factors():
    x = drawn(100)
    x[:, 3], x[:, 5] = 17.0, torch.nan
    found = factor_analysis(x, 2)
    assert found.loadings[[3, 5]].abs().max() < 1e-6
    assert float(found.loc[3]) == 17.0
    assert found.loadings.isfinite().all()
    assert (found.noise > 0).all()


def error(found, x):
    """The mean squared error of each part given the other, in units of the columns' true variance."""
    unit, total = (LOADINGS.square().sum(1) + NOISE).sqrt(), 0.0
    for own in PARTS:
        codes = found.posterior(torch.where(own, torch.nan, x))
        off = (x - found.loc - codes @ found.loadings.T) / unit
        total += float(off[:, own].square().mean())
    return total


@pytest.mark.parametrize(("n", "gaps", "least"), [(60, 0.0, 1.15), (400, 0.0, 1.03), (600, 0.2, 1.03)])
def test_with_more_factors_than_there_are_it_predicts_nearly_as_well_as_the_truth(n, gaps, least):
    new = drawn(5000, seed=9)
    found = chosen_factors(with_gaps(drawn(n), gaps), 6, PARTS)
    assert 1 < error(found, new) / error(TRUE, new) < least
    alone = factor_analysis(with_gaps(drawn(n), gaps), 1)
    assert error(alone, new) > 1.2 * error(found, new)


def test_of_a_few_rows_loadings_are_small():
    x = drawn(6)
    free, shrunk = factor_analysis(x, 4), chosen_factors(x, 4, PARTS)
    assert shrunk.loadings.abs().max() < 0.05 * free.loadings.abs().max()


@pytest.mark.parametrize("shrink", [1.0, 10.0, 100.0])
def test_em_ends_at_one_place_wherever_it_begins_and_more_prior_makes_smaller_loadings(shrink):
    """The objective falls in no step, so that from a weaker prior's optimum it comes to where it comes by itself."""
    x = drawn(60)
    fresh = factor_analysis(x, 2, shrink)
    warm = factor_analysis(x, 2, shrink, factor_analysis(x, 2, shrink / 10))
    covariance = [f.loadings @ f.loadings.T + f.noise.diag() for f in (fresh, warm)]
    scale = covariance[0].diagonal().sqrt()
    assert ((covariance[0] - covariance[1]) / (scale[:, None] * scale)).abs().max() < 0.03
    more = factor_analysis(x, 2, 10 * shrink)
    assert float((more.loadings / scale[:, None]).norm()) < 0.95 * float((fresh.loadings / scale[:, None]).norm())


def test_of_more_columns_than_rows_the_start_comes_from_a_matrix_of_rows_and_is_the_same():
    """Every row twice has the same second moments, and as many rows as columns."""
    off = drawn(5) - LOC
    off = off - off.mean(0)
    variance = off.square().mean(0)
    wide, narrow = _start(off, variance, 2), _start(off.repeat(2, 1), variance, 2)
    torch.testing.assert_close(wide.loadings @ wide.loadings.T, narrow.loadings @ narrow.loadings.T)
    torch.testing.assert_close(wide.noise, narrow.noise)


def test_a_part_that_nobody_in_a_fold_has_does_not_choose():
    """Columns have nothing in common, which asks for the strongest prior; a mean of no errors asks for the first."""
    x = torch.randn(40, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[torch.arange(40) % 5 == 0, 3:] = torch.nan
    assert float(chosen_factors(x, 4, PARTS).loadings.norm()) < 0.2 * float(factor_analysis(x, 4).loadings.norm())
