"""`fit-refiner` and what it makes possible: samples, completions, figures, report and cost of a refined run."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from multiebm.cli.main import main
from multiebm.evaluation import lite0
from multiebm.experiments.saved import from_pretrained
from test_scripts import loaded

needs_diffusers = pytest.mark.skipif(find_spec("diffusers") is None, reason="the extra diffusion is not installed")
Capture = pytest.CaptureFixture[str]
SMALL = [
    "model.shared=3",
    "model.networks.picture.width=2",
    "training.phases.bound.steps=3",
    "training.batch_size=16",
    "training.precision=fp32",
    "evaluation.items=8",
    "evaluation.samples=16",
]


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on pictures and vectors."""
    folder, draws = tmp_path_factory.mktemp("refined"), np.random.default_rng(0)
    np.savez(folder / "d.npz", face=draws.random((60, 8, 8, 3), np.float32), x=draws.normal(size=(60, 2)))
    kinds = "data.settings.modalities={face: {kind: picture, layout: hwc}, x: {kind: vector}}"
    data = [f"data.settings.path={folder / 'd.npz'}", kinds]
    assert command("-q", "train", "arrays-mopoe", *data, *SMALL, "--out", folder / "run", "--device", "cpu") == 0
    return folder / "run"


@pytest.fixture(scope="module")
def refined(run: Path) -> Path:
    """The same with a refiner of the second formulation."""
    out = run.parent / "refined"
    options = ["--formulation", 2, "--width", 4, "--steps", 2, "--batch", 8, "--drawn-in", 5, "--device", "cpu"]
    assert command("-q", "fit-refiner", run, "--out", out, *options) == 0
    return out


@needs_diffusers
def test_a_refined_run_says_how_it_was_fitted_and_the_rest_is_as_it_was(run: Path, refined: Path):
    about, before = (json.loads((folder / "run.json").read_text()) for folder in (refined, run))
    fit = about["refiner_fit"]
    assert fit.pop("seconds") > 0
    expected = {"formulation": 2, "width": 4, "steps": 2, "rate": 2e-4, "batch": 8, "drawn_in": 5}
    assert fit == {"of": str(run)} | expected
    own = sum(p.numel() for p in from_pretrained(refined).diffusion.parameters())
    assert about["parameters"] == before["parameters"] | {"diffusion": own}
    model, plain = from_pretrained(refined).state_dict(), from_pretrained(run).state_dict()
    assert all((model[name] == value).all() for name, value in plain.items())


@needs_diffusers
def test_samples_and_completions_are_those_of_the_model(refined: Path, tmp_path: Path):
    model = from_pretrained(refined)
    assert command("-q", "sample", refined, "-n", 3, "--diffusion", "--out", tmp_path / "s.npz") == 0
    with np.load(tmp_path / "s.npz") as found:
        np.testing.assert_array_equal(found["face"], model.sample(3, diffusion_steps=5)["face"].numpy())
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 2), np.float32))
    given = ["--parts", tmp_path / "x.npz", "--out", tmp_path / "i.npz", "--diffusion-steps", 10]
    assert command("-q", "impute", refined, *given) == 0
    with np.load(tmp_path / "i.npz") as found:
        expected = model.impute({"x": np.zeros((2, 2), np.float32)}, diffusion_steps=10)
        np.testing.assert_array_equal(found["face"], expected["face"].numpy())
        np.testing.assert_array_equal(found["x"], np.zeros((2, 2)))


@needs_diffusers
def test_it_is_measured_beside_gen_and_stands_in_the_report(refined: Path, run: Path):
    for folder in (refined, run):
        assert command("-q", "evaluate", folder) == 0
        assert command("-q", "report", folder) == 0
    with_it, without = (json.loads((folder / "evaluation.json").read_text()) for folder in (refined, run))
    assert with_it["results"].keys() - without["results"].keys() >= {"diffusion/variety", "diffusion/variety/face"}
    assert not any("diffusion" in name for name in [*without["results"], *without["skipped"]])
    assert with_it["results"]["gen/variety/face"] == without["results"]["gen/variety/face"]
    assert with_it["results"]["diffusion/variety/x"]["value"] == with_it["results"]["gen/variety/x"]["value"]
    note = "Gen with its pictures drawn anew by the diffusion refiner, 5 steps."
    assert note in (refined / "report.html").read_text()
    assert note not in (run / "report.html").read_text()


@needs_diffusers
def test_the_cost_table_has_each_way_once(run: Path, refined: Path, tmp_path: Path, capsys: Capture, monkeypatch):
    monkeypatch.setattr(lite0, "load_lite0", lambda *_: None)
    script, out = loaded("cost_table"), tmp_path / "cost.json"
    few = ["--samples", "16", "--items", "8", "--repeats", "2", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", ["cost_table.py", str(run), str(refined), *few])
    script["main"]()
    said, kept = capsys.readouterr().out, json.loads(out.read_text())
    assert kept["command"].startswith(f"python scripts/cost_table.py {run}")
    assert kept["command"] in said
    assert kept["machine"] in said
    rows = [(row["run"], row["way"], row["evaluations"], row["timed"]) for row in kept["rows"]]
    assert rows == [(str(run), "Gen", 1, 2), (str(refined), "Diffusion, formulation 2", 6, 2)]
    assert kept["rows"][0]["parameters"] == 0
    assert kept["rows"][1]["parameters"] == json.loads((refined / "run.json").read_text())["parameters"]["diffusion"]


def test_what_cannot_be_fitted_is_refused_before_work_starts(run: Path, tmp_path: Path, capsys: Capture, monkeypatch):
    assert command("fit-refiner", run, "--out", tmp_path / "new", "--width", 10, "--drawn-in", 30) == 2
    said = capsys.readouterr().err
    assert "width: got 10, expected a multiple of 4" in said
    assert "steps: got 30, expected a number of which 1000 is a whole multiple" in said
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.setattr("multiebm.experiments.refit.from_pretrained", lambda *_: pytest.fail("the work began"))
    assert command("fit-refiner", run, "--out", tmp_path / "new") == 2
    assert 'pip install "multiebm[diffusion]"' in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert command("sample", run, "--diffusion", "--out", tmp_path / "s.png") == 2
    assert "this model has no diffusion refiner" in capsys.readouterr().err


@needs_diffusers
def test_a_refined_model_says_what_is_not_installed(refined: Path, capsys: Capture, monkeypatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert command("sample", refined, "--out", tmp_path / "s.png") == 2
    said = capsys.readouterr().err
    assert f"{refined / 'model'}: got no package diffusers" in said
    assert 'pip install "multiebm[diffusion]"' in said
