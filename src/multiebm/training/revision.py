"""What the two chains of a cooperative step revise: samples by the energy, codes by the generator, gaps by both.

Nothing here teaches: what comes back is constant, but for the means from which the data chain started.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from multiebm.core.batch import Batch
from multiebm.core.names import Views
from multiebm.core.tree import per_item
from multiebm.mcmc.run import ChainInfo
from multiebm.models.inference import SHARED, Latents, Posterior
from multiebm.models.model import MultimodalModel
from multiebm.training.settings import CooperativeSettings
from multiebm.training.state import TrainState


class RevisedSamples(NamedTuple):
    """Draws of the prior, their means (graph to omega), and the means after the data chain (detached)."""

    latents: Latents
    means: Views
    revised: Views


def revise_samples(
    state: TrainState, posterior: Posterior, batch: Batch, settings: CooperativeSettings
) -> tuple[RevisedSamples, dict[str, float]]:
    """Draw latents, decode them and revise the means by the data chain, eq. (3); what the chain did."""
    z = _data_chain_latents(state, posterior, batch, settings)
    x0 = state.model.generator(z)  # one pass, for the chain's start and L_omega
    revised, chain = state.model.refine_data(x0, state.generator)
    return RevisedSamples(z, x0, revised), _data_chain_metrics(state.model, x0, revised, chain)


def _data_chain_latents(
    state: TrainState, posterior: Posterior, batch: Batch, settings: CooperativeSettings
) -> Latents:
    """Draw the latents whose decoding starts the data chain: from the prior, or (a ceiling, not a model) from codes."""
    model, generator = state.model, state.generator
    z = model.sample_latents(len(batch.present), generator)
    if settings.start == "aggregate":
        z[SHARED] = posterior.sample(generator)[0][SHARED].detach()
    return z


class RevisedCodes(NamedTuple):
    """Latents [N, .] after the chain (detached), the evidence [N, M] it saw, what it did, and whose codes they are.

    `batch` and `posterior` hold the item of every row, `item` [N] its place in the step's batch.
    """

    latents: Latents
    evidence: Tensor
    chain: ChainInfo
    batch: Batch
    posterior: Posterior
    item: Tensor


def revise_codes(state: TrainState, posterior: Posterior, batch: Batch, settings: CooperativeSettings) -> RevisedCodes:
    """Draw z0 ~ q(z | X) and refine it by the parts in evidence: all present ones, or only the expert's own.

    With `single`, the private latents of the other parts come from the auxiliary r, so a part can only be
    reconstructed through z: the shortcut of own-modality private latents does not exist. `all_experts` draws from
    every expert that an item has; an item then counts as often.
    """
    model, generator = state.model, state.generator
    item = torch.arange(len(batch.present), device=batch.present.device)
    if settings.positive_phase == "all_experts":
        expert, item = batch.present.T.nonzero(as_tuple=True)
        batch, posterior = batch.select(item), posterior.select(item)
    with torch.no_grad():
        start, drawn = posterior.sample(generator)
        if settings.positive_phase == "all_experts":
            start[SHARED], drawn = posterior.shared.component(expert).rsample(generator), expert
        evidence = batch.present
        if settings.revision == "single":
            evidence = torch.nn.functional.one_hot(drawn, len(model.modalities)).bool() & batch.present
            auxiliary = model.generator.sample_auxiliary(len(drawn), generator)
            for i, name in enumerate(model.modalities):
                if name in auxiliary:
                    start[name] = torch.where(per_item(evidence[:, i], start[name]), start[name], auxiliary[name])
    latents, chain = model.refine_latents(start, batch._replace(present=evidence), generator)
    return RevisedCodes(latents, evidence, chain, batch, posterior, item)


def complete_items(
    state: TrainState, posterior: Posterior, batch: Batch, codes: RevisedCodes | None, settings: CooperativeSettings
) -> Views:
    """Return the items of the energy's positive phase: the complete ones, and those with gaps after filling these.

    An absent part is decoded from the item's refined latents and then revised by the energy, the present parts held
    fixed: a short chain on pi(x_absent | x_present). Items with nothing present, and with `incomplete: skip` all that
    have a gap, are left out. docs/methods/missing.md.
    """
    model, generator = state.model, state.generator
    complete = batch.present.all(1)
    if complete.all():
        return batch.views
    whole = {name: view[complete] for name, view in batch.views.items()}
    rows = (batch.present.any(1) & ~complete).nonzero()[:, 0]
    if settings.incomplete == "skip" or not len(rows):
        return whole
    some = batch.select(rows)
    codes_of_some = _latents_of_items(state, posterior, codes, rows, settings)
    filled = model.fill(some, model.with_private_of_absent(codes_of_some, some, generator))
    revised, _ = model.refine_data(filled, generator, clamp=some.present)
    return {name: torch.cat([whole[name], revised[name]]) for name in whole}


def _latents_of_items(
    state: TrainState, posterior: Posterior, codes: RevisedCodes | None, rows: Tensor, settings: CooperativeSettings
) -> Latents:
    """Return one code of each item in `rows` [N]: revised, or a draw of the posterior while the energy learns alone."""
    if codes is None:
        with torch.no_grad():
            latents, _ = posterior.select(rows).sample(state.generator)
        return latents
    if settings.positive_phase == "all_experts":  # one of its codes at random: the highest of shuffled ranks
        order = torch.randperm(len(codes.item), generator=state.generator, device=state.generator.device)
        ranks = order.to(rows.device)
        highest = torch.zeros(len(posterior.experts.loc[0]), dtype=torch.long, device=rows.device)
        rows = ranks.argsort()[highest.scatter_reduce(0, codes.item, ranks, "amax")[rows]]
    return {key: value[rows] for key, value in codes.latents.items()}


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


def latent_chain_metrics(model: MultimodalModel, codes: RevisedCodes) -> dict[str, float]:
    """Return what the latent chain did, as numbers."""
    z = codes.latents[SHARED]
    responsibility = codes.posterior.shared.responsibilities(z).detach().mean(1).tolist()
    acceptance = codes.chain.acceptance[:-1]  # the last move's is unknown
    return ({"latent_chain/acceptance": acceptance.mean().item()} if len(acceptance) else {}) | {
        "latent_chain/gain": (codes.chain.logdensity[-1] - codes.chain.logdensity[0]).mean().item(),
        "latent_chain/logdensity": codes.chain.logdensity[-1].mean().item(),
        "latent_chain/move": codes.chain.displacement.mean().item(),
        "latent/square": z.square().mean().item(),
        "responsibility/min": min(responsibility),
        **{f"responsibility_of/{i}": share for i, share in enumerate(responsibility)},
    }
