"""The energy of interaction f(X): how much likelier the parts of an item are together than apart, in nats.

It learns log p(X) / prod_m p(x_m), the pointwise total correlation, up to a constant (`objectives/belonging.py`). It is
one factor of the density, log pi(X) = -E(X) + weight f(X); the other one, E, says how each part looks.
"""

from dataclasses import dataclass
from math import log
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional as F

from multiebm.core.names import Views, module_key
from multiebm.core.tree import spread
from multiebm.modalities import Modality
from multiebm.nn.blocks import mlp

FEATURES = 32  # of a part, in which heads compare them
CHANNELS = 16  # of the first convolution of a trunk of pictures
FROM_POSTERIOR = 16  # completions drawn from q(z | x_S) at most, where the best of several is taken
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
            description="completions of which the best is taken first; all after the 16th are joint samples, which are "
            "then drawn from several, too",
        ),
    ] = 1

    @property
    def compares(self) -> bool:
        """Whether draws of the prior are to be compared with codes: completions are chosen from joint samples."""
        return self.best_of > FROM_POSTERIOR


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


class PartsNetwork(nn.Module):
    """A number [B] of views, which are compared across parts. A part is read by the trunk that its kind gives to
    judges, so cells may be missing.
    """

    def __init__(self, modalities: dict[str, Modality], kind: Literal["pair", "mlp"]) -> None:
        super().__init__()
        n = 2 * FEATURES  # of a trunk, whose features are not negative: a line lets them point anywhere
        trunks = {
            module_key(name): nn.Sequential(m.judge_trunk(CHANNELS, n), nn.Linear(n, FEATURES))
            for name, m in modalities.items()
        }
        self.trunks = nn.ModuleDict(trunks)
        parts = len(modalities)
        self.head = PairHead(parts) if kind == "pair" else MlpHead(parts)
        self.steps: Tensor  # updates; until the first it is random

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
        """Return the number [B] of views [B, ...], of all of them or of those `present` (bool [B, M])."""
        if present is None:
            n, like = len(views), next(iter(views.values()))
            present = torch.ones(len(like), n, dtype=torch.bool, device=like.device)
        return self.head(self.features(views, present), present)


class InteractionNetwork(PartsNetwork):
    """Views -> f [B] in nats; high = the parts belong together. Up to a constant for each set of parts there are."""

    def __init__(self, modalities: dict[str, Modality], settings: Interaction) -> None:
        super().__init__(modalities, settings.kind)
        self.settings = settings
        self.weight: Tensor  # of f in the density; 0 until training has set it
        self.louder: Tensor  # times that weight in scores, which have to tell items apart where chains only move them
        self.register_buffer("weight", torch.tensor(0.0, dtype=torch.float32))
        self.register_buffer("louder", torch.tensor(1.0, dtype=torch.float32))
        self.register_buffer("steps", torch.tensor(0))

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
