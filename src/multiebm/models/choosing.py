"""What is chosen before the data chain runs: joint samples that look like decoded codes, completions that belong."""

from math import ceil
from typing import Protocol

import torch
from torch import Tensor

from multiebm.core.batch import Batch
from multiebm.core.names import Views
from multiebm.core.progress import track
from multiebm.core.random import Randomness, gumbel, make_generator, rand
from multiebm.core.tree import rows_where
from multiebm.modalities import Modality
from multiebm.models.generator import Generator
from multiebm.models.inference import InferenceModel, Latents, Posterior
from multiebm.models.interaction import FROM_POSTERIOR, InteractionNetwork
from multiebm.models.ratio import Pool, RatioNetwork
from multiebm.models.use import PLACES

DRAWN = 64  # draws of the prior of which one is kept
SURPLUS = 8  # draws of the prior a joint sample of these, where they are compared with codes
MARGIN = 1.0  # nats by which a joint sample has to be better: the best of many has a large f by chance, too
AT_A_TIME = 2**24  # numbers of features that are compared at a time


class Choosing(Protocol):
    """What is needed of a model here: one of class `StateModel`."""

    interaction: InteractionNetwork | None
    ratio: RatioNetwork | None
    generator: Generator
    inference: InferenceModel
    modalities: dict[str, Modality]

    @property
    def compares(self) -> bool:
        """Whether draws of the prior are compared with the codes of items."""

    def likeness(self, latents: Latents) -> Tensor:
        """Return d [n] of what latents are decoded to, nats; 0 where draws are not compared."""

    def sample_latents(self, n: int, rng: Randomness, temperature: float | None = None) -> Latents:
        """Draw latents of the prior, {"shared": [n, D], modality: [n, P]}."""

    def infer_latents(
        self, batch: Batch, rng: Randomness, latent_steps: int = 0, posterior: Posterior | None = None
    ) -> Latents:
        """Draw latents given the present parts, {"shared": [B, D], modality: [B, P]}."""

    def decode(self, latents: Latents) -> Views:
        """Return means [n, ...] of parts."""

    def likeliest(self, means: Views) -> Views:
        """Return states [n, ...] for means."""

    def fill(self, batch: Batch, latents: Latents) -> Views:
        """Return the views [B, ...] with the means of latents where a part, or a cell, is absent."""


@torch.no_grad()
def redrawn(model: Choosing, latents: Latents, rng: Randomness, temperature: float | None = None) -> Latents:
    """Return for each item one of DRAWN draws of the prior, by the weight exp d.

    Latents {"shared": [B, D], modality: [B, P]}; the first of the draws are those that are given. Each item draws for
    itself. Nothing changes where draws are not compared with codes (`models/ratio.py`).
    """
    if not model.compares:
        return latents

    def key(drawn: Latents) -> Tensor:
        looks = model.likeness(drawn)
        return looks + gumbel(rng, looks.shape, looks)  # the draw with the largest key is one by the weights exp d

    kept, most = latents, key(latents)
    for _ in range(DRAWN - 1):
        drawn = model.sample_latents(len(most), rng, temperature)
        better = (found := key(drawn)) > most
        kept, most = rows_where(better, drawn, kept), torch.where(better, found, most)
    return kept


def best_fill(
    model: Choosing,
    batch: Batch,
    rng: Randomness,
    latent_steps: int = 0,
    best_of: int = 1,
    posterior: Posterior | None = None,
    pool: Pool | None = None,
) -> Views:
    """Return the views [B, ...] with what is absent decoded from latents of the present parts, the best of so many.

    Of FROM_POSTERIOR from q(z | x_S) at most it has the largest f(X) + d(G(z, W)). Others are `joint_samples` (`pool`,
    if made): their best is taken where its weight is larger by MARGIN. `posterior`: q(z, W | x_S), where it is known.
    """
    with torch.no_grad():
        posterior = model.inference.given(batch) if posterior is None else posterior  # once for all of them
    kept = model.infer_latents(batch, rng, latent_steps, posterior)
    best, f = model.fill(batch, kept), model.interaction
    if best_of == 1 or f is None:
        return best
    looks = model.likeness(kept)
    most = f(model.likeliest(best)) + looks
    for _ in range(min(best_of, FROM_POSTERIOR) - 1):
        latents = model.infer_latents(batch, rng, latent_steps, posterior)
        views, look = model.fill(batch, latents), model.likeness(latents)
        better = (found := f(model.likeliest(views)) + look) > most
        most, looks = torch.where(better, found, most), torch.where(better, look, looks)
        best = rows_where(better, views, best)
    if pool := pool or joint_samples(model, best_of):
        latents = best_sample(f, pool, batch, rng)
        views = model.fill(batch, latents)
        weights = [f(of) - f(of, ~batch.present) for of in map(model.likeliest, (views, best))]
        better = weights[0] + model.likeness(latents) > weights[1] + looks + MARGIN
        best = rows_where(better & batch.present.any(1), views, best)
    return best


@torch.no_grad()
def joint_samples(model: Choosing, best_of: int, surplus: int = SURPLUS) -> Pool | None:
    """Return the joint samples among so many completions, the same for all items and seeds; None if there are none.

    Where draws are compared with codes these are of `surplus` times as many draws, none twice, with weights exp d. A
    finished model keeps as many as it is set to choose from.
    """
    if (n := best_of - FROM_POSTERIOR) <= 0 or model.interaction is None:
        return None
    made = model.ratio.pool(model.generator.temperature) if model.compares and model.ratio is not None else None
    if made is not None and len(made.features) == n:
        return made
    rng, size = make_generator(0), max(64, PLACES // sum(m.places for m in model.modalities.values()))
    latents = model.sample_latents(n * surplus if model.compares else n, rng)  # drawn on the CPU, as for every device
    if model.compares:
        each_look = [model.likeness(of) for of in track(_split(latents, size), "joint samples are drawn")]
        looks = torch.cat(each_look)
        kept = (looks + gumbel(rng, looks.shape, looks)).topk(n).indices
        latents = {key: of[kept] for key, of in latents.items()}
    each = []
    for of in _split(latents, size):
        views = model.likeliest(model.decode(of))
        rows = len(next(iter(views.values())))
        there = torch.ones(rows, len(views), dtype=torch.bool, device=model.interaction.weight.device)
        each.append(model.interaction.features(views, there))
    return Pool(latents, torch.cat(each))


def keep_pool(model: Choosing, share: float = 1.0) -> None:
    """Let a finished model keep the joint samples that it chooses completions from, so that they are made once.

    They are of a `share` of the draws, where time is short, but of as many as they are.
    """
    if model.compares and model.ratio is not None:
        pool = joint_samples(model, FROM_POSTERIOR + len(model.ratio.pool_latents), ceil(share * SURPLUS))
        assert pool is not None
        model.ratio.keep(pool, model.generator.temperature)


def _split(latents: Latents, size: int) -> list[Latents]:
    parts = [of.split(size) for of in latents.values()]
    return [dict(zip(latents, each, strict=True)) for each in zip(*parts, strict=True)]


@torch.no_grad()
def best_sample(network: InteractionNetwork, pool: Pool, batch: Batch, rng: Randomness) -> Latents:
    """Return the latents [B, .] of those of the pool whose absent parts belong best to the present ones of each item.

    Of proposals x_T ~ p(x_T) the importance weight for p(x_T | x_S) is exp(f(x_S, x_T) - f(x_T)), f being the pointwise
    total correlation; the largest is taken, a mode and no draw. Each item looks through a random half of the pool, so
    several draws differ little. No encoder has a say in it: one Gaussian cannot be where the codes are, if these lie in
    several places.
    """
    present, n = batch.present, len(pool.features)
    own, found = network.features(batch.views, present), list[Tensor]()
    for items in torch.arange(len(present), device=present.device).split(max(1, AT_A_TIME // pool.features.numel())):
        here = present[items, None].expand(-1, n, -1)  # [B, n, M]
        both = torch.where(here[..., None], own[items, None], pool.features)
        found.append(network.head(both, torch.ones_like(here)) - network.head(both, ~here))
    lots = rand(rng, (len(present), n), own)
    looks = lots >= lots.median(1, keepdim=True).values
    best = torch.cat(found).masked_fill(~looks, -torch.inf).argmax(1)
    return {key: of[best] for key, of in pool.latents.items()}
