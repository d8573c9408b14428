import numpy as np
import pytest
import torch

from multiebm.core.tiles import is_colour, tile_size, tiles


def test_every_pixel_becomes_one_square_and_nothing_between_colours_appears():
    picture = torch.tensor([[[[0.0, 1.0], [0.5, 0.25]]]])  # [1, 1, 2, 2]
    shown = tiles(picture)
    assert shown.shape == (1, 64, 64, 4)
    expected = np.array([[0, 255], [128, 64]], np.uint8).repeat(32, 0).repeat(32, 1)
    for channel in range(3):
        assert (shown[0, ..., channel] == expected).all()
    assert (shown[..., 3] == 255).all()


def test_colours_keep_their_channels():
    picture = torch.zeros(1, 3, 1, 1)
    picture[0, :, 0, 0] = torch.tensor([1.0, 0.0, 0.2])
    assert tiles(picture)[0, 0, 0].tolist() == [255, 0, 51, 255]


@pytest.mark.parametrize(
    ("channels", "across", "down"), [(2, 2, 1), (4, 2, 2), (5, 3, 2), (6, 3, 2), (13, 4, 4), (17, 5, 4)]
)
def test_channels_that_are_no_colours_are_grey_pictures_from_the_top_left_on(channels, across, down):
    height, width = 3, 4
    assert not is_colour((channels, height, width))
    pictures = torch.arange(channels * height * width).reshape(1, channels, height, width) / 255
    shown = tiles(pictures)[0]
    factor = max(1, round(64 / max(across * 5 - 1, down * 4 - 1)))
    assert shown.shape == ((down * 4 - 1) * factor, (across * 5 - 1) * factor, 4)
    assert shown.shape[:2] == tile_size((channels, height, width))
    small = shown[::factor, ::factor]
    assert (small.repeat(factor, 0).repeat(factor, 1) == shown).all()
    for i in range(channels):
        top, left = i // across * 4, i % across * 5
        place = small[top : top + height, left : left + width]
        for colour in range(3):
            assert (place[..., colour] == (pictures[0, i] * 255).round().byte().numpy()).all()
        assert (place[..., 3] == 255).all()
    assert (small[..., 3] == 255).sum() == channels * height * width
    assert (small[small[..., 3] == 0][:, :3] == 255).all()  # white where nothing is


@pytest.mark.parametrize(
    ("sides", "factor"), [((8, 8), 8), ((16, 16), 4), ((28, 28), 2), ((32, 32), 2), ((256, 256), 1), ((1, 16), 4)]
)
def test_pictures_are_enlarged_by_a_whole_factor_to_about_64_pixels(sides, factor):
    for channels in (1, 3):
        assert tile_size((channels, *sides)) == (sides[0] * factor, sides[1] * factor)


def test_values_outside_the_range_are_shown_at_its_ends_and_nan_as_nothing():
    values = torch.tensor([[[[-0.1, 1.1, torch.nan]]]])
    shown = tiles(values)[0, 0, ::21][:3]
    assert shown.tolist() == [[0, 0, 0, 255], [255, 255, 255, 255], [255, 255, 255, 0]]
