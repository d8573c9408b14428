"""Learning rates by phase, epoch and guard, and which phase is in force."""

import math
from dataclasses import replace

import pytest

from multiebm.training.guard import RATE
from multiebm.training.phases.bound import Bound
from multiebm.training.phases.cooperative import Cooperative
from multiebm.training.phases.energy import Energy
from multiebm.training.phases.settle import Settle
from multiebm.training.state import TrainState
from multiebm.training.steps import OptimiserSettings, in_force, make_optimisers, marks, set_rates, total_steps
from small_models import energy_prior, make_generator, small_model, vectors

OPTIMISER = OptimiserSettings(generator=0.01, inference=0.02, energy=0.04, prior=0.08, decay=0.9)
BOUND, COOPERATIVE = Bound(steps=10), Cooperative(steps=300, rate=0.5)


class Epochs:
    """A stream that says only which epoch it is in."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch}


def fresh(model, optimiser=OPTIMISER, epoch: int = 0) -> TrainState:
    optimisers = make_optimisers(model, optimiser, [BOUND, COOPERATIVE])
    return TrainState(model, optimisers, make_generator(0), Epochs(epoch))


def rates(epoch: int, guard: float, phase=BOUND, energy: bool = True) -> dict[str, float]:
    state = fresh(small_model(vectors(a=2, b=3), **({} if energy else {"energy": None})), epoch=epoch)
    state.numbers[RATE] = guard
    set_rates(state, OPTIMISER, phase, 0)
    return {name: optimiser.param_groups[0]["lr"] for name, optimiser in state.optimisers.items()}


def test_rates_fall_by_the_decay_in_every_epoch_and_by_the_factor_of_the_phase():
    for epoch in (0, 3):
        d = 0.9**epoch
        assert rates(epoch, 1.0) == pytest.approx({"generator": 0.01 * d, "inference": 0.02 * d, "energy": 0.04 * d})
        assert rates(epoch, 1.0, COOPERATIVE) == pytest.approx(
            {"generator": 0.005 * d, "inference": 0.01 * d, "energy": 0.04 * d}
        )


def test_the_bound_ends_at_its_own_factor_and_the_cooperative_steps_begin_at_theirs():
    """Half a cosine over the last six of twelve steps, half way (1 + 0.2) / 2; after it the cooperative factor."""
    phases = [Bound(steps=12, final=0.2), COOPERATIVE]

    def annealed(step: int) -> float:
        phase, done = in_force(phases, step)
        return phase.factor(done)

    assert annealed(6) == 1
    assert annealed(9) == pytest.approx(0.6)
    assert annealed(11) == pytest.approx(0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * 5 / 6)))
    assert annealed(12) == 0.5
    assert annealed(12 + 150) == pytest.approx(0.75)
    assert annealed(12 + 300) == annealed(10**6) == 1


def test_the_phase_in_force_is_found_from_the_steps_before_it_and_what_comes_last_is_not_counted():
    phases = [replace(BOUND, prior_from=4), Energy(steps=0), Energy(steps=5), COOPERATIVE, Settle(steps=7)]
    assert total_steps(phases) == 315
    found = [in_force(phases, step) for step in (0, 9, 10, 14, 15, 400)]
    assert [(phase.kind, done) for phase, done in found] == [
        *(("bound", 0), ("bound", 9), ("energy", 0), ("energy", 4)),
        *(("cooperative", 0), ("cooperative", 385)),
    ]
    assert marks(phases) == [4, 10, 15]


def test_momentum_is_that_of_the_phase_and_the_energys_that_of_the_phase_that_has_one():
    state = fresh(small_model(vectors(a=2, b=3)))
    for phase, expected in ((BOUND, 0.9), (COOPERATIVE, 0.5)):
        set_rates(state, OPTIMISER, phase, 0)
        assert {name: o.param_groups[0]["betas"] for name, o in state.optimisers.items()} == {
            "generator": (expected, 0.99),
            "inference": (expected, 0.99),
            "energy": (0.5, 0.99),
        }


def test_the_guard_lowers_the_energy_alone_or_without_one_everything():
    assert rates(3, 0.25) == pytest.approx(
        {"generator": 0.01 * 0.729, "inference": 0.02 * 0.729, "energy": 0.01 * 0.729}
    )
    assert rates(3, 0.25, energy=False) == pytest.approx({"generator": 0.0025 * 0.729, "inference": 0.005 * 0.729})


def test_amsgrad_is_of_the_generator_and_the_inference_model_alone():
    state = fresh(small_model(vectors(a=2, b=3)), OptimiserSettings(amsgrad=True))
    found = {name: optimiser.defaults["amsgrad"] for name, optimiser in state.optimisers.items()}
    assert found == {"generator": True, "inference": True, "energy": False}


def test_weight_decay_is_of_the_generator_and_the_inference_model_alone():
    state = fresh(small_model(vectors(a=2, b=3), prior=energy_prior()), OptimiserSettings(weight_decay=0.1))
    found = {name: [g["weight_decay"] for g in optimiser.param_groups] for name, optimiser in state.optimisers.items()}
    assert found == {"generator": [0.1], "inference": [0.1], "energy": [0.0], "prior": [0.0]}
