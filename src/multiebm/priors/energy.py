"""A prior that is an exponential tilt of a base: p(z) = exp(f(z)) p0(z) / Z.

Pang et al. 2020, arXiv 2006.08205; eq. (3) of the MVEBM paper (ECCV 2024), whose numbers the equations here have.
"""

import logging
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from multiebm.core.errors import ConfigError
from multiebm.core.metrics import BASE_DRAWS, PRIOR_CODES, PRIOR_DRAWS, TILT_STD, find_problem
from multiebm.core.progress import track
from multiebm.core.random import Randomness, make_generator, rand
from multiebm.mcmc.annealing import LogNormalizer, annealed_log_weights, log_normalizer_of
from multiebm.mcmc.langevin import langevin
from multiebm.mcmc.run import ChainInfo, run_chain
from multiebm.nn.blocks import mlp
from multiebm.nn.spectral import frozen
from multiebm.priors.mixture import MixturePrior
from multiebm.priors.prior import Density, Prior, PriorSettings, Settled, Settling, ridge_for
from multiebm.priors.standard import StandardPrior

FEW = 20  # paths that estimate log Z, had they equal weights
SETTLE_BATCH = 64  # codes and samples of a step in which the tilt settles
CHECKED = 1000  # codes and samples by which it is judged when it has
BETAS = (0.5, 0.999)  # of the tilt's Adam
DEAD = 0.01  # standard deviation of the tilt, nats
PRIOR_GAP = "prior/gap"  # f(codes) - f(samples): without bound where the chain cannot follow
ESCAPE = "prior/escape"  # how many times farther out the chain ends than codes and base reach
LIMITS = {PRIOR_GAP: 200.0, ESCAPE: 5.0}  # nats; times
_ADVICE = (
    "use fewer steps (training.phases.settle.steps; --steps of fit-prior), a lower rate (training.optimiser.prior; "
    "--rate) or a larger model.prior.penalty"
)

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
        return EnergyPrior(MixturePrior(dim, self.components, ridge, family) if self.components else standard, self)

    @property
    def settles_by(self) -> tuple[str, ...]:
        """Steps of the tilt, and how much wider a mixture base is meanwhile."""
        return ("steps", "widen_base") if self.components else ("steps",)

    def problems(self) -> list[str]:
        """Return a line for every pair of settings that cannot both be meant, with the way out."""
        if not (self.in_bound and self.learned_scale):
            return []
        return [
            "model.prior.in_bound: got true with learned_scale true, expected one: scales of the base would need log Z "
            "inside the bound; set model.prior.in_bound=false, or model.prior.learned_scale=false"
        ]


class EnergyPrior(Prior):
    """Tilt f: an MLP; samples by `steps` Langevin steps of `step_size` from the base.

    The chain is short and always restarted from the base, so the learned object is the chain itself: use the training
    values. `bound` c replaces f by c tanh(f / c), which keeps the density proper for any network.
    """

    normalised = False
    by_chain = True

    def __init__(self, base: StandardPrior | MixturePrior, tilt: Energy) -> None:
        super().__init__()
        self.dim, self.base, self.follows, self.in_bound = base.dim, base, base.follows, tilt.in_bound
        self.steps, self.step_size, self.bound, self.penalty = tilt.steps, tilt.step_size, tilt.bound, tilt.penalty
        self.net = mlp([base.dim] + [tilt.width] * tilt.layers + [1], nn.GELU(), last_bias=False)

    def follow(self, codes: Tensor) -> None:
        """Move the base towards codes [N, D]."""
        self.base.follow(codes)

    def untilted(self) -> Prior:
        """Return the base."""
        return self.base

    def for_bound(self, learns: bool) -> Density:
        """Return what a bound sees: the tilt as a constant where it is asked for and learns, else the base."""
        return _Constant(self) if learns and self.in_bound else self.base.for_bound(learns)

    def limits(self) -> dict[str, float]:
        """Return how far f and the chain may go."""
        return LIMITS

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
        used = found.effective * n
        if not used >= min(FEW, n / 5):  # nor where it is not a number
            message = "log Z of the prior, estimated as %.2f nats, rests on %.1f of %d paths and may be far above"
            logger.warning(f"{message}; raise stages (%d)", found.value, used, n, stages)
        return found

    def loss(self, codes: Tensor, samples: Tensor) -> Tensor:
        """L_alpha = mean f(z-) - mean f(z+) + penalty * mean f^2 of both, eq. (10) of the MVEBM paper; codes detached.

        `codes` [N, D] are of the posterior, `samples` [N', D] of the chain. The gradient of the first two
        terms is that of KL(codes || p); the penalty keeps f from growing faster than the chain can follow.
        """
        up, down = self.tilt(codes.detach()), self.tilt(samples.detach())
        return down.mean() - up.mean() + self.penalty * (up.square().mean() + down.square().mean())

    def diagnose(self, codes: Tensor, samples: Tensor, seed: int) -> dict[str, float]:
        """Return how codes [N, D], chain samples [N', D] and draws of the base differ, in f (nats), moments and reach.

        `prior/escape`: how many times farther out the chain ends than codes and base reach (a tilt that grows faster
        than the base falls); `prior/gap` without bound: a chain that cannot follow; `prior/tilt_std` near 0: a dead
        tilt; `prior/grad_norm`: of the log density where the chain ends.
        """
        end = samples.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.log_prob(end).sum(), end)
        with torch.no_grad():
            # draws of their own, so that those of training do not depend on what is logged
            base = self.base.sample(len(samples), make_generator(seed, samples.device))
            tilts = [self.tilt(z) for z in (codes, samples, base)]
        up, down, still = (f.mean().item() for f in tilts)
        reach = [z.abs().max().item() for z in (codes, samples, base)]
        return {
            PRIOR_GAP: up - down,
            "prior/positive": up,
            "prior/negative": down,
            "prior/base": still,
            TILT_STD: torch.cat(tilts).std(correction=0).item(),
            "prior/positive_mean": codes.mean().item(),
            "prior/negative_mean": samples.mean().item(),
            "prior/positive_square": codes.square().mean().item(),
            "prior/negative_square": samples.square().mean().item(),
            PRIOR_CODES: reach[0],
            PRIOR_DRAWS: reach[1],
            BASE_DRAWS: reach[2],
            ESCAPE: reach[1] / max(reach[0], reach[2]),
            "prior/grad_norm": gradient.norm(dim=1).mean().item(),
        }

    def warning(self, metrics: Mapping[str, float]) -> str:
        """Return a sentence where the tilt is next to nothing over codes and samples: the prior is then its base."""
        std = metrics.get(TILT_STD)
        if std is None or std >= DEAD:
            return ""
        return (
            f"the tilt of the prior has a standard deviation of {std:.2g} nats over codes and samples, so the prior is "
            "its base; raise training.optimiser.prior or model.prior.step_size, or let it learn longer"
        )

    def settles_on(self, how: Settling) -> Literal["draws", "locations"] | None:
        """A tilt learns on from draws, to which its base is fitted first."""
        return "draws" if how.steps else self.base.settles_on(how)

    def settle(self, codes: Tensor, rng: torch.Generator, how: Settling, tell: Callable[[str], None]) -> Settled:
        """Fit the base anew to codes [N, D], then let the tilt learn on for `how.steps` steps of Adam at `how.rate`.

        Its chain then has the fitted base, widened: the tilt learns the ratio of the codes to something wider, and on
        the base as it is counts them twice within a mode, so the prior is sharper than the codes. At `how.widen_base` 1
        this is maximum likelihood, eq. (10) of MVEBM, up to the penalty and the shortness of the chain. `tell` hears of
        every tenth of the way. A tilt that diverges (limits as in training) is put back, and the sentence says so.
        """
        self.base.settle(codes, rng, how, tell)
        if not how.steps or not len(codes):
            return Settled()
        before = {name: value.clone() for name, value in self.net.state_dict().items()}
        optimiser = torch.optim.Adam(self.net.parameters(), how.rate, betas=BETAS)
        base, steps = self.base, how.steps
        with base.widened(how.widen_base) if isinstance(base, MixturePrior) else nullcontext():
            for step in track(range(1, steps + 1), "the prior settles"):
                rows = rand(rng, (SETTLE_BATCH,), codes).mul(len(codes)).long()
                samples = self.sample(SETTLE_BATCH, rng)
                optimiser.zero_grad(set_to_none=True)
                self.loss(codes[rows], samples).backward()
                optimiser.step()
                if step % -(-steps // 10) == 0:
                    gap = self.diagnose(codes[rows], samples, step)[PRIOR_GAP]
                    if not math.isfinite(gap):
                        break
                    tell(f"step {step} of {steps}: f(codes) - f(samples) is {gap:.2f} nats")
        some = codes[:CHECKED]
        found = self.diagnose(some, self.sample(len(some), rng), steps)
        if problem := find_problem(found, LIMITS):
            self.net.load_state_dict(before)
            spread = ", or training.phases.settle.widen_base=1" if how.widen_base > 1 else ""
            return Settled(
                f"the tilt of the prior diverged while it settled and is as before: {problem}; {_ADVICE}{spread}", False
            )
        return Settled(self.warning(found))


class _Constant(NamedTuple):
    """A tilted prior whose tilt gets no gradient; learned scales of its base do."""

    prior: EnergyPrior

    def log_prob(self, z: Tensor) -> Tensor:
        """Return f(z) + log p0(z): [..., D] -> [...]."""
        with frozen(self.prior.net):
            return self.prior.log_prob(z)
