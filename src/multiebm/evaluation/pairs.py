"""Do a picture and a caption belong together? A judge of natural ones, which learns it from real training pairs.

Features of lite0 and a bag of words each have a linear head on one sphere, trained by the symmetric InfoNCE loss of
Radford et al. 2021, arXiv 2103.00020. It has never seen a generated part, nor the classes of a class-disjoint test.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from multiebm.core.captions import frequent
from multiebm.core.progress import track
from multiebm.data.cache import cached_arrays
from multiebm.data.dataset import MultimodalDataset
from multiebm.evaluation.belonging import auroc
from multiebm.evaluation.frechet import rgb_pictures
from multiebm.evaluation.measurement import FeatureReader, Measurement, chosen_items, complete_items
from multiebm.evaluation.natural import Sentence, features_of, first_of_each, halves, how_many, said, sentences_of
from multiebm.evaluation.result import (
    COMPLETED,
    COMPLETED_EBM,
    DIFFUSION,
    EBM,
    GEN,
    PAIR_AUROC,
    REAL,
    RETRIEVAL,
    Result,
    mean_of_items,
    proportion,
    with_mean,
)

PICTURES = 5000  # of training that are looked at, at most: three minutes of a free core
WORDS, LEAST = 5000, 2  # that a caption is read by, and times that training has each
SIZE, STEPS, BATCH = 128, 600, 256  # numbers on the sphere, steps, pictures a step
RATE, DECAY, DROPOUT = 1e-3, 1e-2, 0.3
SHUFFLED = "shuffled"
RANKS = (1, 10)
_VERSION = 1  # of the features that are kept


@dataclass(frozen=True, eq=False)
class PairJudge:
    """A judge of the parts `picture` and `caption`: their heads, the words it reads, and what features are on average
    and how far they vary, [1280] each.
    """

    picture: str
    caption: str
    heads: nn.ModuleDict
    words: dict[str, int]
    loc: Tensor
    scale: Tensor

    def pictures(self, features: Tensor) -> Tensor:
        """Return unit vectors [N, 128] of features [N, 1280]."""
        return normalize(self.heads["picture"]((features - self.loc) / self.scale))

    def captions(self, captions: Sequence[Sentence]) -> Tensor:
        """Return unit vectors [N, 128] of captions, whose words count once and in any order."""
        return normalize(self.heads["caption"](bag(captions, self.words)))


def bag(captions: Sequence[Sentence], words: dict[str, int]) -> Tensor:
    """Return which of the words each of N captions has, 0 or 1, [N, V]."""
    found = torch.zeros(len(captions), len(words))
    for row, caption in enumerate(captions):
        found[row, [words[word] for word in caption if word in words]] = 1.0
    return found


def train_pairs(
    names: tuple[str, str], features: Tensor, captions: Sequence[Sentence], at: Tensor, seed: int = 0
) -> PairJudge:
    """Return a judge of the parts `names` that learned from the features [K, 1280] of pictures and N captions, of which
    `at` [N] says the picture. A batch has no picture twice, and one of its captions.
    """
    words = {word: i for i, word in enumerate(frequent(captions, LEAST, WORDS))}
    order, counts = at.argsort(stable=True), torch.bincount(at, minlength=len(features))
    first, rows = counts.cumsum(0) - counts, counts.nonzero()[:, 0]
    rng = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():  # weights and dropout draw from the global generator
        torch.manual_seed(seed)
        sizes = {"picture": features.shape[1], "caption": len(words)}
        heads = nn.ModuleDict({k: nn.Sequential(nn.Dropout(DROPOUT), nn.Linear(n, SIZE)) for k, n in sizes.items()})
        sharpness = nn.Parameter(torch.tensor(2.0))  # log of 1 / temperature
        judge = PairJudge(*names, heads, words, features.mean(0), features.std(0).clamp_min(1e-6))
        optimiser = torch.optim.AdamW([*heads.parameters(), sharpness], RATE, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=STEPS, pct_start=0.1)
        for _ in track(range(STEPS), "judge of pairs"):
            shown = rows[torch.randperm(len(rows), generator=rng)[:BATCH]]
            which = (torch.rand(len(shown), generator=rng) * counts[shown]).long()
            told = order[first[shown] + which].tolist()
            alike = sharpness.exp() * judge.pictures(features[shown]) @ judge.captions([captions[i] for i in told]).T
            own = torch.arange(len(shown))
            loss = (cross_entropy(alike, own) + cross_entropy(alike.T, own)) / 2
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    heads.eval().requires_grad_(False)
    return judge


def load_pairs(
    dataset: MultimodalDataset, reader: FeatureReader | None, folder: Path, seed: int = 0
) -> PairJudge | None:
    """Return a judge of the first RGB and the first speaking part, trained on up to `PICTURES` pictures, whose features
    are kept in `folder`; None without a reader, such parts, or two items that have both.
    """
    test = dataset.batch("test", torch.arange(1)).views
    names = [*rgb_pictures(test)][:1] + [n for n, modality in dataset.modalities.items() if modality.speaks][:1]
    rows = (
        complete_items(dataset.train, torch.arange(len(dataset.train)), names)
        if len(names) == 2
        else torch.empty(0, dtype=torch.int64)
    )
    if reader is None or len(rows) < 2:
        return None
    picture, caption = names
    of, train, modality = reader, dataset.train, dataset.modalities[names[1]]
    value = train.at.get(picture, torch.arange(len(train)))
    chosen = chosen_items(first_of_each(value, rows), PICTURES)

    def build() -> Iterator[tuple[str, NDArray[Any]]]:
        few = track(list(chosen.split(64)), "training pictures")
        states = (dataset.modalities[picture].to_state(train.take(picture, some)) for some in few)
        yield "features", torch.cat([of.features({picture: state})[picture] for state in states]).numpy()

    identity = {"data": dataset.fingerprint, "part": picture, "pictures": len(chosen), "version": _VERSION}
    features = torch.from_numpy(cached_arrays(folder, "lite0", identity, build, ["features"])[0]["features"])
    place = torch.full((int(value.max()) + 1,), -1)
    place[value[chosen]] = torch.arange(len(chosen))
    rows = rows[place[value[rows]] >= 0]
    told = [words for some in rows.split(1000) for words in said(modality, train.take(caption, some))]
    return train_pairs((picture, caption), features, told, place[value[rows]], seed)


def both(m: Measurement, source: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Return unit vectors [N, 128] of pictures and of captions, row i of both of one item, by the part that was
    generated, "" where it is none or both: real test items, samples, or completions of the second half.
    """
    judge, real = m.pairs, m.once(halves)
    assert judge is not None

    def pictures(of: str) -> Tensor:
        return judge.pictures(m.once(features_of, of)[judge.picture])

    def captions(of: str) -> Tensor:
        return judge.captions(m.once(sentences_of, of)[judge.caption])

    if source in (GEN, EBM, DIFFUSION):
        return {"": (pictures(source), captions(source))}
    told = said(m.dataset.modalities[judge.caption], m.dataset.test.take(judge.caption, real.flatten()))
    shown, read = pictures(REAL), judge.captions(told)
    if source not in (COMPLETED, COMPLETED_EBM):
        return {"": (shown, read)}
    second = slice(real.shape[1], real.shape[1] + how_many(m, source))
    there = second.stop > second.start
    made = {judge.picture: (pictures(source), read[second]), judge.caption: (shown[second], captions(source))}
    return made if there else {}


def paired(m: Measurement, name: str) -> dict[str, Result]:
    """Return what the judge of pairs says of the source and by the measure in the name, "/part" of what was completed.

    "pair_score" is the mean cosine; of "shuffled" pairs, which are real pictures with another's caption. "pair_auroc"
    is the share in which true pairs have a higher cosine than pairs whose caption is another's. 0.5 is chance.
    """
    if m.pairs is None or m.lite0 is None:
        return {}
    if m.once(halves).shape[1] < 2:
        return m.skip(name, "fewer than four test items that have every part and share none")
    source, measure = name.split("/")
    results, seen = dict[str, Result](), m.once(both, REAL if source == SHUFFLED else source)
    for part, (shown, told) in seen.items():
        true, other = ((shown * captions).sum(1) for captions in (told, told.roll(1, 0)))
        key = f"{name}/{part}" if part else name
        if measure == PAIR_AUROC:
            results[key] = auroc(true, other)
        else:
            results[key] = mean_of_items((other if source == SHUFFLED else true)[:, None])
    return results if "" in seen else with_mean(name, results)


def retrieval(m: Measurement, name: str) -> dict[str, Result]:
    """Return in which share of N real test pairs the caption is among the k that fit the picture best, k as the name
    says, or the picture among the k that fit the caption best: "/part" that is found, and `name`, the mean of both.
    """
    if m.pairs is None or m.lite0 is None or m.once(halves).shape[1] < 2:
        return {}
    shown, told = m.once(both, REAL)[""]
    alike, k = shown @ told.T, int(name.removeprefix(f"{RETRIEVAL}/at"))  # [N, N]
    found = {m.pairs.caption: among(alike, k), m.pairs.picture: among(alike.T, k)}
    return with_mean(name, {f"{name}/{part}": proportion(hits) for part, hits in found.items()})


def among(alike: Tensor, k: int) -> Tensor:
    """Return whether the own one, on the diagonal, is among the k largest of each row of [N, N], bool [N]."""
    return (alike > alike.diag()[:, None]).sum(1) < k
