"""A kind of modality of another package, whole in one file: an angle on the circle.

Raw values are radians [B, 1], float64; states are the point on the circle, (cos, sin), float32 [B, 2].
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log, pi
from typing import Any, ClassVar, Self

import numpy as np
import torch
from scipy.stats import vonmises
from torch import Tensor, nn
from torch.nn.functional import normalize

from multiebm.core.errors import DataError
from multiebm.core.handed import Handed, Mask
from multiebm.core.random import Randomness, rand
from multiebm.distributions.likelihoods import LEAST_DRAW, Observation
from multiebm.modalities import Modality
from multiebm.modalities.base import Shows, refuse, unknown_keys
from multiebm.nn.blocks import VectorTrunk, mlp

GRID = 2001  # angles between which quantiles are interpolated, which are then right to 1e-4


@dataclass(frozen=True)
class AngleNetworks:
    """MLPs of two hidden layers."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    width: int = 32


@dataclass(frozen=True)
class VonMises(Observation):
    """The density of an angle around a mean direction, with concentration 1 / scale^2; near a normal one if small."""

    scale: float
    weight: float

    def cells(self, x: Tensor, mean: Tensor) -> Tensor:
        """Return k (cos(x - mean) - 1) - log(2 pi I0(k) e^-k) of the one angle an item has: [B, 2] -> [B, 1]."""
        k = mean.new_tensor(self.scale**-2)
        return (k * ((x * mean).sum(1) - 1) - torch.special.i0e(k).log() - log(2 * pi))[:, None]

    def sample(self, mean: Tensor, rng: Randomness) -> Tensor:
        """Draw directions around `mean`, [B, 2] -> [B, 2]."""
        at = rand(rng, (len(mean), 1), mean).clamp_min(LEAST_DRAW).double().cpu().numpy()
        around = np.linspace(-np.pi, np.pi, GRID)  # scipy's own quantiles take a millisecond each
        cumulative = vonmises.cdf(around, self.scale**-2)
        angle = torch.from_numpy(np.interp(at, cumulative, around)).to(mean) + torch.atan2(mean[:, 1:], mean[:, :1])
        return torch.cat([angle.cos(), angle.sin()], 1)


class Direction(nn.Module):
    """Put the output of a network on the circle."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, 2] to [B, 2] of length 1."""
        return normalize(x, dim=1)


@dataclass(frozen=True)
class Angle(Modality):
    """An angle."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    kind: ClassVar[str] = "angle"
    shows: ClassVar[Shows] = "points"
    networks: ClassVar[type] = AngleNetworks
    shape: ClassVar[tuple[int]] = (2,)
    raw_shape: ClassVar[tuple[int]] = (1,)

    name: str

    @classmethod
    def declaration_problems(cls, where: str, declared: Mapping[str, Any]) -> list[str]:
        return unknown_keys(where, declared, ["kind"])

    @classmethod
    def declare(cls, name: str, declared: Mapping[str, Any], part: Handed, where: str) -> Self:
        return cls(name)

    def read(self, part: Handed, present: Mask, where: str) -> Tensor:
        if part.values.shape[1:] != (1,):
            raise DataError(f"{where}: got shape {part.values.shape}, expected radians (rows, 1)")
        raw = torch.from_numpy(part.values.astype("float64"))
        raw[~torch.from_numpy(present)] = 0
        refuse(~raw.isfinite().numpy(), where)
        return raw

    def check(self, raw: Tensor, present: Tensor, where: str) -> None:
        pass

    def to_state(self, raw: Tensor) -> Tensor:
        return torch.cat([raw.cos(), raw.sin()], 1).to(torch.float32)

    def to_raw(self, state: Tensor) -> Tensor:
        return torch.atan2(state[:, 1:].double(), state[:, :1].double())

    def as_given(self, raw: Tensor) -> Tensor:
        return raw.double()

    def show(self, raw: Tensor) -> Tensor:
        return torch.cat([raw.cos(), raw.sin()], 1)

    def encoder(self, n_out: int, networks: AngleNetworks) -> nn.Module:
        return mlp([2, networks.width, networks.width, n_out], nn.ReLU())

    def decoder(self, n_in: int, networks: AngleNetworks) -> nn.Module:
        return nn.Sequential(mlp([n_in, networks.width, networks.width, 2], nn.ReLU()), Direction())

    def energy_trunk(self, together: Sequence[Modality], width: int) -> nn.Module:
        return VectorTrunk(2 * len(together), width)

    def judge_trunk(self, width: int, n_features: int) -> nn.Module:
        return mlp([2, n_features, n_features], nn.ReLU())

    def likelihood(self, family: str, scale: float, weight: float) -> VonMises:
        return VonMises(scale, weight)

    def settle(self, moved: Tensor) -> Tensor:
        return normalize(moved, dim=1)

    def seen(self, state: Tensor) -> Tensor:
        return self.settle(state)
