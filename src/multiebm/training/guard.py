"""The guard around a step: energies that run away are rolled back, retried at a lower rate, and at last reported."""

import logging
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from multiebm.core.batch import Batch
from multiebm.core.errors import DivergenceError
from multiebm.core.metrics import BASE_DRAWS, BELONGING, GAP, PRIOR_CODES, find_problem
from multiebm.training.state import Snapshot, Step, TrainState

LIMIT = 50.0  # of |E(data) - E(refined)|, energy units
RUNAWAY = 5.0  # how many times farther out codes lie than the base of their prior, before a prior is not alone at fault
FAR = 100.0  # latent units: a fitted base may follow codes that far, but the bound's N(0, I) is 100 scales away
ROLLED_BACK = "guard/rolled_back_from"  # metric, only of a step made after a roll-back: the step that diverged
RETRIES = "guard/retries"  # numbers: roll-backs so far
IN_A_ROW = "guard/in_a_row"  # numbers: roll-backs without a healthy stretch between them
HEALTHY = "guard/healthy_steps"  # numbers: steps since the last roll-back
RATE = "guard/rate"  # numbers: product of the factors on the energy's rate, without an energy on every rate
NETWORK_RATE = "guard/network_rate"  # numbers: beside an energy, the same of generator and inference model
INTERACTION_RATE = "guard/interaction_rate"  # numbers: the same of the energy of interaction
PRIOR_RATE = "guard/prior_rate"  # numbers: the same of the prior's rate; schedules that set rates multiply by these
CALM = "guard/calm"  # numbers: 1 where the last step was far from every limit
CALM_SHARE = 0.5  # of the limit: a state nearer to it than this is not worth returning to
_PARTS = {
    INTERACTION_RATE: ["interaction"],
    PRIOR_RATE: ["prior"],
    RATE: ["energy"],
    NETWORK_RATE: ["generator", "inference"],
}
_WHOSE = {
    INTERACTION_RATE: "the energy of interaction's",
    PRIOR_RATE: "the prior's",
    RATE: "the energy's",
    NETWORK_RATE: "the generator's and the inference model's",
}
_ADVICE = {
    INTERACTION_RATE: "Try a lower rate of the energy of interaction (training.phases.belonging.rate).",
    PRIOR_RATE: "Try a lower training.optimiser.prior, more model.prior.steps, a larger model.prior.penalty, or a "
    "model.prior.bound.",
    RATE: "Try a lower learning rate of the energy (training.optimiser.energy), more data-chain steps, or a larger "
    "energy penalty.",
    NETWORK_RATE: "Try lower rates of the generator and the inference model (training.optimiser.generator, "
    "training.optimiser.inference), or a larger model.likelihood.scale.",
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Guard:
    """A step that returns to its last good state when the one it wraps diverges (arXiv 2312.02469 aborts instead).

    Diverged: a loss or gradient norm that is not finite, codes that no mixture can be fitted to, or a metric beyond its
    limit: energy/gap, and what the prior names (`Prior.limits`). The state as a whole goes back, its `step`, data order
    and numbers included, so the steps since are made again: with the learning rates of the parts at fault
    (`_at_fault`) times `factor`, and with noise reseeded from the restored generator and the count of roll-backs, hence
    deterministic but not the same again. More than `retries` roll-backs without `healthy_steps` steps between them
    raise DivergenceError.

    Good states are copied at the first call, and when `snapshot_every` steps are full or a step of `starts` is reached,
    at which another part begins to learn; where that state is near a limit, at the first after it that is not. The copy
    is `state.good` and, like counts and rates, part of a checkpoint: a resumed run equals the uninterrupted one even in
    its roll-backs. Where the next call will copy anew there is none, so most checkpoints hold one state, not two.
    """

    step: Step
    limits: Mapping[str, float] = field(default_factory=dict)  # of metrics, beside that of energy/gap
    snapshot_every: int = 200
    retries: int = 3
    factor: float = 0.5
    healthy_steps: int = 200
    last_checkpoint: Callable[[], Path | None] = lambda: None  # named in the error
    starts: Collection[int] = ()

    def __call__(self, state: TrainState, batch: Batch) -> dict[str, float]:
        """Make one healthy step, after as many roll-backs as it takes; `state.step` may be lower afterwards."""
        if state.good is None:
            if state.numbers.get(HEALTHY, 0.0) >= self.healthy_steps:
                state.numbers[IN_A_ROW] = 0.0  # only with a newer state to return to, so that the retries are bounded
            state.good = state.snapshot()
            state.good.numbers["stream"] = state.drawn_at  # before this call's batch
        good, diverged_at, limits = state.good, 0, {GAP: LIMIT, **self.limits}
        while True:
            try:
                metrics = self.step(state, batch)
                problem = find_problem(metrics, limits)
            except DivergenceError as error:  # a mixture without a covariance: no loss says so
                metrics, problem = {}, str(error)
            if problem is None:
                break
            diverged_at = diverged_at or state.step + 1
            self._roll_back(state, good, problem, metrics)
            batch = state.draw()
        state.numbers[HEALTHY] = state.numbers.get(HEALTHY, 0.0) + 1
        calm = all(abs(metrics.get(k, 0.0)) <= CALM_SHARE * most for k, most in limits.items())
        state.numbers[CALM] = float(calm)
        old, new = good.numbers["step"], state.step + 1
        is_due = new // self.snapshot_every > old // self.snapshot_every or any(old < at <= new for at in self.starts)
        if is_due and calm and all(bool(tensor.isfinite().all()) for tensor in state.model.state_dict().values()):
            state.good = None  # the next call copies anew
        event = {ROLLED_BACK: float(diverged_at)} if diverged_at else {}
        return metrics | event | {RETRIES: state.numbers.get(RETRIES, 0.0)}

    def _roll_back(self, state: TrainState, good: Snapshot, problem: str, metrics: dict[str, float]) -> None:
        before, failed = state.numbers, state.step + 1
        total, in_a_row = before.get(RETRIES, 0.0) + 1, before.get(IN_A_ROW, 0.0) + 1
        has_energy = "energy" in state.optimisers
        lower = _at_fault(problem, metrics, has_energy)
        rates = {k: before[k] for k in _WHOSE if k in before} | {k: before.get(k, 1.0) * self.factor for k in lower}
        whose = _WHOSE if has_energy else _WHOSE | {RATE: "every"}
        if in_a_row > self.retries:
            advice = " ".join(_ADVICE[k if has_energy or k != RATE else NETWORK_RATE] for k in lower)
            raise DivergenceError(
                f"training diverged at step {failed}: {problem}. {self.retries} roll-backs in a row, each with "
                f"{' and '.join(whose[k] for k in lower)} learning rate multiplied by {self.factor:g}, did not help. "
                f"Last good checkpoint: {self.last_checkpoint() or 'none'}. {advice}"
            )
        state.restore(good)
        for k, value in rates.items():
            named = [state.optimisers[name] for name in _PARTS[k] if name in state.optimisers]
            for group in (
                group for optimiser in named or state.optimisers.values() for group in optimiser.param_groups
            ):
                group["lr"] *= value / state.numbers.get(k, 1.0)
        state.numbers.update({RETRIES: total, IN_A_ROW: in_a_row, HEALTHY: 0.0, **rates})
        # leave the path that failed: a seed drawn from the restored generator, another one for every retry
        seeds = torch.randint(2**62, (int(total),), generator=state.rng, device=state.rng.device)
        state.rng.manual_seed(int(seeds[-1]))
        now = ", ".join(f"{whose[k]} learning rate is now {rates[k]:g} of its setting" for k in lower)
        logger.warning("step %d diverged (%s): back to step %d, %s", failed, problem, state.step, now)


def _at_fault(problem: str, metrics: dict[str, float], has_energy: bool) -> list[str]:
    """Return the rates to lower. A tilt is not alone at fault where codes ran away, with its base or from it, nor an
    energy where another loss than its own is not finite.
    """
    name = problem.split()[0]
    networks = [NETWORK_RATE] if has_energy else [RATE]
    if name in (BELONGING, "grad_norm/interaction"):
        return [INTERACTION_RATE]
    if "prior" in name:
        codes, base = metrics.get(PRIOR_CODES, 0.0), metrics.get(BASE_DRAWS, math.inf)
        return [PRIOR_RATE, *(networks if codes > min(FAR, RUNAWAY * base) else [])]
    if not has_energy or name in (GAP, "loss/energy", "grad_norm/energy"):
        return [RATE]
    return [*([RATE] if GAP in metrics else []), *networks]
