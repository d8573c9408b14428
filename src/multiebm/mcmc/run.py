"""What a kernel is, and the chain that runs one for T steps.

`init(position) -> State` evaluates the log density once; `step(rng, state) -> (State, Info)` moves every item of
the batch by one step. `last` is the same step where no other follows: it may leave out the new gradient. A position is
a tree of float32 tensors with a leading batch dimension. The log density maps a position to [B]; items are independent
chains because its sum is differentiated. What a kernel returns has no graph.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from multiebm.core.random import Randomness
from multiebm.core.tree import Tree, item_square_norm, leaves, plain, rebuild, tree_map

LogDensity = Callable[[Any], Tensor]  # of a position: a tensor or a dict of tensors, as the caller started with
Position = TypeVar("Position", bound=Tree)


class State(NamedTuple):
    """What the next step needs: position, its log density [B] and gradient (tree of [B, ...])."""

    position: Tree
    logdensity: Tensor
    grad: Tree


class Info(NamedTuple):
    """What a human needs, each [B]: Euclidean norm of the gradient and of the move, and the acceptance probability
    (1 for kernels that accept everything, unless they diagnose their moves).
    """

    grad_norm: Tensor
    move_norm: Tensor
    acceptance: Tensor


Step = Callable[[Randomness, State], tuple[State, Info]]


class Kernel(NamedTuple):
    """Pure functions: `init`, `step`, and `last`, the step that ends a chain."""

    init: Callable[[Tree], State]
    step: Step
    last: Step


class ChainInfo(NamedTuple):
    """`logdensity` [T+1, B] before, along and after the chain; `grad_norm`, `acceptance` [T, B]; `displacement` [B]:
    Euclidean distance between end and start; `positions`: the T+1 positions if recorded, else None; `start`: the first.
    """

    logdensity: Tensor
    grad_norm: Tensor
    acceptance: Tensor
    displacement: Tensor
    positions: list | None
    start: Any


def evaluate(logdensity: LogDensity, position: Tree) -> State:
    """Return the detached state at `position` (leaves [B, ...]): log density [B] and its gradient, as the position."""
    with torch.inference_mode(False), torch.enable_grad():
        parts = [plain(leaf.detach()).float().requires_grad_() for leaf in leaves(position)]
        value = logdensity(rebuild(position, parts))
        grads = torch.autograd.grad(value.sum(), parts, allow_unused=True)  # of the sum: items are independent
    full = [torch.zeros_like(part) if grad is None else grad for grad, part in zip(grads, parts, strict=True)]
    return State(rebuild(position, [part.detach() for part in parts]), value.detach(), rebuild(position, full))


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
    nothing = values[0].new_zeros((0, *values[0].shape))  # [0, B]
    return cast(Position, state.position), ChainInfo(
        torch.stack(values),
        torch.stack([i.grad_norm for i in infos]) if infos else nothing,
        torch.stack([i.acceptance for i in infos]) if infos else nothing,
        item_square_norm(tree_map(torch.sub, state.position, start)).sqrt(),
        positions if record else None,
        start,
    )
