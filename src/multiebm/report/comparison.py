"""One self-contained HTML page of a comparison: the table, and coherence against quality."""

from collections.abc import Sequence
from pathlib import Path
from string import Template

from multiebm.experiments.compare import Cell, entry, summary
from multiebm.models.pretrained import replace_file
from multiebm.report.figures import Point, draw_points
from multiebm.report.markup import cell, join, paragraph, row_head, section, table, text
from multiebm.report.page import TEMPLATE

PAGE = "comparison.html"
READ_WITH = (
    "One mark a run; the upper left is best. A run whose label entropy is low draws few classes, which agree easily: "
    "its joint coherence says nothing."
)


def write_comparison(cells: Sequence[Cell], folder: Path, data: str) -> Path:
    """Write `comparison.html` into `folder` and return its path; the file is replaced whole or not at all."""
    columns, rows = summary(cells)
    body = table(
        ["row", *(text(column.title) for column in columns)],
        [
            [row_head(row), *(cell(text(entry(v, c.digits))) for v, c in zip(values, columns, strict=True))]
            for row, values in rows.items()
        ],
        "numbers",
    )
    seconds = max(c.seconds for c in cells)
    lead = f"Mean ± standard deviation over seeds; at most {seconds:.0f} s of training each, one at a time."
    parts = [section("table", "Table", lead, body)]
    joint = [(c, c.measured["gen/fcd"], c.measured["gen/joint_coherence"]) for c in cells if "gen/fcd" in c.measured]
    if joint:
        chart = draw_points(
            "Joint coherence against Frechet distance",
            [Point(c.row, fcd, coherence) for c, fcd, coherence in joint],
            ("Frechet distance on judges' features (lower is better)", "joint coherence (higher is better)"),
        )
        parts.append(section("scatter", "Coherence and quality", READ_WITH, chart))
    page = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=text(f"Comparison on {data}"), links="", body=join(parts), foot=paragraph(f"Data: {data}")
    )
    file = folder / PAGE
    replace_file(file, page.encode())
    return file
