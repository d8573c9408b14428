"""Joint samples, before and after the data chain, beside real test items: do parts agree, and how varied are they?

To add a metric of them: a function of a measurement and a name such as "gen/fcd", and a row in `metrics.py`.
"""

from collections.abc import Sequence
from math import log, sqrt

import torch
from torch import Tensor

from multiebm.core.errors import DataError
from multiebm.core.names import Views
from multiebm.core.progress import task, track
from multiebm.evaluation.frechet import frechet_results
from multiebm.evaluation.measurement import JudgesLike, Measurement, joined
from multiebm.evaluation.result import (
    DIFFUSION,
    EBM,
    FCD,
    FID,
    GEN,
    REAL,
    ROBUST_COHERENCE,
    VARIETY,
    Result,
    mean_and_parts,
    mean_of_items,
    proportion,
)

ITEMS = 1000  # of which the parts themselves are kept
LABEL, ROBUST, PART = "label", "robust", "part"
Read = dict[tuple[str, str], Tensor]  # kept [N, ...] on the CPU, by (what, part); labels by S sets of judges are [N, S]


def samples(m: Measurement) -> dict[str, Read]:
    """Return what is kept of joint samples, "ebm" where there is a data chain, "diffusion" where there is a
    refiner, and of the real test items."""
    read = dict[str, list[Read]]()

    def keep(source: str, views: Views, first: int) -> None:
        """Keep what is read of a batch of states [B, ...] that begins with item `first`."""
        kept = {(PART, name): view[: max(0, ITEMS - first)] for name, view in views.items()}
        if m.judges is not None:
            judged = {name: views[name] for name in m.judges.accuracy}
            kept |= {(FCD, name): own for name, own in m.judges.features(judged).items()}
        for what, sets in ((LABEL, m.plain), (ROBUST, m.robust)):
            kept |= {(what, name): label for name, label in read_by(sets, views).items()}
        if m.inception is not None:
            kept |= {(FID, name): own for name, own in m.inception.features(views).items()}
        read.setdefault(source, []).append(kept)

    with task("joint samples", m.settings.samples) as advance:
        for rows, rng in m.chunks(torch.arange(m.settings.samples), "joint"):
            # the chain starts from decoder means as they are; both are read clamped
            latents = m.model.sample_latents(len(rows), rng, m.settings.temperature)
            drawn = m.model.decode(latents)
            shown = {GEN: m.shown(drawn, "Gen samples")}
            if not m.no_chain:
                refined = m.model.refined_samples(latents, rng, temperature=m.settings.temperature)
                shown[EBM] = m.shown(refined, "EBM samples")
            if m.model.diffusion is not None:
                shown[DIFFUSION] = m.shown(m.model.diffusion.refine(drawn, rng), "diffusion samples")
            for source, views in shown.items():
                keep(source, views, int(rows[0]))
            advance(len(rows))
    for rows in track(torch.arange(len(m.dataset.test)).split(m.batch_size), "real test items"):
        keep(REAL, m.dataset.batch("test", rows).to(m.model.device).views, int(rows[0]))
    return {source: joined(batches) for source, batches in read.items()}


def read_by(sets: Sequence[JudgesLike], views: Views) -> dict[str, Tensor]:
    """Return labels int64 [B, S] of states [B, ...] by S sets of judges, by the modalities that they read."""
    each = [judges.predict({name: views[name] for name in judges.accuracy if name in views}) for judges in sets]
    return {name: torch.stack([labels[name] for labels in each], 1) for name in (each[0] if each else ())}


def of(m: Measurement, source: str, what: str) -> dict[str, Tensor]:
    """Return what is kept of samples [N, ...] by modality: of real parts those there are, features of whole ones."""
    found = {name: own for (kept, name), own in m.once(samples)[source].items() if kept == what}
    if source != REAL or what in (LABEL, ROBUST):
        return found
    there = {name: own[m.dataset.test.there(name)[: len(own)]] for name, own in found.items()}
    return {name: own if what == PART else own[~own.flatten(1).isnan().any(1)] for name, own in there.items()}


def coherence(m: Measurement, name: str) -> dict[str, Result]:
    """Return the joint coherence of samples, or of real items that have all parts with a judge, by robust ones where
    the name says so.
    """
    source, metric = name.split("/")
    labels = of(m, source, ROBUST if metric == ROBUST_COHERENCE else LABEL)
    if len(labels) < 2:
        return m.skip(metric, "judges read one part only, and one part agrees with itself")
    if source == REAL:
        complete = torch.stack([m.dataset.test.there(part) for part in labels]).all(0)
        if not bool(complete.any()):
            return m.skip(name, "no test item has all parts that judges read")
        labels = {part: label[complete] for part, label in labels.items()}
    return {name: joint_coherence(labels)}


def joint_coherence(predictions: dict[str, Tensor]) -> Result:
    """Return the share of items whose labels int64 [N] agree in all modalities (Shi et al. 2019, arXiv 1911.03393); of
    labels [N, S] by S sets of judges the mean over these, whose error is of items and of judges.

    No ground truth is involved: a model that always draws the same digit scores 1, so read it next to `label_entropy`.
    """
    labels = torch.stack(list(predictions.values()))  # [M, N]
    agree = (labels == labels[0]).all(0)
    return proportion(agree) if agree.dim() == 1 else mean_of_items(agree[:, None])


def entropy(m: Measurement, name: str) -> dict[str, Result]:
    """Return the label entropy of samples, where data have two classes or more."""
    source, metric = name.split("/")
    labels = [split.labels for split in (m.dataset.train, m.dataset.test) if split.labels is not None]
    n_classes = sum(int(label >= 0) for label in torch.cat(labels).unique()) if labels else 0
    if n_classes < 2:
        return m.skip(metric, f"{n_classes or 'no'} known class(es) among the labels, and it needs 2")
    return {name: label_entropy(of(m, source, LABEL), n_classes)}


def label_entropy(predictions: dict[str, Tensor], n_classes: int) -> Result:
    """Return the entropy of labels, shape [N] or by S sets of judges [N, S], pooled over modalities and sets, over log
    `n_classes`: 1 uniform, 0 constant.

    The standard error is the delta method's, sqrt(Var[log p(y)] / N), with N items: labels of one item repeat.
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


def beside_real(m: Measurement, name: str) -> dict[str, Result]:
    """Return how far samples are from the real parts of the test split, or how varied beside them, by the name.

    "source/fcd" and "source/fid" are Frechet distances; "source/variety" is of the first test items.
    """
    source, metric = name.split("/")
    what, compare, lacking = metric, frechet_results, "in the test split, and it needs 2"
    if metric == VARIETY:
        what, compare, lacking = PART, variety_results, "of the test split vary in nothing"
    real = of(m, REAL, what)
    if not real:
        m.skipped[metric] = "no modality that its network reads"
    results = compare(real, of(m, source, what), name, m.rng(name))
    for part, own in real.items():
        if f"{name}/{part}" not in results:
            m.skipped[f"{metric}/{part}"] = f"{len(own)} real part(s) {lacking}"
    return results


def variety_results(real: Views, generated: Views, name: str, rng: torch.Generator) -> dict[str, Result]:
    """Return `name` (mean over modalities) and "name/modality": variance of generated parts over that of real ones.

    Parts are [N, ...]. Averages score low, noise scores high: read it beside coherence and Frechet distance.
    """
    reference = {key: total_variance(parts) for key, parts in real.items() if len(parts) > 1}
    own = {key: generated[key] for key, variance in reference.items() if variance > 0}
    return mean_and_parts(name, own, lambda key, parts: total_variance(parts) / reference[key], rng)


def total_variance(parts: Tensor) -> Tensor:
    """Return the variance over items, mean over coordinates, of parts [N, ...]: a scalar. NaN is a missing cell; a
    coordinate that fewer than two items have does not count, and 0 is returned where none is left.
    """
    flat = parts.flatten(1)
    if not flat.isnan().any():
        return flat.var(0).mean()
    n = (~flat.isnan()).sum(0)
    squares = (flat - flat.nanmean(0)).square().nansum(0)
    return (squares / (n - 1))[n > 1].sum() / (n > 1).sum().clamp_min(1)
