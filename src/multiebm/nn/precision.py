"""Networks may compute in bfloat16; what enters and leaves them is float32."""

from typing import Literal

import torch
from torch import Tensor, nn


class Mixed(nn.Module):
    """Run `net` under bfloat16 autocast where `bf16`, channels-last for pictures; the output is float32, same shape."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.bf16 = False

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return `net(*inputs)` in float32: [B, ...] each -> the shape that `net` gives."""
        inputs = tuple(x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x for x in inputs)
        with torch.autocast(inputs[0].device.type, torch.bfloat16, enabled=self.bf16):
            return self.net(*inputs).float()


def fastest_precision(device: str | torch.device) -> Literal["bf16", "fp32"]:
    """Return "bf16" where `device` has units for it, CUDA or a CPU with AMX-BF16 or AVX512-BF16, else "fp32".

    Other CPUs compute in bfloat16 too, three to ten times slower than in float32.
    """
    able = torch.cpu.get_capabilities()
    fast = torch.device(device).type == "cuda" or able.get("amx_bf16") or able.get("avx512_bf16")
    return "bf16" if fast else "fp32"


def precision_of(module: nn.Module) -> str:
    """Return "bf16" where a `Mixed` inside `module` computes in it, else "fp32"."""
    return "bf16" if any(part.bf16 for part in module.modules() if isinstance(part, Mixed)) else "fp32"


def set_precision(module: nn.Module, precision: str) -> None:
    """Let every `Mixed` inside `module` compute in "fp32" or "bf16"."""
    for part in module.modules():
        if isinstance(part, Mixed):
            part.bf16 = precision == "bf16"
