"""Can the spread of completions be trusted? What the shares of held-out values within intervals of 90 % say."""

from collections.abc import Sequence
from math import sqrt

from multiebm.evaluation.learning import Sentence
from multiebm.evaluation.result import Evaluation, Result

CONFIDENCE = 1.96  # standard errors on either side of a value, for an interval of 95 %
FEW = 10  # rows below which nothing is concluded: their standard errors say little
RIGHT, TRUSTED = (0.87, 0.93), (0.85, 0.95)  # shares within intervals of 90 %: right, and a little off at most


def intervals(evaluation: Evaluation, parts: Sequence[str]) -> Sentence | None:
    """Say whether the spread of completions can be trusted; None where no part has intervals of rows enough."""
    found = {part: evaluation.results.get(f"fill/coverage90/{part}") for part in parts}
    inside = {part: result for part, result in found.items() if result is not None and result.n >= FEW}
    if not inside:
        return None
    off = {part: how for part, result in inside.items() if (how := _off(result))}
    if not off:
        least, most = (f(result.value for result in inside.values()) for f in (min, max))
        span = f"{least:.0%}" if f"{least:.0%}" == f"{most:.0%}" else f"{least:.0%} to {most:.0%}"
        return True, f"Intervals can be trusted: those of 90% hold {span} of the held-out values."
    told = ", ".join(f"{how} for {part!r} (those of 90% hold {inside[part].value:.0%})" for part, how in off.items())
    if any(interval_fit(inside[part]) for part in off):
        return False, f"Intervals cannot be trusted: {told}."
    if all(TRUSTED[0] <= inside[part].value <= TRUSTED[1] for part in off):
        return True, f"Intervals can nearly be trusted: {told}."
    n = min(inside[part].n for part in off)
    return False, f"Whether intervals can be trusted cannot be told from {n} rows: {told}."


def _off(inside: Result) -> str:
    """Return "too narrow", "a little too narrow" or "perhaps too narrow", or wide, of intervals that are not right."""
    if RIGHT[0] <= inside.value <= RIGHT[1]:
        return ""
    how = f"too {'narrow' if inside.value < RIGHT[0] else 'wide'}"
    if interval_fit(inside):
        return how
    return f"a little {how}" if TRUSTED[0] <= inside.value <= TRUSTED[1] else f"perhaps {how}"


def interval_fit(inside: Result) -> str:
    """Return "narrow" or "wide" of intervals that hold far fewer or more than 90 %, else nothing.

    The error is at least that of one value a row: a few rows may all be inside by luck.
    """
    clear = CONFIDENCE * max(inside.standard_error, sqrt(0.9 * 0.1 / inside.n))
    if inside.value < TRUSTED[0] and inside.value + clear < 0.9:
        return "narrow"
    return "wide" if inside.value > TRUSTED[1] and inside.value - clear > 0.9 else ""


def other_noise(part: str, fit: str, learned: bool) -> str:
    """Return what to try where the intervals of a part are too narrow or too wide, if its noise is `learned` or not."""
    if not learned:
        how = "learned, or wider than" if fit == "narrow" else "learned, or narrower than"
        return f"let the noise of {part} be {how} now (model.parts.{part}.scale=learned)"
    if fit == "wide":
        return f"train longer, as the noise that is learned of {part} is still too large (training.phases.bound.steps)"
    return (
        f"train on more rows, or for fewer steps, as {part} varies more on held-out rows (training.phases.bound.steps)"
    )
