"""Does it work? What was measured, in sentences that a newcomer can say back, and what to try next."""

from collections.abc import Sequence
from math import hypot
from typing import NamedTuple

from multiebm.evaluation.fluency import unlike_real
from multiebm.evaluation.intervals import CONFIDENCE, FEW, interval_fit, intervals, other_noise
from multiebm.evaluation.learning import (
    STILL_FALLING,
    Lines,
    Sentence,
    fallen_at_end,
    is_brief,
    made_no_step,
    still_learning,
)
from multiebm.evaluation.regressions import AVERAGE, NEIGHBOURS, REGRESSION
from multiebm.evaluation.result import (
    ACTIVE,
    FILL,
    GEN,
    KL,
    MATCH,
    SCORE,
    TWO_SAMPLE,
    UNITS,
    VARIETY,
    Evaluation,
    Result,
)

BY_HEART = 1.5  # times the error on training rows that one on held-out rows has where the model has learned them
DEAD, ALIKE, EVEN = 0.01, 0.25, 0.8  # of the variance of real parts, below which samples are one, alike, too even
IGNORED, WORTH, SAME = 0.05, 0.1, 0.01  # R2 of a part left at its mean, what regression saves there, how near means are
TELLS, FAINTLY = 0.75, 0.55  # AUROC of what belongs together
LOOKS_REAL, LOOKS_WRONG = 0.6, 0.8  # accuracy of a classifier of samples


class Measure(NamedTuple):
    """An error by which a kind of part is judged, in words: its name, its unit, and the regression beside it."""

    title: str
    unit: str = ""
    regression: str = "regression"


MEASURES = {
    "log_loss": Measure("log loss", regression="logistic regression"),
    "deviance": Measure("deviance"),
    "rmse": Measure("error", " standard deviations", "ridge regression"),
}


def verdict(evaluation: Evaluation, lines: Lines | None = None, others: Sequence[Sentence] = ()) -> list[Sentence]:
    """Return what is to be said without labels, of training by its log, if known, after what `others` say; last what to
    try.
    """
    parts, said, measured = parts_of(evaluation), list[Sentence](), is_measured(evaluation)
    if measured:
        said += [*compared(evaluation, parts), *(filled_in(evaluation, part) for part in parts)]
        said += [*untold(evaluation, parts), *adding_up(evaluation, parts)]
    found = [intervals(evaluation, parts), belonging(evaluation), samples(evaluation), unlike_real(evaluation)]
    found += [use_of_code(evaluation), *others]
    knows = None if made_no_step(lines) else by_heart(evaluation, parts)  # then how the loss fell says little
    found += [knows or still_learning(lines)] if measured else []
    said += [sentence for sentence in found if sentence is not None]
    return [*said, advice(evaluation, parts, lines)] if measured else said


def is_measured(evaluation: Evaluation) -> bool:
    """Return whether there is anything to say without labels."""
    return bool(parts_of(evaluation)) or TWO_SAMPLE in evaluation.results


def parts_of(evaluation: Evaluation) -> list[str]:
    """Return the parts that were filled in from all others."""
    told = [name.removeprefix(f"{FILL}/r2/") for name in evaluation.results if name.startswith(f"{FILL}/r2/")]
    return [name for name in told if "/" not in name]


def measure_of(evaluation: Evaluation, part: str) -> tuple[str, Measure]:
    """Return by which error a part is judged, and that in words."""
    key = next((key for key in MEASURES if f"{FILL}/{key}/{part}" in evaluation.results), "")
    return key, MEASURES.get(key, Measure("error"))


def is_clear(result: Result) -> bool:
    """Return whether a value differs from 0 by more than its error."""
    return result.n >= FEW and abs(result.value) > CONFIDENCE * result.standard_error


def saved_over(evaluation: Evaluation, part: str, rival: str = REGRESSION) -> Result | None:
    """Return the share of the error of what else predicts a part that the model saves."""
    return evaluation.results.get(f"{FILL}/over_{rival}/{part}")


def is_even(saved: Result) -> bool:
    """Return whether a share of an error that is saved is none that can be told, or less than half a percent."""
    return not is_clear(saved) or round(abs(saved.value), 2) == 0


def is_worse(evaluation: Evaluation, part: str, rival: str = REGRESSION) -> bool:
    """Return whether a part is filled in worse than by a rival, by more than the error."""
    saved = saved_over(evaluation, part, rival)
    return saved is not None and saved.value < 0 and not is_even(saved)


def beside(saved: Result) -> str:
    """Return "30% worse than", "12% better than" or "as good as", by the share of an error that is saved."""
    if is_even(saved):
        return "as good as"
    if saved.value < -1:
        return f"{1 - saved.value:.1f} times that of"
    return f"{abs(saved.value):.0%} {'better' if saved.value > 0 else 'worse'} than"


def compared(evaluation: Evaluation, parts: Sequence[str]) -> list[Sentence]:
    """Say in one sentence where the model is better than regression, and by how much; or why that is not said."""
    if not parts:
        reasons = (why for name, why in evaluation.skipped.items() if name.startswith((f"{FILL}/", f"{FILL} ")))
        why = next(reasons, "no reason is given")
        return [(False, f"How well parts are filled in was not measured: {why}.")]
    saved = {part: found for part in parts if (found := saved_over(evaluation, part))}
    if not saved:
        return [(False, "There is no regression to compare with: it needs two training rows that have all parts.")]
    if (n := max(found.n for found in saved.values())) < FEW:
        return [(False, f"Too few held-out rows to tell whether it works: {n}, and {FEW} are the least.")]
    groups: dict[str, list[str]] = {"better": [], "as good": [], "worse": []}
    for part, found in saved.items():
        how = "as good" if is_even(found) else "better" if found.value > 0 else "worse"
        far = f" by {abs(found.value):.0%}" if found.value >= -1 else f", with {1 - found.value:.1f} times its error"
        groups[how].append(part if how == "as good" else part + far)
    told = [f"{how} for {', '.join(of)}" for how, of in groups.items() if of]
    near = [part for part in saved if is_worse(evaluation, part, NEIGHBOURS) and not is_worse(evaluation, part)]
    words = f"Compared with regression on the same held-out rows, the model is {'; '.join(told)}."
    more = f" Nearest neighbours are better than it for {_listed(near)}." if near else ""
    idle = [part for part in saved if is_at_mean(evaluation, part) and not is_worse(evaluation, part)]
    more += f" But always guessing the mean is no worse for {_listed(idle)}." if idle else ""
    good = not groups["worse"] and not near and not any(is_at_mean(evaluation, part) for part in parts)
    return [(good, words + more)]


def is_at_mean(evaluation: Evaluation, part: str) -> bool:
    """Return whether a part is filled in no better than by its mean."""
    return evaluation.results[f"{FILL}/r2/{part}"].value <= IGNORED


def filled_in(evaluation: Evaluation, part: str) -> Sentence:
    """Say how well a part is filled in from all others, beside regression and neighbours on the same rows."""
    results = evaluation.results
    key, measure = measure_of(evaluation, part)
    rivals, words = {REGRESSION: measure.regression, NEIGHBOURS: "nearest neighbours"}, list[str]()
    r2 = results[f"{FILL}/r2/{part}"]
    for rival, named in rivals.items():
        if (saved := saved_over(evaluation, part, rival)) is not None:
            how = "" if r2.n < FEW else f"{beside(saved)} "
            words.append(f"{how}{named} ({results[f'{FILL}/{rival}/{part}'].value:.2f})")
    others = [name for name in parts_of(evaluation) if name != part]
    told = f"Filling in {part} from {_listed(others) or 'the others'}: {measure.title}"
    if (own := results.get(f"{FILL}/{key}/{part}")) is not None:
        told += f" {own.value:.2f}{measure.unit}"
    if (hits := results.get(f"{FILL}/accuracy/{part}")) is not None:
        whole = results.get(f"{FILL}/exact/{part}")
        told += f" ({hits.value:.0%} right{'' if whole is None else f', {whole.value:.0%} of captions as a whole'})"
    told += f", {' and '.join(words)}" if words and r2.n >= FEW else f"; {', '.join(words)}" if words else ""
    if (mean := results.get(f"{FILL}/{AVERAGE}/{part}")) is not None:
        told += f"; always guessing the mean: {mean.value:.2f}"
    if r2.n < FEW:
        return False, f"{told}. {r2.n} held-out row{'s' if r2.n > 1 else ''}: too few to tell."
    if r2.value < -IGNORED:
        return False, f"{told}. That is worse than the mean."
    if ignores(evaluation, part):
        return False, f"{told}. The model does not use the other parts for it."
    if is_at_mean(evaluation, part):
        return False, f"{told}. That is no better than the mean."
    return not any(is_worse(evaluation, part, rival) for rival in rivals), f"{told}."


def better_alone(evaluation: Evaluation, part: str) -> tuple[str, float, float] | None:
    """Return the part that alone fills in another better than all parts together do, by more than the errors of both,
    and the error by it and by all; None where there is none. Both are of the same rows: the mean does as well on them.
    """
    start, mean = f"{FILL}/{measure_of(evaluation, part)[0]}/{part}", f"{FILL}/{AVERAGE}/{part}"
    alone = {n.removeprefix(f"{start}/"): r for n, r in evaluation.results.items() if n.startswith(f"{start}/")}
    if (all_ := evaluation.results.get(mean)) is not None:
        near = {given: evaluation.results.get(f"{mean}/{given}", all_).value / (all_.value or 1) for given in alone}
        alone = {given: result for given, result in alone.items() if abs(near[given] - 1) < SAME}
    if not alone or (whole := evaluation.results.get(start)) is None or whole.n < FEW:
        return None
    given, best = min(alone.items(), key=lambda pair: pair[1].value)
    far = whole.value - best.value > CONFIDENCE * hypot(whole.standard_error, best.standard_error)
    return (given, best.value, whole.value) if far else None


def adding_up(evaluation: Evaluation, parts: Sequence[str]) -> list[Sentence]:
    """Say which parts are filled in better from one part than from all: what is given does not add up."""
    found = {part: of for part in parts if (of := better_alone(evaluation, part)) is not None}
    told = [f"{part} from {given} alone {one:.2f}, from all {all_:.2f}" for part, (given, one, all_) in found.items()]
    words = f"What is given does not add up: one part does better than all together ({'; '.join(told)})."
    return [(False, words)] if told else []


def _listed(names: Sequence[str]) -> str:
    """Return "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def ignores(evaluation: Evaluation, part: str) -> bool:
    """Return whether a part is left at its mean though regression fills it in from the others."""
    mean, regression = (evaluation.results.get(f"{FILL}/{name}/{part}") for name in (AVERAGE, REGRESSION))
    if mean is None or regression is None or not is_at_mean(evaluation, part):
        return False
    return regression.value < (1 - WORTH) * mean.value


def is_unrelated(evaluation: Evaluation, part: str) -> bool:
    """Return whether neither the model nor regression fills in a part better than by its mean."""
    mean, regression = (evaluation.results.get(f"{FILL}/{name}/{part}") for name in (AVERAGE, REGRESSION))
    known = mean is not None and regression is not None and regression.value >= (1 - IGNORED) * mean.value
    return known and is_at_mean(evaluation, part)


def untold(evaluation: Evaluation, parts: Sequence[str]) -> list[Sentence]:
    """Say of which parts nothing can be told, and why."""
    why: dict[str, str] = {}
    for name, reason in evaluation.skipped.items():
        if name.startswith(f"{FILL} ") and (part := name.removeprefix(f"{FILL} ").split(" given ")[0]) not in parts:
            why.setdefault(part, reason)
    return [(False, f"How well {part} is filled in cannot be told: {reason}.") for part, reason in why.items()]


def belonging(evaluation: Evaluation) -> Sentence | None:
    """Say whether `match` tells what belongs together; None where it was not measured."""
    if (found := evaluation.results.get(MATCH)) is None:
        return None
    if found.n < FEW:
        return False, f"Too few held-out rows to tell whether match knows what belongs together: {found.n}."
    often = f"true rows match better than rows with a foreign part {found.value:.0%} of the time, and 50% is chance"
    if (score := evaluation.results.get(SCORE)) is not None:
        often += f" (score: {score.value:.0%})"
    if found.value > TELLS:
        return True, f"Match tells what belongs together: {often}."
    if found.value > FAINTLY and found.value - CONFIDENCE * found.standard_error > 0.5:
        return False, f"Match tells only faintly what belongs together: {often}."
    return False, f"Match does not tell what belongs together: {often}."


def variety(evaluation: Evaluation) -> dict[str, float]:
    """Return by part the variance of samples as a share of real ones'; not of classes and counts: means vary less."""
    start = f"{GEN}/{VARIETY}/"
    found = {name.removeprefix(start): r.value for name, r in evaluation.results.items() if name.startswith(start)}
    return {part: share for part, share in found.items() if measure_of(evaluation, part)[0] in ("rmse", "")}


def samples(evaluation: Evaluation) -> Sentence | None:
    """Say whether samples vary as real rows do, and can be told from them; None where that was not measured."""
    if alike := [f"{part} {share:.0%}" for part, share in variety(evaluation).items() if share < ALIKE]:
        return False, f"Samples are nearly all alike: they vary far less than real rows ({', '.join(alike)} as much)."
    if (told := evaluation.results.get(TWO_SAMPLE)) is None:
        return None
    often = f"a classifier is right {told.value:.0%} of the time, and 50% is chance"
    if told.value < LOOKS_REAL or told.value - CONFIDENCE * told.standard_error < 0.5:
        return True, f"Samples can hardly be told from real rows: {often}."
    how = "easily" if told.value > LOOKS_WRONG else "often"
    return False, f"Samples can {how} be told from real rows: {often}."


def use_of_code(evaluation: Evaluation) -> Sentence | None:
    """Say how much the shared code tells of an item; None where it was not looked at."""
    if evaluation.collapse is not None:
        return False, evaluation.collapse
    kl, active, units = map(evaluation.results.get, (KL, ACTIVE, UNITS))
    if kl is None:
        return None
    used = "" if active is None or units is None else f", {active.value:.0f} of {units.value:.0f} latents are in use"
    return True, f"The shared code tells items apart: {kl.value:.1f} nats an item{used}."


def learned_by_heart(evaluation: Evaluation, parts: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Return the errors on training and on held-out rows of parts that the model knows by heart: far smaller there,
    and on held-out rows no better than regression.
    """
    found = {}
    for part in parts:
        there, here = (
            evaluation.results.get(f"{FILL}/{key}/{part}") for key in ("learned", measure_of(evaluation, part)[0])
        )
        saved = saved_over(evaluation, part)
        better = saved is not None and saved.value > 0 and is_clear(saved)
        if there and here and min(there.n, here.n) >= FEW and not better and here.value > BY_HEART * there.value:
            found[part] = (there.value, here.value)
    return found


def by_heart(evaluation: Evaluation, parts: Sequence[str]) -> Sentence | None:
    """Say which parts of training rows the model knows by heart; None where it does not."""
    found = learned_by_heart(evaluation, parts)
    told = [f"{part} {there:.2f} there and {here:.2f} on held-out rows" for part, (there, here) in found.items()]
    return (False, f"The model has learned training rows by heart: its error is {'; '.join(told)}.") if told else None


def advice(evaluation: Evaluation, parts: Sequence[str], lines: Lines | None) -> Sentence:
    """Say what to try next, the most promising first, at most two."""
    results, tries = evaluation.results, list[str]()
    worse = [part for part in parts if is_worse(evaluation, part)]
    numbers = [part for part in parts if f"{FILL}/rmse/{part}" in results]  # noise of other kinds has no scale
    fits = {part: interval_fit(found) for part in numbers if (found := results.get(f"{FILL}/coverage90/{part}"))}
    if (held := max((results[f"{FILL}/r2/{part}"].n for part in parts), default=FEW)) < FEW:
        return (
            False,
            f"Try next: hold out more rows ({held} {'is' if held == 1 else 'are'} too few to tell anything), "
            f"{FEW} at least.",
        )
    if made_no_step(lines):
        return False, "Try next: let training make steps: more time (training.seconds), and phases that have some."
    dead = [part for part, share in variety(evaluation).items() if share < DEAD]
    rate = [f"lower the rate training.optimiser.generator: every {of} that is decoded is the same" for of in dead[:1]]
    if is_brief(lines) and any(is_at_mean(evaluation, part) for part in parts):
        longer = "train longer (training.phases.bound.steps, training.seconds), as few steps tell no more"
        return False, f"Try next: {'; then '.join([*rate, longer])}."
    if parts and all(is_unrelated(evaluation, part) for part in parts):
        return (
            False,
            f"Try next: more rows, or other parts: regression finds no more than the model of {_listed(parts)}.",
        )
    if learned_by_heart(evaluation, parts):
        tries.append("train on more rows, or for fewer steps (training.phases.bound.steps)")
    elif (fallen_at_end(lines) or 0.0) > STILL_FALLING:
        tries.append("train longer (twice the steps of the phase bound, training.phases.bound.steps)")
    tries += rate
    if evaluation.collapse is not None or any(ignores(evaluation, part) for part in parts):
        tries.append("lower training.phases.bound.beta, so that codes tell more of an item")
    if wrong := [part for part, fit in fits.items() if fit]:
        tries.append(other_noise(wrong[0], fits[wrong[0]], wrong[0] in evaluation.learned_noise))
    if any(better_alone(evaluation, part) for part in parts):
        tries.append("train a method that combines what is given (such as multiebm compare mopoe mvae --data DATA)")
    elif worse:
        tries.append("train another method (multiebm compare mopoe mmvaeplus --data DATA), or longer")
    if (told := samples(evaluation)) is not None and not told[0]:
        even, at = min(variety(evaluation).values(), default=1.0) < EVEN, evaluation.temperature or 1.0
        whole = f"draw samples from the whole prior (sample --temperature 1, or model.temperature=1; now {at:g})"
        more = "give samples more to say (a larger model.shared and model.private)"
        tries.append(whole if even and at < 1 else more)
    if not tries:
        return True, "Nothing stands out to be mended; more rows are the next thing to try."
    return False, f"Try next: {'; then '.join(tries[:2])}."
