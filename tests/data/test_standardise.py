"""How vectors are standardised where it is declared, and which columns are said to be constant."""

import numpy as np
import pandas as pd
import pytest
import torch

import multiebm
from multiebm.cli.main import main
from multiebm.core.errors import ConfigError, DataError
from multiebm.data import Rows, from_arrays, load_dataset
from multiebm.modalities import Vector, from_json, to_json
from small_models import small_model

N = 200
NORMAL = 1.3489795003921634  # between the quartiles of N(0, 1)


def rows() -> np.ndarray:
    """A normal column, a skew one, one that is mostly 0, a constant one."""
    draws = np.random.default_rng(0)
    mostly = np.where(np.arange(N) % 10 == 0, draws.normal(0, 5, N), 0.0)
    return np.c_[draws.normal(3, 2, N), draws.exponential(10, N), mostly, np.full(N, 7.0)]


def robust(values, **more) -> Vector:
    declared = {"x": {"kind": "vector", "standardise": "robust"} | more}
    return from_arrays({"x": values}, declared, test=Rows({"x": values[:2]})).modalities["x"]


def test_robust_means_median_and_quartiles_and_the_deviation_where_they_are_one():
    values = rows()
    part = robust(values)
    low, middle, high = np.percentile(values, [25, 50, 75], axis=0)
    np.testing.assert_allclose(part.loc, middle)
    np.testing.assert_allclose(part.scale[:2], (high - low)[:2] / NORMAL)
    assert (part.scale[2], part.scale[3]) == (pytest.approx(values[:, 2].std()), 1.0)
    assert part.scale[0] == pytest.approx(values[:, 0].std(), rel=0.15)  # of a normal column both mean the same


def test_an_outlier_does_not_squash_the_others():
    values = rows()
    values[17, 0] = 1e6
    part = robust(values)
    state = part.to_state(torch.from_numpy(values))[:, 0]
    others = torch.cat([state[:17], state[18:]])
    assert 0.8 < others.std() < 1.2
    plain = from_arrays({"x": values}, test=Rows({"x": values[:2]})).modalities["x"]
    assert plain.to_state(torch.from_numpy(values))[:17, 0].std() < 1e-3
    back = part.to_raw(part.to_state(torch.from_numpy(values)))
    np.testing.assert_allclose(back, values, rtol=1e-7, atol=1e-5)  # float32 states of deviations
    assert back[17, 0] == pytest.approx(1e6, rel=1e-7)


def test_missing_cells_do_not_count():
    values = rows()
    gaps = values.copy()
    gaps[::3, 0] = np.nan
    gaps[:, 1] = np.nan
    part = robust(gaps, missing="nan")
    low, middle, high = np.nanpercentile(gaps[:, 0], [25, 50, 75])
    assert (part.loc[0], part.scale[0]) == pytest.approx((middle, (high - low) / NORMAL))
    assert (part.loc[1], part.scale[1]) == (0.0, 1.0)


def test_it_is_kept_with_the_model_and_in_what_a_run_keeps():
    part = robust(rows())
    assert from_json(to_json(part)) == part
    assert part.describe() == "4 numbers, standardised by median and quartiles"
    data = from_arrays({"x": rows()}, {"x": {"kind": "vector", "standardise": "robust"}})
    assert data.kept.settings["modalities"]["x"]["standardise"] == "robust"
    with pytest.raises(ConfigError, match=r"x.standardise: got 'mad', expected deviation .* or robust"):
        from_arrays({"x": rows()}, {"x": {"kind": "vector", "standardise": "mad"}})


def test_a_declaration_need_not_say_the_kind_and_others_are_inferred(tmp_path):
    frame = pd.DataFrame(rows(), columns=["a", "b", "c", "same"]).assign(colour=["red", "blue"] * (N // 2))
    frame.to_csv(tmp_path / "table.csv", index=False)
    parts = {"x": ["a", "b", "c", "same"], "look": "colour"}
    data = multiebm.read_data(frame, parts, kinds={"x": {"standardise": "robust"}})
    assert [m.kind for m in data.modalities.values()] == ["vector", "category"]
    assert data.modalities["x"].loc == tuple(np.median(data.train.views["x"].numpy(), 0))
    settings = {"path": str(tmp_path / "table.csv"), "parts": parts, "kinds": {"x": {"standardise": "robust"}}}
    assert load_dataset("arrays", settings).modalities == data.modalities


def test_constant_columns_are_named_before_training(tmp_path, capsys, monkeypatch):
    frame = pd.DataFrame(rows(), columns=["a", "b", "c", "same"])
    frame["empty"] = np.nan
    more = np.c_[np.ones((N, 7)), np.arange(N)]
    said = multiebm.from_arrays({"x": frame, "y": more}, {"x": {"missing": "nan"}, "y": None}).describe()
    assert said.splitlines()[1:] == [
        "constant in training, so nothing is learned of them: columns of x: 'same'; y: 0, 1, 2, 3, 4, ... (7 in all)",
        "has no value in training and comes back as 0, so leave it out: columns of x: 'empty'",
    ]
    assert "constant" not in from_arrays({"x": frame[["a", "b"]]}).describe()
    frame.drop(columns="empty").to_csv(tmp_path / "table.csv", index=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("multiebm.experiments.run.run_experiment", lambda *args, **more: (_ for _ in ()).throw(Ended))
    with pytest.raises(Ended):
        main(["train", "table.csv", "--part", "x=a,same", "--kind", "x=vector,standardise=robust", "--out", "run"])
    assert capsys.readouterr().err.splitlines()[:2] == [
        "data: x: 2 numbers, standardised by median and quartiles; 160 rows to train, 40 to test",
        "constant in training, so nothing is learned of them: columns of x: 'same'",
    ]


@pytest.mark.parametrize("shape", [(8, 8, 3), (8, 8)])
def test_pictures_that_are_all_the_same_are_named_as_constant(shape):
    data = {"a": np.full((20, *shape), 200, np.uint8), "b": np.arange(20.0)}
    assert multiebm.read_data(data).describe().splitlines()[1:] == [
        "constant in training, so nothing is learned of them: all pictures of a are the same"
    ]
    data["a"] = data["a"] - np.arange(20, dtype=np.uint8).reshape(20, *[1] * len(shape))
    assert "constant" not in multiebm.read_data(data).describe()


def test_a_column_of_categories_without_a_value_is_refused_with_the_fix():
    frame = pd.DataFrame({"look": ["a", "b"] * 10, "none": [None] * 20})
    with pytest.raises(
        DataError, match="got no class that is there of column 'none', which has no value, .*leave it o"
    ):
        multiebm.read_data({"x": frame}, missing="nan")


class Ended(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("value", [1e-6, -3e-12, 0.0, 7.7, 3e8])
def test_a_constant_column_comes_back_as_itself_and_a_new_value_is_only_centred(value):
    values = np.c_[np.random.default_rng(0).normal(size=(N, 2)), np.full(N, value)]
    part = from_arrays({"x": values}, test=Rows({"x": values[:2]})).modalities["x"]
    assert (part.same, part.loc[2], part.scale[2]) == ((2,), value, 1.0)
    raw = part.to_raw(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)))
    assert (raw[:, 2] == value).all()
    assert raw[:, :2].std() > 0.5
    assert from_json(to_json(part)) == part
    new = torch.from_numpy(values[:1] + 0.25)
    assert part.to_state(new)[0, 2] == pytest.approx(new[0, 2].item() - value)


def test_places_of_constant_columns_that_are_not_there_are_refused():
    with pytest.raises(ConfigError, match=r"modality 'x', same: got 2, expected places below 2"):
        Vector("x", (2,), (0.0, 0.0), (1.0, 1.0), same=(2,))


def test_samples_and_completions_have_the_value_of_a_constant_column():
    data = from_arrays({"x": np.c_[rows()[:, 0], np.full(N, 1e-6)], "y": rows()[:, 1:2]})
    model = small_model(data.modalities)
    assert model.sample(5)["x"][:, 1].tolist() == [1e-6] * 5
    assert model.impute({"y": rows()[:3, 1:2]})["x"][:, 1].tolist() == [1e-6] * 3


def test_an_outlier_that_squashes_its_column_is_named_before_training():
    values = rows()
    values[17, 1] = 1e12
    frame = pd.DataFrame(values, columns=["a", "b", "c", "same"])
    data = from_arrays({"x": frame}, test=Rows({"x": frame[:2]}))
    low, middle, high = np.percentile(values[:, 1], [25, 50, 75])
    off = f"{(1e12 - middle) / (high - low) * NORMAL:.2g}"
    assert data.describe().splitlines()[2] == (
        "outliers of x, beside which other values look all the same: 1e+12 in row 17, column 'b' "
        f"({off} deviations from the median); leave such cells empty, or, where they are right, train with --kind "
        "x=vector,standardise=robust and model.parts.x.likelihood=student_t"
    )
    plain = from_arrays({"x": values[:, :2]}, test=Rows({"x": values[:2, :2]}))
    assert "1e+12 in row 17, column 1 (" in plain.outliers()["x"]


def test_the_row_of_an_outlier_is_that_of_the_users_own_rows_with_gaps_and_hidden_ones():
    values, there = rows()[:, :2], np.arange(N) % 3 > 0
    values[10, 0] = -1e9
    values[4::7, 0] = np.nan
    data = from_arrays({"x": values, "y": np.arange(N)}, {"x": {"kind": "vector", "missing": "nan"}, "y": None},
                       present={"x": there})  # fmt: skip
    assert 10 in data.train.rows.tolist()
    assert data.outliers()["x"].endswith("deviations from the median)")
    assert "-1e+09 in row 10, column 0 (" in data.outliers()["x"]


def test_skew_and_rare_values_are_no_outliers():
    draws = np.random.default_rng(0)
    skewed = np.c_[draws.lognormal(0, 1.5, N), draws.random(N) < 0.02, draws.standard_t(3, N), rows()[:, 2:]]
    assert from_arrays({"x": skewed.astype(float)}, {"x": "vector"}).outliers() == {}
