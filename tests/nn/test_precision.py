import pytest
import torch

from multiebm.nn.precision import fastest_precision


@pytest.mark.parametrize(
    ("device", "able", "expected"),
    [
        ("cpu", {"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, "fp32"),
        ("cpu", {"avx512_bf16": True}, "bf16"),
        ("cpu", {"amx_bf16": True}, "bf16"),
        ("cpu", {"bf16": True}, "fp32"),  # a processor of ARM, of which we have measured none
        (torch.device("cuda", 0), {}, "bf16"),
    ],
)
def test_bfloat16_is_for_devices_that_have_units_for_it(
    device: str | torch.device, able: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert fastest_precision(device) == expected


def test_every_processor_has_an_answer():
    assert fastest_precision("cpu") in ("fp32", "bf16")
