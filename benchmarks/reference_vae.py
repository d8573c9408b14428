"""The training step of a multimodal VAE as one writes it down from its paper: the yardstick of `vae_step.py`.

float32, NCHW, eager; every term of a bound has its own forward pass: MVAE encodes a part for the joint bound and again
for the bound of that part, mixtures decode one part of one component and one sample at a time; subsets, experts and
clusters come one after the other; densities are those of torch.distributions, Adam is torch's default one. Networks,
settings and draws are those of the library, so losses and gradients must be equal as well.

Sources: MVAE arXiv 1802.05335, MMVAE 1911.03393 with DReG 1810.04152, MoPoE 2105.02470, MVTCAE Hwang et al. 2021,
MMVAE+ Palumbo et al. 2023, CMVAE Palumbo et al. 2024. Not covered (ConfigError): see `check_covered`.
"""

from collections.abc import Callable
from itertools import combinations
from math import log
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Laplace, Normal, kl_divergence

from multiebm.core.batch import Batch
from multiebm.core.errors import ConfigError
from multiebm.core.names import Views
from multiebm.core.random import make_generator
from multiebm.experiments.load import differences, load_experiment
from multiebm.experiments.schema import Experiment, TrainingSection
from multiebm.models.model import MultimodalModel
from multiebm.priors.clusters import ClusterPrior
from multiebm.priors.standard import StandardPrior
from reference_step import plain_copy

# what may differ from the preset polymnist-ROW: sizes, and what does not enter the formulas
FREE = {"seed", "model.shared", "model.private", "model.prior.components", "model.likelihood.scale"}
FREE |= {"training.batch_size", "training.precision", "training.phases.bound.beta", "training.phases.bound.samples"}
FREE_SECTIONS = ("data.", "model.networks.")
SMALLEST_TAIL, EDGE = 1e-7, 1e-3  # of the library's draws: Laplace noise, and components over a batch


class ReferenceState(NamedTuple):
    """A plain model, its optimiser, the source of its draws, and what is bounded."""

    model: MultimodalModel
    optimiser: torch.optim.Optimizer
    generator: torch.Generator
    bound: "Bound"
    training: TrainingSection


def reference_state(experiment: Experiment, row: str, model: MultimodalModel) -> ReferenceState:
    """Return the state of `row` at its first step, on a plain copy of `model`."""
    check_covered(experiment, row)
    plain, o = plain_copy(model), experiment.training.optimiser
    groups = [
        {"params": plain.generator.parameters(), "lr": o.generator},
        {"params": plain.inference.parameters(), "lr": o.inference},
    ]
    optimiser = torch.optim.Adam(groups, betas=o.betas, weight_decay=o.weight_decay, amsgrad=o.amsgrad)
    return ReferenceState(plain, optimiser, make_generator(experiment.seed + 1), BOUNDS[row], experiment.training)


def check_covered(experiment: Experiment, row: str) -> None:
    """Raise ConfigError for rows and settings that this file does not write out."""
    if row not in BOUNDS:
        raise ConfigError(f"reference VAE: got row {row!r}, expected one of {', '.join(BOUNDS)}; time another row")
    changes = differences(load_experiment(f"polymnist-{row}"), experiment)
    problems = [
        f"reference VAE: {key}: got {got!r}, expected {expected!r} as in polymnist-{row}; leave it as it is"
        for key, expected, got in changes
        if key not in FREE and not key.startswith(FREE_SECTIONS)
    ]
    if experiment.training.phase("bound").samples > 1 and row != "mmvae":
        got = experiment.training.phase("bound").samples
        problems.append(f"reference VAE: training.phases.bound.samples: got {got} for {row}, expected 1; or time mmvae")
    if problems:
        raise ConfigError(problems)


def reference_step_of(state: ReferenceState, batch: Batch) -> dict[str, float]:
    """One step on complete items; its loss in nats per item."""
    if not batch.present.all():
        raise ConfigError("reference VAE: got a batch with parts missing, expected complete items")
    state.optimiser.zero_grad()
    loss = -state.bound(state.model, batch.views, state.generator, state.training).mean()
    loss.backward()
    state.optimiser.step()
    return {"loss/elbo": loss.item()}


def mvae(model: MultimodalModel, views: Views, generator: torch.Generator, training: TrainingSection) -> Tensor:
    """ELBO of all parts plus that of every single one; products with a prior expert, own parts reconstructed."""
    subsets = [list(views), *([name] for name in views)]
    noise = torch.randn(1, len(subsets), *latent_shape(model, views), generator=generator)[0]
    bound = torch.zeros(())
    for subset, drawn in zip(subsets, noise, strict=True):
        q = product([expert(model, views, name) for name in subset], prior_expert=True)
        z = q.loc + q.scale * drawn
        for name in subset:
            bound = bound + reconstruction(model, views, name, z)
        bound = bound - training.phase("bound").beta * kl_divergence(q, standard(q)).sum(1)
    return bound


def mopoe(model: MultimodalModel, views: Views, generator: torch.Generator, training: TrainingSection) -> Tensor:
    """One subset an item, all parts reconstructed; mean KL of all subsets, the full one with a prior expert."""
    experts = {name: expert(model, views, name) for name in views}
    every = [subset for size in range(1, len(views) + 1) for subset in combinations(views, size)]
    fused = [product([experts[name] for name in subset], prior_expert=len(subset) == len(views)) for subset in every]
    n, d = latent_shape(model, views)
    chosen = one_an_item(len(every), n, generator)
    noise = torch.randn(n, d, generator=generator)
    z = torch.zeros(n, d)
    for i, q in enumerate(fused):
        z = torch.where((chosen == i)[:, None], q.loc + q.scale * noise, z)
    bound = torch.zeros(())
    for name in views:
        bound = bound + reconstruction(model, views, name, z)
    for q in fused:
        bound = bound - training.phase("bound").beta * kl_divergence(q, standard(q)).sum(1) / len(fused)
    return bound


def mvtcae(model: MultimodalModel, views: Views, generator: torch.Generator, training: TrainingSection) -> Tensor:
    """(M - a) / M reconstruction - beta [(1 - a) KL(q || p) + a / M sum_m KL(q || q_m)], q the product of experts."""
    experts, m = [expert(model, views, name) for name in views], len(views)
    a, beta = training.phase("bound").alpha, training.phase("bound").beta
    n, d = latent_shape(model, views)
    one_an_item(1, n, generator)  # there is one to choose from; the library draws all the same
    q = product(experts, prior_expert=False)
    z = q.loc + q.scale * torch.randn(n, d, generator=generator)
    bound = -beta * (1 - a) * kl_divergence(q, standard(q)).sum(1)
    for name in views:
        bound = bound + (m - a) / m * reconstruction(model, views, name, z)
    for q_m in experts:
        bound = bound - beta * a / m * kl_divergence(q, q_m).sum(1)
    return bound


def mmvae(model: MultimodalModel, views: Views, generator: torch.Generator, training: TrainingSection) -> Tensor:
    """IWAE of K samples from every expert, with the gradients of DReG: weights held fixed, twice for samples."""
    experts = {name: expert(model, views, name, Laplace) for name in views}
    fixed = [Laplace(q.loc.detach(), q.scale.detach()) for q in experts.values()]
    k, beta = training.phase("bound").samples, training.phase("bound").beta
    noise = laplace_noise(generator, k, len(views), *latent_shape(model, views))
    bound = torch.zeros(())
    for m, q in enumerate(experts.values()):
        samples, log_weights = [], []
        for drawn in noise[:, m]:
            z = q.loc + q.scale * drawn
            log_w = beta * (log_prior(model.generator.prior, z) - mixture_log_prob(fixed, z))
            for name in views:
                log_w = log_w + reconstruction(model, views, name, z)
            samples.append(z)
            log_weights.append(log_w)
        fixed_weights = torch.stack(log_weights).detach()
        bound = bound + (fixed_weights.logsumexp(0) - log(k)) / len(views)
        for z, log_w, share in zip(samples, log_weights, fixed_weights.softmax(0), strict=True):
            factor = 1 - beta * (1 - share)
            z.register_hook(lambda gradient, factor=factor: factor[:, None] * gradient)
            bound = bound + share * (log_w - log_w.detach()) / len(views)  # 0, with the gradient
    return bound


def mmvaeplus(model: MultimodalModel, views: Views, generator: torch.Generator, training: TrainingSection) -> Tensor:
    """Shared and private latents: a part sees its own private one, any other part one of the auxiliary density."""
    g, m = model.generator, len(views)
    n, d = latent_shape(model, views)
    noise = laplace_noise(generator, 1, m, n, d)[0]
    own_noise = {name: laplace_noise(generator, 1, m, n, g.private)[0] for name in views}
    other_noise = {name: laplace_noise(generator, m * n, g.private).view(m, n, g.private) for name in views}
    shared, private = {}, {}
    for name, x in views.items():
        (loc, scale), (w_loc, w_scale) = model.inference.encoders[name](x)
        shared[name], private[name] = Laplace(loc, scale), Laplace(w_loc, w_scale)
    bound = torch.zeros(())
    for i, own in enumerate(views):
        z = shared[own].loc + shared[own].scale * noise[i]
        w_own = private[own].loc + private[own].scale * own_noise[own][i]
        for name in views:
            w = w_own if name == own else g.auxiliary_log_scale[name].exp() * other_noise[name][i]
            bound = bound + reconstruction(model, views, name, torch.cat([z, w], 1)) / m
        log_ratio = log_prior(g.prior, z) - mixture_log_prob(list(shared.values()), z)
        log_ratio = log_ratio + (standard(private[own]).log_prob(w_own) - private[own].log_prob(w_own)).sum(1)
        bound = bound + training.phase("bound").beta * log_ratio / m
    return bound


Bound = Callable[[MultimodalModel, Views, torch.Generator, TrainingSection], Tensor]  # [B], nats
BOUNDS: dict[str, Bound] = {
    "mmvaeplus": mmvaeplus,
    "cmvae": mmvaeplus,  # its prior is what differs
    "mvae": mvae,
    "mopoe": mopoe,
    "mvtcae": mvtcae,
    "mmvae": mmvae,
}


def latent_shape(model: MultimodalModel, views: Views) -> tuple[int, int]:
    """Items of the batch and size of the shared latent."""
    return len(next(iter(views.values()))), model.generator.prior.dim


def expert(model: MultimodalModel, views: Views, name: str, family: type[Distribution] = Normal) -> Distribution:
    """Encode one part: q(z | x) [B, D]."""
    (loc, scale), _ = model.inference.encoders[name](views[name])
    return family(loc, scale)


def reconstruction(model: MultimodalModel, views: Views, name: str, latent: Tensor) -> Tensor:
    """Decode one part from latents [B, .]: log p(x | z) [B]."""
    mean = model.generator.decoders[name](latent)
    return Laplace(mean, model.generator.likelihoods[name].scale).log_prob(views[name]).flatten(1).sum(1)


def product(experts: list[Normal], prior_expert: bool) -> Normal:
    """Precisions add; the prior expert has precision 1 at 0."""
    precision = torch.full_like(experts[0].loc, float(prior_expert))
    moment = torch.zeros_like(precision)
    for q in experts:
        precision = precision + 1 / q.scale**2
        moment = moment + q.loc / q.scale**2
    return Normal(moment / precision, 1 / precision.sqrt())


def standard(q: Distribution) -> Distribution:
    """Location 0, scale 1, of the family and shape of `q`."""
    return type(q)(torch.zeros_like(q.loc), torch.ones_like(q.scale))


def mixture_log_prob(experts: list[Laplace], z: Tensor) -> Tensor:
    """log 1/M sum_m q_m(z): [B]."""
    return torch.stack([q.log_prob(z).sum(1) for q in experts]).logsumexp(0) - log(len(experts))


def log_prior(prior: StandardPrior | ClusterPrior, z: Tensor) -> Tensor:
    """log p(z) [B]; of clusters as printed: sum_c q(c | z) [log pi_c + log p(z | c) - log q(c | z)]."""
    if isinstance(prior, StandardPrior):
        return Laplace(torch.zeros_like(z), prior.scale).log_prob(z).sum(1)
    log_pi = prior.logits.log_softmax(0)
    joint = []
    for weight, loc in zip(log_pi, prior.loc, strict=True):
        joint.append(weight + Laplace(loc, torch.ones_like(loc)).log_prob(z).sum(1))
    log_q = torch.stack(joint).log_softmax(0)
    total = torch.zeros(())
    for log_joint, log_c in zip(joint, log_q, strict=True):
        total = total + log_c.exp() * (log_joint - log_c)
    return total


def laplace_noise(generator: torch.Generator, *shape: int) -> Tensor:
    """Laplace noise at location 0 and scale 1, by inversion."""
    u = torch.rand(shape, generator=generator) - 0.5
    return -u.sign() * (1 - 2 * u.abs()).clamp_min(SMALLEST_TAIL).log()


def one_an_item(components: int, n: int, generator: torch.Generator) -> Tensor:
    """One of so many components for every item, equally often over the batch: int64 [n]."""
    order = torch.randperm(n, generator=generator)
    offset = torch.rand((), generator=generator).clamp(EDGE, 1 - EDGE)
    return ((order + offset) / n * components).long()
