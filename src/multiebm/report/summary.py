"""Sections in words and numbers: the headline, all metrics, and how the run was made."""

import shlex
from typing import Any

from multiebm.core.modality import Modality
from multiebm.evaluation.evaluation import Evaluation
from multiebm.evaluation.result import Result
from multiebm.experiments.folder import parameter_counts
from multiebm.experiments.load import differences, load_experiment, preset_names
from multiebm.experiments.schema import Experiment
from multiebm.report.markup import (
    block,
    bullets,
    cell,
    columns,
    definitions,
    disclosure,
    join,
    paragraph,
    row_head,
    section,
    table,
    text,
)
from multiebm.report.record import CONFIDENCE, RunRecord, duration, pair_tables, with_interval
from multiebm.report.scene import Scene
from multiebm.report.verdict import NO_EVALUATION, trust_statement, verdict

_JOINT = {
    "joint_coherence": "joint coherence",
    "label_entropy": "label entropy",
    "fcd": "FCD",
    "fid": "FID",
    "variety": "variety",
}
_KINDS = {"gen": "Gen", "ebm": "EBM", "real": "Real"}
_WAYS = {"cond": "amortised", "cond_refined": "latent chain", "cond_ebm": "data chain"}
_WAYS_NOTE = (
    "Amortised: one draw of the inference model. Latent chain: refined by the posterior of the given parts. "
    "Data chain: the completed item refined by the energy, given parts held fixed."
)
_OTHERS = {
    "latent_classification": "latent classification",
    "private_leakage": "class read off private latents",
    "latent/kl": "divergence of codes from the prior, nats an item",
    "latent/active_units": "latents in use",
    "latent/units": "latents",
}
_NEAR = 6  # different keys up to which a preset is named
_BACKGROUND = 0.55  # opacity of a heat cell at 1: dark and light text both stay legible on it


def headline_section(scene: Scene) -> str:
    """The verdict and whether it can be trusted, the numbers that matter, what was trained on what for how long."""
    evaluation = scene.record.evaluation
    top = ['<section id="headline">', bullets("Verdict", verdict(scene))]
    facts = definitions(run_facts(scene))
    if evaluation is None:
        trust = _trust(scene.judges.accuracy) if scene.judges else ""
        return join([*top, trust, facts, "</section>"])
    cards = "".join(_card(*card) for card in headline_cards(evaluation))
    lead = "± is the half-width of a 95% interval for the finite number of samples; it does not cover other seeds."
    if (temperature := scene.model.generator.temperature) < 1:
        lead += f" Samples are drawn at temperature {temperature:g} of the prior over the shared latent."
    if evaluation.provisional:
        lead += f" FCD from {evaluation.settings.samples:,} samples is biased upwards: compare equal numbers only."
    body = f'<div class="cards">{cards}</div>' if cards else ""
    return join([*top, _trust(evaluation.accuracy), body, paragraph(lead, "note"), facts, "</section>"])


def run_facts(scene: Scene) -> list[tuple[str, str]]:
    """Return names and values of what the run is: data, preset, steps, wall-clock, model."""
    record = scene.record
    last = record.lines[-1] if record.lines else {}
    warmup = record.experiment.training.warmup.steps
    trained = record.origin.get("data", {})
    name = scene.dataset.name if scene.dataset else trained.get("name", "not known")
    items = len(scene.dataset.train) if scene.dataset else trained.get("train_items")
    counted = f", {items:,} training items" if items is not None else ""
    facts = [("Data set", f"{name}, {_modalities(scene)}{counted}")]
    if scene.dataset is None:
        facts.append(("Without its data", scene.no_data))
    preset = nearest_preset(record.experiment)
    if preset:
        facts.append(("Preset", preset))
    if last:
        steps = int(last["step"] or 0)
        facts.append(("Steps", f"{steps:,}, of which {min(warmup, steps):,} warm-up"))
    if last.get("seconds") is not None:
        facts.append(("Training time", duration(float(last["seconds"] or 0))))
    counts = [f"{name} {_count(n)}" for name, n in parameter_counts(scene.model).items() if n]
    return [*facts, ("Parameters", ", ".join(counts))]


def headline_cards(evaluation: Evaluation) -> list[tuple[str, list[tuple[str, str]], str]]:
    """Return (title, [(variant, value)], what to look for) for each headline number that was measured."""
    told = {
        "joint_coherence": "all modalities of a sample show the same class; real items, as the judges read them, "
        "are the ceiling",
        "label_entropy": "1: all classes equally often; a collapsed model can be coherent",
        "fcd": "Frechet distance on the judges' features, lower is better",
        "fid": "Frechet distance on Inception features, lower is better",
        "variety": "variance of pixels as a share of real ones': 1 is as varied as the data",
    }
    cards = []
    for key, title in _JOINT.items():
        variants = [(name, evaluation.results.get(f"{kind}/{key}")) for kind, name in _KINDS.items()]
        found = [(name, with_interval(result)) for name, result in variants if result is not None]
        if found:
            cards.append((title[0].upper() + title[1:], found, told[key]))
    crossed = evaluation.results.get("cond/size1")
    if crossed is not None:
        found = [("1 given", with_interval(crossed))]
        cards.insert(1, ("Conditional coherence", found, "the class carries over from one modality to the others"))
    return cards


def metrics_section(record: RunRecord) -> str:
    """Every metric with its interval; conditional coherence by pair as heat tables; what was left out and why."""
    lead = "Everything that was measured; ± is the half-width of a 95% interval, n the number of items."
    evaluation = record.evaluation
    if evaluation is None:
        return section("metrics", "Metrics", "", paragraph(NO_EVALUATION, "warning"))
    blocks = [
        block("Joint samples", _joint_table(evaluation)),
        block("Completion from subsets", _subset_table(evaluation), _WAYS_NOTE),
        block("Latents and judges", _other_table(evaluation)),
    ]
    heat = [
        block(f"Coherence by pair: {_WAYS.get(way, way)}", heat_table(pairs), "Row: given, column: generated.")
        for way, pairs in pair_tables(evaluation).items()
    ]
    flat = [
        [
            row_head(name),
            cell(text(f"{r.value:.4g}")),
            cell(text(f"± {CONFIDENCE * r.standard_error:.2g}")),
            cell(f"{r.n:,}"),
        ]
        for name, r in evaluation.results.items()
    ]
    everything = disclosure(f"All {len(flat)} numbers by name", table(["name", "value", "95%", "n"], flat, "numbers"))
    left_out = definitions(evaluation.skipped.items()) if evaluation.skipped else ""
    omitted = disclosure(f"Not measured: {len(evaluation.skipped)}", left_out) if left_out else ""
    return section(
        "metrics", "Metrics", lead, join([columns(blocks, "three"), columns(heat, "three"), everything, omitted])
    )


def heat_table(pairs: dict[tuple[str, str], Result]) -> str:
    """Return values in [0, 1] by (row, column), the stronger coloured the higher."""
    rows = list(dict.fromkeys(source for source, _ in pairs))
    heads = list(dict.fromkeys([*rows, *(target for _, target in pairs)]))
    body = []
    for source in rows:
        row = [row_head(source)]
        for target in heads:
            result = pairs.get((source, target))
            if result is None:
                row.append(cell(""))
            else:
                strength = _BACKGROUND * min(max(result.value, 0.0), 1.0) ** 2  # squared: good values still differ
                row.append(cell(f"{result.value:.2f}", style=f"background:rgba(0,114,178,{strength:.3f})"))
        body.append(row)
    return table(["", *heads], body, "heat")


def origin_section(record: RunRecord) -> str:
    """Configuration, versions, hardware, command and seed: what it takes to make the run again."""
    lead = "What it takes to make this run again."
    config = f"<pre>{text(record.config_text.strip())}</pre>"
    body = columns(
        [block("Origin", definitions(origin_facts(record))), block("Configuration, every key", config)], "two"
    )
    return section("configuration", "Configuration", lead, body)


def origin_facts(record: RunRecord) -> list[tuple[str, str]]:
    """Return names and values of run.json: seed, the command of each session, versions, hardware, data."""
    facts = [("seed", str(record.experiment.seed))]
    origin = {key: value for key, value in record.origin.items() if key not in ("seed", "sessions")}
    for session in record.origin.get("sessions", []):
        facts.append(("command", shlex.join(map(str, session.get("command", [])))))
        steps = f"steps {session.get('from_step', 0)} to {session.get('to_step', '?')}"
        facts.append(("started", f"{session.get('started', '?')}, {steps}, {session.get('reason', 'not ended')}"))
    return facts + flatten(origin)


def flatten(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested values as (dotted key, text), in order; nulls and lists of sections are left out."""
    found: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            found += flatten(value, f"{prefix}{key}.")
        elif value is not None and not (isinstance(value, list) and any(isinstance(item, dict) for item in value)):
            found.append((f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return found


def nearest_preset(experiment: Experiment) -> str:
    """Return the preset with the fewest different keys and, if any, which ones; empty if none is near."""
    changes = {name: [d.key for d in differences(load_experiment(name), experiment)] for name in preset_names()}
    if not changes:
        return ""
    name = min(changes, key=lambda name: len(changes[name]))
    keys = changes[name]
    if len(keys) > _NEAR:
        return ""
    return f"{name}, with another {', '.join(keys)}" if keys else name


def _trust(accuracy: dict[str, float] | None) -> str:
    trusted, words = trust_statement(accuracy)
    return paragraph(words, "trust" if trusted else "warning")


def _card(title: str, variants: list[tuple[str, str]], told: str) -> str:
    lines = "".join(f"<div><span>{text(name)}</span><strong>{text(value)}</strong></div>" for name, value in variants)
    return f'<div class="card"><h3>{text(title)}</h3>{lines}<p>{text(told)}</p></div>'


def _joint_table(evaluation: Evaluation) -> str:
    found = [(kind, key) for kind, _, key in (name.partition("/") for name in evaluation.results) if kind in _KINDS]
    if not found:
        return paragraph("Not measured.", "omitted")
    kinds = [kind for kind in _KINDS if kind in dict(found)]
    rows = []
    for key in dict.fromkeys(key for _, key in found):
        head, _, modality = key.partition("/")
        label = _JOINT.get(head, head) + (f", {modality}" if modality else "")
        rows.append([row_head(label), *[_value(evaluation, f"{kind}/{key}") for kind in kinds]])
    return table(["", *[_KINDS[kind] for kind in kinds]], rows, "numbers")


def _subset_table(evaluation: Evaluation) -> str:
    ways = [way for way in _WAYS if any(name.startswith(f"{way}/") for name in evaluation.results)]
    sizes = sorted(
        {int(name.split("/")[1][4:]) for name in evaluation.results if name.count("/") == 1 and "/size" in name}
    )
    rows = [[row_head("itself"), *[_value(evaluation, f"{way}/self") for way in ways]]]
    rows += [[row_head(f"{size} given"), *[_value(evaluation, f"{way}/size{size}") for way in ways]] for size in sizes]
    return (
        table(["", *[_WAYS[way] for way in ways]], rows, "numbers") if ways else paragraph("Not measured.", "omitted")
    )


def _other_table(evaluation: Evaluation) -> str:
    rows = [[row_head(label), _value(evaluation, key)] for key, label in _OTHERS.items() if key in evaluation.results]
    judges = [name for name in evaluation.results if name.startswith("judge/accuracy/")]
    rows += [
        [row_head(f"judge of {name.removeprefix('judge/accuracy/')}"), _value(evaluation, name)] for name in judges
    ]
    return table(["measured", ""], rows, "numbers") if rows else paragraph("Not measured.", "omitted")


def _value(evaluation: Evaluation, name: str) -> str:
    result = evaluation.results.get(name)
    return cell(text(with_interval(result)) if result else "")


def _modalities(scene: Scene) -> str:
    kinds = [f"{name} {_shape(m)}" for name, m in scene.modalities.items()]
    shapes = {m.shape for m in scene.modalities.values()}
    if len(shapes) == 1 and len(kinds) > 2:
        first = next(iter(scene.modalities.values()))
        return f"{len(kinds)} {first.kind} modalities of {_shape(first)}"
    return ", ".join(kinds)


def _shape(modality: Modality) -> str:
    return " x ".join(map(str, modality.shape))


def _count(n: int) -> str:
    return f"{n / 1e6:.2f} M" if n >= 1e5 else f"{n / 1e3:.1f} k"
