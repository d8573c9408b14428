"""A prior that is an exponential tilt of a base: p(z) = exp(f(z)) p0(z) / Z.

Pang et al. 2020, arXiv 2006.08205; eq. (3) of the MVEBM paper (ECCV 2024), whose numbers the equations here have.
"""

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from multiebm.core.errors import ConfigError
from multiebm.core.random import Randomness
from multiebm.core.table import Table
from multiebm.distributions.priors import MixturePrior, StandardPrior
from multiebm.mcmc.annealing import LogNormalizer, annealed_log_weights, log_normalizer_of
from multiebm.mcmc.langevin import langevin
from multiebm.mcmc.run import ChainInfo, run_chain
from multiebm.nn.blocks import SLOPE, mlp
from multiebm.nn.spectral import frozen

ACTIVATIONS: Table[Callable[[], nn.Module]] = Table(
    "model.prior.activation", {"gelu": nn.GELU, "leaky_relu": lambda: nn.LeakyReLU(SLOPE)}
)
FEW = 20  # paths that estimate log Z, had they equal weights

logger = logging.getLogger(__name__)


class EnergyPrior(nn.Module):
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
        activation: str = "gelu",
    ) -> None:
        super().__init__()
        self.dim, self.base = base.dim, base
        self.steps, self.step_size, self.bound, self.penalty = steps, step_size, bound, penalty
        self.net = mlp([base.dim] + [width] * layers + [1], ACTIVATIONS[activation](), last_bias=False)

    def tilt(self, z: Tensor) -> Tensor:
        """Return f(z), z of shape [..., D] -> [...]; high = likely (the opposite sign of an energy)."""
        f = self.net(z)[..., 0]
        return self.bound * torch.tanh(f / self.bound) if self.bound else f

    def log_prob(self, z: Tensor) -> Tensor:
        """Return f(z) + log p0(z), eq. (3) up to the constant log Z: shape [..., D] -> [...], in nats."""
        return self.tilt(z) + self.base.log_prob(z)

    def sample(self, n: int, generator: Randomness, temperature: float = 1.0) -> Tensor:
        """Draw [n, D] by the short-run chain from the base (eq. 11 of the MVEBM paper)."""
        return self.chain(n, generator, temperature)[0]

    def chain(
        self, n: int, generator: Randomness, temperature: float = 1.0, record: bool = False
    ) -> tuple[Tensor, ChainInfo]:
        """Run the chain of `sample` to its end [n, D]; at a temperature T from the base at T, with noise sqrt(T) s.

        From that start it targets the density to the power 1 / T, within a mode: it is too short to move mass between.
        """
        start = self.base.sample(n, generator, temperature)
        kernel = langevin(self.log_prob, self.step_size, temperature**0.5 * self.step_size)
        with frozen(self):
            return run_chain(kernel, start, self.steps, generator, record)

    def log_normalizer(self, n: int, generator: Randomness) -> Tensor:
        """Return the mean tilt of n chain samples, shape []; its gradient is that of log Z (as in eq. (10))."""
        return self.tilt(self.sample(n, generator)).mean()

    def estimate_log_normalizer(self, n: int, stages: int, generator: Randomness) -> LogNormalizer:
        """Return log Z by annealed importance sampling of n paths, for likelihoods: `log_prob` less it is normalised.

        In expectation below log Z, so likelihoods are above theirs; the more `stages`, the closer. A warning is logged
        where few of the paths carry the weight. ConfigError where n is below 2, which says nothing of the error, or
        `stages` below 1.
        """
        if n < 2 or stages < 1:
            raise ConfigError(
                f"log_normalizer: got {n} sample(s) and {stages} stage(s), expected at least 2 and 1; use 1000 and 500"
            )
        start = self.base.sample(n, generator)
        with frozen(self):
            weights = annealed_log_weights(self.base.log_prob, self.tilt, start, stages, self.step_size, generator)
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
