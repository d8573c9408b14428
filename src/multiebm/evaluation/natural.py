"""Pictures and captions as judges of natural ones see them, real, drawn and completed, each read once for all metrics;
and how far apart pictures are on features of a network that knows photographs (`lite0.py`).
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from multiebm.core.captions import words_of
from multiebm.core.names import Views
from multiebm.data.dataset import Split, SplitName
from multiebm.evaluation.completion import Conditioning, completions
from multiebm.evaluation.frechet import frechet_results, rgb_pictures
from multiebm.evaluation.lite0 import WITHOUT
from multiebm.evaluation.measurement import Measurement, chosen_items, complete_items, joined
from multiebm.evaluation.result import COMPLETED, COMPLETED_EBM, FD_LITE0, REAL, Result
from multiebm.evaluation.samples import ITEMS, PART, of
from multiebm.modalities import Modality

Sentence = list[str]  # words


def speaking(m: Measurement) -> list[str]:
    """Return the parts whose items are sentences."""
    return [name for name, modality in m.dataset.modalities.items() if modality.speaks]


def said(modality: Modality, raw: Tensor) -> list[Sentence]:
    """Return the words of raw captions [B, ...]; they are words whatever its tokens are."""
    return [words_of(text) for text in modality.show(raw)]


def sentences(m: Measurement, name: str, split: SplitName, most: int) -> list[Sentence]:
    """Return at most so many captions of a split, the same for every model, of items that have one."""
    of_split: Split = getattr(m.dataset, split)
    rows = chosen_items(of_split.there(name).nonzero()[:, 0], most)
    return said(m.dataset.modalities[name], of_split.take(name, rows))


def halves(m: Measurement) -> Tensor:
    """Return test items that have every part, no two of which share one, in random order, int64 [2, H], H <= `ITEMS`.

    One half stands for real items. The other half shows how far real items are from these, and gives its captions and
    pictures to be completed.
    """
    test = m.dataset.test
    rows = complete_items(test, torch.arange(len(test)), m.dataset.modalities)
    for at in test.at.values():
        rows = first_of_each(at, rows)
    n = min(len(rows) // 2, ITEMS, m.settings.samples)
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))][: 2 * n].view(2, n)


def first_of_each(at: Tensor, rows: Tensor) -> Tensor:
    """Return those of `rows` [N], ascending, whose value `at` [K] no row before them has."""
    order = at[rows].argsort(stable=True)
    values = at[rows][order]
    first = torch.ones_like(values, dtype=torch.bool)
    first[1:] = values[1:] != values[:-1]
    return rows[order[first].sort().values]


def given(m: Measurement, source: str, targets: list[str]) -> Iterator[Views]:
    """Yield states [B, ...] of real items of both halves, of H samples, or of the parts `targets` that were completed
    from all others of the second half (`how_many`), by one draw each or with chains; nothing where that is not there.
    """
    real = m.once(halves)
    if source == REAL:
        for rows in real.flatten().split(m.batch_size):
            yield m.dataset.batch("test", rows).views
    elif source in (COMPLETED, COMPLETED_EBM):
        others = tuple(name for name in m.dataset.modalities if name not in targets)
        rows = real[1, : how_many(m, source)]
        if others and targets and len(rows):
            for views in completions(m, rows, others, Conditioning(source, data_chain=source == COMPLETED_EBM)):
                yield {name: views[name] for name in targets}
    elif real.numel():
        yield {name: view[: real.shape[1]] for name, view in of(m, source, PART).items()}


def how_many(m: Measurement, source: str) -> int:
    """Return how many items of the second half are completed: fewer where a chain runs, which takes far longer."""
    wanted = m.settings.refined_items if source == COMPLETED_EBM else m.settings.items
    return min(m.once(halves).shape[1], wanted)


def features_of(m: Measurement, source: str) -> Views:
    """Return features [N, 1280] of pictures by part; completed ones are those of which captions are given."""
    reader, spoken = m.lite0, speaking(m)
    assert reader is not None
    targets = [name for name in m.dataset.modalities if name not in spoken] if spoken else []
    found = [reader.features(views) for views in given(m, source, targets)]
    return joined(found) if found else {}


def sentences_of(m: Measurement, source: str) -> dict[str, list[Sentence]]:
    """Return the words of generated captions by part."""
    found: dict[str, list[Sentence]] = {name: [] for name in speaking(m)}
    for views in given(m, source, list(found)):
        for name, own in found.items():
            modality = m.dataset.modalities[name]
            own += said(modality, modality.to_raw(views[name]))
    return found


def lite0_distance(m: Measurement, name: str) -> dict[str, Result]:
    """Return the Frechet distance of H generated pictures from H real ones, by the source in the name; "real/..." is
    that of H other real ones, below which nothing comes but by luck. It is biased upwards alike in all of them.
    """
    if m.lite0 is None:
        pictures = rgb_pictures(m.dataset.batch("test", torch.arange(1)).views)
        m.skipped.update({FD_LITE0: WITHOUT} if pictures else {})
        return {}
    source, n = name.partition("/")[0], m.once(halves).shape[1]
    if n < 2:
        return m.skip(FD_LITE0, "fewer than four test items that have every part and share none")
    real, drawn = m.once(features_of, REAL), m.once(features_of, source)
    drawn = {part: own[n:] if source == REAL else own for part, own in drawn.items()}
    return frechet_results({part: real[part][:n] for part in drawn}, drawn, name, m.rng(name))
