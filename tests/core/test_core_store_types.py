"""Every type of number that a model may have is called in a file as torch calls it."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from multiebm.core.store import _TYPES, describe

TYPES = (torch.bool, torch.uint8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32)


@pytest.mark.parametrize("dtype", [*TYPES, torch.int8, torch.float64], ids=str)
def test_the_header_of_a_file_names_a_type_as_the_tensor_does(dtype: torch.dtype, tmp_path: Path):
    tensor = torch.zeros(2, dtype=dtype)
    safetensors.torch.save_file({"it": tensor}, tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert f"{_TYPES[file.get_slice('it').get_dtype()]} [2]" == describe(tensor)
