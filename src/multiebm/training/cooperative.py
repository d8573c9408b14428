"""Where chains and losses meet: the warm-up step and the cooperative step (arXiv 2605.00644, eqs. (10) to (12)).

One cooperative step: draw z and revise G(z) by the energy; infer latents of the data and revise them by the generator;
then the generator and the inference model learn from both revisions, the prior from the revised latents, the energy
from data against revised samples. Every forward pass is made once and used wherever it is needed.
"""

from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor

from multiebm.core.batch import Batch
from multiebm.core.modality import Views
from multiebm.core.tree import per_item
from multiebm.distributions.priors import MixturePrior, Prior
from multiebm.mcmc.run import ChainInfo, frozen
from multiebm.models.energy_prior import EnergyPrior
from multiebm.models.inference import SHARED, Latents, Posterior
from multiebm.models.model import MultimodalModel
from multiebm.objectives.cooperative import (
    EnergyLoss,
    balanced_weight,
    energy_loss,
    inference_loss,
    squared_residuals,
)
from multiebm.objectives.settings import BoundSettings
from multiebm.objectives.vae import Draw, bound_loss, draw, vae_loss
from multiebm.training.priors import follow_codes, observed, prior_step
from multiebm.training.settings import CooperativeSettings, WarmupSettings
from multiebm.training.state import TrainState, update

STRATIFIED = BoundSettings()  # the warm-up's bound, and the anchor's
RESIDUAL_DECAY = 0.99  # running means of the two residuals that lambda_s = balance compares


def warmup_step(
    state: TrainState, batch: Batch, settings: WarmupSettings, bound: BoundSettings = STRATIFIED
) -> dict[str, float]:
    """One step on a bound; an energy prior learns beside it from detached codes, one an item."""
    model, generator = state.model, state.generator
    posterior = model.inference(batch)
    codes = follow_codes(state, posterior, batch)
    tilt = 0 <= settings.tilt_after <= state.step
    loss, log_px = bound_of_batch(model, posterior, batch, generator, bound, settings.beta, tilt)
    update(state, loss, "generator", "inference")
    metrics = {"loss/elbo": loss.item(), **_posterior_metrics(model, posterior, batch)}
    each = log_px.sum((0, 1)) / (log_px != 0).sum((0, 1)).clamp_min(1)  # of the components that decode the part
    metrics |= _per_modality(model, "log_likelihood", each, batch.present)
    prior = model.generator.prior
    if isinstance(prior, EnergyPrior) and state.step >= settings.prior_after:
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
    with _tilt_fixed(model):
        prior = _prior_of_bound(model, tilt)
        return vae_loss(model.generator, prior, posterior, batch, generator, bound, beta)


def cooperative_step(state: TrainState, batch: Batch, settings: CooperativeSettings) -> dict[str, float]:
    """One cooperative step; see the module docstring. Only complete items enter the energy's positive phase."""
    model, generator = state.model, state.generator
    n = len(batch.present)
    posterior = model.inference(batch)  # graph to phi, used for the chain's start, the anchor and L_phi
    z = _data_chain_latents(state, posterior, batch, settings)
    x0 = model.generator(z)  # graph to omega, used for the chain's start and L_omega
    revised, chain_x = model.refine_data(x0, generator)
    metrics = _data_chain_metrics(model, x0, revised, chain_x)
    start = state.numbers.setdefault("cooperative_start", float(state.step))
    energy_alone = state.step - start < settings.energy_first
    if not energy_alone:
        codes = _revised_codes(state, posterior, batch, settings)
        metrics |= _generator_inference_update(state, batch, posterior, codes, z, x0, revised, settings)
    expert_codes = follow_codes(state, posterior, batch)
    if isinstance(model.generator.prior, EnergyPrior):
        revised_codes = settings.prior_positive == "revised" and not energy_alone
        positive = codes.latents[SHARED] if revised_codes else observed(model, expert_codes, batch, SHARED)
        own = settings.start == "prior" and model.generator.temperature == 1  # z is then a draw from the prior itself
        negative = z[SHARED] if own else model.generator.prior.sample(n, generator)
        metrics |= prior_step(state, model.generator.prior, positive, negative)
    if settings.negatives == "refresh" and not energy_alone:
        revised, _ = model.refine_data(model.decode(z), generator)
    return metrics | energy_step(state, batch, revised, settings)


class RevisedCodes(NamedTuple):
    """Latents after the chain (detached), the evidence [B, M] their chain saw, and what the chain did."""

    latents: Latents
    evidence: Tensor
    chain: ChainInfo


def _revised_codes(
    state: TrainState, posterior: Posterior, batch: Batch, settings: CooperativeSettings
) -> RevisedCodes:
    """Draw z0 ~ q(z | X) and refine it by the parts in evidence: all present ones, or only the expert's own.

    With `single`, the private latents of the other parts come from the auxiliary r, so a part can only be
    reconstructed through z: the shortcut of own-modality private latents does not exist.
    """
    model, generator = state.model, state.generator
    with torch.no_grad():
        start, expert = posterior.sample(generator)
        evidence = batch.present
        if settings.revision == "single":
            evidence = torch.nn.functional.one_hot(expert, len(model.modalities)).bool() & batch.present
            auxiliary = model.generator.sample_auxiliary(len(expert), generator)
            for i, name in enumerate(model.modalities):
                if name in auxiliary:
                    start[name] = torch.where(per_item(evidence[:, i], start[name]), start[name], auxiliary[name])
    latents, chain = model.refine_latents(start, batch._replace(present=evidence), generator)
    return RevisedCodes(latents, evidence, chain)


def _generator_inference_update(
    state: TrainState,
    batch: Batch,
    posterior: Posterior,
    codes: RevisedCodes,
    z: Latents,
    x0: Views,
    revised: Views,
    settings: CooperativeSettings,
) -> dict[str, float]:
    """L_omega (11), L_phi (12) and the anchor in one backward pass; their graphs share nothing but the anchor's."""
    model = state.model
    anchored = settings.anchor > 0
    prior, drawn = _prior_of_bound(model, settings.tilt_in_bound), None
    if anchored:
        with _tilt_fixed(model):
            drawn = draw(model.generator, prior, posterior, batch, state.generator, STRATIFIED)
    own, crossed = _decode_codes(model, codes.latents, drawn, settings.reconstruction > 0)
    log_px = model.generator.log_likelihood(batch.views, own)
    log_ps = model.generator.log_likelihood(revised, x0)
    weight = _synthetic_weight(state, batch, own, revised, x0, settings)
    generator_loss = (
        -settings.reconstruction * torch.where(batch.present, log_px, 0.0).sum(1).mean() - weight * log_ps.sum(1).mean()
    )
    phi_loss = _phi_loss(state, batch, posterior, codes, z, revised, settings)
    loss = generator_loss + phi_loss
    metrics = {"loss/generator": generator_loss.item(), "loss/inference": phi_loss.item(), "weight/synthetic": weight}
    if drawn is not None:
        log_crossed = torch.where(batch.present, model.generator.log_likelihood(batch.views, crossed), 0.0)
        anchor = bound_loss(log_crossed[None, None], drawn, prior, posterior, batch.present, STRATIFIED, settings.beta)
        loss = loss + settings.anchor * anchor
        metrics["loss/anchor"] = anchor.item()
    metrics |= update(state, loss, "generator", "inference")
    metrics |= _per_modality(model, "log_likelihood", log_px, batch.present)
    metrics |= _posterior_metrics(model, posterior, batch) | _latent_chain_metrics(model, posterior, codes)
    return metrics


def _decode_codes(model: MultimodalModel, codes: Latents, drawn: Draw | None, learn: bool) -> tuple[Views, Views]:
    """Return the means of revised codes and of the anchor's draw: one pass, unless the former need no gradient."""
    if drawn is None:
        return (model.generator(codes) if learn else model.decode(codes)), {}
    anchored = {key: value[0, 0] for key, value in drawn.latents.items()}
    if not learn:
        return model.decode(codes), model.generator(anchored)
    n = len(codes[SHARED])
    means = model.generator({key: torch.cat([codes[key], anchored[key]]) for key in codes})
    return {name: mean[:n] for name, mean in means.items()}, {name: mean[n:] for name, mean in means.items()}


def _phi_loss(
    state: TrainState,
    batch: Batch,
    posterior: Posterior,
    codes: RevisedCodes,
    z: Latents,
    revised: Views,
    settings: CooperativeSettings,
) -> Tensor:
    """-log q(z~, W~ | X) - lambda_I log q(z, W | X~), eq. (12)."""
    loss = inference_loss(
        posterior.log_prob(codes.latents, codes.evidence), _jensen_gap(posterior, codes.latents), settings.expert_mix
    )
    if settings.inference_synthetic:
        complete = torch.ones_like(batch.present)
        synthetic = state.model.inference(Batch(revised, complete))
        mixed = inference_loss(synthetic.log_prob(z, complete), _jensen_gap(synthetic, z), settings.expert_mix)
        loss = loss + settings.inference_synthetic * mixed
    return loss


def _jensen_gap(posterior: Posterior, latents: Latents) -> Tensor:
    q, z = posterior.shared, latents[SHARED]
    return q.log_prob(z) - q.mean_log_prob(z)


def energy_step(state: TrainState, batch: Batch, revised: Views, settings: CooperativeSettings) -> dict[str, float]:
    """Lower the energy of complete data, raise that of revised samples (one forward pass), steer the displacement."""
    model = state.model
    assert model.energy is not None
    complete = batch.present.all(1)
    if not complete.any():
        return {}
    data = batch.views if complete.all() else {name: view[complete] for name, view in batch.views.items()}
    energies = model.energy({name: torch.cat([data[name], revised[name]]) for name in data})
    real, fake = energies.split([int(complete.sum()), len(complete)])
    loss: EnergyLoss = energy_loss(real, fake, settings.energy_penalty, settings.energy_scale)
    # data already this much below refined samples: the chain cannot follow yet, so the energy waits for it
    rests = 0 < settings.energy_gate < -loss.gap.item()
    metrics = {} if rests else update(state, loss.total, "energy")
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


def _prior_of_bound(model: MultimodalModel, tilt: bool) -> Prior:
    """Return the prior of z in a bound: a standard one for a fitted one, and for a tilted one unless `tilt`."""
    prior = model.generator.prior
    fitted = isinstance(prior, MixturePrior) or (isinstance(prior, EnergyPrior) and not tilt)
    return model.generator.base if fitted else prior


def _tilt_fixed(model: MultimodalModel) -> AbstractContextManager[None]:
    """Inside, a tilt gets no gradient from a bound."""
    return frozen(*[model.generator.prior] if isinstance(model.generator.prior, EnergyPrior) else [])


def _data_chain_latents(
    state: TrainState, posterior: Posterior, batch: Batch, settings: CooperativeSettings
) -> Latents:
    """Draw the latents whose decoding starts the data chain: from the prior, or (a ceiling, not a model) from codes."""
    model, generator = state.model, state.generator
    z = model.sample_latents(len(batch.present), generator)
    if settings.start == "aggregate":
        z[SHARED] = posterior.sample(generator)[0][SHARED].detach()
    return z


def _synthetic_weight(
    state: TrainState, batch: Batch, own: Views, revised: Views, x0: Views, settings: CooperativeSettings
) -> float:
    """Return lambda_s: the number set, or the ratio of running residuals less the chain's noise floor."""
    if settings.synthetic != "balance":
        return float(settings.synthetic)
    with torch.no_grad():
        now = {
            "residual/reconstruction": squared_residuals(batch.views, own, batch.present).sum().item(),
            "residual/synthetic": squared_residuals(revised, x0, torch.ones_like(batch.present)).sum().item(),
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


def _data_chain_metrics(model: MultimodalModel, x0: Views, revised: Views, chain: ChainInfo) -> dict[str, float]:
    size = sum(m.size for m in model.modalities.values())
    settings = model.data_chain
    return {
        "energy/generated": -chain.logdensity[0].mean().item(),
        "energy/generated_std": chain.logdensity[0].std(correction=0).item(),
        "energy/refined": -chain.logdensity[-1].mean().item(),
        "energy/drop": (chain.logdensity[-1] - chain.logdensity[0]).mean().item(),
        "data_chain/move_rms": (chain.displacement / size**0.5).mean().item(),
        "data_chain/noise_floor_rms": settings.steps**0.5 * settings.noise_scale,
        "data_chain/grad_norm": chain.grad_norm.mean().item() if len(chain.grad_norm) else 0.0,
        "data_chain/displacement": model.displacement.item(),
    }


def _latent_chain_metrics(model: MultimodalModel, posterior: Posterior, codes: RevisedCodes) -> dict[str, float]:
    z = codes.latents[SHARED]
    responsibility = posterior.shared.responsibilities(z).detach().mean(1).tolist()
    chain = model.latent_chain
    diagnosed = chain.noise_scale in (None, chain.step_size)
    acceptance = codes.chain.acceptance[:-1] if diagnosed else codes.chain.acceptance[:0]  # the last move's is unknown
    return ({"latent_chain/acceptance": acceptance.mean().item()} if len(acceptance) else {}) | {
        "latent_chain/gain": (codes.chain.logdensity[-1] - codes.chain.logdensity[0]).mean().item(),
        "latent_chain/logdensity": codes.chain.logdensity[-1].mean().item(),
        "latent_chain/move": codes.chain.displacement.mean().item(),
        "latent/square": z.square().mean().item(),
        "responsibility/min": min(responsibility),
        **{f"responsibility_of/{i}": share for i, share in enumerate(responsibility)},
    }
