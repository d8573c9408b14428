"""Layers divided by their spectral norm, and `frozen`, under which models compute without being changed."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

_LOCK = threading.Lock()
_HELD: dict[int, tuple[int, bool]] = {}  # by the id of what is frozen: how often it is, and its flag before


class Spectral(nn.Module):
    """A linear layer, or a convolution of stride 1, whose weight is divided by its spectral norm.

    Miyato et al. 2018, arXiv 1802.05957. In training mode every pass makes one step of power iteration. Arithmetic and
    names are those of torch's `spectral_norm`, which gives every layer a class of its own that cannot be pickled, and
    whose cache of weights is shared by all threads.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        self.padding = layer.padding if isinstance(layer, nn.Conv2d) else None
        made = spectral_norm(layer).parametrizations
        assert isinstance(made, nn.ModuleDict)
        self.bias, self.parametrizations = layer.bias, made
        self.kept: Tensor | None = None  # the weight while frozen

    @property
    def weight(self) -> Tensor:
        """The weight by its spectral norm, [n_out, n_in, ...]; computed once while the layer is frozen."""
        if id(self) not in _HELD:
            return self.parametrizations["weight"]()
        kept = self.kept
        if kept is None:
            with torch.inference_mode(False):  # or another thread could not differentiate through it
                kept = self.kept = self.parametrizations["weight"]()
        return kept

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: [..., n_in] -> [..., n_out], or [B, n_in, H, W] -> [B, n_out, H, W]."""
        if self.padding is None:
            return F.linear(x, self.weight, self.bias)
        return F.conv2d(x, self.weight, self.bias, padding=self.padding)


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Inside: evaluation mode, no parameter asks for a gradient, spectrally normalised weights computed once.

    The parameters cannot change inside, so caching them is exact. The last to leave restores every flag: threads may
    use one model at once, and blocks may be nested.
    """
    parts = [part for m in modules for part in m.modules()]
    parameters = [p for m in modules for p in m.parameters() if not p.is_inference()]  # those cannot be told
    flags = [(part, "training") for part in parts] + [(p, "requires_grad") for p in parameters]
    with _LOCK:
        for thing, flag in flags:
            count, before = _HELD.get(id(thing), (0, getattr(thing, flag)))
            _HELD[id(thing)] = (count + 1, before)
            setattr(thing, flag, False)
    try:
        yield
    finally:
        with _LOCK:
            for thing, flag in flags:
                count, before = _HELD[id(thing)]
                if count > 1:
                    _HELD[id(thing)] = (count - 1, before)
                    continue
                del _HELD[id(thing)]
                if before:
                    setattr(thing, flag, True)
                if isinstance(thing, Spectral):
                    thing.kept = None
