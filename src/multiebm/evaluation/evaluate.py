"""Everything that is defined for a model and a data set, in one call.

Results are named as in `names.py` by their metric, "gen/fcd", with "/part" by modality, pair or size. What cannot be
measured is left out, and `skipped` says why.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from math import isfinite
from time import perf_counter

import torch

from multiebm.data.dataset import MultimodalDataset
from multiebm.evaluation import names
from multiebm.evaluation.completion import subsets_of_size
from multiebm.evaluation.evaluation import Evaluation, EvaluationSettings
from multiebm.evaluation.measurement import NOT_ASKED, FeatureReader, JudgesLike, Measurement
from multiebm.evaluation.metrics import METRICS, NEEDS
from multiebm.evaluation.result import Result
from multiebm.models.model import MultimodalModel

QUICK = (names.COHERENCE, names.ENTROPY, names.FCD, names.VARIETY, names.COND, names.ACCURACY)


def evaluate(
    model: MultimodalModel,
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
    return measured(Measurement(model, dataset, judges, settings or EvaluationSettings(), seed, inception))


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
    rows = {name: METRICS[name] for name in only or METRICS}
    lacking = {name: next(filter(None, (NEEDS[need](m) for need in row.needs)), "") for name, row in rows.items()}
    joint = [name for name, why in lacking.items() if why and rows[name].sources]
    for why in dict.fromkeys(lacking[name] for name in joint):  # those that lack the same are named together
        skipped[", ".join(name for name in joint if lacking[name] == why)] = why
    skipped |= {name: why for name, why in lacking.items() if why and name not in joint}
    skipped |= {name: NOT_ASKED for name in METRICS if name not in rows}
    skipped |= {names.EBM: m.no_chain} if m.no_chain else {}
    there = {name: row for name, row in rows.items() if not lacking[name]}
    sources = (names.REAL, names.GEN, *(() if m.no_chain else (names.EBM,)))
    jobs = [(row, f"{source}/{name}") for source in sources for name, row in there.items() if source in row.sources]
    results: dict[str, Result] = {}
    with evaluation_mode(m.model):
        for row, name in [*jobs, *((row, name) for name, row in there.items() if not row.sources)]:
            results |= row.measure(m, name)
    for name in [name for name, result in results.items() if not all(map(isfinite, result))]:
        skipped[name] = f"it is not finite ({results.pop(name).value})"
    accuracy = None if m.judges is None else dict(m.judges.accuracy)
    return Evaluation(results, skipped, accuracy, m.dataset.name, m.seed, perf_counter() - started, m.settings)


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
