"""Pictures of small pixels, enlarged without interpolation, as PNG data URIs and rows of HTML."""

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from multiebm.core.modality import Modality
from multiebm.core.tiles import Pixels, tile_size, tiles
from multiebm.report.markup import image, text

PADDING = 1  # transparent pixels around every tile, so that columns of a strip are equally wide


def common_cell(modalities: Mapping[str, Modality]) -> tuple[int, int]:
    """Return height and width of a cell that holds an enlarged picture of every picture modality."""
    sizes = [tile_size(m.shape) for m in modalities.values() if m.kind == "picture"]
    return max(h for h, _ in sizes) + 2 * PADDING, max(w for _, w in sizes) + 2 * PADDING


def strip(pictures: Tensor, cell: tuple[int, int], per_row: int | None = None) -> Pixels:
    """Lay raw pictures [N, C, H, W] out in rows of `per_row` (all in one by default): [rows * h, per_row * w, 4] bytes.

    They are enlarged, and centred in transparent cells of size `cell`.
    """
    big = tiles(pictures)
    n, height, width = big.shape[:3]
    per_row = per_row or n
    rows = -(-n // per_row)
    sheet = np.zeros((rows * cell[0], per_row * cell[1], 4), np.uint8)
    for i, tile in enumerate(big):
        top = i // per_row * cell[0] + (cell[0] - height) // 2
        left = i % per_row * cell[1] + (cell[1] - width) // 2
        sheet[top : top + height, left : left + width] = tile
    return sheet


def png_uri(pixels: Pixels) -> str:
    """Return pixels, bytes of shape [H, W, 4], as a PNG data URI."""
    stream = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(stream, "PNG", optimize=False, compress_level=9)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def picture_rows(
    modalities: Mapping[str, Modality], views: Mapping[str, Tensor], what: str, heads: Sequence[str] = ()
) -> str:
    """Return one row of pictures per picture modality, its name on the left and `heads` above the columns.

    `views`: raw pictures [N, C, H, W] by name; vector modalities are passed over. `what` completes the alternative
    text. Empty where there is no picture modality.
    """
    shown = {name: m for name, m in modalities.items() if m.kind == "picture"}
    if not shown:
        return ""
    cell = common_cell(shown)
    n = len(next(iter(views.values())))
    rows = []
    if heads:
        rows.append("<span></span><div class='heads'>" + "".join(f"<b>{text(head)}</b>" for head in heads) + "</div>")
    for name in shown:
        uri = png_uri(strip(views[name], cell))
        rows.append(f"<span>{text(name)}</span>{image(uri, f'{name}: {what}')}")
    return f'<div class="rows" style="--width:{n * cell[1]}px">{"".join(rows)}</div>'


def picture_cell(modality: Modality, pictures: Tensor, per_row: int, what: str) -> str:
    """Return a few raw pictures [N, C, H, W] of one modality as one small image, `per_row` side by side."""
    cell = common_cell({modality.name: modality})
    return image(png_uri(strip(pictures, cell, per_row)), what, per_row * cell[1])
