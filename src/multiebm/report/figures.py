"""Charts that take text colour, font and palette from the page, hence fit light and dark mode.

Panels are plain data, drawn in one place: what a chart shows can be compared with where it came from.
"""

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib
import matplotlib.style
import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from multiebm.report.content import Chart

Values = Sequence[float] | npt.NDArray[np.floating]

STYLE = "multiebm.report.charts"  # charts.mplstyle
INK, LINE = "#010203", "#040506"  # stand-ins of that file
# Okabe and Ito's colours, told apart with any colour vision; black left out, it vanishes in dark mode
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DATA, GEN, EBM = 2, 0, 1  # places in the palette, the same in all charts
_VARIABLES = {INK: "currentColor", LINE: "var(--line)"} | {c: f"var(--series-{i})" for i, c in enumerate(PALETTE)}
_MARKERS = ("o", "s", "^")
_REACH = 4  # of a mark, pixels of the drawing
_PLACES = (((6, 4), "left"), ((6, -10), "left"), ((-6, 4), "right"), ((-6, -10), "right"))  # of labels, points
_PIXELS_PER_POINT = 1.5  # at most; charts shrink with their column


class Series(NamedTuple):
    """A line, and the band between `low` and `high` around it if given; `colour` is a place in `PALETTE`."""

    label: str
    x: Values
    y: Values
    colour: int = 0
    low: Values | None = None
    high: Values | None = None


class Mark(NamedTuple):
    """A vertical line at `x` with `label` (may be empty) beside it; a `fault` is drawn solid, anything else dotted."""

    x: float
    label: str
    fault: bool = False


class Level(NamedTuple):
    """A horizontal line at `y`, named in the legend; a place in `PALETTE`, or ink where None."""

    y: float
    label: str
    colour: int | None = None


class Panel(NamedTuple):
    """One chart: `title` for those who cannot see it, axis labels with units, and what is drawn.

    `settled` fits the height to the last nine tenths of each line, so that a start far off does not flatten the rest.
    """

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    marks: Sequence[Mark] = ()
    levels: Sequence[Level] = ()
    settled: bool = False


class Cloud(NamedTuple):
    """Points [N, 2], or values [N, 1] shown as a histogram; what is not finite is left out.

    `classes` [N], if given, colour the points one by one; a class below 0 is not known.
    """

    title: str
    points: npt.NDArray[np.floating]
    colour: int
    classes: npt.NDArray[np.integer] | None = None


@matplotlib.style.context(STYLE)
def draw_panel(panel: Panel) -> Chart:
    """Draw lines with their bands, marks and levels."""
    figure = Figure(figsize=(4.7, 3.0), layout="constrained")
    axes = figure.add_subplot(xlabel=panel.x_label, ylabel=panel.y_label)
    for s in panel.series:
        colour = PALETTE[s.colour % len(PALETTE)]
        if s.low is not None and s.high is not None:
            axes.fill_between(s.x, s.low, s.high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(s.x, s.y, color=colour, label=s.label)
    for level in panel.levels:
        colour = INK if level.colour is None else PALETTE[level.colour]
        axes.axhline(level.y, color=colour, linewidth=1, linestyle=(0, (4, 2)), label=level.label)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    low, high = height(panel)
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    axes.set_ylim(low - margin, high + margin)
    axes.margins(x=0.02)
    for mark in panel.marks:
        axes.axvline(mark.x, color=INK, linestyle="-" if mark.fault else ":", linewidth=1)
        top = axes.get_xaxis_transform()  # x in steps, y as a share of the height
        axes.text(mark.x, 0.99, f" {mark.label}", transform=top, va="top", ha="left", fontsize=8.5)
    labels = [label for label in (*(s.label for s in panel.series), *(v.label for v in panel.levels)) if label]
    if len(labels) > 1:
        figure.legend(loc="outside upper left", ncols=len(labels) if sum(map(len, labels)) < 50 else 2)
    return _chart(figure, panel.title)


def height(panel: Panel) -> tuple[float, float]:
    """Return the lowest and the highest value to show."""
    drawn = [np.asarray(y, float) for s in panel.series for y in (s.y, s.low, s.high) if y is not None]
    if panel.settled:
        drawn = [y[len(y) // 10 :] for y in drawn]
    values = np.concatenate([*drawn, np.array([level.y for level in panel.levels])])
    values = values[np.isfinite(values)]
    return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)


@matplotlib.style.context(STYLE)
def draw_clouds(
    title: str, clouds: Sequence[Cloud], reference: npt.NDArray[np.floating], names: Sequence[str] = ()
) -> Chart:
    """Draw panels side by side on common axes of these names, each over the `reference` [N, 1 or 2] in grey."""
    x_label, y_label = names[:2] if len(names) > 1 else (*names, "value 1", "value 2")[:2]
    figure = Figure(figsize=(2.3 * len(clouds), 2.3), layout="constrained")
    grid = figure.subplots(1, len(clouds), sharex=True, sharey=True, squeeze=False)[0]
    real, flat = reference[np.isfinite(reference).all(1)], reference.shape[1] == 1
    for axes, cloud in zip(grid, clouds, strict=True):
        colour, shown = PALETTE[cloud.colour], np.isfinite(cloud.points).all(1)
        points = cloud.points[shown]
        if flat:
            bins = np.histogram_bin_edges(np.concatenate([real, points]), 30).tolist()
            if len(real):  # a density of nothing is none
                axes.hist(real[:, 0], bins, density=True, color=LINE)
            if len(points):
                axes.hist(points[:, 0], bins, density=True, histtype="step", color=colour, linewidth=1.4)
        else:
            classes = [] if cloud.classes is None else cloud.classes[shown]
            colours = [INK if c < 0 else PALETTE[int(c) % len(PALETTE)] for c in classes]
            axes.scatter(real[:, 0], real[:, 1], s=5, color=LINE, linewidths=0)
            axes.scatter(points[:, 0], points[:, 1], s=5, color=colours or colour, linewidths=0)
        axes.set_title(cloud.title, fontsize=10)
        axes.set_xlabel(x_label)
    grid[0].set_ylabel("density" if flat else y_label)
    return _chart(figure, title)


@matplotlib.style.context(STYLE)
def draw_points(title: str, points: Mapping[str, Sequence[tuple[float, float]]], x_label: str, y_label: str) -> Chart:
    """Draw a scatter, every label beside the first of its marks where it covers the fewest marks and labels."""
    figure = Figure(figsize=(7.4, 4.6), layout="constrained")
    axes = figure.add_subplot(xlabel=x_label, ylabel=y_label)
    axes.margins(0.08)
    for i, own in enumerate(points.values()):
        marker = _MARKERS[i // len(PALETTE) % len(_MARKERS)]
        x, y = zip(*own, strict=True)
        axes.scatter(x, y, s=26, color=PALETTE[i % len(PALETTE)], marker=marker)
    figure.draw_without_rendering()  # fixes where things lie
    places = axes.transData.transform([xy for own in points.values() for xy in own])
    taken = [Bbox.from_extents(x - _REACH, y - _REACH, x + _REACH, y + _REACH) for x, y in places]
    for label, own in points.items():
        notes = [
            axes.annotate(label, own[0], offset, textcoords="offset points", ha=side, fontsize=8.5)
            for offset, side in _PLACES
        ]
        notes.sort(key=lambda note: sum(note.get_window_extent().overlaps(box) for box in taken))
        taken.append(notes[0].get_window_extent())
        for note in notes[1:]:
            note.remove()
    return _chart(figure, title)


def _chart(figure: Figure, title: str) -> Chart:
    """Return the figure's SVG, whose texts matplotlib escapes, without outside names or ids that could clash."""
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": title}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # texts stay texts, and pages have more fonts
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    found = re.search(r'viewBox="(0 0 (\S+) \S+)"[^>]*>(.*)</svg>', stream.getvalue(), re.DOTALL)
    assert found is not None
    inside = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", found[3], count=1, flags=re.DOTALL)
    inside = re.sub(r'\sid="[A-Za-z0-9.]+_\d+"|font-family: [^;"]*;?', "", inside).replace("xlink:href", "href")
    inside = re.sub(r"\s*\n\s*", " ", inside)
    for colour, variable in _VARIABLES.items():
        inside = inside.replace(colour, variable)
    return Chart(title, Markup(inside), found[1], round(_PIXELS_PER_POINT * float(found[2])))
