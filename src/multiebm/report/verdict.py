"""What the page begins with: a few sentences that say what came of the run, each from a number that was measured."""

from math import hypot

from multiebm.evaluation.evaluation import Evaluation
from multiebm.evaluation.result import TRUSTED_ACCURACY, Result
from multiebm.report.record import CONFIDENCE, RunRecord, duration, with_interval
from multiebm.report.scene import Scene

NO_EVALUATION = (
    "This run has not been measured: run `multiebm evaluate` on its folder, then `multiebm report` again. Where its "
    "data are in Python alone: save multiebm.evaluate(model, dataset) in it as evaluation.json."
)
FEW_CLASSES = 0.5  # label entropy below which agreement says little
_ENDS = {
    "finished": "Training ended as planned",
    "budget": "Training ended when its time budget was spent",
    "interrupted": "Training was interrupted and has not ended",
    "stopped": "Training was stopped before its end",
    "failed": "Training failed",
}
Sentence = tuple[bool, str]  # whether it is good news


def verdict(scene: Scene) -> list[Sentence]:
    """Return whether the run ended, whether samples agree as real items do, what the energy is of use for, whether the
    code is used, and whether the judges can be trusted; where nothing was measured, how to measure.
    """
    evaluation = scene.record.evaluation
    found = [ending(scene.record)]
    if evaluation is None:
        return [*found, (False, NO_EVALUATION)]
    candidates = [agreement(evaluation), use_of_energy(evaluation, scene.no_energy), use_of_code(evaluation)]
    return found + [sentence for sentence in candidates if sentence is not None]


def ending(record: RunRecord) -> Sentence:
    """Say how training ended and after how many of its steps."""
    training, sessions = record.experiment.training, record.origin.get("sessions", [])
    planned = training.warmup.steps + training.cooperative.steps
    last = record.lines[-1] if record.lines else {}
    session = sessions[-1] if sessions else {}
    reason = session.get("reason")
    how = _ENDS.get(str(reason), "How training ended was not noted" if reason is None else f"Training ended: {reason}")
    step = int(session.get("to_step") or last.get("step") or 0)
    seconds = session.get("seconds") or last.get("seconds")
    took = f" in {duration(float(seconds))}" if isinstance(seconds, int | float) else ""
    backs = len(record.rollbacks)
    rolled = f"; the guard rolled it back {backs} time{'s' if backs > 1 else ''}" if backs else ""
    return reason in ("finished", "budget"), f"{how}: {step:,} of {planned:,} steps{took}{rolled}."


def agreement(evaluation: Evaluation) -> Sentence:
    """Compare the joint coherence of samples with what the same judges make of real items: its ceiling."""
    found = {kind: evaluation.results.get(f"{kind}/joint_coherence") for kind in ("gen", "ebm", "real")}
    kinds = [(name, result) for name, result in (("Gen", found["gen"]), ("EBM", found["ebm"])) if result is not None]
    if not kinds:
        why = next((reason for name, reason in evaluation.skipped.items() if "joint_coherence" in name), "")
        return False, "Whether the parts of a sample agree was not measured" + (f": {why}." if why else ".")
    best = max(result.value for _, result in kinds)
    measured = ", ".join(f"{name} {with_interval(result)}" for name, result in kinds)
    entropy = evaluation.results.get("gen/label_entropy")
    few = "" if entropy is None or entropy.value >= FEW_CLASSES else f" (label entropy {entropy.value:.2f})"
    but = f" But samples show few classes{few}, which agree easily." if few else ""
    ceiling = found["real"]
    if ceiling is None:
        return not few, f"The parts of a sample agree in class: joint coherence {measured}; real items: unknown.{but}"
    error = CONFIDENCE * hypot(ceiling.standard_error, max(result.standard_error for _, result in kinds))
    near = best >= ceiling.value - error
    often = "as often" if near else f"{best / ceiling.value:.0%} as often"
    words = f"The parts of a sample agree in class {often} as those of real items: joint coherence {measured}"
    return near and not few, f"{words}; the ceiling, real items: {with_interval(ceiling)}.{but}"


def use_of_energy(evaluation: Evaluation, no_energy: str) -> Sentence | None:
    """Say what the data chain does to samples, by Frechet distance and joint coherence; None without an energy."""
    if no_energy:
        return None
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
    said = f"better in {' and '.join(better)}" if better else ""
    said += (" but " if better and worse else "") + (f"worse in {' and '.join(worse)}" if worse else "")
    how = f"makes samples {said}" if said else "makes no difference that these samples can show"
    return bool(better) and not worse, f"The energy {how} (Gen to EBM: {', '.join(measured)})."


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
    bad = [name for name, value in accuracy.items() if value < TRUSTED_ACCURACY]
    if bad:
        return False, (
            f"Coherence is not to be trusted: the judges of {', '.join(bad)} read less than {TRUSTED_ACCURACY:.0%} of "
            f"real test items correctly (accuracy: {listed}). Train better judges before comparing these numbers."
        )
    return True, (
        f"Coherence can be trusted: every judge reads at least {TRUSTED_ACCURACY:.0%} of real test items correctly "
        f"(accuracy: {listed}). That accuracy is also the ceiling of conditional coherence."
    )
