"""Raw values as modalities show themselves: pictures enlarged without interpolation, points, and lines of text."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from multiebm.core.names import Views
from multiebm.core.tiles import Pixels, tile_size, tiles
from multiebm.modalities import Modality
from multiebm.report.content import Block, Cell, Chart, Picture, Strips, Table, Text
from multiebm.report.figures import GEN, Cloud, draw_clouds
from multiebm.report.scene import POINTS, SHOWN, Scene

PER_CELL, PER_ROW = 4, 2  # pictures in a cell of a table
PADDING = 1  # transparent pixels around every tile, so that columns of a strip are equally wide


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
    return {name: m.show(raw[name]) for name, m in scene.showing("pictures").items()}


def shown_points(m: Modality, raw: Tensor) -> npt.NDArray[np.floating]:
    """Return the points [N, 1 or 2] that a modality shows."""
    points: npt.NDArray[np.floating] = m.show(raw).detach().cpu().numpy()
    return points


def shown_lines(m: Modality, raw: Tensor, there: Tensor | None = None) -> Text:
    """Return the first texts of raw values [N, ...], a line each; an empty one where none is `there` (bool [N])."""
    lines = [" ".join(str(line).split()) for line in m.show(raw[:SHOWN])]
    seen = [True] * len(lines) if there is None else there[:SHOWN].tolist()
    return Text("\n".join(line if has else "" for line, has in zip(lines, seen, strict=True)), "lines")


def common_cell(pictures: Mapping[str, Tensor]) -> tuple[int, int]:
    """Return height and width of a cell that holds an enlarged picture of every modality [N, C, H, W]."""
    sizes = [tile_size(tuple(view.shape[1:])) for view in pictures.values()]
    return max(h for h, _ in sizes) + 2 * PADDING, max(w for _, w in sizes) + 2 * PADDING


def strip(pictures: Tensor, cell: tuple[int, int], per_row: int | None = None) -> Pixels:
    """Lay pictures [N, C, H, W] out in rows of `per_row` (all in one by default): [rows * h, per_row * w, 4] bytes.

    They are enlarged, and centred in transparent cells of size `cell`.
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


def strips(pictures: Mapping[str, Tensor], what: str, heads: Sequence[str] = ()) -> list[Strips]:
    """Return a row of pictures [N, C, H, W] a modality, `heads` above the columns; nothing where there is none."""
    if not pictures:
        return []
    cell = common_cell(pictures)
    return [Strips({name: picture(f"{name}: {what}", strip(view, cell)) for name, view in pictures.items()}, heads)]


def other_views(scene: Scene, what: str, stages: Sequence[Stage], classes: Tensor | None = None) -> list[Block]:
    """Return a chart of every modality that shows points, a panel a stage over real items, and a table of texts.

    `classes` [N] colour the points of every panel.
    """
    points, texts, blocks = scene.showing("points"), scene.showing("text"), list[Block]()
    shades = None if classes is None else classes.cpu().numpy()
    real = {name: torch.empty(0, *m.raw_shape) for name, m in points.items()}  # none without data
    if points and scene.dataset is not None:
        real = scene.real(scene.test_batch(POINTS))
    for name, m in points.items():
        clouds = [Cloud(s.title, shown_points(m, s.views[name]), s.colour, shades) for s in stages]
        blocks.append(Block(name, [draw_clouds(f"{name}: {what}", clouds, shown_points(m, real[name]))]))
    if texts:
        rows: list[list[str | Cell]] = [
            [name, *[Cell(shown_lines(m, s.views[name], (s.there or {}).get(name))) for s in stages]]
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
        shown = m.show(values[:PER_CELL])
        return picture(what, strip(shown, common_cell({name: shown}), PER_ROW))
    if m.shows == "text":
        return shown_lines(m, values[:PER_CELL])
    cloud = Cloud("", shown_points(m, values), GEN, None if classes is None else classes.cpu().numpy())
    return draw_clouds(what, [cloud], shown_points(m, real))
