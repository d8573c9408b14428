"""Work that takes long says how far it is to whoever listens; nobody does unless asked, and then nothing is said.

A floor that works calls `track`; the floor that talks to people installs a `Listener` by `listening`.
"""

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar

T = TypeVar("T")


class Listener(Protocol):
    """Shows tasks. `total` None: it is not known how much there is to do."""

    def start(self, what: str, total: int | None) -> int:
        """Begin to show a task; return its number."""
        ...

    def advance(self, task: int, steps: int) -> None:
        """Note that `steps` more of the task are done."""
        ...

    def end(self, task: int) -> None:
        """Note that the task is over, done or given up."""
        ...


class _Muted:
    def start(self, what: str, total: int | None) -> int:
        return 0

    def advance(self, task: int, steps: int) -> None: ...

    def end(self, task: int) -> None: ...


MUTED: Listener = _Muted()  # listens so that nobody else does
_listener: ContextVar[Listener | None] = ContextVar("multiebm_progress", default=None)


def is_heard() -> bool:
    """Return whether somebody listens, or has muted."""
    return _listener.get() is not None


@contextmanager
def listening(listener: Listener | None) -> Iterator[None]:
    """Inside, `listener` is told of every task of this thread; None: nobody is."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def task(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Announce a task of `total` steps; what it gives is called with the number of steps done since the last call."""
    listener = _listener.get()
    if listener is None:
        yield lambda steps: None
        return
    number = listener.start(what, total)
    try:
        yield lambda steps: listener.advance(number, steps)
    finally:
        listener.end(number)


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Give `items` one by one as a task called `what`; `total` is their number unless they say it themselves."""
    known = len(items) if total is None and isinstance(items, Sized) else total
    with task(what, known) as advance:
        for item in items:
            yield item
            advance(1)
