"""Every row of the table passes the contract that outside rows prove themselves by."""

import sys
from importlib import invalidate_caches

import numpy as np
import pytest
import torch

from multiebm.cli.main import main
from multiebm.core.errors import ConfigError
from multiebm.experiments.baselines import ROWS, baselines
from multiebm.experiments.build import build_model
from multiebm.experiments.contract import PARTS, BaselineContract, raw_views, small_experiment
from multiebm.experiments.load import load_experiment
from multiebm.experiments.schema import contradictions
from multiebm.experiments.values import merge

OUTSIDE = """
from multiebm.experiments.baselines import Baseline

ROW = Baseline(
    "product of all experts, no prior expert",
    {"model": {"inference": {"subsets": "full", "pooled": True}},
     "training": {"phases": {"bound": {"divergence": "analytic"}}}},
)
"""


@pytest.mark.parametrize("name", ROWS)
class TestRows(BaselineContract):
    """The rows of the package."""

    @pytest.fixture(autouse=True)
    def _row(self, name):
        self.baseline = ROWS[name]


OTHER = {  # family, scales, prior: what a row does not have by default and its method allows
    "mmvae": ("normal", "softplus", "normal"),
    "mmvae-star": ("laplace", "softmax", "laplace"),
    "mmvaeplus": ("normal", "softplus", "normal"),
    "cmvae": ("normal", "softplus", "clusters"),
    "mwbvae": ("laplace", "log_variance", "laplace"),
    "mvebmplus": ("normal", "softplus", "energy"),
}


@pytest.mark.parametrize("name", OTHER)
class TestRowsWithExpertsOfTheOtherFamily(BaselineContract):
    """Gaussian where the row has Laplace experts, and the other way round."""

    @pytest.fixture(autouse=True)
    def _row(self, name):
        family, scale_map, kind = OTHER[name]
        changes = {"family": family, "scale_map": scale_map, "prior": {"kind": kind}}
        cells = merge(dict(ROWS[name].cells), {"model": changes})
        self.baseline = ROWS[name]._replace(cells=cells)
        assert contradictions(self.experiment()) == []


TILTED = ("mvae", "mopoe", "mvtcae", "codevae", "jmvae", "dmvae")  # rows that a prior in closed form is usual for


@pytest.mark.parametrize("name", TILTED)
class TestRowsWithATilt(BaselineContract):
    """Any row takes the energy prior, its divergence sampled."""

    @pytest.fixture(autouse=True)
    def _row(self, name):
        sampled = {"phases": {"bound": {"divergence": "component"}}}
        changes = {"model": {"prior": {"kind": "energy"}}, "training": sampled}
        self.baseline = ROWS[name]._replace(cells=merge(dict(ROWS[name].cells), changes))
        assert contradictions(self.experiment()) == []


@pytest.mark.parametrize("name", ROWS)
def test_every_row_answers_every_question_on_the_command_line(name, tmp_path, capsys):
    model = build_model(small_experiment(ROWS[name]).model, PARTS, 0)
    model.save_pretrained(tmp_path / "model")
    views = raw_views()
    np.savez(tmp_path / "all.npz", **{key: view.numpy() for key, view in views.items()})
    np.savez(tmp_path / "left.npz", left=views["left"].numpy())

    def run(command, *arguments):
        with pytest.raises(SystemExit) as end:
            main([command, str(tmp_path / "model"), *arguments])
        assert end.value.code == 0
        return capsys.readouterr().out

    def numbers(text):
        return torch.tensor([float(line.split(",")[1]) for line in text.splitlines()[1:]])

    every, left = (["--parts", str(tmp_path / f"{file}.npz")] for file in ("all", "left"))
    run("sample", "-n", "3", "--seed", "5", "--out", str(tmp_path / "drawn.npz"))
    run("impute", *left, "--seed", "5", "--out", str(tmp_path / "whole.npz"))
    run("encode", *left, "--out", str(tmp_path / "codes.npz"))
    drawn, whole = model.sample(3, seed=5), model.impute({"left": views["left"]}, seed=5)
    for key in PARTS:
        assert np.array_equal(np.load(tmp_path / "drawn.npz")[key], drawn[key].numpy())
        assert np.array_equal(np.load(tmp_path / "whole.npz")[key], whole[key].numpy())
    codes = model.encode({"left": views["left"]})
    assert np.array_equal(np.load(tmp_path / "codes.npz")["codes"], codes.numpy())
    torch.testing.assert_close(numbers(run("score", *every)), model.score(views))
    found = numbers(run("likelihood", *every, "--given", "left", "--samples", "20", "--seed", "1"))
    torch.testing.assert_close(found, model.log_likelihood(views, ["left"], 20, 1))


@pytest.mark.parametrize("name", ROWS)
def test_no_row_contradicts_itself_on_any_data(name):
    assert contradictions(small_experiment(ROWS[name])) == []
    for data in ("polydigits", "polymnist16", "polymnist", "shapes", "mnist-svhn", "cub64", "coco64", "tuxpaint"):
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
