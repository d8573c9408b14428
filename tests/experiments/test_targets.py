"""What cannot be written, or cannot be trained, is refused before the work; what fails then leaves what was there."""

import json
import os
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
from run_standins import tiny_data

from multiebm.cli.main import main
from multiebm.core.errors import ConfigError, DataError, OutputError
from multiebm.core.lock import locked
from multiebm.evaluation.result import load_evaluation
from multiebm.experiments import compare as compare_module
from multiebm.experiments import refit as refit_module
from multiebm.experiments.compare import compare
from multiebm.experiments.fit_prior import fit_prior_of_run
from multiebm.experiments.load import load_experiment
from multiebm.experiments.run import run_experiment
from multiebm.priors.prior import Settling

SMALL = ["model.shared=3", "training.phases.bound.steps=3", "training.batch_size=8", "training.checkpoint_every=1"]
FEW = ["evaluation.samples=8", "evaluation.items=4"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on vectors without labels, so that no judges are needed."""
    folder = tmp_path_factory.mktemp("targets")
    draws = np.random.default_rng(0)
    np.savez(folder / "d.npz", a=draws.normal(size=(60, 2)), b=draws.normal(size=(60, 3)))
    data = [f"data.settings.path={folder / 'd.npz'}", "data.settings.modalities={a: {kind: vector}, b: {kind: vector}}"]
    steps = [
        "training.phases.bound.steps=2",
        "training.phases.energy.steps=1",
        "training.phases.cooperative.steps=1",
        "training.batch_size=8",
    ]
    steps += ["training.phases.settle.steps=2", *FEW]
    assert command("train", "arrays", *data, *steps, "--out", str(folder / "run"), "--device", "cpu") == 0
    return folder / "run"


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    return int(raised.value.code or 0)


@pytest.mark.parametrize(("name", "written"), [("evaluate", "evaluation.json"), ("report", "report.html")])
def test_a_result_that_cannot_be_written_into_its_run_is_refused_first_and_may_go_elsewhere(
    name: str, written: str, run: Path, tmp_path: Path, capsys
):
    target = run / written
    target.mkdir()  # in the way, as a run that is read-only is for others than root
    assert command(name, str(run)) == 1
    assert command(name, str(run), "--out", "/proc/x") == 1
    err = " ".join(capsys.readouterr().err.split())
    assert f"{target}: cannot be written (Is a directory); " in err
    assert "give another file with --out" in err
    assert "/proc/x: cannot be written" in err
    assert command(name, str(run), "--out", str(tmp_path / "new" / written)) == 0
    assert (tmp_path / "new" / written).stat().st_size > 500
    target.rmdir()


@pytest.mark.parametrize(("name", "written"), [("evaluate", "evaluation.json"), ("report", "report.html")])
def test_a_full_disk_leaves_the_result_that_was_there(name: str, written: str, run: Path, capsys):
    (run / written).write_text("old")
    if name == "report":
        (run / "evaluation.json").unlink(missing_ok=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400, hard))
    try:
        assert command(name, str(run)) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    err = capsys.readouterr().err
    assert f"{run / written}: the disk is full; free space, or give another file" in " ".join(err.split())
    assert "Traceback" not in err
    assert (run / written).read_text() == "old"
    assert not [path for path in run.iterdir() if path.name.startswith(".aside-")]
    (run / written).unlink()


def test_an_evaluation_is_read_back_from_where_it_was_sent(run: Path, tmp_path: Path):
    assert command("evaluate", str(run), "--out", str(tmp_path / "e.json")) == 0
    assert load_evaluation(tmp_path / "e.json").settings.samples == 8
    assert not (run / "evaluation.json").exists()


# --- comparisons


def compared(out: Path, *rows: str, overrides: tuple[str, ...] = ()) -> None:
    data = [
        "model.private=0",
        "data.settings={train_items: 40, test_items: 20}",
        "model.networks.vector.width=8",
        *SMALL,
        *overrides,
    ]
    compare(rows, "toy2d", 60.0, 1, out, data, tell=lambda line: None, device="cpu")


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_module, "_make_cell", lambda *_: pytest.fail("a row was trained"))


@pytest.mark.usefixtures("untrained")
def test_rows_that_cannot_take_items_with_gaps_are_named_before_the_first_is_trained(tmp_path: Path):
    draws, here = np.random.default_rng(0), np.arange(60) % 3 > 0
    np.savez(tmp_path / "d.npz", a=draws.normal(size=(60, 2)), b=draws.normal(size=(60, 3)), present_b=here)
    data = [
        f"data.settings.path={tmp_path / 'd.npz'}",
        "data.settings.modalities={a: {kind: vector}, b: {kind: vector}}",
    ]
    with pytest.raises(DataError) as raised:
        compare(["mvae", "jmvae", "mopoe"], "arrays", 60.0, 1, tmp_path / "out", [*data, *SMALL], device="cpu")
    message = str(raised.value)
    assert message.startswith(
        "rows that cannot be trained on this data; leave them out:\njmvae: model.inference.subsets joint: "
    )
    assert "training items with parts missing, expected complete items" in message
    assert "mvae:" not in message.replace("jmvae:", "")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("untrained")
def test_two_comparisons_in_one_folder_and_one_that_cannot_be_written_are_refused(tmp_path: Path):
    with locked(tmp_path), pytest.raises(OutputError, match="in use by this very process"):
        compared(tmp_path, "mvae")
    (tmp_path / "cells").write_text("mine")
    with pytest.raises(OutputError, match=r"cells/mvae-0.json: cannot be written .Not a directory."):
        compared(tmp_path, "mvae")
    with pytest.raises(OutputError, match="/proc/x: cannot be written"):
        compared(Path("/proc/x"), "mvae")


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "[" * 100_000, '{"settings": {}}', '{"row": "mvae", "seed": "0", "settings": {}}'],
)
def test_a_damaged_cell_is_named_with_the_way_out_before_anything_is_trained(text: str, tmp_path: Path):
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "mopoe-0.json").write_text(text)
    with pytest.raises(DataError) as raised:
        compared(tmp_path, "mvae", "mopoe")
    assert str(raised.value).startswith(f"{tmp_path / 'cells' / 'mopoe-0.json'}: damaged (")
    assert "restore it, or delete it: its run" in str(raised.value)


def test_a_joint_encoder_is_not_begun_on_items_with_gaps(tmp_path: Path):
    data = tiny_data()
    data.train.present[:7, 0] = False
    with pytest.raises(DataError, match="got 7 of 40 training items with parts missing, expected complete items"):
        run_experiment(load_experiment("toy2d-jmvae"), tmp_path / "run", dataset=data)
    assert not (tmp_path / "run").exists()


# --- fit-prior


def test_a_prior_that_could_not_be_saved_or_learn_is_refused_before_it_is_fitted(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(refit_module, "from_pretrained", lambda *_: pytest.fail("the work began"))
    (tmp_path / "notes.txt").write_text("mine")
    os.symlink(run, tmp_path / "again")
    for out, error, said in (
        (run, ConfigError, "the folder of the run itself, which stays as it is"),
        (tmp_path / "again", ConfigError, "the folder of the run itself, which stays as it is"),
        (tmp_path, OutputError, "not empty and holds no run"),
        (tmp_path / "notes.txt", OutputError, "got a file, expected a folder"),
        (Path("/proc/x"), OutputError, "/proc/x: cannot be written"),
    ):
        with pytest.raises(error, match=said):
            fit_prior_of_run(run, out, how=Settling(steps=2))
    for steps, rate, said in ((0, 1e-3, "steps: got 0"), (2, 0.0, "rate: got 0.0"), (2, float("nan"), "rate: got nan")):
        with pytest.raises(ConfigError, match=said):
            fit_prior_of_run(run, tmp_path / "new", how=Settling(steps=steps, rate=rate))
    with locked(tmp_path / "new"), pytest.raises(OutputError, match="in use"):
        fit_prior_of_run(run, tmp_path / "new", how=Settling(steps=2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "notes.txt"]
    assert json.loads((run / "run.json").read_text())["sessions"][-1]["reason"] == "finished"
