"""The table of multimodal VAEs: a row is data, `baselines.yaml`. Its cells are settings laid over a preset.

`PRESET-ROW` (polydigits-mopoe) is the preset `PRESET-vae` with the cells of ROW; a file may say `baseline: ROW`.
Packages add rows under the entry point group `multiebm.baselines`: an object of `Baseline` each, named as the row.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from multiebm.core.table import Table
from multiebm.experiments.values import merge, parse_file

GROUP = "multiebm.baselines"
COOPERATIVE = ("multimodalebm2026", "cui2023dualmcmc")  # keys of what cooperative learning comes from
Cells = Mapping[str, Any]


class Baseline(NamedTuple):
    """A title, the settings that make the method (nested, as in a preset), those published for PolyMNIST at 28 pixels,
    and the BibTeX of its sources. Of phases they hold settings by kind; one that the preset lacks is added.
    """

    title: str
    cells: Cells
    published: Cells = {}
    references: tuple[str, ...] = ()


_BIB = Path(__file__).with_name("references.bib").read_text(encoding="utf-8")
REFERENCES = {  # BibTeX of the papers whose methods are in the package, by key
    entry[entry.index("{") + 1 : entry.index(",")]: entry for entry in re.split(r"\n\s*\n", _BIB.strip())
}
_FILE = parse_file(Path(__file__).with_name("baselines.yaml"))
NEUTRAL: Cells = _FILE["neutral"]  # what no multimodal VAE has, and the neutral entry of every axis


def _rows() -> dict[str, Baseline]:
    """Return the rows of the file; `like` names one above, `code` published settings that several share."""
    rows: dict[str, Baseline] = {}
    for name, row in _FILE["rows"].items():
        cells = {"model": row.get("model", {}), "training": {"phases": row.get("phases", {})}}
        published = _FILE["codes"][row.get("code", "mopoe")]
        if "like" in row:
            other = rows[row["like"]]
            cells, published = merge(other.cells, cells), other.published
        published = merge(published, row.get("published", {}))
        rows[name] = Baseline(row["title"], cells, published, tuple(REFERENCES[key] for key in row["references"]))
    return rows


ROWS = _rows()


def baselines() -> Table[Baseline]:
    """Return the rows of this file and of installed packages; ConfigError where one of those takes a name twice."""
    table = Table("baseline", ROWS, GROUP)
    list(table)  # names are looked up when they are first asked for
    return table


def lay_row(under: Cells, row: Baseline) -> dict[str, Any]:
    """Return the cells of a row over plain values, of whose phases the bound alone stays; the row may add others."""
    training = under.get("training", {})
    bound = [phase for phase in training.get("phases", []) if phase.get("kind") == "bound"][:1]
    kept = {"model": {}, **under, "training": training | {"phases": bound or [{"kind": "bound"}]}}
    return merge(merge(kept, NEUTRAL), row.cells, adds=True)
