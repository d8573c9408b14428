"""Every error the package raises on purpose. Messages say what was given, what was expected, and the fix."""

import operator
from importlib import import_module
from typing import Any, TypeVar

T = TypeVar("T")


class MultiebmError(Exception):
    """Base of all errors raised on purpose; the command line prints these without a traceback."""


class ConfigError(MultiebmError):
    """A preset, key or value that cannot be used; collects every problem of one configuration."""

    def __init__(self, problems: str | list[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class DataError(MultiebmError):
    """Data that does not fit: shape, range, NaN, length, or a damaged file."""


class ModalityError(DataError):
    """A modality that is missing, unknown, or not allowed where it was named."""


class CheckpointError(MultiebmError):
    """A checkpoint that is damaged, of another version, or of another architecture."""


class OutputError(MultiebmError):
    """A run folder that cannot be written: not empty, read-only, or the disk is full."""


class DivergenceError(MultiebmError):
    """Training left the region where its numbers mean anything, and the bounded retries are spent."""


def imported(package: str, refuse: type[MultiebmError], said: str) -> Any:
    """Return a package that need not be installed; where it is not, an error of the type `refuse` that says this."""
    try:
        return import_module(package)
    except ImportError as error:
        raise refuse(said) from error


def instance_of(what: str, given: Any, kind: type[T], expected: str) -> T:
    """Return `given`; ConfigError, which says what was `expected`, unless it is of that kind."""
    if not isinstance(given, kind):
        raise ConfigError(f"{what}: got {type(given).__name__}, expected {expected}")
    return given


def whole_number(what: str, given: Any, least: int, most: int, kind: str = "a whole number", fix: str = "") -> int:
    """Return `given`, an integer of Python, NumPy or torch, as an int; ConfigError unless it is in `least`..`most`."""
    try:
        number = None if isinstance(given, bool) else operator.index(given)
    except TypeError:
        number = None
    if number is None or not least <= number <= most:
        got = repr(given)[:80] if number is None or number.bit_length() < 100 else f"one of {number.bit_length()} bits"
        too_many = fix if number is not None and number > most else ""
        its_type = "" if isinstance(given, int) and number is not None else f" ({type(given).__name__})"
        raise ConfigError(f"{what}: got {got}{its_type}, expected {kind} from {least} to {most}{too_many}")
    return number
