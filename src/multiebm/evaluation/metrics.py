"""The table of metrics. To add one: a function of a measurement in its room, or in a new file, and a row here.

Packages add rows under the entry point group `multiebm.metrics`; `multiebm.testing.MetricContract` proves one.
"""

from collections.abc import Callable
from functools import partial
from math import inf, sqrt

from multiebm.core.table import Table
from multiebm.evaluation import names
from multiebm.evaluation.codes import classification, divergence, units
from multiebm.evaluation.completion import completed
from multiebm.evaluation.draws import labelled_items
from multiebm.evaluation.judges import no_judges, unread
from multiebm.evaluation.measurement import Measurement, Metric
from multiebm.evaluation.result import Result
from multiebm.evaluation.samples import coherence, distance, entropy, variety


def judge_accuracy(m: Measurement, name: str) -> dict[str, Result]:
    """Return how well each judge reads real test items; parts without a judge are named in `skipped`."""
    if m.judges is None:
        return {}
    results, why = {}, unread(m.dataset)
    for part in m.dataset.modalities:
        if (p := m.judges.accuracy.get(part)) is None:
            reason = f"the data set {why[part]}" if part in why else "no judge of it was given"
            m.skipped[f"{name}/{part}"] = f"{reason}; what judges read leaves this part out"
        else:
            known = m.dataset.test.of(part)[1]
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
    "parts": lambda m: "" if len(m.dataset.modalities) > 1 else "one modality only, nothing to complete",
    "energy": lambda m: m.no_chain,
}

_JUDGED, _COMPLETION = ("judges",), ("judges", "labels", "parts")
_joint = partial(Metric, sources=(names.GEN, names.EBM))

METRICS: Table[Metric] = Table(
    "metric",
    {
        names.COHERENCE: Metric(
            coherence,
            "joint coherence",
            "all modalities of a sample show the same class; real items, as the judges read them, are the ceiling",
            best=1,
            needs=_JUDGED,
            sources=names.SOURCES,
        ),
        names.ENTROPY: _joint(
            entropy,
            "label entropy",
            "1: all classes equally often; a collapsed model can be coherent",
            1,
            needs=_JUDGED,
        ),
        names.FCD: _joint(
            distance, "FCD", "Frechet distance on the judges' features, lower is better", 0, (0, inf), _JUDGED
        ),
        names.FID: _joint(
            distance, "FID", "Frechet distance on Inception features, lower is better", 0, (0, inf), ("inception",)
        ),
        names.VARIETY: _joint(
            variety, "variety", "variance of pixels as a share of real ones': 1 is as varied as the data", 1, (0, inf)
        ),
        names.COND: Metric(completed, "amortised", "one draw of the inference model", 1, needs=_COMPLETION),
        names.REFINED: Metric(
            completed, "latent chain", "refined by the posterior of the given parts", 1, needs=_COMPLETION
        ),
        names.CLAMPED: Metric(
            completed,
            "data chain",
            "the completed item refined by the energy, given parts held fixed",
            best=1,
            needs=(*_COMPLETION, "energy"),
        ),
        names.KL: Metric(
            divergence,
            "divergence of codes from the prior, nats an item",
            "near 0, codes tell nothing",
            span=(-inf, inf),
        ),
        names.ACTIVE: Metric(units, "latents in use", "coordinates of codes that vary over items", span=(0, inf)),
        names.UNITS: Metric(units, "latents", "coordinates of codes", span=(0, inf)),
        names.PROBE: Metric(
            classification, "latent classification", "a linear probe reads the class off codes of one modality", 1
        ),
        names.LEAKAGE: Metric(
            classification, "class read off private latents", "high: the class leaks into what one modality has alone"
        ),
        names.ACCURACY: Metric(
            judge_accuracy, "judges", "real test items whose class the judge of a modality reads", 1
        ),
    },
    "multiebm.metrics",
)
