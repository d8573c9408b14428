"""The contract of a kernel.

`init(position) -> State` evaluates the log density once; `step(rng, state) -> (State, Info)` moves every item of
the batch by one step. `last` is the same step where no other follows: it may leave out the new gradient. A position is
a tree of float32 tensors with a leading batch dimension. The log density maps a position to [B]; items are independent
chains because its sum is differentiated. What a kernel returns has no graph.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from multiebm.core.random import Randomness
from multiebm.core.tree import Tree, leaves, plain, rebuild

LogDensity = Callable[[Any], Tensor]  # of a position: a tensor or a dict of tensors, as the caller started with


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


def evaluate(logdensity: LogDensity, position: Tree) -> State:
    """Return the detached state at `position` (leaves [B, ...]): log density [B] and its gradient, as the position."""
    with torch.inference_mode(False), torch.enable_grad():
        parts = [plain(leaf.detach()).float().requires_grad_() for leaf in leaves(position)]
        tree = rebuild(position, parts)
        value = logdensity(tree)
        grads = torch.autograd.grad(value.sum(), parts, allow_unused=True)
    full = [torch.zeros_like(part) if grad is None else grad for grad, part in zip(grads, parts, strict=True)]
    return State(rebuild(position, [part.detach() for part in parts]), value.detach(), rebuild(position, full))


def evaluate_end(logdensity: LogDensity, position: Tree) -> State:
    """Return the state at `position` (leaves [B, ...]) with a gradient of leaves [0]: using it is an error."""
    with torch.no_grad():
        end = rebuild(position, [leaf.detach().float() for leaf in leaves(position)])
        return State(end, logdensity(end), rebuild(end, [leaf.new_empty(0) for leaf in leaves(end)]))
