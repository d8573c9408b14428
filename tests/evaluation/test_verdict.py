"""Each sentence of the verdict, for made-up results."""

import numpy as np
import pytest

from multiebm.evaluation.intervals import interval_fit
from multiebm.evaluation.learning import fallen_at_end, still_learning
from multiebm.evaluation.result import Evaluation, Result
from multiebm.evaluation.verdict import advice, use_of_code, verdict

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


def made(
    error: float = 0.01,
    n: int = 400,
    skipped: dict[str, str] | None = None,
    temperature: float | None = None,
    learned: tuple[str, ...] = (),
    **changes: float | None,
):
    values = GOOD | {key.replace("__", "/"): value for key, value in changes.items()}
    results = {name: Result(value, error, n) for name, value in values.items() if value is not None}
    return Evaluation(results, skipped or {}, None, "mine", 0, 1.0, temperature=temperature, learned_noise=learned)


def said(evaluation: Evaluation, lines=None) -> list[tuple[bool, str]]:
    return verdict(evaluation, lines)


def about(start: str, evaluation: Evaluation, lines=None) -> tuple[bool, str]:
    """The one sentence of a verdict that begins so."""
    (found,) = [sentence for sentence in verdict(evaluation, lines) if sentence[1].startswith(start)]
    return found


def losses(*values: float | None):
    return [{"step": i, "loss/elbo": value} for i, value in enumerate(values)]


FALLING = losses(*(100 - i for i in range(40)))
DONE = losses(*(100 * 0.7**i for i in range(40)))


def test_good_results_are_good_news_and_nothing_is_to_be_mended():
    assert said(made(), DONE) == [
        (True, "Compared with regression on the same held-out rows, the model is better for s by 17%."),
        (
            True,
            "Filling in s from the others: error 0.50 standard deviations, 17% better than ridge regression (0.60) and "
            "29% better than nearest neighbours (0.70); always guessing the mean: 1.00.",
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


def test_what_others_say_comes_before_training_and_advice():
    ended = (False, "Training failed: 3 of 5 steps.")
    found = verdict(made(), DONE, [ended])
    assert found.index(ended) == len(found) - 3
    assert verdict(Evaluation({}, {}, None, "mine", 0, 1.0), DONE, [ended]) == [ended]


def test_a_part_filled_in_worse_than_by_regression_is_bad_news():
    worse = made(fill__over_regression__s=-0.25, fill__over_neighbours__s=0.01)
    good, words = about("Filling in s", worse)
    assert not good
    assert "25% worse than ridge regression (0.60) and as good as nearest neighbours (0.70)" in words
    assert said(worse)[0] == (
        False,
        "Compared with regression on the same held-out rows, the model is worse for s by 25%.",
    )
    within = made(0.2, fill__over_regression__s=-0.25)  # 1.96 times 0.2 is more than that
    assert about("Filling in s", within)[0]
    assert "as good as ridge regression" in about("Filling in s", within)[1]
    assert said(within)[0][1].endswith("the model is as good for s.")
    assert "3.5 times that of ridge regression" in about("Filling in s", made(fill__over_regression__s=-2.5))[1]


def test_neighbours_that_are_better_are_said_to_be():
    good, words = said(made(fill__over_neighbours__s=-0.2))[0]
    assert not good
    assert words.endswith("better for s by 17%. Nearest neighbours are better than it for s.")
    assert "Nearest" not in said(made(fill__over_neighbours__s=-0.2, fill__over_regression__s=-0.1))[0][1]


def test_several_parts_are_told_apart_in_one_sentence():
    more = {f"fill/{key}/{part}": value for key, value in (("r2", 0.5), ("regression", 0.6)) for part in "tu"}
    more |= {"fill/over_regression/t": -0.3, "fill/over_regression/u": 0.001}
    found = made(**more)
    assert said(found)[0] == (
        False,
        "Compared with regression on the same held-out rows, the model is better for s by 17%; as good for u; worse "
        "for t by 30%.",
    )
    assert about("Filling in s from t and u:", found)
    assert about("Filling in t from s and u:", found)


def test_numbers_of_single_given_parts_are_no_parts():
    assert [words for _, words in said(made(**{"fill/r2/s/t": 0.1})) if "Filling in" in words] == [
        about("Filling in s", made())[1]
    ]


def test_a_part_at_its_mean_is_said_to_be_and_an_ignored_one_too():
    good, words = about("Filling in s", made(fill__r2__s=0.02, fill__regression__s=0.99))
    assert not good
    assert words.endswith("That is no better than the mean.")
    good, words = about("Filling in s", made(fill__r2__s=0.02))
    assert not good
    assert words.endswith("The model does not use the other parts for it.")
    assert not said(made(fill__r2__s=0.02))[0][0]
    assert about("Filling in s", made(fill__r2__s=-0.6))[1].endswith("That is worse than the mean.")
    assert "lower training.phases.bound.beta" in said(made(fill__r2__s=0.02))[-1][1]


def test_other_kinds_name_their_own_error_and_regression():
    more = {"fill/log_loss/s": 0.4, "fill/accuracy/s": 0.83}
    categories = made(fill__rmse__s=None, fill__coverage90__s=None, **more)
    words = about("Filling in s", categories)[1]
    assert "log loss 0.40 (83% right), 17% better than logistic regression (0.60)" in words
    assert not any("Intervals" in told for _, told in said(categories))
    counts = about("Filling in s", made(fill__rmse__s=None, fill__deviance__s=0.9))[1]
    assert "deviance 0.90, 17% better than regression (0.60)" in counts


def test_a_few_rows_say_nothing_however_clear_they_look():
    """Of one row the error is 0, and everything looks clear."""
    for n, rows in ((1, "1 held-out row:"), (3, "3 held-out rows:")):
        found = made(0.0, n, fill__over_regression__s=-0.9, fill__coverage90__s=1.0, belong__match=1.0)
        assert said(found)[0] == (False, f"Too few held-out rows to tell whether it works: {n}, and 10 are the least.")
        good, words = about("Filling in s", found)
        assert not good
        assert words.endswith(f"always guessing the mean: 1.00. {rows} too few to tell.")
        assert "worse" not in words
        assert about("Too few held-out rows to tell whether match", found)[1].endswith(f"{n}.")
        assert not [told for _, told in said(found) if told.startswith("Intervals")]
        assert said(found)[-1][1].startswith(f"Try next: hold out more rows ({n} {'is' if n == 1 else 'are'} too few")


def test_a_code_that_has_collapsed_is_not_said_to_be_shared_where_there_is_one_part():
    one = Evaluation(
        {"latent/kl": Result(0.0, 0.0, 400)},
        {"fill/r2": "one modality only, nothing to complete"},
        None,
        "mine",
        0,
        1.0,
    )
    assert one.collapse == (
        "The shared code has collapsed (0 nats an item): it says nothing of an item; lower training.phases.bound.beta, "
        "or train longer."
    )
    assert ", so parts share nothing; lower" in str(made(latent__kl=0.0).collapse)


def test_a_single_part_says_that_there_is_nothing_to_fill_in_and_speaks_of_samples():
    alone = Evaluation(
        {"two_sample": Result(0.9, 0.01, 400)},
        {"fill/rmse": "one modality only, nothing to complete"},
        None,
        "mine",
        0,
        1.0,
    )
    found = verdict(alone, FALLING)
    assert found[0] == (
        False,
        "How well parts are filled in was not measured: one modality only, nothing to complete.",
    )
    assert [words.split(":")[0] for _, words in found[1:]] == [
        "Samples can easily be told from real rows",
        "Training was too short",
        "Try next",
    ]


def test_parts_of_which_nothing_can_be_told_are_named_once_with_the_reason():
    reasons = {"fill t given s": "no test item has these", "fill t given s+u": "no test item has these", "fid": "x"}
    found = [words for _, words in said(made(skipped=reasons)) if "cannot be told" in words]
    assert found == ["How well t is filled in cannot be told: no test item has these."]
    assert not [words for _, words in said(made(skipped={"fill s given t": "y"})) if "cannot be told" in words]


def test_a_part_without_regression_says_why():
    names = ("over_regression", "over_neighbours", "regression", "neighbours")
    found = made(**dict.fromkeys(f"fill__{name}__s" for name in names))
    assert said(found)[0][1].startswith("There is no regression to compare with")
    assert about("Filling in s", found)[1] == (
        "Filling in s from the others: error 0.50 standard deviations; always guessing the mean: 1.00."
    )


def test_rows_learned_by_heart_are_bad_news_where_held_out_ones_are_no_better_than_by_regression():
    heart = {"fill__learned__s": 0.2, "fill__over_regression__s": -0.3}
    good, words = about("The model has learned", made(**heart))
    assert not good
    assert words == (
        "The model has learned training rows by heart: its error is s 0.20 there and 0.50 on held-out rows."
    )
    assert said(made(**heart), FALLING)[-1][1].startswith("Try next: train on more rows, or for fewer steps")
    for harmless in ({"fill__learned__s": 0.4}, {"fill__over_regression__s": 0.1}, {"n": 5}):
        assert not [words for _, words in said(made(**(heart | harmless))) if "by heart" in words]


@pytest.mark.parametrize(("inside", "fit"), [(0.9, ""), (0.86, ""), (0.84, "narrow"), (0.94, ""), (0.97, "wide")])
def test_intervals_are_trusted_within_five_points(inside: float, fit: str):
    assert interval_fit(Result(inside, 0.01, 400)) == fit
    assert interval_fit(Result(inside, 0.1, 10)) == ""  # so few items say nothing
    assert interval_fit(Result(1.0, 0.0, 10)) == ""  # ten values inside by luck: 0.9^10 = 0.35
    good, words = about("Intervals", made(fill__coverage90__s=inside))
    assert good == (not fit)
    if fit:
        assert words == f"Intervals cannot be trusted: too {fit} for 's' (those of 90% hold {inside:.0%})."
        assert "model.parts.s.scale=learned" in said(made(fill__coverage90__s=inside))[-1][1]


@pytest.mark.parametrize(
    ("inside", "n", "good", "words"),
    [
        (0.88, 400, True, "Intervals can be trusted: those of 90% hold 88% of the held-out values."),
        (0.86, 400, True, "Intervals can nearly be trusted: a little too narrow for 's' (those of 90% hold 86%)."),
        (0.94, 400, True, "Intervals can nearly be trusted: a little too wide for 's' (those of 90% hold 94%)."),
        (0.81, 400, False, "Intervals cannot be trusted: too narrow for 's' (those of 90% hold 81%)."),
        (
            *(0.81, 20, False),
            "Whether intervals can be trusted cannot be told from 20 rows: perhaps too narrow for 's' (those of 90% "
            "hold 81%).",
        ),
    ],
)
def test_the_words_on_intervals_are_as_strong_as_the_figure(inside: float, n: int, good: bool, words: str):
    found = [s for s in said(made(n=n, fill__coverage90__s=inside)) if "ntervals can" in s[1]]
    assert found == [(good, words)]


@pytest.mark.parametrize(("inside", "words"), [(0.7, "train on more rows, or for fewer steps"), (1.0, "train longer")])
def test_noise_that_is_learned_is_not_advised_to_be(inside: float, words: str):
    assert "model.parts.s.scale=learned" in said(made(fill__coverage90__s=inside, learned=("t",)))[-1][1]
    advised = said(made(fill__coverage90__s=inside, learned=("s",)))[-1][1]
    assert advised.startswith(f"Try next: {words}, as ")
    assert "scale" not in advised


def test_a_part_that_is_a_little_off_stands_beside_one_that_is_far_off():
    both = made(fill__r2__t=0.5, fill__coverage90__t=0.94, fill__coverage90__s=0.7)
    assert about("Intervals", both) == (
        False,
        "Intervals cannot be trusted: too narrow for 's' (those of 90% hold 70%), a little too wide for 't' (those of "
        "90% hold 94%).",
    )


def test_intervals_of_several_parts_are_told_together():
    both = made(fill__r2__t=0.5, fill__coverage90__t=0.88)
    assert "Intervals can be trusted: those of 90% hold 88% to 90% of the held-out values." in dict(
        map(reversed, said(both))
    )


def test_a_difference_of_nothing_is_none_and_a_huge_one_is_told_in_times():
    near = made(error=1e-4, fill__over_regression__s=0.003)
    assert said(near)[0] == (True, "Compared with regression on the same held-out rows, the model is as good for s.")
    assert "as good as ridge regression (0.60)" in said(near)[1][1]
    far = made(fill__over_regression__s=-228.5)
    assert said(far)[0][1].endswith("the model is worse for s, with 229.5 times its error.")


def test_of_parts_that_have_nothing_in_common_other_parts_are_advised():
    alone = made(fill__r2__s=0.0, fill__regression__s=0.99, fill__over_regression__s=-0.001, gen__variety__s=0.0)
    assert said(alone)[-1] == (
        False,
        "Try next: more rows, or other parts: regression finds no more than the model of s.",
    )
    related = made(fill__r2__s=0.0, fill__over_regression__s=-0.6, gen__variety__s=0.0)
    assert "regression finds" not in said(related)[-1][1]


def test_a_part_at_its_mean_is_said_to_be_so_beside_regression_that_is_worse_still():
    found = made(fill__r2__s=-0.2, fill__rmse__s=1.2, fill__regression__s=1.3, fill__over_regression__s=0.06)
    assert said(found)[0] == (
        False,
        "Compared with regression on the same held-out rows, the model is better for s by 6%. But always guessing the "
        "mean is no worse for s.",
    )
    assert "guessing" not in said(made(fill__r2__s=-0.2, fill__over_regression__s=-0.3))[0][1]


def test_captions_that_do_not_read_like_real_ones_are_said_to():
    for ratio, how in ((0.23, "say little but what is frequent"), (3.1, "hardly read like captions")):
        found = made(fluency__ratio=ratio)
        told = (False, f"Generated captions {how}: their perplexity is {ratio:.2f} times that of real ones.")
        assert about("Generated captions", found) == told
    assert not [words for _, words in said(made(fluency__ratio=1.4)) if words.startswith("Generated")]


def test_after_a_few_lines_of_log_nothing_but_longer_training_is_advised():
    alone = made(fill__r2__s=0.0, fill__regression__s=0.99, fill__over_regression__s=-0.001)
    longer = "train longer (training.phases.bound.steps, training.seconds), as few steps tell no more."
    assert said(alone, DONE[:11])[-1] == (False, f"Try next: {longer}")
    dead = made(fill__r2__s=0.0, gen__variety__s=0.001)
    assert said(dead, DONE[:11])[-1][1] == (
        "Try next: lower the rate training.optimiser.generator: every s that is decoded is the same; then " + longer
    )
    assert "regression finds no more" in said(alone, DONE[:12])[-1][1]
    assert said(made(), DONE[:11])[-1][0]  # what works needs no longer training


@pytest.mark.parametrize(
    ("area", "good", "words"),
    [
        (0.9, True, "Match tells what belongs together"),
        (0.65, False, "Match tells only faintly what belongs together"),
        (0.52, False, "Match does not tell what belongs together"),
    ],
)
def test_match_tells_or_does_not(area: float, good: bool, words: str):
    found = about("Match", made(belong__match=area))
    assert found[0] == good
    assert found[1].startswith(words)
    assert found[1].endswith("and 50% is chance.")
    assert "(score: 48%)" in about("Match", made(belong__score=0.48))[1]


@pytest.mark.parametrize(
    ("right", "good", "words"),
    [(0.55, True, "can hardly be told"), (0.7, False, "can often be told"), (0.95, False, "can easily be told")],
)
def test_samples_are_told_or_not(right: float, good: bool, words: str):
    found = about("Samples", made(two_sample=right))
    assert found[0] == good
    assert words in found[1]
    assert ("a larger model.shared" in said(made(two_sample=right))[-1][1]) == (not good)
    even = said(made(two_sample=right, gen__variety__s=0.6, temperature=0.5))[-1][1]
    assert ("model.temperature=1" in even) == (not good)


@pytest.mark.parametrize("temperature", [1.0, None])
def test_the_whole_prior_is_not_advised_where_samples_are_drawn_from_it(temperature: float | None):
    advised = said(made(two_sample=0.95, gen__variety__s=0.6, temperature=temperature))[-1][1]
    assert advised == "Try next: give samples more to say (a larger model.shared and model.private)."
    colder = said(made(two_sample=0.95, gen__variety__s=0.6, temperature=0.5))[-1][1]
    assert colder == (
        "Try next: draw samples from the whole prior (sample --temperature 1, or model.temperature=1; now 0.5)."
    )


def test_samples_that_are_all_alike_are_said_to_be():
    good, words = about("Samples", made(gen__variety__s=0.04))
    assert not good
    assert words == "Samples are nearly all alike: they vary far less than real rows (s 4% as much)."
    assert "training.optimiser.generator" not in said(made(gen__variety__s=0.04))[-1][1]
    assert said(made(gen__variety__s=0.004))[-1][1].startswith(
        "Try next: lower the rate training.optimiser.generator: every s that is decoded is the same"
    )


def test_one_part_is_compared_with_all_on_the_same_rows_alone():
    """Where parts have gaps, rows with one part are others than rows with any, and the mean does otherwise on them."""
    alone = {"fill/rmse/s/t": 0.3, "fill/rmse/s/u": 0.4, "fill/mean/s/t": 0.6, "fill/mean/s/u": 1.001}
    assert about("What is given", made(**alone))[1].endswith("(s from u alone 0.40, from all 0.50).")
    apart = alone | {"fill/mean/s/u": 1.2}
    assert not [words for _, words in said(made(**apart)) if "add up" in words]


def test_one_part_that_does_better_than_all_together_is_named():
    alone = {"fill/rmse/s/t": 0.3, "fill/rmse/s/u": 0.9}
    assert about("What is given", made(**alone)) == (
        False,
        "What is given does not add up: one part does better than all together (s from t alone 0.30, from all 0.50).",
    )
    assert "train a method that combines what is given" in said(made(**alone))[-1][1]
    for harmless in (made(**{"fill/rmse/s/t": 0.48}), made(n=5, **alone), made()):  # 1.96 sqrt(2) 0.01 = 0.028
        assert not [words for _, words in said(harmless) if "add up" in words]


def test_classes_and_counts_are_not_said_to_be_alike():
    """Means of theirs vary far less than they do, however good a model is."""
    found = about("Samples", made(fill__rmse__s=None, fill__deviance__s=0.9, gen__variety__s=0.04))
    assert found[1].startswith("Samples can hardly be told")


def test_a_loss_that_still_falls_says_that_training_was_too_short():
    good, words = still_learning(FALLING)
    assert not good
    assert words == "Training was too short: 26% of all that its loss fell came in the last quarter."
    assert said(made(), FALLING)[-1][1].startswith("Try next: train longer (twice the steps")
    assert still_learning(DONE)[0]
    draws = np.random.default_rng(0)
    slow = losses(*(28 + 26 / (1 + i) - 0.15 * i + 0.4 * draws.normal() for i in range(30)))  # 15 times 20 steps
    assert not still_learning(slow)[0]
    flat = losses(*(28 + 26 / (1 + i) ** 2 + 0.4 * draws.normal() for i in range(30)))
    assert still_learning(flat)[0]
    assert still_learning(losses(1, 2, 3)) is None
    assert still_learning(None) is None


def test_a_model_without_a_step_needs_time_and_nothing_else():
    """Its error on training rows is that of its start, so nothing is said of what it knows by heart."""
    heart = {"fill__learned__s": 0.1, "fill__over_regression__s": -0.5}
    assert any("by heart" in words for _, words in said(made(**heart), DONE))
    found = said(made(**heart), [])
    assert (False, "Training made no step: the model is as it began.") in found
    assert not any("by heart" in words for _, words in found)
    words = "Try next: let training make steps: more time (training.seconds), and phases that have some."
    assert found[-1] == (False, words)


def test_what_is_known_by_heart_and_a_loss_that_falls_do_not_ask_for_more_and_fewer_steps():
    heart = {"fill__learned__s": 0.1, "fill__over_regression__s": -0.5}
    found = [words for _, words in said(made(**heart), FALLING)]
    assert any("by heart" in words for words in found)
    assert not any("too short" in words for words in found)
    assert "for fewer steps" in found[-1]


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
    assert (
        "train another method" in advice(made(fill__over_regression__s=-0.3, fill__coverage90__s=0.5), ["s"], DONE)[1]
    )
    alone = advice(made(fill__over_regression__s=-0.3), ["s"], DONE)[1]
    assert "train another method (multiebm compare mopoe mmvaeplus --data DATA), or longer" in alone


def test_a_collapsed_code_is_to_be_mended():
    assert "lower training.phases.bound.beta" in said(made(**{"latent__kl": 0.001}))[-1][1]


def test_the_code_tells_items_apart_or_has_collapsed():
    found = use_of_code(made(latent__kl=12.34, latent__active_units=9, latent__units=16))
    assert found == (True, "The shared code tells items apart: 12.3 nats an item, 9 of 16 latents are in use.")
    assert use_of_code(made()) is None
    good, words = about("The shared code", made(latent__kl=0.001))
    assert not good
    assert "has collapsed" in words
