"""Exponential moving average of parameters: evaluation uses the average, training never sees it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@torch.no_grad()
def update(average: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    """Move `average` in place: a <- decay a + (1 - decay) p for every parameter; an empty one starts as a copy."""
    for name, parameter in model.named_parameters():
        if name in average:
            average[name].lerp_(parameter, 1 - decay)
        else:
            average[name] = parameter.detach().clone()


@contextmanager
def averaged(model: nn.Module, average: dict[str, Tensor]) -> Iterator[None]:
    """Give `model` the averaged weights inside the block and its own, bit for bit, after it; no-op when empty.

    Buffers (spectral-norm vectors, mixtures) are not averaged: they are those of the trained weights.
    """
    parameters = {name: p for name, p in model.named_parameters() if name in average}
    own = {name: p.detach().clone() for name, p in parameters.items()}
    try:
        _assign(parameters, average)
        yield
    finally:
        _assign(parameters, own)


@torch.no_grad()
def _assign(parameters: dict[str, nn.Parameter], values: dict[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(values[name])
