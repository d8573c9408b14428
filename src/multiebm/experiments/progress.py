"""What a person sees of long work: bars in terminals and notebooks, a line now and then elsewhere, nothing if muted."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from itertools import count
from time import perf_counter
from typing import NamedTuple

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from multiebm.core.progress import listening

LINE_SECONDS = 10.0  # between plain lines; work that takes less is not mentioned


def draws_bars(console: Console) -> bool:
    """Return whether bars can move on this console: a terminal, or a notebook that has widgets."""
    return console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)


def make_bars(console: Console | None = None, transient: bool = False) -> Progress:
    """Return bars with what is done, the time it took and the time left."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console, transient=transient)


class Bars:
    """A `Listener` with one bar a task. `alone`: nobody else draws `progress`, so it is drawn while there are tasks."""

    def __init__(self, progress: Progress, alone: bool) -> None:
        self.progress, self.alone, self._open = progress, alone, 0

    def start(self, what: str, total: int | None) -> int:
        """Add a bar."""
        if self.alone and not self._open:
            self.progress.start()
        self._open += 1
        return self.progress.add_task(what, total=total)

    def advance(self, task: int, steps: int) -> None:
        """Move a bar."""
        self.progress.advance(TaskID(task), steps)

    def end(self, task: int) -> None:
        """Take the bar away."""
        self._open -= 1
        self.progress.remove_task(TaskID(task))
        if self.alone and not self._open:
            self.progress.stop()


class _Line(NamedTuple):
    what: str
    total: int | None
    done: int
    began: float
    said: float


class Lines:
    """A `Listener` that prints a line every LINE_SECONDS of a task, and one when such a task is over."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._tasks: dict[int, _Line] = {}
        self._numbers = count()

    def start(self, what: str, total: int | None) -> int:
        """Note a task; it is not mentioned before it has taken a while."""
        number, now = next(self._numbers), perf_counter()
        self._tasks[number] = _Line(what, total, 0, now, now)
        return number

    def advance(self, task: int, steps: int) -> None:
        """Count, and print a line when one is due."""
        line = self._tasks[task]._replace(done=self._tasks[task].done + steps)
        now = perf_counter()
        if now - line.said >= LINE_SECONDS:
            of, left = "", ""
            if line.total:
                of = f" of {line.total}"
                left = f", about {(line.total - line.done) * (now - line.began) / max(line.done, 1):.0f} s left"
            self._print(f"{line.what}: {line.done}{of}, {now - line.began:.0f} s{left}")
            line = line._replace(said=now)
        self._tasks[task] = line

    def end(self, task: int) -> None:
        """Print how long it took, if it was mentioned."""
        line = self._tasks.pop(task)
        if line.said > line.began:
            self._print(f"{line.what}: over after {perf_counter() - line.began:.0f} s")

    def _print(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False, highlight=False)


@contextmanager
def showing(progress: bool = True, console: Console | None = None) -> Iterator[None]:
    """Inside, long work shows how far it is on `console` (standard error by default); `progress` False: mute."""
    console = console or Console(stderr=True)
    listener = Bars(make_bars(console, transient=True), alone=True) if draws_bars(console) else Lines(console)
    with listening(listener) if progress else nullcontext():
        yield
