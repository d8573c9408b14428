"""What a person sees of long work: bars in terminals and notebooks, a line now and then elsewhere, nothing if muted."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from time import perf_counter

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TimeElapsedColumn, TimeRemainingColumn

from multiebm.core.progress import MUTED, is_heard, listening

LINE_SECONDS = 10.0  # between plain lines; work that takes less is not mentioned


class Shown:
    """A `Listener`: a bar for each task where bars can move, else a line every LINE_SECONDS and one at the end.

    Bars are drawn while there are tasks, unless `alone` is False: then somebody else draws them.
    """

    def __init__(self, console: Console, alone: bool = True) -> None:
        self.console = console
        self.moves = console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)
        self._draws = alone and self.moves
        done = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.bars = Progress(
            *done, "left", TimeRemainingColumn(), console=console, transient=True, get_time=perf_counter
        )

    def start(self, what: str, total: int | None) -> int:
        """Note a task; as a line it is not mentioned before it has taken a while."""
        if self._draws and not self.bars.tasks:
            self.bars.start()
        return self.bars.add_task(what, total=total, said=perf_counter(), mentioned=False)

    def advance(self, task: int, steps: int) -> None:
        """Count, and print a line when one is due."""
        self.bars.advance(TaskID(task), steps)
        found, now = next(t for t in self.bars.tasks if t.id == task), perf_counter()
        if not self.moves and now - found.fields["said"] >= LINE_SECONDS:
            of, left, took = "", "", found.elapsed or 0.0
            if found.total:
                of = f" of {found.total:.0f}"
                left = f", about {(found.total - found.completed) * took / max(found.completed, 1):.0f} s left"
            self.print(f"{found.description}: {found.completed:.0f}{of}, {took:.0f} s{left}")
            self.bars.update(found.id, said=now, mentioned=True)

    def end(self, task: int) -> None:
        """Take the bar away, or print how long it took, if it was mentioned."""
        found = next(t for t in self.bars.tasks if t.id == task)
        if found.fields["mentioned"]:
            self.print(f"{found.description}: over after {found.elapsed:.0f} s")
        self.bars.remove_task(found.id)
        if self._draws and not self.bars.tasks:
            self.bars.stop()

    def print(self, text: str) -> None:
        """Print one line as it is."""
        self.console.print(text, soft_wrap=True, markup=False, highlight=False)


@contextmanager
def showing(progress: bool = True, console: Console | None = None) -> Iterator[None]:
    """Inside, long work shows how far it is on `console` (standard error by default); `progress` False: mute.

    Who listens already goes on, and who has muted stays so.
    """
    with (
        nullcontext()
        if progress and is_heard()
        else listening(Shown(console or Console(stderr=True)) if progress else MUTED)
    ):
        yield
