"""Samples and codes of a step: drawn, refined by the two chains, and what priors learn from them.

Nothing here teaches the three networks: what comes back is constant, but for the means that a data chain started from.
"""

from collections.abc import Iterable
from math import inf
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from multiebm.core.batch import Batch
from multiebm.core.metrics import TILT_STD
from multiebm.core.names import Views
from multiebm.core.progress import track
from multiebm.core.tokens import share_changed, tokens_of
from multiebm.mcmc.run import ChainInfo
from multiebm.models.chains import steers_step_size
from multiebm.models.inference import SHARED, Latents, Posterior
from multiebm.models.model import MultimodalModel
from multiebm.nn.spectral import frozen
from multiebm.training.state import TrainState, update

FOLLOW = 0.5  # share of the way that a steered step size goes at a step of training, of its logarithm
PositivePhase = Literal["random_expert", "all_experts", "own_part"]
REFIT_DRAWS = 2  # codes an item that a mixture is fitted anew to: one full covariance a component needs many


class RefinedSamples(NamedTuple):
    """Latents [B, .], their means [B, ...] (graph to omega), and the samples after the data chain (detached).

    The chain starts from the means of `moved`: the latents themselves, or the latents after `refine_sampled`.
    """

    latents: Latents
    moved: Latents
    means: Views
    refined: Views

    @property
    def present(self) -> Tensor:
        """The mask [B, M]: a sample has all parts."""
        z = self.latents[SHARED]
        return torch.ones(len(z), len(self.means), dtype=torch.bool, device=z.device)


def refine_samples(state: TrainState[MultimodalModel], n: int) -> tuple[RefinedSamples, dict[str, float]]:
    """Draw latents [n, .] of the prior, decode and refine them by the data chain, eq. (3); and what the chain did.

    Where an energy of interaction has learned before, latents are first moved by its `latent_steps`. Generator and
    inference model learn from what comes of them beside the latents as they were drawn.
    """
    model = state.model
    z, steps = model.sample_latents(n, state.rng), model.chooses.latent_steps
    start = x0 = model.generator(z)  # one pass, for the chain's start and L_omega
    moved = z
    if steps:
        moved, _ = model.refine_sampled(z, state.rng, steps)
        start = model.decode(moved)
    refined, metrics = refine_views(state, start)
    return RefinedSamples(z, moved, x0, refined), metrics


def refine_views(state: TrainState[MultimodalModel], views: Views) -> tuple[Views, dict[str, float]]:
    """Refine views [B, ...] by the data chain, whose step size follows; what comes of it, and what the chain did."""
    model = state.model
    refined, chain = model.refine_data(views, state.rng)
    size = sum(m.size for m in model.modalities.values())
    kept = langevin_metrics(model, chain)
    steer_step_size(model, chain)
    first, last = -chain.logdensity[0], -chain.logdensity[-1]
    if model.energy is not None and model.interaction is not None and model.interaction.weight:
        with torch.no_grad(), frozen(model.energy):  # E itself, which the chain climbs beside f
            first, last = model.energy(views), model.energy(refined)
    return refined, kept | words_changed(model, chain.start, refined) | {
        "energy/generated": first.mean().item(),
        "energy/generated_std": first.std(correction=0).item(),
        "energy/refined": last.mean().item(),
        "energy/drop": (chain.logdensity[-1] - chain.logdensity[0]).mean().item(),
        "data_chain/move_rms": (chain.displacement / size**0.5).mean().item(),
        "data_chain/noise_floor_rms": model.data_chain.steps**0.5 * model.data_chain.noise_scale,
        "data_chain/grad_norm": chain.grad_norm.mean().item() if len(chain.grad_norm) else 0.0,
        "data_chain/displacement": model.displacement.item(),
    }


def words_changed(model: MultimodalModel, before: Views, after: Views) -> dict[str, float]:
    """Return the mean share of the words of each caption that are others in states `after` than `before`, [B, ...]."""
    spoken = [name for name, modality in model.modalities.items() if modality.speaks]
    shares = {name: share_changed(tokens_of(before[name]), tokens_of(after[name])) for name in spoken}
    return {f"data_chain/words_changed/{name}": share.mean().item() for name, share in shares.items()}


def langevin_metrics(model: MultimodalModel, chain: ChainInfo) -> dict[str, float]:
    """Return s and T of a Langevin data chain, and the share of its moves that a Metropolis test at T would accept."""
    s, temperature = model.data_step_size, model.data_temperature
    if s is None or not temperature:  # steps are displaced, or have no noise
        return {}
    acceptance = chain.acceptance[:-1]  # the last move's is unknown
    known = {"data_chain/acceptance": acceptance.mean().item()} if len(acceptance) else {}
    return known | {"data_chain/step_size": s, "data_chain/temperature": temperature}


def steer_step_size(model: MultimodalModel, chain: ChainInfo, share: float = FOLLOW) -> None:
    """Move s of a steered Langevin chain such that a step on the gradient is `model.displacement` long on average.

    s^2/2 |g| = d sqrt(D), with the mean of |g| over items and steps of the chain just run. s goes the `share` of the
    way on a log scale, and all of it before the energy has learned: what s began with says nothing.
    """
    if not steers_step_size(model.data_chain) or not len(chain.grad_norm):
        return
    if 0 < (gradient := chain.grad_norm.mean()) < inf:
        size = sum(m.size for m in model.modalities.values())
        asked = (2 * model.displacement * size**0.5 / gradient).sqrt()
        share = share if model.energy_learned else 1.0
        model.step_size.copy_(model.step_size ** (1 - share) * asked**share)


class RefinedCodes(NamedTuple):
    """Latents [N, .] after the chain (detached), what it did, and whose codes they are.

    `batch` and `posterior` hold the item of every row, `item` [N] its place in the step's batch of so many `items`;
    `repeated`: it may come again. `apart`: a row knows one part alone, the one that `batch` has as present.
    """

    latents: Latents
    chain: ChainInfo
    batch: Batch
    posterior: Posterior
    item: Tensor
    repeated: bool
    items: int
    apart: bool = False

    @property
    def share(self) -> float:
        """What makes a mean over rows one over items, where rows are `apart`: an item has the sum of its rows."""
        return len(self.item) / self.items if self.apart else 1.0

    def log_q(self) -> Tensor:
        """Return log q(z~, W~ | X) [N] in nats, of rows `apart` log q_m(z~, w~_m | x_m) of their part m."""
        return log_q(self.posterior, self.latents, self.batch.present, self.apart)


def refine_codes(
    state: TrainState[MultimodalModel], posterior: Posterior, batch: Batch, positive_phase: PositivePhase
) -> RefinedCodes:
    """Draw z0, W0 ~ q(z, W | X) [B, .] and refine them by the present parts, eq. (8).

    `all_experts` draws from every expert that an item has, [N, .]; an item then counts as often. `own_part` does so and
    refines each by its own part alone, towards p(z, w_m | x_m): the parts' inference is independent.
    """
    items, repeated, apart = len(batch.present), positive_phase != "random_expert", positive_phase == "own_part"
    item = torch.arange(items, device=batch.present.device)
    if repeated:
        expert, item = batch.present.T.nonzero(as_tuple=True)
        batch, posterior = batch.select(item), posterior.select(item)
        if apart:
            alone = torch.nn.functional.one_hot(expert, batch.present.shape[1]).bool()
            batch = batch._replace(present=alone)
    with torch.no_grad():
        start, _ = posterior.sample(state.rng)
        if repeated:
            start[SHARED] = posterior.shared.component(expert).rsample(state.rng)
    latents, chain = state.model.refine_latents(start, batch, state.rng)
    return RefinedCodes(latents, chain, batch, posterior, item, repeated, items, apart)


def log_q(posterior: Posterior, latents: Latents, present: Tensor, apart: bool = False) -> Tensor:
    """Return log q(z, W | X) [N] in nats of latents {"shared": [N, D], modality: [N, P]} and `present` parts [N, M].

    `apart`: sum_m log q_m(z, w_m | x_m) over present parts, of single experts, which then know nothing of each other.
    """
    if not apart:
        return posterior.log_prob(latents, present)
    each = posterior.shared.component_log_prob(latents[SHARED])  # [M, N]
    if posterior.private:
        each = each + torch.stack([q.log_prob(latents[name]) for name, q in posterior.private.items()])
    return torch.where(present.T, each, 0.0).sum(0)


def complete_items(
    state: TrainState[MultimodalModel],
    posterior: Posterior | None,
    batch: Batch,
    codes: RefinedCodes | None,
    incomplete: Literal["fill", "skip"] = "fill",
) -> Views:
    """Return the items [N, ...] of the energy's positive phase: the complete ones, and those with gaps once filled.

    An absent part is decoded from the item's refined latents and then refined by the energy, the present parts held
    fixed: a short chain on pi(x_absent | x_present). Items with nothing present, and with `skip` all that have a gap,
    are left out. docs/methods/missing.md. Without a `posterior`, where the chain starts from noise, so do absent parts.
    """
    model, rng = state.model, state.rng
    complete = batch.complete()
    if complete.all():
        return batch.views
    whole = {name: view[complete] for name, view in batch.views.items()}
    rows = (batch.present.any(1) & ~complete).nonzero()[:, 0]
    if incomplete == "skip" or not len(rows):
        return whole
    some = batch.select(rows)
    if posterior is None:
        refined, _ = model.refine_data(some.views, rng, clamp=some.there())
        return {name: torch.cat([whole[name], refined[name]]) for name in whole}
    if codes is None:  # while the energy learns alone
        with torch.no_grad():
            latents = posterior.select(rows).sample(rng)[0]
    else:
        if codes.repeated:  # one of its codes at random: the highest of shuffled ranks
            ranks = torch.randperm(len(codes.item), generator=rng, device=rng.device).to(rows.device)
            highest = torch.zeros(len(batch.present), dtype=torch.long, device=rows.device)
            rows = ranks.argsort()[highest.scatter_reduce(0, codes.item, ranks, "amax")[rows]]
        latents = {key: value[rows] for key, value in codes.latents.items()}
    filled = model.fill(some, model.with_private_of_absent(latents, some, rng))
    refined, _ = model.refine_data(filled, rng, clamp=some.there())
    return {name: torch.cat([whole[name], refined[name]]) for name in whole}


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


def follow_codes(state: TrainState[MultimodalModel], posterior: Posterior, batch: Batch, wanted: bool) -> Latents:
    """Draw detached codes of this batch, {"shared": [B, D], modality: [B, P]}, move what follows them, return them.

    Where nothing does, nothing is drawn unless the codes are `wanted`. DivergenceError, which the guard answers, where
    a mixture cannot be fitted to them.
    """
    followers = {key: prior for key, prior in state.model.generator.priors().items() if prior.follows}
    if not followers and not wanted:
        return {}
    with torch.no_grad():
        codes, _ = posterior.sample(state.rng)
    for key, prior in followers.items():
        seen = observed(state.model, codes, batch, key)
        if len(seen) and seen.isfinite().all():  # what is not finite shows in the losses, where the guard sees it
            prior.follow(seen)
    return codes


def prior_step(state: TrainState[MultimodalModel], codes: Tensor, samples: Tensor) -> dict[str, float]:
    """One update of the prior's own parameters from codes [N, D] and its samples [N', D]; what it says of them."""
    if not len(codes):  # nobody in the batch has a part
        return {}
    prior = state.model.generator.prior
    metrics = update(state, prior.loss(codes, samples), "prior") | prior.diagnose(codes, samples, state.step)
    if TILT_STD in metrics:
        state.numbers[TILT_STD] = metrics[TILT_STD]
    return metrics


def codes_of(model: MultimodalModel, batches: Iterable[Batch], rng: torch.Generator, keys: set[str]) -> Latents:
    """Draw REFIT_DRAWS codes an item under every key: [N, D], the first draw of all items before the second.

    So components, which start at the first codes, start at those of different items.
    """
    seen: dict[str, list[list[Tensor]]] = {key: [[] for _ in range(REFIT_DRAWS)] for key in keys}
    with torch.no_grad():
        for batch in track(batches if keys else (), "codes are drawn"):
            posterior = model.inference(batch)
            for draw in range(REFIT_DRAWS):
                codes, _ = posterior.sample(rng)
                for key, found in seen.items():
                    found[draw].append(observed(model, codes, batch, key))
    return {key: torch.cat([part for draw in found for part in draw]) for key, found in seen.items()}


def observed(model: MultimodalModel, codes: Latents, batch: Batch, key: str) -> Tensor:
    """Return the codes [N, D] under `key` that rest on something: of items with a part, or with that very part."""
    here = batch.present.any(1) if key == SHARED else batch.present[:, list(model.modalities).index(key)]
    return codes[key][here]
