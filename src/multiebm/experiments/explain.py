"""What a configuration may say, in words: every problem as one line of key, what was given, expected, and the fix."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from pydantic import ValidationError

from multiebm.core.table import nearest
from multiebm.experiments.schema import Experiment
from multiebm.experiments.values import dump, find_item, renamed

Node = dict[str, Any]  # of the JSON schema
Keys = Sequence[str]
_UNKNOWN = {"extra_forbidden", "unexpected_keyword_argument"}
_KINDS = {"union_tag_invalid", "union_tag_not_found"}
_SHOWN = 60  # characters of a value in a message
_MEANING_AT = 36  # column of the meanings beside settings
_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
_WORDS = {"integer": "an integer", "number": "a number", "boolean": "true or false", "string": "text", "null": "null"}


def explain(error: ValidationError, raw: dict[str, Any]) -> list[str]:
    """Return one line per wrong key of `raw`; the branches of a union are one line."""
    lines: dict[str, str] = {}
    for problem in error.errors():
        path, value = _present(problem["loc"], raw)
        if problem["type"] in _KINDS and isinstance(value, dict):
            path, value = [*path, "kind"], value.get("kind")
        key = ".".join(path)
        if problem["type"] not in _UNKNOWN:
            lines.setdefault(key, f"{key}: got {_shown(value)}, expected {_expected(path, value, raw)}")
        elif moved := list(_moved(key, value)):
            lines |= moved
        else:
            lines.setdefault(key, f"{key}: unknown key; {_siblings_of(path, raw)}")
    return list(lines.values())


def _moved(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield lines for the settings at or below a key that have another name now."""
    known = renamed()
    if key in known:
        now = f"it is {known[key]} now" if known[key] else "there is none like it any more; leave it out"
        yield key, f"{key}: unknown key; {now}"
    elif isinstance(value, dict):
        for name, inside in value.items():
            yield from _moved(f"{key}.{name}", inside)


def _siblings_of(path: Keys, raw: Any) -> str:
    """Return what the section of an unknown key has, and the nearest name here or elsewhere."""
    section, parent = ".".join(path[:-1]) or "an experiment", node_at(path[:-1], raw)
    known = [name for name in parent.get("properties", {}) if name != "kind"]
    hint = nearest(path[-1], known)
    if kind := _kind_of(parent):
        others = [_kind_of(node) for node in _siblings(path[:-1], raw) if path[-1] in node.get("properties", {})]
        section = f"{section} of kind {kind}"
        hint = f" Kind {' or '.join(others)} has it." if others else hint
    if not hint:
        elsewhere = [key for key in all_keys() if key.rpartition(".")[2] == path[-1]]
        hint = f" Did you mean {' or '.join(map(repr, elsewhere[:2]))}?" if elsewhere else ""
    return f"{section} has {', '.join(known) or 'no settings'}.{hint}"


def _shown(value: Any) -> str:
    """Return a value as a preset file would write it, shortened."""
    text = json.dumps(value, default=str)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _expected(path: Keys, value: Any, raw: Any) -> str:
    """Return the values that a key takes, and its meaning."""
    if path[-1] == "kind" and (kinds := [_kind_of(node) for node in _siblings(path[:-1], raw)]):
        return f"one of {', '.join(kinds)}.{nearest(str(value), kinds)}"
    node = node_at(path, raw)
    meaning = f" ({node['description']})" if "description" in node and "properties" not in node else ""
    return describe(node) + meaning


def describe(node: Node) -> str:
    """Return the values a schema node takes, such as "a number >= 0 and <= 1" or "one of normal, laplace"."""
    if kinds := [kind for section in _sections(node) if (kind := _kind_of(section))]:
        return f"a section of kind {', '.join(kinds)}"
    if branches := node.get("anyOf") or node.get("oneOf"):
        return " or ".join(map(describe, branches))
    if "enum" in node:
        return f"one of {', '.join(map(str, node['enum']))}"
    if "const" in node:
        return str(node["const"])
    form = node.get("type")
    if form == "object":
        return f"a section with {', '.join(node['properties'])}" if "properties" in node else "a section of name: value"
    if form == "array" and "prefixItems" in node:
        return f"a list of {len(node['prefixItems'])}: {', then '.join(map(describe, node['prefixItems']))}"
    if form == "array":
        return f"a list of items, each {describe(node['items'])}"
    bounds = [f"{sign} {node[bound]:g}" for bound, sign in _BOUNDS.items() if bound in node]
    return " ".join([_WORDS.get(str(form), "plain YAML values"), " and ".join(bounds)]).strip()


def annotated(values: Mapping[str, Any], path: Keys = (), raw: Any = None) -> Iterator[str]:
    """Yield an experiment's values, or of the section at `path` of `raw`, as YAML with the meaning of each key."""
    raw = values if raw is None else raw
    for key, value in values.items():
        here = [*path, key]
        node = node_at(here, raw)
        meaning = " ".join(node.get("description", "").split())
        if isinstance(value, dict) and "properties" in node:
            yield from ("", f"# {meaning}", f"{key}:")
            yield from (f"  {line}".rstrip() for line in annotated(value, here, raw))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            yield from ("", f"# {meaning}", f"{key}:")
            for i, item in enumerate(value):
                yield f"  # {' '.join(node_at([*here, str(i)], raw).get('description', '').split())}"
                lines = annotated(item, [*here, str(i)], raw)
                yield from (f"  {'  ' if at else '- '}{line}" for at, line in enumerate(lines))
        else:
            text = dump({key: value}).rstrip()
            if "\n" in text:
                yield from (f"# {meaning}", *text.splitlines())
            else:
                yield f"{text:<{_MEANING_AT - 2 * len(path)}}  # {meaning or 'which of them'}"


def all_keys() -> list[str]:
    """Return every dotted key of an experiment, sections left out; settings of phases by their kind."""
    return list(dict.fromkeys(_keys(_schema(), "")))


def node_at(path: Keys, raw: Any) -> Node:
    """Return the schema node of a key in `raw`, {} if unknown; of unions and options the one these values mean."""
    node = _schema()
    for key in path:
        if node.get("type") == "array":
            node = node.get("items", {})
        else:
            extra = node.get("additionalProperties")
            node = node.get("properties", {}).get(key) or (extra if isinstance(extra, dict) else {})
        if isinstance(raw, list):
            raw = None if (at := find_item(raw, key)) is None else raw[at]
        else:
            raw = raw.get(key) if isinstance(raw, dict) else None
        sections = _sections(node)
        if sections and (len(sections) == 1 or isinstance(raw, dict)):
            kind = raw.get("kind") if isinstance(raw, dict) and len(sections) > 1 else _kind_of(sections[0])
            node = next((section for section in sections if _kind_of(section) == kind), node)
    return node


@cache
def _schema() -> Node:
    """Return the schema of an experiment with every reference replaced by what it names."""
    whole = Experiment.model_json_schema()

    def inline(node: Any) -> Any:
        if isinstance(node, list):
            return [inline(item) for item in node]
        if not isinstance(node, dict):
            return node
        named = inline(whole["$defs"][node["$ref"].rpartition("/")[2]]) if "$ref" in node else {}
        return named | {key: inline(value) for key, value in node.items() if key not in ("$ref", "$defs")}

    return inline(whole)


def _sections(node: Node) -> list[Node]:
    """Return the sections of a union or an optional section; none of any other node."""
    return [branch for branch in [*node.get("anyOf", []), *node.get("oneOf", [])] if "properties" in branch]


def _siblings(path: Keys, raw: Any) -> list[Node]:
    """Return the sections of all kinds that may stand at a path."""
    *above, last = path
    parent = node_at(above, raw)
    node = parent.get("items", {}) if parent.get("type") == "array" else parent.get("properties", {}).get(last, {})
    return [section for section in _sections(node) if _kind_of(section)]


def _kind_of(node: Node) -> str:
    return str(node.get("properties", {}).get("kind", {}).get("const", ""))


def _keys(node: Node, prefix: str) -> Iterator[str]:
    for key, child in node.get("properties", {}).items():
        of_list = child.get("type") == "array"
        for section in _sections(child.get("items", {}) if of_list else child) or [child]:
            if "properties" in section:
                yield from _keys(section, f"{prefix}{key}." + (f"{_kind_of(section)}." if of_list else ""))
            else:
                yield f"{prefix}{key}"


def _present(loc: tuple[int | str, ...], raw: Any) -> tuple[list[str], Any]:
    """Return the part of an error's location that is in the data, without the branches of unions, and what is there."""
    path: list[str] = []
    at: Any
    for at in loc:
        if isinstance(raw, list) and isinstance(at, int) and at >= len(raw):  # what a list lacks is said of the list
            break
        if isinstance(raw, list) and isinstance(at, int):
            kind = raw[at].get("kind") if isinstance(raw[at], dict) else None
            path.append(kind if isinstance(kind, str) and find_item(raw, kind) == at else str(at))
            raw = raw[at]
        elif isinstance(raw, dict) and at in raw:
            path.append(str(at))
            raw = raw[at]
    return path, raw
