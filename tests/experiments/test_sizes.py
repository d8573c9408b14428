"""How large and how long a model of own data is, by the rows and columns there are."""

import numpy as np
import pytest

import multiebm
from multiebm.experiments.load import load_experiment
from multiebm.experiments.sizes import sizes_for

COLOURS = ("red", "green", "blue", "grey")


def data(rows, columns):
    """As many rows to train on, and one to test."""
    table = np.random.default_rng(0).normal(size=(rows, columns))
    return multiebm.from_arrays({"table": table}, test=multiebm.Rows({"table": table[:1]}))


@pytest.mark.parametrize(
    ("rows", "columns", "shared", "steps", "samples"),
    [
        (400, 10, 10, 1000, 8),
        (8, 24, 4, 1000, 8),
        (60, 50, 15, 1000, 1),
        (700, 50, 32, 1400, 1),
        (4000, 3, 4, 6000, 8),
        (1600, 400, 80, 1280, 8),
    ],
)
def test_columns_and_rows_choose_the_shared_numbers_the_steps_and_the_draws(rows, columns, shared, steps, samples):
    found = sizes_for("own", data(rows, columns), [])
    bound = "training.phases.bound"
    by_value = [f"{bound}.estimator=predictive_values"] if columns > 160 else []
    assert found == [f"model.shared={shared}", f"{bound}.steps={steps}", f"{bound}.samples={samples}", *by_value]


def test_captions_beside_pictures_are_balanced_and_alone_they_are_not():
    texts = [f"a {size} {colour} dot" for size in ("big", "small", "tiny") for colour in COLOURS]
    pictures = np.zeros((12, 8, 8, 3), np.uint8)
    balanced = {}
    for name, parts in {
        "beside": {"x": pictures, "a b": texts},
        "alone": {"x": np.zeros((12, 2)), "a b": texts},
    }.items():
        chosen = sizes_for("own", multiebm.read_data(parts), [])
        balanced[name] = load_experiment("own", chosen).model.likelihood.weights
    assert balanced == {"beside": {"a b": "balance"}, "alone": {}}
    given = ["model.likelihood.weights.a b=3"]
    chosen = sizes_for("own", multiebm.read_data({"x": pictures, "a b": texts}), given)
    assert load_experiment("own", [*chosen, *given]).model.weight("a b") == 3


def test_settings_that_are_given_and_other_presets_are_left_alone():
    given = ["model.shared=3", "training.phases.bound.samples=2"]
    assert sizes_for("own", data(400, 10), given) == ["training.phases.bound.steps=1000"]
    assert sizes_for("arrays", data(400, 10), []) == []
