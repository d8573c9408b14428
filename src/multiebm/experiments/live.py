"""What a person sees while a model trains: one live view in a terminal, plain lines elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from multiebm.core.progress import listening
from multiebm.experiments.progress import LINE_SECONDS, Bars, draws_bars, make_bars, showing
from multiebm.experiments.schema import Experiment
from multiebm.training.hooks import Hook
from multiebm.training.state import ELAPSED, TrainState

ENDING = "steps are over; priors that are fitted to codes settle, if any, then the model is saved"
SMOOTHING = 0.9  # decay of the running means that are shown
_PICKED = {  # metric -> what it is called
    "loss/elbo": "-ELBO, nats",
    "energy/data": "energy of data",
    "energy/generated": "energy of generated",
    "energy/refined": "energy of refined",
    "energy/gap": "gap, data - refined",
    "energy/drop": "data chain lowers energy by",
    "latent_chain/gain": "latent chain raises log p by, nats",
}
_LIKELIHOOD, _VALIDATION = "log_likelihood/", "validate/"


class Watched:
    """Running means of the metrics, and where training is: the state of both views."""

    def __init__(self, experiment: Experiment) -> None:
        t = experiment.training
        self.phases = {"warm-up": t.warmup.steps, "cooperative": t.cooperative.steps}
        self.seconds = t.seconds
        self.step = 0
        self.elapsed = 0.0
        self.first = (0, 0.0)  # step and time of the first step seen in this phase
        self.means: dict[str, float] = {}

    def see(self, state: TrainState, metrics: dict[str, float]) -> None:
        """Take in the metrics of step `state.step`."""
        before, fresh = self.phase, state.step <= self.step or not self.step  # the guard may go back
        self.step, self.elapsed = state.step, state.numbers.get(ELAPSED, 0.0)
        if self.phase != before:  # the other phase has losses of its own
            self.means.clear()
        if fresh or self.phase != before:
            self.first = (self.step, self.elapsed)
        for name, value in metrics.items():
            old = self.means.get(name, value)
            decay = 0.0 if name.startswith(_VALIDATION) else SMOOTHING
            self.means[name] = decay * old + (1 - decay) * value

    def done(self) -> dict[str, int]:
        """Return the completed steps of each phase."""
        warm = min(self.step, self.phases["warm-up"])
        return {"warm-up": warm, "cooperative": self.step - warm}

    @property
    def phase(self) -> str:
        """The phase of the last step."""
        return "warm-up" if self.step <= self.phases["warm-up"] else "cooperative"

    def left(self) -> float | None:
        """Return the seconds left of the phase at its pace so far, within the budget; None before a pace is known."""
        step, elapsed = self.first
        if self.step == step:
            return None
        ahead = (self.phases[self.phase] - self.done()[self.phase]) * (self.elapsed - elapsed) / (self.step - step)
        return ahead if self.seconds is None else max(0.0, min(ahead, self.seconds - self.elapsed))

    def rows(self) -> list[tuple[str, str]]:
        """Return (name, value) of what is shown."""
        rows = [(said, f"{self.means[name]:.4g}") for name, said in _PICKED.items() if name in self.means]
        likelihoods = {k.removeprefix(_LIKELIHOOD): v for k, v in self.means.items() if k.startswith(_LIKELIHOOD)}
        if likelihoods:
            rows.append(("log-likelihood, nats", "  ".join(f"{name} {v:.0f}" for name, v in likelihoods.items())))
        measured = {k.removeprefix(_VALIDATION): v for k, v in self.means.items() if k.startswith(_VALIDATION)}
        return rows + [(f"validation {name}", f"{v:.4g}") for name, v in measured.items()]


class Screen:
    """A live view: a bar with its own remaining time for each phase, and the numbers that matter below."""

    def __init__(self, experiment: Experiment) -> None:
        self.watched, self.ended = Watched(experiment), False
        self.progress = make_bars()
        phases = self.watched.phases.items()
        self.tasks = {name: self.progress.add_task(name, total=n, start=False) for name, n in phases if n}

    def on_step(self, state: TrainState, metrics: dict[str, float]) -> None:
        """Move the bars; the numbers are drawn when the screen is refreshed."""
        self.watched.see(state, metrics)
        done = self.watched.done()
        for name, task in self.tasks.items():
            if name == self.watched.phase and not self.progress.tasks[task].started:
                self.progress.start_task(task)
            self.progress.update(task, completed=done[name])

    def on_end(self, state: TrainState) -> None:
        """Say what is still to come below the last picture."""
        self.ended = True

    def __rich__(self) -> Group:
        table = Table.grid(padding=(0, 2))
        for name, value in self.watched.rows():
            table.add_row(name, value)
        budget = self.watched.seconds
        if budget is not None:
            table.add_row("training time", f"{self.watched.elapsed:.0f} of at most {budget:.0f} s")
        if self.ended:
            table.add_row(ENDING)
        return Group(self.progress, table)


class StepLines:
    """A line at the first step, then every ten seconds, at the change of phase and at the end."""

    def __init__(self, experiment: Experiment, console: Console) -> None:
        self.watched = Watched(experiment)
        self.console, self.ended = console, False
        self._last, self._phase, self._shown = -LINE_SECONDS, "", 0

    def on_step(self, state: TrainState, metrics: dict[str, float]) -> None:
        """Print a line when one is due."""
        self.watched.see(state, metrics)
        if perf_counter() - self._last >= LINE_SECONDS or self.watched.phase != self._phase:
            self._print()

    def on_end(self, state: TrainState) -> None:
        """Print the last line, unless it has been, and what is still to come."""
        if self.watched.step != self._shown:
            self._print()
        if not self.ended:
            self.console.print(ENDING, soft_wrap=True)
        self.ended = True

    def _print(self) -> None:
        self._last, self._phase, self._shown = perf_counter(), self.watched.phase, self.watched.step
        total = sum(self.watched.phases.values())
        numbers = "; ".join(f"{name} {value}" for name, value in self.watched.rows())
        left = self.watched.left()
        ahead = "" if not left else f", about {left:.0f} s left of the {self._phase} steps"
        line = f"{self._phase} {self._shown}/{total}, {self.watched.elapsed:.0f} s{ahead}: {numbers}"
        self.console.print(line, soft_wrap=True, markup=False, highlight=False)


@contextmanager
def live_view(experiment: Experiment, console: Console | None = None, progress: bool = True) -> Iterator[Hook | None]:
    """Give the hook that shows a run, tasks beside its steps included: a live view in terminals and notebooks, lines
    elsewhere, None where `progress` is False.
    """
    console = console or Console()
    if not progress:
        yield None
    elif draws_bars(console):
        screen = Screen(experiment)
        with Live(screen, console=console, refresh_per_second=4), listening(Bars(screen.progress, alone=False)):
            yield screen
    else:
        with showing(console=console):
            yield StepLines(experiment, console)
