"""Section on the training curves of metrics.jsonl; curves.yaml says which charts there are and what to expect."""

from itertools import accumulate
from pathlib import Path

from ruamel.yaml import YAML

from multiebm.report.content import Block, Section, Text
from multiebm.report.figures import Level, Mark, Panel, Series, draw_panel
from multiebm.report.record import RunRecord
from multiebm.report.scene import Scene

CURVES = YAML(typ="safe").load(Path(__file__).with_name("curves.yaml"))
SERIES_IN_A_PANEL = 6  # as many as the palette tells apart


def curves_section(scene: Scene) -> Section:
    """One chart per group of metrics that the run has, with the changes of phase and the guard's roll-backs marked."""
    record = scene.record
    panels = training_panels(record)
    if not panels:
        reason = "Left out: the run folder has no metrics.jsonl, or no line in it yet."
        return Section("curves", "Training curves", "", [Text(reason, "omitted")])
    lead = "Training went like this, step by step; each point is a mean over the steps since the one before."
    begun = [(name, step) for name, step in _begins(record) if step < record.step]
    later = [f"{name} at step {step:,}" for name, step in begun if step]
    told = f"A dotted line is where a phase begins: {', '.join(later)}." if later else ""
    told = told or f"All steps are of one phase: {begun[0][0] if begun else 'unknown'}."
    listed = ", ".join(f"step {r.diverged:,} back to {r.returned:,}" for r in record.rollbacks)
    rolled = f" Solid lines are roll-backs of the guard after a divergence: {listed}."
    told += rolled if listed else " The guard never had to roll back."
    notes = {title: curve.get("alone" if len(begun) < 2 else "note", curve["note"]) for title, curve in CURVES.items()}
    charts = [Block(panel.title, [draw_panel(panel)], notes[panel.title]) for panel in panels]
    return Section("curves", "Training curves", lead, [Text(told, "note"), Block("", charts, kind="three")])


def training_panels(record: RunRecord) -> list[Panel]:
    """Return the charts that the run has data for, in the order of `CURVES`.

    There is a line for each metric that has two finite points at least; "a/" stands for all metrics below it.
    """
    panels, names = [], dict.fromkeys(name for line in record.lines for name in line)
    for title, curve in CURVES.items():
        wanted = {
            name: label or name.removeprefix(metric)
            for metric, label in curve["metrics"].items()
            for name in names
            if name == metric or (metric.endswith("/") and name.startswith(metric))
        }
        series: list[Series] = []
        for metric, label in list(wanted.items())[:SERIES_IN_A_PANEL]:
            points = [(line["step"] or 0, value) for line in record.lines if (value := line.get(metric)) is not None]
            if len(points) > 1:
                x, y = zip(*points, strict=True)
                series.append(Series(label, x, y, len(series)))
        if series:
            start, end = min(s.x[0] for s in series), max(s.x[-1] for s in series)
            marks = [Mark(step, name) for name, step in _begins(record) if start < step < end]
            marks += [Mark(r.returned, "", fault=True) for r in record.rollbacks if start <= r.returned <= end]
            levels = [Level(0.0, "")] if curve.get("zero") else []
            panels.append(Panel(title, "training step", curve["unit"], series, marks, levels, settled=True))
    return panels


def _begins(record: RunRecord) -> list[tuple[str, int]]:
    """Return the kind of each phase with the step at which it begins."""
    begins = accumulate([0, *(steps for _, steps in record.phases[:-1])])
    return [(kind, step) for (kind, _), step in zip(record.phases, begins, strict=False)]  # of no phase nothing
