"""Everything that is defined for a model and a data set, in one call.

Names: "gen/..." decoder means of prior draws, "ebm/..." the same after the training data chain; ".../variety" is the
variance of their coordinates as a share of that of real parts; "real/joint_coherence" what the judges make of real test
items (the ceiling); "cond/..." completions by the amortised posterior, "cond_refined/..." by the latent chain,
"cond_ebm/..." by the data chain with observed parts held; "latent_classification", "private_leakage",
"judge/accuracy/...".
"""

from math import sqrt
from time import perf_counter

import torch
from torch import Tensor

from multiebm.core.modality import Views
from multiebm.data.dataset import MultimodalDataset
from multiebm.evaluation import variety
from multiebm.evaluation.base import (
    FeatureReader,
    JudgesLike,
    ModelUnderTest,
    Result,
    evaluation_mode,
    stream_seed,
)
from multiebm.evaluation.coherence import (
    conditional_coherence,
    conditional_hits,
    joint_coherence,
    label_entropy,
    subsets_of_size,
)
from multiebm.evaluation.draws import Conditioning, Plan, joint_samples
from multiebm.evaluation.frechet import frechet_results
from multiebm.evaluation.record import Evaluation, EvaluationSettings
from multiebm.evaluation.representation import latent_classification

_NOT_ASKED = "left out by the settings"


class _Collector:
    """Labels and features of batches, by modality; of the parts themselves only the first are kept."""

    def __init__(self, judges: JudgesLike | None, readers: dict[str, FeatureReader]) -> None:
        self.judges, self.readers = judges, readers
        self._labels: list[dict[str, Tensor]] = []
        self._parts: list[Views] = []
        self._features: dict[str, list[dict[str, Tensor]]] = {name: [] for name in readers}

    def add(self, views: Views) -> None:
        """Read one batch of states [B, ...]."""
        if (left := variety.ITEMS - sum(len(next(iter(part.values()))) for part in self._parts)) > 0:
            self._parts.append({name: view[:left] for name, view in views.items()})
        if self.judges is not None:
            self._labels.append(self.judges.predict(views))
        for name, reader in self.readers.items():
            self._features[name].append(reader.features(views))

    def labels(self) -> dict[str, Tensor]:
        """Return all labels, int64 of shape [N], by modality, on the CPU."""
        return _joined(self._labels)

    def parts(self) -> Views:
        """Return the first parts [N, ...] by modality, on the CPU."""
        return _joined(self._parts)

    def features(self, reader: str) -> dict[str, Tensor]:
        """Return all features [N, F] of one reader by modality, on the CPU."""
        return _joined(self._features[reader])


def evaluate(
    model: ModelUnderTest,
    dataset: MultimodalDataset,
    judges: JudgesLike | None,
    settings: EvaluationSettings | None = None,
    seed: int = 0,
    inception: FeatureReader | None = None,
) -> Evaluation:
    """Measure `model` on the test split; every metric has its own random stream and depends on no other.

    `judges` None leaves out what needs them. The model is in evaluation mode meanwhile and is left as it was.
    DivergenceError where it generates values that are not finite.
    """
    settings = settings or EvaluationSettings()
    if judges is not None and len(dataset.modalities) > 1:  # a size out of range is refused before measuring
        clamped = settings.clamped_sizes if settings.n_refined and model.energy is not None else ()
        for size in (*(settings.sizes or ()), *clamped):
            subsets_of_size(list(dataset.modalities), size)
    plan = Plan(settings.batch_size, seed)
    started = perf_counter()
    skipped: dict[str, str] = {}
    with evaluation_mode(model):
        results = _joint(model, dataset, judges, inception, settings, plan, skipped)
        results |= _conditional(model, dataset, judges, settings, plan, skipped)
        results |= _representation(model, dataset, settings, plan, skipped)
    accuracy = None if judges is None else dict(judges.accuracy)
    n_test = len(dataset.test)
    for name, p in (accuracy or {}).items():
        results[f"judge/accuracy/{name}"] = Result(p, sqrt(p * (1 - p) / n_test), n_test)
    return Evaluation(results, skipped, accuracy, dataset.name, seed, perf_counter() - started, settings)


def _joint(
    model: ModelUnderTest,
    dataset: MultimodalDataset,
    judges: JudgesLike | None,
    inception: FeatureReader | None,
    settings: EvaluationSettings,
    plan: Plan,
    skipped: dict[str, str],
) -> dict[str, Result]:
    readers = {name: reader for name, reader in (("fcd", judges), ("fid", inception)) if reader is not None}
    if judges is None:
        skipped["joint_coherence, label_entropy, fcd"] = f"no judges for data set {dataset.name!r}"
    if inception is None:
        skipped["fid"] = "no Inception weights were given; fcd, on the judges' features, is another number"
    if model.energy is None:
        skipped["ebm"] = "the model has no energy, so no data chain"
    collectors = {kind: _Collector(judges, readers) for kind in (("gen",) if model.energy is None else ("gen", "ebm"))}
    refine = model.energy is not None
    for generated, refined in joint_samples(model, settings.n_samples, plan, refine, settings.temperature):
        collectors["gen"].add(generated)
        if refined is not None:
            collectors["ebm"].add(refined)
    real = _Collector(judges, readers)
    for items in torch.arange(len(dataset.test)).split(plan.batch_size):
        real.add(dataset.batch("test", items).to(model.device).views)
    results: dict[str, Result] = {}
    complete = dataset.test.present.all(1)
    if judges is not None and bool(complete.any()):
        labels = {name: label[complete] for name, label in real.labels().items()}
        results["real/joint_coherence"] = joint_coherence(labels)
    present = dict(zip(dataset.modalities, dataset.test.present.T, strict=True))
    shown = {key: part[present[key][: len(part)]] for key, part in real.parts().items()}
    for kind, collector in collectors.items():
        generator = torch.Generator().manual_seed(stream_seed(plan.seed, f"{kind}/variety"))
        results |= variety.variety_results(shown, collector.parts(), f"{kind}/variety", generator)
        if judges is not None:
            results[f"{kind}/joint_coherence"] = joint_coherence(collector.labels())
            if dataset.n_classes is not None:
                results[f"{kind}/label_entropy"] = label_entropy(collector.labels(), dataset.n_classes)
        for name in readers:
            if not real.features(name):
                skipped[name] = "no modality that its network reads"
                continue
            generator = torch.Generator().manual_seed(stream_seed(plan.seed, f"{kind}/{name}"))
            reference = {key: features[present[key]] for key, features in real.features(name).items()}
            results |= frechet_results(reference, collector.features(name), f"{kind}/{name}", generator)
    return results


def _conditional(
    model: ModelUnderTest,
    dataset: MultimodalDataset,
    judges: JudgesLike | None,
    settings: EvaluationSettings,
    plan: Plan,
    skipped: dict[str, str],
) -> dict[str, Result]:
    kinds = ("cond", "cond_refined", "cond_ebm")
    reason = None
    if judges is None or dataset.test.labels is None:
        reason = f"no judges or no test labels for data set {dataset.name!r}"
    elif len(dataset.modalities) < 2:
        reason = "one modality only, nothing to complete"
    if judges is None or reason is not None:
        skipped |= {kind: str(reason) for kind in kinds}
        return {}
    sizes = tuple(range(1, len(dataset.modalities))) if settings.sizes is None else settings.sizes
    refined = settings.n_refined if settings.refine_steps else 0
    plans = (
        (Conditioning("cond"), sizes, settings.n_items),
        (Conditioning("cond_refined", refine_steps=settings.refine_steps), sizes, refined),
        (Conditioning("cond_ebm", data_chain=True), settings.clamped_sizes, settings.n_refined),
    )
    results: dict[str, Result] = {}
    for how, how_sizes, n_items in plans:
        if n_items == 0 or not how_sizes:
            skipped[how.name] = _NOT_ASKED
        elif how.data_chain and model.energy is None:
            skipped[how.name] = "the model has no energy, so no data chain"
        else:
            items = chosen_items(dataset, n_items)
            for size in how_sizes:
                hits = conditional_hits(model, dataset, judges, items, size, how, plan)
                results |= conditional_coherence(hits, how.name)
    return results


def chosen_items(dataset: MultimodalDataset, n: int) -> Tensor:
    """Return `n` test items (all, if there are fewer), the same for every model: files are often sorted by class."""
    order = torch.randperm(len(dataset.test), generator=torch.Generator().manual_seed(0))
    return order[:n].sort().values


def _representation(
    model: ModelUnderTest, dataset: MultimodalDataset, settings: EvaluationSettings, plan: Plan, skipped: dict[str, str]
) -> dict[str, Result]:
    if settings.n_codes == 0:
        skipped["latent_classification"] = _NOT_ASKED
        return {}
    if dataset.train.labels is None or dataset.test.labels is None:
        skipped["latent_classification"] = f"data set {dataset.name!r} has no labels"
        return {}
    results = latent_classification(model, dataset, settings.n_codes, plan)
    if "private_leakage" not in results:
        skipped["private_leakage"] = "the model has no private latents"
    return results


def _joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
