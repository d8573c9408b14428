"""What the tables of this folder share: cells that are made once, and how numbers are printed."""

import argparse
import json
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from multiebm.experiments.compare import entry as spread
from multiebm.experiments.load import to_dict
from multiebm.experiments.schema import Experiment

__all__ = ["RESULTS", "Kept", "is_made", "notes_of", "parser_of", "processor", "settings_of", "spread", "write_cell"]

RESULTS = Path(__file__).parents[1] / "results"


def parser_of(doc: str | None, sets: Sequence[str], known: Sequence[str]) -> argparse.ArgumentParser:
    """Return what reads the sets, the seeds and the folder of results of a script with this `doc`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="*", default=list(sets), choices=list(known))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser


class Kept(list[dict[str, Any]]):
    """The cells of a table that are made, in a JSON file that grows with each; without a file they are not written."""

    def __init__(self, file: Path | None) -> None:
        super().__init__(json.loads(file.read_text()) if file and file.exists() else [])
        self.file = file

    def has(self, **what: Any) -> bool:
        """Return whether there is a cell with these values."""
        return any(all(cell[key] == value for key, value in what.items()) for cell in self)

    def add(self, cell: dict[str, Any]) -> None:
        """Print and write one more cell."""
        self.append(cell)
        print(json.dumps(cell), flush=True)
        if self.file:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_text(json.dumps(self, indent=1) + "\n")

    def sets(self) -> list[str]:
        """Return the names of the sets that there are cells of, in order."""
        return list(dict.fromkeys(cell["set"] for cell in self))


def settings_of(experiment: Experiment) -> dict[str, Any]:
    """Return what a cell depends on; where data lie on this machine is not part of it."""
    settings = to_dict(experiment)
    data = {key: value for key, value in settings["data"]["settings"].items() if not key.endswith("folder")}
    return settings | {"data": settings["data"] | {"settings": data}}


def is_made(path: Path, experiment: Experiment, evaluation: bool = True) -> bool:
    """Return whether `path` holds the cell of this experiment; settings younger than the cell count as their defaults.

    `evaluation` False: the cell does not depend on the section of that name.
    """
    if not path.is_file():
        return False
    stored = json.loads(path.read_text())["settings"]
    try:
        old, new = (settings_of(Experiment.model_validate(values)) for values in (stored, settings_of(experiment)))
    except ValueError:  # a setting that no longer exists
        return False
    return old | ({} if evaluation else {"evaluation": None}) == new | ({} if evaluation else {"evaluation": None})


def write_cell(path: Path, row: str, seed: int, experiment: Experiment, content: dict[str, Any]) -> None:
    """Write one cell as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cell = {"row": row, "seed": seed} | content | {"settings": settings_of(experiment)}
    path.write_text(json.dumps(cell, indent=1) + "\n")


def processor() -> str:
    """Return the name of the processor and its number of cores."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.is_file() else None
    return f"{found[1] if found else platform.machine()}, {os.cpu_count()} cores"


def notes_of(folder: Path) -> list[str]:
    """Return the text of NOTES.md in a folder of results after an empty line; nothing where there is none."""
    file = folder / "NOTES.md"
    return ["", file.read_text().rstrip()] if file.is_file() else []
