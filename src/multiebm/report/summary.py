"""Sections in words and numbers: the headline, all metrics, and how the run was made.

The page begins with a few sentences that say what came of the run, each from a number that was measured.
"""

import shlex
from collections.abc import Iterable, Mapping
from math import hypot
from typing import Any

from multiebm.evaluation import verdict as unlabelled
from multiebm.evaluation.learning import Sentence
from multiebm.evaluation.metrics import METRICS
from multiebm.evaluation.result import (
    ACCURACY,
    CLAMPED,
    COHERENCE,
    COND,
    FCD,
    FILL,
    REAL,
    REFINED,
    ROBUST_ACCURACY,
    ROBUST_CLAMPED,
    ROBUST_COHERENCE,
    ROBUST_COND,
    TRUSTED_ACCURACY,
    VARIETY,
    Evaluation,
    Result,
)
from multiebm.evaluation.verdict import CONFIDENCE
from multiebm.evaluation.words import HEADS, label
from multiebm.experiments.folder import parameter_counts
from multiebm.experiments.load import differences, load_experiment
from multiebm.experiments.schema import Experiment
from multiebm.experiments.sources import preset_names
from multiebm.models.chains import starts_from_noise
from multiebm.report.content import Block, Cell, Part, Section, Table, Text
from multiebm.report.filled import filled_blocks, more_blocks
from multiebm.report.record import RunRecord, pair_tables, with_interval
from multiebm.report.scene import Scene

_KINDS = {f"{source}/": head for source, head in HEADS.items()}
_WAYS = {f"{way}/": METRICS[way].title for way in (COND, REFINED, CLAMPED, ROBUST_COND, ROBUST_CLAMPED)}
_JOINT = [name for name in METRICS if METRICS[name].sources]
_OTHERS = [
    name for name in METRICS if name not in _JOINT and f"{name}/" not in _WAYS and not name.startswith(f"{FILL}/")
]
_NEAR = 6  # different keys up to which a preset is named
_BACKGROUND = 0.55  # opacity of a heat cell at 1: dark and light text both stay legible on it
NO_EVALUATION = (
    "This run has not been measured: run `multiebm evaluate` on its folder, then `multiebm report` again. Where its "
    "data are in Python alone: save multiebm.evaluate(model, dataset) in it as evaluation.json."
)
FEW_CLASSES = 0.5  # label entropy below which agreement says nothing
_ENDS = {
    None: "How training ended was not noted",
    "finished": "Training ended as planned",
    "budget": "Training ended when its time budget was spent",
    "callback": "Training ended when a callback asked for it",
    "interrupted": "Training was interrupted and has not ended",
    "stopped": "Training was stopped before its end",
    "failed": "Training failed",
}
_SAMPLES = {"gen": "a Gen sample (prior and generator)", "ebm": "an EBM sample (Gen after the chains)"}


def headline_section(scene: Scene) -> Section:
    """The verdict and whether it can be trusted, the numbers that matter, what was trained on what for how long."""
    evaluation = scene.record.evaluation
    parts: list[Part] = [Block("Verdict", [Text(words, "good" if good else "bad") for good, words in verdict(scene)])]
    judged = evaluation if evaluation is not None else scene.judges
    if judged is not None and (judged.accuracy or evaluation is None or not unlabelled.is_measured(evaluation)):
        trusted, words = trust_statement(judged.accuracy)
        parts.append(Text(words, "trust" if trusted else "warning"))
    if evaluation is not None:
        plain, robust = evaluation.judge_sets or (1, 0)
        note = "± is the half-width of a 95% interval for the finite number of samples; it does not cover other seeds."
        if plain > 1:
            more = f", robust over {robust}" if robust > 1 else ""
            note += f" Coherence is the mean over {plain} sets of judges{more}; "
            note += "its interval stands for other judges too, as far as so few can tell."
        if (temperature := scene.model.generator.temperature) < 1:
            note += f" Samples are drawn at temperature {temperature:g} of the prior over the shared latent."
        if evaluation.provisional and evaluation.has_distances:
            note += f" FCD from {evaluation.settings.samples:,} samples is biased upwards: compare equal numbers only."
        if {kind for kind, _ in scene.record.phases} == {"energy"} and starts_from_noise(scene.model.data_chain):
            note += " The energy alone has learned, by chains from noise: Gen samples and completions say nothing."
        parts += [*filled_blocks(evaluation), Block("", headline_cards(evaluation), kind="cards"), Text(note, "note")]
    return Section("headline", "", "", [*parts, Table("facts", [], run_facts(scene))])


def run_facts(scene: Scene) -> list[tuple[str, str]]:
    """Return names and values of what the run is: data, preset, steps, wall-clock, model."""
    record, trained = scene.record, scene.record.origin.get("data", {})
    name, items = trained.get("name", "not known"), trained.get("train_items")
    if scene.dataset is not None:
        name, items = scene.dataset.name, len(scene.dataset.train)
    parts = {name: (m.kind, " x ".join(map(str, m.shape))) for name, m in scene.modalities.items()}
    listed = ", ".join(f"{name} {shape}" for name, (_, shape) in parts.items())
    if len(set(parts.values())) == 1 and len(parts) > 2:
        listed = "{} {} modalities of {}".format(len(parts), *next(iter(parts.values())))
    counted = f", {items:,} training items" if items is not None else ""
    facts = {"Data set": f"{name}, {listed}{counted}", "Without its data": scene.no_data}
    facts["Preset"] = nearest_preset(record.experiment)
    if record.step:
        planned = ", ".join(f"{steps:,} {phase}" for phase, steps in record.phases)
        facts["Steps"] = f"{record.step:,}; planned: {planned}"
    facts["Training time"] = record.took
    counts = {part: n for part, n in parameter_counts(scene.model).items() if n}
    facts["Parameters"] = ", ".join(
        f"{part} {n / 1e6:.2f} M" if n >= 1e5 else f"{part} {n / 1e3:.1f} k" for part, n in counts.items()
    )
    return [(key, words) for key, words in facts.items() if words]


def headline_cards(evaluation: Evaluation) -> list[Block]:
    """Return title, values by variant and what to look for of each headline number that was measured."""
    results, cards = evaluation.results, []
    for name in _JOINT:
        found = [(head, with_interval(results[kind + name])) for kind, head in _KINDS.items() if kind + name in results]
        if found:
            cards.append(Block(label(name), [Table("facts", [], found)], METRICS[name].meaning))
    if [card.title for card in cards] == [label(VARIETY)]:  # the table of parts has it
        return []
    if f"{COND}/size1" in results:
        one = Table("facts", [], [("1 given", with_interval(results[f"{COND}/size1"]))])
        crossed = "the class carries over from one modality to the others"
        cards.insert(1, Block("Conditional coherence", [one], crossed))
    return cards


def metrics_section(scene: Scene) -> Section:
    """Every metric with its interval; conditional coherence by pair as heat tables; what was left out and why."""
    evaluation = scene.record.evaluation
    if evaluation is None:
        return Section("metrics", "Metrics", "", [Text(NO_EVALUATION, "warning")])
    lead = "The tables hold all that was measured; ± is the half-width of a 95% interval, n the number of items."
    results = evaluation.results
    joint = [name.removeprefix(kind) for kind in _KINDS for name in results if name.startswith(kind)]
    sizes = sorted({int(name.split("/size")[1]) for name in results if name.count("/") == 1 and "/size" in name})
    given = {"self": "Itself"} | {f"size{size}": f"{size} given" for size in sizes}
    ways = [way[:-1] for way in _WAYS if any(name.startswith(way) for name in results)]
    told = [name for name in _OTHERS if name in results]
    others = told + [name for name in results if name.startswith((f"{ACCURACY}/", f"{ROBUST_ACCURACY}/"))]
    blocks = [
        Block("Joint samples", [value_table(results, {key: label(key) for key in joint}, _KINDS)]),
        Block("Completion from subsets", [value_table(results, given, _WAYS)], _meanings(ways)),
        Block("Latents and judges", [value_table(results, {n: label(n) for n in others}, {"": ""})], _meanings(told)),
    ]
    heat = [
        Block(f"Coherence by pair: {_WAYS.get(f'{way}/', way)}", [heat_table(pairs)], "Row: given, column: generated.")
        for way, pairs in pair_tables(evaluation).items()
    ]
    rows = [[n, f"{r.value:.4g}", f"± {CONFIDENCE * r.standard_error:.2g}", f"{r.n:,}"] for n, r in results.items()]
    parts: list[Part] = [*more_blocks(evaluation)]
    parts += [Block("", blocks, kind="two"), Block("", heat, kind="three")]
    numbers = Table("numbers", ["name", "value", "95%", "n"], rows)
    parts.append(Block(f"All {len(rows)} numbers by name", [numbers], kind="folded"))
    if left := list(evaluation.skipped.items()):
        parts.append(Block(f"Not measured: {len(left)}", [Table("facts", [], left)], kind="folded"))
    return Section("metrics", "Metrics", lead, parts)


def value_table(results: Mapping[str, Result], rows: Mapping[str, str], columns: Mapping[str, str]) -> Table | Text:
    """Return the results called column + row, of the rows and the columns (key -> heading) that have any."""
    heads = {c: head for c, head in columns.items() if any(c + key in results for key in rows)}
    found = [
        [name, *(with_interval(results[c + key]) if c + key in results else "" for c in heads)]
        for key, name in rows.items()
        if any(c + key in results for c in heads)
    ]
    return Table("numbers", ["", *heads.values()], found) if found else Text("Not measured.", "omitted")


def heat_table(pairs: dict[tuple[str, str], Result]) -> Table:
    """Return values in [0, 1] by (row, column), the stronger coloured the higher."""
    rows = list(dict.fromkeys(source for source, _ in pairs))
    heads = list(dict.fromkeys([*rows, *(target for _, target in pairs)]))
    body: list[list[str | Cell]] = [[source] for source in rows]
    for row, source in zip(body, rows, strict=True):
        for result in (pairs.get((source, target)) for target in heads):
            strength = min(max(result.value, 0.0), 1.0) ** 2 if result else 0.0  # squared: good values still differ
            row.append(Cell(f"{result.value:.2f}" if result else "", strength=_BACKGROUND * strength))
    return Table("heat", ["", *heads], body)


def origin_section(scene: Scene) -> Section:
    """Configuration, versions, hardware, command and seed: what it takes to make the run again."""
    origin = Block("Origin", [Table("facts", [], origin_facts(scene.record))])
    config = Block("Configuration, every key", [Text(scene.record.config_text.strip(), "code")])
    lead = "The command, the versions and the settings below make this run again."
    return Section("configuration", "Configuration", lead, [Block("", [origin, config], kind="two")])


def origin_facts(record: RunRecord) -> list[tuple[str, str]]:
    """Return names and values of run.json: seed, the command of each session, versions, hardware, data."""
    facts = [("seed", str(record.experiment.seed))]
    for session in record.origin.get("sessions", []):
        facts.append(("command", shlex.join(map(str, session.get("command", [])))))
        steps = f"steps {session.get('from_step', 0)} to {session.get('to_step', '?')}"
        facts.append(("started", f"{session.get('started', '?')}, {steps}, {session.get('reason', 'not ended')}"))
    return facts + flatten({key: value for key, value in record.origin.items() if key not in ("seed", "sessions")})


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
    name, keys = min(changes.items(), key=lambda change: len(change[1]))
    if len(keys) > _NEAR:
        return ""
    return f"{name}, with another {', '.join(keys)}" if keys else name


def _meanings(names: Iterable[str]) -> str:
    return " ".join(f"{label(name)}: {METRICS[name].meaning}." for name in names)


def verdict(scene: Scene) -> list[Sentence]:
    """Return what is to be said first: how parts are filled in, samples, code, where there are labels agreement and
    energy, how the run ended, and what to try next; or how to measure these.
    """
    evaluation = scene.record.evaluation
    if evaluation is None:
        return [ending(scene.record), (False, NO_EVALUATION)]
    others = list[Sentence]()
    if evaluation.accuracy is not None or not unlabelled.is_measured(evaluation):
        others += [agreement(evaluation), *([] if scene.no_energy else [use_of_energy(evaluation)])]
    return unlabelled.verdict(evaluation, scene.record.log, [*others, ending(scene.record)])


def ending(record: RunRecord) -> Sentence:
    """Say how training ended and after how many of its steps."""
    reason, backs = record.session.get("reason"), len(record.rollbacks)
    took = f" in {record.took}" if record.took else ""
    rolled = f"; the guard rolled it back {backs} time{'s' if backs > 1 else ''}" if backs else ""
    planned = sum(steps for _, steps in record.phases)
    words = f"{_ENDS.get(reason, f'Training ended: {reason}')}: {record.step:,} of {planned:,} steps"
    good = reason in ("finished", "callback") or (reason == "budget" and record.step >= planned)
    never = record.experiment.training.unreached(record.step) if record.step and not good else []
    unlearned = f" Nothing has learned in phases that never began: {', '.join(never)}." if never else ""
    return good, f"{words}{took}{rolled}.{unlearned}"


def agreement(evaluation: Evaluation) -> Sentence:
    """Compare the joint coherence of Gen samples with what the same judges make of real items: its ceiling."""
    kind = next((kind for kind in _SAMPLES if f"{kind}/joint_coherence" in evaluation.results), None)
    if kind is None:
        why = next((f": {reason}" for name, reason in evaluation.skipped.items() if "joint_coherence" in name), "")
        return False, f"Whether the parts of a sample agree was not measured{why}."
    found, ceiling = evaluation.results[f"{kind}/joint_coherence"], evaluation.results.get("real/joint_coherence")
    entropy = evaluation.results.get("gen/label_entropy")
    few = "" if entropy is None or entropy.value >= FEW_CLASSES else f" (label entropy {entropy.value:.2f})"
    but = f" But samples show few classes{few}, which agree easily." if few else ""
    measured, robust = f": joint coherence {with_interval(found)}", ""
    under, best = (evaluation.results.get(f"{source}/{ROBUST_COHERENCE}") for source in (kind, REAL))
    if under is not None:
        robust = f" Judges that read under noise and blur say {with_interval(under)}"
        robust += "." if best is None else f", of real items {with_interval(best)}."
    if ceiling is None:
        return not few, f"The parts of {_SAMPLES[kind]} agree in class{measured}; real items: unknown.{robust}{but}"
    near = found.value >= ceiling.value - _clear(ceiling, found)
    often = "as often" if near else f"{found.value / ceiling.value:.0%} as often"
    words = f"The parts of {_SAMPLES[kind]} agree in class {often} as those of real items{measured}"
    return near and not few, f"{words}; the ceiling, real items: {with_interval(ceiling)}.{robust}{but}"


def use_of_energy(evaluation: Evaluation) -> Sentence:
    """Say what the data chain adds to Gen, by Frechet distance and joint coherence, by robust judges too."""
    better, worse, measured = list[str](), list[str](), list[str]()
    by = ((FCD, "FCD", -1), (COHERENCE, "joint coherence", 1), (ROBUST_COHERENCE, "robust coherence", 1))
    for key, title, sign in by:
        gen, ebm = (evaluation.results.get(f"{kind}/{key}") for kind in ("gen", "ebm"))
        if gen is None or ebm is None:
            continue
        measured.append(f"{title} {with_interval(gen)} to {with_interval(ebm)}")
        if (change := sign * (ebm.value - gen.value)) and abs(change) > _clear(gen, ebm):
            (better if change > 0 else worse).append(title)
    if not measured:
        return False, "Whether the energy is of use was not measured."
    said = [f"{word} in {' and '.join(titles)}" for word, titles in (("better", better), ("worse", worse)) if titles]
    how = f"is {' but '.join(said)}" if said else "makes no difference that these samples can show"
    return bool(better) and not worse, f"EBM, Gen after the chains, {how} (Gen to EBM: {', '.join(measured)})."


def _clear(a: Result, b: Result) -> float:
    """Return the difference from which two values differ by more than their errors."""
    return CONFIDENCE * hypot(a.standard_error, b.standard_error)


def trust_statement(accuracy: dict[str, float] | None) -> Sentence:
    """Return whether coherence can be trusted, and the sentence that says so with the judges' accuracy."""
    if not accuracy:
        return False, "No judges: coherence and FCD were not measured for this data set."
    listed = ", ".join(f"{name} {value:.3f}" for name, value in accuracy.items())
    if bad := ", ".join(name for name, value in accuracy.items() if value < TRUSTED_ACCURACY):
        return False, (
            f"Coherence is not to be trusted: the judges of {bad} read less than {TRUSTED_ACCURACY:.0%} of real test "
            f"items correctly (accuracy: {listed}). Train better judges before comparing these numbers."
        )
    return True, (
        f"Coherence can be trusted: every judge reads at least {TRUSTED_ACCURACY:.0%} of real test items correctly "
        f"(accuracy: {listed}). That accuracy is also the ceiling of conditional coherence."
    )
