"""Pictures: raw uint8, or float32 in [0, 1] or in a declared range, channels first; states float32 in [-1, 1].

Values without a declared range are bytes 0..255, bool (black and white), or floats in [0, 1].
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from multiebm.core.errors import ConfigError, DataError
from multiebm.core.handed import Handed, Mask
from multiebm.modalities.base import Given, Modality, Shows, unknown_keys
from multiebm.modalities.pixels import AXES, as_picture, check_dark, check_layout, range_problem
from multiebm.nn.energies import PictureTrunk
from multiebm.nn.judges import picture_body, shifted
from multiebm.nn.pictures import conv_decoder, conv_encoder, resnet_decoder, resnet_encoder


@dataclass(frozen=True)
class PictureNetworks:
    """Encoders and decoders of pictures."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    kind: Annotated[
        Literal["resnet", "mmvaeplus", "conv"],
        Field(description="ResNets, those as MMVAE+ published them, or MoPoE's plain convolutions"),
    ] = "resnet"
    width: Annotated[PositiveInt, Field(description="channels of the first stage")] = 16
    separate_trunks: Annotated[
        bool, Field(description="private latents get an encoder trunk of their own (MMVAE+)")
    ] = False
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

    name: str
    shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    range: tuple[float, float] | None = None
    layout: Literal["chw", "hwc"] = field(default="chw", repr=False)  # the same data in another layout are no others

    def __post_init__(self) -> None:
        if self.range is not None and (problem := range_problem(self.range)):
            raise ConfigError(f"modality {self.name!r}, range: {problem}")

    @property
    def places(self) -> int:
        """Pixels."""
        return self.shape[1] * self.shape[2]

    @classmethod
    def declaration_problems(cls, where: str, declared: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with {layout: chw or hwc, range: [low, high] (optional)}."""
        problems = []
        if declared.get("layout") not in AXES:
            problems.append(f"{where}.layout: got {declared.get('layout')!r}, expected chw or hwc; it is never guessed")
        if "range" in declared and (problem := range_problem(declared["range"])):
            problems.append(f"{where}.range: {problem}")
        return problems + unknown_keys(where, declared, ["kind", "layout", "range"])

    @classmethod
    def declare(cls, name: str, declared: Mapping[str, Any], part: Handed, where: str) -> Self:
        """Return the modality of pictures [N, C, H, W] or [N, H, W, C], as declared."""
        shape, layout = part.values.shape, declared["layout"]
        if len(shape) != 4:
            channel = "array[:, None]" if layout == "chw" else "array[..., None]"
            extra = f"for grey pictures add a channel axis, {channel}" if len(shape) == 3 else "reshape it"
            raise DataError(f"{where}: got shape {shape}, expected 4 axes, (N, {AXES[layout]}); {extra}")
        if 0 in shape:
            raise DataError(f"{where}: got shape {shape}, expected no axis of length 0; check how it was made")
        check_layout(shape, layout, where)
        span = declared.get("range")
        span = None if span is None else (float(span[0]), float(span[1]))
        return cls(name, shape[1:] if layout == "chw" else (shape[3], *shape[1:3]), span, layout)

    def read(self, part: Handed, present: Mask, where: str) -> Tensor:
        """Return pictures handed over, channels first or in the declared layout, as uint8 or float32 [N, C, H, W]."""
        values, last = part.values, (*self.shape[1:], self.shape[0])
        if self.layout == "hwc" and values.shape[1:] == last:  # what a model gave has channels first already
            values = np.moveaxis(values, -1, 1)
        if values.shape[1:] != self.shape:
            raise DataError(f"{where}: {self._shape_message(values.shape)}")
        return as_picture(values, self.range, present, where)

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
        """Refuse pictures without a range that are nearly black in all splits."""
        if self.range is None:
            check_dark(every, where)
        return self

    def check(self, raw: Tensor, present: Tensor, where: str) -> None:
        """Take all pictures [N, C, H, W]: their values are in a range."""

    def to_state(self, raw: Tensor) -> Tensor:
        """Map [B, C, H, W] from black..white to [-1, 1]."""
        if self.range is not None:
            return self.show(raw).mul_(2).sub_(1).to(torch.float32)
        if raw.dtype == torch.uint8:
            return raw.to(torch.float32).mul_(2 / 255).sub_(1)
        return raw.to(torch.float32) * 2 - 1

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

    def energy_trunk(self, together: Sequence[Modality], width: int, blocks: int) -> nn.Module:
        """Return residual blocks on pictures of one size, stacked on channels: [B, C, H, W] each -> [B, width]."""
        if len(sizes := {m.shape[1:] for m in together}) > 1:
            raise ConfigError(f"energy.fusion=early needs pictures of one size, got {sorted(sizes)}; use fusion: late")
        return PictureTrunk([m.shape[0] for m in together], width, blocks)

    def judge_trunk(self, width: int, n_features: int) -> nn.Module:
        """Return convolutions with batch norm: [B, C, H, W] -> [B, n_features]."""
        return picture_body(self.shape, width, n_features)

    def jitter(self, state: Tensor, rng: torch.Generator) -> Tensor:
        """Move the pictures [B, C, H, W] of a batch by up to a pixel each way."""
        return shifted(state, rng)

    def seen(self, state: Tensor) -> Tensor:
        """Clamp [B, C, H, W] to [-1, 1]."""
        return state.clamp(-1, 1)
