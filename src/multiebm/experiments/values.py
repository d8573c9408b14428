"""Plain values: read from YAML, laid over each other (a file over its base, a row over a preset), set by `key=value`.

YAML has the values of version 1.2: `no` is a string, `1e-4` a number, `010` is ten, and a key is given once. Anchors,
aliases and tags are refused, and so are documents, depths and integers that no configuration has: a kilobyte of aliases
can stand for gigabytes.
"""

import io
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import cache, lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError, events
from ruamel.yaml.error import MarkedYAMLError

from multiebm.core.errors import ConfigError

logger = logging.getLogger("multiebm")

Values = Mapping[str, Any]
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
    return deepcopy(_parsed(text, where))


@lru_cache(maxsize=256)  # presets build on each other and are compared, so that the same text is read many times
def _parsed(text: str, where: str) -> Any:
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


@cache
def renamed() -> dict[str, str | None]:
    """Return what settings of older releases are now, by their dotted names; None for what is no more."""
    found: dict[str, str | None] = parse_file(Path(__file__).with_name("renamed.yaml"))
    return found


def name_now(key: str) -> str:
    """Return the name that a setting has now: another one where the same values mean the same under it."""
    now = renamed().get(key)
    return key if now is None or " " in now else now


def with_new_names(overrides: Sequence[str]) -> Sequence[str]:
    """Return overrides, those of a setting that has another name now under this one, which is said."""
    if isinstance(overrides, str | Mapping) or not all(isinstance(text, str) for text in overrides):
        return overrides  # which `apply_overrides` refuses
    found = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if (now := name_now(old := key.strip())) != old:
            logger.warning("%s: an older name of %s, and read as that; write the new one", old, now)
        found.append(text if now == old else f"{now}{equals}{value}")
    return found


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


def merge(under: Values, over: Values, where: str = "", adds: bool = False) -> dict[str, Any]:
    """Return `over` laid on `under`, section by section; a section of another `name` or `kind` is another thing and
    replaces. A mapping by kind is laid on the items of a list; ConfigError where it has no such item, unless it `adds`.
    """
    if any(key in over and under.get(key) != over[key] for key in ("name", "kind")):
        return dict(over)
    merged = dict(under)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, list) and isinstance(value, dict):
            merged[key] = _on_list(old, value, f"{where}{': ' if where else ''}{key}", adds)
        elif isinstance(old, dict) and isinstance(value, dict):
            merged[key] = merge(old, value, where, adds)
        else:
            merged[key] = value
    return merged


def _on_list(items: list[Any], by_kind: dict[str, Any], where: str, adds: bool = False) -> list[Any]:
    """Return the items, each with the settings of its kind laid over it."""
    items = list(items)
    for kind, settings in by_kind.items():
        at = find_item(items, kind)
        if at is None and not adds:
            known = ", ".join(str(item.get("kind")) for item in items if isinstance(item, dict))
            raise ConfigError(
                f"{where}: got {kind}, expected one of those there are: {known}; write the whole list to have others"
            )
        if not isinstance(settings, dict):
            raise ConfigError(f"{where}.{kind}: got {settings!r:.60}, expected a section of settings, such as steps: 5")
        if at is None:
            items.append({"kind": kind} | settings)
        else:
            items[at] = merge(items[at], {"kind": kind} | settings, where)
    return items


def find_item(items: Sequence[Any], name: str) -> int | None:
    """Return the place of the first item of a kind, or of the item at a place that is named by its number."""
    if name.isdecimal():
        return int(name) if int(name) < len(items) else None
    return next((i for i, item in enumerate(items) if isinstance(item, dict) and item.get("kind") == name), None)


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> list[str]:
    """Set `a.b=value` in `raw`, sections made as needed; return a line for each override that has another form.

    The value is YAML; that of a setting of data that is a path (`data.settings.path`, `.folder`) is the text as it is,
    whatever YAML would take it for, unless it is in quotes. Kinds are set first, whatever the order: a changed one
    begins its section anew.
    """
    if isinstance(overrides, str | Mapping) or not all(isinstance(text, str) for text in overrides):
        return [f"overrides: got {overrides!r:.60}, expected a list of texts, such as ['training.batch_size=32']"]
    problems = []
    for text in sorted(overrides, key=lambda text: not text.partition("=")[0].strip().endswith(".kind")):
        key, equals, value = text.partition("=")
        path, value = key.strip().split("."), value.strip()
        if not equals or not value or not all(path):
            problems.append(
                f"{text!r}: got no key=value, expected one such as training.batch_size=32 or model.energy=null"
            )
            continue
        try:
            in_quotes = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
            set_value(raw, path, value if is_path(path) and not in_quotes else parse(value, f"{text!r}"))
        except ConfigError as error:
            problems += error.problems
    return problems


def set_value(raw: dict[str, Any], path: list[str], value: Any) -> None:
    """Set a value in nested sections and lists, sections made as needed."""
    section: Any = raw
    for i, name in enumerate(path):
        at: Any = name
        if isinstance(section, list) and (at := find_item(section, name)) is None:
            kinds = ", ".join(str(item.get("kind")) for item in section if isinstance(item, dict))
            raise ConfigError(
                f"{'.'.join(path)}: got {name}, expected one of {kinds}, or the place of one from 0; write "
                f"{'.'.join(path[:i])}=[...] whole to have others"
            )
        old = section[at] if isinstance(section, list) else section.get(at)
        if i < len(path) - 1:
            section[at] = section = old if isinstance(old, dict | list) else {}
        elif name == "kind" and old not in (None, value):
            section.clear()  # of another kind nothing stays
            section[name] = value
        elif isinstance(old, list) and isinstance(value, dict):
            section[at] = _on_list(old, value, ".".join(path))
        elif isinstance(old, dict) and isinstance(value, dict) and "kind" in old:
            section[at] = {"kind": old["kind"]} | value  # one that does not say its kind keeps it
        else:
            section[at] = value


def is_path(key: Sequence[str]) -> bool:
    """Return whether a key, `data.settings.NAME` as its three parts, is by its name the path of a file or folder."""
    return len(key) == 3 and list(key[:2]) == ["data", "settings"] and (key[2] == "path" or key[2].endswith("folder"))
