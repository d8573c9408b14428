"""The start of the linear half is shown, and is time of training."""

import json

import numpy as np
import pytest
import torch

from multiebm.core.keys import ELAPSED
from multiebm.core.progress import listening
from multiebm.data import from_arrays
from multiebm.experiments import planning, run
from multiebm.experiments.load import load_experiment
from multiebm.experiments.planning import Plan, planned_again
from multiebm.experiments.run import fresh_state, run_experiment

DRAWS = np.random.default_rng(0)
DATA = from_arrays({"a": DRAWS.normal(size=(40, 2)), "b": DRAWS.normal(size=(40, 1)), "c": ["u", "v"] * 20})
SLOW = 2.5  # seconds that a start says it took


def own(*overrides: str):
    return load_experiment("own", ["model.shared=2", "training.phases.bound.steps=4", *overrides])


class Heard:
    """A listener that notes tasks by name: their totals, and how much was done."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.totals: dict[str, int | None] = {}
        self.done: dict[str, int] = {}

    def start(self, what, total):
        self.names.append(what)
        self.totals[what] = total
        return len(self.names) - 1

    def advance(self, task, steps):
        self.done[self.names[task]] = self.done.get(self.names[task], 0) + steps

    def end(self, task):
        pass


@pytest.fixture
def slow(monkeypatch):
    begin = run.begin_linear

    def begin_slowly(*arguments):
        return SLOW + begin(*arguments)

    monkeypatch.setattr(run, "begin_linear", begin_slowly)


def test_the_start_says_how_far_it_is():
    """Five folds of 32 rows try four priors each, and all rows are fitted once; then each part gets its line."""
    heard = Heard()
    with listening(heard):
        fresh_state(own(), DATA, torch.device("cpu"))
    assert heard.totals == {"start: factor analysis": 5 * 4 + 1, "start: lines of parts": 3}
    assert heard.done == heard.totals


def test_the_start_is_time_of_training(slow, tmp_path):
    assert fresh_state(own(), DATA, torch.device("cpu")).numbers[ELAPSED] > SLOW
    assert ELAPSED not in fresh_state(own(), DATA, torch.device("cpu"), begins=False).numbers
    assert ELAPSED not in fresh_state(own("model.linear=false"), DATA, torch.device("cpu")).numbers


def test_a_budget_that_the_start_has_spent_leaves_the_start_as_the_model(slow, tmp_path, caplog):
    result = run_experiment(own("training.seconds=2"), tmp_path / "run", DATA, device="cpu")
    assert (result.fit.reason, result.fit.step) == ("budget", 0)
    session = json.loads((tmp_path / "run" / "run.json").read_text())["sessions"][-1]
    assert session["seconds"] > SLOW
    assert (tmp_path / "run" / "model").is_dir()
    started = fresh_state(own(), DATA, torch.device("cpu")).model
    for name, value in started.state_dict().items():
        assert torch.equal(result.model.state_dict()[name], value), name
    assert "the start of the linear half took " in caplog.text
    assert "of training.seconds 2, so that no step was made; raise it" in caplog.text


def test_a_plan_keeps_the_start_free():
    """Of 95 seconds 5 are the start's and 10 settling's: 80 steps of a second each fit, before and on the way."""
    plan = Plan(own("training.seconds=100", "training.phases.bound.steps=80"), [[1.0]], 10.0, 5.0)
    assert plan.seconds_left(plan.start) == 80
    again = planned_again(plan, 40, 45.0)  # 40 seconds of 40 steps
    assert again.experiment.training.phases[0].steps == 80
    late = planned_again(plan, 40, 84.0).experiment  # steps of 79 / 40 seconds: 1 is left, and 5 that are kept free
    assert late.training.phases[0].steps == 40 + 3
    assert planned_again(plan, 40, 95.0).experiment.training.phases[0].steps == 40 + 1  # none left


def test_planning_times_the_start(slow, monkeypatch):
    monkeypatch.setattr(planning, "build_dataset", lambda section: DATA)
    monkeypatch.setattr(planning, "_time_of_step", lambda experiment, at, device: 1.0)
    plan = planning.planned(own("training.seconds=100"), torch.device("cpu"))
    assert SLOW < plan.start < SLOW + 5
    assert plan.experiment.training.phases[0].steps == pytest.approx(95 - plan.start, abs=1)
