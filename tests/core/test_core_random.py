"""Randomness as an argument: batch generators and per-item generators."""

import pytest
import torch

from multiebm.core.errors import DataError
from multiebm.core.random import STREAM, ItemGenerators, item_generators, make_generator, rand, randn
from multiebm.core.tree import randn_tree

LIKE = torch.zeros(())


@pytest.mark.parametrize("draw", [randn, rand])
def test_an_item_draws_the_same_alone_and_in_any_batch(draw):
    batch = draw(item_generators(3, 5), (5, 4), LIKE)
    alone = draw(item_generators(3, 1, first=2), (1, 4), LIKE)
    assert torch.equal(batch[2:3], alone)


@pytest.mark.parametrize("draw", [randn, rand])
def test_items_and_seeds_give_different_draws(draw):
    batch = draw(item_generators(3, 5), (5, 4), LIKE)
    assert len({tuple(row.tolist()) for row in batch}) == 5
    assert not torch.equal(batch, draw(item_generators(4, 5), (5, 4), LIKE))


@pytest.mark.parametrize("generator", [lambda: make_generator(1), lambda: item_generators(1, 3)])
def test_the_same_seed_replays_the_same_sequence(generator):
    first, second = generator(), generator()
    for _ in range(3):
        assert torch.equal(randn(first, (3, 2), LIKE), randn(second, (3, 2), LIKE))
        assert torch.equal(rand(first, (3, 2), LIKE), rand(second, (3, 2), LIKE))


def test_a_draw_of_the_wrong_batch_size_is_refused_with_both_sizes():
    with pytest.raises(DataError, match=r"shape \(4, 2\), expected leading size 3"):
        randn(ItemGenerators([1, 2, 3]), (4, 2), LIKE)


def test_noise_of_a_tree_has_its_structure_and_one_draw_per_item():
    tree = {"a": torch.zeros(3, 2), "b": torch.zeros(3, 1, 2)}
    noise = randn_tree(item_generators(0, 3), tree)
    flat = randn(item_generators(0, 3), (3, 4), LIKE)
    assert {name: part.shape for name, part in noise.items()} == {"a": (3, 2), "b": (3, 1, 2)}
    assert torch.equal(torch.cat([noise["a"], noise["b"].flatten(1)], 1), flat)


def test_batch_noise_has_mean_0_and_variance_1():
    """N = 200,000 normals: sd of the mean is 1/sqrt(N), of the variance sqrt(2/N). 4 sigma: false alarm < 1e-4 each."""
    noise = randn_tree(make_generator(0), {"a": torch.zeros(20_000, 10)})["a"]
    n = noise.numel()
    assert abs(noise.mean()) < 4 / n**0.5
    assert abs(noise.var() - 1) < 4 * (2 / n) ** 0.5


def test_streams_of_neighbouring_seeds_share_no_item():
    """Generators are told apart by 32 bits of their seeds: a million items of each, beside those of the next."""

    def told_apart(seed: int, n: int, first: int = 0) -> set[int]:
        return {g.initial_seed() % 2**32 for g in item_generators(seed, n, first)._generators}

    some = 2000
    for seed in (0, 1, 7, 4000):
        streams = [told_apart(seed + k, some) for k in range(5)]
        assert len(set().union(*streams)) == 5 * some
        last = told_apart(seed, some, first=1_000_000 - some)  # still before the next begins
        assert not last & told_apart(seed + 1, some)
    starts = sorted(seed * STREAM % 2**32 for seed in range(4295))
    assert min(b - a for a, b in zip(starts, starts[1:], strict=False)) == STREAM > 1_000_000


def test_draws_for_many_copies_are_of_each_items_own_stream():
    many = randn(item_generators(3, 2).repeated(4), (8, 5), LIKE).view(4, 2, 5)
    for item in range(2):
        assert torch.equal(many[:, item], randn(item_generators(3, 1, item), (1, 20), LIKE).view(4, 5))
    with pytest.raises(DataError, match="expected leading size 8"):
        randn(item_generators(3, 2).repeated(4), (2, 5), LIKE)


def test_items_that_are_alike_share_the_draws_of_one_generator_as_if_each_had_it():
    shared, own = ItemGenerators([5], alike=3), ItemGenerators([5, 5, 5])
    assert len(shared) == 3
    for draw, shape in ((rand, (3, 1)), (randn, (3, 2, 4)), (rand, (3, 7))):
        assert torch.equal(draw(shared, shape, LIKE), draw(own, shape, LIKE))
    with pytest.raises(DataError, match="expected leading size 3"):
        rand(shared, (2, 1), LIKE)
