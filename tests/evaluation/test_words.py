"""An evaluation as text: what `print` shows of it."""

import json

import pytest

from multiebm.evaluation.result import Evaluation, Result, load_evaluation
from multiebm.evaluation.verdict import verdict
from multiebm.evaluation.words import figure, is_main, label

RESULTS = {
    "gen/fcd": Result(12.34, 0.5, 1000),
    "fill/rmse": Result(0.5, 0.1, 40),
    "fill/rmse/s": Result(0.5, 0.1, 40),
    "fill/r2/s": Result(0.75, 0.01, 40),
    "two_sample": Result(0.53, 0.01, 80),
}


def test_an_evaluation_is_printed_as_figures_with_words_and_the_verdict():
    found = Evaluation(RESULTS, {}, None, "mine", 3, 1.0)
    assert str(found).splitlines() == [
        "Data set mine, seed 3",
        "",
        "figure               value      ±  items  name in results",
        "Gen: FCD              12.3    1.0  1,000  gen/fcd",
        "RMSE, filled in      0.500  0.196     40  fill/rmse",
        "Told from real rows  0.530  0.020     80  two_sample",
        "",
        "Does it work?",
        *(f"{'+' if good else '-'} {words}" for good, words in verdict(found)),
    ]
    assert found.verdict == [words for _, words in verdict(found)]
    assert found.verdict[0].startswith("There is no regression to compare with")


def test_an_evaluation_of_nothing_says_so():
    nothing = Evaluation({}, {}, None, "mine", 0, 1.0)
    assert str(nothing) == "Data set mine, seed 0\n\nNothing was measured."
    assert nothing.verdict == []


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("ebm/fcd", "EBM: FCD"),
        ("gen/fcd/m0", "Gen: FCD, m0"),
        ("fcd", "FCD"),
        ("fill/rmse/worst", "RMSE, filled in, worst"),
        ("other", "Other"),
    ],
)
def test_a_figure_is_called_by_its_title(name, title):
    assert label(name) == title


def test_main_figures_are_those_of_no_single_part_or_pair():
    assert [name for name in RESULTS if is_main(name)] == ["gen/fcd", "fill/rmse", "two_sample"]
    assert not is_main("cond/a->b")
    assert (figure(0.12345), figure(12.345), figure(0.12345, 12.345)) == ("0.123", "12.3", "0.1")


def test_temperature_learned_noise_and_sets_of_judges_are_kept_and_not_known_of_older_files(tmp_path):
    file, own = tmp_path / "evaluation.json", ("temperature", "learned_noise", "judge_sets")
    kept = {"temperature": 0.5, "learned_noise": ("s",), "judge_sets": (3, 1)}
    Evaluation({}, {}, None, "mine", 0, 1.0, **kept).save(file)
    assert {key: getattr(load_evaluation(file), key) for key in own} == kept
    older = json.loads(file.read_text())
    for key in own:
        del older[key]
    file.write_text(json.dumps(older))
    assert {key: getattr(load_evaluation(file), key) for key in own} == dict(zip(own, (None, (), None), strict=True))
