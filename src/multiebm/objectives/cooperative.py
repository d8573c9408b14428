"""The three losses of cooperative learning (arXiv 2605.00644), to be minimised: means over the batch, in nats.

X~ are samples after the data chain and z~, W~ codes after the latent chain; both are constants here.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from multiebm.core.names import Views


class EnergyLoss(NamedTuple):
    """`total` to minimise; mean energies of data and of refined samples; `gap` = E(data) - E(refined)."""

    total: Tensor
    data: Tensor
    refined: Tensor
    gap: Tensor


def energy_loss(energy_data: Tensor, energy_refined: Tensor, penalty: float = 0.0) -> EnergyLoss:
    """Eq. (10): data energy goes down, that of refined samples up; log Z cancels exactly.

        L_theta = mean E(X) - mean E(X~) + penalty (mean E(X)^2 + mean E(X~)^2)

    Energies of shape [B], [B']. The penalty, which is ours, bounds their scale.
    """
    data, refined = energy_data.mean(), energy_refined.mean()
    square = energy_data.square().mean() + energy_refined.square().mean()
    gap = data - refined
    return EnergyLoss(gap + penalty * square, data.detach(), refined.detach(), gap.detach())


def generator_loss(
    log_px: Tensor, present: Tensor, weight: float, log_px_synthetic: Tensor | None, lambda_s: float
) -> Tensor:
    """Eq. (11): the generator explains data by their refined codes, and refined samples by the codes they came from.

        L_omega = -weight mean log p(X | z~, W~) - lambda_s mean log p(X~ | z, W)

    `log_px` [N, M] of data, of which `present` [N, M] are there; `log_px_synthetic` [B, M], None without an energy.
    """
    loss = -weight * torch.where(present, log_px, 0.0).sum(1).mean()
    return loss if log_px_synthetic is None else loss - lambda_s * log_px_synthetic.sum(1).mean()


def inference_loss(log_q: Tensor, weight: float, log_q_synthetic: Tensor | None, lambda_i: float) -> Tensor:
    """Eq. (12): maximum likelihood of the inference model on given codes; its gradient weighs experts by eq. (12').

        L_phi = -weight mean log q(z~, W~ | X) - lambda_I mean log q(z, W | X~)

    `log_q` [N]; `log_q_synthetic` [B], None without an energy or with lambda_I 0.
    """
    loss = -weight * log_q.mean()
    return loss if log_q_synthetic is None else loss - lambda_i * log_q_synthetic.mean()


def squared_residuals(views: Views, means: Views, present: Tensor) -> Tensor:
    """Return the summed squared residual of views [B, ...], mean over items that have it (`present` [B, M]): [M].

    A cell that is missing, NaN, adds nothing.
    """
    squares = {n: (views[n] - mean).square().nan_to_num(nan=0.0) for n, mean in means.items()}
    per_item = torch.stack([square.flatten(1).sum(1) for square in squares.values()], 1)
    weight = present.to(per_item.dtype)
    return torch.where(present, per_item, 0.0).sum(0) / weight.sum(0).clamp_min(1)


def balanced_weight(recon: float, synthetic: float, noise_floor: float) -> float:
    """Return lambda_s = clip(R_rec / (R_syn - noise floor), 1, 70): the scale-free weight of the synthetic term.

    `recon`, `synthetic`: running means of squared residuals; the floor D K_x n_x^2 is the chain's own noise.
    """
    return min(70.0, max(1.0, recon / max(synthetic - noise_floor, 1e-8)))
