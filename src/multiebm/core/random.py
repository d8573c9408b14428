"""Randomness is an argument: one torch generator, or one generator per item of a batch.

Training draws per batch from one `torch.Generator`. Sampling may use `ItemGenerators`, so that an item
does not depend on the batch it sits in.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from multiebm.core.errors import DataError, whole_number

SEEDS = 2**32  # of torch's generator on the CPU: it reads as many bits, so a larger seed would repeat a smaller one
STREAM = 1_000_003  # items of a seed before the stream of the next one begins


def check_seed(seed: Any) -> int:
    """Return a user's `seed`, an integer of Python or NumPy, as an int; ConfigError unless 0 <= seed < 2^32."""
    return whole_number("seed", seed, 0, SEEDS - 1)


def make_generator(seed: int, device: str | torch.device = "cpu") -> torch.Generator:
    """Return a torch generator on `device`, seeded with `seed`."""
    return torch.Generator(device=device).manual_seed(seed)


class ItemGenerators:
    """One generator per item, given or by its seed; the leading dimension of every draw is the batch.

    Draws are made on the CPU and moved, so an item's noise is the same on every device. Of those of one generator
    `alike` items after each other have the same.
    """

    def __init__(self, items: Sequence[int | torch.Generator], copies: int = 1, alike: int = 1) -> None:
        self._generators = [torch.Generator().manual_seed(i) if isinstance(i, int) else i for i in items]
        self._copies, self._alike = copies, alike

    def __len__(self) -> int:
        return len(self._generators) * self._copies * self._alike

    def draw(self, make: Callable[..., Tensor], shape: Sequence[int]) -> Tensor:
        """Draw float32 [B, ...] of this `shape` by `make`, torch.randn or torch.rand; B = number of generators."""
        if not shape or shape[0] != len(self):
            raise DataError(
                f"per-item generators: got a draw of shape {tuple(shape)}, expected leading size {len(self)}"
            )
        each = (self._copies, *shape[1:])
        drawn = torch.stack([make(each, generator=g, dtype=torch.float32) for g in self._generators], 1).flatten(0, 1)
        return drawn.repeat_interleave(self._alike, 0) if self._alike > 1 else drawn

    def select(self, rows: Tensor) -> "ItemGenerators":
        """Return the generators of the items in `rows` (bool [B], or int64 [N]): the same ones, not copies."""
        index = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows
        return ItemGenerators([self._generators[i] for i in index.tolist()])

    def repeated(self, copies: int) -> "ItemGenerators":
        """Return what draws for items 0 .. B - 1 `copies` times over, [copies * B, ...], by the same generators."""
        return ItemGenerators(self._generators, copies)


Randomness = torch.Generator | ItemGenerators


def item_generators(seed: int | Sequence[int], n: int, first: int = 0) -> ItemGenerators:
    """Return generators for items `first .. first + n - 1` of the stream named by `seed`.

    Of several seeds, one for each item, item i has what item 0 of its seed has; items beyond the last seed have that.
    Item `STREAM` of a seed would be item 0 of the next. The generators read 32 bits, so of the seeds from 0 to 4294
    none meet before that; from 4295 on one may meet another seed's stream, some 45,000 items in at the earliest.
    """
    if isinstance(seed, int):
        return ItemGenerators([(seed * STREAM + first + i) % 2**63 for i in range(n)])
    return ItemGenerators([seed[min(first + i, len(seed) - 1)] * STREAM % 2**63 for i in range(n)])


def randn(generator: Randomness, shape: Sequence[int], like: Tensor) -> Tensor:
    """Draw standard normals of `shape` in float32 on the device of `like`."""
    return _drawn(torch.randn, generator, shape).to(like.device)


def rand(generator: Randomness, shape: Sequence[int], like: Tensor) -> Tensor:
    """Draw uniforms on [0, 1) of `shape` in float32 on the device of `like`."""
    return _drawn(torch.rand, generator, shape).to(like.device)


def gumbel(generator: Randomness, shape: Sequence[int], like: Tensor) -> Tensor:
    """Draw standard Gumbel noise of `shape` in float32 on the device of `like`.

    Of log weights plus such noise the n largest are n draws by these weights, none of them twice.
    """
    tiny = torch.finfo(torch.float32).tiny
    return -(-rand(generator, shape, like).clamp_min(tiny).log()).clamp_min(tiny).log()


def _drawn(make: Callable[..., Tensor], generator: Randomness, shape: Sequence[int]) -> Tensor:
    if isinstance(generator, ItemGenerators):
        return generator.draw(make, shape)
    return make(tuple(shape), generator=generator, device=generator.device, dtype=torch.float32)
