"""How many steps fit into a time budget: planned from the time of a few, and again on the way from what they took."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from multiebm.core.files import replace_file
from multiebm.experiments.build import resolved, settling_of
from multiebm.experiments.data import build_dataset, find_device
from multiebm.experiments.folder import read_run
from multiebm.experiments.load import CONFIG, dump_experiment
from multiebm.experiments.run import RunResult, fresh_state, run_experiment
from multiebm.experiments.schema import Experiment, TrainingSection
from multiebm.training.phases.bound import Bound
from multiebm.training.phases.phase import Phase
from multiebm.training.phases.settle import settling_within
from multiebm.training.steps import TrainingStep, counted, total_steps

TIMED_STEPS, TIMED_SHARE, FEWEST_STEPS = 200, 0.05, 5  # from which a step's time is taken; fewer beyond that share
PLANNED = {f"training.phases.{kind}.steps" for kind in ("bound", "energy", "cooperative")}
PLANNED |= {"training.phases.bound.prior_from"}
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
        warm = t.phase("bound").steps
        before = min(_tilt_learns(self.experiment), warm)
        each = ((self.warm, before), (self.tilted, warm - before), (self.cooperative, total_steps(t.phases) - warm))
        total, left = 0.0, step
        for seconds, steps in each:
            total += seconds * min(left, steps)
            left -= min(left, steps)
        return total


def _tilt_learns(experiment: Experiment) -> int:
    """Return the step from which a tilt learns in the warm-up, its end where there is none."""
    bound = experiment.training.phase("bound")
    return bound.prior_from if experiment.model.prior.kind == "energy" else bound.steps


def planned(experiment: Experiment, device: torch.device) -> Plan:
    """Return the experiment with as many steps as its `training.seconds` allow on this device, timed on a fresh state.

    Both phases, the steps from which a tilt learns and those of the energy alone keep their shares of the preset's, and
    what priors take to settle at the end is left for them.
    """
    t = experiment.training
    bound, cooperative = t.phase("bound"), t.phase("cooperative")
    tilted = max(0, bound.steps - _tilt_learns(experiment))
    each = [
        (bound.steps - tilted, replace(bound, steps=10**6, prior_from=10**6)),
        (tilted, replace(bound, steps=10**6, prior_from=0)),
        (cooperative.steps, cooperative),
    ]
    warm, tilt, both = (_time_of_step(experiment, phase, device) if steps else 0.0 for steps, phase in each)
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
    return total_steps(t.phases)


def with_phases(experiment: Experiment, phases: Sequence[Phase]) -> Experiment:
    """Return the experiment with these phases of training."""
    training = experiment.training.model_copy(update={"phases": list(phases)})
    return experiment.model_copy(update={"training": training})


def _time_left(plan: Plan, elapsed: float) -> float:
    return SHARE * (plan.experiment.training.seconds or 0.0) - plan.settling - elapsed


def _stretched(plan: Plan, step: int, factor: float) -> Plan:
    """Return the plan with `factor` times as many steps after `step`, at least one of each phase that is to come."""
    phases = list(plan.experiment.training.phases)

    def stretched(to: int, start: int) -> int:
        return to if to <= start else start + max(1, round(factor * (to - start)))

    done = step
    for i, phase in enumerate(phases):
        if phase not in counted(phases):
            continue
        if isinstance(phase, Bound) and plan.experiment.model.prior.kind == "energy":
            phase = replace(phase, prior_from=stretched(phase.prior_from, done))
        phases[i] = replace(phase, steps=stretched(phase.steps, done))
        done = max(0, done - phase.steps)
    return plan._replace(experiment=with_phases(plan.experiment, phases))


def run_planned(plan: Plan, run: Path, preset: str, device: str) -> RunResult:
    """Train in the new folder `run`, planning again while rates are still at their start and when the warm-up is over.

    So what a machine that slows down does not manage is spread over all that is left, and not lost at the end. The run
    is that of its last plan from the start, bit for bit.
    """
    made = False
    plan = plan._replace(experiment=resolved(plan.experiment, find_device(device)))
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
    bound = t.phase("bound")
    return int(LOOK * (1 - bound.anneal) * bound.steps)


def _when_warmed_up(t: TrainingSection) -> int:
    return t.phase("bound").steps if t.phase("cooperative").steps else 0


def _time_of_step(experiment: Experiment, phase: Phase, device: torch.device) -> float:
    """Return the seconds of a step of this phase alone, on a fresh state: the lower quartile of a few.

    What else the machine does in these seconds makes steps slower, never faster, and is not there for the whole run.
    """
    timed = with_phases(experiment, [phase])
    state = fresh_state(timed, build_dataset(timed.data), device)
    step = TrainingStep(timed.training)
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
    state = fresh_state(experiment, build_dataset(experiment.data), device)
    return settling_within(state, settling_of(experiment, {}), experiment.training.seconds).seconds
