"""A whole table is split by a model as training split it, whatever is asked."""

import numpy as np
import pandas as pd
import pytest
import torch

import multiebm
from multiebm.core.errors import DataError
from small_models import small_model

N = 40
DRAWS = np.random.default_rng(0)
TABLE = pd.DataFrame(
    {
        "name": [f"row {i}" for i in range(N)],
        "a": DRAWS.normal(size=N),
        "colour": ["red", "blue"] * (N // 2),
        "b": DRAWS.normal(size=N),
    }
)
DATA = multiebm.read_data(TABLE, parts={"x": ["a", "b"], "look": "colour"})
PARTS = {"x": TABLE[["a", "b"]], "look": TABLE["colour"]}


class Foreign:
    """A table of another library."""

    columns = list(TABLE)

    def to_pandas(self):
        return TABLE


@pytest.mark.parametrize("table", [TABLE, TABLE[["b", "colour", "a"]], Foreign()])
def test_a_whole_table_gives_what_its_parts_give(table):
    model = small_model(DATA.modalities)
    torch.testing.assert_close(model.encode(table), model.encode(PARTS), rtol=0, atol=0)
    torch.testing.assert_close(model.match(table), model.match(PARTS), rtol=0, atol=0)
    torch.testing.assert_close(model.score(table), model.score(PARTS), rtol=0, atol=0)
    likelihoods = [model.log_likelihood(of, samples=3, log_z=0.0, progress=False) for of in (table, PARTS)]
    torch.testing.assert_close(*likelihoods, rtol=0, atol=0)
    filled, expected = model.impute(table), model.impute(PARTS)
    assert list(filled) == ["x", "look"]
    assert all(torch.equal(filled[name], expected[name]) for name in expected)


def test_what_a_table_has_not_is_absent_and_what_is_hidden_stays_so():
    model = small_model(DATA.modalities)
    table = TABLE.copy()
    table.loc[1, ["a", "b"]] = np.nan
    table.loc[2, "colour"] = None
    there = torch.ones(N, 2, dtype=torch.bool)
    there[1, 0] = there[2, 1] = there[3, 0] = False
    found = model.impute(table, present={"x": np.arange(N) != 3})
    expected = model.impute(PARTS, present=there)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    alone = model.impute(TABLE[["colour"]])
    assert torch.equal(alone["x"], model.impute({"look": TABLE["colour"]})["x"])
    assert list(TABLE) == ["name", "a", "colour", "b"]


def test_a_table_without_the_columns_of_training_is_refused_with_its_own_and_the_call():
    model = small_model(DATA.modalities)
    with pytest.raises(DataError) as error:
        model.impute(TABLE[["a", "b"]].rename(columns=str.upper))
    assert str(error.value) == (
        "parts: got no columns of a part, expected those of training (x: a, b; look: colour); it has A, B: rename "
        "them, or in Python say whose they are, {'x': table[['A', 'B']].to_numpy()}"
    )
    with pytest.raises(DataError, match="parts: got 'a' of part 'x' and no column 'b', expected all 2 of it, or none"):
        model.impute(TABLE[["a"]])


def test_a_mask_whose_rows_stand_in_another_order_is_refused():
    model = small_model(DATA.modalities)
    present = pd.DataFrame({"x": [True] * N, "look": [True] * (N - 1) + [False]}, index=TABLE.index[::-1])
    with pytest.raises(DataError, match="rows of present in another order than those of the table"):
        model.impute(TABLE, present=present)


def test_a_column_that_could_be_of_two_parts_is_asked_for_by_its_part():
    one, other = TABLE[["a", "b"]], TABLE[["b", "a"]].set_axis(["a", "b"], axis=1)
    model = small_model(multiebm.read_data({"x": one, "y": other}).modalities)
    with pytest.raises(DataError, match="got 'a', a column of part 'y' and of one before it.* such as 'y_a'"):
        model.encode(one)
    told = pd.concat([one.add_prefix("x_"), other.add_prefix("y_")], axis=1)
    torch.testing.assert_close(model.encode(told), model.encode({"x": one, "y": other}), rtol=0, atol=0)
    with pytest.raises(DataError, match="got 'y_a' of part 'y' and no column 'y_b', expected all 2 of it"):
        model.encode(told.drop(columns="y_b"))
