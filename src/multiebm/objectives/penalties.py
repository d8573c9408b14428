"""What a bound subtracts beside its divergence, a function and a row each."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from multiebm.core.table import Table
from multiebm.distributions.fusion import geometric
from multiebm.models.inference import Posterior

Factor = Tensor | float


class Terms(NamedTuple):
    """Factor of the reconstruction [B] and of the divergence; penalties [B] in nats, one of them `scaled` by beta."""

    reconstruction: Factor = 1.0
    divergence: Factor = 1.0
    scaled: Factor = 0.0
    plain: Factor = 0.0


def _to_experts(posterior: Posterior, present: Tensor) -> Tensor:
    """Return sum_m KL(q || q_m) over the present parts, q being the first component: [B]."""
    q, experts = posterior.shared, posterior.experts
    kl = q.family.kl(q.loc[:1], q.scale[:1], experts.loc, experts.scale).sum(-1)  # [M, B]
    return torch.where(present.T, kl, 0.0).sum(0)


def none(posterior: Posterior, present: Tensor, alpha: float) -> Terms:
    """Nothing; `present` [B, M]."""
    return Terms()


def total_correlation(posterior: Posterior, present: Tensor, alpha: float) -> Terms:
    """MVTCAE (Hwang et al. 2021): with n parts, [(n - alpha) / n] reconstruction - beta (1 - alpha) KL(q || p)
    - beta (alpha / n) sum_m KL(q || q_m); `present` [B, M]. The last term teaches each encoder to cover the joint one.
    """
    n = present.sum(1).clamp_min(1).float()
    return Terms((n - alpha) / n, torch.full_like(n, 1 - alpha), alpha / n * _to_experts(posterior, present))


def jensen_shannon(posterior: Posterior, present: Tensor, alpha: float) -> Terms:
    """mmJSD (Sutter et al. 2020, arXiv 2006.08242): sum_j pi_j KL(q_j || p_f), in place of the divergence.

    j runs over the present experts and the prior, pi_j = 1 / (n + 1); p_f is their geometric mean; `present` [B, M].
    """
    experts = posterior.experts
    loc = torch.cat([experts.loc, torch.zeros_like(experts.loc[:1])])
    scale = torch.cat([experts.scale, torch.ones_like(experts.scale[:1])])
    inside = torch.cat([present.T, torch.ones_like(present.T[:1])])[None]
    dynamic = geometric(loc, scale, inside)
    kl = experts.family.kl(loc, scale, *dynamic).sum(-1)  # [M + 1, B]
    return Terms(divergence=0.0, scaled=torch.where(inside[0], kl, 0.0).sum(0) / inside[0].sum(0))


def joint(posterior: Posterior, present: Tensor, alpha: float) -> Terms:
    """JMVAE (Suzuki et al. 2016, arXiv 1611.01891): alpha sum_m KL(q(z | X) || q_m(z | x_m)); `present` [B, M]."""
    return Terms(plain=alpha * _to_experts(posterior, present))


def entropy(posterior: Posterior, present: Tensor, alpha: float) -> Terms:
    """CoDE-VAE (Mancisidor et al. 2025): -alpha H(pi), which keeps learned weights near uniform; `present` [B, M]."""
    log_weight = posterior.shared.log_weight
    finite = torch.where(log_weight > -torch.inf, log_weight, 0.0)  # 0 log 0 = 0, with a gradient
    return Terms(plain=alpha * (log_weight.exp() * finite).sum(0))


Penalty = Callable[[Posterior, Tensor, float], Terms]
PENALTIES: Table[Penalty] = Table(
    "training.phases.bound.penalty",
    {
        "none": none,
        "jensen_shannon": jensen_shannon,
        "total_correlation": total_correlation,
        "joint": joint,
        "entropy": entropy,
    },
)
