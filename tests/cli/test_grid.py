"""Pictures of samples, as one PNG: what is not one colour picture is shown channel by channel."""

import pytest
import torch

from multiebm.cli.outputs import GAP, grid
from multiebm.core.tiles import tile_size
from multiebm.modalities import Picture


@pytest.mark.parametrize("shape", [(2, 8, 8), (4, 16, 8), (5, 1, 9), (13, 3, 3), (1, 1, 1), (3, 100, 100)], ids=str)
def test_pictures_of_any_shape_lie_in_one_row_of_equal_cells(shape):
    views = {"p": torch.zeros(3, *shape)}
    height, width = (side + GAP for side in tile_size(shape))
    sheet = grid(views, {"p": Picture("p", shape)})
    assert sheet.shape == (height + GAP, 3 * width, 3)
    assert (sheet[-GAP:] == 255).all()
    for i in range(3):
        assert (sheet[0, i * width] == 0).all()
