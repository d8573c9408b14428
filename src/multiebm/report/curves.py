"""Section on the training curves of metrics.jsonl."""

from typing import NamedTuple

from multiebm.report.figures import Level, Mark, Panel, Series, draw_panel
from multiebm.report.markup import block, columns, paragraph, section
from multiebm.report.record import RunRecord

SERIES_IN_A_PANEL = 6  # as many as the palette tells apart


class Curve(NamedTuple):
    """A panel to be: which metrics (a name ending in "/" stands for all below it), their labels, and what to expect."""

    title: str
    unit: str
    metrics: dict[str, str]
    note: str
    zero: bool = False


CURVES = (
    Curve(
        "Bound",
        "negative ELBO, nats per item",
        {"loss/elbo": "warm-up", "loss/anchor": "anchor"},
        "The warm-up's loss, and the anchor that continues it beside other losses. Lower is better; a rise after the "
        "warm-up is what the other losses cost.",
    ),
    Curve(
        "Energies",
        "energy",
        {"energy/generated": "Gen", "energy/refined": "EBM", "energy/data": "data"},
        "Only differences count: all may drift together. EBM below Gen: the data chain lowers the energy. Data above "
        "EBM: the energy prefers what its chain makes to real items.",
    ),
    Curve(
        "Energy gap",
        "energy",
        {"energy/gap": "E(data) - E(EBM)", "loss/energy": "loss, with penalty"},
        "What the energy learns from: at zero it no longer tells data from its chain's samples. One that grows without "
        "end is an energy running away, which the guard undoes.",
        zero=True,
    ),
    Curve(
        "Displacement",
        "rms per coordinate, state units",
        {
            "data_chain/move_rms": "whole chain",
            "data_chain/noise_floor_rms": "its noise alone",
        },
        "How far the data chain moves an item; where steps are steered by the sign of the gap, flat means at a limit.",
    ),
    Curve(
        "Log-likelihood",
        "nats per item",
        {"log_likelihood/": ""},
        "log p(x | z, w) of real items by modality, higher is better. Modalities of other sizes have other scales: "
        "compare each with its own past; one that falls is being given up for the others.",
    ),
    Curve(
        "Tilt of the energy prior",
        "f, nats",
        {"prior/positive": "codes", "prior/negative": "chain", "prior/base": "base"},
        "How the tilt rates codes, the ends of its chain, and the base's draws that the chain starts from. Chain near "
        "codes: the chain reaches what the tilt asks for.",
    ),
    Curve(
        "Gap of the energy prior",
        "f(codes) - f(chain), nats",
        {"prior/gap": "gap"},
        "Zero when the prior's chain ends where the codes are; large and growing means it cannot follow.",
        zero=True,
    ),
    Curve(
        "Generator loss",
        "nats per item",
        {"loss/generator": "generator"},
        "Reconstruction of data and of revised samples, from the cooperative phase on.",
    ),
    Curve(
        "Inference loss",
        "nats per item",
        {"loss/inference": "inference"},
        "Minus the log density of the revised codes under the inference model.",
    ),
    Curve(
        "Latent chain",
        "gain in log p(X, z, W), nats per item",
        {"latent_chain/gain": "gain"},
        "What the latent chain adds to the inference model's draw; a falling gain means inference has learned from it.",
        zero=True,
    ),
    Curve(
        "Latent chain: acceptance",
        "share of moves",
        {"latent_chain/acceptance": "acceptance"},
        "What a Metropolis test would accept of its moves; near zero, the chain climbs rather than samples.",
    ),
    Curve(
        "Validation: coherence",
        "share of items",
        {
            "validate/gen/joint_coherence": "joint, Gen",
            "validate/ebm/joint_coherence": "joint, EBM",
            "validate/cond/size1": "conditional",
        },
        "Measured quickly on the averaged weights; read it with the label entropy of the final evaluation.",
    ),
    Curve(
        "Validation: Frechet distance",
        "FCD",
        {"validate/gen/fcd": "Gen", "validate/ebm/fcd": "EBM"},
        "On the judges' features, lower is better; EBM below Gen: the data chain helps.",
    ),
)


def curves_section(record: RunRecord) -> str:
    """One chart per group of metrics that the run has, with the change of phase and the guard's roll-backs marked."""
    lead = "How training went, step by step; each point is a mean over the steps since the one before."
    panels = training_panels(record)
    if not panels:
        reason = "Left out: the run folder has no metrics.jsonl, or no line in it yet."
        return section("curves", "Training curves", "", paragraph(reason, "omitted"))
    body = columns([block(curve.title, draw_panel(panel), curve.note) for curve, panel in panels], "three")
    warmup = record.experiment.training.warmup.steps
    told = [f"The dotted line at step {warmup:,} is where the warm-up ends and cooperative steps begin."]
    if warmup == 0 or warmup >= _last_step(record):
        told = ["All steps are of one phase: " + ("cooperative." if warmup == 0 else "the warm-up.")]
    if record.rollbacks:
        listed = ", ".join(f"step {r.diverged:,} back to {r.returned:,}" for r in record.rollbacks)
        told.append(f"Solid lines are roll-backs of the guard after a divergence: {listed}.")
    else:
        told.append("The guard never had to roll back.")
    return section("curves", "Training curves", lead, paragraph(" ".join(told), "note") + body)


def training_panels(record: RunRecord) -> list[tuple[Curve, Panel]]:
    """Return the charts that the run has data for, in the order of `CURVES`."""
    panels = []
    for curve in CURVES:
        series = _series(curve, record)
        if series:
            start, end = min(s.x[0] for s in series), max(s.x[-1] for s in series)
            marks = _marks(record, float(start), float(end))
            levels = [Level(0.0, "")] if curve.zero else []
            panels.append((curve, Panel(curve.title, "training step", curve.unit, series, marks, levels, settled=True)))
    return panels


def _series(curve: Curve, record: RunRecord) -> list[Series]:
    lines, wanted = record.lines, dict[str, str]()
    for metric, label in curve.metrics.items():
        if metric.endswith("/"):
            below = dict.fromkeys(name for line in lines for name in line if name.startswith(metric))
            wanted |= {name: name.removeprefix(metric) for name in below}
        else:
            wanted[metric] = label
    found: list[Series] = []
    for metric, label in list(wanted.items())[:SERIES_IN_A_PANEL]:
        points = [(line["step"], value) for line in lines if (value := line.get(metric)) is not None]
        if len(points) > 1:
            x, y = zip(*points, strict=True)
            found.append(Series(label, x, y, len(found)))
    return found


def _marks(record: RunRecord, start: float, end: float) -> list[Mark]:
    warmup = record.experiment.training.warmup.steps
    phase = [Mark(warmup, "cooperative")] if start < warmup < end else []
    faults = [Mark(r.returned, "", fault=True) for r in record.rollbacks if start <= r.returned <= end]
    return phase + faults


def _last_step(record: RunRecord) -> float:
    return float(record.lines[-1]["step"] or 0) if record.lines else 0.0
