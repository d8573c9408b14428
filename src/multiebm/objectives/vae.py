"""Every bound of a multimodal VAE as choices of one loss: draw from components, decode, reduce, penalise.

    l_ck = sum_n lambda_n log p(x_n | z_ck, w_n) + beta [ log p(z_ck) - log q*(z_ck) + private terms ]

for component c of the posterior (a subset of the parts) and importance sample k. Sources: MVAE arXiv 1802.05335, MMVAE
1911.03393, mmJSD 2006.08242, MoPoE 2105.02470; DReG is Tucker et al. 2019, arXiv 1810.04152.
"""

from math import log
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from multiebm.core.batch import Batch
from multiebm.core.random import Randomness
from multiebm.distributions.mixture import Diagonal
from multiebm.models.generator import Generator
from multiebm.models.inference import SHARED, Latents, Posterior
from multiebm.objectives.penalties import PENALTIES
from multiebm.objectives.settings import BoundSettings
from multiebm.priors.prior import Density
from multiebm.priors.standard import StandardPrior


class Draw(NamedTuple):
    """Latents {key: [N, C, B, .]} of N samples of C components; of each, what its component has `seen` [C, B, M].

    `log_ratio` [N, C, B]: log p(z) - log q*(z) plus the private terms, nats; `log_weight` [C, B] of the components;
    `sampled`: z and the inferred w_n [N, C, B, .] themselves, through which gradients reach the encoders.
    """

    latents: Latents
    sampled: Latents
    log_ratio: Tensor
    log_weight: Tensor
    seen: Tensor


def draw(
    model: Generator, prior: Density, posterior: Posterior, batch: Batch, rng: Randomness, s: BoundSettings
) -> Draw:
    """Draw z from every component, or from one an item, and the private latents with which each part is decoded.

    A part that the component has seen is decoded with its own w_n ~ q(w_n | x_n); any other with w_n ~ r_n, so that
    shared content has to pass through z (MMVAE+, Palumbo et al. 2023), unless `unseen` says otherwise. Shapes: see
    `Draw`.
    """
    q, chosen = posterior.shared, torch.empty(0)
    if s.components == "one":
        own, chosen = posterior.sample(rng)
        z = own[SHARED][None, None]
        seen = (q.members[chosen] & batch.present)[None]
        # value 1, and the gradient of the weight that the component was drawn with
        picked = q.log_weight.gather(0, chosen[None])
        log_weight = picked - picked.detach()
        own = {name: w[None, None] for name, w in own.items() if name != SHARED}
    else:
        z = q.rsample_all(rng, s.samples)
        seen = q.members[:, None] & batch.present
        log_weight = q.log_weight
        shape = (*z.shape[:3], -1)
        own = {name: p.family.rsample(rng, p.loc.expand(*shape), p.scale) for name, p in posterior.private.items()}
    fixed = s.estimator == "dreg"
    under = q.detach() if fixed else q
    if s.divergence == "analytic":
        log_ratio = torch.zeros_like(z[..., 0])
    elif s.divergence == "mixture":
        log_ratio = prior.log_prob(z) - under.log_prob(z)
    else:
        one = s.components == "one"
        origin = under.component(chosen) if one else Diagonal(under.loc, under.scale, under.family)
        log_ratio = prior.log_prob(z) - origin.log_prob(z)
    auxiliary = model.sample_auxiliary(z.shape[:3].numel(), rng) if s.unseen == "auxiliary" and own else {}
    latents = {SHARED: z}
    for i, (name, w) in enumerate(own.items()):
        density = posterior.private[name].detach() if fixed else posterior.private[name]
        mine = batch.present[:, i].expand_as(seen[..., i]) if s.unseen == "inferred" else seen[..., i]
        other = auxiliary[name].view_as(w) if auxiliary else w
        latents[name] = torch.where(mine[..., None], w, other)
        log_ratio = log_ratio + torch.where(mine, model.private_base.log_prob(w) - density.log_prob(w), 0.0)
    return Draw(latents, {SHARED: z, **own}, log_ratio, log_weight, seen)


def log_likelihoods(model: Generator, drawn: Draw, batch: Batch, s: BoundSettings) -> Tensor:
    """Return lambda_n log p(x_n | z, w_n) [N, C, B, M] in nats, 0 where absent or not asked for.

    With several importance samples each is decoded in a checkpoint of its own: memory as for one, time of one more
    forward pass.
    """
    c, b = drawn.log_ratio.shape[1:]
    wanted = drawn.seen if s.unseen == "skipped" else batch.present.expand(c, -1, -1)

    def of_sample(*values: Tensor) -> Tensor:
        latents = {key: value.flatten(0, 1) for key, value in zip(drawn.latents, values, strict=True)}  # [C B, .]
        return model.log_likelihood_where(batch.views, latents, wanted.flatten(0, 1)).view(c, b, len(batch.views))

    values = list(drawn.latents.values())
    if len(values[0]) == 1:
        return of_sample(*(value[0] for value in values))[None]
    return torch.stack([checkpoint(of_sample, *each, use_reentrant=False) for each in zip(*values, strict=True)])


def bound_loss(
    log_px: Tensor, drawn: Draw, prior: Density, posterior: Posterior, present: Tensor, s: BoundSettings, beta: float
) -> Tensor:
    """Return minus the bound, mean over the batch, in nats per item; `log_px` [N, C, B, M] of `log_likelihoods`.

    An item of which nothing is present adds 0 and no gradient: its posterior is the prior, whatever that has learned.
    """
    terms = PENALTIES[s.penalty](posterior, present, s.alpha)
    log_l = terms.reconstruction * log_px.sum(-1) + beta * terms.divergence * drawn.log_ratio  # [N, C, B]
    weight = drawn.log_weight.exp()
    if s.components == "sum":
        weight = weight * (posterior.shared.log_weight > -torch.inf).sum(0)
    if s.estimator == "iwae_inside":
        return _mean_loss((log_l + drawn.log_weight).flatten(0, 1).logsumexp(0) - log(len(log_l)), present)
    if s.estimator == "elbo":
        each = log_l.mean(0)
    elif s.estimator == "iwae":
        each = log_l.logsumexp(0) - log(len(log_l))
    else:
        share, value = log_l.detach().softmax(0), log_l.detach().logsumexp(0) - log(len(log_l))
        # beta of the score term, whose mean is that of the path times share (1 - share), is put on the path instead
        path = 1 - beta * terms.divergence * (1 - share)
        for sample in drawn.sampled.values() if s.estimator == "dreg" else ():
            if sample.requires_grad:
                sample.register_hook(lambda gradient: gradient * path[..., None])
        surrogate = (share * log_l).sum(0)
        each = value + surrogate - surrogate.detach()  # the value of iwae with the gradient of dreg
    bound = (weight * each).sum(0)
    if s.divergence == "analytic":
        assert isinstance(prior, StandardPrior)
        q = posterior.shared
        shares = q.log_weight.exp() * ((q.log_weight > -torch.inf).sum(0) if s.components == "sum" else 1)
        bound = bound - beta * terms.divergence * (shares * prior.kl(q.loc, q.scale)).sum(0)
    return _mean_loss(bound - beta * terms.scaled - terms.plain, present)


def _mean_loss(bound: Tensor, present: Tensor) -> Tensor:
    return -torch.where(present.any(1), bound, 0.0).mean()


def vae_loss(
    model: Generator,
    prior: Density,
    posterior: Posterior,
    batch: Batch,
    rng: Randomness,
    s: BoundSettings,
    beta: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return the loss (shape [], nats per item) and the log-likelihoods [N, C, B, M] it is made of."""
    drawn = draw(model, prior, posterior, batch, rng, s)
    log_px = log_likelihoods(model, drawn, batch, s)
    return bound_loss(log_px, drawn, prior, posterior, batch.present, s, beta), log_px
