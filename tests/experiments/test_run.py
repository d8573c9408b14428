"""A run from its data to its saved model: the folder, interruption, resumption, and what may not be mixed up."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from run_standins import CtrlC, tiny, tiny_data

import multiebm
from multiebm.core.errors import CheckpointError, ConfigError, DataError, DivergenceError, OutputError
from multiebm.data import from_arrays
from multiebm.experiments.build import find_device, hide_at_random, training_data
from multiebm.experiments.folder import CHECKPOINTS, CONFIG, METRICS, RUN
from multiebm.experiments.load import load_experiment
from multiebm.experiments.run import fresh_state, run_experiment
from multiebm.experiments.saved import MODEL, from_pretrained
from multiebm.models.saving import HEADER
from multiebm.training.checkpoint import read_checkpoint


def lines_of(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_folder_holds_all_it_takes_to_repeat_the_run(tmp_path: Path):
    result = run_experiment(tiny(), tmp_path / "run", preset="toy2d")
    folder = result.folder
    assert (result.fit.reason, result.fit.step) == ("finished", 10)
    assert load_experiment(folder) == tiny()
    run = json.loads((folder / RUN).read_text())
    assert run["preset"] == "toy2d"
    assert run["seed"] == 0
    assert run["versions"]["torch"] == torch.__version__
    assert run["data"]["fingerprint"] == tiny_data().fingerprint
    assert run["data"]["train_items"] == 40
    model = result.model
    assert sum(run["parameters"].values()) == sum(p.numel() for p in model.parameters())
    assert run["parameters"]["energy"] == sum(p.numel() for p in model.energy.parameters())  # type: ignore[union-attr]
    (session,) = run["sessions"]
    assert (session["from_step"], session["to_step"], session["reason"]) == (0, 10, "finished")
    assert [line["step"] for line in lines_of(folder)] == [2, 4, 6, 8, 10]
    assert sorted(path.name for path in (folder / CHECKPOINTS).iterdir()) == ["step-000000005", "step-000000010"]


def killed_at(replaced: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let everything stop, as a kill does, before the file number `replaced` of a saved model is renamed into place.

    -1: in the middle of the first.
    """
    real, seen = os.replace, []

    def stops(source: Path, target: Path) -> None:
        if Path(target).parent.name == MODEL:
            if len(seen) == max(replaced, 0):
                if replaced < 0:
                    os.truncate(source, 99)
                shutil.copy(source, Path(source).with_name(f"{Path(source).name}.kept"))
                raise SystemExit(9)
            seen.append(target)
        real(source, target)

    monkeypatch.setattr(os, "replace", stops)


@pytest.mark.parametrize("replaced", [-1, 0, 1])
def test_a_run_killed_in_the_first_save_of_its_model_goes_on_as_it_is_told_to(
    replaced: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = run_experiment(tiny(), tmp_path / "whole").model.state_dict()
    with monkeypatch.context() as patched:
        killed_at(replaced, patched)
        with pytest.raises(SystemExit):
            run_experiment(tiny(), tmp_path / "run")
    (left,) = (tmp_path / "run" / MODEL).glob("*.kept")  # the error removed what a kill leaves
    left.rename(left.with_suffix(""))
    for place in (tmp_path / "run", tmp_path / "run" / MODEL):
        with pytest.raises(CheckpointError, match=f"`multiebm train ... --out {tmp_path / 'run'} --resume`"):
            from_pretrained(place)
    run_experiment(tiny(), tmp_path / "run", resume=True)
    assert same(from_pretrained(tmp_path / "run").state_dict(), whole)
    assert sorted(path.name.partition("-")[0] for path in (tmp_path / "run" / MODEL).iterdir()) == [HEADER, "weights"]


def test_a_foreign_file_in_the_folder_of_the_model_is_refused_before_training(tmp_path: Path):
    run_experiment(tiny(), tmp_path / "run", until=5)
    (tmp_path / "run" / MODEL).mkdir()
    (tmp_path / "run" / MODEL / "photo.jpg").write_text("mine")
    before = (tmp_path / "run" / METRICS).read_text()
    with pytest.raises(OutputError, match=r"model: got a folder with other files.*photo.jpg"):
        run_experiment(tiny(), tmp_path / "run", resume=True)
    assert (tmp_path / "run" / METRICS).read_text() == before


def test_a_device_may_be_a_torch_device(tmp_path: Path):
    model = multiebm.train(tiny(), tmp_path / "run", device=torch.device("cpu"), progress=False)
    assert model.device == torch.device("cpu")


def test_the_saved_model_has_the_averaged_weights(tmp_path: Path):
    result = run_experiment(tiny(), tmp_path / "run")
    state = read_checkpoint(tmp_path / "run" / CHECKPOINTS / "step-000000010").tensors
    saved = from_pretrained(tmp_path / "run").state_dict()
    for name, _ in result.model.named_parameters():
        assert torch.equal(saved[name], state[f"average.{name}"]), name
    assert not torch.equal(saved["generator.decoders.a.net.0.weight"], state["model.generator.decoders.a.net.0.weight"])
    assert not result.model.training


def test_fitted_mixtures_are_those_of_the_averaged_weights_codes(tmp_path: Path):
    """Fitted to 128 batches of 8 rows; against 50 draws for each of the 40 rows, whose moments they estimate."""
    model = run_experiment(tiny(), tmp_path / "run").model
    rows = tiny_data().batch("train", torch.arange(40).repeat(50))
    with torch.no_grad():
        codes, _ = model.inference(rows).sample(torch.Generator().manual_seed(0))
    mixtures = model.generator.priors()
    assert mixtures.keys() == {"shared", "a", "b"}
    mixtures["shared"] = mixtures["shared"].base
    for key, mixture in mixtures.items():
        draws = mixture.sample(4000, torch.Generator().manual_seed(1))
        torch.testing.assert_close(draws.mean(0), codes[key].mean(0), atol=0.2, rtol=0)
        torch.testing.assert_close(torch.cov(draws.T), torch.cov(codes[key].T), atol=0.2, rtol=0.2)
    saved = from_pretrained(tmp_path / "run").generator.priors()["a"].state_dict()
    assert same(saved, mixtures["a"].state_dict())


@pytest.mark.parametrize("at", [2, 7])  # in the warm-up, between two checkpoints; in the cooperative phase
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(at: int, tmp_path: Path):
    whole = run_experiment(tiny(), tmp_path / "whole")
    part = run_experiment(tiny(), tmp_path / "part", live=CtrlC(at))
    assert (part.fit.reason, part.fit.step) == ("interrupted", at)
    assert part.fit.message().endswith("continue with --resume")
    rest = run_experiment(tiny(), tmp_path / "part", resume=True)
    assert same(whole.model.state_dict(), rest.model.state_dict())
    ends = [read_checkpoint(tmp_path / name / CHECKPOINTS / "step-000000010") for name in ("whole", "part")]
    assert same(ends[0].tensors, ends[1].tensors)
    assert lines_of(tmp_path / "whole") == lines_of(tmp_path / "part")
    sessions = json.loads((tmp_path / "part" / RUN).read_text())["sessions"]
    assert [(s["from_step"], s["to_step"], s["reason"]) for s in sessions] == [
        (0, at, "interrupted"),
        (at, 10, "finished"),
    ]


def test_a_finished_run_may_be_made_longer_and_log_more_often(tmp_path: Path):
    run_experiment(tiny(), tmp_path / "run")
    longer = tiny("training.phases.cooperative.steps=7", "training.log_every=1", "training.checkpoint_every=4")
    assert run_experiment(longer, tmp_path / "run", resume=True).fit.step == 12
    assert load_experiment(tmp_path / "run") == longer
    assert [line["step"] for line in lines_of(tmp_path / "run")] == [2, 4, 6, 8, 10, 11, 12]


def test_resuming_with_another_configuration_is_refused_and_every_difference_named(tmp_path: Path):
    run_experiment(tiny("training.phases.cooperative.steps=1"), tmp_path)
    other = tiny(
        "seed=1", "model.energy.fusion=late", "training.phases.cooperative.steps=2", "training.phases.bound.steps=5"
    )
    with pytest.raises(ConfigError) as raised:
        run_experiment(other, tmp_path, resume=True)
    lines = [line.strip() for line in str(raised.value).splitlines()]
    assert lines[1:4] == [
        'model.energy.fusion: "early" -> "late"',
        "training.phases.bound.steps: 4 -> 5",
        "seed: 0 -> 1",
    ]
    assert "training.phases.cooperative.steps" not in str(raised.value)


def test_resuming_what_is_no_run_or_on_other_data_is_refused(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=f"got no {CONFIG}, expected the folder of a run to resume"):
        run_experiment(tiny(), tmp_path, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    run_experiment(tiny("training.phases.cooperative.steps=1"), tmp_path / "run")
    other = replace(tiny_data(), fingerprint="0" * 64)
    with pytest.raises(ConfigError, match="fingerprint 000000000000, expected 'toy2d'"):
        run_experiment(tiny("training.phases.cooperative.steps=2"), tmp_path / "run", dataset=other, resume=True)


def test_a_folder_that_is_not_empty_is_left_alone_and_the_ways_out_named(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="not empty and holds no run") as raised:
            run_experiment(tiny(), tmp_path, overwrite=overwrite)
        assert "--out" in str(raised.value)
        assert "--overwrite" not in str(raised.value)
    with pytest.raises(ConfigError, match="resume, overwrite: got both"):
        run_experiment(tiny(), tmp_path, resume=True, overwrite=True)
    with pytest.raises(OutputError, match="got a file, expected a folder"):
        run_experiment(tiny(), tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / CONFIG).write_text("{}")
    with pytest.raises(OutputError, match="not empty") as raised:
        run_experiment(tiny(), tmp_path)
    assert all(option in str(raised.value) for option in ("--out", "--resume", "--overwrite"))
    assert "(in Python out=, resume=True, overwrite=True)" in str(raised.value)


def test_overwriting_starts_anew_and_keeps_what_is_not_the_runs(tmp_path: Path):
    first = run_experiment(tiny(), tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    second = run_experiment(tiny("training.phases.cooperative.steps=1"), tmp_path, overwrite=True)
    assert (first.fit.step, second.fit.step) == (10, 6)
    assert [line["step"] for line in lines_of(tmp_path)] == [2, 4, 6]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_nothing_is_deleted_for_a_run_that_cannot_begin(tmp_path: Path):
    run_experiment(tiny("training.phases.cooperative.steps=1"), tmp_path)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    whole = tiny_data()
    gaps = replace(whole, train=hide_at_random(whole.train, 0.5, seed=0))
    joint = ["model.inference.subsets=joint", "training.phases.cooperative.steps=0"]
    with pytest.raises(DataError, match="parts missing"):
        run_experiment(tiny(*joint), tmp_path, gaps, overwrite=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_the_seed_decides_everything():
    def weights(*overrides: str) -> dict[str, torch.Tensor]:
        return fresh_state(tiny(*overrides), tiny_data(), torch.device("cpu")).model.state_dict()

    assert same(weights(), weights())
    assert not same(weights(), weights("seed=1"))


def test_hidden_parts_are_a_random_share_and_every_item_keeps_one():
    rows = tiny_data().train
    many = replace(
        rows, views={n: v.repeat(100, 1) for n, v in rows.views.items()}, present=rows.present.repeat(100, 1)
    )
    hidden = ~hide_at_random(many, 0.3, seed=0).present
    # a part is hidden by chance 0.3 unless both were drawn and it is the one kept: 0.3 - 0.09 / 2; 8,000 parts, 4 sigma
    assert hidden.float().mean().item() == pytest.approx(0.255, abs=4 * (0.255 * 0.745 / 8000) ** 0.5)
    assert not hidden.all(1).any()
    assert torch.equal(~hidden, hide_at_random(many, 0.3, seed=0).present)
    assert not torch.equal(~hidden, hide_at_random(many, 0.3, seed=1).present)
    assert hide_at_random(many, 1.0, seed=0).present.sum(1).eq(1).all()
    nothing = replace(many, present=torch.zeros_like(many.present))
    assert not hide_at_random(nothing, 0.5, seed=0).present.any()


def test_only_the_training_split_loses_parts_and_training_goes_on_without_them(tmp_path: Path):
    data = tiny_data()
    seen = training_data(data, 0.5, seed=0)
    assert not seen.train.present.all()
    assert seen.test.present.all()
    assert data.train.present.all()
    assert run_experiment(tiny("data.missing=0.3", "training.batch_size=40"), tmp_path).fit.reason == "finished"


def test_a_device_that_does_not_exist_is_named_with_those_that_do():
    n = torch.cuda.device_count()
    with pytest.raises(ConfigError, match=f"device: got 'cuda:{n}', expected one of auto, cpu"):
        find_device(f"cuda:{n}")
    with pytest.raises(ConfigError, match="got 'tpu'"):
        find_device("tpu")
    assert find_device("cpu") == torch.device("cpu")


def test_weights_for_a_modality_that_the_data_lacks_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"model.likelihood.weights.c: got no such modality, expected some of a, b"):
        run_experiment(tiny("model.likelihood.weights={c: 1}"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_validation_writes_its_numbers_into_the_log_and_changes_no_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("multiebm.experiments.measure.judges_of", lambda *_: NearestCorner())
    plain = run_experiment(tiny(), tmp_path / "plain")
    watched = run_experiment(tiny("training.validate_every=10"), tmp_path / "watched")
    assert same(plain.model.state_dict(), watched.model.state_dict())
    last = lines_of(tmp_path / "watched")[-1]
    for name in ("gen/joint_coherence", "ebm/joint_coherence", "gen/fcd", "ebm/fcd", "gen/label_entropy", "cond/size1"):
        assert f"validate/{name}" in last
    assert 0 <= last["validate/gen/joint_coherence"] <= 1
    store = tmp_path / "watched" / CHECKPOINTS
    assert read_checkpoint(store / "step-000000010").metric == last["validate/gen/fcd"]


def runs_away(*arguments: Any, **settings: Any) -> None:
    raise DivergenceError("priors cannot settle: codes of shared are not finite")


def test_a_state_that_cannot_be_validated_is_told_of_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("multiebm.experiments.measure.judges_of", lambda *_: None)
    monkeypatch.setattr("multiebm.experiments.measure.settle_priors", runs_away)
    result = run_experiment(tiny("training.validate_every=5"), tmp_path)
    assert (result.fit.reason, result.fit.step) == ("finished", 10)
    assert [r.getMessage().split(":")[0] for r in caplog.records if "no validation" in r.getMessage()] == [
        "no validation at step 5",
        "no validation at step 10",
    ]
    assert not any(name.startswith("validate/") for line in lines_of(tmp_path) for name in line)
    assert read_checkpoint(tmp_path / CHECKPOINTS / "step-000000010").metric is None


def test_a_run_whose_priors_cannot_settle_is_noted_as_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patched:
        patched.setattr("multiebm.training.phases.settle.settle_priors", runs_away)
        with pytest.raises(DivergenceError, match="priors cannot settle"):
            run_experiment(tiny(), tmp_path)
    assert json.loads((tmp_path / RUN).read_text())["sessions"][-1]["reason"] == "failed"
    assert not (tmp_path / MODEL).exists()
    assert run_experiment(tiny(), tmp_path, resume=True).fit.reason == "finished"
    assert [session["reason"] for session in json.loads((tmp_path / RUN).read_text())["sessions"]] == [
        "failed",
        "finished",
    ]


class NearestCorner:
    """Reads toy2d exactly; its features are the coordinates."""

    accuracy = {"a": 1.0, "b": 1.0}  # noqa: RUF012

    def predict(self, views: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        from multiebm.data.toy import toy2d_classes

        return toy2d_classes(views)

    def features(self, views: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return views


def test_the_python_interface_builds_trains_and_raises_after_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = from_arrays({"x": torch.randn(20, 3), "y": torch.randn(20, 2)}, {n: {"kind": "vector"} for n in "xy"})
    model = multiebm.build(tiny(), data, seed=3)
    assert list(model.modalities) == ["x", "y"]
    assert same(model.state_dict(), multiebm.build(tiny("seed=3"), data).state_dict())
    trained = multiebm.train(tiny(), tmp_path / "run", ["training.phases.cooperative.steps=1"], dataset=data)
    assert same(trained.state_dict(), multiebm.from_pretrained(tmp_path / "run").state_dict())
    assert trained.sample(2)["x"].shape == (2, 3)

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        experiment, out, dataset, resume, overwrite, _, *rest = args
        return run_experiment(experiment, out, dataset, resume, overwrite, CtrlC(2), *rest, **kwargs)

    monkeypatch.setattr("multiebm.experiments.api.run_experiment", interrupted)
    with pytest.raises(KeyboardInterrupt, match="interrupted after step 2: saved in"):
        multiebm.train(tiny(), tmp_path / "again", dataset=data)
