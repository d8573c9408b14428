"""One self-contained HTML page of a comparison: the table, and coherence against quality."""

from collections.abc import Sequence
from pathlib import Path
from string import Template

from multiebm.core.files import write_output
from multiebm.experiments.compare import Cell, entry, summary
from multiebm.report.figures import Point, draw_points
from multiebm.report.markup import cell, join, paragraph, row_head, section, table, text
from multiebm.report.page import TEMPLATE

PAGE = "comparison.html"
DRAWS_FEW = 0.5  # label entropy below which joint coherence says nothing
READ_WITH = "One mark a run; the upper left is best."
LEFT_OUT = (
    "Left out, as their label entropy is below {bound:g}: {runs}. Parts that draw few classes agree easily, and their "
    "joint coherence says nothing."
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
    body += join(paragraph(text(c.message()), "note") for c in cells if c.diverged)
    parts = [section("table", "Table", lead, body)]
    drawn = [c for c in cells if "gen/fcd" in c.measured]
    few = [c for c in drawn if c.measured.get("gen/label_entropy", 1.0) < DRAWS_FEW]
    points = [Point(c.row, c.measured["gen/fcd"], c.measured["gen/joint_coherence"]) for c in drawn if c not in few]
    if drawn:
        chart = draw_points(
            "Joint coherence against Frechet distance",
            points,
            ("Frechet distance on judges' features (lower is better)", "joint coherence (higher is better)"),
        )
        runs = ", ".join(f"{c.row} (seed {c.seed})" for c in few)
        note = paragraph(LEFT_OUT.format(bound=DRAWS_FEW, runs=runs)) if few else ""
        parts.append(section("scatter", "Coherence and quality", READ_WITH, join([chart if points else "", note])))
    page = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=text(f"Comparison on {data}"), links="", body=join(parts), foot=paragraph(f"Data: {data}")
    )
    file = folder / PAGE
    write_output(file, page.encode())
    return file
