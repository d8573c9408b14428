"""What a model generates, batch by batch: joint samples before and after the data chain, and completions of a subset.

One generator per item: neither the batch size nor the order of metrics changes a sample. Values come as a user sees
them: pictures are clamped to their range here, and nowhere else in the evaluation.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from multiebm.core.batch import Batch, mask_views
from multiebm.core.errors import DivergenceError
from multiebm.core.modality import Modality, Views
from multiebm.core.random import ItemGenerators, item_generators
from multiebm.core.tree import per_item
from multiebm.data.dataset import MultimodalDataset, Split, SplitName
from multiebm.evaluation.base import Latents, ModelUnderTest, stream_seed


class Plan(NamedTuple):
    """Items a batch (any size gives the same numbers) and the seed all streams derive from."""

    batch_size: int = 500
    seed: int = 0


class Conditioning(NamedTuple):
    """How missing parts are generated: steps of the latent chain on the observed likelihood (0 = amortised), and
    whether the data chain follows, observed parts held fixed. `name` prefixes its results.
    """

    name: str
    refine_steps: int = 0
    data_chain: bool = False


def joint_samples(
    model: ModelUnderTest, n: int, plan: Plan, refine: bool, temperature: float | None = None
) -> Iterator[tuple[Views, Views | None]]:
    """Yield batches of (decoder means, the same after the training data chain or None), clamped states [B, ...].

    `temperature` T: latents of p(z)^(1/T); None: the model's own.
    """
    seed = stream_seed(plan.seed, "joint")
    for first in range(0, n, plan.batch_size):
        size = min(plan.batch_size, n - first)
        generator = item_generators(seed, size, first)
        generated = model.decode(model.sample_latents(size, generator, temperature))
        shown = as_shown(model.modalities, generated, "Gen samples")
        refined = model.refine_data(generated, generator)[0] if refine else None
        yield shown, None if refined is None else as_shown(model.modalities, refined, "EBM samples")


def chosen_items(dataset: MultimodalDataset, n: int, among: Tensor | None = None) -> Tensor:
    """Return `n` test items (all, if there are fewer), the same for every model: files are often sorted by class.

    They are taken from `among` (int64 [N], ascending), or from the whole split.
    """
    items = torch.arange(len(dataset.test)) if among is None else among
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(0))
    return items[order[:n].sort().values]


def labelled_items(split: Split) -> Tensor:
    """Return the rows of a split, int64 [N], whose class is known; none without labels."""
    return torch.empty(0, dtype=torch.int64) if split.labels is None else (split.labels >= 0).nonzero()[:, 0]


def known_classes(dataset: MultimodalDataset) -> Tensor:
    """Return the classes that occur among the labels of either split, int64 [C], ascending; none without labels."""
    labels = [split.labels for split in (dataset.train, dataset.test) if split.labels is not None]
    classes = torch.cat([torch.empty(0, dtype=torch.int64), *labels]).unique()
    return classes[classes >= 0]


def complete_items(dataset: MultimodalDataset, split: SplitName, items: Tensor, names: tuple[str, ...]) -> Tensor:
    """Return those of `items` (int64 of shape [N]) that have every modality of `names`."""
    columns = [list(dataset.modalities).index(name) for name in names]
    return items[dataset.split(split).present[items][:, columns].all(1)]


def completions(
    model: ModelUnderTest,
    dataset: MultimodalDataset,
    items: Tensor,
    observed: tuple[str, ...],
    how: Conditioning,
    plan: Plan,
) -> Iterator[Views]:
    """Yield all modalities, clamped states [B, ...], generated from what is `observed` of test `items` that have it.

    Batch by batch; with `how.refine_steps` the latents follow the chain of eq. (17), arXiv 2605.00644.
    """
    for batch, generator in _observed_batches(model, dataset, "test", items, observed, how.name, plan):
        views = model.decode(model.infer_latents(batch, generator, refine_steps=how.refine_steps))
        if how.data_chain:
            views = {
                name: torch.where(per_item(batch.present[:, i], view), batch.views[name], view)
                for i, (name, view) in enumerate(views.items())
            }
            views = model.refine_data(views, generator, clamp=batch.present)[0]
        yield as_shown(model.modalities, views, f"{how.name} given {'+'.join(observed)}")


def codes(
    model: ModelUnderTest, dataset: MultimodalDataset, split: SplitName, items: Tensor, modality: str, plan: Plan
) -> Latents:
    """Return the latents [N, D] inferred from `modality` alone, on the CPU, one sample per item of `items` (N >= 1)."""
    parts = [
        model.infer_latents(batch, generator)
        for batch, generator in _observed_batches(model, dataset, split, items, (modality,), f"codes/{split}", plan)
    ]
    return {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}


def as_shown(modalities: dict[str, Modality], views: Views, what: str) -> Views:
    """Return `views` [B, ...] clamped; DivergenceError with modality and count where any value is not finite."""
    for name, view in views.items():
        bad = int((~view.isfinite()).flatten(1).any(1).sum())
        if bad:
            raise DivergenceError(
                f"{what}: {bad} of {len(view)} generated items of modality {name!r} are not finite, expected all; "
                f"evaluate an earlier checkpoint or lower the step size"
            )
    return {name: modalities[name].clamp_state(view) for name, view in views.items()}


def _observed_batches(
    model: ModelUnderTest,
    dataset: MultimodalDataset,
    split: SplitName,
    items: Tensor,
    observed: tuple[str, ...],
    use: str,
    plan: Plan,
) -> Iterator[tuple[Batch, ItemGenerators]]:
    seed = stream_seed(plan.seed, f"{use}/{'+'.join(observed)}")
    for first in range(0, len(items), plan.batch_size):
        batch = dataset.batch(split, items[first : first + plan.batch_size]).to(model.device)
        kept = torch.tensor([name in observed for name in batch.views], device=batch.present.device)
        present = batch.present & kept
        yield Batch(mask_views(batch.views, present), present), item_generators(seed, len(present), first)
