"""What a configuration may say, in words: every problem as one line of key, what was given, expected, and the fix."""

import json
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from pydantic import ValidationError

from multiebm.core.table import nearest
from multiebm.experiments.schema import Experiment
from multiebm.experiments.yaml12 import dump

_UNKNOWN = {"extra_forbidden", "unexpected_keyword_argument"}
_SHOWN = 60  # characters of a value in a message
_MEANING_AT = 32  # column of the meanings beside settings
_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def explain(error: ValidationError, raw: dict[str, Any]) -> list[str]:
    """Return one line per wrong key of `raw`; the branches of a union are one line."""
    lines: dict[str, str] = {}
    for problem in error.errors():
        path = _present(problem["loc"], raw)
        key = ".".join(map(str, path))
        unknown = problem["type"] in _UNKNOWN
        lines.setdefault(key, unknown_key(path) if unknown else f"{key}: {wrong_value(path, problem['input'])}")
    return list(lines.values())


def unknown_key(path: list[str]) -> str:
    """Return the line for a key that no section has: its known siblings, and the nearest name here or elsewhere."""
    known = list(schema_at(path[:-1]).get("properties", {}))
    section = ".".join(path[:-1]) or "an experiment"
    hint = nearest(path[-1], known)
    if not hint:
        elsewhere = [key for key in all_keys() if key.rpartition(".")[2] == path[-1]]
        hint = f" Did you mean {' or '.join(map(repr, elsewhere[:2]))}?" if elsewhere else ""
    return f"{'.'.join(path)}: unknown key; {section} has {', '.join(known)}.{hint}"


def wrong_value(path: list[str], value: Any) -> str:
    """Return "got ..., expected ... (meaning)" for a value that its key does not take."""
    node = schema_at(path)
    meaning = f" ({node['description']})" if node.get("type") != "object" and "description" in node else ""
    return f"got {shown(value)}, expected {describe(node)}{meaning}"


def shown(value: Any) -> str:
    """Return a value as a preset file would write it, shortened."""
    text = json.dumps(value, default=str)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def describe(node: dict[str, Any]) -> str:
    """Return the values a schema node takes, such as "a number >= 0 and <= 1" or "one of normal, laplace"."""
    node = _resolved(node)
    if "anyOf" in node:
        return " or ".join(describe(branch) for branch in node["anyOf"])
    if "enum" in node:
        return f"one of {', '.join(map(str, node['enum']))}"
    if "const" in node:
        return str(node["const"])
    kind = node.get("type")
    if kind == "object":
        return f"a section with {', '.join(node['properties'])}" if "properties" in node else "a section of name: value"
    if kind == "array":
        return f"a list of items, each {describe(node['items'])}"
    words = {
        "integer": "an integer",
        "number": "a number",
        "boolean": "true or false",
        "string": "text",
        "null": "null",
    }
    bounds = [f"{sign} {node[bound]:g}" for bound, sign in _BOUNDS.items() if bound in node]
    return " ".join([words.get(str(kind), "plain YAML values"), " and ".join(bounds)]).strip()


def annotated(values: dict[str, Any], path: Sequence[str] = ()) -> list[str]:
    """Return the plain values of an experiment as lines of YAML: a comment above each section, and one beside each
    key, say what they mean.
    """
    lines: list[str] = []
    for key, value in values.items():
        node = schema_at([*path, key])
        meaning = " ".join(node.get("description", "").split())
        text = dump({key: value}).rstrip()
        if isinstance(value, dict) and "properties" in node:
            inside = annotated(value, [*path, key])
            lines += ["", f"# {meaning}", f"{key}:", *(f"  {line}".rstrip() for line in inside)]
        elif "\n" in text:
            lines += [f"# {meaning}", *text.splitlines()]
        else:
            lines.append(f"{text:<{_MEANING_AT - 2 * len(path)}}  # {meaning}".rstrip(" #"))
    return lines


def all_keys() -> list[str]:
    """Return every dotted key of an experiment, sections left out."""
    return list(_keys({"$ref": ""}, ""))


def schema_at(path: list[str]) -> dict[str, Any]:
    """Return the schema node of a dotted key; of an optional section, the section. Unknown keys give {}."""
    node = _section(_schema())
    for key in path:
        if node.get("type") == "array":
            node = node["items"]
        else:
            extra = node.get("additionalProperties")
            node = node.get("properties", {}).get(key) or (extra if isinstance(extra, dict) else {})
        node = _section(node)
    return node


@cache
def _schema() -> dict[str, Any]:
    return Experiment.model_json_schema()


def _resolved(node: dict[str, Any]) -> dict[str, Any]:
    if node.get("$ref") == "":
        return _schema()
    return _schema()["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node


def _section(node: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference, and of `section | null` return the section."""
    node = _resolved(node)
    sections = [_resolved(branch) for branch in node.get("anyOf", [])]
    sections = [branch for branch in sections if "properties" in branch]
    return sections[0] if sections else node


def _keys(node: dict[str, Any], prefix: str) -> Iterator[str]:
    for key, child in _section(node).get("properties", {}).items():
        if "properties" in _section(child):
            yield from _keys(child, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _present(loc: tuple[int | str, ...], raw: Any) -> list[str]:
    """Return the part of an error's location that is in the data: pydantic appends the names of union branches."""
    path = []
    for key in loc:
        inside = (isinstance(raw, dict) and key in raw) or (isinstance(raw, list) and isinstance(key, int))
        if not inside:
            break
        raw = raw[key]
        path.append(str(key))
    return path
