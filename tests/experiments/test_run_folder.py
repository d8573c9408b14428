"""The folder of a run: one training at a time, nothing followed or deleted that is not its own, damage said by name."""

import errno
import json
import logging
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from run_standins import CtrlC, tiny, tiny_data

import multiebm
from multiebm.core.errors import ConfigError, OutputError
from multiebm.core.lock import LOCK, locked
from multiebm.experiments import build as build_module
from multiebm.experiments import folder as folder_module
from multiebm.experiments import run as run_module
from multiebm.experiments.folder import BOARD, CHECKPOINTS, CONFIG, METRICS, RUN
from multiebm.experiments.load import load_experiment
from multiebm.experiments.run import run_experiment
from multiebm.experiments.saved import MODEL, from_pretrained
from multiebm.training.phases import settle as settle_module
from multiebm.training.state import TrainState

SHORT = tiny("training.phases.energy.steps=0", "training.phases.cooperative.steps=1")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run of five steps."""
    return run_experiment(SHORT, tmp_path / "run").folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# --- one at a time


class Waits:
    """A hook that says when training has begun and goes on when it may."""

    def __init__(self) -> None:
        self.begun, self.may_go_on = threading.Event(), threading.Event()

    def on_step(self, state: TrainState, metrics: dict[str, float]) -> None:
        self.begun.set()
        assert self.may_go_on.wait(60)

    def on_end(self, state: TrainState) -> None:
        pass


def test_of_two_trainings_in_one_folder_the_second_is_refused_whatever_it_was_asked(tmp_path: Path):
    waits, ended = Waits(), []

    def first() -> None:
        ended.append(run_experiment(SHORT, tmp_path / "run", live=waits).fit.reason)

    thread = threading.Thread(target=first)
    thread.start()
    try:
        assert waits.begun.wait(60)
        for asked in ({}, {"resume": True}, {"overwrite": True}, {"overwrite": True, "force": True}):
            with pytest.raises(OutputError, match=rf"run: in use by this very process \({os.getpid()}\)"):
                run_experiment(tiny("seed=1"), tmp_path / "run", **asked)
    finally:
        waits.may_go_on.set()
        thread.join()
    assert ended == ["finished"]
    assert load_experiment(tmp_path / "run") == SHORT
    assert len(json.loads((tmp_path / "run" / RUN).read_text())["sessions"]) == 1
    assert not (tmp_path / "run" / LOCK).exists()


def test_the_lock_of_another_host_is_taken_over_by_force_alone(run: Path):
    (run / LOCK).write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    with pytest.raises(OutputError, match="process 1 on elsewhere"):
        run_experiment(SHORT, run, resume=True)
    assert run_experiment(SHORT, run, resume=True, force=True).fit.reason == "finished"
    assert not (run / LOCK).exists()


def test_a_run_goes_on_in_the_precision_that_it_began_with_whatever_is_fastest_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    short = ("training.phases.energy.steps=0", "training.phases.cooperative.steps=1", "training.precision=auto")
    for began, here in (("bf16", "fp32"), ("fp32", "bf16")):
        for fastest in (began, here):
            monkeypatch.setattr(build_module, "fastest_precision", lambda device, fastest=fastest: fastest)
            run_experiment(tiny(*short), tmp_path / began, resume=fastest == here)
        assert load_experiment(tmp_path / began).training.precision == began
        assert json.loads((tmp_path / began / "model" / "model.json").read_text())["precision"] == began


# --- kills before the first file


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_with_nothing_but_what_a_kill_left_is_taken_by_a_new_run_and_by_resume(
    resume: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / LOCK).write_text("")
    for name in (f".aside-{CONFIG}", f".aside-{RUN}", "evaluation.json.123.tmp", "metrics.jsonl.aside"):
        (tmp_path / name).write_text("half")
    assert run_experiment(SHORT, tmp_path, resume=resume).fit.step == 5
    assert ("no run is here yet, so there is nothing to resume: training starts anew" in caplog.text) == resume
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([CONFIG, RUN, METRICS, CHECKPOINTS, MODEL])


@pytest.mark.parametrize("at", ["describe_run", "write_json"])
def test_a_run_that_died_before_its_first_step_goes_on_by_resume(
    at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class KilledError(BaseException):
        pass

    def killed(*arguments: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(run_module, at, killed)
        with pytest.raises(KilledError):
            run_experiment(SHORT, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [CONFIG]
    assert run_experiment(SHORT, tmp_path, resume=True).fit.step == 5


# --- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_priors_settle_ends_in_order_and_resume_settles_as_if_there_had_been_none(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = run_experiment(tiny(), tmp_path / "whole").model.state_dict()
    settle = settle_module.settle_priors

    def interrupted(model, batches, rng, how) -> None:
        next(batches)
        torch.rand(3, generator=rng)
        signal.raise_signal(number)
        settle(model, batches, rng, how)

    with monkeypatch.context() as patch:
        patch.setattr(settle_module, "settle_priors", interrupted)
        fit = run_experiment(tiny(), tmp_path / "part").fit
    assert fit.reason == "interrupted"
    assert fit.message().endswith("step-000000010; continue with --resume")
    assert not (tmp_path / "part" / MODEL).exists()
    assert [s["reason"] for s in json.loads((tmp_path / "part" / RUN).read_text())["sessions"]] == ["interrupted"]
    rest = run_experiment(tiny(), tmp_path / "part", resume=True).model.state_dict()
    assert whole.keys() == rest.keys()
    assert all(torch.equal(whole[name], rest[name]) for name in whole)
    assert from_pretrained(tmp_path / "part").state_dict().keys() == whole.keys()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_training_leaves_everything_as_it_was(
    number: signal.Signals, run: Path, monkeypatch: pytest.MonkeyPatch
):
    before = content(run)

    def interrupted(section: object, run: object = None) -> None:
        signal.raise_signal(number)

    monkeypatch.setattr(run_module, "build_dataset", interrupted)
    for out, asked in ((run, {"overwrite": True}), (run, {"resume": True}), (run.parent / "new", {})):
        with pytest.raises(KeyboardInterrupt, match="interrupted before training began; give the same command again"):
            run_experiment(SHORT, out, **asked)
    assert content(run) == before
    assert not (run.parent / "new").exists()


def test_a_second_ctrl_c_ends_at_once_and_a_third_is_not_heard(tmp_path: Path):
    class Impatient(CtrlC):
        def on_step(self, state: TrainState, metrics: dict[str, float]) -> None:
            if state.step == self.at:
                signal.raise_signal(signal.SIGINT)
                try:
                    signal.raise_signal(signal.SIGINT)
                finally:
                    signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="interrupted at once; continue from the last checkpoint with --resume"):
        run_experiment(tiny(), tmp_path, live=Impatient(7))
    assert not (tmp_path / LOCK).exists()
    assert run_experiment(tiny(), tmp_path, resume=True).fit.step == 10


# --- overwriting


def test_overwriting_deletes_links_and_nothing_behind_them(run: Path, caplog: pytest.LogCaptureFixture):
    elsewhere = run.parent / "elsewhere"
    elsewhere.mkdir()
    (run / CHECKPOINTS).rename(elsewhere / "checkpoints")
    (run / CHECKPOINTS).symlink_to(elsewhere / "checkpoints")
    (run / METRICS).rename(elsewhere / "metrics")
    (run / METRICS).symlink_to(elsewhere / "metrics")
    (run / BOARD).symlink_to(run.parent / "nowhere")
    before = content(elsewhere)
    assert run_experiment(tiny("seed=3"), run, overwrite=True).fit.step == 10
    assert content(elsewhere) == before
    assert not (run / CHECKPOINTS).is_symlink()
    assert not (run / METRICS).is_symlink()
    assert not (run / BOARD).is_symlink()
    assert f"{run / CHECKPOINTS}: a link to {elsewhere / 'checkpoints'}; the link is deleted" in caplog.text


def put_notes_among_checkpoints(run: Path) -> None:
    (run / CHECKPOINTS / "notes.txt").write_text("mine")


def put_notes_beside_the_model(run: Path) -> None:
    (run / MODEL / "notes.txt").write_text("mine")


def put_a_folder_for_a_file(run: Path) -> None:
    (run / RUN).unlink()
    (run / RUN).mkdir()
    (run / RUN / "mine").write_text("mine")


def put_a_file_for_a_folder(run: Path) -> None:
    (run / BOARD).write_text("mine")


@pytest.mark.parametrize(
    ("put", "said"),
    [
        (put_notes_among_checkpoints, "checkpoints: got notes.txt in it, which no run wrote"),
        (put_notes_beside_the_model, "model: got notes.txt in it, which no run wrote"),
        (put_a_folder_for_a_file, "run.json: got a folder, expected a file that a run wrote; move it away"),
        (put_a_file_for_a_folder, "tensorboard: got a file, expected a folder that a run wrote; move it away"),
    ],
)
def test_nothing_is_deleted_where_something_in_the_way_is_not_the_runs(put, said: str, run: Path):
    put(run)
    before = content(run)
    with pytest.raises(OutputError, match=said):
        run_experiment(tiny("seed=3"), run, overwrite=True)
    assert content(run) == before


def test_overwriting_that_fails_half_way_leaves_what_can_be_overwritten_again(
    run: Path, monkeypatch: pytest.MonkeyPatch
):
    def refused(path: Path) -> None:
        if path.name == RUN:
            raise OSError(errno.EPERM, "Operation not permitted")
        removed(path)

    removed = folder_module.remove
    with monkeypatch.context() as patch:
        patch.setattr(folder_module, "remove", refused)
        with pytest.raises(OutputError, match=r"cannot be written .Operation not permitted."):
            run_experiment(tiny("seed=3"), run, overwrite=True)
    assert load_experiment(run) == SHORT
    assert run_experiment(tiny("seed=3"), run, overwrite=True).fit.step == 10


# --- damage


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", r"run.json: not readable as JSON \("),
        ("[" * 100_000, r"run.json: not readable as JSON \(nested more than 100 deep"),
        ("[]", r"run.json: damaged: all: got \[\], expected: a valid dictionary"),
        ('{"sessions": 3}', "sessions: got 3, expected: a valid list"),
        ('{"sessions": [3]}', "sessions.0: got 3, expected: a valid dictionary"),
        ('{"sessions": [{"seconds": "x"}]}', "sessions.0.seconds: got 'x', expected: a valid number"),
        ('{"data": "mine"}', "data: got 'mine', expected: a valid dictionary"),
    ],
)
def test_a_damaged_record_of_the_run_is_named_with_the_way_out_and_deleting_it_is_one(text: str, said: str, run: Path):
    (run / RUN).write_text(text)
    before = content(run)
    with pytest.raises(OutputError, match=said) as raised:
        run_experiment(SHORT, run, resume=True)
    assert str(raised.value).endswith("delete it, or restore it")
    assert content(run) == before
    (run / RUN).unlink()
    assert run_experiment(SHORT, run, resume=True).fit.reason == "finished"


def test_a_damaged_configuration_is_named_when_a_run_goes_on(run: Path):
    (run / CONFIG).write_text("training: {batch_size: many}\n")
    with pytest.raises(ConfigError) as raised:
        run_experiment(SHORT, run, resume=True)
    assert "training.batch_size" in str(raised.value)
    wrote = rf"{run / CONFIG}: damaged, or of another release (multiebm {multiebm.__version__} wrote it); restore it"
    assert wrote in str(raised.value)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    file = tmp_path / "diary.txt"
    file.write_text("mine\n")
    yield file
    assert file.read_text() == "mine\n"


def test_a_log_that_is_a_link_is_not_written_through(run: Path, elsewhere: Path):
    (run / METRICS).unlink()
    (run / METRICS).symlink_to(elsewhere)
    with pytest.raises(OutputError, match=f"metrics.jsonl: got a link to {elsewhere}, expected a file; move it away"):
        run_experiment(SHORT, run, resume=True)


def test_a_line_of_the_log_that_is_no_number_does_not_keep_a_run_from_going_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run_experiment(tiny(), tmp_path, live=CtrlC(8))
    lines = (tmp_path / METRICS).read_text().splitlines()
    lines[1] = lines[1].replace('"step": 4', '"step": "four"')
    (tmp_path / METRICS).write_text("".join(f"{line}\n" for line in lines))
    with caplog.at_level(logging.WARNING):
        assert run_experiment(tiny(), tmp_path, resume=True).fit.step == 10
    assert "metrics.jsonl: lines that are no JSON object with a step, or out of order, left out: 2;" in caplog.text
    assert "metrics.jsonl: got 3 of the 4 lines up to step 8; the others are lost" in caplog.text
    steps = [json.loads(line)["step"] for line in (tmp_path / METRICS).read_text().splitlines()]
    assert steps == [2, 6, 8, 10]


# --- where training begins


def test_a_run_folder_given_as_the_configuration_of_another_is_said_to_begin_anew(
    run: Path, caplog: pytest.LogCaptureFixture
):
    new = run.parent / "new"
    run_experiment(SHORT, new, preset=str(run))
    assert (
        f"configuration of {run} taken, training starts anew in {new}; to go on with that run use --out {run} --resume"
        in caplog.text
    )
    caplog.clear()
    run_experiment(SHORT, run, preset=str(run), resume=True)
    run_experiment(SHORT, run.parent / "third", preset="toy2d")
    assert "starts anew" not in caplog.text


def test_an_output_that_cannot_be_a_folder_is_refused_before_the_data_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(run_module, "build_dataset", lambda section: pytest.fail("read"))
    for out in (Path("/proc/run"), Path("/sys/run")):
        with pytest.raises(OutputError, match=f"{out}: cannot be written .*; choose another with --out"):
            run_experiment(SHORT, out)
    with locked(tmp_path), pytest.raises(OutputError, match="in use"):
        run_experiment(SHORT, tmp_path, dataset=tiny_data())
