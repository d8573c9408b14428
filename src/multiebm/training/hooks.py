"""What happens between steps: the log, checkpoints, validation, TensorBoard. Their time is not training time.

Order in a run: `Validate` first (its results join the step's metrics), then logs and views; the loop puts
`CheckpointEvery` last, so that a checkpoint holds what the others have counted.
"""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from multiebm.core.errors import ConfigError, OutputError
from multiebm.training.checkpoint import CheckpointStore
from multiebm.training.guard import RETRIES, ROLLED_BACK
from multiebm.training.state import ELAPSED, TrainState

_SUM, _COUNT = "log/sum/", "log/count/"


class Hook(Protocol):
    """Called by the loop after every step, and once when it ends without an error."""

    def on_step(self, state: TrainState, metrics: dict[str, float]) -> None:
        """See the state after step `state.step` and the metrics of that step, which a hook may add to."""
        ...

    def on_end(self, state: TrainState) -> None:
        """See the state at the end of the loop."""
        ...


class MetricsLog:
    """One JSON line per `every` steps: `step`, `seconds`, and each metric's mean since the line before.

    The file always describes the steps that led to the present state: on resume and after a roll-back, later lines
    are removed; a roll-back leaves a line `{"step", "event": "rollback", "from_step", "retries"}`. The running sums
    lie in `state.numbers`, so a checkpoint between two lines loses nothing. A mean that is not finite is null.
    """

    def __init__(self, path: str | Path, every: int = 10) -> None:
        self.path = Path(path)
        self.every = every
        self._started = False

    def on_step(self, state: TrainState, metrics: dict[str, float]) -> None:
        """Count the metrics of this step; append a line when one is due."""
        if not self._started or ROLLED_BACK in metrics:
            self._rewind(state)
            self._started = True
        if ROLLED_BACK in metrics:
            event = {"step": state.step - 1, "event": "rollback", "from_step": int(metrics[ROLLED_BACK])}
            self._append(event | {"retries": int(state.numbers[RETRIES])})
        _count(state.numbers, metrics)
        if state.step % self.every == 0:
            seconds = round(state.numbers.get(ELAPSED, 0.0), 3)
            self._append({"step": state.step, "seconds": seconds} | _take_means(state.numbers))

    def on_end(self, state: TrainState) -> None:
        """Leave steps after the last line uncounted in the file; they wait in the state for the run to go on."""

    def _rewind(self, state: TrainState) -> None:
        """Drop lines of steps that a resumed or rolled-back state has not made, and a line torn by a kill."""
        if not self.path.exists():
            return
        retries = state.numbers.get(RETRIES, 0)
        text = self.path.read_text()
        lines = [(line, _parse(line)) for line in text.splitlines()]
        kept = [line for line, v in lines if v and v["step"] < state.step and v.get("retries", 0) <= retries]
        whole = "".join(f"{line}\n" for line in kept)
        if whole != text:
            aside = self.path.with_name(f"{self.path.name}.aside")
            aside.write_text(whole)
            os.replace(aside, self.path)

    def _append(self, values: dict[str, Any]) -> None:
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as stream:
                stream.write(json.dumps(plain) + "\n")
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot write the line of step {values['step']} ({error.strerror}). "
                "Earlier checkpoints are intact: free space or repair the folder, then run again with --resume."
            ) from error


class CheckpointEvery:
    """Save every `every` steps and at the end; `metric` names the step metric (lower is better) that picks the best."""

    def __init__(self, store: CheckpointStore, every: int, metric: str | None = None) -> None:
        self.store = store
        self.every = every
        self.metric = metric
        self._value: float | None = None
        self._unsaved = False

    def on_step(self, state: TrainState, metrics: dict[str, float]) -> None:
        """Note the metric where this step has it; save when due."""
        self._unsaved = True
        if ROLLED_BACK in metrics:
            self._value = None  # measured on steps that no longer count
        if self.metric is not None and self.metric in metrics:
            self._value = metrics[self.metric]
        # at once after a roll-back: the newest checkpoint may be one of the steps that no longer count
        if state.step % self.every == 0 or ROLLED_BACK in metrics:
            self._save(state)

    def on_end(self, state: TrainState) -> None:
        """Save, unless this very state already is."""
        if self._unsaved:
            self._save(state)

    def _save(self, state: TrainState) -> None:
        self.store.save(state, self._value)
        self._value, self._unsaved = None, False  # an old value says nothing about the next checkpoint


class Validate:
    """Every `every` steps add `measure(state)` to the step's metrics; it must draw from generators of its own."""

    def __init__(self, every: int, measure: Callable[[TrainState], dict[str, float]]) -> None:
        self.every = every
        self.measure = measure

    def on_step(self, state: TrainState, metrics: dict[str, float]) -> None:
        """Measure when due."""
        if state.step % self.every == 0:
            metrics.update(self.measure(state))

    def on_end(self, state: TrainState) -> None:
        """Nothing to finish."""


class TensorBoard:
    """Write every step's metrics, each `every` steps, for TensorBoard; needs the extra `multiebm[tensorboard]`."""

    def __init__(self, folder: str | Path, every: int = 10) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                f"tensorboard: got true for {folder}, but the package is not installed ({error}); "
                "install it with `pip install multiebm[tensorboard]` or set tensorboard: false"
            ) from error
        self.every = every
        self._writer = SummaryWriter(str(folder))

    def on_step(self, state: TrainState, metrics: dict[str, float]) -> None:
        """Write the metrics of this step when due."""
        if state.step % self.every == 0:
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, state.step)

    def on_end(self, state: TrainState) -> None:
        """Flush what is written."""
        self._writer.flush()


def _count(numbers: dict[str, float], metrics: dict[str, float]) -> None:
    for name, value in metrics.items():
        if name != ROLLED_BACK:
            numbers[_SUM + name] = numbers.get(_SUM + name, 0.0) + float(value)
            numbers[_COUNT + name] = numbers.get(_COUNT + name, 0.0) + 1.0


def _take_means(numbers: dict[str, float]) -> dict[str, float]:
    """Return the mean of every counted metric, over the steps that had it, and start counting anew."""
    names = [key.removeprefix(_SUM) for key in numbers if key.startswith(_SUM)]
    return {name: numbers.pop(_SUM + name) / numbers.pop(_COUNT + name) for name in names}


def _parse(line: str) -> dict[str, Any] | None:
    try:
        values = json.loads(line)
    except json.JSONDecodeError:
        return None
    return values if isinstance(values, dict) and "step" in values else None
