"""What a way of training is: frozen settings, a step, and the rates at which it learns."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from multiebm.core.batch import Batch
from multiebm.models.inference import Posterior
from multiebm.models.model import MultimodalModel
from multiebm.priors.prior import PriorSettings, Settling
from multiebm.training.state import TrainState


class Chosen(NamedTuple):
    """What else a run has chosen, which a phase may not go with."""

    prior: PriorSettings
    family: str  # of the experts
    private: int  # size of private latents, 0 = none
    subsets: str  # model.inference.subsets
    energy: bool  # whether there is one
    phases: "Sequence[Phase]"
    interaction: bool = False  # whether there is an energy of interaction
    from_noise: bool = False  # whether the data chain starts from noise


@dataclass(frozen=True)
class Phase(ABC):
    """Settings of one way of training: a `kind`, by which the table has it, and how many steps it takes.

    A method that is left as it stands here says that there is nothing of the sort. `done` counts the phase's own steps.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    kind: str = ""
    planned: ClassVar[tuple[str, ...]] = ("steps",)  # settings that are numbers of steps, stretched to a time budget
    averages: ClassVar[str] = ""  # begins the names of the parameters whose averages its steps move
    is_last: ClassVar[bool] = False  # begins when the steps of all others are made; its own are not counted by the loop
    steps: Annotated[int, Field(ge=0, description="training steps; 0 = the phase is left out")] = 0

    @abstractmethod
    def step(self, state: TrainState[MultimodalModel], batch: Batch, done: int) -> dict[str, float]:
        """Make one step on views [B, ...]; metrics by name."""

    def factor(self, done: int) -> float:
        """Return the factor on the rates of generator and inference model."""
        return 1.0

    @property
    def momentum(self) -> float | None:
        """First moment decay of generator, inference model and energy here; None = that of training.optimiser.betas."""
        return None

    def optimisers(self, model: MultimodalModel) -> dict[str, Optimizer]:
        """Return the optimisers of its own, by name, of parts that no other phase teaches; `step` sets their rates."""
        return {}

    def marks(self) -> tuple[int, ...]:
        """Return the steps within the phase at which another part begins to learn."""
        return ()

    def settling(self, beta: float, rate: float) -> Settling:
        """Return how priors settle after a phase that `is_last`, given beta of the bound and the prior's rate."""
        return Settling(rate=rate)

    def problems(self, chosen: Chosen) -> list[str]:
        """Return a line for every pair of choices that cannot both be meant, with the way out."""
        return []


def log_likelihood_metrics(model: MultimodalModel, weighed: Tensor, present: Tensor) -> dict[str, float]:
    """Return log_likelihood/name, nats: means of log-likelihoods [N, M], which have the weights of their parts and are
    logged without, over the items that have the part, `present` [N, M].
    """
    means = torch.where(present, weighed.detach(), 0.0).sum(0) / present.float().sum(0).clamp_min(1)
    weights = model.generator.weights()
    return {f"log_likelihood/{n}": mean / weights[n] for n, mean in zip(model.modalities, means.tolist(), strict=True)}


def encoder_metrics(posterior: Posterior, batch: Batch) -> dict[str, float]:
    """Return mean and least scale of the experts of present parts; nothing where there is no shared latent."""
    scale = posterior.experts.scale.detach()[batch.present.T]
    return {"encoder/scale_mean": scale.mean().item(), "encoder/scale_min": scale.min().item()} if scale.numel() else {}
