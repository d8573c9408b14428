"""Ctrl-C and SIGTERM are one thing: KeyboardInterrupt in the main thread, once, so that what ends can end in order."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
QUIET_SECONDS = 2.0  # after a signal: more of them are the impatience of the same person


class Interrupts:
    """A signal handler that raises KeyboardInterrupt and hears nothing for a while."""

    def __init__(self) -> None:
        self._deaf_until = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt, unless a signal was heard just before."""
        if monotonic() < self._deaf_until:
            return
        self._deaf_until = monotonic() + QUIET_SECONDS
        raise KeyboardInterrupt

    def ignore(self) -> None:
        """Hear nothing any more: the end is near."""
        self._deaf_until = float("inf")


@contextmanager
def interruptible(restore: bool = True) -> Iterator[Interrupts]:
    """Inside, SIGINT and SIGTERM raise KeyboardInterrupt; in other threads than the main one nothing is changed.

    Blocks inside share the handler of the outermost. Handlers are as before afterwards, unless `restore` is False.
    """
    outer = signal.getsignal(signal.SIGTERM)
    if isinstance(outer, Interrupts):
        yield outer
        return
    handler = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield handler
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield handler
    finally:
        if restore:
            for number, old in before.items():
                signal.signal(number, old or signal.SIG_DFL)
