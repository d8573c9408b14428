"""How a model computes for its users: a bounded number of items at a time, and so that it is afterwards as it was."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

from multiebm.core.batch import Batch
from multiebm.core.errors import ConfigError
from multiebm.core.tree import TreeT, in_chunks
from multiebm.modalities import Modality
from multiebm.models.checks import Given
from multiebm.nn.spectral import frozen

LARGEST = 2**34  # bytes that one call returns at most
MOST = 10**7  # importance samples of an item, or paths and stages of log Z
PLACES = 2**18  # pixels of pictures and coordinates of vectors at a time: what the memory of networks grows with


def rows_at_a_time(modalities: dict[str, Modality]) -> int:
    """Return how many items are computed at a time: a power of two from 16 to 1024."""
    places = sum(m.places for m in modalities.values())
    return 1 << (max(16, min(1024, PLACES // places)).bit_length() - 1)


@contextmanager
def in_use(model: nn.Module) -> Iterator[None]:
    """Inside, whatever the caller has set: evaluation mode, no gradients, float32, new tensors on the CPU unless a
    device is named. Afterwards all is as it was.

    ConfigError where the weights were turned into another type of number.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ConfigError(
                f"model: got weights in {tensor.dtype} ({name}), expected torch.float32; call model.float(), and set "
                "training.precision=bf16 for networks that compute in bfloat16"
            )
        if tensor.is_inference():
            raise ConfigError(
                f"model: got weights made in inference mode ({name}), expected usual ones, beside which chains can "
                "differentiate; build, load or move the model outside of torch.inference_mode()"
            )
    plainly = torch.autocast(next(model.parameters()).device.type, enabled=False)
    here = nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")  # which slows every call
    with torch.inference_mode(False), torch.no_grad(), plainly, here, frozen(model):
        yield


def over_items(
    model: nn.Module, modalities: dict[str, Modality], compute: Callable[[int, int], TreeT], n: int
) -> TreeT:
    """Return what `compute(first, rows)` gives for items 0 .. n - 1, leaves [n, ...], in chunks and `in_use`."""
    with in_use(model):
        return in_chunks(compute, n, rows_at_a_time(modalities))


def over_parts(
    model: nn.Module, modalities: dict[str, Modality], compute: Callable[[Batch, int], TreeT], given: Given
) -> TreeT:
    """Return what `compute(batch, first)` gives for items of `given`, in chunks from `first` on: leaves [B, ...]."""
    n, device = len(given.present), next(model.parameters()).device

    def some(first: int, rows: int) -> TreeT:
        here = None if rows == n else torch.arange(first, first + rows).clamp_max(n - 1)  # the last one fills up
        return compute(given.batch(modalities, here, device), first)

    return over_items(model, modalities, some, n)
