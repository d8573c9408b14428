"""The one training loop: steps, a wall-clock budget, hooks, and an orderly end on Ctrl-C."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import Any, Literal, NamedTuple

from multiebm.core.interrupts import SIGNALS
from multiebm.core.keys import ELAPSED
from multiebm.training.hooks import CheckpointEvery, Hook
from multiebm.training.state import Step, TrainState

Reason = Literal["finished", "budget", "interrupted", "stopped"]


class Fit(NamedTuple):
    """Why the loop ended, after which step, and the newest checkpoint (None where no hook is a CheckpointEvery)."""

    reason: Reason
    step: int
    checkpoint: Path | None

    def message(self) -> str:
        """Return one sentence for the user."""
        said = {"budget": "time budget spent", "finished": "finished"}.get(self.reason, self.reason)
        where = f"saved in {self.checkpoint}" if self.checkpoint else "no checkpoint was saved"
        more = "; continue with --resume" if self.checkpoint and self.reason in ("interrupted", "stopped") else ""
        return f"{said} after step {self.step}: {where}{more}"


class _Interrupt:
    """Signal handler: the first signal is remembered, the next ones are for the handler that was there before."""

    def __init__(self) -> None:
        self.requested = False
        self.before: dict[int, Any] = {}

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:
            self.requested = True
        elif callable(handler := self.before[number]):
            handler(number, frame)
        else:
            raise KeyboardInterrupt


def fit(
    state: TrainState,
    step: Step,
    steps: int,
    hooks: Sequence[Hook] = (),
    seconds: float | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Fit:
    """Run until `state.step == steps`, or until `seconds` of training are spent, and save through the hooks.

    `seconds` counts steps and batches, not hooks, and earlier parts of a resumed run are included. SIGINT and SIGTERM
    end the loop after the step under way, hooks finish (and save), and the reason is "interrupted"; a second signal
    raises KeyboardInterrupt. `should_stop` is asked before every step.
    """
    ordered = sorted(hooks, key=lambda hook: isinstance(hook, CheckpointEvery))
    elapsed = state.numbers.get(ELAPSED, 0.0)
    with _interruptible() as interrupt:
        while (reason := _reason(state.step >= steps, elapsed, seconds, interrupt, should_stop)) is None:
            started = perf_counter()
            metrics = step(state, state.draw())
            state.step += 1
            elapsed += perf_counter() - started
            state.numbers[ELAPSED] = elapsed  # after the step: a roll-back gives no time back
            for hook in ordered:
                hook.on_step(state, metrics)
        for hook in ordered:
            hook.on_end(state)
        reason = "interrupted" if interrupt.requested else reason  # by a signal that came when the steps were over
    stores = [hook.store for hook in ordered if isinstance(hook, CheckpointEvery)]
    return Fit(reason, state.step, stores[-1].latest() if stores else None)


def _reason(
    done: bool,
    elapsed: float,
    seconds: float | None,
    interrupt: _Interrupt,
    should_stop: Callable[[], bool] | None,
) -> Reason | None:
    if done:
        return "finished"
    if interrupt.requested:
        return "interrupted"
    if seconds is not None and elapsed >= seconds:
        return "budget"
    return "stopped" if should_stop is not None and should_stop() else None


@contextmanager
def _interruptible() -> Iterator[_Interrupt]:
    """Catch SIGINT and SIGTERM inside the block; only the main thread may, elsewhere nothing is caught."""
    interrupt = _Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    for number in SIGNALS:
        interrupt.before[number] = signal.signal(number, interrupt)
    try:
        yield interrupt
    finally:
        for caught, handler in interrupt.before.items():
            signal.signal(caught, handler or signal.SIG_DFL)
