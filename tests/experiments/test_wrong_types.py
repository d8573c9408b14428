"""What is no model, data set or path is refused before work starts; other rows are measured in the model's units."""

import numpy as np
import pandas as pd
import pytest

import multiebm
from multiebm.core.errors import ConfigError, DataError
from multiebm.evaluation.result import EvaluationSettings
from multiebm.experiments.measure import in_units_of
from small_models import small_model

DRAWS = np.random.default_rng(0)
TABLE = pd.DataFrame({"a": DRAWS.normal(size=60), "b": 3 + DRAWS.normal(size=60), "c": ["x", "y", "z"] * 20})
PARTS = {"n": ["a", "b"], "c": "c"}
DATA = multiebm.read_data(TABLE, parts=PARTS)
READ = r"expected a data set; read it, multiebm.read_data\(data\), of a table with parts="
SMALL = EvaluationSettings(samples=50, items=10)


def test_what_is_no_data_set_is_refused_with_what_reads_it(tmp_path):
    model = small_model(DATA.modalities)
    for what in (TABLE, "table.csv", {"n": TABLE[["a"]]}):
        for call in (
            lambda what=what: multiebm.evaluate(model, what, progress=False),
            lambda what=what: multiebm.build("own", what),
            lambda what=what: multiebm.train("own", tmp_path / "run", dataset=what),
            lambda what=what: multiebm.write_report(tmp_path, dataset=what),
        ):
            with pytest.raises(ConfigError, match=f"dataset: got {type(what).__name__}, {READ}"):
                call()
    assert not (tmp_path / "run").exists()


def test_what_is_no_model_or_path_or_settings_is_refused(tmp_path):
    for what in (DATA, "run"):
        with pytest.raises(ConfigError, match=r"model: got .*, expected a model; load it, multiebm.from_pretrained\("):
            multiebm.evaluate(what, DATA)
    with pytest.raises(ConfigError, match=r"settings: got dict, expected EvaluationSettings\(...\)"):
        multiebm.evaluate(small_model(DATA.modalities), DATA, {"samples": 10})
    for call in (multiebm.from_pretrained, multiebm.write_report):
        with pytest.raises(DataError, match="path: got NoneType, expected text or a pathlib.Path"):
            call(None)


def test_one_callback_needs_no_list(tmp_path):
    seen = []
    limit = ["training.phases.bound.steps=2"]
    multiebm.train(
        DATA,
        tmp_path / "run",
        limit,
        progress=False,
        callbacks=lambda metrics, step: seen.append(step),
        method="arrays-mopoe",
    )
    assert seen == [1, 2]


def test_other_rows_are_measured_in_the_units_of_the_model():
    """Standardised by their own mean they would hide that they lie elsewhere."""
    model = small_model(DATA.modalities)
    moved = TABLE.assign(a=TABLE["a"] + 100)
    other = multiebm.read_data(moved, parts=PARTS)
    found = in_units_of(model, other)
    assert found.modalities == DATA.modalities
    assert found.fingerprint != other.fingerprint
    state = found.batch("test", found.test.rows.argsort()[:3]).views["n"]
    expected = DATA.modalities["n"].to_state(other.test.views["n"][found.test.rows.argsort()[:3]])
    assert state.tolist() == expected.tolist()
    assert float(state[:, 0].min()) > 50
    assert in_units_of(model, DATA) is DATA
    gaps = multiebm.read_data(TABLE, parts=PARTS, missing="nan")
    assert in_units_of(small_model(gaps.modalities), DATA).modalities == gaps.modalities


def test_data_of_other_parts_are_refused_with_what_is_other():
    model = small_model(DATA.modalities)
    one = multiebm.read_data(TABLE, parts={"n": ["a", "b"]})
    with pytest.raises(ConfigError, match=r"other parts than those of the model.*\nparts n, expected n, c"):
        multiebm.evaluate(model, one, SMALL, progress=False)
    narrow = multiebm.read_data(TABLE, parts={"n": ["a"], "c": "c"})
    with pytest.raises(ConfigError, match=r"\nmodality 'n': got .*\('a',\).*, expected .*\('a', 'b'\)"):
        multiebm.evaluate(model, narrow, SMALL, progress=False)
    fewer = multiebm.read_data(TABLE[TABLE["c"] != "z"], parts=PARTS)
    with pytest.raises(ConfigError, match=r"\nmodality 'c': got .*'y'\).*, expected .*'y', 'z'\)"):
        multiebm.evaluate(model, fewer, SMALL, progress=False)


def test_completions_are_a_frame_of_means_and_deviations():
    model = small_model(DATA.modalities)
    found = model.impute({"n": TABLE[["a", "b"]][:4]}, draws=3)
    frame = model.frame(found)
    assert list(frame) == ["a", "b", "c=x", "c=y", "c=z", "a_std", "b_std", "c=x_std", "c=y_std", "c=z_std"]
    assert np.array_equal(frame["c=y"], found.mean["c"][:, 1])
    assert np.array_equal(frame["c=y_std"], found.std["c"][:, 1])
    with pytest.raises(
        DataError, match="frame: got DataFrame, expected codes, or parts by name, as encode, impute and"
    ):
        model.frame(TABLE)


def test_one_row_of_a_table_and_a_half_part_are_told_what_to_hand_over():
    model = small_model(DATA.modalities)
    with pytest.raises(DataError, match=r"parts: got Series, .*; of one row of a table pass table.iloc\[\[0\]\]"):
        model.impute(TABLE.iloc[0])
    with pytest.raises(
        DataError, match=r"got 'a' of part 'n' and no column 'b', expected all 2 of it, or none. Supply"
    ):
        model.impute(TABLE[["a"]])
    with pytest.raises(
        ConfigError, match=r"data_steps: got None, as in training \(--refine\), but this model has no e"
    ):
        multiebm.build("arrays-mopoe", DATA).sample(1, data_steps=None)
