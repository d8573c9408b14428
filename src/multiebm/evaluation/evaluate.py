"""Everything that is defined for a model and a data set, in one call.

Names: "gen/..." decoder means of prior draws, "ebm/..." the same after the training data chain; ".../variety" is the
variance of their coordinates as a share of that of real parts; "real/joint_coherence" what the judges make of real test
items (the ceiling); "cond/..." completions by the amortised posterior, "cond_refined/..." by the latent chain,
"cond_ebm/..." by the data chain with observed parts held; "latent/..." how much the shared code says of an item;
"latent_classification", "private_leakage", "judge/accuracy/...". What cannot be measured is left out, and `skipped`
says why.
"""

from math import isfinite, sqrt
from time import perf_counter

import torch
from torch import Tensor

from multiebm.core.modality import Views
from multiebm.core.progress import task, track
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
    absent_subsets,
    conditional_coherence,
    conditional_hits,
    joint_coherence,
    label_entropy,
    subsets_of_size,
)
from multiebm.evaluation.draws import Conditioning, Plan, chosen_items, joint_samples, known_classes, labelled_items
from multiebm.evaluation.frechet import frechet_results
from multiebm.evaluation.judges import unread
from multiebm.evaluation.record import Evaluation, EvaluationSettings
from multiebm.evaluation.representation import latent_classification, latent_use

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
            readable = {name: views[name] for name in self.judges.accuracy}
            self._labels.append(self.judges.predict(readable))
        for name, reader in self.readers.items():
            self._features[name].append(reader.features(readable if reader is self.judges else views))

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

    `judges` None leaves out what needs them; whatever else cannot be measured (parts or labels that are not there, a
    single class, part or item) is left out too, and `skipped` says why. The model is in evaluation mode meanwhile and
    is left as it was. DivergenceError where it generates values that are not finite.
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
    for name, p in (accuracy or {}).items():
        n = _n_read(dataset, name)
        results[f"judge/accuracy/{name}"] = Result(p, sqrt(p * (1 - p) / n), n)
    for name in [name for name, result in results.items() if not all(map(isfinite, result))]:
        skipped[name] = f"it is not finite ({results.pop(name).value})"
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
        skipped["joint_coherence, label_entropy, fcd"] = _no_judges(dataset)
    if inception is None:
        skipped["fid"] = "no Inception weights were given; fcd, on the judges' features, is another number"
    if reason := _no_chain(model):
        skipped["ebm"] = reason
    collectors = {kind: _Collector(judges, readers) for kind in (("gen",) if reason else ("gen", "ebm"))}
    with task("joint samples", settings.n_samples) as advance:
        for generated, refined in joint_samples(model, settings.n_samples, plan, not reason, settings.temperature):
            collectors["gen"].add(generated)
            if refined is not None:
                collectors["ebm"].add(refined)
            advance(len(next(iter(generated.values()))))
    real = _Collector(judges, readers)
    for items in track(torch.arange(len(dataset.test)).split(plan.batch_size), "real test items"):
        real.add(dataset.batch("test", items).to(model.device).views)
    results: dict[str, Result] = {} if judges is None else _coherence(dataset, judges, collectors, real, skipped)
    present = dict(zip(dataset.modalities, dataset.test.present.T, strict=True))
    shown = {key: part[present[key][: len(part)]] for key, part in real.parts().items()}
    for kind, collector in collectors.items():
        generator = torch.Generator().manual_seed(stream_seed(plan.seed, f"{kind}/variety"))
        results |= variety.variety_results(shown, collector.parts(), f"{kind}/variety", generator)
        for name in readers:
            generator = torch.Generator().manual_seed(stream_seed(plan.seed, f"{kind}/{name}"))
            reference = {key: features[present[key]] for key, features in real.features(name).items()}
            results |= frechet_results(reference, collector.features(name), f"{kind}/{name}", generator)
    for key, part in shown.items():
        if f"gen/variety/{key}" not in results:
            skipped[f"variety/{key}"] = f"{len(part)} real part(s) of the test split vary in nothing"
        for name in readers:
            if key in real.features(name) and f"gen/{name}/{key}" not in results:
                skipped[f"{name}/{key}"] = f"{int(present[key].sum())} real part(s) in the test split, and it needs 2"
    for name in readers:
        if not real.features(name):
            skipped[name] = "no modality that its network reads"
    return results


def _coherence(
    dataset: MultimodalDataset,
    judges: JudgesLike,
    collectors: dict[str, _Collector],
    real: _Collector,
    skipped: dict[str, str],
) -> dict[str, Result]:
    """Joint coherence of the parts that have a judge, of samples and of real items, and the entropy of their labels."""
    results: dict[str, Result] = {}
    why = unread(dataset)
    for name in dataset.modalities:
        if name not in judges.accuracy:
            reason = f"the data set {why[name]}" if name in why else "no judge of it was given"
            skipped[f"judge/accuracy/{name}"] = f"{reason}; what judges read leaves this part out"
    read = [i for i, name in enumerate(dataset.modalities) if name in judges.accuracy]
    complete = dataset.test.present[:, read].all(1)
    agree = len(judges.accuracy) > 1
    if not agree:
        skipped["joint_coherence"] = "judges read one part only, and one part agrees with itself"
    elif not bool(complete.any()):
        skipped["real/joint_coherence"] = "no test item has all parts that judges read"
    else:
        results["real/joint_coherence"] = joint_coherence({k: label[complete] for k, label in real.labels().items()})
    n_classes = len(known_classes(dataset))
    if n_classes < 2:
        skipped["label_entropy"] = f"{n_classes or 'no'} known class(es) among the labels, and it needs 2"
    for kind, collector in collectors.items():
        if agree:
            results[f"{kind}/joint_coherence"] = joint_coherence(collector.labels())
        if n_classes > 1:
            results[f"{kind}/label_entropy"] = label_entropy(collector.labels(), n_classes)
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
    known = labelled_items(dataset.test)
    reason = None
    if judges is None:
        reason = _no_judges(dataset)
    elif not len(known):
        reason = f"no test labels that are known in data set {dataset.name!r}"
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
        elif how.data_chain and (without := _no_chain(model)):
            skipped[how.name] = without
        else:
            items = chosen_items(dataset, n_items, known)
            for size in how_sizes:
                hits = conditional_hits(model, dataset, judges, items, size, how, plan)
                results |= conditional_coherence(hits, how.name)
            for absent in absent_subsets(dataset, items, max(how_sizes)):
                skipped[f"{how.name} given {'+'.join(absent)}"] = f"0 of {len(items)} labelled test items have that"
    return results


def _representation(
    model: ModelUnderTest, dataset: MultimodalDataset, settings: EvaluationSettings, plan: Plan, skipped: dict[str, str]
) -> dict[str, Result]:
    if settings.n_codes == 0:
        skipped |= {"latent": _NOT_ASKED, "latent_classification": _NOT_ASKED}
        return {}
    results = latent_use(model, dataset, settings.n_codes, plan, skipped)
    if dataset.train.labels is None or dataset.test.labels is None:
        skipped["latent_classification"] = f"data set {dataset.name!r} has no labels"
        return results
    return results | latent_classification(model, dataset, settings.n_codes, plan, skipped)


def _no_judges(dataset: MultimodalDataset) -> str:
    reasons = "; ".join(dict.fromkeys(unread(dataset).values()))
    return f"no judges of data set {dataset.name!r}" + (f", which {reasons}" if reasons else "")


def _no_chain(model: ModelUnderTest) -> str:
    """Return why there is no data chain to measure; empty where there is one."""
    if model.energy is None:
        return "the model has no energy, so no data chain"
    return "" if model.energy_learned else "the energy has not had a step of training, so its chain says nothing"


def _n_read(dataset: MultimodalDataset, name: str) -> int:
    """Return of how many test items a judge's accuracy is."""
    column = dataset.test.present[:, list(dataset.modalities).index(name)]
    known = column if dataset.test.labels is None else column & (dataset.test.labels >= 0)
    return max(int(known.sum()), 1)


def _joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
