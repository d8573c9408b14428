"""A metric is a pure function of tensors that returns a `Result`; models and classifiers are Protocols here.

What a model under test exposes is only what `multiebm.models.model.MultimodalModel` offers in state space, so anything
with these methods can be measured.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import sqrt
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from multiebm.core.batch import Batch
from multiebm.core.errors import DataError
from multiebm.core.modality import Modality, Views
from multiebm.core.random import Randomness
from multiebm.models.generator import Generator
from multiebm.models.inference import InferenceModel

TRUSTED_ACCURACY = 0.95  # a coherence read by a classifier that is worse than this on real test data says little
RESAMPLES = 5  # as the Frechet distances of the literature are usually reported

Latents = dict[str, Tensor]


class Result(NamedTuple):
    """A number, its standard error (same unit) and the number of items it was computed from.

    All are finite. One item says nothing of its own error: the standard error of n = 1 is 0, and `n` says why.
    """

    value: float
    standard_error: float
    n: int


class ModelUnderTest(Protocol):
    """State-space methods of a model; see `MultimodalModel` for shapes.

    `energy` is None where there is none; `energy_learned` says whether it made a step. Of `inference` the posterior
    over the shared latent is asked for, of `generator` the prior.
    """

    modalities: dict[str, Modality]
    training: bool
    inference: InferenceModel
    generator: Generator

    @property
    def device(self) -> torch.device: ...  # noqa: D102

    @property
    def energy(self) -> object | None: ...  # noqa: D102

    @property
    def energy_learned(self) -> bool: ...  # noqa: D102

    def train(self, mode: bool = True) -> Any: ...  # noqa: D102

    def sample_latents(  # noqa: D102
        self, n: int, generator: Randomness, temperature: float | None = None
    ) -> Latents: ...

    def decode(self, latents: Latents) -> Views: ...  # noqa: D102

    def infer_latents(self, batch: Batch, generator: Randomness, refine_steps: int = 0) -> Latents: ...  # noqa: D102

    def refine_data(  # noqa: D102
        self, views: Views, generator: Randomness, steps: int | None = None, clamp: Tensor | None = None
    ) -> tuple[Views, Any]: ...


class FeatureReader(Protocol):
    """Whatever turns views (state space) into features [B, F] by modality: judges, or an Inception network."""

    def features(self, views: Views) -> dict[str, Tensor]: ...  # noqa: D102


class JudgesLike(FeatureReader, Protocol):
    """Classifiers, or an exact reader of the class; `accuracy` on real test data, by the modalities they read."""

    @property
    def accuracy(self) -> dict[str, float]: ...  # noqa: D102

    def predict(self, views: Views) -> dict[str, Tensor]: ...  # noqa: D102


def is_trustworthy(accuracy: dict[str, float]) -> bool:
    """Return whether every judge reads at least 95 % of the real test items of its modality correctly."""
    return min(accuracy.values()) >= TRUSTED_ACCURACY


def proportion(hits: Tensor) -> Result:
    """Return the share of true entries of `hits`, shape [N], and its binomial standard error sqrt(p (1 - p) / N)."""
    n = hits.numel()
    if n == 0:
        raise DataError(f"a proportion of no items: got hits of shape {tuple(hits.shape)}, expected at least one item")
    p = float(hits.double().mean())
    return Result(p, sqrt(p * (1 - p) / n), n)


def mean_of_items(values: Tensor) -> Result:
    """Return the mean over columns of the column means of `values` [N, K], NaN where an entry does not exist.

    The standard error treats rows as independent and the entries of a row as not: it is that of the row means, hence
    the binomial one for K = 1 and zeros and ones.
    """
    rows = values.double().nanmean(1)
    rows = rows[~rows.isnan()]
    if rows.numel() == 0:
        raise DataError(f"a mean of no items: got values of shape {tuple(values.shape)}, all undefined")
    value = float(values.double().nanmean(0).nanmean())
    return Result(value, float(rows.std(correction=0)) / sqrt(rows.numel()), rows.numel())


def bootstrap_deviation(
    statistic: Callable[[Tensor], Tensor], n: int, generator: torch.Generator, resamples: int = RESAMPLES
) -> Tensor:
    """Return the standard deviation of `statistic(rows)` over `resamples` draws of n rows with replacement.

    `rows`: indices of shape [n]. Efron (1979), https://doi.org/10.1214/aos/1176344552.
    """
    draws = [statistic(torch.randint(n, (n,), generator=generator)) for _ in range(resamples)]
    return torch.stack(draws).double().std(0)


def stream_seed(seed: int, name: str) -> int:
    """Return the seed of the random stream called `name`, so that no two metrics share draws."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:5], "big")


@contextmanager
def evaluation_mode(model: ModelUnderTest) -> Iterator[None]:
    """Inside: evaluation mode and no graph (a chain asks for the gradients it needs itself); restored on leaving."""
    was_training = model.training
    model.train(False)
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
