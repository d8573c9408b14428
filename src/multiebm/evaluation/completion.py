"""Does what is completed show what was given? Conditional coherence, read by fixed classifiers."""

from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from multiebm.core.errors import DataError
from multiebm.core.names import Views
from multiebm.core.progress import task
from multiebm.evaluation.measurement import NOT_ASKED, Measurement, chosen_items, complete_items, joined, labelled_items
from multiebm.evaluation.result import (
    CLAMPED,
    COND,
    COND_DIFFUSION,
    REFINED,
    ROBUST_CLAMPED,
    ROBUST_COND,
    Result,
    mean_and_columns,
)
from multiebm.evaluation.samples import read_by

CLAMPED_SIZES = (1,)  # of observed subsets that are held fixed while the data chain completes them
Pair = tuple[tuple[str, ...], str]  # observed modalities, target
Hits = dict[Pair, Tensor]  # by S sets of judges, [N, S]
PLAIN = {ROBUST_COND: COND, ROBUST_CLAMPED: CLAMPED}  # what robust judges read, and how it was completed


class Conditioning(NamedTuple):
    """How missing parts are generated: steps of the latent chain, eq. (17) of arXiv 2605.00644 (0 = amortised), and
    whether the data chain or the diffusion refiner follows, observed parts held fixed. `name` prefixes its results.
    """

    name: str
    latent_steps: int = 0
    data_chain: bool = False
    diffusion: bool = False


def completed(m: Measurement, name: str) -> dict[str, Result]:
    """Return the coherence of test items completed in one way, from every subset of the sizes asked for."""
    s = m.settings
    how, sizes, n = {
        COND: (Conditioning(COND), s.sizes, s.items),
        REFINED: (Conditioning(REFINED, s.latent_steps), s.sizes, s.refined_items if s.latent_steps else 0),
        CLAMPED: (Conditioning(CLAMPED, data_chain=True), CLAMPED_SIZES, s.refined_items),
        COND_DIFFUSION: (Conditioning(COND_DIFFUSION, diffusion=True), CLAMPED_SIZES, s.refined_items),
    }[PLAIN.get(name, name)]
    if n == 0 or not sizes:
        return m.skip(name, NOT_ASKED)
    items = chosen_items(labelled_items(m.dataset.test), n)
    results: dict[str, Result] = {}
    for size in sizes:
        hits = m.once(hits_of, n, size, how)[name in PLAIN]
        results |= conditional_coherence(hits, name)
    absent: list[tuple[str, ...]] = []  # the smallest subsets that no item has whole
    for subset in (subset for k in range(1, max(sizes) + 1) for subset in combinations(m.dataset.modalities, k)):
        inside = any(set(smaller) <= set(subset) for smaller in absent)
        if not inside and not len(complete_items(m.dataset.test, items, subset)):
            absent.append(subset)
            m.skipped[f"{name} given {'+'.join(subset)}"] = f"0 of {len(items)} labelled test items have that"
    return results


def subsets_of_size(names: list[str], size: int) -> list[tuple[str, ...]]:
    """Return all subsets of `size` modalities, in the order of `names`; 1 <= size <= M - 1 leaves one to generate."""
    if not 1 <= size < len(names):
        raise DataError(
            f"subset size: got {size} of the {len(names)} modalities {', '.join(names)}; expected 1 to {len(names) - 1}"
        )
    return list(combinations(names, size))


def completions(m: Measurement, items: Tensor, observed: tuple[str, ...], how: Conditioning) -> Iterator[Views]:
    """Yield all modalities, clamped states [B, ...], generated from what is `observed` of test `items` that have it."""
    for batch, rng in m.given("test", items, observed, how.name):
        if how.data_chain:
            views = m.model.refined_fill(batch, rng)
        elif how.diffusion:
            assert m.model.diffusion is not None
            views = batch.filled(m.model.decode(m.model.infer_latents(batch, rng)))
            views = m.model.diffusion.refine(views, rng, clamp=batch.there())
        else:
            views = m.model.decode(m.model.infer_latents(batch, rng, how.latent_steps))
        yield m.shown(views, f"{how.name} given {'+'.join(observed)}")


def hits_of(m: Measurement, n: int, size: int, how: Conditioning) -> tuple[Hits, Hits]:
    """Return the hits of n labelled test items, and those by robust judges: completions are made once for both."""
    return all_hits(m, chosen_items(labelled_items(m.dataset.test), n), size, how)


def all_hits(m: Measurement, items: Tensor, size: int, how: Conditioning) -> tuple[Hits, Hits]:
    """Return, for every subset S of `size` modalities and every target with a judge, whether it reads the true label;
    and the same by robust judges, who read what `PLAIN` has.

    Entries [N, sets of judges]: 1 or 0, NaN where an item lacks a member of S or its class is not known. Targets inside
    S appear for size 1 only, the cross coherence of Shi et al. 2019, arXiv 1911.03393, and are self-reconstructions.
    """
    judges, labels = m.judges, m.dataset.test.labels
    assert judges is not None
    assert labels is not None
    known, also = items[labels[items] >= 0], m.robust if how.name in PLAIN.values() else ()
    hits, robust = Hits(), Hits()
    subsets = subsets_of_size(list(m.dataset.modalities), size)
    with task(f"{how.name}, {size} given", len(subsets) * len(known)) as advance:
        for observed in subsets:
            rows = complete_items(m.dataset.test, known, observed)
            targets = [name for name in judges.accuracy if size == 1 or name not in observed]
            read, more = [], []
            for views in completions(m, rows, observed, how) if targets else ():
                shown = {target: views[target] for target in targets}
                read.append(read_by(m.plain, shown))
                more.append(read_by(also, shown))
                advance(len(next(iter(views.values()))))
            for into, sets, batches in ((hits, m.plain, read), (robust, also, more)):
                found = joined(batches) if batches else {}
                for target in targets if sets else ():
                    hit = torch.full((len(m.dataset.test), len(sets)), torch.nan, dtype=torch.float64)
                    if target in found:
                        hit[rows] = (found[target] == labels[rows, None]).double()
                    into[observed, target] = hit[items]
    return hits, robust


def conditional_coherence(hits: dict[Pair, Tensor], prefix: str) -> dict[str, Result]:
    """Summarise hits [N, S] of one subset size k: "{prefix}/size{k}" (mean over subsets and targets outside them), each
    "{prefix}/size{k}/{a+b}->{target}", and the self-reconstructions "{prefix}/self", "{prefix}/self/{name}" (k = 1).
    """
    size = len(next(iter(hits))[0]) if hits else 0
    crossed = {f"{'+'.join(seen)}->{target}": hit for (seen, target), hit in hits.items() if target not in seen}
    own = {target: hit for (seen, target), hit in hits.items() if target in seen}
    return mean_and_columns(f"{prefix}/size{size}", crossed) | mean_and_columns(f"{prefix}/self", own)
