"""Ctrl-C and SIGTERM are one thing: KeyboardInterrupt in the main thread, once, so that what ends can end in order."""

import _thread
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
QUIET_SECONDS = 2.0  # after a signal: more of them are the impatience of the same person
AGAIN_SECONDS = 0.05  # after which a signal that came while a module was imported comes again


class Interrupts:
    """A signal handler that raises KeyboardInterrupt and hears nothing for a while.

    Never inside an import: what libraries do there swallows the exception, or leaves them half-imported.
    """

    def __init__(self) -> None:
        self._deaf_until = 0.0
        self._imports = _imports(sys._getframe())

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt when no import is under way, unless a signal was heard just before."""
        if monotonic() < self._deaf_until:
            return
        if _imports(frame) > self._imports:
            timer = threading.Timer(AGAIN_SECONDS, _again, (number,))
            timer.daemon = True
            timer.start()
            return
        self._deaf_until = monotonic() + QUIET_SECONDS
        raise KeyboardInterrupt

    def ignore(self) -> None:
        """Hear nothing any more: the end is near."""
        self._deaf_until = float("inf")


def _again(number: int) -> None:
    """Send the signal to the main thread; where there is a call for it, one that ends what the thread waits for."""
    if sys.platform == "win32":
        _thread.interrupt_main(number)
    else:
        signal.pthread_kill(threading.main_thread().ident or 0, number)


def _imports(frame: FrameType | None) -> int:
    """Return how many frames of the import system called this one."""
    found = 0
    while frame is not None:
        found += frame.f_code.co_filename.startswith("<frozen importlib")
        frame = frame.f_back
    return found


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
