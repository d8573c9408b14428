"""The three losses of cooperative learning, given data, revised data and revised latents (all revised parts detached).

Sources: arXiv 2605.00644 eqs. (10)-(12); losses are means over the batch, to be minimised.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from multiebm.core.names import Views


class EnergyLoss(NamedTuple):
    """`total` to minimise; mean energies of data and of revised samples; `gap` = E(data) - E(revised)."""

    total: Tensor
    data: Tensor
    revised: Tensor
    gap: Tensor


def energy_loss(energy_data: Tensor, energy_revised: Tensor, penalty: float = 0.0, scale: float = 1.0) -> EnergyLoss:
    """L_theta = c_T (mean E(X) - mean E(X~)) + penalty * mean E^2 over both phases (eq. (10); log Z cancels exactly).

    Energies of shape [B], [B']; data energy goes down, revised up. The penalty bounds its scale; c_T is `scale`.
    """
    data, revised = energy_data.mean(), energy_revised.mean()
    square = energy_data.square().mean() + energy_revised.square().mean()
    gap = data - revised
    return EnergyLoss(scale * gap + penalty * square, data.detach(), revised.detach(), gap.detach())


def squared_residuals(views: Views, means: Views, present: Tensor) -> Tensor:
    """Return the summed squared residual of views [B, ...], mean over items that have it (`present` [B, M]): [M]."""
    per_item = torch.stack([(views[n] - mean).square().flatten(1).sum(1) for n, mean in means.items()], 1)
    weight = present.to(per_item.dtype)
    return torch.where(present, per_item, 0.0).sum(0) / weight.sum(0).clamp_min(1)


def balanced_weight(recon: float, synthetic: float, noise_floor: float) -> float:
    """Return lambda_s = clip(R_rec / (R_syn - noise floor), 1, 70): the scale-free weight of the synthetic term.

    `recon`, `synthetic`: running means of squared residuals; the floor D K_x n_x^2 is the chain's own noise.
    """
    return min(70.0, max(1.0, recon / max(synthetic - noise_floor, 1e-8)))


def inference_loss(log_q: Tensor, jensen_gap: Tensor, eta: float = 0.0) -> Tensor:
    """-log q(z, W | X) + eta (log q(z | X) - sum_k w_k log q_k(z | x_k)), batch mean (eq. (12); the mix is ours).

    `log_q`, shape [B], has the private terms, `jensen_gap`, shape [B], is the bracket, over the present experts.
    eta > 0 keeps an expert with small responsibility (`Mixture.responsibilities`) learning.
    """
    return -(log_q - eta * jensen_gap).mean()
