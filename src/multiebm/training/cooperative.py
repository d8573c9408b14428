"""Where chains and losses meet: the warm-up step and the cooperative step (arXiv 2605.00644, eqs. (10) to (12)).

One cooperative step: draw z and revise G(z) by the energy; infer latents of the data and revise them by the generator;
then the generator and the inference model learn from both revisions, the prior from the codes, the energy from data
against revised samples. Every forward pass is made once and used wherever it is needed.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from multiebm.core.batch import Batch
from multiebm.core.names import Views
from multiebm.models.inference import SHARED, Latents, Posterior
from multiebm.models.model import MultimodalModel
from multiebm.nn.spectral import frozen
from multiebm.objectives.cooperative import (
    EnergyLoss,
    balanced_weight,
    energy_loss,
    inference_loss,
    squared_residuals,
)
from multiebm.objectives.settings import BoundSettings
from multiebm.objectives.vae import Draw, bound_loss, draw, vae_loss
from multiebm.priors.energy import EnergyPrior
from multiebm.priors.mixture import MixturePrior
from multiebm.priors.prior import Prior
from multiebm.priors.standard import StandardPrior
from multiebm.training.priors import follow_codes, observed, prior_step
from multiebm.training.revision import (
    RevisedCodes,
    RevisedSamples,
    complete_items,
    latent_chain_metrics,
    revise_codes,
    revise_samples,
)
from multiebm.training.settings import CooperativeSettings, WarmupSettings
from multiebm.training.state import TrainState, update

STRATIFIED = BoundSettings()  # the warm-up's bound, and the anchor's
RESIDUAL_DECAY = 0.99  # running means of the two residuals that lambda_s = balance compares


def warmup_step(
    state: TrainState, batch: Batch, settings: WarmupSettings, bound: BoundSettings = STRATIFIED
) -> dict[str, float]:
    """One step on a bound; an energy prior learns beside it from detached codes, one an item."""
    model, generator, prior = state.model, state.generator, state.model.generator.prior
    posterior = model.inference(batch)
    codes = follow_codes(state, posterior, batch, isinstance(prior, EnergyPrior))
    learns = isinstance(prior, EnergyPrior) and state.step >= settings.prior_after
    tilt = learns and 0 <= settings.tilt_after <= state.step  # before it learns it is a random function
    loss, log_px = bound_of_batch(model, posterior, batch, generator, bound, settings.beta, tilt)
    update(state, loss, "generator", "inference")
    metrics = {"loss/elbo": loss.item(), **_posterior_metrics(model, posterior, batch)}
    each = log_px.sum((0, 1)) / (log_px != 0).sum((0, 1)).clamp_min(1)  # of the components that decode the part
    metrics |= _per_modality(model, "log_likelihood", each, batch.present)
    if isinstance(prior, EnergyPrior) and learns:
        positive = observed(model, codes, batch, SHARED)
        metrics |= prior_step(state, prior, positive, prior.sample(len(positive), generator))
    return metrics


def bound_of_batch(
    model: MultimodalModel,
    posterior: Posterior,
    batch: Batch,
    generator: torch.Generator,
    bound: BoundSettings,
    beta: float,
    tilt: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return minus the bound (shape [], nats per item) and its log-likelihoods [N, C, B, M]."""
    with prior_of_bound(model, tilt) as prior:
        return vae_loss(model.generator, prior, posterior, batch, generator, bound, beta)


def cooperative_step(state: TrainState, batch: Batch, settings: CooperativeSettings) -> dict[str, float]:
    """One cooperative step; see the module docstring. Without an energy it is the latent chain's half alone."""
    model, generator = state.model, state.generator
    posterior = model.inference(batch)  # graph to phi, used for the chain's start, the anchor and L_phi
    samples, codes = None, None
    metrics: dict[str, float] = {}
    if model.energy is not None:
        samples, metrics = revise_samples(state, posterior, batch, settings)
    start = state.numbers.setdefault("cooperative_start", float(state.step))
    if state.step - start >= settings.energy_first:
        codes = revise_codes(state, posterior, batch, settings)
        if len(codes.item):  # of `all_experts` there are none where nobody has a part
            metrics |= _generator_inference_update(state, batch, posterior, codes, samples, settings)
    metrics |= _prior_update(state, posterior, batch, codes, samples, settings)
    if samples is None:
        return metrics
    revised = samples.revised
    if settings.negatives == "refresh" and codes is not None:
        revised, _ = model.refine_data(model.decode(samples.latents), generator)
    return metrics | energy_step(state, complete_items(state, posterior, batch, codes, settings), revised, settings)


def _prior_update(
    state: TrainState,
    posterior: Posterior,
    batch: Batch,
    codes: RevisedCodes | None,
    samples: RevisedSamples | None,
    settings: CooperativeSettings,
) -> dict[str, float]:
    """Move fitted mixtures; contrast a tilt's positive codes, revised or as the experts draw them, with its chain."""
    model, prior = state.model, state.model.generator.prior
    revised = settings.prior_positive == "revised" and codes is not None
    expert_codes = follow_codes(state, posterior, batch, isinstance(prior, EnergyPrior) and not revised)
    if not isinstance(prior, EnergyPrior):
        return {}
    if revised:
        assert codes is not None
        positive = codes.latents[SHARED][codes.batch.present.any(1)]
    else:
        positive = observed(model, expert_codes, batch, SHARED)
    if samples is not None and settings.start == "prior" and model.generator.temperature == 1:
        negative = samples.latents[SHARED]  # draws of the prior itself
    else:
        negative = prior.sample(len(batch.present), state.generator)
    return prior_step(state, prior, positive, negative)


def _generator_inference_update(
    state: TrainState,
    batch: Batch,
    posterior: Posterior,
    codes: RevisedCodes,
    samples: RevisedSamples | None,
    settings: CooperativeSettings,
) -> dict[str, float]:
    """L_omega (11), L_phi (12) and the anchor in one backward pass; their graphs share nothing but the anchor's."""
    model = state.model
    with prior_of_bound(model, settings.tilt_in_bound) as prior:
        anchored = settings.anchor > 0
        drawn = draw(model.generator, prior, posterior, batch, state.generator, STRATIFIED) if anchored else None
    own, crossed = _decode_codes(model, codes, drawn, batch.present, settings)
    log_px = model.generator.log_likelihood(codes.batch.views, own)
    generator_loss = -settings.reconstruction * torch.where(codes.batch.present, log_px, 0.0).sum(1).mean()
    metrics = {}
    if samples is not None:
        weight = _synthetic_weight(state, codes.batch, own, samples, settings)
        log_ps = model.generator.log_likelihood(samples.revised, samples.means)
        generator_loss = generator_loss - weight * log_ps.sum(1).mean()
        metrics["weight/synthetic"] = weight
    loss = generator_loss
    metrics["loss/generator"] = generator_loss.item()
    if settings.encoder_loss == "nll":
        phi_loss = _phi_loss(state, codes, samples, settings)
        loss = loss + phi_loss
        metrics["loss/inference"] = phi_loss.item()
    if (prior_loss := _prior_loss(model, codes, settings)) is not None:
        loss = loss + prior_loss
        metrics["loss/prior"] = prior_loss.item()
    if drawn is not None:
        log_crossed = torch.where(batch.present, model.generator.log_likelihood(batch.views, crossed), 0.0)
        anchor = bound_loss(log_crossed[None, None], drawn, prior, posterior, batch.present, STRATIFIED, settings.beta)
        loss = loss + settings.anchor * anchor
        metrics["loss/anchor"] = anchor.item()
    metrics |= update(state, loss, "generator", "inference")
    metrics |= _per_modality(model, "log_likelihood", log_px, codes.batch.present)
    metrics |= _posterior_metrics(model, posterior, batch) | latent_chain_metrics(model, codes)
    return metrics


def _prior_loss(model: MultimodalModel, codes: RevisedCodes, settings: CooperativeSettings) -> Tensor | None:
    """-log p(z~), mean over the items with a part: what eq. (11) says of learned scales and clusters.

    None where a prior has neither, or where the anchor's divergence teaches it. Of the prior's own draws the same term
    has no gradient in the mean, and is left out.
    """
    with prior_of_bound(model, tilt=False) as prior:
        if settings.anchor * settings.beta > 0 or isinstance(prior, StandardPrior) and prior.log_scale is None:
            return None
        there = codes.batch.present.any(1)
        return -torch.where(there, prior.log_prob(codes.latents[SHARED]), 0.0).sum() / there.sum().clamp_min(1)


def _decode_codes(
    model: MultimodalModel, codes: RevisedCodes, drawn: Draw | None, present: Tensor, settings: CooperativeSettings
) -> tuple[Views, Views]:
    """Return the means of revised codes and of the anchor's draw, those of present parts: one pass for both, unless one
    of them needs no gradient.
    """
    learn, revised, own = settings.reconstruction > 0, codes.latents, codes.batch.present
    if drawn is None:
        return (model.generator(revised, own) if learn else model.decode(revised, own)), {}
    anchored = {key: value[0, 0] for key, value in drawn.latents.items()}
    if not settings.anchor_generator:
        with frozen(model.generator):
            crossed = model.generator(anchored, present)
        return (model.generator(revised, own) if learn else model.decode(revised, own)), crossed
    if not learn:
        return model.decode(revised, own), model.generator(anchored, present)
    n = len(own)
    both = {key: torch.cat([revised[key], anchored[key]]) for key in revised}
    means = model.generator(both, torch.cat([own, present]))
    return {name: mean[:n] for name, mean in means.items()}, {name: mean[n:] for name, mean in means.items()}


def _phi_loss(
    state: TrainState, codes: RevisedCodes, samples: RevisedSamples | None, settings: CooperativeSettings
) -> Tensor:
    """-log q(z~, W~ | X) - lambda_I log q(z, W | X~), eq. (12)."""
    q = codes.posterior
    log_q = q.log_prob(codes.latents, codes.evidence)
    loss = inference_loss(log_q, _jensen_gap(q, codes.latents), settings.expert_mix)
    if settings.inference_synthetic and samples is not None:
        z = samples.latents
        complete = torch.ones(len(z[SHARED]), len(state.model.modalities), dtype=torch.bool, device=z[SHARED].device)
        synthetic = state.model.inference(Batch(samples.revised, complete))
        mixed = inference_loss(synthetic.log_prob(z, complete), _jensen_gap(synthetic, z), settings.expert_mix)
        loss = loss + settings.inference_synthetic * mixed
    return loss


def _jensen_gap(posterior: Posterior, latents: Latents) -> Tensor:
    q, z = posterior.shared, latents[SHARED]
    return q.log_prob(z) - q.mean_log_prob(z)


def energy_step(state: TrainState, data: Views, revised: Views, settings: CooperativeSettings) -> dict[str, float]:
    """Lower the energy of complete data, raise that of revised samples (one forward pass), steer the displacement."""
    model = state.model
    assert model.energy is not None
    n, n_revised = (len(next(iter(views.values()))) for views in (data, revised))
    if not n:
        return {}
    energies = model.energy({name: torch.cat([data[name], revised[name]]) for name in data})
    real, fake = energies.split([n, n_revised])
    loss: EnergyLoss = energy_loss(real, fake, settings.energy_penalty, settings.energy_scale)
    # data already this much below refined samples: the chain cannot follow yet, so the energy waits for it
    rests = 0 < settings.energy_gate < -loss.gap.item()
    metrics = {} if rests else update(state, loss.total, "energy")
    model.energy_steps += not rests
    metrics |= {
        "loss/energy": loss.total.item(),
        "energy/data": loss.data.item(),
        "energy/gap": loss.gap.item(),
        "energy/rests": float(rests),
    }
    metrics |= {"energy/data_std": real.std(correction=0).item()}
    metrics |= {"energy/revised_std": fake.std(correction=0).item()}
    if settings.steer:
        # the chain is too short while revised samples are less likely than data, too long once they are more likely
        sign = 1.0 if loss.gap < 0 else -1.0
        moved = model.displacement * torch.exp(torch.tensor(sign * settings.steer_rate))
        model.displacement.copy_(moved.clamp(settings.displacement_min, settings.displacement_max))
    return metrics


@contextmanager
def prior_of_bound(model: MultimodalModel, tilt: bool) -> Iterator[Prior]:
    """Yield the prior of z in a bound: of a tilted one the base unless `tilt`, of a fitted mixture a standard one.

    Inside, a tilt gets no gradient; learned scales and clusters do.
    """
    prior: Prior = model.generator.prior
    with frozen(*[prior.net] if isinstance(prior, EnergyPrior) else []):
        if isinstance(prior, EnergyPrior) and not tilt:
            prior = prior.base
        yield model.generator.base if isinstance(prior, MixturePrior) else prior


def _synthetic_weight(
    state: TrainState, batch: Batch, own: Views, samples: RevisedSamples, settings: CooperativeSettings
) -> float:
    """Return lambda_s: the number set, or the ratio of running residuals less the chain's noise floor."""
    if settings.synthetic != "balance":
        return float(settings.synthetic)
    everything = torch.ones(len(samples.latents[SHARED]), len(own), dtype=torch.bool, device=batch.present.device)
    with torch.no_grad():
        now = {
            "residual/reconstruction": squared_residuals(batch.views, own, batch.present).sum().item(),
            "residual/synthetic": squared_residuals(samples.revised, samples.means, everything).sum().item(),
        }
    for key, value in now.items():
        old = state.numbers.get(key, value)
        state.numbers[key] = RESIDUAL_DECAY * old + (1 - RESIDUAL_DECAY) * value
    chain = state.model.data_chain
    floor = sum(m.size for m in state.model.modalities.values()) * chain.steps * chain.noise_scale**2
    return balanced_weight(state.numbers["residual/reconstruction"], state.numbers["residual/synthetic"], floor)


def _per_modality(model: MultimodalModel, what: str, values: Tensor, present: Tensor) -> dict[str, float]:
    weight = present.float()
    means = (torch.where(present, values.detach(), 0.0).sum(0) / weight.sum(0).clamp_min(1)).tolist()
    return {f"{what}/{name}": mean for name, mean in zip(model.modalities, means, strict=True)}


def _posterior_metrics(model: MultimodalModel, posterior: Posterior, batch: Batch) -> dict[str, float]:
    scale = posterior.experts.scale.detach()[batch.present.T]
    if not len(scale):
        return {}
    return {"encoder/scale_mean": scale.mean().item(), "encoder/scale_min": scale.min().item()}
