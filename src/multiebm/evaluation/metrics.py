"""The table of metrics, and everything that is defined for a model and a data set in one call.

To add a metric: a function of a measurement in its room, or in a new file, and a row here. Packages add rows under the
entry point group `multiebm.metrics`; `multiebm.testing.MetricContract` proves one.

Results are named by their metric, "gen/fcd", with "/part" by modality, pair or size. What cannot be measured is left
out, and `skipped` says why.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from math import inf, isfinite, sqrt
from statistics import fmean
from time import perf_counter

import torch

from multiebm.core.table import Table
from multiebm.data.dataset import MultimodalDataset
from multiebm.distributions.likelihoods import LearnedScale
from multiebm.evaluation import result as names
from multiebm.evaluation.belonging import belonging, odd_parts, two_sample
from multiebm.evaluation.codes import classification, divergence, units
from multiebm.evaluation.completion import completed, subsets_of_size
from multiebm.evaluation.filling import filling
from multiebm.evaluation.fluency import fluency
from multiebm.evaluation.judges import no_judges, unread
from multiebm.evaluation.measurement import (
    NOT_ASKED,
    FeatureReader,
    JudgesLike,
    Measurement,
    Metric,
    labelled_items,
)
from multiebm.evaluation.natural import lite0_distance
from multiebm.evaluation.pairs import RANKS, SHUFFLED, PairJudge, paired, retrieval
from multiebm.evaluation.result import DIFFUSION, EBM, GEN, REAL, SOURCES, Evaluation, EvaluationSettings, Result
from multiebm.evaluation.samples import beside_real, coherence, entropy
from multiebm.models.model import MultimodalModel


def judge_accuracy(m: Measurement, name: str) -> dict[str, Result]:
    """Return how well judges of each part read real test items, the mean over their sets; parts without a judge are
    named in `skipped`.
    """
    sets = m.robust if name == names.ROBUST_ACCURACY else m.plain
    if not sets:
        return {}
    results, why = {}, unread(m.dataset)
    for part in m.dataset.modalities:
        if (p := fmean(s.accuracy[part] for s in sets) if part in sets[0].accuracy else None) is None:
            reason = f"the data set {why[part]}" if part in why else "no judge of it was given"
            m.skipped[f"{name}/{part}"] = f"{reason}; what judges read leaves this part out"
        else:
            known = m.dataset.test.there(part)
            known = known if m.dataset.test.labels is None else known[labelled_items(m.dataset.test)]
            n = max(int(known.sum()), 1)
            results[f"{name}/{part}"] = Result(p, sqrt(p * (1 - p) / n), n)
    return results


NEEDS: dict[str, Callable[[Measurement], str]] = {  # why a measurement lacks it; empty where it does not
    "judges": lambda m: no_judges(m.dataset) if m.judges is None else "",
    "inception": lambda m: (
        "" if m.inception else "no Inception weights were given; fcd, on the judges' features, is another number"
    ),
    "labels": lambda m: (
        "" if len(labelled_items(m.dataset.test)) else f"no test labels that are known in data set {m.dataset.name!r}"
    ),
    "parts": lambda m: "" if len(m.dataset.modalities) > 1 else names.ONE_PART,
    "energy": lambda m: m.no_chain,
    "diffusion": lambda m: "" if m.model.diffusion else "the model has no diffusion refiner",
}

_SHARE, _OVER_0, _OVER_1 = (0.0, 1.0), (0.0, inf), (1.0, inf)
_DRAWN, _JUDGED, _COMPLETION = (GEN, EBM, DIFFUSION), ("judges",), ("judges", "labels", "parts")
_PARTS = ("parts",)
_BESIDE = {"mean": "the mean of training", "regression": "regression", "neighbours": "10 nearest neighbours"}
_AGREE = "all modalities of a sample show the same class; real items, as the judges read them, are the ceiling"
_ROBUST = "the same, read by judges that learn and read under noise and blur: pixels that judges like help less"
_EVENLY = "1: all classes equally often; a collapsed model can be coherent"
_FCD, _FID = (f"Frechet distance on {whose} features, lower is better" for whose in ("the judges'", "Inception"))
_COMPLETED = f"{names.COMPLETED}/{names.FD_LITE0}"
_LITE0 = (
    "Frechet distance on features of lite0 (not FID), lower is better; that of as many other real ones is the floor"
)
_OF_CAPTIONS = "the same, of pictures that were completed from captions"
_PAIRS = (
    "share in which a picture and its caption fit better than the picture and another's, by a judge; real: the ceiling"
)
_COSINE = "mean cosine of picture and caption, by a judge that learned from real pairs; real and shuffled are the ends"
_RETRIEVED = "share of real test pairs whose caption, or picture, is among the {} that fit best of all there are"
_PERPLEXITY = "per word of generated captions, by word triples of training; of completed ones and after the data chain"
_PERPLEXITY_REAL = "the same of real test captions"
_RATIO = "1: generated captions read like real ones; far below 1: they repeat what is frequent"
_VARIED = "variance of pixels and numbers as a share of real ones': 1 is as varied as the data"
_REFINED = "refined by the posterior of the given parts"
_CLAMPED = "the completed item refined by the energy, given parts held fixed"
_DIFFUSED = "pictures of the completed item drawn by the diffusion refiner, given parts held fixed"
_KL = "divergence of codes from the prior, nats an item"
_LEAKS = "high: the class leaks into what one modality has alone"
_RMSE = "root mean square, in standard deviations of training, of the mean of 20 completions from all other parts"
_SSIM = "structural similarity of a picture that was filled in"
_LOG_LOSS = "minus the log of the probability of the true class, nats, by column, or of the true word of a caption"
_HITS = "share of columns whose likeliest class is the true one, or of words"
_EXACT = "share of captions whose every likeliest word is the true one"
_DEVIANCE = "Poisson deviance of counts from what is predicted, by column; about 1 where they are Poisson around it"
_LEARNED = "the same number of rows that the model learned from; far smaller: it knows them by heart"
_OF_ANOTHER = "the same number of the same rows, of {}"
_OVER = "share of the error of {} that the model saves; below 0 it makes more"
_INSIDE = "share of held-out values within the central {}% of completions with noise"
_R2 = "1: all of a part's variation is filled in; 0: no better than its mean"
_NATS = "log density of a held-out part given the others, nats an item, by 20 completions"
_FOREIGN = "share of pairs in which a true row {} than one whose part is another row's; 0.5 is chance"
_ODD = "share of pairs in which a part belongs better to its own item than another row's part does; 0.5 is chance"
_FOUND = "share of items with a part of another row in which that part is told to belong least"
_TOLD = "how often a classifier tells held-out rows from samples with noise (means: without); 0.5 is chance"
METRICS: Table[Metric] = Table(
    "metric",
    {
        names.COHERENCE: Metric(coherence, "joint coherence", _AGREE, 1, _SHARE, _JUDGED, SOURCES),
        names.ROBUST_COHERENCE: Metric(coherence, "robust coherence", _ROBUST, 1, _SHARE, _JUDGED, SOURCES),
        names.ENTROPY: Metric(entropy, "label entropy", _EVENLY, 1, _SHARE, _JUDGED, _DRAWN),
        names.FCD: Metric(beside_real, "FCD", _FCD, 0, _OVER_0, _JUDGED, _DRAWN),
        names.FID: Metric(beside_real, "FID", _FID, 0, _OVER_0, ("inception",), _DRAWN),
        names.FD_LITE0: Metric(lite0_distance, "FD lite0", _LITE0, None, _OVER_0, (), SOURCES),
        _COMPLETED: Metric(lite0_distance, "FD lite0 of pictures of captions", _OF_CAPTIONS, None, _OVER_0),
        names.PAIR_AUROC: Metric(paired, "pairs told from shuffled", _PAIRS, None, _SHARE, (), SOURCES),
        f"{names.COMPLETED}/{names.PAIR_AUROC}": Metric(paired, "completed pairs told from shuffled", _PAIRS, None),
        f"{names.COMPLETED_EBM}/{names.PAIR_AUROC}": Metric(
            paired, "pairs completed with chains told from shuffled", _PAIRS, None, _SHARE, ("energy",)
        ),
        names.PAIR_SCORE: Metric(paired, "cosine of pairs", _COSINE, None, (-1, 1), (), SOURCES),
        f"{names.COMPLETED}/{names.PAIR_SCORE}": Metric(paired, "cosine of completed pairs", _COSINE, None, (-1, 1)),
        f"{names.COMPLETED_EBM}/{names.PAIR_SCORE}": Metric(
            paired, "cosine of pairs completed with chains", _COSINE, None, (-1, 1), ("energy",)
        ),
        f"{SHUFFLED}/{names.PAIR_SCORE}": Metric(paired, "cosine of shuffled pairs", _COSINE, None, (-1, 1)),
        **{
            f"{names.RETRIEVAL}/at{k}": Metric(retrieval, f"found among {k}", _RETRIEVED.format(k), None) for k in RANKS
        },
        names.FLUENT: Metric(fluency, "perplexity", _PERPLEXITY, None, _OVER_1),
        names.FLUENT_REAL: Metric(fluency, "perplexity of real captions", _PERPLEXITY_REAL, None, _OVER_1),
        names.FLUENT_RATIO: Metric(fluency, "perplexity over that of real captions", _RATIO, None, _OVER_0),
        names.VARIETY: Metric(beside_real, "variety", _VARIED, 1, _OVER_0, (), _DRAWN),
        names.COND: Metric(completed, "amortised", "one draw of the inference model", 1, _SHARE, _COMPLETION),
        names.REFINED: Metric(completed, "latent chain", _REFINED, 1, _SHARE, _COMPLETION),
        names.CLAMPED: Metric(completed, "data chain", _CLAMPED, 1, _SHARE, (*_COMPLETION, "energy")),
        names.COND_DIFFUSION: Metric(completed, "diffusion", _DIFFUSED, 1, _SHARE, (*_COMPLETION, "diffusion")),
        names.ROBUST_COND: Metric(completed, "amortised, robust", _ROBUST, 1, _SHARE, _COMPLETION),
        names.ROBUST_CLAMPED: Metric(completed, "data chain, robust", _ROBUST, 1, _SHARE, (*_COMPLETION, "energy")),
        "fill/rmse": Metric(filling, "RMSE, filled in", _RMSE, 0, _OVER_0, _PARTS),
        "fill/ssim": Metric(filling, "SSIM, filled in", _SSIM, 1, (-1, 1), _PARTS),
        "fill/log_loss": Metric(filling, "log loss, filled in", _LOG_LOSS, None, _OVER_0, _PARTS),
        "fill/accuracy": Metric(filling, "accuracy, filled in", _HITS, 1, _SHARE, _PARTS),
        "fill/exact": Metric(filling, "whole captions, filled in", _EXACT, 1, _SHARE, _PARTS),
        "fill/deviance": Metric(filling, "deviance, filled in", _DEVIANCE, 0, _OVER_0, _PARTS),
        "fill/learned": Metric(filling, "error on training rows", _LEARNED, None, _OVER_0, _PARTS),
        **{
            f"fill/{key}": Metric(filling, f"error of {what}", _OF_ANOTHER.format(what), None, _OVER_0, _PARTS)
            for key, what in _BESIDE.items()
        },
        **{
            f"fill/over_{key}": Metric(filling, f"saved over {what}", _OVER.format(what), None, (-inf, 1), _PARTS)
            for key, what in _BESIDE.items()
            if key != "mean"
        },
        "fill/r2": Metric(filling, "R2, filled in", _R2, 1, (-inf, 1), _PARTS),
        "fill/log_likelihood": Metric(filling, "nats, filled in", _NATS, None, (-inf, inf), _PARTS),
        "fill/coverage50": Metric(filling, "within 50%", _INSIDE.format(50), 0.5, _SHARE, _PARTS),
        "fill/coverage90": Metric(filling, "within 90%", _INSIDE.format(90), 0.9, _SHARE, _PARTS),
        names.MATCH: Metric(belonging, "match", _FOREIGN.format("matches better"), 1, _SHARE, _PARTS),
        names.SCORE: Metric(belonging, "score", _FOREIGN.format("scores higher"), 1, _SHARE, _PARTS),
        names.PART: Metric(odd_parts, "match of a part", _ODD, 1, _SHARE, _PARTS),
        names.FOUND: Metric(odd_parts, "foreign part found", _FOUND, 1, _SHARE, _PARTS),
        names.TWO_SAMPLE: Metric(two_sample, "told from real rows", _TOLD, 0.5, _SHARE),
        names.KL: Metric(divergence, _KL, "near 0, codes tell nothing", span=(-inf, inf)),
        names.ACTIVE: Metric(units, "latents in use", "coordinates of codes that vary over items", span=_OVER_0),
        names.UNITS: Metric(units, "latents", "coordinates of codes", span=_OVER_0),
        names.PROBE: Metric(
            classification, "latent classification", "a linear probe reads the class off codes of one modality", 1
        ),
        names.LEAKAGE: Metric(classification, "class read off private latents", _LEAKS),
        names.ACCURACY: Metric(
            judge_accuracy, "judges", "real test items whose class the judge of a modality reads", 1
        ),
        names.ROBUST_ACCURACY: Metric(judge_accuracy, "robust judges", "the same by robust judges", 1),
    },
    "multiebm.metrics",
)
QUICK = (names.COHERENCE, names.ENTROPY, names.FCD, names.VARIETY, names.COND, names.ACCURACY)


def evaluate(
    model: MultimodalModel,
    dataset: MultimodalDataset,
    judges: JudgesLike | None,
    settings: EvaluationSettings | None = None,
    seed: int = 0,
    inception: FeatureReader | None = None,
    others: Sequence[JudgesLike] = (),
    robust: Sequence[JudgesLike] = (),
    lite0: FeatureReader | None = None,
    pairs: PairJudge | None = None,
) -> Evaluation:
    """Measure `model` on the test split; every metric has its own random stream and depends on no other.

    `judges` None leaves out what needs them, and so do no sets of `robust` ones; `skipped` says why whatever else is
    left out too. `others`: sets like `judges`. The model is left as it was. DivergenceError where it generates values
    that are not finite.
    """
    readers = {"others": tuple(others), "robust": tuple(robust), "lite0": lite0, "pairs": pairs}
    return measured(
        Measurement(model, dataset, judges, settings or EvaluationSettings(), seed, inception, **readers)  # type: ignore[arg-type]
    )


def quick_look(
    model: MultimodalModel, dataset: MultimodalDataset, judges: JudgesLike | None, seed: int = 0, n: int = 1000
) -> Evaluation:
    """Measure n samples and completions from single parts, for validation: no chain on latents, no probe."""
    return measured(Measurement(model, dataset, judges, EvaluationSettings(n, n), seed), QUICK)


def measured(m: Measurement, only: Collection[str] = ()) -> Evaluation:
    """Measure what `evaluate` does, or the metrics `only`, names of `METRICS`."""
    if m.judges is not None and len(m.dataset.modalities) > 1:  # a size out of range is refused before measuring
        for size in m.settings.sizes:
            subsets_of_size(list(m.dataset.modalities), size)
    started, skipped = perf_counter(), m.skipped
    unasked = (() if m.robust else names.ROBUST) + (() if m.model.diffusion else (names.COND_DIFFUSION,))
    known = [name for name in METRICS if name not in unasked]
    rows = {name: METRICS[name] for name in only or known}
    lacking = {name: next(filter(None, (NEEDS[need](m) for need in row.needs)), "") for name, row in rows.items()}
    joint = [name for name, why in lacking.items() if why and rows[name].sources]
    for why in dict.fromkeys(lacking[name] for name in joint):  # those that lack the same are named together
        skipped[", ".join(name for name in joint if lacking[name] == why)] = why
    skipped |= {name: why for name, why in lacking.items() if why and name not in joint}
    skipped |= {name: NOT_ASKED for name in known if name not in rows}
    skipped |= {EBM: m.no_chain} if m.no_chain else {}
    there = {name: row for name, row in rows.items() if not lacking[name]}
    sources = (REAL, GEN, *(() if m.no_chain else (EBM,)), *((DIFFUSION,) if m.model.diffusion else ()))
    jobs = [(row, f"{source}/{name}") for source in sources for name, row in there.items() if source in row.sources]
    results: dict[str, Result] = {}
    with evaluation_mode(m.model):
        for row, name in [*jobs, *((row, name) for name, row in there.items() if not row.sources)]:
            results |= row.measure(m, name)
    for name in [name for name, result in results.items() if not all(map(isfinite, result))]:
        skipped[name] = f"it is not finite ({results.pop(name).value})"
    accuracy = None if m.judges is None else {k: fmean(s.accuracy[k] for s in m.plain) for k in m.judges.accuracy}
    seconds, generator = perf_counter() - started, m.model.generator
    drawn_at = m.settings.temperature or generator.temperature
    learned = tuple(name for name, of in generator.likelihoods.items() if isinstance(of, LearnedScale))
    said = m.dataset.name, m.seed, seconds, m.settings, drawn_at, learned
    return Evaluation(results, skipped, accuracy, *said, judge_sets=(len(m.plain), len(m.robust)))


@contextmanager
def evaluation_mode(model: MultimodalModel) -> Iterator[None]:
    """Inside: evaluation mode and no graph (a chain asks for the gradients it needs itself); restored on leaving."""
    was_training = model.training
    model.train(False)
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
