"""The stratified evidence bound of MMVAE (Shi et al. 2019, arXiv 1911.03393) and MMVAE+ (Palumbo et al., ICLR 2023).

One expert per item; `r_n` for crossing is MMVAE+'s.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from multiebm.core.batch import Batch
from multiebm.core.random import Randomness
from multiebm.core.tree import per_item
from multiebm.distributions.priors import Prior
from multiebm.models.generator import Generator
from multiebm.models.inference import SHARED, Latents, Posterior


class CrossDraw(NamedTuple):
    """Latents to decode for one expert per item, and log [p(z) p(w_m) / q(z | X) q(w_m | x_m)] [B], one sample."""

    latents: Latents
    log_ratio: Tensor
    expert: Tensor


def cross_draw(model: Generator, prior: Prior, posterior: Posterior, batch: Batch, generator: Randomness) -> CrossDraw:
    """Draw z [B, D] and w_m [B, P] from one expert m per item; every other private latent from the auxiliary r_n.

    Cross-reconstruction never sees w_n inferred from x_n, so shared content has to pass through z. The denominator is
    the full mixture q(z | X). One stratified expert per item costs M decodes where all experts cost M^2.
    After MMVAE+ (Palumbo et al. 2023), which averages over all experts.
    """
    own, expert = posterior.sample(generator)
    log_ratio = prior.log_prob(own[SHARED]) - posterior.shared.log_prob(own[SHARED])
    latents = dict(own)
    auxiliary = model.sample_auxiliary(len(expert), generator)
    for i, (name, q) in enumerate(posterior.private.items()):
        mine = expert == i
        latents[name] = torch.where(per_item(mine, own[name]), own[name], auxiliary[name])
        private = model.private_base.log_prob(own[name]) - q.log_prob(own[name])
        log_ratio = log_ratio + torch.where(mine & batch.present[:, i], private, 0.0)
    return CrossDraw(latents, log_ratio, expert)


def elbo_loss(log_likelihood: Tensor, draw: CrossDraw, present: Tensor, beta: float) -> Tensor:
    """-E[sum_n log p(x_n | z, w_n) + beta log(p / q)], batch mean in nats; `log_likelihood`, `present` [B, M]."""
    reconstruction = torch.where(present, log_likelihood, 0.0).sum(1)
    return -(reconstruction + beta * draw.log_ratio).mean()
