"""YAML with the values of version 1.2: `no` is a string, `1e-4` a number, `010` is ten, and a key is given once.

Anchors, aliases and tags are refused, and so are documents, depths and integers that no configuration has: a kilobyte
of aliases can stand for gigabytes.
"""

import io
import re
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError, events
from ruamel.yaml.error import MarkedYAMLError

from multiebm.core.errors import ConfigError

LARGEST = 1 << 17  # characters of a document
DEEPEST = 32  # sections and lists in one another
_DIGITS = 20  # of an integer; 64 bits have at most as many
_AROUND = (events.StreamStartEvent, events.StreamEndEvent, events.DocumentStartEvent, events.DocumentEndEvent)


_INTEGER = r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"
_PLAIN: list[tuple[str, Callable[[str], Any]]] = [  # the core schema of YAML 1.2; what matches nothing is a string
    (r"~|null|Null|NULL|", lambda text: None),
    (r"true|True|TRUE|false|False|FALSE", lambda text: text[0] in "tT"),
    (_INTEGER, lambda text: int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))),
    (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", float),
    (r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", lambda text: float(text.replace(".", ""))),
]


def parse(text: str, where: str) -> Any:
    """Return the plain values of one document; ConfigError naming `where`, the line and the problem."""
    if len(text) > LARGEST:
        raise ConfigError(f"{where}: got more than {LARGEST:,} characters, expected a configuration; name another file")
    try:
        found = (event for event in YAML(typ="safe", pure=True).parse(text) if not isinstance(event, _AROUND))
        value = _value(next(found, None), found, 0)
        if (more := next(found, None)) is not None:
            raise MarkedYAMLError(problem="a second document", problem_mark=more.start_mark)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(
            f"{where}:{line} got {error.problem}, expected plain YAML with each key once; correct it"
        ) from error
    except YAMLError as error:
        raise ConfigError(f"{where}: not readable as YAML ({error}); correct it") from error
    return value


def parse_file(path: Path) -> Any:
    """Return the plain values of a file, of which no more is read than a document may have; ConfigError as `parse`."""
    try:
        with path.open(encoding="utf-8") as stream:
            text = stream.read(LARGEST + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give the name of a preset or a readable file") from error
    return parse(text, str(path))


def dump(values: dict[str, Any]) -> str:
    """Return block-style YAML that `parse` reads back to equal values."""
    yaml: Any = YAML(typ="safe", pure=True)
    text = io.StringIO()
    yaml.default_flow_style = yaml.sort_base_mapping_type_on_output = False
    yaml.width = 120
    yaml.dump(values, text)
    return text.getvalue()


def _value(event: Any, rest: Iterator[Any], depth: int) -> Any:
    """Return the value that begins with `event` and ends in the `rest`; what could grow is refused."""
    if event is None:
        return None
    problem = None
    if isinstance(event, events.AliasEvent) or event.anchor is not None:
        problem = "an anchor (&) or an alias (*)"
    elif event.tag is not None:
        problem = f"the tag {event.tag}"
    elif depth == DEEPEST:
        problem = f"more than {DEEPEST} sections in one another"
    plain = isinstance(event, events.ScalarEvent) and event.implicit[0]  # neither in quotes nor a block of text
    if plain and len(event.value) > _DIGITS and re.fullmatch(_INTEGER, event.value):
        problem = problem or f"an integer of more than {_DIGITS} digits"
    if problem:
        raise MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
    if isinstance(event, events.ScalarEvent):
        made = next((made for pattern, made in _PLAIN if plain and re.fullmatch(pattern, event.value)), str)
        return made(event.value)
    inside = takewhile(lambda found: not isinstance(found, events.CollectionEndEvent), rest)
    if isinstance(event, events.SequenceStartEvent):
        return [_value(item, rest, depth + 1) for item in inside]
    mapping: dict[str, Any] = {}
    for item in inside:
        key = _value(item, rest, depth + 1)
        if not isinstance(key, str) or key in mapping:
            what = "twice" if isinstance(key, str) else "as a key"
            raise MarkedYAMLError(problem=f"{key!r} {what}", problem_mark=item.start_mark)
        mapping[key] = _value(next(rest), rest, depth + 1)
    return mapping
