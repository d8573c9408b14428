"""What a prior over a latent is, and all that training, bounds and the guard ask of one.

A new prior is one file: a class of this kind, and the frozen settings that build it. A method that is left as it stands
here says that the prior has no part in it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from multiebm.core.random import Randomness
from multiebm.mcmc.annealing import LogNormalizer
from multiebm.mcmc.run import ChainInfo

RIDGE = 1e-4  # least variance added to those of a mixture, squared latent units


def ridge_for(step_size: float) -> float:
    """Return the ridge with which a Langevin chain of this step size does not oscillate on a component.

    On variance v its mean moves by the factor 1 - s^2 / 2v, never negative for v >= s^2 / 2; its own variance is
    then at most 2v. A tilt of the mixture is not bounded by this.
    """
    return max(RIDGE, step_size**2 / 2)


class Settling(NamedTuple):
    """How priors settle when training is over: see training/phases/settle.py."""

    steps: int = 0
    widen_base: float = 1.0
    prune: float = 0.0  # weight of the entropy by which clusters are pruned; 0: they are not
    rate: float = 1e-3


class Settled(NamedTuple):
    """A sentence for the user, "" where all is well; not `ok`: it could not, and is as before."""

    said: str = ""
    ok: bool = True


class Density(Protocol):
    """What a bound asks of a prior."""

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log density in nats: [..., D] -> [...]."""
        ...


class Prior(nn.Module, ABC):
    """A density over codes [N, D], normalised but for a constant where not `normalised`."""

    dim: int
    normalised = True
    follows = False  # whether the codes of every step move it
    by_chain = False  # whether `sample` runs a `chain`
    steps = 0  # of that chain

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log density in nats, up to a constant unless `normalised`: [..., D] -> [...]."""

    @abstractmethod
    def sample(self, n: int, rng: Randomness, temperature: float = 1.0) -> Tensor:
        """Draw [n, D], at a `temperature` T from the density to the power 1 / T (of a mixture every component's)."""

    def chain(
        self, n: int, rng: Randomness, temperature: float = 1.0, record: bool = False
    ) -> tuple[Tensor, ChainInfo]:
        """Run the chain of `sample` to its end [n, D]; `record`: with every position on the way."""
        raise NotImplementedError(f"{type(self).__name__}: got by_chain {self.by_chain} without a chain, expected one")

    def untilted(self) -> "Prior":
        """Return the normalised density that it tilts, itself where it tilts none."""
        return self

    def log_normalizer(self, n: int, rng: Randomness) -> Tensor:
        """Return a scalar whose gradient is that of log Z, from n draws; 0 (shape []) where normalised."""
        return torch.zeros(())

    def estimate_log_normalizer(self, n: int, stages: int, rng: Randomness) -> LogNormalizer:
        """Return log Z from n draws and as many `stages` of annealing; exactly 0 where normalised."""
        return LogNormalizer(0.0, 0.0)

    def for_bound(self, learns: bool) -> Density:
        """Return what a bound sees in its place; `learns`: its own parameters do by now."""
        return self

    def follow(self, codes: Tensor) -> None:
        """Move towards the codes [N, D] of a step; DivergenceError where it cannot."""

    def own_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that learn by `loss`; the others learn by the bound."""
        return []

    def loss(self, codes: Tensor, samples: Tensor) -> Tensor:
        """Return what its own parameters minimise, shape [], from codes [N, D] and own samples [N', D]."""
        raise NotImplementedError(f"{type(self).__name__}: got own parameters without a loss, expected one")

    def diagnose(self, codes: Tensor, samples: Tensor, seed: int) -> dict[str, float]:
        """Return metrics of codes [N, D] against own samples [N', D]; draws of its own are made from `seed`."""
        return {}

    def limits(self) -> dict[str, float]:
        """Return the metrics of `diagnose` that say it has run away, with the most that is allowed."""
        return {}

    def warning(self, metrics: Mapping[str, float]) -> str:
        """Return a sentence for the user where it has learned nothing, "" otherwise."""
        return ""

    def settles_on(self, how: Settling) -> Literal["draws", "locations"] | None:
        """Return the codes it settles on: draws, locations of the experts, or none."""
        return None

    def settle(self, codes: Tensor, rng: torch.Generator, how: Settling, tell: Callable[[str], None]) -> Settled:
        """Learn on from codes [N, D] that no longer move.

        `tell` hears how far it is. DivergenceError where the codes are too far out.
        """
        return Settled()


@dataclass(frozen=True)
class PriorSettings(ABC):
    """Frozen settings of a prior: a `kind`, by which the table has it, and how it is built."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    kind: str

    @abstractmethod
    def build(self, dim: int, family: str, ridge: float) -> Prior:
        """Return the prior over [D], fresh. `family` is that of the experts; `ridge` the least variance of mixtures."""

    @property
    def taught(self) -> bool:
        """Whether a bound teaches it: it has parameters that no other loss reaches, such as learned scales."""
        return bool(getattr(self, "learned_scale", False))

    @property
    def settles_by(self) -> tuple[str, ...]:
        """The settings of a phase settle that it heeds."""
        return ()

    def problems(self) -> list[str]:
        """Return a line for every pair of settings that cannot both be meant, with the way out."""
        return []
