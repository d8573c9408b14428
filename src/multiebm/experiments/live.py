"""What a person sees of a run: a bar for each phase with the numbers that matter, or a line now and then."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from multiebm.core.bars import LINE_SECONDS, Shown
from multiebm.core.keys import ELAPSED
from multiebm.core.metrics import GAP
from multiebm.core.progress import MUTED, listening

if TYPE_CHECKING:  # every command shows its work, and these would make it wait for torch
    from multiebm.experiments.schema import Experiment
    from multiebm.training.hooks import Hook
    from multiebm.training.state import TrainState

SMOOTHING = 0.9  # decay of the running means that are shown
ENDING = "steps are over; priors that are fitted to codes settle, if any, then the model is saved"
_PICKED = {  # metric -> what it is called
    "loss/elbo": "minus the bound, nats",
    "energy/data": "energy of data",
    "energy/generated": "energy of generated",
    "energy/refined": "energy of refined",
    GAP: "gap, data - refined",
    "energy/drop": "data chain lowers energy by",
    "latent_chain/gain": "latent chain raises log p by, nats",
}
_LIKELIHOOD, _VALIDATION = "log_likelihood/", "validate/"


class Span(NamedTuple):
    """A phase of training: the steps made before it, and at its end."""

    name: str
    start: int
    end: int


class TrainingView:
    """The hook that shows a run by running means of its metrics.

    Where bars move, a bar for each phase, with its own remaining time, and the numbers that matter below; elsewhere a
    line at the first step, then every LINE_SECONDS, at a change of phase and at the end.
    """

    def __init__(self, experiment: "Experiment", console: Console) -> None:
        self.spans, self.seconds = spans(experiment), experiment.training.seconds
        self.shown = Shown(console, alone=False)
        self.bars = [self.shown.bars.add_task(s.name, total=s.end - s.start, start=False) for s in self.spans]
        self.step, self.elapsed, self.ended = 0, 0.0, False
        self.first = (0, 0.0)  # step and time of the first step seen in this phase
        self.means: dict[str, float] = {}
        self._line = (0, "", -LINE_SECONDS)  # step, phase and time of the last one

    def on_step(self, state: "TrainState", metrics: dict[str, float]) -> None:
        """Take in the metrics of step `state.step`; move the bars, or print a line when one is due."""
        before, fresh = self.span, state.step <= self.step or not self.step  # the guard may go back
        self.step, self.elapsed = state.step, state.numbers.get(ELAPSED, 0.0)
        if self.span != before:  # another phase has losses of its own
            self.means.clear()
        if fresh or self.span != before:
            self.first = (self.step, self.elapsed)
        for name, value in metrics.items():
            old = self.means.get(name, value)
            decay = 0.0 if name.startswith(_VALIDATION) else SMOOTHING
            self.means[name] = decay * old + (1 - decay) * value
        _, phase, said = self._line
        if not self.shown.moves and (perf_counter() - said >= LINE_SECONDS or phase != self.span.name):
            self._print()
        for bar, span in zip(self.bars, self.spans, strict=True):
            if span == self.span:
                self.shown.bars.start_task(bar)
            self.shown.bars.update(bar, completed=max(0, min(self.step, span.end) - span.start))

    def on_end(self, state: "TrainState") -> None:
        """Print the last line, unless it has been; say what is still to come."""
        if not self.shown.moves:
            if self.step != self._line[0]:
                self._print()
            if not self.ended:
                self.shown.print(ENDING)
        self.ended = True

    @property
    def span(self) -> Span:
        """The phase of the last step."""
        return next((span for span in self.spans if self.step <= span.end), self.spans[-1])

    def left(self) -> float | None:
        """Return the seconds left of the phase at its pace so far, within the budget; None before a pace is known."""
        step, elapsed = self.first
        if self.step == step:
            return None
        ahead = (self.span.end - self.step) * (self.elapsed - elapsed) / (self.step - step)
        return ahead if self.seconds is None else max(0.0, min(ahead, self.seconds - self.elapsed))

    def rows(self) -> list[tuple[str, str]]:
        """Return (name, value) of what is shown."""
        rows = [(said, f"{self.means[name]:.4g}") for name, said in _PICKED.items() if name in self.means]
        likelihoods, measured = (
            [(name.removeprefix(prefix), value) for name, value in self.means.items() if name.startswith(prefix)]
            for prefix in (_LIKELIHOOD, _VALIDATION)
        )
        if likelihoods:
            rows.append(("log-likelihood, nats", "  ".join(f"{name} {v:.0f}" for name, v in likelihoods)))
        return rows + [(f"validation {name}", f"{v:.4g}") for name, v in measured]

    def __rich__(self) -> Group:
        table = Table.grid(padding=(0, 2))
        budget = [("training time", f"{self.elapsed:.0f} of at most {self.seconds:.0f} s")] if self.seconds else []
        for row in [*self.rows(), *budget, *([(ENDING,)] if self.ended else [])]:
            table.add_row(*row)
        return Group(self.shown.bars, table)

    def _print(self) -> None:
        self._line = (self.step, self.span.name, perf_counter())
        left = self.left()
        ahead = f", about {left:.0f} s left of the {self.span.name} steps" if left else ""
        numbers = "; ".join(f"{name} {value}" for name, value in self.rows())
        self.shown.print(f"{self.span.name} {self.step}/{self.spans[-1].end}, {self.elapsed:.0f} s{ahead}: {numbers}")


def spans(experiment: "Experiment") -> list[Span]:
    """Return the phases of training that have steps, with where each begins and ends."""
    found, start = [], 0
    for name, steps in experiment.training.lengths():
        found.append(Span(name, start, start := start + steps))
    return found or [Span("training", 0, 0)]


@contextmanager
def live_view(
    experiment: "Experiment", console: Console | None = None, progress: bool = True
) -> "Iterator[Hook | None]":
    """Give the hook that shows a run, tasks beside its steps included; None where `progress` is False."""
    if not progress:
        with listening(MUTED):
            yield None
        return
    view = TrainingView(experiment, console or Console())
    drawn = Live(view, console=view.shown.console, refresh_per_second=4) if view.shown.moves else nullcontext()
    with drawn, listening(view.shown):
        yield view
