import json
import os
import signal
import sys
import threading
from pathlib import Path

import pytest
from training_standin import assert_same_state, hooks, log_lines, make_state, step

from multiebm.core.errors import ConfigError, OutputError
from multiebm.core.keys import ELAPSED
from multiebm.training import loop
from multiebm.training.checkpoint import CheckpointStore, read_checkpoint
from multiebm.training.hooks import CheckpointEvery, MetricsLog, TensorBoard, Validate
from multiebm.training.loop import Fit, fit


class Call:
    """A hook that calls something after given steps, and remembers the steps it saw."""

    def __init__(self, at: int = 0, action=lambda: None) -> None:
        self.at, self.action, self.steps, self.ended_at = at, action, [], None

    def on_step(self, state, metrics) -> None:
        self.steps.append(state.step)
        if state.step == self.at:
            self.action()

    def on_end(self, state) -> None:
        self.ended_at = state.step


@pytest.fixture
def clock(monkeypatch):
    """Every reading of the loop's clock is one second after the one before."""
    ticks = iter(range(10_000))
    monkeypatch.setattr(loop, "perf_counter", lambda: float(next(ticks)))
    return ticks


# --- when it ends


def test_it_runs_to_the_step_count_and_tells_every_hook():
    state, hook = make_state(), Call()
    assert fit(state, step, 4, [hook]) == Fit("finished", 4, None)
    assert hook.steps == [1, 2, 3, 4]
    assert hook.ended_at == 4
    assert fit(state, step, 4, [hook]) == Fit("finished", 4, None)
    assert hook.steps == [1, 2, 3, 4]


def test_the_budget_counts_steps_but_not_hooks_and_goes_on_after_a_resume(clock, tmp_path: Path):
    """Each step takes one second of the counted clock, each hook ten that must not count."""
    slow = Call()
    slow.on_step = lambda state, metrics: [next(clock) for _ in range(10)]
    state = make_state()
    assert fit(state, step, 100, [slow, *hooks(tmp_path)], seconds=3.0).reason == "budget"
    assert (state.step, state.numbers[ELAPSED]) == (3, 3.0)
    resumed = make_state()
    CheckpointStore(tmp_path / "checkpoints").resume(resumed)
    assert fit(resumed, step, 100, [], seconds=5.0).step == 5


def test_it_stops_when_asked():
    state = make_state()
    assert fit(state, step, 100, should_stop=lambda: state.step == 7) == Fit("stopped", 7, None)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_finishes_the_step_saves_and_says_where_and_resume_goes_on_exactly(tmp_path: Path, number):
    before, state = signal.getsignal(number), make_state()
    interrupting = Call(at=7, action=lambda: os.kill(os.getpid(), number))
    result = fit(state, step, 20, [interrupting, *hooks(tmp_path / "a")])
    saved = tmp_path / "a" / "checkpoints" / "step-000000007"
    assert result == Fit("interrupted", 7, saved)
    assert result.message() == f"interrupted after step 7: saved in {saved}; continue with --resume"
    assert signal.getsignal(number) is before

    resumed, whole = make_state(), make_state()
    CheckpointStore(tmp_path / "a" / "checkpoints").resume(resumed)
    fit(resumed, step, 20, hooks(tmp_path / "a"))
    fit(whole, step, 20, hooks(tmp_path / "b"))
    assert_same_state(resumed, whole)
    assert log_lines(tmp_path / "a") == log_lines(tmp_path / "b")


def test_a_signal_inside_a_step_lets_that_step_finish():
    def interrupted_step(state, batch):
        os.kill(os.getpid(), signal.SIGINT)
        return step(state, batch)

    state, plain = make_state(), make_state()
    assert fit(state, interrupted_step, 20).step == 1
    fit(plain, step, 1)
    assert_same_state(state, plain)


def test_a_second_signal_stops_at_once():
    twice = Call(at=3, action=lambda: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)])
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(make_state(), step, 20, [twice])
    assert twice.ended_at is None
    assert signal.getsignal(signal.SIGINT) is before


def test_it_also_runs_outside_the_main_thread():
    results = []
    thread = threading.Thread(target=lambda: results.append(fit(make_state(), step, 2)))
    thread.start()
    thread.join()
    assert results == [Fit("finished", 2, None)]


def test_the_messages_of_the_other_ends():
    assert Fit("finished", 9, Path("c")).message() == "finished after step 9: saved in c"
    assert Fit("budget", 9, None).message() == "time budget spent after step 9: no checkpoint was saved"


# --- hooks


def test_log_lines_are_means_over_the_steps_that_had_the_metric(tmp_path: Path):
    def counting(state, batch):
        return {"every": float(state.step), **({"odd": float(state.step)} if state.step % 2 else {})}

    fit(make_state(), counting, 8, [MetricsLog(tmp_path / "metrics.jsonl", every=4)])
    assert log_lines(tmp_path) == [
        {"step": 4, "every": (0 + 1 + 2 + 3) / 4, "odd": (1 + 3) / 2},
        {"step": 8, "every": (4 + 5 + 6 + 7) / 4, "odd": (5 + 7) / 2},
    ]


def test_a_mean_that_is_not_finite_is_null_so_that_every_line_is_json(tmp_path: Path):
    fit(make_state(), lambda state, batch: {"a": float("nan")}, 1, [MetricsLog(tmp_path / "log", every=1)])
    values = json.loads((tmp_path / "log").read_text(), parse_constant=pytest.fail)
    assert values["a"] is None


def test_a_line_is_in_the_file_as_soon_as_its_step_is_over(tmp_path: Path):
    seen = []
    reader = Call(at=2, action=lambda: seen.extend(log_lines(tmp_path)))
    fit(make_state(), lambda state, batch: {}, 3, [MetricsLog(tmp_path / "metrics.jsonl", every=2), reader])
    assert seen == [{"step": 2}]


def test_a_log_that_cannot_be_written_names_file_step_and_what_is_safe(tmp_path: Path):
    blocking = Call(at=1, action=(tmp_path / "log").mkdir)
    with pytest.raises(OutputError, match=r"log: cannot write the line of step 2 .*Earlier checkpoints are intact"):
        fit(make_state(), step, 3, [MetricsLog(tmp_path / "log", every=2), blocking])


def test_checkpoints_come_every_n_steps_and_once_at_the_end_and_name_the_newest(tmp_path: Path):
    store = CheckpointStore(tmp_path, keep_last=10)
    saved = []
    store_save = store.save
    store.save = lambda state, metric=None: saved.append(state.step) or store_save(state, metric)
    result = fit(make_state(), step, 7, [CheckpointEvery(store, 3)])
    assert saved == [3, 6, 7]
    assert result.checkpoint == store.path(7)
    saved.clear()
    fit(make_state(), step, 6, [CheckpointEvery(store, 3)])
    assert saved == [3, 6]


def test_the_best_is_picked_by_a_validation_metric_of_the_steps_before_it(tmp_path: Path):
    """Validated at 2, 4, 6, ... as |step - 6|; checkpoints at 4, 8, 12 carry the latest: 2, 2, 6; the first is best."""
    store = CheckpointStore(tmp_path, keep_last=1)
    validate = Validate(2, lambda state: {"valid/distance": abs(state.step - 6.0)})
    log = MetricsLog(tmp_path / "metrics.jsonl", every=4)
    fit(make_state(), step, 12, [CheckpointEvery(store, 4, metric="valid/distance"), validate, log])
    assert store.steps() == [4, 12]
    assert store.best() == store.path(4)
    assert [read_checkpoint(store.path(n)).metric for n in (4, 12)] == [2.0, 6.0]
    assert [line["valid/distance"] for line in log_lines(tmp_path)] == [(4 + 2) / 2, (0 + 2) / 2, (4 + 6) / 2]


def test_tensorboard_that_is_not_installed_is_a_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    said = r'tensorboard: got true for runs/tb, .*pip install "multiebm\[tensorboard\]"'
    with pytest.raises(ConfigError, match=said):
        TensorBoard("runs/tb")


def test_tensorboard_gets_every_metric_of_the_steps_that_are_due(monkeypatch):
    written = []

    class Writer:
        def __init__(self, folder):
            written.append(folder)

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def flush(self):
            written.append("flushed")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", type(sys)("tensorboard"))
    sys.modules["torch.utils.tensorboard"].SummaryWriter = Writer
    fit(make_state(), lambda state, batch: {"a": float(state.step)}, 5, [TensorBoard("runs/tb", every=2)])
    assert written == ["runs/tb", ("a", 1.0, 2), ("a", 3.0, 4), "flushed"]
