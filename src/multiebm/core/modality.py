"""What one part of the data is, and how its raw values become the state that networks and chains see.

Pictures: raw is uint8 or float in [0, 1], or in a declared range, channels first; the state is float32 in [-1, 1].
Vectors: raw is float64; the state is float32, standardised by the training set's mean and standard deviation.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from math import prod
from numbers import Real
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from multiebm.core.errors import ModalityError

Views = dict[str, Tensor]
T = TypeVar("T")

BESIDE = ("labels", "present")  # keys beside the modalities in files
RESERVED = (*BESIDE, "shared")  # and in latents
TEST, MASK = PREFIXES = ("test_", "present_")  # begin the keys of a test split, and of one modality's mask
NAME_LENGTH = 64
RAW_LIMIT = 1e37  # near the largest float32, which is what networks compute in
_LEVELS = 1000  # that float32, in which pictures are kept, must tell apart in their range
_TAKEN = "!"  # ends the key of a name that torch's containers use themselves; no name can hold it


def name_problem(name: object) -> str | None:
    """Return what is wrong with `name` for a modality, as "got ..., expected ..."; None if nothing is."""
    if not isinstance(name, str):
        return f"got {name!r}, which is no text, expected a name; quote it"
    if name in RESERVED or name.startswith(PREFIXES):
        return (
            f"got a reserved name, expected none of {', '.join(RESERVED)}, {', '.join(f'{p}*' for p in PREFIXES)}; "
            "rename the modality"
        )
    fits = all(c.isalpha() or c.isdecimal() or c in "_- " for c in name) and name.strip() == name
    if not fits or not 1 <= len(name) <= NAME_LENGTH or name[0] in "_-":
        return (
            f"got the name {name[: NAME_LENGTH + 1]!r}, expected 1 to {NAME_LENGTH} letters, digits, '_', '-' and "
            "spaces, the first a letter or digit; rename the modality"
        )
    return None


@lru_cache
def module_key(name: str) -> str:
    """Return the key of `name` in torch's containers of modules, which refuse the names of their own attributes."""
    return name + _TAKEN if hasattr(nn.ModuleDict(), name) or hasattr(nn.ParameterDict(), name) else name


def keyed(parts: Mapping[str, T]) -> dict[str, T]:
    """Return `parts` by the keys of their names."""
    return {module_key(name): part for name, part in parts.items()}


def name_of_key(key: str) -> str:
    """Return the name whose `module_key` is `key`."""
    return key.removesuffix(_TAKEN)


@dataclass(frozen=True)
class Modality:
    """Name, kind and item shape, `(C, H, W)` or `(D,)`. Vectors: the standardisation, and the names of the columns
    where training had them. Pictures: the `range` of their raw values where it was declared, black to white, and the
    `layout` of what users hand over; raw values and states are channels first whatever it is.
    """

    name: str
    kind: Literal["picture", "vector"]
    shape: tuple[int, ...]
    loc: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    range: tuple[float, float] | None = None
    columns: tuple[str, ...] = ()
    layout: Literal["chw", "hwc"] = "chw"

    def __repr__(self) -> str:
        """Name what is set; fingerprints of data sets are made of it, so that what is not set cannot change them."""
        usual = f"name={self.name!r}, kind={self.kind!r}, shape={self.shape}, loc={self.loc}, scale={self.scale}"
        rare = [f", {key}={value}" for key, value in (("range", self.range), ("columns", self.columns)) if value]
        return f"Modality({usual}{''.join(rare)})"

    @property
    def size(self) -> int:
        """Number of coordinates of one item: the product of `shape`."""
        return prod(self.shape)

    def channels_first(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return what a user hands over [B, ...] with channels first, if the layout hwc was declared and it fits.

        What has channels first already, as all that comes back has, is left so unless its shape fits both layouts.
        """
        last = (*self.shape[1:], self.shape[0])
        return np.moveaxis(values, -1, 1) if self.layout == "hwc" and values.shape[1:] == last else values

    def to_state(self, raw: Tensor) -> Tensor:
        """Map raw values [B, *shape] to the float32 state [B, *shape]; NaN passes through, for the caller to mask."""
        if self.kind == "picture":
            if self.range is not None:
                return self.shown(raw).mul_(2).sub_(1).to(torch.float32)
            if raw.dtype == torch.uint8:
                return raw.to(torch.float32).mul_(2 / 255).sub_(1)
            return raw.to(torch.float32) * 2 - 1
        if not self.loc:
            return raw.to(torch.float32)
        # a column of epoch seconds has its spread in digits that float32 does not hold
        exact = raw.to(torch.float64)
        return ((exact - exact.new_tensor(self.loc)) / exact.new_tensor(self.scale)).to(torch.float32)

    def to_raw(self, state: Tensor) -> Tensor:
        """Map the state [B, *shape] back: pictures to float32 in [0, 1] or their range (clamped), vectors to float64 in
        their own units.
        """
        if self.kind == "picture":
            unit = state.add(1).div(2).clamp(0, 1)
            if self.range is None:
                return unit
            low, high = self.range
            return unit.double().mul_(high - low).add_(low).to(torch.float32)
        state = state.to(torch.float64)
        return state * state.new_tensor(self.scale) + state.new_tensor(self.loc) if self.loc else state

    def as_given(self, raw: Tensor) -> Tensor:
        """Return observed raw values [B, *shape] in the type and units of `to_raw`: bytes as v / 255, others as is."""
        if self.kind == "vector":
            return raw.to(torch.float64)
        return raw.to(torch.float32) / 255 if raw.dtype == torch.uint8 and not self.range else raw.to(torch.float32)

    def shown(self, raw: Tensor) -> Tensor:
        """Return the values of `to_raw` as a screen shows them: pictures in [0, 1], vectors as they are."""
        if self.kind == "vector" or self.range is None:
            return raw
        low, high = self.range
        return raw.to(torch.float64, copy=True).sub_(low).div_(high - low)

    def clamp_state(self, state: Tensor) -> Tensor:
        """Return the state [B, *shape] as a user would see it: pictures within [-1, 1], vectors as they are."""
        return state.clamp(-1, 1) if self.kind == "picture" else state

    def to_json(self) -> dict[str, Any]:
        """Return plain values, from which `from_json` restores an equal object."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Modality":
        """Rebuild from `to_json`, which a JSON file turned tuples into lists of; ModalityError where it does not fit.

        `range`, `columns` and `layout` may be missing: files written before these existed have none of them.
        """
        if problem := _json_problem(values):
            raise ModalityError(f"modality: {problem}")
        span, columns = values.get("range"), tuple(values.get("columns", ()))
        numbers = tuple(values["loc"]), tuple(values["scale"])
        return cls(
            values["name"],
            values["kind"],
            tuple(values["shape"]),
            *numbers,
            None if span is None else tuple(span),
            columns,
            values.get("layout", "chw"),
        )


def range_problem(span: Any) -> str | None:
    """Return what is wrong with the declared range of a picture, as "got ..., expected ..."; None if nothing is."""
    fits = isinstance(span, list | tuple) and len(span) == 2 and all(map(_is_number, span)) and span[0] < span[1]
    if not fits:
        return f"got {span!r}, expected [low, high], two numbers, black and white; correct it"
    low, high = map(float, span)
    if (far := max(abs(low), abs(high))) > RAW_LIMIT:
        return f"got {span!r}, expected numbers of at most {RAW_LIMIT:g}; scale the values down"
    if high - low < _LEVELS * far * torch.finfo(torch.float32).eps:
        return (
            f"got {span!r}, too narrow so far from 0 for float32, expected one around 0; subtract low from the values"
        )
    return None


def _json_problem(values: Any) -> str | None:
    if not isinstance(values, dict):
        return f"got {type(values).__name__}, expected a description by key"
    known = {field.name for field in fields(Modality)}
    if wrong := [key for key in ("name", "kind", "shape", "loc", "scale") if key not in values]:
        return f"got no {wrong[0]}, expected one"
    if wrong := [key for key in values if key not in known]:
        return f"got unknown key {wrong[0]!r}, expected some of {', '.join(sorted(known))}"
    if problem := name_problem(values["name"]):
        return problem
    kind, shape, columns = values["kind"], values["shape"], values.get("columns", ())
    if kind not in ("picture", "vector"):
        return f"got kind {kind!r}, expected picture or vector"
    axes = 3 if kind == "picture" else 1
    whole = isinstance(shape, list | tuple) and all(type(n) is int and n > 0 for n in shape)
    if not whole or len(shape) != axes:
        return f"got shape {shape!r}, expected {axes} whole numbers above 0"
    for key in ("loc", "scale"):
        of = values[key]
        if not isinstance(of, list | tuple) or len(of) not in (0, shape[0]) or not all(map(_is_number, of)):
            return f"got {key} {str(of)[:40]}, expected {shape[0]} finite numbers, or none"
    if (
        len(values["loc"]) != len(values["scale"])
        or any(s <= 0 for s in values["scale"])
        or (axes == 3 and values["loc"])
    ):
        return "got a loc and scale that do not fit each other or the kind, expected one scale above 0 a coordinate"
    if not isinstance(columns, list | tuple) or len(columns) not in (0, shape[0]) or {type(c) for c in columns} - {str}:
        return f"got columns {str(columns)[:40]}, expected {shape[0]} names, or none"
    if values.get("layout", "chw") not in ("chw", "hwc"):
        return f"got layout {str(values['layout'])[:40]}, expected chw or hwc"
    span = values.get("range")
    return None if span is None else range_problem(span)


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(float(value))
    except OverflowError:  # a whole number beyond float64
        return False
