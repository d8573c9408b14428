"""The energy of interaction f(X): how much likelier the parts of an item are together than apart, in nats.

It learns log p(X) / prod_m p(x_m), the pointwise total correlation, up to a constant (`objectives/belonging.py`). It is
one factor of the density, log pi(X) = -E(X) + weight f(X); the other one, E, says how each part looks.
"""

from dataclasses import dataclass
from math import log
from typing import Annotated, Literal, NamedTuple, Protocol

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional as F

from multiebm.core.batch import Batch
from multiebm.core.names import Views, module_key
from multiebm.core.random import Randomness, make_generator, rand
from multiebm.core.tree import spread
from multiebm.modalities import Modality
from multiebm.models.inference import Latents
from multiebm.models.use import PLACES
from multiebm.nn.blocks import mlp

FEATURES = 32  # of a part, in which heads compare them
CHANNELS = 16  # of the first convolution of a trunk of pictures
FROM_POSTERIOR = 16  # completions drawn from q(z | x_S) at most, where the best of several is taken
MARGIN = 1.0  # nats by which a joint sample has to be better: the best of many has a large f by chance, too
AT_A_TIME = 2**24  # numbers of features that are compared at a time
LATENT_STEP = 0.1  # step size and noise of the chain on latents of samples, latent units
START = 4.0  # nats by which the pair head first lowers an item one of whose parts stands at right angles to the others


@dataclass(frozen=True)
class Interaction:
    """The energy of interaction: which parts belong together; and what is chosen by it before the data chain runs."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    kind: Annotated[
        Literal["pair", "mlp"], Field(description="sum of cosines over all pairs of parts, or an MLP of all parts")
    ] = "pair"
    ratio: Annotated[
        PositiveFloat, Field(description="how much longer the gradient of weighted f is than that of E, on samples")
    ] = 2.0
    latent_steps: Annotated[int, Field(ge=0, le=10_000, description="steps that move latents of samples first")] = 0
    best_of: Annotated[
        int,
        Field(
            ge=1,
            le=10_000,
            description="completions of which the best one is taken first; all after the 16th are joint samples",
        ),
    ] = 1


class Sampling(Protocol):
    """What `joint_samples` needs of a model."""

    interaction: "InteractionNetwork | None"
    modalities: dict[str, Modality]

    def sample_latents(self, n: int, rng: Randomness) -> Latents:
        """Draw latents of the prior, {"shared": [n, D], modality: [n, P]}."""

    def decode(self, latents: Latents) -> Views:
        """Return means [n, ...] of parts."""

    def likeliest(self, means: Views) -> Views:
        """Return states [n, ...] for means."""


class Head(nn.Module):
    """What all heads share: a term of each part alone, linear in its features, so that what no part looks like counts
    for each part that does so. A constant could not be learned.
    """

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.alone = nn.Parameter(torch.zeros(parts, FEATURES))

    def of_parts(self, features: Tensor, present: Tensor) -> Tensor:
        """Map features [..., M, F] and `present` bool [..., M] to the sum [...] of the terms of parts, nats."""
        return torch.where(present, (features * self.alone).sum(-1), 0.0).sum(-1)


class PairHead(Head):
    """f = exp(s) sum over pairs a < b of cos(h_a, h_b), and terms of parts: an absent part drops out."""

    def __init__(self, parts: int) -> None:
        super().__init__(parts)
        self.log_scale = nn.Parameter(torch.tensor(log(START / max(parts - 1, 1)), dtype=torch.float32))

    def forward(self, features: Tensor, present: Tensor) -> Tensor:
        """Map features [..., M, F] and `present` bool [..., M] to f [...] in nats."""
        unit = torch.where(present[..., None], F.normalize(features, dim=-1), 0.0)
        # the square of a sum of n unit vectors is n and twice the sum over pairs
        pairs = (unit.sum(-2).square().sum(-1) - unit.square().sum((-1, -2))) / 2
        return self.log_scale.exp() * pairs + self.of_parts(features, present)


class MlpHead(Head):
    """f = an MLP of all features, zeros for those of absent parts, and of which parts there are, and terms of parts."""

    def __init__(self, parts: int) -> None:
        super().__init__(parts)
        self.net = mlp([parts * (FEATURES + 1), 4 * FEATURES, 1], nn.ReLU(), last_bias=False)

    def forward(self, features: Tensor, present: Tensor) -> Tensor:
        """Map features [..., M, F] and `present` bool [..., M] to f [...] in nats."""
        unit = F.normalize(features, dim=-1) * FEATURES**0.5  # a term of a part moves lengths, and the MLP not at all
        seen = torch.where(present[..., None], unit, 0.0).flatten(-2)
        told = self.net(torch.cat([seen, present.to(seen.dtype)], -1))[..., 0]
        return told + self.of_parts(features, present)


class InteractionNetwork(nn.Module):
    """Views -> f [B]; high = the parts belong together. Up to a constant for each set of parts that are there.

    A part is read by the trunk that its kind gives to judges, so cells may be missing.
    """

    def __init__(self, modalities: dict[str, Modality], settings: Interaction) -> None:
        super().__init__()
        self.settings = settings
        n = 2 * FEATURES  # of a trunk, whose features are not negative: a line lets them point anywhere
        trunks = {
            module_key(name): nn.Sequential(m.judge_trunk(CHANNELS, n), nn.Linear(n, FEATURES))
            for name, m in modalities.items()
        }
        self.trunks = nn.ModuleDict(trunks)
        parts = len(modalities)
        self.head = PairHead(parts) if settings.kind == "pair" else MlpHead(parts)
        self.weight: Tensor  # of f in the density; 0 until training has set it
        self.louder: Tensor  # times that weight in scores, which have to tell items apart where chains only move them
        self.steps: Tensor  # updates; until the first it is random
        self.register_buffer("weight", torch.tensor(0.0, dtype=torch.float32))
        self.register_buffer("louder", torch.tensor(1.0, dtype=torch.float32))
        self.register_buffer("steps", torch.tensor(0))

    @property
    def learned(self) -> bool:
        """Whether training has moved it at all."""
        return int(self.steps) > 0

    def features(self, views: Views, present: Tensor) -> Tensor:
        """Return features [B, M, F] of views [B, ...]: of those `present` (bool [B, M]), and 0 elsewhere."""
        found = []
        for (name, view), here in zip(views.items(), present.T, strict=True):
            rows = None if bool(here.all()) else here.nonzero()[:, 0]
            if rows is not None and not len(rows):  # no network runs, so its statistics stay
                found.append(view.new_zeros(len(view), FEATURES))
                continue
            own = self.trunks[module_key(name)](view if rows is None else view[rows])
            found.append(spread(own, rows, len(view)))
        return torch.stack(found, 1)

    def forward(self, views: Views, present: Tensor | None = None) -> Tensor:
        """Return f [B] in nats of views [B, ...], of all of them or of those `present` (bool [B, M])."""
        if present is None:
            n, like = len(views), next(iter(views.values()))
            present = torch.ones(len(like), n, dtype=torch.bool, device=like.device)
        return self.head(self.features(views, present), present)

    def by_part(self, views: Views, present: Tensor) -> Tensor:
        """Return f(X) - f(X without part m) [B, M] in nats, NaN for a part that is absent or alone.

        It learns log p(x_m | x_-m) / p(x_m), or over what foreign and corrupted parts are in training: low = the part
        does not belong to the others. Needs no other items. Of the pair head it is the sum over the pairs with part m,
        and the term of m.
        """
        features, n = self.features(views, present), present.shape[1]
        without = present[:, None] & ~torch.eye(n, dtype=torch.bool, device=present.device)  # [B, M, M]
        rest = self.head(features[:, None].expand(-1, n, -1, -1), without)
        told = present & (present.sum(1, keepdim=True) > 1)
        return torch.where(told, self.head(features, present)[:, None] - rest, torch.nan)


class Pool(NamedTuple):
    """Joint samples from which completions are chosen: their latents [n, .], and what f reads of them [n, M, F]."""

    latents: Latents
    features: Tensor


@torch.no_grad()
def joint_samples(model: Sampling, best_of: int) -> Pool | None:
    """Return the joint samples among so many completions, the same for all items and seeds; None if there are none."""
    if (n := best_of - FROM_POSTERIOR) <= 0 or model.interaction is None:
        return None
    latents, each = model.sample_latents(n, make_generator(0)), list[Tensor]()  # drawn on the CPU, as for every device
    for rows in torch.arange(n).split(max(64, PLACES // sum(m.places for m in model.modalities.values()))):
        views = model.likeliest(model.decode({key: of[rows.to(of.device)] for key, of in latents.items()}))
        there = torch.ones(len(rows), len(views), dtype=torch.bool)
        each.append(model.interaction.features(views, there.to(model.interaction.weight.device)))
    return Pool(latents, torch.cat(each))


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
