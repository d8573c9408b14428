"""Chain positions are trees: a tensor, or a dict of tensors that share the leading batch dimension."""

from collections.abc import Callable
from typing import TypeVar, cast

import torch
from torch import Tensor

from multiebm.core.progress import task
from multiebm.core.random import ItemGenerators, Randomness, randn

Tree = Tensor | dict[str, Tensor]
TreeT = TypeVar("TreeT", bound=Tree)


def leaves(tree: Tree) -> list[Tensor]:
    """Return the tensors of a tree, [B, ...] each, in the order of its keys."""
    return [tree] if isinstance(tree, Tensor) else list(tree.values())


def rebuild(tree: Tree, parts: list[Tensor]) -> Tree:
    """Return a tree of the structure of `tree` holding `parts`, [B, ...] each, in the order of its keys."""
    return parts[0] if isinstance(tree, Tensor) else dict(zip(tree, parts, strict=True))


def tree_map(fn: Callable[..., Tensor], tree: Tree, *others: Tree) -> Tree:
    """Apply `fn` leaf by leaf to trees of the same structure, leaves [B, ...]."""
    return rebuild(tree, [fn(*parts) for parts in zip(*map(leaves, (tree, *others)), strict=True)])


def item_square_norm(tree: Tree) -> Tensor:
    """Return the squared Euclidean norm of each item over all leaves [B, ...]: [B]."""
    return torch.stack([leaf.square().flatten(1).sum(1) for leaf in leaves(tree)]).sum(0)


def item_size(tree: Tree) -> int:
    """Return the number of coordinates of one item over all leaves [B, ...]."""
    return sum(leaf[0].numel() for leaf in leaves(tree))


def rows_present(present: Tensor) -> list[Tensor | None]:
    """Return the rows (int64) that are true in each column of `present` (bool [B, M]), None where all of them are."""
    counts = present.sum(0).tolist()  # the device is waited for once, and again only where there are gaps
    return [None if count == len(present) else present[:, i].nonzero()[:, 0] for i, count in enumerate(counts)]


def rows_of(x: Tensor, rows: Tensor | None) -> Tensor:
    """Return these rows of x [B, ...] (None: all), but the first where there are none: networks want one."""
    return x if rows is None else x[rows] if len(rows) else x[:1]


def spread(values: Tensor, rows: Tensor | None, n: int, fill: float = 0.0) -> Tensor:
    """Undo `rows_of`: put values of `rows` where they came from, [n, ...], with `fill` elsewhere."""
    if rows is None:
        return values
    return values.new_full((n, *values.shape[1:]), fill).index_copy(0, rows, values[: len(rows)])


def per_item(values: Tensor, like: Tensor) -> Tensor:
    """Reshape [B] so that it broadcasts over `like` [B, ...]."""
    return values.reshape(-1, *[1] * (like.dim() - 1))


def randn_tree(generator: Randomness, tree: Tree) -> Tree:
    """Draw standard normals for the leaves [B, ...] of `tree`; per item in one draw, so one call per step and item."""
    parts = leaves(tree)
    if not isinstance(generator, ItemGenerators):
        return rebuild(tree, [randn(generator, part.shape, part) for part in parts])
    sizes = [part[0].numel() for part in parts]
    flat = randn(generator, (parts[0].shape[0], sum(sizes)), parts[0]).split(sizes, dim=1)  # [B, size] each
    return rebuild(tree, [noise.reshape(part.shape) for noise, part in zip(flat, parts, strict=True)])


def plain(x: Tensor) -> Tensor:
    """Return `x` [...], or its copy if it was made in inference mode, beside which nothing can be differentiated."""
    if not x.is_inference():
        return x
    with torch.inference_mode(False):
        return x.clone()


def in_chunks(compute: Callable[[int, int], TreeT], n: int, rows: int) -> TreeT:
    """Return what `compute(first, rows)` gives for n items, leaves [n, ...], in chunks of `rows`.

    Up to `rows` items are one chunk. Beyond, every chunk has that size and the surplus of the last is thrown away, so
    that an item comes out the same to the bit however many there are. Chunks are shown as a task.
    """
    if n <= rows:
        return compute(0, n)
    made: Tree | None = None
    with task("items", n) as advance:
        for first in range(0, n, rows):
            part = compute(first, rows)
            if made is None:
                made = tree_map(lambda x: x.new_empty((n, *x.shape[1:])), part)
            for whole, some in zip(leaves(made), leaves(part), strict=True):
                whole[first : first + rows] = some[: n - first]
            advance(min(rows, n - first))
    return cast(TreeT, made)


def rows_where(chosen: Tensor, views: dict[str, Tensor], others: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the items of `views` [B, ...] where `chosen` (bool [B]), and those of `others` elsewhere."""
    return {name: torch.where(per_item(chosen, view), view, others[name]) for name, view in views.items()}
