"""Rows of a data set that can be measured, and what a model infers from and generates for them, batch by batch.

One generator per item: neither the batch size nor the order of metrics changes a sample. Values come as a user sees
them: pictures are clamped to their range here, and nowhere else in the evaluation.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from multiebm.core.batch import Batch, mask_views
from multiebm.core.errors import DivergenceError
from multiebm.core.names import Views
from multiebm.core.random import ItemGenerators
from multiebm.core.tree import per_item
from multiebm.data.dataset import Split, SplitName
from multiebm.evaluation.measurement import Measurement, joined
from multiebm.modalities import Modality


class Conditioning(NamedTuple):
    """How missing parts are generated: steps of the latent chain on the observed likelihood (0 = amortised), and
    whether the data chain follows, observed parts held fixed. `name` prefixes its results.
    """

    name: str
    latent_steps: int = 0
    data_chain: bool = False


def chosen_items(items: Tensor, n: int) -> Tensor:
    """Return `n` of `items` (int64 [N], ascending; all, if there are fewer), the same for every model.

    A random choice, since files are often sorted by class.
    """
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(0))
    return items[order[:n].sort().values]


def labelled_items(split: Split) -> Tensor:
    """Return the rows of a split, int64 [N], whose class is known; none without labels."""
    return torch.empty(0, dtype=torch.int64) if split.labels is None else (split.labels >= 0).nonzero()[:, 0]


def complete_items(split: Split, items: Tensor, names: Iterable[str]) -> Tensor:
    """Return those of `items` (int64 of shape [N]) that have every modality of `names`."""
    return items[torch.stack([split.of(name)[1] for name in names]).all(0)[items]]


def completions(m: Measurement, items: Tensor, observed: tuple[str, ...], how: Conditioning) -> Iterator[Views]:
    """Yield all modalities, clamped states [B, ...], generated from what is `observed` of test `items` that have it.

    Batch by batch; with `how.latent_steps` the latents follow the chain of eq. (17), arXiv 2605.00644.
    """
    for batch, rng in _observed(m, "test", items, observed, how.name):
        views = m.model.decode(m.model.infer_latents(batch, rng, how.latent_steps))
        if how.data_chain:
            views = {
                name: torch.where(per_item(batch.present[:, i], view), batch.views[name], view)
                for i, (name, view) in enumerate(views.items())
            }
            views = m.model.refine_data(views, rng, clamp=batch.present)[0]
        yield as_shown(m.model.modalities, views, f"{how.name} given {'+'.join(observed)}")


def codes(m: Measurement, split: SplitName, items: Tensor, modality: str) -> dict[str, Tensor]:
    """Return the latents [N, D] inferred from `modality` alone, on the CPU, one sample per item of `items` (N >= 1)."""
    batches = _observed(m, split, items, (modality,), f"codes/{split}")
    return joined(m.model.infer_latents(batch, rng) for batch, rng in batches)


def as_shown(modalities: dict[str, Modality], views: Views, what: str) -> Views:
    """Return `views` [B, ...] clamped; DivergenceError with modality and count where any value is not finite."""
    for name, view in views.items():
        if bad := int((~view.isfinite()).flatten(1).any(1).sum()):
            raise DivergenceError(
                f"{what}: {bad} of {len(view)} generated items of modality {name!r} are not finite, expected all; "
                f"evaluate an earlier checkpoint or lower the step size"
            )
    return {name: modalities[name].seen(view) for name, view in views.items()}


def _observed(
    m: Measurement, split: SplitName, items: Tensor, observed: tuple[str, ...], use: str
) -> Iterator[tuple[Batch, ItemGenerators]]:
    for rows, rng in m.chunks(items, f"{use}/{'+'.join(observed)}"):
        batch = m.dataset.batch(split, rows).to(m.model.device)
        kept = torch.tensor([name in observed for name in batch.views], device=batch.present.device)
        present = batch.present & kept
        yield Batch(mask_views(batch.views, present), present), rng
