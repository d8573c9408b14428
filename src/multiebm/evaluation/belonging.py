"""Can a model tell what belongs together, and can its samples be told from real rows? No labels are needed."""

from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from multiebm.core.batch import Batch, mask_views
from multiebm.core.progress import track
from multiebm.evaluation.filling import FEWEST, MOST, WORK, affordable
from multiebm.evaluation.measurement import NOT_ASKED, Measurement, chosen_items
from multiebm.evaluation.regressions import training
from multiebm.evaluation.result import MATCH, PART, TWO_SAMPLE, Result, proportion, with_mean
from multiebm.models.states import SCORE_SAMPLES
from multiebm.objectives.belonging import higher

FOLDS = 5  # of cross-validation
TREES = 30  # of the classifier
FEATURES = 64  # principal components that it reads at most


def auroc(true: Tensor, other: Tensor) -> Result:
    """Return the share of pairs in which a true row [N] has a higher value than another [N], ties count a half.

    Row i of both shares an item: the error is that of the mean of its two placements (DeLong et al. 1988,
    https://doi.org/10.2307/2531595).
    """
    above = higher(true, other)  # [N, N]
    placed = above.mean(1) + above.mean(0)
    return Result(float(above.mean()), float(placed.std(correction=0)) / sqrt(len(true)), len(true))


def belonging(m: Measurement, name: str) -> dict[str, Result]:
    """Return how well the model tells test items from such whose part is another item's, by part, "name/part", and
    `name`, the mean: an AUROC of `match`, or of `score` where an energy has learned or there is none.
    """
    if not m.settings.items:
        return m.skip(name, NOT_ASKED)
    by_energy = m.model.energy_learned or m.model.interaction_learned
    if name != MATCH and m.model.energy is not None and not by_energy:
        return m.skip(name, m.no_chain)
    judge = m.model.match_states if name == MATCH else m.model.score_states
    every = torch.arange(len(m.dataset.test))
    there = m.dataset.batch("test", every)
    each = 0  # an energy or encoders look once; a likelihood decodes every part of every item SCORE_SAMPLES times
    if name != MATCH and not by_energy:
        parts = m.dataset.modalities.values()
        each = SCORE_SAMPLES * (1 + len(parts)) * sum(part.places for part in parts)
    results = {}
    for i, part in enumerate(m.dataset.modalities):
        fits = there.complete() if name != MATCH else there.present[:, i] & (there.present.sum(1) > 1)
        items = affordable(m, every[fits], each)
        if len(items) < 2:
            lack = "have it beside another part" if name == MATCH else "lack no part and no cell, and it needs such"
            m.skipped[f"{name}/{part}"] = f"fewer than two test items {lack}"
            continue
        results[f"{name}/{part}"] = auroc(*_beside_foreign(m, there.select(items), part, name, judge))
    return with_mean(name, results)


def _beside_foreign(
    m: Measurement, batch: Batch, part: str, stream: str, judge: Callable[[Batch], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return what `judge` says [N, ...] of items in random order, and of the same with the part of the one before."""
    batch = batch.select(torch.randperm(len(batch.present), generator=m.rng(stream)))
    foreign = batch._replace(views=batch.views | {part: batch.views[part].roll(1, 0)})
    rows = torch.arange(len(batch.present)).split(m.batch_size)
    own, other = (
        torch.cat([judge(of.select(some).to(m.model.device)).cpu() for some in rows]) for of in (batch, foreign)
    )
    return own, other


def odd_parts(m: Measurement, name: str) -> dict[str, Result]:
    """Return how well an energy of interaction tells which part of an item is another item's, by part, "name/part", and
    `name`, the mean: an AUROC of the number of that part, or how often the part has the lowest one of its item.
    """
    if not m.model.interaction_learned:
        return {}
    if not m.settings.items:
        return m.skip(name, NOT_ASKED)
    results, moved = {}, m.once(moved_parts)
    for i, part in enumerate(m.dataset.modalities):
        if part not in moved:
            m.skipped[f"{name}/{part}"] = "fewer than two test items have it beside another part"
            continue
        own, foreign = moved[part]  # [N, M]
        lowest = foreign.nan_to_num(nan=torch.inf).argmin(1) == i
        results[f"{name}/{part}"] = auroc(own[:, i], foreign[:, i]) if name == PART else proportion(lowest)
    return with_mean(name, results)


def moved_parts(m: Measurement) -> dict[str, tuple[Tensor, Tensor]]:
    """Return how well each part belongs, [N, M] in nats, of test items and of the same with a part of other items."""
    f, there = m.model.interaction, m.dataset.batch("test", torch.arange(len(m.dataset.test)))
    assert f is not None
    found = {}
    for i, part in enumerate(m.dataset.modalities):
        items = chosen_items((there.present[:, i] & (there.present.sum(1) > 1)).nonzero()[:, 0], m.settings.items)
        if len(items) > 1:
            found[part] = _beside_foreign(m, there.select(items), part, PART, lambda of: f.by_part(*of[:2]))
    return found


def two_sample(m: Measurement, name: str) -> dict[str, Result]:
    """Return how often a classifier tells test items from samples: of the model, noise of its likelihoods included, and
    "name/means", of samples as users get them, decoder means. 0.5: they cannot be told apart.
    """
    places = sum(part.places for part in m.dataset.modalities.values())
    most = min(m.settings.samples, MOST, max(FEWEST, WORK // places))
    items = chosen_items(m.dataset.test.present.any(1).nonzero()[:, 0], most)
    if len(items) < 2 * FOLDS:
        return m.skip(name, f"{len(items)} test items, and it needs {2 * FOLDS}")
    real = m.dataset.batch("test", items)
    drawn: dict[str, list[dict[str, Tensor]]] = {name: [], f"{name}/means": []}
    for rows, rng in track(m.chunks(torch.arange(len(items)), name), "samples", -(-len(items) // m.batch_size)):
        means = m.model.decode(m.model.sample_latents(len(rows), rng, m.settings.temperature))
        noisy = {part: m.model.generator.likelihoods[part].sample(mean, rng) for part, mean in means.items()}
        for views, kept in zip((noisy, means), drawn.values(), strict=True):
            kept.append({part: view.cpu() for part, view in m.shown(views, "samples").items()})
    results = {}
    for key, batches in drawn.items():
        views = {part: torch.cat([of[part] for of in batches]) for part in batches[0]}
        there = real.there()  # what an item lacks, its sample lacks too, or gaps would tell them apart
        views = {part: torch.where(there[part], view, torch.nan) for part, view in views.items()}
        results[key] = told_apart(m, real, Batch(mask_views(views, real.present), real.present))
    return results


def told_apart(m: Measurement, real: Batch, samples: Batch) -> Result:
    """Return the cross-validated accuracy of a classifier of N items and N samples: 1 / 2 where they are alike."""
    from sklearn.decomposition import PCA  # late: scikit-learn takes a second to import
    from sklearn.ensemble import HistGradientBoostingClassifier

    t, names = m.once(training), list(m.dataset.modalities)
    x, n = np.concatenate([t.columns(of, names) for of in (real, samples)]), len(real.present)
    seen = t.columns(t.batch, names)
    if x.shape[1] > FEATURES and seen.any():  # what never varies has no components
        x = PCA(min(FEATURES, n, len(seen)), svd_solver="randomized", random_state=0).fit(seen).transform(x)
    label = np.repeat([0, 1], n)
    order = torch.randperm(n, generator=m.rng(TWO_SAMPLE)).numpy()
    fold = np.tile(order % FOLDS, 2)  # item i and sample i stand in one fold: equal ones give 1 / 2 exactly
    hits = 0
    for k in range(FOLDS):
        made: Any = HistGradientBoostingClassifier(max_iter=TREES, early_stopping=False, random_state=0)
        hits += (made.fit(x[fold != k], label[fold != k]).predict(x[fold == k]) == label[fold == k]).sum()
    p = float(hits) / (2 * n)
    return Result(p, sqrt(p * (1 - p) / (2 * n)), 2 * n)
