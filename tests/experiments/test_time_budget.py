"""`training.seconds` is the time of steps and of the priors' settling together."""

import json
import logging
import time

import pytest
import torch
from run_standins import tiny, tiny_data

from multiebm.core.progress import listening
from multiebm.experiments import run
from multiebm.experiments.build import settling_of
from multiebm.experiments.run import fresh_state, run_experiment
from multiebm.training import loop
from multiebm.training.phases import settle
from multiebm.training.phases.settle import Planned, settling_within, time_to_settle

ENDLESS = ["training.phases.bound.steps=1000000", "training.log_every=1000", "training.checkpoint_every=1000"]


STEP, BATCH, SETTLED = 0.1, 0.002, 0.01  # seconds of a step of the loop, of a batch and of a step of settling


@pytest.fixture
def clock(monkeypatch):
    """A clock that only steps and settling move, by what they are said to take, on any machine."""
    spent, step, settle_priors = [0.0], run.TrainingStep.__call__, settle.settle_priors

    def now():
        return spent[0]

    def stepping(self, state, batch):
        spent[0] += STEP
        return step(self, state, batch)

    def settling(model, batches, rng, how, **more):
        batches = list(batches)
        spent[0] += BATCH * len(batches) + SETTLED * how.steps
        return settle_priors(model, batches, rng, how, **more)

    monkeypatch.setattr(time, "perf_counter", now)
    monkeypatch.setattr(loop, "perf_counter", now)
    monkeypatch.setattr(run.TrainingStep, "__call__", stepping)
    monkeypatch.setattr(settle, "settle_priors", settling)
    return now


def test_steps_and_settling_together_take_the_budget(tmp_path, caplog, clock):
    """200,000 steps of settling alone would take 2,000 s. All that is spent, finding that out too, is the budget, up to
    the step under way when it ends and what settling is rounded up by.
    """
    with caplog.at_level(logging.WARNING):
        result = run_experiment(
            tiny(*ENDLESS, "training.seconds=4", "training.phases.settle.steps=200000"),
            tmp_path / "run",
            tiny_data(),
            device="cpu",
        )
    assert result.fit.reason == "budget"
    session = json.loads((tmp_path / "run" / "run.json").read_text())["sessions"][-1]
    assert 4 <= clock() < 4 + STEP + SETTLED + BATCH
    assert session["seconds"] + session["settling"] < 4 + STEP + SETTLED + BATCH
    assert session["seconds"] > 0.4 * 4  # settling gets at most 30 %, finding that out a little
    assert 1.1 < session["settling"] <= 0.3 * 4 + SETTLED + BATCH
    assert session["settling_share"] == pytest.approx(0.3 * 4 / (200_000 * SETTLED), rel=0.05)
    assert "in full it would take more than 30 % of training.seconds 4" in caplog.text
    assert (tmp_path / "run" / "model").is_dir()


def test_a_phase_of_which_no_step_is_made_is_named(caplog):
    training = tiny().training  # 4 steps of bound, 1 of energy, 5 of cooperative
    assert training.unreached(3) == training.unreached(4) == ["energy", "cooperative"]
    assert training.unreached(5) == ["cooperative"]
    assert training.unreached(6) == training.unreached(10) == []
    with caplog.at_level(logging.WARNING):
        run._say_unreached(tiny("training.seconds=4"), 3)
        run._say_unreached(tiny("training.seconds=4"), 6)
    assert [record.getMessage() for record in caplog.records] == [
        "training.seconds 4 ended the steps before these phases began, so nothing has learned in them: energy, "
        "cooperative; raise it, or lower the steps of the phases before (training.phases.bound.steps)"
    ]


@pytest.mark.parametrize(
    ("seconds", "expected"), [(20.0, Planned(0.5, 6.0)), (100.0, Planned(1.0, 12.0)), (None, Planned(1.0, 12.0))]
)
def test_settling_gets_what_it_needs_up_to_a_share_of_the_budget(seconds, expected, monkeypatch):
    monkeypatch.setattr(settle, "time_to_settle", lambda state, how: 12.0)
    assert settling_within(None, settling_of(tiny(), {}), seconds) == expected


class Steps:
    """A listener that counts."""

    def __init__(self) -> None:
        self.totals: dict[str, int] = {}
        self.done: dict[int, int] = {}

    def start(self, what, total):
        self.totals[what] = self.totals.get(what, 0) + (total or 0)
        return 0

    def advance(self, task, steps):
        self.done[task] = self.done.get(task, 0) + steps

    def end(self, task):
        pass


def test_a_share_is_of_the_steps_and_of_the_codes_and_each_is_announced(monkeypatch):
    experiment = tiny("training.phases.settle.steps=40")
    state = fresh_state(experiment, tiny_data(), torch.device("cpu"))
    seen, heard = [], Steps()
    draw = type(state.stream).__next__
    monkeypatch.setattr(type(state.stream), "__next__", lambda stream: seen.append(1) or draw(stream))
    with listening(heard):
        settle.take_average(state, settling_of(experiment, {}), share=0.25)
    assert len(seen) == 32
    assert heard.totals == {"codes are drawn": 0, "a mixture is fitted to the codes": 90, "the prior settles": 10}
    assert heard.done[0] == 32 + 90 + 10  # one base, two private mixtures


def test_finding_out_how_long_it_takes_leaves_state_and_log_alone(caplog):
    """A random tilt is next to dead; nobody is told of a rehearsal."""
    experiment = tiny("training.phases.settle.steps=40")
    state = fresh_state(experiment, tiny_data(), torch.device("cpu"))
    next(state.stream)
    before, numbers, anyones = state.snapshot(), state.numbers_json(), torch.get_rng_state()
    heard = Steps()
    with listening(heard), caplog.at_level(logging.INFO):
        assert time_to_settle(state, settling_of(experiment, {})) > 0
    assert heard.totals == {}
    assert caplog.text == ""
    after = state.tensors()
    assert all(torch.equal(value, after[name]) for name, value in before.tensors.items())
    assert state.numbers_json() == numbers
    assert torch.equal(torch.get_rng_state(), anyones)


def test_the_time_to_settle_is_that_of_its_parts(monkeypatch):
    """Four batches take 2 s, twenty steps 3 s more: 128 batches and 400 steps take 64 + 60 s."""
    clock = iter([0.0, 9.0, 10.0, 12.0, 20.0, 25.0])  # the first, slow pass does not count
    monkeypatch.setattr(settle.time, "perf_counter", lambda: next(clock))
    experiment = tiny("training.phases.settle.steps=400")
    state = fresh_state(experiment, tiny_data(), torch.device("cpu"))
    assert time_to_settle(state, settling_of(experiment, {})) == pytest.approx(64 + 60)


def test_the_time_of_a_ratio_and_of_the_joint_samples_that_are_kept_counts_too(monkeypatch):
    """Sixteen steps of 1,200 take 4 s, 256 draws of 8 times 20 take 16 s: 300 s and 10 s more."""
    clock = iter([0.0, 9.0, 10.0, 12.0, 20.0, 25.0, 30.0, 34.0, 40.0, 56.0])
    monkeypatch.setattr(settle.time, "perf_counter", lambda: next(clock))
    experiment = tiny("training.phases.settle.steps=400", "model.interaction={kind: pair, best_of: 36}")
    state = fresh_state(experiment, tiny_data(), torch.device("cpu"))
    assert (settle.STEPS, settle.SURPLUS) == (1200, 8)
    assert time_to_settle(state, settling_of(experiment, {})) == pytest.approx(64 + 60 + 300 + 10)


def test_without_a_budget_nothing_is_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "settling_within", lambda *args: pytest.fail("timed"))
    run_experiment(tiny(), tmp_path / "run", tiny_data(), device="cpu")
