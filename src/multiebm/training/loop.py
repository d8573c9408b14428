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
from multiebm.training.hooks import Callbacks, CheckpointEvery, Hook
from multiebm.training.state import Step, TrainState

Reason = Literal["finished", "budget", "interrupted", "stopped", "callback"]


class Fit(NamedTuple):
    """Why the loop ended, after which step, and the newest checkpoint (None where no hook is a CheckpointEvery)."""

    reason: Reason
    step: int
    checkpoint: Path | None

    def message(self, again: str = "--resume") -> str:
        """Return one sentence for the user, who goes on with `again`."""
        said = {"budget": "time budget spent", "callback": "stopped by a callback", "finished": "finished"}.get(
            self.reason, self.reason
        )
        where = f"saved in {self.checkpoint}" if self.checkpoint else "no checkpoint was saved"
        more = f"; continue with {again}" if self.checkpoint and self.reason in ("interrupted", "stopped") else ""
        return f"{said} after step {self.step}: {where}{more}"


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
    raises KeyboardInterrupt. `should_stop` is asked before every step; a hook `Callbacks` ends it as a budget does.
    """
    ordered = sorted(hooks, key=lambda hook: isinstance(hook, CheckpointEvery))
    elapsed = state.numbers.get(ELAPSED, 0.0)
    with _remembered() as signals:

        def why_to_end() -> Reason | None:
            if state.step >= steps:
                return "finished"
            if signals:
                return "interrupted"
            if seconds is not None and elapsed >= seconds:
                return "budget"
            if any(isinstance(hook, Callbacks) and hook.asked for hook in ordered):
                return "callback"
            return "stopped" if should_stop is not None and should_stop() else None

        while (reason := why_to_end()) is None:
            started = perf_counter()
            metrics = step(state, state.draw())
            state.step += 1
            elapsed += perf_counter() - started
            state.numbers[ELAPSED] = elapsed  # after the step: a roll-back gives no time back
            for hook in ordered:
                hook.on_step(state, metrics)
        for hook in ordered:
            hook.on_end(state)
        reason = "interrupted" if signals else reason  # by one that came when the steps were over
    stores = [hook.store for hook in ordered if isinstance(hook, CheckpointEvery)]
    return Fit(reason, state.step, stores[-1].latest() if stores else None)


@contextmanager
def _remembered() -> Iterator[list[int]]:
    """Note SIGINT and SIGTERM inside the block; from the second on they are for the handlers of before.

    Only the main thread may, elsewhere nothing is caught.
    """
    signals: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return

    def note(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        if len(signals) > 1:
            if not callable(handler := before[number]):
                raise KeyboardInterrupt
            handler(number, frame)

    before: dict[int, Any] = {}
    for number in SIGNALS:
        before[number] = signal.signal(number, note)
    try:
        yield signals
    finally:
        for caught, handler in before.items():
            signal.signal(caught, handler or signal.SIG_DFL)
