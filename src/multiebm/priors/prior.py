"""What a prior over a latent is, and all that training, bounds and the guard ask of one.

A new prior is one file: a class of this kind, and the frozen settings that build it. A method that is left as it stands
here says that the prior has no part in it.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from multiebm.core.random import Randomness

RIDGE = 1e-4  # least variance added to those of a mixture, squared latent units


def ridge_for(step_size: float) -> float:
    """Return the ridge with which a Langevin chain of this step size does not oscillate on a component.

    On variance v its mean moves by the factor 1 - s^2 / 2v, never negative for v >= s^2 / 2; its own variance is
    then at most 2v. A tilt of the mixture is not bounded by this.
    """
    return max(RIDGE, step_size**2 / 2)


class Prior(nn.Module, ABC):
    """A density over codes [N, D], normalised but for a constant where not `normalised`."""

    dim: int
    normalised = True

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log density in nats, up to a constant unless `normalised`: [..., D] -> [...]."""

    @abstractmethod
    def sample(self, n: int, rng: Randomness, temperature: float = 1.0) -> Tensor:
        """Draw [n, D], at a `temperature` T from the density to the power 1 / T (of a mixture every component's)."""

    def log_normalizer(self, n: int, rng: Randomness) -> Tensor:
        """Return a scalar whose gradient is that of log Z, from n draws; 0 (shape []) where normalised."""
        return torch.zeros(())

    def own_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that learn by a loss of the prior's own; the others learn by the bound."""
        return []


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
        """Whether a bound teaches it: it has parameters that no other loss reaches."""
        return False

    def problems(self) -> list[str]:
        """Return a line for every pair of settings that cannot both be meant, with the way out."""
        return []
