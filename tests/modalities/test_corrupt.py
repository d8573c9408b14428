"""What a part looks like that no item has: each kind spoils its own, in ways known here by their values."""

import torch

from multiebm.core.random import make_generator
from multiebm.modalities import Picture, Vector
from multiebm.modalities.category import Category
from multiebm.modalities.counts import Counts

N = 600


def share(of: torch.Tensor) -> float:
    return float(of.float().mean())


def test_a_picture_is_one_colour_noise_or_its_own_pixels_in_another_order_a_third_each():
    picture = Picture("m", (2, 4, 4))
    state = torch.rand(N, 2, 4, 4, generator=make_generator(0)) * 2 - 1
    spoilt = picture.corrupt(state, make_generator(1)).flatten(2)
    one = (spoilt == spoilt[:, :, :1]).all(2).all(1)
    # pixels move whole: both channels of one place come from one place
    pairs = state.flatten(2).transpose(1, 2)  # [N, 16, 2]
    found = (spoilt.transpose(1, 2)[:, :, None] == pairs[:, None]).all(3)  # [N, 16, 16]
    shuffled = (found.sum(2) == 1).all(1) & (found.sum(1) == 1).all(1)
    assert not (one & shuffled).any()
    noise = ~one & ~shuffled
    assert all(abs(share(way) - 1 / 3) < 0.08 for way in (one, shuffled, noise))
    assert (spoilt[one][:, 0, 0] != spoilt[one][:, 1, 0]).all()  # a colour, not a grey
    assert abs(float(spoilt[noise].mean())) < 0.05
    assert abs(float(spoilt[noise].std()) - (1 / 3) ** 0.5) < 0.02  # uniform on [-1, 1]


def test_numbers_keep_to_the_range_of_their_columns_and_shuffled_ones_are_the_same_numbers():
    state = torch.randn(N, 3, generator=make_generator(0)) * torch.tensor([1.0, 1.0, 5.0]) + torch.tensor([0.0, 9, 0])
    spoilt = Vector("m", (3,)).corrupt(state, make_generator(1))
    shuffled = (spoilt.sort(1).values == state.sort(1).values).all(1)
    one = (spoilt == spoilt[:, :1]).all(1)
    noise = ~one & ~shuffled
    assert all(abs(share(way) - 1 / 3) < 0.08 for way in (one, shuffled, noise))
    assert ((spoilt[noise] >= state.amin(0)) & (spoilt[noise] <= state.amax(0))).all()
    assert float(spoilt[noise].std(0)[2] / spoilt[noise].std(0)[0]) > 3  # each column in its own range
    assert torch.equal(spoilt, Vector("m", (3,)).corrupt(state, make_generator(1)))


def test_missing_cells_stay_missing_and_their_values_do_not_count():
    state = torch.randn(N, 3, generator=make_generator(0))
    gone = torch.rand(N, 3, generator=make_generator(2)) < 0.3
    gone[:, 1] |= torch.arange(N) >= 0  # a column that nobody has
    spoilt = Vector("m", (3,), missing="nan").corrupt(state.masked_fill(gone, torch.nan), make_generator(1))
    assert torch.equal(spoilt.isnan(), gone)
    assert spoilt[~gone].abs().max() <= state[~gone].abs().max()


def test_counts_are_whole_and_not_below_zero():
    raw = torch.randint(0, 40, (N, 4), generator=make_generator(0)).float()
    counts = Counts("m", (4,), loc=(2.0,) * 4, scale=(0.7,) * 4)
    spoilt = counts.to_raw(counts.corrupt(counts.to_state(raw), make_generator(1)))
    torch.testing.assert_close(spoilt, spoilt.round(), atol=1e-3, rtol=0)
    assert 0 <= float(spoilt.min()) <= float(spoilt.max()) <= 40
    same = (spoilt.round().sort(1).values == raw.sort(1).values).all(1)
    assert abs(share(same) - 1 / 3) < 0.08


def test_a_category_becomes_any_class_and_a_missing_one_stays_missing():
    category = Category("m", (("a", "b"), ("x", "y", "z")), missing="nan")
    state = torch.tensor([[1.0, 0, 0, 1, 0]]).repeat(N, 1)
    state[: N // 2, 2:] = torch.nan
    spoilt = category.corrupt(state, make_generator(1))
    assert spoilt[: N // 2, 2:].isnan().all()
    assert not spoilt[:, :2].isnan().any()
    assert (spoilt[:, :2].sum(1) == 1).all()
    assert ((spoilt == 0) | (spoilt == 1) | spoilt.isnan()).all()
    assert abs(share(spoilt[:, 0] == 1) - 0.5) < 0.09
    assert all(abs(share(spoilt[N // 2 :, k] == 1) - 1 / 3) < 0.11 for k in (2, 3, 4))
