"""From a preset's name or a YAML file, and `key=value` overrides, to an experiment; all problems at once."""

import json
import os
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from multiebm.core.errors import ConfigError
from multiebm.experiments.baselines import baselines, lay_row
from multiebm.experiments.explain import explain
from multiebm.experiments.schema import Experiment, contradictions
from multiebm.experiments.sources import read_source
from multiebm.experiments.values import apply_overrides, dump, is_path, merge, with_new_names

Source = str | Path | Experiment


class Difference(NamedTuple):
    """A dotted key and its two values; None also stands for a key that one side does not have."""

    key: str
    one: Any
    other: Any


def load_experiment(source: Source, overrides: Sequence[str] = ()) -> Experiment:
    """Return the experiment of a preset's name, a YAML file or a run folder (or a given one), with overrides.

    Overrides are `a.b=value`, values in YAML, but paths as they are; a phase of training is addressed by its kind or
    its place, `training.phases.bound.steps=100`. Where values mean the same, a setting may have the name that it had in
    an older release, which is said. Paths of data become absolute: a relative one begins at the working
    folder, ~ is the home folder. ConfigError lists all unknown keys (with the nearest), wrong values and malformed
    overrides.
    """
    # a copy: overrides must not reach the table of rows, whose cells are parts of what is read
    raw = to_dict(source) if isinstance(source, Experiment) else deepcopy(merge(_DEFAULTS, read_source(source)))
    problems = apply_overrides(raw, with_new_names(overrides))
    try:
        # by way of JSON, where strict means no text for numbers and still takes plain mappings for sections
        experiment = Experiment.model_validate_json(json.dumps(raw), strict=True)
        problems += contradictions(experiment)
    except ValidationError as error:
        problems += explain(error, raw)
    if problems:
        raise ConfigError(problems)
    return located(experiment)


def dump_experiment(experiment: Experiment) -> str:
    """Return the experiment as YAML with every key, which loads to an equal object."""
    return dump(to_dict(experiment))


def to_dict(experiment: Experiment) -> dict[str, Any]:
    """Return the experiment as plain nested values."""
    return experiment.model_dump(mode="json")


_DEFAULTS = to_dict(Experiment())


def located(experiment: Experiment) -> Experiment:
    """Return the experiment with absolute paths of data, which mean the same from any folder."""
    settings = dict(experiment.data.settings)
    for name, value in settings.items():
        if is_path(["data", "settings", name]) and isinstance(value, str):
            settings[name] = str(Path(os.path.expanduser(value)).absolute())
    return experiment.changed("data", {"settings": settings})


def differences(one: Experiment, other: Experiment) -> list[Difference]:
    """Return the keys in which two experiments differ; a section that only one of them has counts as one key."""
    return list(_differences(to_dict(one), to_dict(other), ""))


def differences_of_rows(one: str, other: str) -> list[Difference]:
    """Return the cells, nested and over the neutral ones, in which two rows of `baselines()` differ."""
    return list(_differences(lay_row({}, baselines()[one]), lay_row({}, baselines()[other]), ""))


def say(change: Difference) -> str:
    """Return "key: one -> other" with the values as YAML."""
    one, other = (
        "{...}" if isinstance(value, dict) else "[...]" if _kinds(value) else json.dumps(value) for value in change[1:]
    )
    return f"{change.key}: {one} -> {other}"


def _differences(one: Any, other: Any, prefix: str) -> Iterator[Difference]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one | other:
            yield from _differences(one.get(key), other.get(key), f"{prefix}.{key}" if prefix else key)
    elif (kinds := _kinds(one)) and kinds == _kinds(other):
        for i, kind in enumerate(kinds):
            name = kind if kinds.index(kind) == i else i
            yield from _differences(one[i], other[i], f"{prefix}.{name}")
    elif one != other:
        yield Difference(prefix, one, other)


def _kinds(items: Any) -> list[Any]:
    """Return the kinds of the sections in a list; none where it is another list, or no list."""
    return [item.get("kind") for item in items if isinstance(item, dict)] if isinstance(items, list) else []
