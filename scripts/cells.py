"""What the tables of this folder share: cells that are made once, and how numbers are printed."""

import json
import os
import platform
import re
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from multiebm.experiments.load import to_dict
from multiebm.experiments.schema import Experiment


def settings_of(experiment: Experiment) -> dict[str, Any]:
    """Return what a cell depends on, by dotted key; where data lie on this machine is not part of it."""
    sections = {key: value for key, value in to_dict(experiment).items() if key != "evaluation"}
    return {key: value for key, value in _flat(sections, "") if not key.endswith("folder")}


def _flat(values: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def is_made(path: Path, experiment: Experiment) -> bool:
    """Return whether `path` holds the cell of this experiment; a key that one side does not know decides nothing."""
    if not path.is_file():
        return False
    old, new = json.loads(path.read_text())["settings"], settings_of(experiment)
    return all(old[key] == new[key] for key in old.keys() & new.keys())


def write_cell(path: Path, row: str, seed: int, experiment: Experiment, content: dict[str, Any]) -> None:
    """Write one cell as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cell = {"row": row, "seed": seed} | content | {"settings": settings_of(experiment)}
    path.write_text(json.dumps(cell, indent=1) + "\n")


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Return "mean ± standard deviation" (the mean alone for one value)."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def processor() -> str:
    """Return the name of the processor and its number of cores."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.is_file() else None
    return f"{found[1] if found else platform.machine()}, {os.cpu_count()} cores"
