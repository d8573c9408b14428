"""Chain positions are trees: a tensor, or a dict of tensors that share the leading batch dimension."""

from collections.abc import Callable

import torch
from torch import Tensor

from multiebm.core.random import ItemGenerators, Randomness, randn

Tree = Tensor | dict[str, Tensor]


def leaves(tree: Tree) -> list[Tensor]:
    """Return the tensors of a tree, [B, ...] each, in the order of its keys."""
    return [tree] if isinstance(tree, Tensor) else list(tree.values())


def rebuild(tree: Tree, parts: list[Tensor]) -> Tree:
    """Return a tree of the structure of `tree` holding `parts`."""
    return parts[0] if isinstance(tree, Tensor) else dict(zip(tree, parts, strict=True))


def tree_map(fn: Callable[..., Tensor], tree: Tree, *others: Tree) -> Tree:
    """Apply `fn` leaf by leaf to trees of the same structure, leaves [B, ...]."""
    return rebuild(tree, [fn(*parts) for parts in zip(*map(leaves, (tree, *others)), strict=True)])


def item_square_norm(tree: Tree) -> Tensor:
    """Return the squared Euclidean norm of each item over all leaves [B, ...]: [B]."""
    return torch.stack([leaf.square().flatten(1).sum(1) for leaf in leaves(tree)]).sum(0)


def item_dot(a: Tree, b: Tree) -> Tensor:
    """Return the inner product of each item over all leaves [B, ...]: [B]."""
    return torch.stack([(x * y).flatten(1).sum(1) for x, y in zip(leaves(a), leaves(b), strict=True)]).sum(0)


def item_size(tree: Tree) -> int:
    """Return the number of coordinates of one item over all leaves [B, ...]."""
    return sum(leaf[0].numel() for leaf in leaves(tree))


def per_item(values: Tensor, like: Tensor) -> Tensor:
    """Reshape [B] so that it broadcasts over `like` [B, ...]."""
    return values.reshape(-1, *[1] * (like.dim() - 1))


def randn_tree(generator: Randomness, tree: Tree) -> Tree:
    """Draw standard normals for the leaves [B, ...] of `tree`; per item in one draw, so one call per step and item."""
    parts = leaves(tree)
    if not isinstance(generator, ItemGenerators):
        return rebuild(tree, [randn(generator, part.shape, part) for part in parts])
    sizes = [part[0].numel() for part in parts]
    flat = randn(generator, (parts[0].shape[0], sum(sizes)), parts[0]).split(sizes, dim=1)
    return rebuild(tree, [noise.reshape(part.shape) for noise, part in zip(flat, parts, strict=True)])
