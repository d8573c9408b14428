import numpy as np
import torch
from report_standin import PICTURES, pixels

from multiebm.core.modality import Modality
from multiebm.report.grids import PADDING, common_cell, picture_cell, picture_rows, png_uri, strip


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
    assert (pixels(png_uri(sheet)) == sheet).all()


def test_cells_hold_the_largest_picture_and_vectors_do_not_count():
    modalities = {
        "small": Modality("small", "picture", (1, 28, 28)),
        "large": Modality("large", "picture", (3, 16, 20)),
        "words": Modality("words", "vector", (99,)),
    }
    assert common_cell(modalities) == (56 + 2 * PADDING, 60 + 2 * PADDING)


def test_rows_carry_their_modality_and_column_heads_and_pass_vectors_over():
    views = {name: torch.zeros(3, *m.shape) for name, m in PICTURES.items()} | {"v": torch.zeros(3, 2)}
    modalities = PICTURES | {"v": Modality("v", "vector", (2,))}
    rows = picture_rows(modalities, views, "what it shows", ["0", "5", "10"])
    assert rows.count("<img") == 2
    assert "<b>0</b><b>5</b><b>10</b>" in rows
    assert 'alt="up: what it shows"' in rows
    assert picture_rows({"v": modalities["v"]}, views, "nothing") == ""


def test_a_cell_of_four_pictures_is_two_by_two():
    shown = picture_cell(PICTURES["up"], torch.rand(4, 3, 8, 8), 2, "four")
    assert pixels(shown.split('"')[1]).shape == (2 * 66, 2 * 66, 4)
