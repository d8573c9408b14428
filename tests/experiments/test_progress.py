"""Long work shows how far it is: bars in terminals, lines elsewhere, nothing where it is muted."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

import multiebm
from multiebm.core import bars
from multiebm.core.bars import showing
from multiebm.core.progress import listening, task, track
from multiebm.experiments.load import load_experiment
from multiebm.experiments.run import run_experiment

QUICK = ["training.phases.bound.steps=3", "training.phases.cooperative.steps=2"]


def console(terminal: bool = False) -> Console:
    return Console(file=StringIO(), force_terminal=terminal, width=100)


def text_of(shown: Console) -> str:
    return shown.file.getvalue()  # type: ignore[attr-defined]


def test_a_terminal_gets_a_bar_for_each_task_which_goes_when_it_is_over():
    shown = console(terminal=True)
    with showing(console=shown), task("judges", 3) as advance:
        advance(1)
        assert list(track([1, 2], "inner")) == [1, 2]
        advance(2)
    for text in ("judges", "0/3", "inner", "0/2"):
        assert text in text_of(shown)
    assert text_of(shown).endswith("\x1b[2K\x1b[?25h\r"), "the last line is erased, and the cursor there again"


def test_elsewhere_a_task_that_takes_long_says_how_far_it_is_and_a_short_one_nothing(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr(bars, "perf_counter", lambda: now[0])
    shown = console()
    with showing(console=shown):
        list(track(range(5), "short"))
        for _ in track(range(4), "long"):
            now[0] += 6.0
        with task("of unknown length") as advance:
            now[0] += 11.0
            advance(2)
    assert text_of(shown).splitlines() == [
        "long: 2 of 4, 12 s, about 12 s left",
        "long: 4 of 4, 24 s, about 0 s left",
        "long: over after 24 s",
        "of unknown length: 2, 11 s",
        "of unknown length: over after 11 s",
    ]


def test_muted_work_says_nothing():
    shown = console(terminal=True)
    with showing(progress=False, console=shown):
        list(track(range(3), "muted"))
    assert text_of(shown) == ""


def test_training_from_python_speaks_on_standard_error_unless_it_is_muted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    multiebm.train("toy2d", tmp_path / "loud", QUICK)
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(",")[0] for line in err.splitlines()][:2] == ["bound 1/5", "cooperative 4/5"]
    multiebm.train("toy2d", tmp_path / "mute", QUICK, progress=False)
    assert capsys.readouterr() == ("", "")


def test_a_run_that_no_view_shows_tells_who_listens_how_many_steps_are_made(tmp_path: Path):
    class Recorder:
        def __init__(self) -> None:
            self.totals: dict[str, int | None] = {}
            self.done = 0

        def start(self, what: str, total: int | None) -> int:
            self.totals[what] = total
            return len(self.totals)

        def advance(self, task: int, steps: int) -> None:
            self.done += steps if task == 1 else 0

        def end(self, task: int) -> None: ...

    recorder = Recorder()
    with listening(recorder):
        run_experiment(load_experiment("toy2d-mopoe", ["training.phases.bound.steps=7"]), tmp_path / "run")
    assert recorder.totals["training"] == recorder.done == 7
