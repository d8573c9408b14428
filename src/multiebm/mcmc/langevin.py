"""Unadjusted Langevin dynamics, and its two relatives: fixed displacement, and Metropolis-adjusted."""

from collections.abc import Callable

import torch
from torch import Tensor

from multiebm.core.random import Randomness, rand
from multiebm.core.tree import Tree, item_size, item_square_norm, per_item, randn_tree, tree_map
from multiebm.mcmc.base import Info, Kernel, LogDensity, State, evaluate, evaluate_end

# A gradient of exactly zero has no direction; the item then moves by noise alone.
_SMALLEST_NORM = 1e-12


Move = Callable[[Randomness, State], tuple[Tree, Info]]


def _info(state: State, moved: Tree, grad_norm: Tensor, acceptance: Tensor) -> Info:
    move = tree_map(torch.sub, moved, state.position)
    return Info(grad_norm, item_square_norm(move).sqrt(), acceptance)


def _unadjusted(logdensity: LogDensity, move: Move, proposed: float = 0.0) -> Kernel:
    """Return the kernel that accepts every move; its last step needs no gradient at the end, a backward pass saved.

    Moves that are Langevin proposals of step size `proposed` also say how likely a Metropolis test would accept them.
    """

    def init(position: Tree) -> State:
        return evaluate(logdensity, position)

    def step(rng: Randomness, state: State) -> tuple[State, Info]:
        moved, info = move(rng, state)
        new = evaluate(logdensity, moved)
        return new, info._replace(acceptance=_acceptance(state, new, proposed)) if proposed else info

    def last(rng: Randomness, state: State) -> tuple[State, Info]:
        moved, info = move(rng, state)
        return evaluate_end(logdensity, moved), info

    return Kernel(init, step, last)


def _acceptance(old: State, new: State, step_size: float) -> Tensor:
    """Return the Metropolis-Hastings acceptance probability [B] of the Langevin proposal old -> new."""

    def transition(a: State, b: State) -> Tensor:
        gap = tree_map(lambda v, u, g: v - u - 0.5 * step_size**2 * g, b.position, a.position, a.grad)
        return -item_square_norm(gap) / (2 * step_size**2)

    log_ratio = new.logdensity - old.logdensity + transition(new, old) - transition(old, new)
    return log_ratio.clamp(max=0).exp().nan_to_num(0.0)


def langevin(
    logdensity: LogDensity, step_size: float, noise_scale: float | None = None, diagnose: bool = False
) -> Kernel:
    """u' = u + s^2/2 grad log p(u) + n eps, with s = `step_size`, n = `noise_scale` (n = s unless given).

    Unadjusted: on N(0, v) with n = s the stationary variance is v / (1 - s^2 / 4v). With n != s the stationary density
    is p^(1/T), T = (n/s)^2, up to the same bias. Positions [B, ...], chains independent. Eqs. (3) and (8) of
    arXiv 2605.00644; Neal (2011), arXiv 1206.1901.
    `diagnose` (n = s): `Info.acceptance` is what a Metropolis test would say of each move but the last, which stays 1.
    """
    noise = step_size if noise_scale is None else noise_scale

    def move(rng: Randomness, state: State) -> tuple[Tree, Info]:
        eps = randn_tree(rng, state.position)
        moved = tree_map(lambda u, g, e: u + 0.5 * step_size**2 * g + noise * e, state.position, state.grad, eps)
        grad_norm = item_square_norm(state.grad).sqrt()
        return moved, _info(state, moved, grad_norm, torch.ones_like(state.logdensity))

    return _unadjusted(logdensity, move, step_size if diagnose and noise == step_size else 0.0)


def displaced_langevin(logdensity: LogDensity, displacement: float | Tensor, noise_scale: float) -> Kernel:
    """u' = u + d sqrt(D) g/|g| + n eps: every item moves by root-mean-square length d = `displacement` per coordinate.

    Positions [B, ...]; `displacement` is a number, or one per item [B] (a chain with coordinates held fixed has fewer
    to move). In eq. (3) of arXiv 2605.00644, d sqrt(D) stands where s^2/2 |g| was.

    The length of the move does not depend on the scale of the energy, so the energy cannot buy longer moves by growing;
    who sets d decides how far a chain goes (training steers it by the sign of the energy gap).
    """

    def move(rng: Randomness, state: State) -> tuple[Tree, Info]:
        length = displacement * item_size(state.position) ** 0.5
        grad_norm = item_square_norm(state.grad).sqrt()
        factor = length / grad_norm.clamp_min(_SMALLEST_NORM)
        eps = randn_tree(rng, state.position)
        moved = tree_map(lambda u, g, e: u + per_item(factor, u) * g + noise_scale * e, state.position, state.grad, eps)
        return moved, _info(state, moved, grad_norm, torch.ones_like(state.logdensity))

    return _unadjusted(logdensity, move)


def mala(logdensity: LogDensity, step_size: float) -> Kernel:
    """Langevin proposal with a Metropolis correction; its acceptance rate (aim: 0.5 to 0.9) judges a step size.

    log a = log p(u') - log p(u) + log N(u; u' + s^2/2 g', s^2) - log N(u'; u + s^2/2 g, s^2), [B] for positions
    [B, ...]. Roberts & Tweedie (1996), https://doi.org/10.2307/3318418.
    """

    def init(position: Tree) -> State:
        return evaluate(logdensity, position)

    def step(rng: Randomness, state: State) -> tuple[State, Info]:
        eps = randn_tree(rng, state.position)
        moved = tree_map(lambda u, g, e: u + 0.5 * step_size**2 * g + step_size * e, state.position, state.grad, eps)
        proposal = init(moved)
        acceptance = _acceptance(state, proposal, step_size)
        accept = rand(rng, (*acceptance.shape, 1), acceptance)[:, 0] < acceptance
        position = tree_map(lambda new, old: torch.where(per_item(accept, old), new, old), moved, state.position)
        grad = tree_map(lambda new, old: torch.where(per_item(accept, old), new, old), proposal.grad, state.grad)
        value = torch.where(accept, proposal.logdensity, state.logdensity)
        return State(position, value, grad), _info(state, position, item_square_norm(state.grad).sqrt(), acceptance)

    return Kernel(init, step, last=step)  # a rejection needs the gradient at the proposal anyway
