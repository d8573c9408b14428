"""Randomness is an argument: one torch generator, or one generator per item of a batch.

Training draws per batch from one `torch.Generator`. Sampling may use `ItemGenerators`, so that an item
does not depend on the batch it sits in.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from multiebm.core.errors import DataError


def make_generator(seed: int, device: str | torch.device = "cpu") -> torch.Generator:
    """Return a torch generator on `device`, seeded with `seed`."""
    return torch.Generator(device=device).manual_seed(seed)


class ItemGenerators:
    """One generator per item, from a list of seeds; the leading dimension of every draw is the batch.

    Draws are made on the CPU and moved, so an item's noise is the same on every device.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.seeds = list(seeds)
        self._generators = [torch.Generator().manual_seed(seed) for seed in self.seeds]

    def __len__(self) -> int:
        return len(self._generators)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Draw standard normals of shape [B, ...], B = number of generators."""
        self._check(shape)
        return torch.stack([torch.randn(tuple(shape[1:]), generator=g) for g in self._generators])

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Draw uniforms on [0, 1) of shape [B, ...], B = number of generators."""
        self._check(shape)
        return torch.stack([torch.rand(tuple(shape[1:]), generator=g) for g in self._generators])

    def select(self, rows: Tensor) -> "ItemGenerators":
        """Return the generators of the items where `rows` (bool of shape [B]) is true: the same ones, not copies."""
        chosen = ItemGenerators([])
        index = rows.nonzero()[:, 0].tolist()
        chosen.seeds, chosen._generators = [self.seeds[i] for i in index], [self._generators[i] for i in index]
        return chosen

    def _check(self, shape: Sequence[int]) -> None:
        if not shape or shape[0] != len(self):
            raise DataError(
                f"per-item generators: got a draw of shape {tuple(shape)}, expected leading size {len(self)}"
            )


Randomness = torch.Generator | ItemGenerators


def item_generators(seed: int, n: int, first: int = 0) -> ItemGenerators:
    """Return generators for items `first .. first + n - 1` of the stream named by `seed`."""
    return ItemGenerators([(seed * 1_000_003 + first + i) % 2**63 for i in range(n)])


def randn(generator: Randomness, shape: Sequence[int], like: Tensor) -> Tensor:
    """Draw standard normals of `shape` in float32 on the device of `like`."""
    if isinstance(generator, ItemGenerators):
        return generator.normal(shape).to(like.device)
    return torch.randn(tuple(shape), generator=generator, device=generator.device).to(like.device)


def rand(generator: Randomness, shape: Sequence[int], like: Tensor) -> Tensor:
    """Draw uniforms on [0, 1) of `shape` in float32 on the device of `like`."""
    if isinstance(generator, ItemGenerators):
        return generator.uniform(shape).to(like.device)
    return torch.rand(tuple(shape), generator=generator, device=generator.device).to(like.device)
