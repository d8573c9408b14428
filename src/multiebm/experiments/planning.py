"""How many steps fit into a time budget: planned from the time of a few, and again on the way from what they took."""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from multiebm.core.files import replace_file
from multiebm.experiments.build import TrainingStep
from multiebm.experiments.data import build_dataset
from multiebm.experiments.folder import read_run
from multiebm.experiments.load import CONFIG, dump_experiment, load_experiment
from multiebm.experiments.run import RunResult, fresh_state, run_experiment
from multiebm.experiments.schema import Experiment, TrainingSection
from multiebm.experiments.settle import settling_within

TIMED_STEPS, TIMED_SHARE, FEWEST_STEPS = 200, 0.05, 5  # from which a step's time is taken; fewer beyond that share
PLANNED = {f"training.warmup.{key}" for key in ("steps", "prior_after", "tilt_after")}
PLANNED |= {f"training.cooperative.{key}" for key in ("steps", "energy_first")}
SHARE = 0.95  # of the budget that steps and settling should take; the budget itself ends training in any case
LOOK = 0.6  # of the steps before rates begin to fall, after which they are planned again


class Plan(NamedTuple):
    """An experiment with as many steps as its budget allows, and what was taken for that, seconds.

    Of a warm-up step, of one in which a tilt learns, of a cooperative step, and of the priors' settling.
    """

    experiment: Experiment
    warm: float
    tilted: float
    cooperative: float
    settling: float

    def seconds_until(self, step: int) -> float:
        """Return how long steps 0 to `step` should take."""
        t = self.experiment.training
        before = min(_tilt_learns(self.experiment), t.warmup.steps)
        each = ((self.warm, before), (self.tilted, t.warmup.steps - before), (self.cooperative, t.cooperative.steps))
        total, left = 0.0, step
        for seconds, steps in each:
            total += seconds * min(left, steps)
            left -= min(left, steps)
        return total


def _tilt_learns(experiment: Experiment) -> int:
    """Return the step from which a tilt learns in the warm-up, its end where there is none."""
    warmup = experiment.training.warmup
    return warmup.prior_after if experiment.model.prior.kind == "energy" else warmup.steps


def planned(experiment: Experiment, device: torch.device) -> Plan:
    """Return the experiment with as many steps as its `training.seconds` allow on this device, timed on a fresh state.

    Both phases, the steps from which a tilt learns and those of the energy alone keep their shares of the preset's, and
    what priors take to settle at the end is left for them.
    """
    t = experiment.training
    tilted = max(0, t.warmup.steps - _tilt_learns(experiment))
    each = [
        (t.warmup.steps - tilted, f"warmup.steps={10**6}", f"warmup.prior_after={10**6}"),
        (tilted, f"warmup.steps={10**6}", "warmup.prior_after=0"),
        (t.cooperative.steps, "warmup.steps=0", "cooperative.energy_first=0"),
    ]
    warm, tilt, both = (_time_of_step(experiment, changes, device) if steps else 0.0 for steps, *changes in each)
    plan = Plan(experiment, warm, tilt, both, _time_to_settle(experiment, device))
    return _stretched(plan, 0, _time_left(plan, 0.0) / plan.seconds_until(_last(t)))


def planned_again(plan: Plan, step: int, elapsed: float) -> Plan:
    """Return the plan with the steps after `step` stretched to what is left of the budget after `elapsed` seconds.

    They are taken to go on as much faster or slower than planned as those before.
    """
    pace = elapsed / plan.seconds_until(step)
    rest = plan.seconds_until(_last(plan.experiment.training)) - plan.seconds_until(step)
    return _stretched(plan, step, _time_left(plan, elapsed) / (pace * rest))


def _last(t: TrainingSection) -> int:
    return t.warmup.steps + t.cooperative.steps


def _time_left(plan: Plan, elapsed: float) -> float:
    return SHARE * (plan.experiment.training.seconds or 0.0) - plan.settling - elapsed


def _stretched(plan: Plan, step: int, factor: float) -> Plan:
    """Return the plan with `factor` times as many steps after `step`, at least one of each phase that is to come."""
    t = plan.experiment.training

    def stretched(to: int, start: int = step) -> int:
        return to if to <= start else start + max(1, round(factor * (to - start)))

    now = {"warmup.steps": stretched(t.warmup.steps)}
    if t.cooperative.steps:
        start = max(0, step - t.warmup.steps)
        now["cooperative.steps"] = stretched(t.cooperative.steps, start)
        now["cooperative.energy_first"] = stretched(t.cooperative.energy_first, start)
    if plan.experiment.model.prior.kind == "energy":
        now |= {f"warmup.{key}": stretched(getattr(t.warmup, key)) for key in ("prior_after", "tilt_after")}
    changed = load_experiment(plan.experiment, [f"training.{name}={steps}" for name, steps in now.items()])
    return plan._replace(experiment=changed)


def run_planned(plan: Plan, run: Path, preset: str, device: str) -> RunResult:
    """Train in the new folder `run`, planning again while rates are still at their start and when the warm-up is over.

    So what a machine that slows down does not manage is spread over all that is left, and not lost at the end. The run
    is that of its last plan from the start, bit for bit.
    """
    made = False
    for stop_of in (_while_rates_are_flat, _when_warmed_up):
        stop = stop_of(plan.experiment.training)
        if not stop:
            continue
        result = run_experiment(plan.experiment, run, resume=made, preset=preset, device=device, until=stop)
        if result.fit.reason != "stopped":
            return result
        made = True
        plan = planned_again(plan, result.fit.step, read_run(run)["sessions"][-1]["seconds"])
        replace_file(run / CONFIG, dump_experiment(plan.experiment).encode())
    return run_experiment(plan.experiment, run, resume=made, preset=preset, device=device)


def _while_rates_are_flat(t: TrainingSection) -> int:
    return int(LOOK * (1 - t.warmup.anneal) * t.warmup.steps)


def _when_warmed_up(t: TrainingSection) -> int:
    return t.warmup.steps if t.cooperative.steps else 0


def _time_of_step(experiment: Experiment, changes: Sequence[str], device: torch.device) -> float:
    """Return the seconds of a step under these changes of training, on a fresh state: the lower quartile of a few.

    What else the machine does in these seconds makes steps slower, never faster, and is not there for the whole run.
    """
    timed = load_experiment(experiment, [f"training.{change}" for change in changes])
    state = fresh_state(timed, build_dataset(timed.data), device)
    step = TrainingStep(timed)
    took: list[float] = []
    most = TIMED_SHARE * (timed.training.seconds or 0.0)
    while len(took) < TIMED_STEPS and (len(took) < FEWEST_STEPS or sum(took) < most):
        began = time.perf_counter()
        step(state, next(state.stream))
        took.append(time.perf_counter() - began)
        state.step += 1
    return statistics.quantiles(took, n=4, method="inclusive")[0]


def _time_to_settle(experiment: Experiment, device: torch.device) -> float:
    """Return the seconds in which the priors settle within the experiment's budget."""
    return settling_within(fresh_state(experiment, build_dataset(experiment.data), device), experiment).seconds
