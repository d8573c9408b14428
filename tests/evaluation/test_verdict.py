"""Each sentence of the verdict, for made-up results."""

import pytest

from multiebm.evaluation.result import Evaluation, Result
from multiebm.evaluation.verdict import advice, fallen_at_end, interval_fit, still_learning, verdict

GOOD = {
    "fill/rmse/s": 0.5,
    "fill/regression/s": 0.6,
    "fill/neighbours/s": 0.7,
    "fill/mean/s": 1.0,
    "fill/over_regression/s": 0.17,
    "fill/over_neighbours/s": 0.29,
    "fill/r2/s": 0.75,
    "fill/coverage90/s": 0.9,
    "belong/match": 0.95,
    "two_sample": 0.53,
    "gen/variety/s": 0.9,
}


def made(error: float = 0.01, **changes: float | None) -> Evaluation:
    values = GOOD | {key.replace("__", "/"): value for key, value in changes.items()}
    results = {name: Result(value, error, 400) for name, value in values.items() if value is not None}
    return Evaluation(results, {}, None, "mine", 0, 1.0)


def said(evaluation: Evaluation, lines=()) -> list[tuple[bool, str]]:
    return verdict(evaluation, lines)


def losses(*values: float | None):
    return [{"step": i, "loss/elbo": value} for i, value in enumerate(values)]


FALLING = losses(*(100 - i for i in range(40)))
DONE = losses(*(100 * 0.7**i for i in range(40)))


def test_good_results_are_good_news_and_nothing_is_to_be_mended():
    assert said(made(), DONE) == [
        (
            True,
            "'s' is filled in with 17% less error than regression and 29% less error than nearest neighbours (error "
            "0.50, regression 0.60, nearest neighbours 0.70, always the mean 1.00).",
        ),
        (True, "Intervals can be trusted: those of 90% hold 90% of the held-out values."),
        (
            True,
            "Match tells what belongs together: true rows match better than rows with a foreign part 95% of the time, "
            "and 50% is chance.",
        ),
        (True, "Samples can hardly be told from real rows: a classifier is right 53% of the time, and 50% is chance."),
        (True, "Training was long enough: its loss had stopped falling."),
        (True, "Nothing stands out to be mended; more rows are the next thing to try."),
    ]


def test_nothing_is_said_where_nothing_was_measured():
    assert verdict(Evaluation({}, {}, None, "mine", 0, 1.0)) == []


def test_a_part_filled_in_worse_than_by_regression_is_bad_news():
    good, words = said(made(fill__over_regression__s=-0.25, fill__over_neighbours__s=0.01))[0]
    assert not good
    assert words.startswith("'s' is filled in with 25% more error than regression and as much error as nearest ")
    within = made(0.2, fill__over_regression__s=-0.25)  # 1.96 times 0.2 is more than that
    assert said(within)[0][1].startswith("'s' is filled in with as much error as regression")
    assert said(within)[0][0]


def test_a_part_at_its_mean_is_said_to_be_and_an_ignored_one_too():
    good, words = said(made(fill__r2__s=0.02, fill__regression__s=0.99))[0]
    assert not good
    assert words.endswith("That is no better than always guessing the mean.")
    good, words = said(made(fill__r2__s=0.02))[0]
    assert not good
    assert words.endswith("The model does not use the other parts for it.")
    assert "lower training.phases.bound.beta" in said(made(fill__r2__s=0.02))[-1][1]


def test_other_kinds_name_their_own_error():
    categories = made(fill__rmse__s=None, fill__log_loss__s=0.4, fill__coverage90__s=None)
    words = said(categories)[0][1]
    assert "17% less log loss than regression" in words
    assert "(log loss 0.40, regression 0.60" in words
    assert not any("Intervals" in told for _, told in said(categories))
    assert "deviance 0.90" in said(made(fill__rmse__s=None, fill__deviance__s=0.9))[0][1]


@pytest.mark.parametrize(("inside", "fit"), [(0.9, ""), (0.86, ""), (0.84, "narrow"), (0.94, ""), (0.97, "wide")])
def test_intervals_are_trusted_within_five_points(inside: float, fit: str):
    assert interval_fit(Result(inside, 0.01, 400)) == fit
    assert interval_fit(Result(inside, 0.1, 10)) == ""  # so few items say nothing
    good, words = said(made(fill__coverage90__s=inside))[1]
    assert good == (not fit)
    if fit:
        assert words == f"Intervals cannot be trusted: too {fit} for 's' (those of 90% hold {inside:.0%})."
        assert "model.parts.s.scale=learned" in said(made(fill__coverage90__s=inside))[-1][1]


def test_intervals_of_several_parts_are_told_together():
    both = made(fill__r2__t=0.5, fill__coverage90__t=0.88)
    assert "Intervals can be trusted: those of 90% hold 88% to 90% of the held-out values." in dict(
        map(reversed, said(both))
    )


@pytest.mark.parametrize(
    ("area", "good", "words"),
    [
        (0.9, True, "Match tells what belongs together"),
        (0.65, False, "Match tells only faintly what belongs together"),
        (0.52, False, "Match does not tell what belongs together"),
    ],
)
def test_match_tells_or_does_not(area: float, good: bool, words: str):
    found = said(made(belong__match=area))[2]
    assert found[0] == good
    assert found[1].startswith(words)
    assert found[1].endswith("and 50% is chance.")
    assert "(score: 48%)" in said(made(belong__score=0.48))[2][1]


@pytest.mark.parametrize(
    ("right", "good", "words"),
    [(0.55, True, "can hardly be told"), (0.7, False, "can often be told"), (0.95, False, "can easily be told")],
)
def test_samples_are_told_or_not(right: float, good: bool, words: str):
    found = said(made(two_sample=right))[3]
    assert found[0] == good
    assert words in found[1]
    assert ("model.temperature=1" in said(made(two_sample=right))[-1][1]) == (not good)


def test_samples_that_are_all_alike_are_said_to_be():
    good, words = said(made(gen__variety__s=0.04))[3]
    assert not good
    assert words == "Samples are nearly all alike: they vary far less than real rows (s 4% as much)."


def test_a_loss_that_still_falls_says_that_training_was_too_short():
    good, words = still_learning(FALLING)
    assert not good
    assert words == "Training was too short: 26% of all that its loss fell came in the last quarter."
    assert said(made(), FALLING)[-1][1].startswith("Try next: train longer (twice the steps")
    assert still_learning(DONE)[0]
    assert still_learning(losses(1, 2, 3)) is None
    assert still_learning([]) is None


def test_the_fall_at_the_end_is_a_share_of_the_whole_by_a_line():
    """From 100 to 61, a line: the last ten of forty fall by ten of 100 - 61 + 0 = 39."""
    assert fallen_at_end(FALLING) == pytest.approx(10 / 38.5, rel=1e-6)  # the start is the mean of two lines
    noisy = losses(*(50 + 10 * (-1) ** i - 0.01 * i for i in range(40)))
    assert fallen_at_end(noisy) == 0.0
    rising = losses(*(float(i) for i in range(40)))
    assert fallen_at_end(rising) == 0.0
    assert fallen_at_end([{"step": 0, "energy/gap": 1.0}] * 30) is None
    assert fallen_at_end(losses(*[None] * 30)) is None


def test_at_most_two_things_are_to_be_tried_the_most_promising_first():
    bad = made(fill__over_regression__s=-0.3, fill__coverage90__s=0.5, two_sample=0.99)
    good, words = advice(bad, ["s"], FALLING)
    assert not good
    assert words.startswith("Try next: train longer")
    assert words.count("; then") == 1
    alone = advice(made(fill__over_regression__s=-0.3), ["s"], DONE)[1]
    assert "train another method (multiebm compare mopoe mmvaeplus), or longer" in alone


def test_a_collapsed_code_is_to_be_mended():
    assert "lower training.phases.bound.beta" in said(made(**{"latent__kl": 0.001}))[-1][1]
