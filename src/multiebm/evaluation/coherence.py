"""Do the parts of one sample show the same thing? Joint and conditional coherence, read by fixed classifiers."""

from itertools import combinations
from math import log, sqrt

import torch
from torch import Tensor

from multiebm.core.errors import DataError
from multiebm.core.progress import task
from multiebm.data.dataset import MultimodalDataset
from multiebm.evaluation.base import JudgesLike, ModelUnderTest, Result, mean_of_items, proportion
from multiebm.evaluation.draws import Conditioning, Plan, complete_items, completions

Pair = tuple[tuple[str, ...], str]  # observed modalities, target


def joint_coherence(predictions: dict[str, Tensor]) -> Result:
    """Return the share of items whose labels int64 [N] agree in all modalities (Shi et al. 2019, arXiv 1911.03393).

    No ground truth is involved: a model that always draws the same digit scores 1, so read it next to `label_entropy`.
    """
    labels = torch.stack(list(predictions.values()))  # [M, N]
    return proportion((labels == labels[0]).all(0))


def label_entropy(predictions: dict[str, Tensor], n_classes: int) -> Result:
    """Return the entropy of labels, shape [N], pooled over modalities, over log `n_classes`: 1 uniform, 0 constant.

    `n_classes`: how many there are in the data, at least 2, whatever the largest label. The standard error is the delta
    method's, sqrt(Var[log p(y)] / N), with N items because labels of one item repeat.
    """
    if n_classes < 2:
        raise DataError(f"label entropy: got {n_classes} class(es), expected at least 2; one class has no entropy")
    labels = torch.stack(list(predictions.values()))
    p = torch.bincount(labels.flatten(), minlength=n_classes).double() / labels.numel()
    surprise = -torch.where(p > 0, p, 1.0).log()
    entropy = (p * surprise).sum()
    variance = (p * (surprise - entropy).square()).sum()
    n = labels.shape[1]
    return Result(float(entropy) / log(n_classes), sqrt(float(variance) / n) / log(n_classes), n)


def subsets_of_size(names: list[str], size: int) -> list[tuple[str, ...]]:
    """Return all subsets of `size` modalities, in the order of `names`; 1 <= size <= M - 1 leaves one to generate."""
    if not 1 <= size < len(names):
        raise DataError(
            f"subset size: got {size} of the {len(names)} modalities {', '.join(names)}; expected 1 to {len(names) - 1}"
        )
    return list(combinations(names, size))


def conditional_hits(
    model: ModelUnderTest,
    dataset: MultimodalDataset,
    judges: JudgesLike,
    items: Tensor,
    size: int,
    how: Conditioning,
    plan: Plan,
) -> dict[Pair, Tensor]:
    """Return, for every subset S of `size` modalities and every target with a judge, whether it reads the true label.

    Each entry is float64 of the shape [N] of the test `items`: 1 or 0, NaN where the item lacks a member of S or its
    class is not known. Targets inside S appear for size 1 only and are self-reconstructions. Size 1 is the cross
    coherence of Shi et al. 2019, arXiv 1911.03393.
    """
    assert dataset.test.labels is not None
    known = items[dataset.test.labels[items] >= 0]
    hits: dict[Pair, Tensor] = {}
    subsets = subsets_of_size(list(dataset.modalities), size)
    with task(f"{how.name}, {size} given", len(subsets) * len(known)) as advance:
        for observed in subsets:
            rows = complete_items(dataset, "test", known, observed)
            targets = [name for name in judges.accuracy if size == 1 or name not in observed]
            parts: dict[str, list[Tensor]] = {target: [] for target in targets}
            for views in completions(model, dataset, rows, observed, how, plan) if targets else ():
                predicted = judges.predict({target: views[target] for target in targets})
                for target in targets:
                    parts[target].append(predicted[target].cpu())
                advance(len(next(iter(views.values()))))
            truth = dataset.test.labels[rows]
            for target in targets:
                hit = torch.full((len(dataset.test),), torch.nan, dtype=torch.float64)
                if len(rows):
                    hit[rows] = (torch.cat(parts[target]) == truth).double()
                hits[observed, target] = hit[items]
    return hits


def absent_subsets(dataset: MultimodalDataset, items: Tensor, largest: int) -> list[tuple[str, ...]]:
    """Return the smallest subsets, of at most `largest` modalities, that none of the test `items` has whole."""
    found: list[tuple[str, ...]] = []
    for size in range(1, largest + 1):
        for subset in combinations(dataset.modalities, size):
            inside = any(set(smaller) <= set(subset) for smaller in found)
            if not inside and not len(complete_items(dataset, "test", items, subset)):
                found.append(subset)
    return found


def conditional_coherence(hits: dict[Pair, Tensor], prefix: str) -> dict[str, Result]:
    """Summarise hits of shape [N] of one subset size k: "{prefix}/size{k}" (mean over subsets and targets outside
    them), every "{prefix}/size{k}/{a+b}->{target}", and the self-reconstructions "{prefix}/self",
    "{prefix}/self/{name}" (k = 1).
    """
    crossed = {pair: hit for pair, hit in hits.items() if pair[1] not in pair[0] and not hit.isnan().all()}
    own = {pair: hit for pair, hit in hits.items() if pair[1] in pair[0] and not hit.isnan().all()}
    results: dict[str, Result] = {}
    if crossed:
        size = len(next(iter(crossed))[0])
        results[f"{prefix}/size{size}"] = mean_of_items(torch.stack(list(crossed.values()), 1))
        for (observed, target), hit in crossed.items():
            results[f"{prefix}/size{size}/{'+'.join(observed)}->{target}"] = proportion(hit[~hit.isnan()])
    if own:
        results[f"{prefix}/self"] = mean_of_items(torch.stack(list(own.values()), 1))
        results |= {f"{prefix}/self/{target}": proportion(hit[~hit.isnan()]) for (_, target), hit in own.items()}
    return results
