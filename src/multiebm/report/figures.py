"""Charts as inline SVG that takes its text colour, font and palette from the page, hence fits light and dark mode.

Panels are plain data, drawn in one place: what a chart shows can be compared with where it came from.
"""

import io
import re
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from multiebm.report.markup import text

Values = Sequence[float] | npt.NDArray[np.floating]

_MARKERS = ("o", "s", "^")
_REACH = 4  # of a mark, pixels of the drawing
_PLACES = (((6, 4), "left"), ((6, -10), "left"), ((-6, 4), "right"), ((-6, -10), "right"))  # of labels, points
INK, LINE = "#010203", "#040506"  # stand-ins that no palette uses, replaced by variables of the page
# Okabe and Ito's colours, told apart with any colour vision; black left out, it vanishes in dark mode
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DATA, GEN, EBM = 2, 0, 1  # places in the palette, the same in all charts
_VARIABLES = {INK: "currentColor", LINE: "var(--line)"} | {c: f"var(--series-{i})" for i, c in enumerate(PALETTE)}
_PIXELS_PER_POINT = 1.5  # at most; charts shrink with their column
_STYLE = {
    "svg.fonttype": "none",
    "font.size": 9.5,
    "text.parse_math": False,  # names of modalities may hold a dollar sign
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.handlelength": 1.3,
    "legend.columnspacing": 1.2,
    "lines.linewidth": 1.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
}


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


class Point(NamedTuple):
    """A mark at (x, y); marks of one label share a colour and a form."""

    label: str
    x: float
    y: float


def draw_points(title: str, points: Sequence[Point], axes_titles: tuple[str, str]) -> str:
    """Return a scatter as inline SVG, every label written beside the first of its marks, clear of other labels."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.4, 4.6), layout="constrained")
        axes = figure.add_subplot()
        marks: dict[str, tuple[float, float]] = {}
        for i, label in enumerate(dict.fromkeys(p.label for p in points)):
            own = np.array([[p.x, p.y] for p in points if p.label == label])
            colour, marker = PALETTE[i % len(PALETTE)], _MARKERS[i // len(PALETTE) % len(_MARKERS)]
            axes.scatter(own[:, 0], own[:, 1], s=26, color=colour, marker=marker)
            marks[label] = (own[0, 0], own[0, 1])
        axes.set(xlabel=axes_titles[0], ylabel=axes_titles[1])
        axes.margins(0.08)
        figure.draw_without_rendering()  # fixes where things lie
        _label(axes, marks, [(p.x, p.y) for p in points])
        return _svg(figure, title)


def _label(axes: Axes, marks: dict[str, tuple[float, float]], points: Sequence[tuple[float, float]]) -> None:
    """Write labels beside their marks, each at that of a few places where it covers the fewest points and labels."""
    places = axes.transData.transform(list(points))
    taken = [Bbox.from_extents(x - _REACH, y - _REACH, x + _REACH, y + _REACH) for x, y in places]
    for label, xy in marks.items():
        notes = [
            axes.annotate(label, xy, offset, textcoords="offset points", ha=side, fontsize=8.5)
            for offset, side in _PLACES
        ]
        best = min(notes, key=lambda note: sum(note.get_window_extent().overlaps(box) for box in taken))
        for note in notes:
            if note is not best:
                note.remove()
        taken.append(best.get_window_extent())


def draw_panel(panel: Panel) -> str:
    """Return the chart of `panel` as inline SVG."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.7, 3.0), layout="constrained")
        axes = figure.add_subplot()
        for s in panel.series:
            colour = PALETTE[s.colour % len(PALETTE)]
            if s.low is not None and s.high is not None:
                axes.fill_between(s.x, s.low, s.high, color=colour, alpha=0.18, linewidth=0)
            axes.plot(s.x, s.y, color=colour, label=s.label)
        for level in panel.levels:
            axes.axhline(level.y, color=_colour(level.colour), linewidth=1, linestyle=(0, (4, 2)), label=level.label)
        axes.set(xlabel=panel.x_label, ylabel=panel.y_label)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        _frame(axes, panel)
        labels = [label for label in [*(s.label for s in panel.series), *(v.label for v in panel.levels)] if label]
        if len(labels) > 1:
            figure.legend(loc="outside upper left", ncols=len(labels) if sum(map(len, labels)) < 50 else 2)
        return _svg(figure, panel.title)


def draw_clouds(title: str, clouds: Sequence[Cloud], reference: npt.NDArray[np.floating]) -> str:
    """Return panels side by side on common axes as inline SVG, each over the `reference` [N, 1 or 2] in grey."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(2.3 * len(clouds), 2.3), layout="constrained")
        grid = figure.subplots(1, len(clouds), sharex=True, sharey=True, squeeze=False)[0]
        for axes, cloud in zip(grid, clouds, strict=True):
            _draw_cloud(axes, cloud, reference)
            axes.set_title(cloud.title, fontsize=10)
            axes.set_xlabel("value 1")
        grid[0].set_ylabel("value 2" if reference.shape[1] > 1 else "density")
        return _svg(figure, title)


def _draw_cloud(axes: Axes, cloud: Cloud, reference: npt.NDArray[np.floating]) -> None:
    colour = PALETTE[cloud.colour]
    there, shown = np.isfinite(reference).all(1), np.isfinite(cloud.points).all(1)
    reference, points = reference[there], cloud.points[shown]
    if reference.shape[1] == 1:
        bins = np.histogram_bin_edges(np.concatenate([reference, points]), 30).tolist()
        if len(reference):  # a density of nothing is none
            axes.hist(reference[:, 0], bins, density=True, color=LINE)
        if len(points):
            axes.hist(points[:, 0], bins, density=True, histtype="step", color=colour, linewidth=1.4)
        return
    classes = None if cloud.classes is None else cloud.classes[shown]
    colours = colour if classes is None else [INK if c < 0 else PALETTE[int(c) % len(PALETTE)] for c in classes]
    axes.scatter(reference[:, 0], reference[:, 1], s=5, color=LINE, linewidths=0)
    axes.scatter(points[:, 0], points[:, 1], s=5, color=colours, linewidths=0)


def _frame(axes: Axes, panel: Panel) -> None:
    """Set the limits to what is drawn and add the marks."""
    low, high = height(panel)
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    axes.set_ylim(low - margin, high + margin)
    axes.margins(x=0.02)
    for mark in panel.marks:
        axes.axvline(mark.x, color=INK, linestyle="-" if mark.fault else ":", linewidth=1)
        if mark.label:
            top = axes.get_xaxis_transform()  # x in steps, y as a share of the height
            axes.text(mark.x, 0.99, f" {mark.label}", transform=top, va="top", ha="left", fontsize=8.5)


def height(panel: Panel) -> tuple[float, float]:
    """Return the lowest and the highest value to show."""
    drawn = [np.asarray(y, float) for s in panel.series for y in (s.y, s.low, s.high) if y is not None]
    if panel.settled:
        drawn = [y[len(y) // 10 :] for y in drawn]
    values = np.concatenate([*drawn, np.array([level.y for level in panel.levels])])
    values = values[np.isfinite(values)]
    return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)


def _colour(place: int | None) -> str:
    return INK if place is None else PALETTE[place]


def _svg(figure: Figure, title: str) -> str:
    """Return the figure as SVG for the inside of a page: no XML head, outside names or ids that could clash."""
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": title}):
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    svg = stream.getvalue()
    box = re.search(r'viewBox="0 0 (\S+) \S+"', svg)
    assert box is not None
    width = f"max-width:{_PIXELS_PER_POINT * float(box[1]):.0f}px"
    inside = svg[svg.index(">", box.start()) + 1 :]
    inside = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", inside, count=1, flags=re.DOTALL)
    inside = re.sub(r'\sid="[A-Za-z0-9.]+_\d+"', "", inside)
    inside = re.sub(r"font-family: [^;\"]*;?", "", inside).replace("xlink:href", "href")
    inside = re.sub(r"\s*\n\s*", " ", inside)
    for colour, variable in _VARIABLES.items():
        inside = inside.replace(colour, variable)
    return f'<svg class="chart" style="{width}" {box[0]} role="img" aria-label="{text(title)}">{inside}'
