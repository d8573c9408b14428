"""What the two chains of a model are given."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

Steps = Annotated[int, Field(ge=0, le=10_000, description="Langevin steps")]
Noise = Annotated[float, Field(ge=0, description="scale of the noise of a step, state units")]
StepSize = Annotated[
    Annotated[float, Field(gt=0, le=10)] | Literal["steered"],
    Field(description="s, state units; steered: training finds it"),
]
SteeredMost = Annotated[
    float, Field(ge=1e-3, description="of a steered step: most that it moves on average, as of displaced ones")
]


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
    """Langevin steps on the energy of s^2/2 times the gradient, eq. (3) of arXiv 2605.00644.

    With noise n they sample exp(-E / T), T = (n / s)^2, up to the bias of a finite step. Steered, s is one number for
    all items and steps, which training moves such that the mean step on the gradient is as long as a displaced one.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    kind: Literal["langevin"] = "langevin"
    steps: Steps = 10
    step_size: StepSize = 0.5
    noise_scale: Noise = 0.001
    displacement_max: SteeredMost = 0.004


@dataclass(frozen=True)
class ShortRun(Langevin):
    """Langevin steps that start from noise, not from the generator's samples (short-run MCMC, arXiv 1904.09770).

    Noise is uniform on [-1, 1] for pictures and N(0, I) for vectors. By default a step adds the whole gradient:
    s^2/2 = 1. With spectral norm gradients are small; a steered s then grows until the chain reaches the data.
    """

    kind: Literal["short_run"] = "short_run"  # type: ignore[assignment]
    steps: Steps = 100
    step_size: StepSize = 2**0.5
    noise_scale: Noise = 0.01
    displacement_max: SteeredMost = 0.03


DataChain = Displaced | Langevin | ShortRun


def starts_from_noise(chain: DataChain) -> bool:
    """Return whether a data chain starts from noise; else it starts from the views that it is given."""
    return isinstance(chain, ShortRun)


def steers_step_size(chain: DataChain) -> bool:
    """Return whether training finds the step size s of a Langevin chain."""
    return isinstance(chain, Langevin) and chain.step_size == "steered"


def is_steered(chain: DataChain) -> bool:
    """Return whether training steers how far a step of the data chain goes."""
    return isinstance(chain, Displaced) or steers_step_size(chain)


@dataclass(frozen=True)
class LatentChain:
    """Langevin steps on log p(X, z, W), eq. (8) of arXiv 2605.00644."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    steps: Steps = 5
    step_size: Annotated[float, Field(gt=0, le=1, description="step size and noise, latent units")] = 0.05
