"""What the two chains of a step refine: samples by the energy, codes by the generator, gaps by both.

Nothing here teaches: what comes back is constant, but for the means from which the data chain started.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from multiebm.core.batch import Batch
from multiebm.core.names import Views
from multiebm.mcmc.run import ChainInfo
from multiebm.models.inference import SHARED, Latents, Posterior
from multiebm.models.model import MultimodalModel
from multiebm.training.state import TrainState


class RefinedSamples(NamedTuple):
    """Latents [B, .], their means [B, ...] (graph to omega), and the means after the data chain (detached)."""

    latents: Latents
    means: Views
    refined: Views


def refine_samples(
    state: TrainState[MultimodalModel], posterior: Posterior, batch: Batch, start: Literal["prior", "aggregate"]
) -> tuple[RefinedSamples, dict[str, float]]:
    """Draw latents [B, .], decode them and refine the means by the data chain, eq. (3); what the chain did.

    Latents are draws of the prior, or with start `aggregate` (a ceiling, not a model) codes.
    """
    model, rng = state.model, state.generator
    z = model.sample_latents(len(batch.present), rng)
    if start == "aggregate":
        z[SHARED] = posterior.sample(rng)[0][SHARED].detach()
    x0 = model.generator(z)  # one pass, for the chain's start and L_omega
    refined, chain = model.refine_data(x0, rng)
    return RefinedSamples(z, x0, refined), _data_chain_metrics(model, chain)


class RefinedCodes(NamedTuple):
    """Latents [N, .] after the chain (detached), what it did, and whose codes they are.

    `batch` and `posterior` hold the item of every row, `item` [N] its place in the step's batch; `repeated`: it may
    come again.
    """

    latents: Latents
    chain: ChainInfo
    batch: Batch
    posterior: Posterior
    item: Tensor
    repeated: bool


def refine_codes(
    state: TrainState[MultimodalModel],
    posterior: Posterior,
    batch: Batch,
    positive_phase: Literal["random_expert", "all_experts"],
) -> RefinedCodes:
    """Draw z0, W0 ~ q(z, W | X) [B, .] and refine them by the present parts, eq. (8).

    `all_experts` draws from every expert that an item has, [N, .]; an item then counts as often.
    """
    item, repeated = torch.arange(len(batch.present), device=batch.present.device), positive_phase == "all_experts"
    if repeated:
        expert, item = batch.present.T.nonzero(as_tuple=True)
        batch, posterior = batch.select(item), posterior.select(item)
    with torch.no_grad():
        start, _ = posterior.sample(state.generator)
        if repeated:
            start[SHARED] = posterior.shared.component(expert).rsample(state.generator)
    latents, chain = state.model.refine_latents(start, batch, state.generator)
    return RefinedCodes(latents, chain, batch, posterior, item, repeated)


def complete_items(
    state: TrainState[MultimodalModel],
    posterior: Posterior,
    batch: Batch,
    codes: RefinedCodes | None,
    incomplete: Literal["fill", "skip"] = "fill",
) -> Views:
    """Return the items [N, ...] of the energy's positive phase: the complete ones, and those with gaps once filled.

    An absent part is decoded from the item's refined latents and then refined by the energy, the present parts held
    fixed: a short chain on pi(x_absent | x_present). Items with nothing present, and with `skip` all that have a gap,
    are left out. docs/methods/missing.md.
    """
    model, rng = state.model, state.generator
    complete = batch.present.all(1)
    if complete.all():
        return batch.views
    whole = {name: view[complete] for name, view in batch.views.items()}
    rows = (batch.present.any(1) & ~complete).nonzero()[:, 0]
    if incomplete == "skip" or not len(rows):
        return whole
    some = batch.select(rows)
    latents = _latents_of_items(posterior, codes, rows, rng)
    filled = model.fill(some, model.with_private_of_absent(latents, some, rng))
    refined, _ = model.refine_data(filled, rng, clamp=some.present)
    return {name: torch.cat([whole[name], refined[name]]) for name in whole}


def _latents_of_items(posterior: Posterior, codes: RefinedCodes | None, rows: Tensor, rng: torch.Generator) -> Latents:
    """Return one code of each item in `rows` [N]: refined, or a draw of the posterior while the energy learns alone."""
    if codes is None:
        with torch.no_grad():
            return posterior.select(rows).sample(rng)[0]
    if codes.repeated:  # one of its codes at random: the highest of shuffled ranks
        ranks = torch.randperm(len(codes.item), generator=rng, device=rng.device).to(rows.device)
        highest = torch.zeros(len(posterior.experts.loc[0]), dtype=torch.long, device=rows.device)
        rows = ranks.argsort()[highest.scatter_reduce(0, codes.item, ranks, "amax")[rows]]
    return {key: value[rows] for key, value in codes.latents.items()}


def _data_chain_metrics(model: MultimodalModel, chain: ChainInfo) -> dict[str, float]:
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


def latent_chain_metrics(model: MultimodalModel, codes: RefinedCodes) -> dict[str, float]:
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
