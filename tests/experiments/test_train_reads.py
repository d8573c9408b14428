"""`train` reads a table with the words that the command line has: parts, kinds, missing, labels."""

import numpy as np
import pandas as pd
import pytest

import multiebm
from multiebm.core.errors import ConfigError

N = 40
DRAWS = np.random.default_rng(0)
TABLE = pd.DataFrame(
    {"a": DRAWS.normal(size=N), "b": DRAWS.normal(size=N), "visits": DRAWS.poisson(3, N), "group": ["u", "v"] * 20}
)
TABLE.loc[3, "a"] = np.nan
SAID = {"parts": {"x": ["a", "b"], "n": "visits"}, "kinds": {"n": "counts"}, "missing": "nan", "labels": "group"}
SHORT = ["training.phases.bound.steps=2"]


@pytest.mark.parametrize("form", ["frame", "path"])
def test_a_table_is_read_as_read_data_reads_it(tmp_path, form):
    TABLE.to_csv(tmp_path / "t.csv", index=False)
    source = TABLE if form == "frame" else tmp_path / "t.csv"
    model = multiebm.train(source, tmp_path / "run", SHORT, progress=False, **SAID)
    data = multiebm.read_data(source, **SAID)
    assert model.modalities == data.modalities
    assert [m.kind for m in model.modalities.values()] == ["vector", "counts"]
    assert model.modalities["x"].missing == "nan"
    assert data.classes == ("u", "v")


def test_words_for_reading_are_refused_where_nothing_is_read(tmp_path):
    data = multiebm.read_data(TABLE, **SAID)
    with pytest.raises(ConfigError, match="parts, missing: got with data that read_data has read, expected data to re"):
        multiebm.train(data, tmp_path / "run", parts={"x": "a"}, missing="nan")
    with pytest.raises(ConfigError, match="kinds: got with toy2d, which names settings, expected data to read beside"):
        multiebm.train("toy2d", tmp_path / "run", kinds={"x": "vector"})
    with pytest.raises(ConfigError, match=r"or at once multiebm.train\(table, parts={'name': \['a', 'b'\]}\)"):
        multiebm.train(TABLE, tmp_path / "run")
    assert not (tmp_path / "run").exists()
