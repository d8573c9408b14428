"""What one part of the data is, and how its raw values become the state that networks and chains see.

Pictures: raw is uint8 or float in [0, 1], channels first; the state is float32 in [-1, 1].
Vectors: raw is float; the state is standardised by the training set's mean and standard deviation.
"""

from dataclasses import asdict, dataclass
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor

Views = dict[str, Tensor]


@dataclass(frozen=True)
class Modality:
    """Name, kind, item shape (`(C, H, W)` or `(D,)`) and, for vectors, the standardisation."""

    name: str
    kind: Literal["picture", "vector"]
    shape: tuple[int, ...]
    loc: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    @property
    def size(self) -> int:
        """Number of coordinates of one item: the product of `shape`."""
        return prod(self.shape)

    def to_state(self, raw: Tensor) -> Tensor:
        """Map raw values [B, *shape] to the float32 state [B, *shape]; NaN passes through, for the caller to mask."""
        if self.kind == "picture":
            if raw.dtype == torch.uint8:
                return raw.to(torch.float32).mul_(2 / 255).sub_(1)
            return raw.to(torch.float32) * 2 - 1
        raw = raw.to(torch.float32)
        return (raw - raw.new_tensor(self.loc)) / raw.new_tensor(self.scale) if self.loc else raw

    def to_raw(self, state: Tensor) -> Tensor:
        """Map the state [B, *shape] back: pictures to float in [0, 1] (clamped), vectors to their own units."""
        if self.kind == "picture":
            return state.add(1).div(2).clamp(0, 1)
        return state * state.new_tensor(self.scale) + state.new_tensor(self.loc) if self.loc else state

    def to_json(self) -> dict[str, Any]:
        """Return plain values, from which `from_json` restores an equal object."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Modality":
        """Rebuild from `to_json`, which a JSON file turned tuples into lists of."""
        loc, scale = tuple(values["loc"]), tuple(values["scale"])
        return cls(values["name"], values["kind"], tuple(values["shape"]), loc, scale)
