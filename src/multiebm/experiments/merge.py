"""Plain values laid over plain values: a file over its base, a row over a preset, `key=value` over all of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from multiebm.core.errors import ConfigError
from multiebm.experiments.yaml12 import parse

Values = Mapping[str, Any]


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
            _set(raw, path, value if is_path(path) and not in_quotes else parse(value, f"{text!r}"))
        except ConfigError as error:
            problems += error.problems
    return problems


def _set(raw: dict[str, Any], path: list[str], value: Any) -> None:
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
