"""A table of named choices: it lists its names and suggests the nearest one."""

import difflib
from collections.abc import Iterator
from typing import Generic, TypeVar

from multiebm.core.errors import ConfigError

T = TypeVar("T")


def nearest(name: str, known: list[str]) -> str:
    """Return a sentence naming the entry closest to `name`, capitals or not, or an empty string."""
    folded = {entry.casefold(): entry for entry in reversed(known)}
    close = difflib.get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.5)
    return f" Did you mean {folded[close[0]]!r}?" if close else ""


class Table(Generic[T]):
    """Map names to builders; an unknown name raises ConfigError with all names and the nearest one."""

    def __init__(self, what: str, entries: dict[str, T]) -> None:
        self.what = what
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            known = list(self._entries)
            raise ConfigError(f"{self.what}: got {name!r}; known: {', '.join(known)}.{nearest(name, known)}")
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries
