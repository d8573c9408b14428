"""One self-contained HTML page of a comparison: the table, and coherence against quality."""

from collections.abc import Sequence
from pathlib import Path

from multiebm.core.files import write_output
from multiebm.experiments.compare import Cell, entry, summary
from multiebm.report.content import Part, Section, Table, Text, to_page
from multiebm.report.figures import draw_points

PAGE = "comparison.html"
DRAWS_FEW = 0.5  # label entropy below which joint coherence says nothing
LEFT_OUT = (
    "Left out, as their label entropy is below {:g}: {}. Parts that draw few classes agree easily, and their joint "
    "coherence says nothing."
)
AXES = ("Frechet distance on judges' features (lower is better)", "joint coherence (higher is better)")


def write_comparison(cells: Sequence[Cell], folder: Path, data: str) -> Path:
    """Write `comparison.html` into `folder` and return its path; the file is replaced whole or not at all."""
    columns, rows = summary(cells)
    body = [[row, *map(entry, values, (c.digits for c in columns))] for row, values in rows.items()]
    seconds = max(c.seconds for c in cells)
    lead = f"Values are mean ± standard deviation over seeds; each run had at most {seconds:.0f} s of training, alone."
    parts: list[Part] = [Table("numbers", ["row", *(c.title for c in columns)], body)]
    parts += [Text(c.message(), "note") for c in cells if c.diverged]
    sections = [Section("table", "Table", lead, parts)]
    if drawn := [c for c in cells if "gen/fcd" in c.measured]:
        few = [c for c in drawn if c.measured.get("gen/label_entropy", 1.0) < DRAWS_FEW]
        points: dict[str, list[tuple[float, float]]] = {}
        for c in (c for c in drawn if c not in few):
            points.setdefault(c.row, []).append((c.measured["gen/fcd"], c.measured["gen/joint_coherence"]))
        parts = [draw_points("Joint coherence against Frechet distance", points, *AXES)] if points else []
        if few:
            parts.append(Text(LEFT_OUT.format(DRAWS_FEW, ", ".join(f"{c.row} (seed {c.seed})" for c in few)), "note"))
        lead = "A mark is a run; the upper left is best."
        sections.append(Section("scatter", "Coherence and quality", lead, parts))
    page = to_page(f"Comparison on {data}", sections, f"Data: {data}")
    write_output(folder / PAGE, page.encode())
    return folder / PAGE
