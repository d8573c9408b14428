"""A prior that is an exponential tilt of a base: p(z) = exp(f(z)) p0(z) / Z.

Pang et al. 2020, arXiv 2006.08205; eq. (3) of the MVEBM paper (ECCV 2024), whose numbers the equations here have.
"""

import logging
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from multiebm.core.errors import ConfigError
from multiebm.core.random import Randomness
from multiebm.mcmc.annealing import LogNormalizer, annealed_log_weights, log_normalizer_of
from multiebm.mcmc.langevin import langevin
from multiebm.mcmc.run import ChainInfo, run_chain
from multiebm.nn.blocks import mlp
from multiebm.nn.spectral import frozen
from multiebm.priors.mixture import MixturePrior
from multiebm.priors.prior import Prior, PriorSettings, ridge_for
from multiebm.priors.standard import StandardPrior

FEW = 20  # paths that estimate log Z, had they equal weights

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Energy(PriorSettings):
    """A base density tilted by a network, exp(f(z)) p0(z) / Z; draws are made by a short chain from the base."""

    kind: Literal["energy"] = "energy"
    components: Annotated[
        int, Field(ge=0, le=1000, description="Gaussians of a base fitted to the codes; 0 = the standard density")
    ] = 0
    learned_scale: Annotated[bool, Field(description="the bound teaches a standard base its scales")] = False
    width: Annotated[int, Field(gt=0, description="units of a hidden layer of the tilt")] = 200
    layers: Annotated[int, Field(gt=0, description="hidden layers of the tilt")] = 4
    steps: Annotated[int, Field(ge=0, le=1000, description="Langevin steps from the base")] = 50
    step_size: Annotated[float, Field(gt=0, le=2, description="Langevin step size, latent units")] = 0.2
    bound: Annotated[float, Field(ge=0, description="c of c tanh(f / c); 0 = unbounded")] = 0.0
    penalty: Annotated[float, Field(ge=0, description="weight of mean f^2 over codes and samples")] = 1e-3
    in_bound: Annotated[bool, Field(description="bounds see the tilt once it learns; else they see its base")] = False

    def build(self, dim: int, family: str, ridge: float) -> "EnergyPrior":
        """Return the prior over [D], a tilt of fresh weights on its base."""
        standard = StandardPrior(family, dim, self.learned_scale)
        ridge = max(ridge, ridge_for(self.step_size))
        base = MixturePrior(dim, self.components, ridge) if self.components else standard
        tilt = (self.width, self.layers, self.steps, self.step_size, self.bound, self.penalty)
        return EnergyPrior(base, *tilt)

    @property
    def taught(self) -> bool:
        """Whether a bound teaches the scales of its base."""
        return self.learned_scale

    def problems(self) -> list[str]:
        """Return a line for every pair of settings that cannot both be meant, with the way out."""
        if not (self.in_bound and self.learned_scale):
            return []
        return [
            "model.prior.in_bound: got true with learned_scale true, expected one: scales of the base would need log Z "
            "inside the bound; set model.prior.in_bound=false, or model.prior.learned_scale=false"
        ]


class EnergyPrior(Prior):
    """Tilt f: MLP of `layers` hidden layers of `width`; samples by `steps` Langevin steps of `step_size` from the base.

    The chain is short and always restarted from the base, so the learned object is the chain itself: use the training
    values. `bound` c replaces f by c tanh(f / c), which keeps the density proper for any network.
    """

    normalised = False

    def __init__(
        self,
        base: StandardPrior | MixturePrior,
        width: int = 200,
        layers: int = 3,
        steps: int = 40,
        step_size: float = 0.2,
        bound: float = 0.0,
        penalty: float = 1e-3,
    ) -> None:
        super().__init__()
        self.dim, self.base = base.dim, base
        self.steps, self.step_size, self.bound, self.penalty = steps, step_size, bound, penalty
        self.net = mlp([base.dim] + [width] * layers + [1], nn.GELU(), last_bias=False)

    def own_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the tilt."""
        return list(self.net.parameters())

    def tilt(self, z: Tensor) -> Tensor:
        """Return f(z), z of shape [..., D] -> [...]; high = likely (the opposite sign of an energy)."""
        f = self.net(z)[..., 0]
        return self.bound * torch.tanh(f / self.bound) if self.bound else f

    def log_prob(self, z: Tensor) -> Tensor:
        """Return f(z) + log p0(z), eq. (3) up to the constant log Z: shape [..., D] -> [...], in nats."""
        return self.tilt(z) + self.base.log_prob(z)

    def sample(self, n: int, rng: Randomness, temperature: float = 1.0) -> Tensor:
        """Draw [n, D] by the short-run chain from the base (eq. 11 of the MVEBM paper)."""
        return self.chain(n, rng, temperature)[0]

    def chain(
        self, n: int, rng: Randomness, temperature: float = 1.0, record: bool = False
    ) -> tuple[Tensor, ChainInfo]:
        """Run the chain of `sample` to its end [n, D]; at a temperature T from the base at T, with noise sqrt(T) s.

        From that start it targets the density to the power 1 / T, within a mode: it is too short to move mass between.
        """
        start = self.base.sample(n, rng, temperature)
        kernel = langevin(self.log_prob, self.step_size, temperature**0.5 * self.step_size)
        with frozen(self):
            return run_chain(kernel, start, self.steps, rng, record)

    def log_normalizer(self, n: int, rng: Randomness) -> Tensor:
        """Return the mean tilt of n chain samples, shape []; its gradient is that of log Z (as in eq. (10))."""
        return self.tilt(self.sample(n, rng)).mean()

    def estimate_log_normalizer(self, n: int, stages: int, rng: Randomness) -> LogNormalizer:
        """Return log Z by annealed importance sampling of n paths, for likelihoods: `log_prob` less it is normalised.

        In expectation below log Z, so likelihoods are above theirs; the more `stages`, the closer. A warning is logged
        where few of the paths carry the weight. ConfigError where n is below 2, which says nothing of the error, or
        `stages` below 1.
        """
        if n < 2 or stages < 1:
            raise ConfigError(
                f"log_normalizer: got {n} sample(s) and {stages} stage(s), expected at least 2 and 1; use 1000 and 500"
            )
        start = self.base.sample(n, rng)
        with frozen(self):
            weights = annealed_log_weights(self.base.log_prob, self.tilt, start, stages, self.step_size, rng)
        found = log_normalizer_of(weights)
        if not found.effective * n >= min(FEW, n / 5):  # nor where it is not a number
            logger.warning(
                "log Z of the prior, estimated as %.2f nats, rests on %.1f of %d paths and may be far above; raise "
                "stages (%d)",
                found.value,
                found.effective * n,
                n,
                stages,
            )
        return found

    def loss(self, positive: Tensor, negative: Tensor) -> Tensor:
        """L_alpha = mean f(z-) - mean f(z+) + penalty * mean f^2 of both, eq. (10) of the MVEBM paper; codes detached.

        `positive` [N, D] are posterior codes, `negative` [N', D] samples of the chain. The gradient of the first two
        terms is that of KL(codes || p); the penalty keeps f from growing faster than the chain can follow.
        """
        up, down = self.tilt(positive.detach()), self.tilt(negative.detach())
        return down.mean() - up.mean() + self.penalty * (up.square().mean() + down.square().mean())
