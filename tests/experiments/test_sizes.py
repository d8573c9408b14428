"""How large and how long a model of own data is, by the rows and columns there are."""

import numpy as np
import pytest

import multiebm
from multiebm.experiments.sizes import sizes_for


def data(rows, columns):
    """As many rows to train on, and one to test."""
    table = np.random.default_rng(0).normal(size=(rows, columns))
    return multiebm.from_arrays({"table": table}, test=multiebm.Rows({"table": table[:1]}))


@pytest.mark.parametrize(
    ("rows", "columns", "shared", "steps"),
    [
        (400, 10, 10, 1000),
        (8, 10, 4, 1000),
        (60, 50, 15, 1000),
        (700, 50, 32, 1400),
        (4000, 3, 4, 6000),
        (1600, 400, 80, 1280),
    ],
)
def test_columns_and_rows_choose_the_shared_numbers_and_rows_the_steps(rows, columns, shared, steps):
    found = sizes_for("own", data(rows, columns), [])
    assert found == [f"model.shared={shared}", f"training.phases.bound.steps={steps}"]


def test_settings_that_are_given_and_other_presets_are_left_alone():
    assert sizes_for("own", data(400, 10), ["model.shared=3"]) == ["training.phases.bound.steps=1000"]
    assert sizes_for("arrays", data(400, 10), []) == []
