"""Trees: a tensor, or a dict of tensors, with the same arithmetic for both."""

import torch

from multiebm.core.random import make_generator
from multiebm.core.tree import item_size, item_square_norm, leaves, per_item, tree_map


def trees():
    g = make_generator(0)
    flat = torch.randn(4, 6, generator=g, dtype=torch.float64)
    return flat, {"a": flat[:, :2], "b": flat[:, 2:].reshape(4, 2, 2)}


def test_norm_and_size_of_a_tree_are_those_of_its_concatenation():
    flat, tree = trees()
    torch.testing.assert_close(item_square_norm(tree), flat.square().sum(1), rtol=1e-14, atol=0)
    assert item_size(tree) == item_size(flat) == 6


def test_map_keeps_the_structure_and_pairs_leaves_by_position():
    flat, tree = trees()
    total = tree_map(torch.add, tree, tree)
    assert list(total) == ["a", "b"]
    assert torch.equal(total["b"], 2 * tree["b"])
    assert torch.equal(tree_map(torch.add, flat, flat), 2 * flat)
    assert leaves(flat)[0] is flat


def test_per_item_values_broadcast_over_every_other_dimension():
    values, like = torch.tensor([1.0, 2.0]), torch.ones(2, 3, 4)
    assert torch.equal((per_item(values, like) * like)[1], torch.full((3, 4), 2.0))
