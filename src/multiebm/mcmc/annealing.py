"""Annealed importance sampling (Neal 2001, https://doi.org/10.1023/A:1008923215028): normalisers of tilts."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from multiebm.core.progress import track
from multiebm.core.random import Randomness
from multiebm.mcmc.langevin import mala
from multiebm.mcmc.run import LogDensity, run_chain


class LogNormalizer(NamedTuple):
    """An estimate of log Z in nats, in expectation below it, and its standard error (delta method), at most 1.

    `effective`: the share of paths that would do as well if all weighed the same; near 0 neither number can be trusted.
    """

    value: float
    error: float
    effective: float = 1.0


def annealed_log_weights(
    log_base: LogDensity,
    tilt: Callable[[Tensor], Tensor],
    position: Tensor,
    stages: int,
    step_size: float,
    rng: Randomness,
) -> Tensor:
    """Return log importance weights [N] of paths from a normalised base to base * exp(tilt); mean weight = Z, exactly.

    `position` [N, D] are draws of the base. Stage k of `stages` adds tilt / stages to the log weight and, but for the
    last, makes a Metropolis-adjusted Langevin step of `step_size` that leaves base * exp(k / stages * tilt) as it is.
    """
    log_weight = torch.zeros(len(position), device=position.device, dtype=torch.float32)
    for stage in track(range(1, stages + 1), "log Z of the prior"):
        with torch.no_grad():
            log_weight += tilt(position).float() / stages

        def between(z: Tensor, share: float = stage / stages) -> Tensor:
            return log_base(z) + share * tilt(z)

        if stage < stages:
            position, _ = run_chain(mala(between, step_size), position, 1, rng)
    return log_weight


def log_normalizer_of(log_weight: Tensor) -> LogNormalizer:
    """Return log of the mean weight, its standard error and the effective share of paths, from log weights [N]."""
    n = len(log_weight)
    value = log_weight.logsumexp(0) - math.log(n)  # log of the mean weight
    share = (log_weight - value).exp()  # mean 1
    return LogNormalizer(value.item(), (share.var(correction=1) / n).sqrt().item(), 1 / share.square().mean().item())
