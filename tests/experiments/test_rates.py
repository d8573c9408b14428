"""Learning rates by phase, epoch and guard."""

import math

import pytest

from multiebm.experiments.build import build_state
from multiebm.experiments.schema import Experiment
from multiebm.training.guard import RATE
from multiebm.training.steps import in_force, set_rates
from small_models import energy_prior, small_model, vectors

SETTINGS = {"generator": 0.01, "inference": 0.02, "energy": 0.04, "prior": 0.08, "decay": 0.9}
COOPERATIVE = {"kind": "cooperative", "rate": 0.5}


class Epochs:
    """A stream that says only which epoch it is in."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch}


def rates(epoch: int, guard: float, warm: bool, energy: bool = True) -> dict[str, float]:
    training = {"optimiser": SETTINGS, "phases": [{"kind": "bound", "steps": 10, "anneal": 0.0}, COOPERATIVE]}
    experiment = Experiment.model_validate({"training": training})
    model = small_model(vectors(a=2, b=3), **({} if energy else {"energy": None}))
    state = build_state(experiment, model, Epochs(epoch))
    state.step, state.numbers[RATE] = 0 if warm else 10, guard
    set_rates(state, experiment.training.optimiser, *in_force(experiment.training.phases, state.step))
    return {name: optimiser.param_groups[0]["lr"] for name, optimiser in state.optimisers.items()}


def test_rates_fall_by_the_decay_in_every_epoch_and_by_the_factor_of_the_phase():
    for epoch in (0, 3):
        d = 0.9**epoch
        assert rates(epoch, 1.0, warm=True) == pytest.approx(
            {"generator": 0.01 * d, "inference": 0.02 * d, "energy": 0.04 * d}
        )
        assert rates(epoch, 1.0, warm=False) == pytest.approx(
            {"generator": 0.005 * d, "inference": 0.01 * d, "energy": 0.04 * d}
        )


def test_the_warm_up_ends_at_its_own_factor_and_the_cooperative_steps_begin_at_theirs():
    """Half a cosine over the last six of ten steps, half way (1 + 0.2) / 2; after it the cooperative factor."""
    phases = [{"kind": "bound", "steps": 10, "anneal": 0.6, "final": 0.2}, COOPERATIVE]
    training = Experiment.model_validate({"training": {"optimiser": SETTINGS, "phases": phases}}).training

    def annealed(step: int) -> float:
        phase, done = in_force(training.phases, step)
        return phase.factor(done)

    assert annealed(4) == 1
    assert annealed(7) == pytest.approx(0.6)
    assert annealed(9) == pytest.approx(0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * 5 / 6)))
    assert annealed(10) == 0.5


def test_the_guard_lowers_the_energy_alone_or_without_one_everything():
    assert rates(3, 0.25, warm=True) == pytest.approx(
        {"generator": 0.01 * 0.729, "inference": 0.02 * 0.729, "energy": 0.01 * 0.729}
    )
    assert rates(3, 0.25, warm=True, energy=False) == pytest.approx(
        {"generator": 0.0025 * 0.729, "inference": 0.005 * 0.729}
    )


def test_amsgrad_is_of_the_generator_and_the_inference_model_alone():
    experiment = Experiment.model_validate({"training": {"optimiser": {"amsgrad": True}}})
    state = build_state(experiment, small_model(vectors(a=2, b=3)), Epochs(0))
    found = {name: optimiser.defaults["amsgrad"] for name, optimiser in state.optimisers.items()}
    assert found == {"generator": True, "inference": True, "energy": False}


def test_weight_decay_is_of_the_generator_and_the_inference_model_alone():
    experiment = Experiment.model_validate({"training": {"optimiser": {"weight_decay": 0.1}}})
    model = small_model(vectors(a=2, b=3), prior=energy_prior())
    state = build_state(experiment, model, Epochs(0))
    found = {name: [g["weight_decay"] for g in optimiser.param_groups] for name, optimiser in state.optimisers.items()}
    assert found == {"generator": [0.1], "inference": [0.1], "energy": [0.0], "prior": [0.0]}
