"""Counts: what is read, what is refused, densities and draws against SciPy, rates of an item's own total."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import scipy.stats
import torch

from multiebm.core.errors import ConfigError, DataError
from multiebm.core.handed import unpack
from multiebm.core.random import item_generators, make_generator
from multiebm.data import Rows, from_arrays
from multiebm.modalities import Counts, from_json, to_json
from multiebm.modalities.counts import LEAST_DISPERSION, LEAST_RATE, PACE, Counting
from small_models import make_batch, small_model

RATES = np.array([0.2, 3.0, 40.0])
VALUES = np.random.default_rng(0).poisson(RATES, (50, 3))
COUNTS = {"kind": "counts"}


def modality(values=VALUES, **declared):
    return from_arrays({"n": values}, {"n": COUNTS | declared}, test=Rows({"n": values})).modalities["n"]


def states(counts, m):
    """In float64, as exact as SciPy."""
    return (torch.from_numpy(np.log1p(counts)) - torch.tensor(m.loc).double()) / torch.tensor(m.scale).double()


def counting(m, family, dispersion=None):
    """With exact standardisation, and a dispersion that is set."""
    like = m.likelihood(family, 1.0, 2.0).double()
    like.loc, like.scale = torch.tensor(m.loc).double(), torch.tensor(m.scale).double()
    if dispersion is not None:
        like.log_dispersion.data = (torch.tensor(dispersion).double() - LEAST_DISPERSION).log() / PACE
    return like


def test_states_are_standardised_logarithms_and_raw_values_the_counts():
    m = modality()
    log = np.log1p(VALUES)
    np.testing.assert_allclose(m.loc, log.mean(0), rtol=1e-12)
    np.testing.assert_allclose(m.scale, log.std(0), rtol=1e-12)
    made = make_batch({"n": m}, {"n": VALUES}).views["n"]
    np.testing.assert_allclose(made, (log - log.mean(0)) / log.std(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(m.to_raw(made), VALUES, atol=1e-4)
    assert from_json(to_json(m)) == m
    assert m.describe() == "3 counts"
    assert modality(np.zeros((4, 1), int)).scale == (0.1,)


@pytest.mark.parametrize(
    "values",
    [
        VALUES.astype(np.float64),
        VALUES.astype(np.uint16),
        VALUES.tolist(),
        scipy.sparse.csr_matrix(VALUES),
        torch.from_numpy(VALUES).to_sparse(),
        pd.DataFrame(VALUES, columns=["a", "b", "c"]),
    ],
)
def test_dense_and_sparse_numbers_are_read_the_same(values):
    data = from_arrays({"n": values}, {"n": COUNTS}, test=Rows({"n": values}))
    assert np.array_equal(data.test.views["n"].numpy(), VALUES.astype(np.float32))
    batch = make_batch({"n": from_json(to_json(data.modalities["n"]))}, {"n": values})
    assert torch.equal(batch.views["n"], data.batch("test", torch.arange(50)).views["n"])


def test_what_is_no_count_is_refused_with_row_and_column():
    m = {"n": modality(pd.DataFrame(VALUES, columns=["a", "b", "c"]))}
    for value, message in (
        (-1, "got -1 in row 4, column {} .*expected whole numbers from 0 to 16,777,216; hand over counts as they were"),
        (1.5, "got 1.5 in row 4, column {} .*kind: vector"),
        (np.nan, "got nan in row 4, column {} .*declare missing: nan"),
        (np.inf, "got inf in row 4, column {} "),
        (2.0**25, "got 3.35544e.07 in row 4, column {} "),
    ):
        wrong = VALUES.astype(np.float64)
        wrong[4, 1] = value
        with pytest.raises(DataError, match=message.format(1)):
            modality(wrong)
        with pytest.raises(DataError, match=message.format("'b'")):
            make_batch(m, {"n": wrong})
    with pytest.raises(ConfigError, match="library: got 3, expected true"):
        modality(library=3)
    with pytest.raises(DataError, match="D at least 2, whose shares are learned"):
        modality(VALUES[:, :1], library=True)


@pytest.mark.parametrize("sparse", [scipy.sparse.csr_matrix, scipy.sparse.csc_array, scipy.sparse.coo_matrix])
def test_sparse_whole_numbers_are_inferred_and_others_are_not(sparse):
    assert Counts.infer(unpack(sparse(VALUES), "n")) is not None
    assert Counts.infer(unpack(sparse(VALUES * 0.5), "n")) is None
    assert Counts.infer(unpack(sparse(-VALUES), "n")) is None
    assert Counts.infer(unpack(VALUES, "n")) is None
    assert from_arrays({"n": sparse(VALUES)}).modalities["n"].kind == "counts"
    assert from_arrays({"n": VALUES}).modalities["n"].kind == "vector"


def test_poisson_is_scipys():
    m, rate = modality(), np.random.default_rng(1).uniform(0.1, 60, VALUES.shape)
    like = counting(m, "poisson")
    found = like.log_density(states(VALUES, m), states(rate, m))
    expected = scipy.stats.poisson(rate + LEAST_RATE).logpmf(VALUES).sum(1)
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    np.testing.assert_allclose(like.log_prob(states(VALUES, m), states(rate, m)), 2 * expected, rtol=1e-8)
    assert torch.autograd.gradcheck(
        lambda mean: like.log_density(states(VALUES, m), mean), states(rate, m).requires_grad_()
    )


@pytest.mark.parametrize("dispersion", [0.01, 0.5, 5.0])
def test_the_negative_binomial_is_scipys(dispersion):
    """Of n = 1 / dispersion and p = n / (n + rate): variance rate + dispersion rate^2."""
    m, rate = modality(), np.random.default_rng(1).uniform(0.1, 60, VALUES.shape)
    like, n = counting(m, "negative_binomial", [dispersion] * 3), 1 / dispersion
    mean = states(rate, m).requires_grad_()
    found = like.log_density(states(VALUES, m), mean)
    expected = scipy.stats.nbinom(n, n / (n + rate + LEAST_RATE)).logpmf(VALUES).sum(1)
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-7)
    assert torch.autograd.gradcheck(lambda mu, _: like.log_density(states(VALUES, m), mu), (mean, like.log_dispersion))


def test_with_hardly_any_dispersion_it_is_a_poisson():
    """Up to a ((x - rate)^2 - x) / 2, the first term in the dispersion a; the next are a rate = 0.6 % of it."""
    m, rate = modality(), np.random.default_rng(1).uniform(0.1, 60, VALUES.shape)
    poisson, nearly = [
        counting(m, *how).log_density(states(VALUES, m), states(rate, m))
        for how in (("poisson",), ("negative_binomial", [2 * LEAST_DISPERSION] * 3))
    ]
    expected = LEAST_DISPERSION * ((VALUES - rate) ** 2 - VALUES).sum(1)
    np.testing.assert_allclose((nearly - poisson).detach(), expected, rtol=0.02, atol=2e-3)


def test_in_float32_large_counts_keep_their_likelihood():
    m = modality()
    large = np.array([[0, 5000, 100_000]])
    exact = counting(m, "negative_binomial", [0.1] * 3).log_density(states(large, m), states(large * 1.1 + 1, m))
    like = Counting(m, True, 1.0)
    found = like.log_density(states(large, m).float(), states(large * 1.1 + 1, m).float())
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=0)


def test_of_an_items_own_total_the_mean_says_shares_alone():
    """Rates are total times shares, whatever total the decoder's mean has; given the total that is a multinomial."""
    m = modality(library=True)
    assert m.total == np.median(VALUES.sum(1))
    rate = np.random.default_rng(1).uniform(0.1, 60, VALUES.shape)
    own = rate * VALUES.sum(1, keepdims=True) / rate.sum(1, keepdims=True)
    like = counting(m, "poisson")
    found = like.log_density(states(VALUES, m), states(rate, m))
    np.testing.assert_allclose(found, scipy.stats.poisson(own + LEAST_RATE).logpmf(VALUES).sum(1), rtol=1e-7)
    torch.testing.assert_close(found, like.log_density(states(VALUES, m), states(7 * rate, m)), rtol=1e-6, atol=0)
    multinomial = scipy.stats.multinomial.logpmf(VALUES, VALUES.sum(1), rate / rate.sum(1, keepdims=True))
    of_total = scipy.stats.poisson.logpmf(VALUES.sum(1), VALUES.sum(1))
    np.testing.assert_allclose(found, multinomial + of_total, rtol=1e-6, atol=1e-5)
    nothing = like.log_density(states(np.zeros((1, 3)), m), states(rate[:1], m))
    assert abs(float(nothing)) < 1e-4  # of an item in which nothing was counted


def test_a_decoder_begins_at_the_rates_of_training_or_at_shares_of_the_median_total():
    m, shares = modality(), modality(library=True)
    zero = torch.zeros(1, 2)
    for part in (m, shares):
        decoder = part.decoder(2, part.networks())
        for parameter in decoder.parameters():
            torch.nn.init.zeros_(parameter)
        rates = part.to_raw(decoder(zero).detach())
        geometric = np.expm1(np.log1p(VALUES).mean(0))
        expected = geometric / geometric.sum() * shares.total if part.library else geometric
        np.testing.assert_allclose(rates[0], expected, rtol=1e-4)
    assert Counts("n", (2,), True, (0.0, 1.0), (1.0, 1.0), 5.0).decoder(2, m.networks())(zero).isfinite().all()


@pytest.mark.parametrize(("family", "dispersion"), [("poisson", 0.0), ("negative_binomial", 0.5)])
def test_draws_are_whole_and_have_mean_and_variance_of_the_likelihood(family, dispersion):
    """40,000 draws: four errors of each mean; of the variance 10 %."""
    m = modality()
    like = counting(m, family, [dispersion] * 3 if dispersion else None).float()
    mean = states(np.tile(RATES, (40_000, 1)), m).float()
    drawn = m.to_raw(like.sample(mean, make_generator(0))).numpy()
    np.testing.assert_allclose(drawn, drawn.round(), atol=1e-3)
    assert drawn.min() >= 0
    variance = RATES + dispersion * RATES**2
    assert (np.abs(drawn.mean(0) - RATES) < 4 * (variance / 40_000) ** 0.5).all()
    np.testing.assert_allclose(drawn.var(0), variance, rtol=0.1)
    together = like.sample(mean[:4], item_generators(0, 4))
    assert torch.equal(together[3:], like.sample(mean[:1], item_generators(0, 1, first=3)))


def test_the_dispersion_of_the_data_is_learned():
    """5,000 draws with dispersion 0.5: its estimate has an error of 3 %."""
    n = 2.0
    values = np.random.default_rng(0).negative_binomial(n, n / (n + RATES), (5000, 3))
    m = modality(values)
    like = m.likelihood("negative_binomial", 1.0, 1.0)
    x, mean = states(values, m).float(), states(np.tile(RATES, (5000, 1)), m).float()
    optimiser = torch.optim.Adam(like.parameters(), 0.01)
    for _ in range(150):
        optimiser.zero_grad()
        (-like.log_density(x, mean).mean()).backward()
        optimiser.step()
    torch.testing.assert_close(like.dispersion.detach()[1:], torch.full((2,), 0.5), rtol=0.12, atol=0)


def test_missing_cells_are_left_out_and_filled_and_of_a_total_all_are_there_or_none():
    gaps = VALUES.astype(np.float64)
    gaps[1, 2] = gaps[3] = np.nan
    m = modality(gaps, missing="nan")
    batch = make_batch({"n": m}, {"n": gaps})
    assert batch.present[:, 0].tolist() == [i != 3 for i in range(50)]
    assert batch.views["n"][1].isnan().tolist() == [False, False, True]
    like, mean = counting(m, "poisson"), states(RATES[None], m)
    found = like.log_density(batch.views["n"][1:2].double(), mean)
    expected = scipy.stats.poisson(RATES[:2] + LEAST_RATE).logpmf(VALUES[1, :2]).sum()
    assert float(found) == pytest.approx(expected, rel=1e-5)
    filled = small_model({"n": m}).impute({"n": gaps})["n"]
    there = ~torch.from_numpy(gaps).isnan()
    assert torch.equal(filled[there], torch.from_numpy(gaps)[there].float())
    assert (filled >= 0).all()
    with pytest.raises(DataError, match="a part is there whole or not at all"):
        modality(gaps, missing="nan", library=True)
    gaps[1] = np.nan
    assert not modality(gaps, missing="nan", library=True).lacks_cells


@pytest.mark.parametrize("library", [False, True])
def test_constant_columns_come_back_as_themselves_whatever_is_generated(library):
    values = np.c_[VALUES, np.zeros(50, int), np.full(50, 3), np.full(50, 1_000_003)]
    m = modality(values, library=library)
    assert m.same == (3, 4, 5)
    assert from_json(to_json(m)) == m
    some = torch.randn(7, 6, generator=make_generator(0))
    assert m.to_raw(some)[:, 3:].tolist() == [[0, 3, 1_000_003]] * 7
    model = small_model({"n": m})
    for drawn in (model.sample(5)["n"], model.sample(5, noise=True)["n"]):
        assert drawn[:, 3:].tolist() == [[0, 3, 1_000_003]] * 5
    with pytest.raises(ConfigError, match="same: got 6, expected places below 6"):
        Counts("n", (6,), loc=(0.0,) * 6, scale=(1.0,) * 6, same=(6,))


def test_draws_with_noise_are_whole_to_the_bit():
    drawn = small_model({"n": modality()}).sample(300, noise=True)["n"]
    assert bool((drawn == drawn.round()).all())
    assert modality().read(unpack(drawn.numpy(), "n"), np.ones(300, bool), "n").shape == (300, 3)
