"""The live view: bars by phase, and running means of the numbers that matter."""

from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from multiebm.core.keys import ELAPSED
from multiebm.experiments.live import TrainingView, live_view, spans
from multiebm.experiments.load import load_experiment
from multiebm.experiments.schema import Experiment


def experiment(warmup: int = 2, cooperative: int = 2, seconds: str = "null") -> Experiment:
    phases = [f"training.phases.bound.steps={warmup}", f"training.phases.cooperative.steps={cooperative}"]
    return load_experiment("toy2d", [*phases, f"training.seconds={seconds}"])


def quiet() -> Console:
    return Console(file=StringIO(), width=40)


def at(step: int) -> Any:
    return SimpleNamespace(step=step, numbers={ELAPSED: 1.5 * step})


METRICS = {
    "energy/data": -1.0,
    "energy/generated": 2.0,
    "energy/refined": 1.0,
    "energy/drop": 1.0,
    "latent_chain/gain": 30.0,
    "log_likelihood/a": -12.0,
    "log_likelihood/b": 7.0,
    "validate/gen/joint_coherence": 0.5,
    "grad_norm/energy": 5.0,
}


def test_a_terminal_shows_bars_energies_gains_and_likelihoods():
    console = Console(file=StringIO(), force_terminal=True, width=100)
    with live_view(experiment(seconds="60"), console) as view:
        assert isinstance(view, TrainingView)
        assert view.shown.moves
        for step in (1, 2, 3):
            view.on_step(at(step), METRICS)
        view.on_end(at(3))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "steps are over" in shown
    for text in ("bound", "2/2", "cooperative", "1/2", "energy of data", "data chain lowers energy by"):
        assert text in shown
    assert "a -12  b 7" in shown
    assert "4 of at most 60 s" in shown
    assert "grad_norm" not in shown


def test_phases_without_steps_have_no_bar():
    view = TrainingView(experiment(warmup=0), quiet())
    assert [task.description for task in view.shown.bars.tasks] == ["cooperative"]


def test_elsewhere_lines_come_at_the_start_at_a_change_of_phase_and_at_the_end():
    console = Console(file=StringIO(), width=40)
    with live_view(experiment(warmup=3, cooperative=3), console) as view:
        assert isinstance(view, TrainingView)
        assert not view.shown.moves
        for step in range(1, 7):
            view.on_step(at(step), METRICS)
        view.on_end(at(6))
        view.on_end(at(6))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line.split(":")[0] for line in lines] == [
        "bound 1/6, 2 s",
        "cooperative 4/6, 6 s",
        "cooperative 6/6, 9 s",
        "steps are over; priors that are fitted to codes settle, if any, then the model is saved",
    ]
    assert "energy of data -1; energy of generated 2; energy of refined 1" in lines[0]


def test_means_run_over_about_ten_steps_and_validation_is_the_last_one():
    watched = TrainingView(experiment(), quiet())
    watched.on_step(at(1), {"energy/data": 1.0, "validate/gen/fcd": 5.0})
    watched.on_step(at(2), {"energy/data": 2.0, "validate/gen/fcd": 3.0})
    assert watched.means["energy/data"] == pytest.approx(1.1)
    assert watched.means["validate/gen/fcd"] == 3.0
    assert watched.span == ("bound", 0, 2)
    assert spans(experiment()) == [("bound", 0, 2), ("cooperative", 2, 4)]
    phases = [{"kind": kind, "steps": 2} for kind in ("bound", "cooperative", "bound")]
    again = Experiment.model_validate({"training": {"phases": phases}})
    assert spans(again) == [("bound", 0, 2), ("cooperative", 2, 4), ("bound", 4, 6)]


def test_a_new_phase_begins_with_its_own_numbers():
    watched = TrainingView(experiment(), quiet())
    watched.on_step(at(2), {"loss/elbo": 1.0})
    watched.on_step(at(3), {"energy/data": 2.0})
    assert watched.rows() == [("energy of data", "2")]


def test_what_is_left_of_a_phase_is_at_its_own_pace_and_within_the_budget():
    """Warm-up steps of 1.5 s, then cooperative ones of 4 s."""
    watched = TrainingView(experiment(warmup=10, cooperative=8), quiet())
    watched.on_step(at(1), METRICS)
    assert watched.left() is None
    watched.on_step(at(4), METRICS)
    assert watched.left() == pytest.approx(6 * 1.5)
    for step in (11, 12, 13):
        watched.on_step(SimpleNamespace(step=step, numbers={ELAPSED: 15.0 + 4 * (step - 10)}), METRICS)
    assert watched.left() == pytest.approx(5 * 4)
    short = TrainingView(experiment(warmup=10, seconds="7"), quiet())
    short.on_step(at(1), METRICS)
    short.on_step(at(4), METRICS)
    assert short.left() == pytest.approx(1)


def test_time_left_is_counted_anew_after_the_guard_went_back():
    watched = TrainingView(experiment(warmup=100), quiet())
    for step in (1, 50):
        watched.on_step(at(step), METRICS)
    watched.on_step(SimpleNamespace(step=20, numbers={ELAPSED: 75.0}), METRICS)
    assert watched.left() is None
    watched.on_step(SimpleNamespace(step=30, numbers={ELAPSED: 90.0}), METRICS)
    assert watched.left() == pytest.approx(70 * 1.5)
