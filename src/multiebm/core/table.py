"""A table of named choices: it lists its names and suggests the nearest one. Installed packages may add rows."""

import difflib
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, Literal, TypeVar

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema

from multiebm.core.errors import ConfigError

T = TypeVar("T")


def nearest(name: str, known: list[str]) -> str:
    """Return a sentence naming the entry closest to `name`, capitals or not, or an empty string."""
    folded = {entry.casefold(): entry for entry in reversed(known)}
    close = difflib.get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.5)
    return f" Did you mean {folded[close[0]]!r}?" if close else ""


class Table(Generic[T]):
    """Map names to choices; an unknown name raises ConfigError with all names and the nearest one.

    Packages add rows under the entry point group `group`, looked up once and loaded when asked for; ConfigError where
    one takes a name that is there, or cannot be imported. A setting `Annotated[str, table]` is one of its names.
    """

    def __init__(self, what: str, entries: Mapping[str, T], group: str = "") -> None:
        self.what, self.group, self._own = what, group, entries

    @cached_property
    def _entries(self) -> dict[str, T | EntryPoint]:
        found: dict[str, T | EntryPoint] = {**self._own}
        for entry in entry_points(group=self.group) if self.group else ():
            if entry.name in found:
                raise ConfigError(
                    f"{self.what} {entry.name!r}: got it from {entry.value}, expected a name that is not taken; rename "
                    f"the entry point in group {self.group}"
                )
            found[entry.name] = entry
        return found

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            known = list(self._entries)
            raise ConfigError(f"{self.what}: got {name!r}; known: {', '.join(known)}.{nearest(name, known)}")
        found = self._entries[name]
        if not isinstance(found, EntryPoint):
            return found
        try:
            row: T = found.load()
            return row
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"{self.what} {name!r}: got {found.value}, which cannot be imported ({error}), expected what an "
                f"entry point in group {self.group} names; install that package again, or remove it"
            ) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:  # noqa: D105
        return handler.generate_schema(Literal[tuple(self)])
