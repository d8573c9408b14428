import numpy as np
import torch
from report_standin import PICTURES, VECTORS, html, make_scene, pixels

from multiebm.report.scene import PADDING, common_cell, one_view, picture, shown_pictures, strip, strips


def test_pictures_are_centred_in_transparent_cells_row_by_row():
    pictures = torch.stack([torch.full((1, 64, 64), v) for v in (0.2, 0.4, 0.6)])
    sheet = strip(pictures, cell=(66, 66), per_row=2)
    assert sheet.shape == (132, 132, 4)
    assert (sheet[1:65, 1:65, 0] == 51).all()
    assert (sheet[1:65, 67:131, 0] == 102).all()
    assert (sheet[67:131, 1:65, 0] == 153).all()
    opaque = sheet[..., 3] == 255
    assert opaque.sum() == 3 * 64 * 64
    assert not opaque[66:, 66:].any()  # the place of a fourth picture stays empty


def test_a_data_uri_gives_back_the_same_bytes():
    sheet = np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)
    assert (pixels(picture("", sheet).uri) == sheet).all()


def test_cells_hold_the_largest_picture():
    pictures = {"small": torch.zeros(2, 1, 28, 28), "large": torch.zeros(2, 3, 16, 20)}
    assert common_cell(pictures) == (56 + 2 * PADDING, 60 + 2 * PADDING)


def test_rows_carry_their_modality_and_column_heads_and_vectors_have_none():
    views = {name: torch.zeros(3, *m.shape) for name, m in PICTURES.items()} | {"left": torch.zeros(3, 2)}
    scene = make_scene(PICTURES | VECTORS)
    (rows,) = strips(shown_pictures(scene, views), "what it shows", ["0", "5", "10"])
    shown = html(rows)
    assert shown.count("<img") == 2
    assert "<b>0</b><b>5</b><b>10</b>" in shown
    assert 'alt="up: what it shows"' in shown
    assert strips(shown_pictures(make_scene(VECTORS), views), "nothing") == []


def test_a_cell_of_four_pictures_is_two_by_two():
    made = torch.rand(4, 3, 8, 8)
    shown = html(one_view(make_scene(), "up", made, made, None, "four"))
    assert pixels(shown.split('"')[1]).shape == (2 * 66, 2 * 66, 4)
