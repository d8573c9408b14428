"""Every bound of a multimodal VAE as choices of one loss: draw from components, decode, join, penalise.

    l_ck = sum_n lambda_n log p(x_n | z_ck, w_n) + beta [ log p(z_ck) - log q*(z_ck) + private terms ]

for component c of the posterior (a subset of the parts) and importance sample k. Sources: MVAE arXiv 1802.05335, MMVAE
1911.03393, mmJSD 2006.08242, MoPoE 2105.02470; DReG is Tucker et al. 2019, arXiv 1810.04152.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from multiebm.core.batch import Batch
from multiebm.core.names import Views
from multiebm.core.random import Randomness
from multiebm.core.table import Table
from multiebm.distributions.gaussian import kl_to_standard
from multiebm.distributions.mixture import Diagonal
from multiebm.models.generator import Generator
from multiebm.models.inference import SHARED, Latents, Posterior
from multiebm.objectives.penalties import PENALTIES, Factor
from multiebm.priors.prior import Density
from multiebm.priors.standard import StandardPrior

TOGETHER = 2**21  # numbers that are decoded at a time at most, where several samples may be


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


def elbo(log_l: Tensor, drawn: Draw, weight: Tensor, divergence: Factor) -> Tensor:
    """Join by the mean over samples: log_l [N, C, B], `weight` of components [C, B] -> [B]."""
    return (weight * log_l.mean(0)).sum(0)


def iwae(log_l: Tensor, drawn: Draw, weight: Tensor, divergence: Factor) -> Tensor:
    """Join by the log of the mean over samples: log_l [N, C, B], `weight` of components [C, B] -> [B]."""
    return (weight * (log_l.logsumexp(0) - log(len(log_l)))).sum(0)


def iwae_inside(log_l: Tensor, drawn: Draw, weight: Tensor, divergence: Factor) -> Tensor:
    """Join by the log of the mean over samples and components: log_l [N, C, B] -> [B]."""
    return (log_l + drawn.log_weight).flatten(0, 1).logsumexp(0) - log(len(log_l))


def dreg_as_coded(log_l: Tensor, drawn: Draw, weight: Tensor, divergence: Factor) -> Tensor:
    """Join as `iwae` does, by shares that are constant: log_l [N, C, B], `weight` [C, B] -> [B]."""
    share, value = log_l.detach().softmax(0), log_l.detach().logsumexp(0) - log(len(log_l))
    surrogate = (share * log_l).sum(0)
    return (weight * (value + surrogate - surrogate.detach())).sum(0)


def dreg(log_l: Tensor, drawn: Draw, weight: Tensor, divergence: Factor) -> Tensor:
    """Join with the value of `iwae` and the doubly reparameterised gradient: log_l [N, C, B], `weight` [C, B] -> [B].

    `divergence` is the factor of the divergence in log_l.
    """
    # the factor of the score term, whose mean is that of the path times share (1 - share), is put on the path instead
    path = 1 - divergence * (1 - log_l.detach().softmax(0))
    for sample in drawn.sampled.values():
        if sample.requires_grad:
            sample.register_hook(lambda gradient: gradient * path[..., None])
    return dreg_as_coded(log_l, drawn, weight, divergence)


class Estimator(NamedTuple):
    """How importance samples become one bound; `fixed`: densities of the posterior get no gradient but by samples;
    `predicts`: of what a component has seen the mean over samples is taken first, so that what it has not is joined,
    as a whole or value by value.
    """

    join: Callable[[Tensor, Draw, Tensor, Factor], Tensor]
    fixed: bool = False
    predicts: Literal["not", "whole", "values"] = "not"


ESTIMATORS: Table[Estimator] = Table(
    "training.phases.bound.estimator",
    {
        "elbo": Estimator(elbo),
        "iwae": Estimator(iwae),
        "iwae_inside": Estimator(iwae_inside),
        "dreg": Estimator(dreg, fixed=True),
        "dreg_as_coded": Estimator(dreg_as_coded),
        # E_q[log p(x_seen | z)] - KL(q || p) + log E_q[p(x_unseen | z)]: log p(x) where q is exact, else no bound; the
        # last term is the likelihood of what a model fills in (Foong et al. 2020, arXiv 2007.01332)
        "predictive": Estimator(iwae, predicts="whole"),
        # the last term of each value alone, sum_d log E_q[p(x_d | z)]: few draws do where there are many values
        "predictive_values": Estimator(iwae, predicts="values"),
    },
)


@dataclass(frozen=True)
class BoundSettings:
    """What is bounded and how; by default the stratified ELBO of MMVAE+: one expert an item, mixture denominator."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    estimator: Annotated[
        str,
        ESTIMATORS,
        Field(
            description="how importance samples are joined; iwae_inside also joins components; dreg_as_coded: as in "
            "public code, whose stop and hook never act (the gradient of iwae); predictive: ELBO of what a component "
            "has seen, and log of the mean likelihood of what it has not; predictive_values: of each value of that"
        ),
    ] = "elbo"
    samples: Annotated[int, Field(ge=1, description="K, importance samples of a component")] = 1
    components: Annotated[
        Literal["one", "all", "sum"],
        Field(description="decode one component an item, stratified over the batch, or all; sum: all, added up (MVAE)"),
    ] = "one"
    divergence: Annotated[
        Literal["mixture", "component", "analytic"],
        Field(
            description="log p(z) - log q*(z) at the sample, q* the whole mixture or the sample's component; analytic: "
            "-KL of the component in closed form"
        ),
    ] = "mixture"
    unseen: Annotated[
        Literal["auxiliary", "inferred", "skipped"],
        Field(
            description="a part that the component has not seen is decoded with a private latent from r_n, with its "
            "own inferred one (factorised), or not at all"
        ),
    ] = "auxiliary"
    penalty: Annotated[str, PENALTIES, Field(description="what is subtracted beside the divergence")] = "none"
    alpha: Annotated[float, Field(ge=0, description="weight of the penalty")] = 0.0


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
        more = [_again(posterior, q.component(chosen), rng) for _ in range(s.samples - 1)]
        own = {key: torch.stack([value, *(each[key] for each in more)])[:, None] for key, value in own.items()}
        z = own.pop(SHARED)
        seen = (q.members_of(chosen) & batch.present)[None]
        # value 1, and the gradient of the weight that the component was drawn with
        picked = q.log_weight.gather(0, chosen[None])
        log_weight = picked - picked.detach()
    else:
        z = q.rsample_all(rng, s.samples)
        seen = q.members[:, None] & batch.present
        log_weight = q.log_weight
        shape = (*z.shape[:3], -1)
        own = {name: p.family.rsample(rng, p.loc.expand(*shape), p.scale) for name, p in posterior.private.items()}
    fixed = ESTIMATORS[s.estimator].fixed
    under = q.detach() if fixed else q
    if s.divergence == "analytic":
        log_ratio = torch.zeros_like(z[..., 0])
    elif s.divergence == "mixture":
        log_ratio = prior.log_prob(z) - under.log_prob(z)
    else:
        one = s.components == "one"
        origin = under.component(chosen) if one else Diagonal(under.loc, under.scale, under.family, under.root)
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


def _again(posterior: Posterior, component: Diagonal, rng: Randomness) -> Latents:
    """Draw once more from the component of each item: {key: [B, .]}."""
    return {SHARED: component.rsample(rng)} | {
        name: density.rsample(rng) for name, density in posterior.private.items()
    }


def log_likelihoods(model: Generator, drawn: Draw, batch: Batch, s: BoundSettings) -> Tensor:
    """Return lambda_n log p(x_n | z, w_n) [N, C, B, M] in nats, 0 where absent or not asked for."""
    return _decoded(model, drawn, [batch.views], batch.present, s)[0][0]


def _decoded(
    model: Generator, drawn: Draw, looks: Sequence[Views], present: Tensor, s: BoundSettings
) -> tuple[Tensor, ...]:
    """Return `log_likelihoods` of several looks at the items, decoded once: [L, N, C, B, M]; or of each part, where
    `s` joins values, that of each value [L, N, C, B, K].

    With several importance samples each is decoded in a checkpoint of its own: memory as for one, time of one more
    forward pass. Those of `predictive` are decoded together where they are small.
    """
    n, c, b = drawn.log_ratio.shape
    wanted = drawn.seen if s.unseen == "skipped" else present.expand(c, -1, -1)
    latents, predicts = drawn.latents, ESTIMATORS[s.estimator].predicts

    def decode(*values: Tensor) -> tuple[Tensor, ...]:  # [N', C, B, .] each
        copies = len(values[0])
        flat = {key: value.flatten(0, 2) for key, value in zip(latents, values, strict=True)}
        rows = wanted.expand(copies, *wanted.shape).flatten(0, 2)
        if predicts == "values":
            found = model.cells_where(looks, flat, rows)
        else:
            found = (model.log_likelihoods_where(looks, flat, rows),)
        return tuple(of.view(len(looks), copies, c, b, -1) for of in found)

    numbers = n * c * sum(view.numel() for view in looks[0].values())
    if n == 1 or (predicts != "not" and numbers <= TOGETHER):
        return decode(*latents.values())
    samples = zip(*(value.split(1) for value in latents.values()), strict=True)
    each = [checkpoint(decode, *sample, use_reentrant=False) for sample in samples]
    return tuple(torch.cat(of, 1) for of in zip(*each, strict=True))


class Told(NamedTuple):
    """Log-likelihoods, nats: of what components have `seen` [N, C, B], and of the `rest` [N or 1, C, B]."""

    seen: Tensor
    rest: Tensor


def bound_loss(
    log_px: Tensor,
    drawn: Draw,
    prior: Density,
    posterior: Posterior,
    present: Tensor,
    s: BoundSettings,
    beta: float,
    told: Told | None = None,
) -> Tensor:
    """Return minus the bound, mean over the batch, in nats per item; `log_px` [N, C, B, M] of `log_likelihoods`.

    `told`: its halves, of which an estimator that `predicts` averages the first before it joins. An item of which
    nothing is present adds 0 and no gradient: its posterior is the prior, whatever that has learned.
    """
    terms = PENALTIES[s.penalty](posterior, present, s.alpha)
    divergence = beta * terms.divergence
    log_l = terms.reconstruction * log_px.sum(-1) + divergence * drawn.log_ratio  # [N, C, B]
    if told is not None:
        seen = terms.reconstruction * told.seen + divergence * drawn.log_ratio
        log_l = seen.mean(0) + terms.reconstruction * told.rest
    count = (posterior.shared.log_weight > -torch.inf).sum(0) if s.components == "sum" else 1
    bound = ESTIMATORS[s.estimator].join(log_l, drawn, drawn.log_weight.exp() * count, divergence)
    if s.divergence == "analytic":
        assert isinstance(prior, StandardPrior)
        q = posterior.shared
        kl = prior.kl(q.loc, q.scale) if q.root is None else kl_to_standard(q.loc, q.root)  # [C, B]
        bound = bound - divergence * (q.log_weight.exp() * count * kl).sum(0)
    bound = bound - beta * terms.scaled - terms.plain
    return -torch.where(present.any(1), bound, 0.0).mean()


def vae_loss(
    model: Generator,
    prior: Density,
    posterior: Posterior,
    batch: Batch,
    rng: Randomness,
    s: BoundSettings,
    beta: float = 1.0,
    shown: Views | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the loss (shape [], nats per item) and the log-likelihoods [N, C, B, M] it is made of.

    `shown` [B, ...]: what the posterior is of, where that lacks cells of the batch.
    """
    drawn, predicts = draw(model, prior, posterior, batch, rng, s), ESTIMATORS[s.estimator].predicts
    if predicts == "not":
        log_px = log_likelihoods(model, drawn, batch, s)
        return bound_loss(log_px, drawn, prior, posterior, batch.present, s, beta), log_px
    of = _decoded(model, drawn, [batch.views, batch.views if shown is None else shown], batch.present, s)
    if predicts == "whole":
        log_px, of_shown = of[0]
        seen = torch.where(drawn.seen, of_shown, 0.0).sum(-1)
        told = Told(seen, log_px.sum(-1) - seen)
    else:
        log_px = torch.stack([values[0].sum(-1) for values in of], -1)
        told = _by_value(of, drawn.seen)
    return bound_loss(log_px, drawn, prior, posterior, batch.present, s, beta, told), log_px


def _by_value(of: Sequence[Tensor], seen: Tensor) -> Told:
    """Return both halves of parts' values [2, N, C, B, K], all and those shown; `seen` [C, B, M]: sum_d log mean_n."""
    total, rest = torch.zeros_like(of[0][0, ..., 0]), torch.zeros_like(of[0][0, :1, ..., 0])
    for part, (every, shown) in enumerate(of):
        shown = torch.where(seen[..., part, None], shown, 0.0)
        total = total + shown.sum(-1)
        left = every - shown  # 0, and so no news, of what was shown
        rest = rest + (left.logsumexp(0, keepdim=True) - log(len(left))).sum(-1)
    return Told(total, rest)
