"""Does what is completed show what was given? Conditional coherence, read by fixed classifiers."""

from itertools import combinations

import torch
from torch import Tensor

from multiebm.core.errors import DataError
from multiebm.core.progress import task
from multiebm.evaluation.draws import Conditioning, chosen_items, complete_items, completions, labelled_items
from multiebm.evaluation.measurement import NOT_ASKED, Measurement, joined
from multiebm.evaluation.names import CLAMPED, COND, REFINED
from multiebm.evaluation.result import Result, mean_and_columns

CLAMPED_SIZES = (1,)  # of observed subsets that are held fixed while the data chain completes them
Pair = tuple[tuple[str, ...], str]  # observed modalities, target


def completed(m: Measurement, name: str) -> dict[str, Result]:
    """Return the coherence of test items completed in one way, from every subset of the sizes asked for."""
    s = m.settings
    how, sizes, n = {
        COND: (Conditioning(COND), s.sizes, s.items),
        REFINED: (Conditioning(REFINED, s.latent_steps), s.sizes, s.refined_items if s.latent_steps else 0),
        CLAMPED: (Conditioning(CLAMPED, data_chain=True), CLAMPED_SIZES, s.refined_items),
    }[name]
    if n == 0 or not sizes:
        m.skipped[name] = NOT_ASKED
        return {}
    items = chosen_items(labelled_items(m.dataset.test), n)
    results: dict[str, Result] = {}
    for size in sizes:
        results |= conditional_coherence(conditional_hits(m, items, size, how), name)
    for absent in absent_subsets(m, items, max(sizes)):
        m.skipped[f"{name} given {'+'.join(absent)}"] = f"0 of {len(items)} labelled test items have that"
    return results


def subsets_of_size(names: list[str], size: int) -> list[tuple[str, ...]]:
    """Return all subsets of `size` modalities, in the order of `names`; 1 <= size <= M - 1 leaves one to generate."""
    if not 1 <= size < len(names):
        raise DataError(
            f"subset size: got {size} of the {len(names)} modalities {', '.join(names)}; expected 1 to {len(names) - 1}"
        )
    return list(combinations(names, size))


def conditional_hits(m: Measurement, items: Tensor, size: int, how: Conditioning) -> dict[Pair, Tensor]:
    """Return, for every subset S of `size` modalities and every target with a judge, whether it reads the true label.

    Each entry is float64 of the shape [N] of the test `items`: 1 or 0, NaN where the item lacks a member of S or its
    class is not known. Targets inside S appear for size 1 only and are self-reconstructions. Size 1 is the cross
    coherence of Shi et al. 2019, arXiv 1911.03393.
    """
    judges, labels = m.judges, m.dataset.test.labels
    assert judges is not None
    assert labels is not None
    known = items[labels[items] >= 0]
    hits: dict[Pair, Tensor] = {}
    subsets = subsets_of_size(list(m.dataset.modalities), size)
    with task(f"{how.name}, {size} given", len(subsets) * len(known)) as advance:
        for observed in subsets:
            rows = complete_items(m.dataset.test, known, observed)
            targets = [name for name in judges.accuracy if size == 1 or name not in observed]
            read = []
            for views in completions(m, rows, observed, how) if targets else ():
                read.append(judges.predict({target: views[target] for target in targets}))
                advance(len(next(iter(views.values()))))
            for target in targets:
                hit = torch.full((len(m.dataset.test),), torch.nan, dtype=torch.float64)
                if read:
                    hit[rows] = (joined(read)[target] == labels[rows]).double()
                hits[observed, target] = hit[items]
    return hits


def absent_subsets(m: Measurement, items: Tensor, largest: int) -> list[tuple[str, ...]]:
    """Return the smallest subsets, of at most `largest` modalities, that no test item of `items` [N] has whole."""
    found: list[tuple[str, ...]] = []
    for size in range(1, largest + 1):
        for subset in combinations(m.dataset.modalities, size):
            inside = any(set(smaller) <= set(subset) for smaller in found)
            if not inside and not len(complete_items(m.dataset.test, items, subset)):
                found.append(subset)
    return found


def conditional_coherence(hits: dict[Pair, Tensor], prefix: str) -> dict[str, Result]:
    """Summarise hits of shape [N] of one subset size k: "{prefix}/size{k}" (mean over subsets and targets outside
    them), every "{prefix}/size{k}/{a+b}->{target}", and the self-reconstructions "{prefix}/self",
    "{prefix}/self/{name}" (k = 1).
    """
    size = len(next(iter(hits))[0]) if hits else 0
    crossed = {f"{'+'.join(seen)}->{target}": hit for (seen, target), hit in hits.items() if target not in seen}
    own = {target: hit for (seen, target), hit in hits.items() if target in seen}
    return mean_and_columns(f"{prefix}/size{size}", crossed) | mean_and_columns(f"{prefix}/self", own)
