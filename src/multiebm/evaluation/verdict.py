"""Does it work? What was measured, in sentences that a newcomer can say back, and what to try next."""

from collections.abc import Mapping, Sequence

import numpy as np

from multiebm.evaluation.regressions import AVERAGE, NEIGHBOURS, REGRESSION
from multiebm.evaluation.result import MATCH, SCORE, TWO_SAMPLE, Evaluation, Result

CONFIDENCE = 1.96  # standard errors on either side of a value, for an interval of 95 %
Sentence = tuple[bool, str]  # whether it is good news
Lines = Sequence[Mapping[str, float | None]]  # of a run's log of training, as in metrics.jsonl

LOSS = "loss/elbo"  # of the log: that of the phase bound
LEAST_LINES = 12  # of the log, below which nothing is said of its end
STILL_FALLING = 0.02  # of all that the loss has fallen, in its last quarter
TRUSTED = (0.85, 0.95)  # shares within intervals of 90 % that are near enough
ALIKE = 0.25  # of the variance of real parts, below which samples are nearly all alike
IGNORED, WORTH = 0.05, 0.1  # R2 of a part that the model leaves at its mean, and share that regression saves there
TELLS, FAINTLY = 0.75, 0.55  # AUROC of what belongs together
LOOKS_REAL, LOOKS_WRONG = 0.6, 0.8  # accuracy of a classifier of samples
_RIVALS = {REGRESSION: "regression", NEIGHBOURS: "nearest neighbours"}
MEASURES = {"log_loss": "log loss", "deviance": "deviance", "rmse": "error"}


def verdict(evaluation: Evaluation, lines: Lines = ()) -> list[Sentence]:
    """Return what is to be said of a model without labels, and of its training by its log; the last is what to try."""
    if not (parts := parts_of(evaluation)):
        return []
    said = [filled_in(evaluation, part) for part in parts]
    others = (intervals(evaluation, parts), belonging(evaluation), samples(evaluation), still_learning(lines))
    said += [sentence for sentence in others if sentence is not None]
    return [*said, advice(evaluation, parts, lines)]


def parts_of(evaluation: Evaluation) -> list[str]:
    """Return the parts that were filled in."""
    return [name.removeprefix("fill/r2/") for name in evaluation.results if name.startswith("fill/r2/")]


def measure_of(evaluation: Evaluation, part: str) -> tuple[str, str]:
    """Return by which error a part is judged, and that in words."""
    key = next((key for key in MEASURES if f"fill/{key}/{part}" in evaluation.results), "")
    return key, MEASURES.get(key, "error")


def filled_in(evaluation: Evaluation, part: str) -> Sentence:
    """Say how well a part is filled in from all others, beside regression and neighbours on the same rows."""
    results = evaluation.results
    key, measure = measure_of(evaluation, part)
    beaten, words = list[bool](), list[str]()
    for rival, named in _RIVALS.items():
        if (saved := results.get(f"fill/over_{rival}/{part}")) is not None:
            beaten.append(not clearly_below(saved))
            clear = abs(saved.value) > CONFIDENCE * saved.standard_error
            how = f"{abs(saved.value):.0%} {'less' if saved.value > 0 else 'more'} {measure} than"
            words.append(f"{how if clear else f'as much {measure} as'} {named}")
    numbers = {
        measure: f"fill/{key}/{part}",
        **{named: f"fill/{rival}/{part}" for rival, named in _RIVALS.items()},
        "always the mean": f"fill/{AVERAGE}/{part}",
    }
    listed = ", ".join(f"{named} {results[name].value:.2f}" for named, name in numbers.items() if name in results)
    useless = results[f"fill/r2/{part}"].value <= IGNORED
    ignored = " The model does not use the other parts for it." if ignores(evaluation, part) else ""
    no_better = " That is no better than always guessing the mean." if useless and not ignored else ""
    how = f"{part!r} is filled in{' with ' if words else ''}{' and '.join(words)} ({listed})."
    return all(beaten) and not useless, how + no_better + ignored


def ignores(evaluation: Evaluation, part: str) -> bool:
    """Return whether a part is left at its mean though regression fills it in from the others."""
    mean, regression = (evaluation.results.get(f"fill/{name}/{part}") for name in (AVERAGE, REGRESSION))
    if mean is None or regression is None or evaluation.results[f"fill/r2/{part}"].value > IGNORED:
        return False
    return regression.value < (1 - WORTH) * mean.value


def intervals(evaluation: Evaluation, parts: Sequence[str]) -> Sentence | None:
    """Say whether the spread of completions can be trusted; None where no part has intervals."""
    found = {part: evaluation.results.get(f"fill/coverage90/{part}") for part in parts}
    inside = {part: result for part, result in found.items() if result is not None}
    if not inside:
        return None
    kinds = {part: fit for part, result in inside.items() if (fit := interval_fit(result))}
    if not kinds:
        least, most = (f(result.value for result in inside.values()) for f in (min, max))
        span = f"{least:.0%}" if f"{least:.0%}" == f"{most:.0%}" else f"{least:.0%} to {most:.0%}"
        return True, f"Intervals can be trusted: those of 90% hold {span} of the held-out values."
    told = [f"too {fit} for {part!r} (those of 90% hold {inside[part].value:.0%})" for part, fit in kinds.items()]
    return False, f"Intervals cannot be trusted: {', '.join(told)}."


def interval_fit(inside: Result) -> str:
    """Return "narrow" or "wide" of intervals that hold far fewer or more than 90 %, else nothing."""
    clear = CONFIDENCE * inside.standard_error
    if inside.value < TRUSTED[0] and inside.value + clear < 0.9:
        return "narrow"
    return "wide" if inside.value > TRUSTED[1] and inside.value - clear > 0.9 else ""


def belonging(evaluation: Evaluation) -> Sentence | None:
    """Say whether `match` tells what belongs together; None where it was not measured."""
    if (found := evaluation.results.get(MATCH)) is None:
        return None
    often = f"true rows match better than rows with a foreign part {found.value:.0%} of the time, and 50% is chance"
    if (score := evaluation.results.get(SCORE)) is not None:
        often += f" (score: {score.value:.0%})"
    if found.value > TELLS:
        return True, f"Match tells what belongs together: {often}."
    if found.value > FAINTLY and found.value - CONFIDENCE * found.standard_error > 0.5:
        return False, f"Match tells only faintly what belongs together: {often}."
    return False, f"Match does not tell what belongs together: {often}."


def samples(evaluation: Evaluation) -> Sentence | None:
    """Say whether samples vary as real rows do, and can be told from them; None where that was not measured."""
    variety = {name.removeprefix("gen/variety/"): r for name, r in evaluation.results.items() if "gen/variety/" in name}
    if alike := [f"{part} {r.value:.0%}" for part, r in variety.items() if r.value < ALIKE]:
        return False, f"Samples are nearly all alike: they vary far less than real rows ({', '.join(alike)} as much)."
    if (told := evaluation.results.get(TWO_SAMPLE)) is None:
        return None
    often = f"a classifier is right {told.value:.0%} of the time, and 50% is chance"
    if told.value < LOOKS_REAL or told.value - CONFIDENCE * told.standard_error < 0.5:
        return True, f"Samples can hardly be told from real rows: {often}."
    how = "easily" if told.value > LOOKS_WRONG else "often"
    return False, f"Samples can {how} be told from real rows: {often}."


def still_learning(lines: Lines) -> Sentence | None:
    """Say whether the loss was still falling when training ended; None where the log is too short to say."""
    if (share := fallen_at_end(lines)) is None:
        return None
    if share <= STILL_FALLING:
        return True, "Training was long enough: its loss had stopped falling."
    return False, f"Training was too short: {share:.0%} of all that its loss fell came in the last quarter."


def fallen_at_end(lines: Lines) -> float | None:
    """Return by what share of its whole fall the loss fell in the last quarter of the log, by a straight line through
    it; 0 where that is not beyond the noise of single lines, None where the log is too short.
    """
    found = (line.get(LOSS) for line in lines)
    loss = np.array([value for value in found if isinstance(value, int | float)], float)
    if len(loss) < LEAST_LINES:
        return None
    end, start = loss[-max(len(loss) // 4, 3) :], float(loss[: max(len(loss) // 20, 1)].mean())
    at = np.arange(len(end)) - (len(end) - 1) / 2
    slope = float(at @ end / (at @ at))
    noise = float(np.sqrt(np.square(end - end.mean() - slope * at).sum() / max(len(end) - 2, 1) / (at @ at)))
    whole = start - float(end.mean()) - slope * float(at[-1])
    return -slope * len(end) / whole if whole > 0 and -slope > 3 * noise else 0.0


def clearly_below(result: Result) -> bool:
    """Return whether a value is below 0 by more than its error."""
    return result.value < -CONFIDENCE * result.standard_error


def advice(evaluation: Evaluation, parts: Sequence[str], lines: Lines) -> Sentence:
    """Say what to try next, the most promising first, at most two."""
    results, tries = evaluation.results, list[str]()
    worse = [part for part in parts if clearly_below(results.get(f"fill/over_{REGRESSION}/{part}", Result(0, 0, 0)))]
    numbers = [part for part in parts if f"fill/rmse/{part}" in results]  # noise of other kinds has no scale
    fits = {part: interval_fit(found) for part in numbers if (found := results.get(f"fill/coverage90/{part}"))}
    if (fallen_at_end(lines) or 0.0) > STILL_FALLING:
        tries.append("train longer (twice the steps of the phase bound, training.phases.bound.steps)")
    if evaluation.collapse is not None or any(ignores(evaluation, part) for part in parts):
        tries.append("lower training.phases.bound.beta, so that codes tell more of an item")
    if wrong := [part for part, fit in fits.items() if fit]:
        how = "learned, or wider than" if fits[wrong[0]] == "narrow" else "learned, or narrower than"
        tries.append(f"let the noise of {wrong[0]} be {how} now (model.parts.{wrong[0]}.scale=learned)")
    if worse and not tries:
        tries.append("train another method (multiebm compare mopoe mmvaeplus), or longer")
    if (told := samples(evaluation)) is not None and not told[0]:
        tries.append("draw samples from the whole prior (model.temperature=1)")
    if not tries:
        return True, "Nothing stands out to be mended; more rows are the next thing to try."
    return False, f"Try next: {'; then '.join(tries[:2])}."
