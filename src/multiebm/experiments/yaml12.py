"""YAML with the values of version 1.2: `no` is a string, `1e-4` a number, `010` is ten, and a key is given once.

Anchors, aliases and tags are refused, and so are documents, depths and integers that no configuration has: a kilobyte
of aliases can stand for gigabytes.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from multiebm.core.errors import ConfigError

LARGEST = 1 << 17  # characters of a document
DEEPEST = 32  # sections and lists in one another
_DIGITS = 20  # of an integer; 64 bits have at most as many
_TAG = "tag:yaml.org,2002:"
_SIGNED = list("-+0123456789")
_RESOLVERS: list[tuple[str, str, list[str]]] = [
    ("null", r"(?:~|null|Null|NULL|)", ["~", "n", "N", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)", list("tTfF")),
    ("int", r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)", _SIGNED),
    ("float", r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?)", [*_SIGNED, "."]),
    ("float", r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))", ["-", "+", "."]),
]


class _Loader(yaml.SafeLoader):
    """PyYAML implements version 1.1; its rules for plain scalars are replaced by those of 1.2 below."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Return the next node, as SafeLoader does; what could grow or hold anything but plain values is refused."""
        event = self.peek_event()
        what = None
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            what = "an anchor (&) or an alias (*)"
        elif event.tag is not None:
            what = f"the tag {event.tag}"
        elif self.depth == DEEPEST:
            what = f"more than {DEEPEST} sections in one another"
        if what:
            raise yaml.composer.ComposerError(None, None, what, event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes exactly the strings that the loader would otherwise read as something else."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = node.value
    if len(text) > _DIGITS:
        raise yaml.constructor.ConstructorError(
            None, None, f"an integer of more than {_DIGITS} digits", node.start_mark
        )
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str) or key in out:
            what = "twice" if isinstance(key, str) else "as a key"
            raise yaml.constructor.ConstructorError(None, None, f"{key!r} {what}", key_node.start_mark)
        out[key] = loader.construct_object(value_node, deep=True)
    return out


for _kind, _pattern, _first in _RESOLVERS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _kind, re.compile(f"^{_pattern}$"), _first)
_Loader.add_constructor(_TAG + "int", _integer)
_Loader.add_constructor(_TAG + "map", _mapping)


def parse(text: str, where: str) -> Any:
    """Return the plain values of one document; ConfigError naming `where`, the line and the problem."""
    if len(text) > LARGEST:
        raise ConfigError(f"{where}: got more than {LARGEST:,} characters, expected a configuration; name another file")
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(
            f"{where}:{line} got {error.problem}, expected plain YAML with each key once; correct it"
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not readable as YAML ({error}); correct it") from error


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
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=120)
