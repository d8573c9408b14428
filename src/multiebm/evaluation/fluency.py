"""Do generated captions read like real ones? Their perplexity under an n-gram model of the training captions."""

from collections import Counter
from collections.abc import Iterator, Sequence
from math import exp, hypot, log, sqrt

import torch
from torch import Tensor

from multiebm.core.captions import UNKNOWN_MARK
from multiebm.evaluation.measurement import Measurement
from multiebm.evaluation.natural import Sentence, sentences, sentences_of, speaking
from multiebm.evaluation.result import (
    COMPLETED,
    COMPLETED_EBM,
    EBM,
    FLUENT_RATIO,
    FLUENT_REAL,
    GEN,
    REAL,
    Evaluation,
    Result,
)

ORDER = 3
LEARNED, READ = 100_000, 2000  # captions of training that are counted at most, and of the test split that are read
BEGIN, END = "<s>", "</s>"  # which no caption has as one word
UNLIKE = 2.0  # times the perplexity of real captions, or this part of it, at which generated ones do not read like them


class WittenBell:
    """An n-gram model, interpolated as by Witten & Bell 1991, https://doi.org/10.1109/18.87000 (method C); the formula
    is that of Chen & Goodman 1998, TR-10-98, section 2.6:

        p(w | h) = (c(h w) + t(h) p(w | h')) / (c(h) + t(h))

    c counts, t(h) is how many different words follow h, and h' is h without its first word. Before the empty h stands
    1 / V, of V words that training has, the unknown word, and the end.
    """

    def __init__(self, captions: Sequence[Sentence], order: int = ORDER) -> None:
        self.order = order
        self.words = {UNKNOWN_MARK, END}.union(*captions)
        self.counts = Counter(gram for words in captions for gram in self._grams(words))
        self.total, self.kinds = Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()
        for gram, n in self.counts.items():
            self.total[gram[:-1]] += n
            self.kinds[gram[:-1]] += 1

    def _grams(self, words: Sentence) -> Iterator[tuple[str, ...]]:
        padded = [BEGIN] * (self.order - 1) + [*words, END]
        for end in range(self.order, len(padded) + 1):
            yield from (tuple(padded[end - n : end]) for n in range(1, self.order + 1))

    def probability(self, word: str, before: Sequence[str]) -> float:
        """Return p(word | the words before it), of which the last ones count."""
        p = 1 / len(self.words)
        for n in range(min(self.order, len(before) + 1)):
            history = tuple(before[len(before) - n :])
            if total := self.total[history]:
                kinds = self.kinds[history]
                p = (self.counts[*history, word] + kinds * p) / (total + kinds)
        return p

    def log_probs(self, words: Sentence) -> list[float]:
        """Return log p of every word of a caption and of its end, in nats."""
        known = [word if word in self.words else UNKNOWN_MARK for word in words]
        back = self.order - 1
        padded = [BEGIN] * back + [*known, END]
        return [log(self.probability(padded[i], padded[i - back : i])) for i in range(back, len(padded))]


def perplexity(captions: Sequence[Sequence[float]]) -> Result:
    """Return exp of minus the mean log probability of words, ends included, of captions given as `log_probs` each.

    The error is the delta method's for a ratio of sums over N captions, which are independent; words are not.
    """
    nats = torch.tensor([-sum(each) for each in captions], dtype=torch.float64)
    counts = torch.tensor([len(each) for each in captions], dtype=torch.float64)
    mean = float(nats.sum() / counts.sum())
    off: Tensor = (nats - mean * counts).square().sum()
    return Result(exp(mean), exp(mean) * sqrt(float(off)) / float(counts.sum()), len(captions))


def models(m: Measurement) -> dict[str, WittenBell]:
    """Return a model of the training captions, by the parts that are sentences."""
    return {name: WittenBell(sentences(m, name, "train", LEARNED)) for name in speaking(m)}


def read(m: Measurement) -> dict[str, Result]:
    """Return the perplexity of real test captions, and of generated ones, by their source, with "/part" where several
    parts are sentences; the words of all parts count alike.
    """
    known, results = m.once(models), dict[str, Result]()
    for source in (REAL, GEN, COMPLETED, *(() if m.no_chain else (EBM, COMPLETED_EBM))):
        captions = (
            {name: sentences(m, name, "test", READ) for name in known}
            if source == REAL
            else m.once(sentences_of, source)
        )
        each = {name: [known[name].log_probs(words) for words in of] for name, of in captions.items() if of}
        if each:
            results[source] = perplexity([words for part in each.values() for words in part])
        if len(each) > 1:
            results |= {f"{source}/{name}": perplexity(part) for name, part in each.items()}
    return results


def fluency(m: Measurement, name: str) -> dict[str, Result]:
    """Return the perplexity per word of joint samples, `name`; of these after the data chain, "name/ebm"; of completed
    captions, "name/completed", and with chains, "name/completed_ebm"; of real test captions; or its ratio to that of
    these, by the name. 1 reads like them.
    """
    if not speaking(m):
        return {}
    found = m.once(read)
    if REAL not in found:
        return m.skip(name, "no test item has a caption")
    results = {}
    for key, result in found.items():
        source, _, part = key.partition("/")
        if (source == REAL) != (name == FLUENT_REAL):
            continue
        if name == FLUENT_RATIO:
            real = found[f"{REAL}/{part}" if part else REAL]
            ratio = result.value / real.value
            error = ratio * hypot(*(r.standard_error / r.value for r in (result, real)))
            result = Result(ratio, error, result.n)
        ends = (() if source in (REAL, GEN) else (source,)) + ((part,) if part else ())
        results["/".join((name, *ends))] = result
    return results


def unlike_real(evaluation: Evaluation) -> tuple[bool, str] | None:
    """Say that generated captions do not read like real ones; None where they do, or where there are none."""
    ratio = evaluation.results.get(FLUENT_RATIO)
    if ratio is None or 1 / UNLIKE <= ratio.value <= UNLIKE:
        return None
    how = "say little but what is frequent" if ratio.value < 1 else "hardly read like captions"
    return False, f"Generated captions {how}: their perplexity is {ratio.value:.2f} times that of real ones."
