"""Every row of the table passes the contract that outside rows prove themselves by."""

import sys
from importlib import invalidate_caches

import pytest

from multiebm.core.errors import ConfigError
from multiebm.experiments.baselines import ROWS, baselines
from multiebm.experiments.contract import BaselineContract, small_experiment
from multiebm.experiments.load import load_experiment
from multiebm.experiments.schema import contradictions

OUTSIDE = """
from multiebm.experiments.baselines import Baseline

ROW = Baseline(
    "product of all experts, no prior expert",
    {"model": {"inference": {"subsets": "full", "pooled": True}},
     "training": {"bound": {"denominator": "component", "divergence": "analytic"}}},
)
"""


@pytest.mark.parametrize("name", ROWS)
class TestRows(BaselineContract):
    """The rows of the package."""

    @pytest.fixture(autouse=True)
    def _row(self, name):
        self.baseline = ROWS[name]


@pytest.mark.parametrize("name", ROWS)
def test_no_row_contradicts_itself_on_any_data(name):
    assert contradictions(small_experiment(ROWS[name])) == []
    for data in ("polydigits", "polymnist16", "polymnist"):
        assert load_experiment(f"{data}-{name}").model.energy is None


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package that adds one row by an entry point."""
    (tmp_path / "outside_row.py").write_text(OUTSIDE)
    info = tmp_path / "outside_row-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-row\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[multiebm.baselines]\npoe = outside_row:ROW\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    invalidate_caches()
    yield info
    sys.modules.pop("outside_row", None)


def test_a_package_adds_a_row_that_trains_on_shipped_data_and_proves_itself(package):
    row = baselines()["poe"]
    assert load_experiment("polydigits-poe").model.inference.subsets == "full"
    outside = type("TestOutside", (BaselineContract,), {"baseline": row})()
    for method in dir(outside):
        if method.startswith("test_"):
            getattr(outside, method)()


def test_a_row_whose_name_is_taken_is_refused(package):
    (package / "entry_points.txt").write_text("[multiebm.baselines]\nmvae = outside_row:ROW\n")
    invalidate_caches()
    with pytest.raises(ConfigError, match="expected a name that is not taken"):
        baselines()
