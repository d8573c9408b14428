"""How many steps fit into a time budget: planned from the time of a few, and again on the way from what they took."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch

from multiebm.core.files import replace_file
from multiebm.core.keys import CONFIG, ELAPSED
from multiebm.experiments.build import build_dataset, find_device, resolved, settling_of
from multiebm.experiments.folder import read_run
from multiebm.experiments.load import dump_experiment
from multiebm.experiments.run import RunResult, fresh_state, run_experiment
from multiebm.experiments.schema import Experiment
from multiebm.models.model import MultimodalModel
from multiebm.training.phases.phase import Phase
from multiebm.training.phases.settle import settling_within
from multiebm.training.state import TrainState
from multiebm.training.steps import TrainingStep, counted, total_steps
from multiebm.training.weights import FEWEST

TIMED_STEPS, TIMED_SHARE, FEWEST_STEPS = 200, 0.05, 5  # from which a step's time is taken; fewer beyond that share
SHARE = 0.95  # of the budget that steps and settling should take; the budget itself ends training in any case
LOOK = 0.9  # of the steps before rates begin to fall, after which they are planned again


class Plan(NamedTuple):
    """An experiment with as many steps as its budget allows, and what was taken for that, seconds.

    `took` has for each phase those of a step at its start, then of one from each of its marks on (of the bound, if a
    prior learns from there); `settling` is what the priors' settling takes, `start` what a linear half does to begin.
    """

    experiment: Experiment
    took: Sequence[Sequence[float]]
    settling: float
    start: float = 0.0

    def seconds_until(self, step: int) -> float:
        """Return how long steps 0 to `step` should take."""
        total = 0.0
        for phase, took in zip(counted(self.experiment.training.phases), self.took, strict=True):
            for seconds, (start, end) in zip(took, _parts(phase, len(took)), strict=True):
                total += seconds * max(0, min(step, end) - start)
            step -= phase.steps
        return total

    def seconds_left(self, elapsed: float) -> float:
        """Return how long the steps after `elapsed` seconds of start and steps may take."""
        return SHARE * (self.experiment.training.seconds or 0.0) - self.settling - elapsed


def _parts(phase: Phase, n: int) -> list[tuple[int, int]]:
    """Return where the `n` parts of a phase begin and end: at its first n - 1 marks."""
    return list(pairwise([0, *(min(mark, phase.steps) for mark in phase.marks()[: n - 1]), phase.steps]))


def planned(experiment: Experiment, device: torch.device) -> Plan:
    """Return the experiment with as many steps as its `training.seconds` allow on this device, timed on fresh states.

    All phases, and the steps of them from which a prior learns, keep their shares of the preset's, and what priors take
    to settle at the end is left for them.
    """
    state = fresh_state(experiment, build_dataset(experiment.data), device)
    start, took, first = state.numbers.get(ELAPSED, 0.0), [], 0
    for phase in counted(experiment.training.phases):
        changes = "prior" in state.optimisers or bool(phase.optimisers(state.model))
        parts = _parts(phase, 1 + len(phase.marks()) * changes)
        took.append([_time_of_step(experiment, first + a, device) if b > a else 0.0 for a, b in parts])
        first += phase.steps
    settling = settling_within(state, settling_of(experiment, {}), experiment.training.seconds)
    plan = Plan(experiment, took, settling.seconds, start)
    return _stretched(plan, 0, plan.seconds_left(start) / plan.seconds_until(first)) if first else plan


def planned_again(plan: Plan, step: int, elapsed: float) -> Plan:
    """Return the plan with the steps after `step` stretched to what is left of the budget after `elapsed` seconds.

    They are taken to go on as much faster or slower than planned as those before. Where less than half of what they
    need is left, they may have what SHARE keeps free, too.
    """
    made, whole = plan.seconds_until(step), plan.seconds_until(total_steps(plan.experiment.training.phases))
    pace = (elapsed - plan.start) / made
    needed, left = pace * (whole - made), plan.seconds_left(elapsed)
    free = (1 - SHARE) * (plan.experiment.training.seconds or 0.0)
    return _stretched(plan, step, max(left, min(left + free, needed / 2)) / needed)


def _stretched(plan: Plan, step: int, factor: float) -> Plan:
    """Return the plan with `factor` times as many steps after `step`, at least one of each phase that is to come."""

    def stretched(to: int) -> int:
        return to if to <= step else step + max(1, round(factor * (to - step)))

    phases = list(plan.experiment.training.phases)
    for i, phase in enumerate(phases):
        if phase in counted([phase]):
            now: dict[str, Any] = {name: stretched(getattr(phase, name)) for name in phase.planned}
            phases[i] = replace(phase, **now)
            step = max(0, step - phase.steps)
    return plan._replace(experiment=plan.experiment.changed("training", {"phases": phases}))


def in_steps(experiment: Experiment, steps: int) -> Experiment:
    """Return the experiment stretched to about this many steps of the loop; each phase keeps its share, at least 1."""
    made = total_steps(experiment.training.phases)
    return _stretched(Plan(experiment, [], 0.0), 0, steps / made).experiment if made else experiment


def with_steps_of(experiment: Experiment, plan: Experiment) -> Experiment:
    """Return the experiment with the numbers of steps of a plan, as far as their phases are of the same kinds."""
    phases = list(experiment.training.phases)
    for i, (phase, other) in enumerate(zip(phases, plan.training.phases, strict=False)):
        if phase.kind == other.kind:
            now: dict[str, Any] = {name: getattr(other, name) for name in phase.planned}
            phases[i] = replace(phase, **now)
    return experiment.changed("training", {"phases": phases})


def run_planned(plan: Plan, run: Path, preset: str, device: str) -> RunResult:
    """Train in the new folder `run`, planning again while rates are still at their start and between phases.

    So what a machine that slows down does not manage is spread over all that is left, and not lost at the end. The run
    is that of its last plan from the start, bit for bit.
    """
    plan = plan._replace(experiment=resolved(plan.experiment, find_device(device)))
    step = 0
    while stop := _next_look(plan.experiment, step):
        result = run_experiment(plan.experiment, run, resume=step > 0, preset=preset, device=device, until=stop)
        if result.fit.reason != "stopped":
            return result
        step = result.fit.step
        plan = planned_again(plan, step, read_run(run)["sessions"][-1]["seconds"])
        replace_file(run / CONFIG, dump_experiment(plan.experiment).encode())
    return run_experiment(plan.experiment, run, resume=step > 0, preset=preset, device=device)


def _next_look(experiment: Experiment, step: int) -> int:
    """Return the step after `step` at which the rest is planned again: once while rates are flat, then between phases.

    0 where there is none.
    """
    if not total_steps(experiment.training.phases):
        return 0
    first, *others = counted(experiment.training.phases)
    flat = next((done for done in range(first.steps) if first.factor(done) != first.factor(0)), first.steps)
    ends = list(accumulate(phase.steps for phase in [first, *others]))[:-1]
    return next((look for look in [0 if step else int(LOOK * flat), *ends] if look > step), 0)


def _as_taught(state: TrainState[MultimodalModel], phases: Sequence[Phase]) -> None:
    """Let the energy of interaction take part where an earlier phase has taught it: chains with it take longer."""
    f, before = state.model.interaction, 0
    for phase in counted(phases):
        before += phase.steps
        if f is not None and before <= state.step and "interaction" in phase.optimisers(state.model):
            f.steps.fill_(FEWEST)
            f.weight.fill_(1.0)


def _time_of_step(experiment: Experiment, at: int, device: torch.device) -> float:
    """Return the seconds of the step number `at`, on a fresh state: the lower quartile of a few.

    What else the machine does in these seconds makes steps slower, never faster, and is not there for the whole run.
    """
    state = fresh_state(experiment, build_dataset(experiment.data), device, begins=False)
    state.step, step = at, TrainingStep(experiment.training.phases, experiment.training.optimiser)
    _as_taught(state, experiment.training.phases)
    took: list[float] = []
    most = TIMED_SHARE * (experiment.training.seconds or 0.0)
    while len(took) < TIMED_STEPS and (len(took) < FEWEST_STEPS or sum(took) < most):
        began = time.perf_counter()
        step(state, next(state.stream))
        took.append(time.perf_counter() - began)
    return statistics.quantiles(took, n=4, method="inclusive")[0]
