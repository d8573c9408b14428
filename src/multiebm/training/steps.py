"""A run as a list of phases: which one is in force at a step, the rates it learns at, the steps the guard copies."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field

from multiebm.core.batch import Batch
from multiebm.core.random import SEEDS, STREAM
from multiebm.models.model import MultimodalModel
from multiebm.priors.energy import BETAS
from multiebm.training.guard import NETWORK_RATE, PRIOR_RATE, RATE
from multiebm.training.phases.phase import Phase
from multiebm.training.state import TrainState, move_average

Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class OptimiserSettings:
    """Adam for each of the four parts, and the average of weights used for evaluation."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    generator: Annotated[Positive, Field(description="learning rate of the generator")] = 1e-3
    inference: Annotated[Positive, Field(description="learning rate of the inference model")] = 1e-3
    energy: Annotated[Positive, Field(description="learning rate of the energy")] = 1e-4
    prior: Annotated[Positive, Field(description="learning rate of an energy prior's tilt")] = 1e-4
    betas: Annotated[
        tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(gt=0, lt=1)]],
        Field(description="decay of the first moment, where a phase has none of its own, and of the second"),
    ] = (0.9, 0.99)
    weight_decay: Annotated[float, Field(ge=0, description="L2 inside Adam, generator and inference model")] = 0.0
    amsgrad: Annotated[bool, Field(description="Adam of generator and inference never raises its step again")] = False
    decay: Annotated[float, Field(gt=0, le=1, description="factor on all rates but the prior's, each epoch")] = 1.0
    average: Annotated[float, Field(ge=0, lt=1, description="decay of the averaged weights; 0 = off")] = 0.99


def counted(phases: Sequence[Phase]) -> list[Phase]:
    """Return the phases whose steps the loop makes, in order: those with steps, and not what comes after the last."""
    return [phase for phase in phases if phase.steps and not phase.is_last]


def total_steps(phases: Sequence[Phase]) -> int:
    """Return how many steps the loop makes."""
    return sum(phase.steps for phase in counted(phases))


def in_force(phases: Sequence[Phase], step: int) -> tuple[Phase, int]:
    """Return the phase in force when `step` steps are made, and how many of them are its own; at the end the last."""
    *before, last = counted(phases)
    for phase in before:
        if step < phase.steps:
            return phase, step
        step -= phase.steps
    return last, step


def marks(phases: Sequence[Phase]) -> list[int]:
    """Return the steps at which another part begins to learn: starts of phases, and marks within them."""
    found, start = [], 0
    for phase in counted(phases):
        found += [start, *(start + mark for mark in phase.marks() if mark < phase.steps)]
        start += phase.steps
    return [step for step in dict.fromkeys(found) if step]


def make_optimisers(
    model: MultimodalModel, o: OptimiserSettings, phases: Sequence[Phase]
) -> dict[str, torch.optim.Optimizer]:
    """Return one Adam for each part with parameters (generator, inference, energy, prior), and the phases' own."""
    prior = model.generator.prior.own_parameters()
    own = {id(p) for p in prior}
    # the energy has one momentum in all phases: it learns from one loss
    momentum = next((p.momentum for p in counted(phases) if p.momentum is not None), o.betas[0])
    generator = [p for p in model.generator.parameters() if id(p) not in own]
    energy = list(model.energy.parameters()) if model.energy else []
    usual = o.betas
    parts = {
        "generator": (generator, o.generator, usual, o.weight_decay, o.amsgrad),
        "inference": (list(model.inference.parameters()), o.inference, usual, o.weight_decay, o.amsgrad),
        "energy": (energy, o.energy, (momentum, o.betas[1]), 0.0, False),
        "prior": (prior, o.prior, BETAS, 0.0, False),
    }
    found: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.Adam(parameters, rate, betas, weight_decay=decay, amsgrad=amsgrad, fused=True)
        for name, (parameters, rate, betas, decay, amsgrad) in parts.items()
        if parameters
    }
    for phase in counted(phases):
        found = phase.optimisers(model) | found  # of two phases of a kind the first makes them
    return found


@dataclass(frozen=True)
class TrainingStep:
    """The step of a run: that of the phase in force, at its rates; then the averaged weights move."""

    phases: Sequence[Phase]
    optimiser: OptimiserSettings

    def __call__(self, state: TrainState[MultimodalModel], batch: Batch) -> dict[str, float]:
        """Run one step and update the averaged weights; metrics by name."""
        phase, done = in_force(self.phases, state.step)
        set_rates(state, self.optimiser, phase, done)
        with _dropping(state):
            metrics = phase.step(state, batch, done)
        if self.optimiser.average:
            move_average(state.average, state.model, self.optimiser.average, phase.averages)
        return metrics


@contextmanager
def _dropping(state: TrainState[MultimodalModel]) -> Iterator[None]:
    """Inside, layers that draw from the global generator, as dropout does, draw by the state's seed and step, so that a
    resumed run drops what it would have; afterwards that generator is as it was.
    """
    device = state.model.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed((state.rng.initial_seed() + STREAM * state.step) % SEEDS)  # it reads 32 bits
        yield


def set_rates(state: TrainState[MultimodalModel], o: OptimiserSettings, phase: Phase, done: int) -> None:
    """Set the rates: the phase's factor on generator and inference model, the guard's, decay by epoch (no prior's).

    All of them at each step, so that a run that goes on at another rate does so from its first step.
    """
    decay = 1.0 if o.decay == 1 else o.decay ** state.stream.state_dict()["epoch"]
    guarded = decay * state.numbers.get(RATE, 1.0)
    has_energy = "energy" in state.optimisers
    factor = (decay * state.numbers.get(NETWORK_RATE, 1.0) if has_energy else guarded) * phase.factor(done)
    momentum = o.betas[0] if phase.momentum is None else phase.momentum
    for name, rate in (("generator", o.generator), ("inference", o.inference)):
        for group in state.optimisers[name].param_groups:
            group["lr"] = rate * factor
            group["betas"] = (momentum, o.betas[1])
    if has_energy:
        for group in state.optimisers["energy"].param_groups:
            group["lr"] = o.energy * guarded
    if "prior" in state.optimisers:
        for group in state.optimisers["prior"].param_groups:
            group["lr"] = o.prior * state.numbers.get(PRIOR_RATE, 1.0)
