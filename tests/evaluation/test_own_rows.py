"""Rows as they come: cells and parts missing, counts that are sparse and many, one part, a handful of rows."""

from math import isfinite

import numpy as np
import pytest
import scipy.sparse
import torch

import multiebm
from multiebm.data.arrays import Rows
from multiebm.evaluation.measurement import Measurement
from multiebm.evaluation.metrics import evaluate
from multiebm.evaluation.regressions import training
from multiebm.evaluation.result import Evaluation, EvaluationSettings
from multiebm.evaluation.verdict import parts_of, verdict

SMALL = EvaluationSettings(samples=60, items=60)
MIXED = {"x": {"kind": "vector"}, "sign": {"kind": "category"}, "count": {"kind": "counts"}}


def mixed(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A number, its sign, and counts of its exponential."""
    draws = np.random.default_rng(seed)
    z = draws.normal(size=(n, 1))
    x = np.concatenate([z, z + draws.normal(size=(n, 1))], 1)
    return {"x": x, "sign": np.where(z > 0, "plus", "minus"), "count": draws.poisson(np.exp(1 + z), (n, 2))}


def rows_of(arrays, part, gone):
    """The arrays with cells of one part missing."""
    values = arrays[part].astype(object if arrays[part].dtype.kind == "U" else float)
    values[gone] = None if values.dtype == object else np.nan
    return arrays | {part: values}


def measured(train, test, declared, present=None) -> Evaluation:
    """By a model that has not learned: what is asked here is what is measured."""
    rows = test if isinstance(test, Rows) else Rows(test)
    data = multiebm.from_arrays(train, declared, present=present, test=rows)
    found = evaluate(multiebm.build("arrays-mvae", data), data, None, SMALL)
    assert all(isfinite(number) for result in found.results.values() for number in result)
    assert not set(found.results) & set(found.skipped)
    assert all(words.endswith(".") and "nan" not in words.split() for _, words in verdict(found))
    return found


def split(name: str) -> list[str]:
    return [*name.split("/"), ""] if "/" not in name else name.split("/")


def test_every_part_is_measured_given_the_others_and_given_each():
    found = measured(mixed(80), mixed(40, 1), MIXED)
    every = {"mean", "regression", "neighbours", "over_regression", "over_neighbours", "r2", "log_likelihood"}
    numbers = {"coverage50", "coverage90"}
    own = {"x": {"rmse"} | numbers, "sign": {"log_loss", "accuracy"}, "count": {"deviance"} | numbers}
    for part in MIXED:
        for given in ([], *([other] for other in MIXED if other != part)):
            names = {key for head, key, *rest in map(split, found.results) if [head, *rest] == ["fill", part, *given]}
            assert names == every | own[part] | (set() if given else {"learned"}), (part, given)
        assert f"belong/match/{part}" in found.results
    assert "two_sample" in found.results


def test_parts_of_which_every_row_lacks_a_cell_are_filled_in_and_fill_in():
    """Of two cells one is missing in every row, in turn; of the one category in every third."""
    train, test = mixed(80), mixed(40, 1)
    for part in ("x", "count"):
        for of in (train, test):
            gone = np.zeros(of[part].shape, bool)
            gone[::2, 0] = gone[1::2, 1] = True
            of |= rows_of(of, part, gone)
    for of in (train, test):
        of |= rows_of(of, "sign", (np.arange(len(of["sign"])) % 3 == 0)[:, None])
    found = measured(train, test, {part: of | {"missing": "nan"} for part, of in MIXED.items()})
    assert parts_of(found) == list(MIXED)
    assert {name for name in found.results if "variety/" in name} == {f"gen/variety/{part}" for part in MIXED}
    assert {part: found.results[f"fill/r2/{part}"].n for part in MIXED} == {"x": 40, "sign": 26, "count": 40}
    assert found.results["fill/coverage90/x"].n == 40
    assert found.results["belong/match/x"].n == 40
    assert found.skipped["belong/score/x"].startswith("fewer than two test items lack no part and no cell")


def test_parts_that_are_wholly_missing_in_some_rows_are_judged_where_they_are():
    present = np.ones((80, 3), bool)
    present[::4, 0] = present[1::4, 1] = present[2::4, 2] = False
    found = measured(mixed(80), Rows(mixed(40, 1), present=present[:40]), MIXED, present)
    assert parts_of(found) == list(MIXED)
    assert {found.results[f"fill/r2/{part}"].n for part in MIXED} == {30}
    assert {found.results[f"fill/r2/{part}/{other}"].n for part in MIXED for other in MIXED if part != other} == {20}
    assert found.results["belong/match/x"].n == 30
    assert found.results["belong/score/x"].n == 10


def test_parts_never_seen_together_are_said_to_be():
    present = np.zeros((80, 2), bool)
    present[:40, 0] = present[40:, 1] = True
    arrays = {name: mixed(80)[name] for name in ("x", "count")}
    declared = {name: MIXED[name] for name in arrays}
    found = measured(arrays, Rows(arrays, present=present), declared, present)
    words = [words for _, words in verdict(found)]
    assert words[0] == "How well parts are filled in was not measured: no test item has these."
    assert "How well x is filled in cannot be told: no test item has these." in words
    assert "gen/variety/x" in found.results


def test_one_part_alone_is_measured_by_its_samples():
    found = measured({"x": mixed(80)["x"]}, {"x": mixed(40, 1)["x"]}, {"x": MIXED["x"]})
    assert "two_sample" in found.results
    assert "gen/variety/x" in found.results
    assert not [name for name in found.results if name.startswith(("fill", "belong"))]
    assert verdict(found)[0] == (
        False,
        "How well parts are filled in was not measured: one modality only, nothing to complete.",
    )


@pytest.mark.parametrize("n_test", [1, 3])
def test_a_handful_of_held_out_rows_says_what_cannot_be_told(n_test):
    found = measured(mixed(30), mixed(n_test, 1), MIXED)
    words = [words for _, words in verdict(found)]
    assert words[0] == f"Too few held-out rows to tell whether it works: {n_test}, and 10 are the least."
    assert all("too few to tell" in told for told in words if told.startswith("Filling in"))
    assert not [told for told in words if "worse" in told or "better" in told]
    assert found.skipped["two_sample"] == f"{n_test} test items, and it needs 10"
    assert words[-1].startswith(f"Try next: hold out more rows ({n_test} {'is' if n_test == 1 else 'are'} too few")


@pytest.mark.parametrize("n_train", [1, 2])
def test_a_handful_of_training_rows_is_no_crash(n_train):
    train, test = ({name: of[name] for name in ("x", "count")} for of in (mixed(n_train), mixed(20, 1)))
    found = measured(train, test, {name: MIXED[name] for name in train})
    assert ("fill/regression/x" in found.results) == (n_train > 1)
    first = verdict(found)[0][1]
    assert first.startswith(
        "Compared with regression" if n_train > 1 else "There is no regression" if parts_of(found) else "How"
    )


def test_many_sparse_counts_are_measured_in_bounded_memory(monkeypatch):
    """2,000 columns, of which few are not 0; regressions see as few rows as fit, and no fewer than 500."""
    monkeypatch.setattr("multiebm.evaluation.regressions.CELLS", 2002 * 20)
    monkeypatch.setattr("multiebm.evaluation.regressions.LEAST_ROWS", 30)
    draws = np.random.default_rng(0)
    z = draws.normal(size=(60, 1))
    genes = draws.poisson(np.exp(0.5 * z) * 0.05, (60, 2000))
    arrays = [
        {"genes": scipy.sparse.csr_matrix(genes[rows]), "x": np.concatenate([z, -z], 1)[rows]}
        for rows in (slice(40), slice(40, None))
    ]
    data = multiebm.from_arrays(arrays[0], {"x": MIXED["x"], "genes": {"kind": "counts"}}, test=Rows(arrays[1]))
    model = multiebm.build("arrays-mvae", data)
    m = Measurement(model, data, None, SMALL)
    assert len(training(m).batch.present) == 30
    found = evaluate(model, data, None, SMALL)
    for name in ("fill/deviance/genes", "fill/regression/genes", "fill/coverage90/genes", "fill/rmse/x", "two_sample"):
        assert isfinite(found.results[name].value), name
    # 0 or 1 around a rate that is always small: intervals hold nearly everything by ties that share their places
    assert 0.8 < found.results["fill/coverage90/genes"].value <= 1
    constant = torch.from_numpy((genes[:40] == 0).all(0))
    assert constant.any()  # columns that are 0 in training do not count
    assert found.results["fill/deviance/genes"].n == 20
