"""What the two chains of a model are given."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

Steps = Annotated[int, Field(ge=0, le=10_000, description="Langevin steps")]
Noise = Annotated[float, Field(ge=0, description="scale of the noise of a step, state units")]


@dataclass(frozen=True)
class Displaced:
    """Steps on the energy that move every item by one length along its normalised gradient, which training steers.

    They do not change when the energy is scaled, and seek modes: they do not sample exp(-E / T).
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    kind: Literal["displaced"] = "displaced"
    steps: Steps = 10
    noise_scale: Noise = 0.001
    displacement_max: Annotated[
        float, Field(ge=1e-3, description="most that a step moves, rms per coordinate, state units")
    ] = 0.004


@dataclass(frozen=True)
class Langevin:
    """Langevin steps on the energy of s^2/2 times the gradient, eq. (3) of arXiv 2605.00644."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    kind: Literal["langevin"] = "langevin"
    steps: Steps = 10
    step_size: Annotated[float, Field(gt=0, le=10, description="s, state units")] = 0.5
    noise_scale: Noise = 0.001


DataChain = Displaced | Langevin


@dataclass(frozen=True)
class LatentChain:
    """Langevin steps on log p(X, z, W), eq. (8) of arXiv 2605.00644."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    steps: Steps = 5
    step_size: Annotated[float, Field(gt=0, le=1, description="step size and noise, latent units")] = 0.05
