"""What happens between steps: the log, checkpoints, validation, TensorBoard. Their time is not training time.

Order in a run: `Validate` first (its results join the step's metrics), then logs and views; the loop puts
`CheckpointEvery` last, so that a checkpoint holds what the others have counted.
"""

import json
import logging
import math
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from multiebm.core.errors import ConfigError, OutputError
from multiebm.core.files import parse_json, reading, replace_file
from multiebm.core.keys import ELAPSED
from multiebm.training.checkpoint import CheckpointStore
from multiebm.training.guard import RETRIES, ROLLED_BACK
from multiebm.training.state import TrainState

_SUM, _COUNT, _LINES = "log/sum/", "log/count/", "log/lines"
# never through a link into a file of somebody else's, nor waiting for the reader of a pipe
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)

logger = logging.getLogger(__name__)


class Hook(Protocol):
    """Called by the loop after every step, and once when it ends without an error, where a subclass may do nothing."""

    def on_step(self, state: TrainState, metrics: dict[str, float]) -> None:
        """See the state after step `state.step` and the metrics of that step, which a hook may add to."""
        ...

    def on_end(self, state: TrainState) -> None:
        """See the state at the end of the loop."""
        return


class MetricsLog(Hook):
    """One JSON line per `every` steps: `step`, `seconds`, and each metric's mean since the line before.

    The file always describes the steps that led to the present state: on resume and after a roll-back, later lines
    are removed; a roll-back leaves a line `{"step", "event": "rollback", "from_step", "retries"}`, and other `rates`
    with which a run goes on, [old, new] by key, leave `{"step", "event": "rates", "from_step", "rates"}`. The sums lie
    in `state.numbers`, so a checkpoint between two lines, or the end after the last, loses nothing. A mean that is
    not finite is null. Lines that are damaged or missing when a run goes on are warned of. OutputError where the file
    is a link or no file.
    """

    def __init__(self, path: str | Path, every: int = 10, rates: Mapping[str, Sequence[float]] | None = None) -> None:
        self.path, self.every, self.rates, self._started = Path(path), every, rates, False

    def on_step(self, state: TrainState, metrics: dict[str, float]) -> None:
        """Count the metrics of this step; append a line when one is due."""
        if not self._started or ROLLED_BACK in metrics:
            self._rewind(state)
        if not self._started and self.rates:
            event = {"step": state.step - 1, "event": "rates", "from_step": state.step - 1}
            self._append(event | {"rates": dict(self.rates)})
        self._started = True
        if ROLLED_BACK in metrics:
            event = {"step": state.step - 1, "event": "rollback", "from_step": int(metrics[ROLLED_BACK])}
            self._append(event | {"retries": int(state.numbers[RETRIES])})
        numbers = state.numbers
        for name, value in metrics.items():
            if name != ROLLED_BACK:
                numbers[_SUM + name] = numbers.get(_SUM + name, 0.0) + float(value)
                numbers[_COUNT + name] = numbers.get(_COUNT + name, 0.0) + 1.0
        if state.step % self.every == 0:
            # the mean of every metric over the steps that had it; then counting begins anew
            names = [key.removeprefix(_SUM) for key in numbers if key.startswith(_SUM)]
            means = {name: numbers.pop(_SUM + name) / numbers.pop(_COUNT + name) for name in names}
            self._append({"step": state.step, "seconds": round(numbers.get(ELAPSED, 0.0), 3)} | means)
            numbers[_LINES] += 1

    def _rewind(self, state: TrainState) -> None:
        """Drop lines of steps that a resumed or rolled-back state has not made, and a line torn by a kill."""
        check_log(self.path)
        retries = state.numbers.get(RETRIES, 0)
        log = read_log(self.path, warns=not self._started)
        kept = [line for line in log.lines if line.step < state.step and line.values.get("retries", 0) <= retries]
        found = sum("event" not in line.values for line in kept)
        if not self._started and found < (written := state.numbers.get(_LINES, found)):
            message = "%s: got %d of the %d lines up to step %d; the others are lost, and curves have gaps there"
            logger.warning(message, self.path, found, written, state.step - 1)
        state.numbers[_LINES] = float(found)
        whole = "".join(f"{line.text}\n" for line in kept).encode()
        if log.data != whole:
            with self._writing(state.step):
                replace_file(self.path, whole)

    def _append(self, values: dict[str, Any]) -> None:
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        with self._writing(values["step"]):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(os.open(self.path, _APPEND, 0o666), "a") as stream:
                if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                    raise OSError(0, "not a regular file")
                stream.write(json.dumps(plain) + "\n")

    @contextmanager
    def _writing(self, step: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot write the line of step {step} ({error.strerror}). "
                "Earlier checkpoints are intact: free space or repair the folder, then run again with --resume "
                "(in Python resume=True)."
            ) from error


class CheckpointEvery(Hook):
    """Save every `every` steps and at the end; `metric` names the step metric (lower is better) that picks the best."""

    def __init__(self, store: CheckpointStore, every: int, metric: str | None = None) -> None:
        self.store, self.every, self.metric = store, every, metric
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


class Validate(Hook):
    """Every `every` steps add `measure(state)` to the step's metrics; it must draw from generators of its own."""

    def __init__(self, every: int, measure: Callable[[TrainState], dict[str, float]]) -> None:
        self.every, self.measure = every, measure

    def on_step(self, state: TrainState, metrics: dict[str, float]) -> None:
        """Measure when due."""
        if state.step % self.every == 0:
            metrics.update(self.measure(state))


class Watcher(Protocol):
    """An object that is told of every step; True from it ends training."""

    def on_step(self, metrics: dict[str, float], step: int) -> bool | None:
        """See the metrics by name of the step of this number."""
        ...


Callback = Callable[[dict[str, float], int], bool | None] | Watcher


class StopTraining(Exception):  # noqa: N818
    """Raised by a callback to end training in order, as returning True does."""


class Callbacks(Hook):
    """Call the user's functions, or methods `on_step`, with the metrics of every step and its number; `asked`: one of
    them wants no more. ConfigError for what is neither.
    """

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        several = callbacks if isinstance(callbacks, Iterable) else [callbacks]
        self.callbacks: list[Any] = [getattr(callback, "on_step", callback) for callback in several]
        self.asked = False
        if wrong := [callback for callback in self.callbacks if not callable(callback)]:
            raise ConfigError(
                f"callbacks: got {wrong[0]!r:.80}, expected functions f(metrics, step), or objects with a method "
                "on_step(metrics, step); pass those in a list"
            )

    def on_step(self, state: TrainState, metrics: dict[str, float]) -> None:
        """Call each, in order, with a copy of its own."""
        for callback in self.callbacks:
            try:
                answer = callback(dict(metrics), state.step)
                self.asked |= isinstance(answer, bool | np.bool_) and bool(answer)
            except StopTraining:
                self.asked = True


class Announce(Hook):
    """Call `advance` with the steps made since the last call; fewer than none after a roll-back."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance, self._step = advance, 0

    def on_step(self, state: TrainState, metrics: dict[str, float]) -> None:
        """Say how many steps there are more."""
        self._advance(state.step - self._step)
        self._step = state.step


class TensorBoard(Hook):
    """Write every step's metrics, each `every` steps, for TensorBoard; needs the extra `multiebm[tensorboard]`."""

    def __init__(self, folder: str | Path, every: int = 10) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                f"tensorboard: got true for {folder}, but the package is not installed ({error}); "
                'install it with `pip install "multiebm[tensorboard]"` or leave --tensorboard out'
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


class LogLine(NamedTuple):
    """A line of metrics.jsonl: its text, its step, and its values by name."""

    text: str
    step: int
    values: dict[str, Any]


class Log(NamedTuple):
    """What metrics.jsonl holds: its bytes, the lines that can be read, the numbers (from 1) of those that cannot.

    A last line without an end is none of either: a kill tore it.
    """

    data: bytes
    lines: list[LogLine]
    damaged: list[int]


def read_log(path: Path, warns: bool = True) -> Log:
    """Read metrics.jsonl as far as it can be read, nothing where it is not there; OutputError where it is no file.

    It `warns` of damaged lines, which are left out.
    """
    if not path.exists():
        return Log(b"", [], [])
    with reading(path, OutputError, "delete it, or restore it"):
        data = path.read_bytes()
    log, texts = Log(data, [], []), data.decode(errors="replace").split("\n")
    for number, text in enumerate(texts, 1):
        values: Any = None
        with suppress(ValueError):
            values = parse_json(text.encode())
        values = values if isinstance(values, dict) else {}
        counts = [values.get("step"), values.get("retries", 0), values.get("from_step") if "event" in values else 0]
        whole = all(type(count) is int and count >= 0 for count in counts)
        if whole and (not log.lines or values["step"] >= log.lines[-1].step):
            log.lines.append(LogLine(text, values["step"], values))
        elif number < len(texts):
            log.damaged.append(number)
    if warns and log.damaged:
        some = ", ".join(map(str, log.damaged[:10])) + ("..." if len(log.damaged) > 10 else "")
        message = (
            "%s: lines that are no JSON object with a step, or out of order, left out: %s; restore the file if you"
        )
        logger.warning(f"{message} have a copy of it", path, some)
    return log


def check_log(path: Path) -> None:
    """Raise OutputError where metrics.jsonl is a link or no file: nothing is written through it."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        what = f"a link to {os.readlink(path)}" if path.is_symlink() else "what is no file"
        raise OutputError(f"{path}: got {what}, expected a file; move it away, or put the file itself in its place")
