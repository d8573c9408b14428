"""What the page begins with: a few sentences that say what came of the run, each from a number that was measured."""

from math import hypot

from multiebm.evaluation.evaluation import Evaluation
from multiebm.evaluation.result import TRUSTED_ACCURACY, Result, is_trustworthy
from multiebm.report.record import CONFIDENCE, RunRecord, with_interval
from multiebm.report.scene import Scene

NO_EVALUATION = (
    "This run has not been measured: run `multiebm evaluate` on its folder, then `multiebm report` again. Where its "
    "data are in Python alone: save multiebm.evaluate(model, dataset) in it as evaluation.json."
)
FEW_CLASSES = 0.5  # label entropy below which agreement says little
_ENDS = {
    None: "How training ended was not noted",
    "finished": "Training ended as planned",
    "budget": "Training ended when its time budget was spent",
    "interrupted": "Training was interrupted and has not ended",
    "stopped": "Training was stopped before its end",
    "failed": "Training failed",
}
_KINDS = {"gen": "a Gen sample (prior and generator)", "ebm": "an EBM sample (Gen after the data chain)"}
Sentence = tuple[bool, str]  # whether it is good news


def verdict(scene: Scene) -> list[Sentence]:
    """Return whether the run ended, whether samples agree as real items do, what the energy adds to them, and whether
    the code is used; where nothing was measured, how to measure.
    """
    evaluation = scene.record.evaluation
    if evaluation is None:
        return [ending(scene.record), (False, NO_EVALUATION)]
    found = [ending(scene.record), agreement(evaluation)]
    if not scene.no_energy:
        found.append(use_of_energy(evaluation))
    used = use_of_code(evaluation)
    return found if used is None else [*found, used]


def ending(record: RunRecord) -> Sentence:
    """Say how training ended and after how many of its steps."""
    reason, backs = record.session.get("reason"), len(record.rollbacks)
    took = f" in {record.took}" if record.took else ""
    rolled = f"; the guard rolled it back {backs} time{'s' if backs > 1 else ''}" if backs else ""
    planned = sum(steps for _, steps in record.phases)
    words = f"{_ENDS.get(reason, f'Training ended: {reason}')}: {record.step:,} of {planned:,} steps"
    return reason in ("finished", "budget"), f"{words}{took}{rolled}."


def agreement(evaluation: Evaluation) -> Sentence:
    """Compare the joint coherence of Gen samples with what the same judges make of real items: its ceiling."""
    kind = next((kind for kind in _KINDS if f"{kind}/joint_coherence" in evaluation.results), None)
    if kind is None:
        why = next((f": {reason}" for name, reason in evaluation.skipped.items() if "joint_coherence" in name), "")
        return False, f"Whether the parts of a sample agree was not measured{why}."
    found, ceiling = evaluation.results[f"{kind}/joint_coherence"], evaluation.results.get("real/joint_coherence")
    entropy = evaluation.results.get("gen/label_entropy")
    few = "" if entropy is None or entropy.value >= FEW_CLASSES else f" (label entropy {entropy.value:.2f})"
    but = f" But samples show few classes{few}, which agree easily." if few else ""
    measured = f": joint coherence {with_interval(found)}"
    if ceiling is None:
        return not few, f"The parts of {_KINDS[kind]} agree in class{measured}; real items: unknown.{but}"
    near = found.value >= ceiling.value - _clear(ceiling, found)
    often = "as often" if near else f"{found.value / ceiling.value:.0%} as often"
    words = f"The parts of {_KINDS[kind]} agree in class {often} as those of real items{measured}"
    return near and not few, f"{words}; the ceiling, real items: {with_interval(ceiling)}.{but}"


def use_of_energy(evaluation: Evaluation) -> Sentence:
    """Say what the data chain adds to Gen, by Frechet distance and joint coherence."""
    better, worse, measured = list[str](), list[str](), list[str]()
    for key, title, sign in (("fcd", "FCD", -1), ("joint_coherence", "joint coherence", 1)):
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
    return bool(better) and not worse, f"EBM, Gen after the data chain, {how} (Gen to EBM: {', '.join(measured)})."


def _clear(a: Result, b: Result) -> float:
    """Return the difference from which two values differ by more than their errors."""
    return CONFIDENCE * hypot(a.standard_error, b.standard_error)


def use_of_code(evaluation: Evaluation) -> Sentence | None:
    """Say how much the shared code tells of an item; None where it was not looked at."""
    if evaluation.collapse is not None:
        return False, evaluation.collapse
    kl, active, units = (evaluation.results.get(f"latent/{name}") for name in ("kl", "active_units", "units"))
    if kl is None:
        return None
    used = "" if active is None or units is None else f", {active.value:.0f} of {units.value:.0f} latents are in use"
    return True, f"The shared code tells items apart: {kl.value:.1f} nats an item{used}."


def trust_statement(accuracy: dict[str, float] | None) -> Sentence:
    """Return whether coherence can be trusted, and the sentence that says so with the judges' accuracy."""
    if not accuracy:
        return False, "No judges: coherence and FCD were not measured for this data set."
    listed = ", ".join(f"{name} {value:.3f}" for name, value in accuracy.items())
    if is_trustworthy(accuracy):
        return True, (
            f"Coherence can be trusted: every judge reads at least {TRUSTED_ACCURACY:.0%} of real test items correctly "
            f"(accuracy: {listed}). That accuracy is also the ceiling of conditional coherence."
        )
    bad = ", ".join(name for name, value in accuracy.items() if value < TRUSTED_ACCURACY)
    return False, (
        f"Coherence is not to be trusted: the judges of {bad} read less than {TRUSTED_ACCURACY:.0%} of real test items "
        f"correctly (accuracy: {listed}). Train better judges before comparing these numbers."
    )
