import numpy as np
import pytest
import torch
from report_standin import PICTURES, pixels

from multiebm.core.errors import DataError
from multiebm.core.modality import Modality
from multiebm.report.grids import PADDING, common_cell, enlargement, picture_cell, picture_rows, png_uri, strip


def test_every_pixel_becomes_one_square_and_nothing_between_colours_appears():
    picture = torch.tensor([[[[0.0, 1.0], [0.5, 0.25]]]])  # [1, 1, 2, 2]
    sheet = strip(picture, factor=3, cell=(6, 6))
    assert sheet.shape == (6, 6, 4)
    expected = np.array([[0, 255], [128, 64]], np.uint8).repeat(3, 0).repeat(3, 1)
    for channel in range(3):
        assert (sheet[..., channel] == expected).all()
    assert (sheet[..., 3] == 255).all()


def test_colours_keep_their_channels():
    picture = torch.zeros(1, 3, 1, 1)
    picture[0, :, 0, 0] = torch.tensor([1.0, 0.0, 0.2])
    assert strip(picture, 1, (1, 1))[0, 0].tolist() == [255, 0, 51, 255]


def test_pictures_are_centred_in_transparent_cells_row_by_row():
    pictures = torch.stack([torch.full((1, 2, 2), v) for v in (0.2, 0.4, 0.6)])
    sheet = strip(pictures, factor=1, cell=(4, 4), per_row=2)
    assert sheet.shape == (8, 8, 4)
    assert (sheet[1:3, 1:3, 0] == 51).all()
    assert (sheet[1:3, 5:7, 0] == 102).all()
    assert (sheet[5:7, 1:3, 0] == 153).all()
    opaque = sheet[..., 3] == 255
    assert opaque.sum() == 3 * 4
    assert not opaque[4:, 4:].any()  # the place of a fourth picture stays empty


def test_a_data_uri_gives_back_the_same_bytes():
    sheet = np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)
    assert (pixels(png_uri(sheet)) == sheet).all()


@pytest.mark.parametrize(("side", "factor"), [(8, 8), (16, 4), (28, 2), (32, 2), (256, 1)])
def test_small_pictures_are_enlarged_by_a_whole_factor_to_about_64_pixels(side: int, factor: int):
    assert enlargement(Modality("m", "picture", (3, side, side))) == factor


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


def test_channels_that_are_no_colours_are_refused():
    with pytest.raises(DataError, match="got 2 channels, expected 1"):
        strip(torch.zeros(1, 2, 4, 4), 1, (4, 4))
