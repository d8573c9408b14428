"""Pictures: raw uint8, or float32 in [0, 1] or in a declared range, channels first; states float32 in [-1, 1].

Values without a declared range are bytes 0..255, bool (black and white), or floats in [0, 1]. Always a copy is kept.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from multiebm.core.errors import ConfigError, DataError
from multiebm.core.handed import Handed, Mask
from multiebm.distributions.likelihoods import Bernoulli, Observation
from multiebm.modalities.base import Given, Modality, Scale, Shows, refuse, unknown_keys
from multiebm.modalities.gaps import missing_problems
from multiebm.modalities.picture_sizes import CHANNELS, check_size, size_of
from multiebm.modalities.ranges import declare_range, range_of_bits, range_problem
from multiebm.nn.blocks import PictureTrunk, stages_before
from multiebm.nn.pictures import conv_decoder, conv_encoder, picture_body, resnet_decoder, resnet_encoder, shifted, ssim

logger = logging.getLogger("multiebm")

AXES = {"chw": "C, H, W", "hwc": "H, W, C", "hw": "H, W"}  # by layout
COLOURS = {1: "grey", 3: "RGB", 4: "RGBA"}  # what so many channels are called
TOLERANCE = 1e-6  # share of a range by which rounding may leave it; such values are clamped


@dataclass(frozen=True)
class PictureNetworks:
    """Encoders and decoders of pictures."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    kind: Annotated[
        Literal["resnet", "mmvaeplus", "conv"],
        Field(description="ResNets, those as MMVAE+ published them, or MoPoE's plain convolutions"),
    ] = "resnet"
    width: Annotated[PositiveInt, Field(description="channels of the first stage")] = 16
    bounded: Annotated[bool, Field(description="decoders end in tanh, the range of the states")] = True


@dataclass(frozen=True)
class Picture(Modality):
    """`shape` (C, H, W); the `range` of raw values, black to white, where it was declared; the `layout` of what users
    hand over. Raw values and states are channels first whatever it is.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    kind: ClassVar[str] = "picture"
    shows: ClassVar[Shows] = "pictures"
    networks: ClassVar[type] = PictureNetworks
    blurs: ClassVar[bool] = True
    noise_range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    likelihoods: ClassVar[Mapping[str, Scale]] = {"normal": "learned", "laplace": "learned", "bernoulli": "none"}

    name: str
    shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    range: tuple[float, float] | None = None
    layout: Literal["chw", "hwc", "hw"] = field(default="chw", repr=False)  # the same data, however they are laid out
    missing: Literal["nan"] | None = field(default=None, repr=False)
    scaled: bool = field(default=False, repr=False)  # files, and pictures in lists, are cut and scaled to the shape
    named_by: str = field(default="", repr=False)  # the column of a table that named its files

    def __post_init__(self) -> None:
        if self.range is not None and (problem := range_problem(self.range)):
            raise ConfigError(f"modality {self.name!r}, range: {problem}")

    @property
    def handed_columns(self) -> tuple[str, ...]:
        """The column of a table that names its files, where there was one."""
        return (self.named_by,) if self.named_by else ()

    @property
    def places(self) -> int:
        """Pixels."""
        return self.shape[1] * self.shape[2]

    @classmethod
    def infer(cls, part: Handed) -> dict[str, Any] | None:
        """Take bytes, bool, 16-bit numbers, and floats in [0, 1], in three axes (N, H, W) or in four with channels.

        The axis of channels is the shorter one of the first and the last, and at most CHANNELS long; none is told where
        both may be channels, of which there are 1 to 4 as a rule.
        """
        values, shape = part.values, part.values.shape
        kind, bits = values.dtype.kind, 8 * values.dtype.itemsize
        if kind not in "buf" or (kind == "u" and bits > 16) or 0 in shape or len(shape) not in (3, 4):
            return None
        if kind == "f" and (len(shape) == 3 or not (np.nanmin(values) >= 0 and np.nanmax(values) <= 1)):
            return None
        found: dict[str, Any] = {"layout": "hw"}
        if len(shape) == 4:
            few, many = sorted((shape[1], shape[3]))
            if few > CHANNELS or few == many or (few > max(COLOURS) and many <= CHANNELS):
                return None
            found = {"layout": "chw" if shape[1] < shape[3] else "hwc"}
        return found | range_of_bits(values)

    def describe(self) -> str:
        """Return, say, "32x48 RGB pictures" (height x width)."""
        channels, height, width = self.shape
        colours = COLOURS.get(channels, f"{channels}-channel")
        span = "" if self.range is None else f", {self.range[0]:g} to {self.range[1]:g}"
        return f"{height}x{width} {colours} pictures{span}"

    @classmethod
    def declaration_problems(cls, where: str, declared: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with {layout: chw, hwc or hw, range: [low, high], size: 64 or 48x64, missing: nan}, all
        optional.
        """
        problems = missing_problems(where, declared)
        if declared.get("layout", "hw") not in AXES:
            problems.append(
                f"{where}.layout: got {declared['layout']!r}, expected chw, hwc or hw (no axis of channels)"
            )
        if "range" in declared and (problem := range_problem(declared["range"])):
            problems.append(f"{where}.range: {problem}")
        try:
            size_of(declared, f"{where}.size")
        except ConfigError as error:
            problems.append(str(error))
        return problems + unknown_keys(where, declared, ["kind", "layout", "range", "size", "missing", "named_by"])

    @classmethod
    def declare(cls, name: str, declared: Mapping[str, Any], part: Handed, where: str) -> Self:
        """Return the modality of pictures [N, C, H, W] or [N, H, W, C], as declared.

        What is far more likely pictures of the other layout is refused: as that, grey or RGB with sides above 4, and as
        declared, strips of 1 or 3 pixels in many channels. Where either may be, the declaration counts, and a warning.
        """
        shape = part.values.shape
        if "layout" not in declared and len(shape) == 4 and {shape[1], shape[3]} in ({1, 3}, {1, 4}):
            _say_either(name, shape, where)
        declared = {**range_of_bits(part.values), **(cls.infer(part) or {}), **declared}
        layout = declared.get("layout")
        if layout is None:
            raise DataError(
                f"{where}: got shape {shape} of {part.values.dtype}, expected pictures whose layout can be told, bytes "
                "or floats in [0, 1], with channels on the shorter of the first and the last axis; declare layout: "
                "chw, hwc or hw, and range: [black, white] for other numbers"
            )
        if layout == "hw":
            if len(shape) != 3 or 0 in shape:
                raise DataError(
                    f"{where}: got shape {shape}, expected 3 axes, (N, H, W), as declared by layout hw; declare "
                    "layout: chw or hwc if there are channels"
                )
            shape, layout = (shape[0], 1, *shape[1:]), "chw"
        if len(shape) != 4:
            channel = "array[:, None]" if layout == "chw" else "array[..., None]"
            extra = f"for grey pictures add a channel axis, {channel}" if len(shape) == 3 else "reshape it"
            raise DataError(f"{where}: got shape {shape}, expected 4 axes, (N, {AXES[layout]}); {extra}")
        if 0 in shape:
            raise DataError(f"{where}: got shape {shape}, expected no axis of length 0; check how it was made")
        channels, other = (shape[1], shape[3]) if layout == "chw" else (shape[3], shape[1])
        if channels > 4 and other <= 4:
            swapped, axes = ("hwc", "(0, 2, 3, 1)") if layout == "chw" else ("chw", "(0, 3, 1, 2)")
            text = (
                f"{where}: got shape {shape}, expected (N, {AXES[layout]}) as declared by layout {layout}; this looks "
                f"like {swapped.upper()}, so declare layout: {swapped}"
            )
            if other in (1, 3) and shape[2] > 4:
                raise DataError(f"{text} (if there are {channels} channels, do so and pass array.transpose{axes})")
            logger.warning("%s if it is", text)
        span = None if (span := declared.get("range")) is None else (float(span[0]), float(span[1]))
        size = shape[1:] if layout == "chw" else (shape[3], *shape[1:3])
        check_size(size, where)
        if (asked := size_of(declared)) and asked != size[1:]:
            raise DataError(
                f"{where}: got pictures of {size[1]}x{size[2]} pixels (height x width), expected {asked[0]}x{asked[1]}"
                ", the declared size; files and lists of pictures are scaled to it, arrays are not: pass list(array)"
            )
        return cls(
            name,
            size,
            span,
            declared["layout"],
            declared.get("missing"),
            asked is not None,
            str(declared.get("named_by", "")),
        )

    def read(self, part: Handed, present: Mask, where: str) -> Tensor:
        """Return pictures handed over, channels first or in the declared layout, as [N, C, H, W]: uint8 of bytes and
        bool, else float32, in their range.

        What leaves the range by rounding is clamped; floats that are not `present` become black.
        """
        values, last, span = part.values, (*self.shape[1:], self.shape[0]), self.range
        if self.layout == "hw" and values.shape[1:] == self.shape[1:]:
            values = values[:, None]
        elif self.layout == "hwc" and values.shape[1:] == last:  # what a model gave has channels first already
            values = np.moveaxis(values, -1, 1)
        if values.shape[1:] != self.shape:
            raise DataError(f"{where}: {self._shape_message(values.shape)}")
        kind, got = values.dtype.kind, "floats" if values.dtype.kind == "f" else values.dtype
        is_bytes = kind == "b" or values.dtype == np.uint8
        if span is None and is_bytes:
            kept = values.astype(np.uint8, order="C")
            return torch.from_numpy(kept * np.uint8(255) if kind == "b" else kept)
        low, high = map(float, (0, 1) if span is None else span)
        rows = values[present]
        if kind == "f":
            bad = np.zeros(values.shape, bool)
            bad[present] = ~np.isfinite(rows)
            refuse(bad, where, bool(np.isnan(rows).any()))
        least, most = (float(rows.min()), float(rows.max())) if rows.size else (low, low)
        if span is None and kind != "f":
            raise DataError(
                f"{where}: got dtype {values.dtype} in [{least:g}, {most:g}], expected uint8 or floats in [0, 1]; "
                f"{declare_range(min(least, 0), 2 ** math.ceil(math.log2(max(most, 1) + 1)) - 1)}, or what black and "
                "white are, or convert it"
            )
        slack = TOLERANCE * (high - low)
        if least < low - slack or most > high + slack:
            fix = f"{declare_range(least, most)}, or clip the values"
            if span is None:
                signed = "map it to [0, 1], for example (x + 1) / 2 when it is in [-1, 1]"
                fix = f"{'divide by 255, or pass uint8' if least >= 0 else signed}, or {declare_range(least, most)}"
            raise DataError(f"{where}: got {got} in [{least:g}, {most:g}], expected [{low:g}, {high:g}]; {fix}")
        if is_bytes:
            return torch.from_numpy(values.astype(np.uint8, order="C"))
        kept = np.full(values.shape, low, np.float32)
        kept[present] = np.clip(rows, low, high)
        return torch.from_numpy(kept)

    def _shape_message(self, got: tuple[int, ...]) -> str:
        last = (*self.shape[1:], self.shape[0])
        shape, axis = (last, "x[..., None]") if self.layout == "hwc" else (self.shape, "x[:, None]")
        message = f"got shape {got}, expected (rows, {', '.join(map(str, shape))})"
        if got in (self.shape, shape):
            return f"{message}; of one item pass x[None]"
        if len(got) == 4 and got[1:] == last:
            return f"{message}: channels are last; pass x.permute(0, 3, 1, 2), of an array x.transpose(0, 3, 1, 2)"
        if len(got) == 4 and got[-1 if self.layout == "hwc" else 1] == self.shape[0]:
            return f"{message}; resize the pictures to {self.shape[1]}x{self.shape[2]}"
        if (1, *got[1:]) == self.shape:
            return f"{message}; add the channel axis, {axis}"
        return f"{message}; reshape it"

    def fit(self, train: Given, every: Sequence[Given], where: str) -> Self:
        """Refuse pictures [N, C, H, W] without a range that are nearly black in all splits, so in other units.

        These are bytes that never pass an eighth of 255 (masks, classes, other grey levels), and floats that vary and
        never pass 1 / 255 (divided twice).
        """
        if self.range is not None:
            return self
        rows = [raw[present] for raw, present in every if present.any()]  # of each split
        least = min((float(of.min()) for of in rows), default=0)
        most = max((float(of.max()) for of in rows), default=0)
        if any(raw.dtype == torch.uint8 for raw, _ in every):
            is_dark, got, units = 0 < most < 32 and (most == 1 or least < most), "uint8", "0..255"
            fix = f"{declare_range(0, most)}, or range: [0, 255]"
        else:
            is_dark, got, units = least < most <= (1 + TOLERANCE) / 255, "floats", "[0, 1]"
            fix = f"if bytes were divided by 255 twice, do it once, or {declare_range(0, most)}, or range: [0, 1]"
        if is_dark:
            raise DataError(
                f"{where}: got {got} in [{least:g}, {most:g}], expected them in {units}, of which these are nearly "
                f"black; {fix} if they are that dark"
            )
        return self

    def to_state(self, raw: Tensor) -> Tensor:
        """Map [B, C, H, W] from black..white to [-1, 1]."""
        if self.range is not None:
            return self.show(raw).mul_(2).sub_(1).to(torch.float32)
        unit = raw.to(torch.float32)  # of bytes a copy
        return unit.mul_(2 / 255).sub_(1) if raw.dtype == torch.uint8 else unit * 2 - 1

    def to_raw(self, state: Tensor) -> Tensor:
        """Map [B, C, H, W] back to float32 in [0, 1] or the declared range, clamped."""
        unit = state.add(1).div(2).clamp(0, 1)
        if self.range is None:
            return unit
        low, high = self.range
        return unit.double().mul_(high - low).add_(low).to(torch.float32)

    def as_given(self, raw: Tensor) -> Tensor:
        """Return [B, C, H, W] as float32: bytes as v / 255, others as they are."""
        return raw.to(torch.float32) / 255 if raw.dtype == torch.uint8 and not self.range else raw.to(torch.float32)

    def show(self, raw: Tensor) -> Tensor:
        """Return [B, C, H, W] in [0, 1]."""
        if self.range is None:
            return raw
        low, high = self.range
        return raw.to(torch.float64, copy=True).sub_(low).div_(high - low)

    def encoder(self, n_out: int, networks: PictureNetworks) -> nn.Module:
        """Return a ResNet or plain convolutions, and one linear layer: [B, C, H, W] -> [B, n_out]."""
        if networks.kind == "conv":
            return conv_encoder(self.shape, n_out, networks.width)
        return resnet_encoder(self.shape, n_out, networks.width, networks.kind == "mmvaeplus")

    def decoder(self, n_in: int, networks: PictureNetworks) -> nn.Module:
        """Return one linear layer, and a ResNet or transposed convolutions: [B, n_in] -> [B, C, H, W]."""
        if networks.kind == "conv":
            return conv_decoder(n_in, self.shape, networks.width, networks.bounded)
        return resnet_decoder(n_in, self.shape, networks.width, networks.bounded, networks.kind == "mmvaeplus")

    def energy_trunk(self, together: Sequence[Modality], width: int) -> nn.Module:
        """Return residual blocks on pictures of one size, stacked on channels: [B, C, H, W] each -> [B, width]."""
        if len(sizes := {m.shape[1:] for m in together}) > 1:
            raise ConfigError(f"energy.fusion=early needs pictures of one size, got {sorted(sizes)}; use fusion: late")
        return PictureTrunk([m.shape[0] for m in together], width, before=stages_before(self.shape[1:], width))

    def judge_trunk(self, width: int, n_features: int) -> nn.Module:
        """Return convolutions with batch norm: [B, C, H, W] -> [B, n_features]."""
        return picture_body(self.shape, width, n_features)

    def jitter(self, state: Tensor, rng: torch.Generator) -> Tensor:
        """Move the pictures [B, C, H, W] of a batch by up to a pixel each way."""
        return shifted(state, rng)

    def likelihood(self, family: str, scale: float | Literal["learned"], weight: float) -> Observation:
        """Return p(x | mean) of states; `bernoulli` takes greys for shares of white."""
        return Bernoulli(weight) if family == "bernoulli" else super().likelihood(family, scale, weight)

    def seen(self, state: Tensor) -> Tensor:
        """Clamp [B, C, H, W] to [-1, 1]."""
        return state.clamp(-1, 1)

    def errors(self, true: Tensor, predicted: Tensor, spread: Tensor) -> dict[str, Tensor]:
        """Return squares [N, C * H * W] in units of one deviation, that of all pixels, and the similarity [N, 1]."""
        one = spread.square().mean().sqrt().expand_as(spread)  # else pixels that hardly vary would count most
        return super().errors(true, predicted, one) | {"ssim": ssim(true, predicted, 2.0)[:, None]}


def _say_either(name: str, shape: tuple[int, ...], where: str) -> None:
    """Say how pictures (N, 1, W, 3) or (N, 3, W, 1) are read, of 4 too, which may be grey or of one colour a pixel."""
    as_read, other = ("chw", "hwc") if shape[1] == 1 else ("hwc", "chw")
    sides = shape[2:] if as_read == "chw" else shape[1:3]
    logger.warning(
        "%s: got shape %s, read as grey pictures of %dx%d pixels (layout: %s); if the axis of length %d has colours, "
        "declare layout: %s (--kind %s=picture,layout=%s, in Python kinds={%r: {'kind': 'picture', 'layout': %r}})",
        *(where, shape, *sides, as_read, max(shape[1], shape[3]), other, name, other, name, other),
    )
