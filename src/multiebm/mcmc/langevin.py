"""Unadjusted Langevin dynamics, and its two relatives: fixed displacement, and Metropolis-adjusted."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from multiebm.core.random import Randomness, rand
from multiebm.core.tree import Tree, item_size, item_square_norm, per_item, randn_tree, tree_map
from multiebm.mcmc.run import Info, Kernel, LogDensity, State, evaluate

# A gradient of exactly zero has no direction; the item then moves by noise alone.
_SMALLEST_NORM = 1e-12

Drift = Callable[[Tree, Tensor], Tree]  # of a gradient (leaves [B, ...]) and its norm [B]


def _langevin_drift(step_size: float) -> Drift:
    return lambda grad, norm: tree_map(lambda g: 0.5 * step_size**2 * g, grad)


def _move(rng: Randomness, state: State, drift: Drift, noise: float) -> tuple[Tree, Info]:
    """Return u' = u + drift + noise eps, and what is known of the move."""
    norm, eps = item_square_norm(state.grad).sqrt(), randn_tree(rng, state.position)  # [B], leaves [B, ...]
    moved = tree_map(lambda u, d, e: u + d + noise * e, state.position, drift(state.grad, norm), eps)
    length = item_square_norm(tree_map(torch.sub, moved, state.position)).sqrt()
    return moved, Info(norm, length, torch.ones_like(state.logdensity))


def _unadjusted(logdensity: LogDensity, drift: Drift, noise: float, proposed: float = 0.0) -> Kernel:
    """Return the kernel that accepts every move; its last step needs no gradient at the end, a backward pass saved.

    Moves that are Langevin proposals of step size `proposed` also say how likely a Metropolis test would accept them
    for the density p^(1/T), T = (noise / proposed)^2.
    """

    def step(rng: Randomness, state: State) -> tuple[State, Info]:
        moved, info = _move(rng, state, drift, noise)
        new = evaluate(logdensity, moved)
        return new, info._replace(acceptance=_acceptance(state, new, proposed, noise)) if proposed else info

    def last(rng: Randomness, state: State) -> tuple[State, Info]:
        moved, info = _move(rng, state, drift, noise)
        with torch.no_grad():
            end = tree_map(lambda leaf: leaf.detach().float(), moved)
            gone = tree_map(lambda leaf: leaf.new_empty(0), end)  # a gradient that it is an error to use
            return State(end, logdensity(end), gone), info

    return Kernel(partial(evaluate, logdensity), step, last)


def _acceptance(old: State, new: State, step_size: float, noise: float) -> Tensor:
    """Return the Metropolis-Hastings acceptance probability [B] of the Langevin proposal old -> new for p^(1/T), with
    T = (n / s)^2 of `step_size` s and `noise` n.
    """

    def transition(a: State, b: State) -> Tensor:
        # log N(v; u + s^2/2 g, n^2) up to a constant
        gap = tree_map(lambda v, u, g: v - u - 0.5 * step_size**2 * g, b.position, a.position, a.grad)
        return -item_square_norm(gap) / (2 * noise**2)

    rise = (new.logdensity - old.logdensity) * (step_size / noise) ** 2
    log_ratio = rise + transition(new, old) - transition(old, new)
    return log_ratio.clamp(max=0).exp().nan_to_num(0.0)


def langevin(
    logdensity: LogDensity,
    step_size: float,
    noise_scale: float | None = None,
    diagnose: bool = False,
    tempered: bool = False,
) -> Kernel:
    """u' = u + s^2/2 grad log p(u) + n eps, with s = `step_size`, n = `noise_scale` (n = s unless given).

    Unadjusted: on N(0, v) with n = s the stationary variance is v / (1 - s^2 / 4v). With n != s the stationary density
    is p^(1/T), T = (n/s)^2, up to the same bias. Positions [B, ...], chains independent. Eqs. (3) and (8) of
    arXiv 2605.00644; Neal (2011), arXiv 1206.1901.
    `diagnose` (n = s): `Info.acceptance` is what a Metropolis test would say of each move but the last, which stays 1.
    `tempered`: the same for p^(1/T) at any n > 0.
    """
    noise = step_size if noise_scale is None else noise_scale
    proposed = step_size if (diagnose and noise == step_size) or (tempered and noise > 0) else 0.0
    return _unadjusted(logdensity, _langevin_drift(step_size), noise, proposed)


def displaced_langevin(logdensity: LogDensity, displacement: float | Tensor, noise_scale: float) -> Kernel:
    """u' = u + d sqrt(D) g/|g| + n eps: every item moves by root-mean-square length d = `displacement` per coordinate.

    Positions [B, ...]; `displacement` is a number, or one per item [B] (a chain with coordinates held fixed has fewer
    to move). In eq. (3) of arXiv 2605.00644, d sqrt(D) stands where s^2/2 |g| was. The length does not depend on the
    scale of the energy, which cannot buy longer moves by growing; training steers d by the sign of the energy gap.
    """

    def drift(grad: Tree, norm: Tensor) -> Tree:
        factor = displacement * item_size(grad) ** 0.5 / norm.clamp_min(_SMALLEST_NORM)
        return tree_map(lambda g: per_item(factor, g) * g, grad)

    return _unadjusted(logdensity, drift, noise_scale)


def mala(logdensity: LogDensity, step_size: float) -> Kernel:
    """Langevin proposal with a Metropolis correction; its acceptance rate (aim: 0.5 to 0.9) judges a step size.

    log a = log p(u') - log p(u) + log N(u; u' + s^2/2 g', s^2) - log N(u'; u + s^2/2 g, s^2), [B] for positions
    [B, ...]. Roberts & Tweedie (1996), https://doi.org/10.2307/3318418.
    """

    def step(rng: Randomness, state: State) -> tuple[State, Info]:
        moved, info = _move(rng, state, _langevin_drift(step_size), step_size)
        proposal = evaluate(logdensity, moved)
        acceptance = _acceptance(state, proposal, step_size, step_size)
        accept = rand(rng, (*acceptance.shape, 1), acceptance)[:, 0] < acceptance  # [B]

        def chosen(new: Tensor, old: Tensor) -> Tensor:
            return torch.where(per_item(accept, old), new, old)

        position, grad = tree_map(chosen, moved, state.position), tree_map(chosen, proposal.grad, state.grad)
        moved_by = item_square_norm(tree_map(torch.sub, position, state.position)).sqrt()
        value = torch.where(accept, proposal.logdensity, state.logdensity)
        return State(position, value, grad), info._replace(move_norm=moved_by, acceptance=acceptance)

    return Kernel(partial(evaluate, logdensity), step, last=step)  # a rejection needs the gradient there anyway
