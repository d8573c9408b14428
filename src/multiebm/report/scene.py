"""What every section draws from: a run, its trained model and its data; the choice of what to show; and raw values as
modalities show themselves: pictures enlarged without interpolation, points, and lines of text.
"""

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from multiebm.core.batch import Batch
from multiebm.core.names import Views
from multiebm.core.random import ItemGenerators, item_generators
from multiebm.core.tiles import Pixels, tile_size, tiles
from multiebm.core.tree import per_item
from multiebm.data.dataset import MultimodalDataset, Split
from multiebm.evaluation.measurement import JudgesLike
from multiebm.evaluation.result import stream_seed
from multiebm.modalities import Modality
from multiebm.models.model import MultimodalModel
from multiebm.report.content import Block, Cell, Chart, Picture, Strips, Table, Text
from multiebm.report.figures import GEN, Cloud, draw_clouds
from multiebm.report.record import RunRecord

NEEDS_DATA = "it needs the run's data, which are not at hand (the reason stands among the facts at the top)"
SHOWN = 8  # pictures in a row
POINTS = 300  # items of a scatter chart
PER_CELL, PER_ROW = 4, 2  # pictures in a cell of a table
LARGEST = 128  # pixels of the longer side of a picture on the page
PADDING = 1  # transparent pixels around every tile, so that columns of a strip are equally wide


class Scene(NamedTuple):
    """A run's record, its model in evaluation mode, its judges if any, and its data or why there are none."""

    record: RunRecord
    model: MultimodalModel
    dataset: MultimodalDataset | None
    judges: JudgesLike | None = None
    no_data: str = ""

    @property
    def modalities(self) -> dict[str, Modality]:
        """The model's modalities by name."""
        return self.model.modalities

    def showing(self, shows: str) -> dict[str, Modality]:
        """Return the modalities that show themselves as "pictures", "points" or "text"."""
        return {name: m for name, m in self.modalities.items() if m.shows == shows}

    @property
    def has_energy(self) -> bool:
        """Whether the model has an energy over data, be it trained or not."""
        return self.model.energy is not None

    @property
    def no_energy(self) -> str:
        """Why there is nothing to show of the data chain; empty where there is."""
        if self.model.energy is None:
            return "the model has no energy"
        return "" if self.model.energy_learned else "the energy has not had a step of training"

    def rng(self, use: str, n: int) -> ItemGenerators:
        """Return one generator an item for the draws called `use`, the same on every call."""
        return item_generators(stream_seed(self.record.experiment.seed, f"report/{use}"), n)

    def raw(self, views: Views) -> Views:
        """Map states [B, ...] to what a model gives its users."""
        return {name: self.modalities[name].to_raw(view) for name, view in views.items()}

    def test_batch(self, n: int, part: str | None = None) -> Batch:
        """Return up to `n` test items that have `part` (or any), spread over the classes, on the model's device."""
        assert self.dataset is not None
        rows = pick_items(self.dataset.test, n, None if part is None else list(self.modalities).index(part))
        return self.dataset.batch("test", rows).to(self.model.device)

    def real(self, batch: Batch) -> Views:
        """Return the raw values [B, ...] of a batch; NaN, drawn as nothing, where a part is absent that is no text."""
        raw = self.raw(batch.views)
        for (name, view), has in zip(raw.items(), batch.present.T, strict=True):
            if view.is_floating_point() and self.modalities[name].shows != "text":
                raw[name] = torch.where(per_item(has, view), view, torch.nan)
        return raw

    def read(self, raw: Views) -> dict[str, Tensor]:
        """Return the classes int64 [B] that the judges read in raw values [B, ...], by the parts with a judge."""
        assert self.judges is not None
        return self.judges.predict({name: self.modalities[name].to_state(raw[name]) for name in self.judges.accuracy})


def pick_items(split: Split, n: int, column: int | None = None) -> Tensor:
    """Return the indices int64 [min(n, N)] of items to show: complete ones if they suffice, classes evenly spread.

    Others have at least one part if any item has, and that of `column` if one is given. Items that share a value, as
    captions of one picture do, come after items of other values.
    """
    complete = split.present.all(1).nonzero()[:, 0]
    having = split.present.any(1) if column is None else split.present[:, column]
    having = having | (column is None and not having.any())
    rows = complete if len(complete) >= n else having.nonzero()[:, 0]
    if split.at:
        rows = rows[torch.stack([turns(of[rows]) for of in split.at.values()]).amax(0).argsort(stable=True)]
    if split.labels is None or not len(rows):
        return rows[:n]
    labels = split.labels[rows]
    classes = labels.unique()
    if n < len(classes):
        wanted = classes[torch.arange(n) * len(classes) // n]
        return torch.stack([rows[labels == c][0] for c in wanted])
    return rows[torch.argsort(turns(labels) * (int(classes.max()) + 1) + labels, stable=True)[:n]]


def turns(keys: Tensor) -> Tensor:
    """Return how many equal ones stand before each of the keys, int64 [N]."""
    order = keys.argsort(stable=True)
    turn = torch.empty_like(order)
    turn[order] = torch.arange(len(keys)) - torch.searchsorted(keys[order], keys[order])
    return turn


class Stage(NamedTuple):
    """Raw `views` [N, ...] of one kind, under one heading; `colour` is a place in the palette. `there` says which
    parts there are, bool [N] by modality; all of them if None.
    """

    title: str
    views: Views
    colour: int
    note: str = ""
    there: dict[str, Tensor] | None = None


def shown_pictures(scene: Scene, raw: Views) -> Views:
    """Return what is to be seen of the picture modalities: [N, C, H, W] in [0, 1], NaN where nothing is."""
    return {name: shrunk(m.show(raw[name])) for name, m in scene.showing("pictures").items()}


def shrunk(pictures: Tensor) -> Tensor:
    """Return pictures [N, C, H, W] with sides divided by the least whole number that fits LARGEST: means of blocks."""
    height, width = pictures.shape[2:]
    factor = -(-max(height, width) // LARGEST)
    window = (min(factor, height), min(factor, width))
    return torch.nn.functional.avg_pool2d(pictures, window, ceil_mode=True) if factor > 1 else pictures


def common_cell(pictures: Views) -> tuple[int, int]:
    """Return height and width of a cell that holds an enlarged picture of every modality [N, C, H, W]."""
    sizes = [tile_size(tuple(view.shape[1:])) for view in pictures.values()]
    return max(h for h, _ in sizes) + 2 * PADDING, max(w for _, w in sizes) + 2 * PADDING


def strip(pictures: Tensor, cell: tuple[int, int], per_row: int | None = None) -> Pixels:
    """Lay pictures [N, C, H, W] out in rows of `per_row` (None: one), enlarged and centred in transparent cells of size
    `cell`: [rows * h, per_row * w, 4] bytes.
    """
    big = tiles(pictures)
    n, height, width = big.shape[:3]
    per_row = per_row or n
    sheet = np.zeros((-(-n // per_row) * cell[0], per_row * cell[1], 4), np.uint8)
    for i, tile in enumerate(big):
        top = i // per_row * cell[0] + (cell[0] - height) // 2
        left = i % per_row * cell[1] + (cell[1] - width) // 2
        sheet[top : top + height, left : left + width] = tile
    return sheet


def picture(title: str, pixels: Pixels) -> Picture:
    """Return pixels, bytes of shape [H, W, 4], as a PNG that the page holds."""
    stream = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(stream, "PNG", compress_level=9)
    return Picture(title, "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode(), pixels.shape[1])


def strips(pictures: Views, what: str, heads: Sequence[str] = ()) -> list[Strips]:
    """Return a row of pictures [N, C, H, W] a modality, `heads` above the columns; nothing where there is none."""
    if not pictures:
        return []
    cell = common_cell(pictures)
    return [Strips({name: picture(f"{name}: {what}", strip(view, cell)) for name, view in pictures.items()}, heads)]


def other_views(scene: Scene, what: str, stages: Sequence[Stage], classes: Tensor | None = None) -> list[Block]:
    """Return a chart a part of points, a panel a stage over real items, coloured by `classes` [N]; a table of texts."""
    points, texts, blocks = scene.showing("points"), scene.showing("text"), list[Block]()
    real = {name: torch.empty(0, *m.raw_shape) for name, m in points.items()}  # none without data
    if points and scene.dataset is not None:
        real = scene.real(scene.test_batch(POINTS))
    for name, m in points.items():
        clouds = [_cloud(m, s.title, s.views[name], s.colour, classes) for s in stages]
        blocks.append(Block(name, [draw_clouds(f"{name}: {what}", clouds, _points(m, real[name]), m.columns)]))
    if texts:
        rows: list[list[str | Cell]] = [
            [name, *[Cell(_lines(m, s.views[name], (s.there or {}).get(name))) for s in stages]]
            for name, m in texts.items()
        ]
        blocks.append(Block(", ".join(texts), [Table("cross", ["", *(s.title for s in stages)], rows)]))
    return blocks


def one_view(
    scene: Scene, name: str, values: Tensor, real: Tensor, classes: Tensor | None, what: str
) -> Chart | Picture | Text:
    """Return raw values [N, ...] in little room: PER_CELL pictures or texts, or all points by class over real ones."""
    m = scene.modalities[name]
    if m.shows == "pictures":
        shown = shrunk(m.show(values[:PER_CELL]))
        return picture(what, strip(shown, common_cell({name: shown}), PER_ROW))
    if m.shows == "text":
        return _lines(m, values[:PER_CELL])
    return draw_clouds(what, [_cloud(m, "", values, GEN, classes)], _points(m, real), m.columns)


def _points(m: Modality, raw: Tensor) -> npt.NDArray[np.floating]:
    """Return the points [N, 1 or 2] that a modality shows."""
    return m.show(raw).detach().cpu().numpy()


def _cloud(m: Modality, title: str, raw: Tensor, colour: int, classes: Tensor | None) -> Cloud:
    return Cloud(title, _points(m, raw), colour, None if classes is None else classes.cpu().numpy())


def _lines(m: Modality, raw: Tensor, there: Tensor | None = None) -> Text:
    """Return the first texts of raw values [N, ...], a line each; an empty one where none is `there` (bool [N])."""
    lines = [" ".join(str(line).split()) for line in m.show(raw[:SHOWN])]
    seen = [True] * len(lines) if there is None else there[:SHOWN].tolist()
    return Text("\n".join(line if has else "" for line, has in zip(lines, seen, strict=True)), "lines")
