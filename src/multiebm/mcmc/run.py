"""Run a kernel for T steps and return where it ended and what happened on the way."""

from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from multiebm.core.random import Randomness
from multiebm.core.tree import Tree, item_square_norm, tree_map
from multiebm.mcmc.base import Kernel

Position = TypeVar("Position", bound=Tree)


class ChainInfo(NamedTuple):
    """`logdensity` [T+1, B] before, along and after the chain; `grad_norm`, `acceptance` [T, B]; `displacement` [B]:
    Euclidean distance between end and start; `positions`: the T+1 positions if recorded, else None.
    """

    logdensity: Tensor
    grad_norm: Tensor
    acceptance: Tensor
    displacement: Tensor
    positions: list | None


def run_chain(
    kernel: Kernel, position: Position, steps: int, rng: Randomness, record: bool = False
) -> tuple[Position, ChainInfo]:
    """Apply `steps` steps of `kernel` from `position` (leaves [B, ...]); 0 steps return the position itself."""
    state = kernel.init(position)
    start, values, infos, positions = state.position, [state.logdensity], [], [state.position]
    for step in [kernel.step] * (steps - 1) + [kernel.last] * (steps > 0):
        state, info = step(rng, state)
        values.append(state.logdensity)
        infos.append(info)
        if record:
            positions.append(state.position)
    nothing = values[0].new_zeros((0, *values[0].shape))
    return cast(Position, state.position), ChainInfo(
        torch.stack(values),
        torch.stack([i.grad_norm for i in infos]) if infos else nothing,
        torch.stack([i.acceptance for i in infos]) if infos else nothing,
        item_square_norm(tree_map(torch.sub, state.position, start)).sqrt(),
        positions if record else None,
    )
