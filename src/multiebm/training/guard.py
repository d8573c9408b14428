"""The guard around a step: energies that run away are rolled back, retried at a lower rate, and at last reported."""

import logging
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from multiebm.core.batch import Batch
from multiebm.core.errors import DivergenceError
from multiebm.training.state import Snapshot, Step, TrainState

GAP = "energy/gap"  # E(data) - E(revised), the metric held within the limit
PRIOR_GAP = "prior/gap"  # f(codes) - f(samples) of a tilted prior: without bound where its chain cannot follow
PRIOR_DRAWS = "prior/negative_max"  # how far out its chain ends
BASE_DRAWS = "prior/base_max"  # how far out its base reaches
ESCAPE = "prior/escape"  # how many times farther out its chain ends than codes and base reach
PRIOR_LIMITS = {PRIOR_GAP: 200.0, ESCAPE: 5.0}  # nats; times
ROLLED_BACK = "guard/rolled_back_from"  # metric, only of a step made after a roll-back: the step that diverged
RETRIES = "guard/retries"  # numbers: roll-backs so far
IN_A_ROW = "guard/in_a_row"  # numbers: roll-backs without a healthy stretch between them
HEALTHY = "guard/healthy_steps"  # numbers: steps since the last roll-back
RATE = "guard/rate"  # numbers: product of the factors on the learning rate; a schedule that sets rates multiplies by it
PRIOR_RATE = "guard/prior_rate"  # numbers: the same of the prior's rate
CALM = "guard/calm"  # numbers: 1 where the last step was far from every limit
CALM_SHARE = 0.5  # of the limit: a state nearer to it than this is not worth returning to

logger = logging.getLogger(__name__)


class _Good(NamedTuple):
    snapshot: Snapshot
    batch: Batch  # already drawn when the snapshot was taken; the retry begins with it


class Guard:
    """A step that returns to its last good state when the one it wraps diverges (arXiv 2312.02469 aborts instead).

    Diverged: a loss or gradient norm that is not finite, |energy/gap| > `limit`, or a tilted prior beyond PRIOR_LIMITS.
    The state as a whole goes back, its `step`, data order and numbers included, so the steps since are made again: with
    the energy's learning rate (every rate where no optimiser is called "energy"), or the prior's where it was the
    prior, times `factor`, and with noise reseeded from the restored
    generator and the count of roll-backs, hence deterministic but not the same again. More than `retries` roll-backs
    without `healthy_steps` steps between them raise DivergenceError.

    Good states are copied in memory at multiples of `snapshot_every` steps, and at the first call. Counts and rates
    are part of a checkpoint, the copy is not: a resumed run can go back no further than where it resumed. Resumed
    at a multiple of `snapshot_every`, it therefore equals the uninterrupted run even in its roll-backs.
    """

    def __init__(
        self,
        step: Step,
        limit: float = 100.0,  # energy units
        snapshot_every: int = 200,
        retries: int = 5,
        factor: float = 0.5,
        healthy_steps: int = 200,
        last_checkpoint: Callable[[], Path | None] = lambda: None,  # named in the error
    ) -> None:
        self.step = step
        self.limit = limit
        self.snapshot_every = snapshot_every
        self.retries = retries
        self.factor = factor
        self.healthy_steps = healthy_steps
        self.last_checkpoint = last_checkpoint
        self._good: _Good | None = None

    def __call__(self, state: TrainState, batch: Batch) -> dict[str, float]:
        """Make one healthy step, after as many roll-backs as it takes; `state.step` may be lower afterwards."""
        good = self._remember(state, batch)
        diverged_at: int | None = None
        while True:
            metrics = self.step(state, batch)
            problem = find_problem(metrics, self.limit)
            if problem is None:
                break
            diverged_at = diverged_at or state.step + 1
            self._roll_back(state, good, problem)
            batch = good.batch
        state.numbers[HEALTHY] = state.numbers.get(HEALTHY, 0.0) + 1
        limits = {GAP: self.limit, **PRIOR_LIMITS}
        state.numbers[CALM] = float(all(abs(metrics.get(k, 0.0)) <= CALM_SHARE * most for k, most in limits.items()))
        event = {} if diverged_at is None else {ROLLED_BACK: float(diverged_at)}
        return metrics | event | {RETRIES: state.numbers.get(RETRIES, 0.0)}

    def _remember(self, state: TrainState, batch: Batch) -> _Good:
        due = state.step % self.snapshot_every == 0 and state.numbers.get(CALM, 1.0) == 1.0
        if self._good is None or (due and _all_finite(state.model.state_dict().values())):
            if state.numbers.get(HEALTHY, 0.0) >= self.healthy_steps:
                state.numbers[IN_A_ROW] = 0.0  # only with a newer state to return to, so that the retries are bounded
            self._good = _Good(state.snapshot(), batch)
        return self._good

    def _roll_back(self, state: TrainState, good: _Good, problem: str) -> None:
        before = state.numbers
        total, in_a_row = before.get(RETRIES, 0.0) + 1, before.get(IN_A_ROW, 0.0) + 1
        key, whose = (PRIOR_RATE, "prior") if "prior" in problem.split()[0] else (RATE, "energy")
        rate = before.get(key, 1.0) * self.factor
        rates = {k: before[k] for k in (RATE, PRIOR_RATE) if k in before} | {key: rate}
        failed = state.step + 1
        if in_a_row > self.retries:
            raise self._give_up(failed, problem, whose)
        state.restore(good.snapshot)
        for k, value in rates.items():
            _scale_rate(state.optimisers, k, value / state.numbers.get(k, 1.0))
        state.numbers.update({RETRIES: total, IN_A_ROW: in_a_row, HEALTHY: 0.0, **rates})
        _reseed(state.generator, int(total))
        message = "step %d diverged (%s): back to step %d, the %s's learning rate is now %g of its setting"
        logger.warning(message, failed, problem, state.step, whose, rate)

    def _give_up(self, failed: int, problem: str, whose: str) -> DivergenceError:
        checkpoint = self.last_checkpoint()
        advice = {
            "energy": "Try a lower learning rate of the energy, more data-chain steps, or a larger energy penalty.",
            "prior": "Try a lower training.optimiser.prior, more model.prior.steps, a larger model.prior.penalty, or a "
            "model.prior.bound.",
        }
        return DivergenceError(
            f"training diverged at step {failed}: {problem}. {self.retries} roll-backs in a row, each with the "
            f"{whose}'s learning rate multiplied by {self.factor:g}, did not help. "
            f"Last good checkpoint: {checkpoint or 'none'}. {advice[whose]}"
        )


def find_problem(metrics: dict[str, float], limit: float = 100.0) -> str | None:
    """Say which metric has diverged, its value and what was expected of it (|energy/gap| <= `limit`); None if none."""
    draws, base = metrics.get(PRIOR_DRAWS, 0.0), metrics.get(BASE_DRAWS, 0.0)
    if math.isfinite(base) and not math.isfinite(draws):  # the tilt takes every loss with it that reads its draws
        return f"{PRIOR_DRAWS} is {draws}, expected a finite number"
    for name, value in metrics.items():
        if name.startswith(("loss", "grad_norm", GAP)) and not math.isfinite(value):
            return f"{name} is {value}, expected a finite number"
    for name, most in {GAP: limit, **PRIOR_LIMITS}.items():
        value = metrics.get(name, 0.0)
        if not abs(value) <= most:  # nor is what is not finite
            return f"{name} is {value:.4g}, expected within +-{most:g}"
    return None


def _all_finite(tensors: Iterable[Tensor]) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def _scale_rate(optimisers: dict[str, Optimizer], key: str, factor: float) -> None:
    one = "prior" if key == PRIOR_RATE else "energy"
    chosen = [optimisers[one]] if one in optimisers else list(optimisers.values())
    for optimiser in chosen:
        for group in optimiser.param_groups:
            group["lr"] *= factor


def _reseed(generator: torch.Generator, retry: int) -> None:
    """Leave the path that failed: a seed drawn from the generator, another one for every retry."""
    seeds = torch.randint(2**62, (retry,), generator=generator, device=generator.device)
    generator.manual_seed(int(seeds[-1]))
