"""The command line as people meet it: from an .npz of their own to pictures, scores and numbers; and its refusals."""

import csv
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
from PIL import Image

import multiebm
from multiebm.cli.main import each_warning_once, main
from multiebm.evaluation.result import load_evaluation
from multiebm.experiments.baselines import ROWS
from multiebm.experiments.explain import annotated
from multiebm.experiments.load import dump_experiment, load_experiment, to_dict
from multiebm.experiments.sources import preset_names
from multiebm.experiments.values import parse
from multiebm.training.guard import Guard

Capture = pytest.CaptureFixture[str]


def run(*arguments: str) -> int:
    """The exit code of one command, in this process."""
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    return int(raised.value.code or 0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run on a picture and a vector that show two classes nobody can miss, trained by the command line."""
    folder = tmp_path_factory.mktemp("work")
    draws, labels = np.random.default_rng(0), np.arange(80) % 2
    faces = draws.integers(0, 60, (80, 8, 8, 3), dtype=np.uint8)
    faces[labels == 1, :, 4:] += 180
    sounds = (labels[:, None] * 6.0 + draws.normal(size=(80, 2))).astype(np.float32)
    np.savez(folder / "mine.npz", face=faces, sound=sounds, labels=labels)
    settings = [
        "data.settings.path=mine.npz",  # of the folder it is trained from; everything after is asked from another
        "data.settings.modalities={face: {kind: picture, layout: hwc}, sound: {kind: vector}}",
        *(
            "model.shared=4",
            "model.private=2",
            "model.networks={picture: {width: 4}, vector: {width: 16}}",
            "model.energy.width=8",
        ),
        *(
            "model.prior.width=8",
            "model.prior.steps=4",
            "training.phases.bound.steps=6",
            "training.phases.cooperative.steps=3",
        ),
        *("training.batch_size=16", "training.phases.energy.steps=1", "evaluation.items=16"),
        *("training.phases.settle.steps=2", "training.precision=fp32"),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MULTIEBM_CACHE", str(folder / "cache"))
        with pytest.MonkeyPatch.context() as inside:
            inside.chdir(folder)
            assert run("train", "arrays", *settings, "--out", str(folder / "run"), "--device", "cpu") == 0
        yield folder


def test_training_says_what_it_does_in_plain_lines_where_there_is_no_terminal(trained: Path, capsys: Capture):
    assert run("train", str(trained / "run"), "--out", str(trained / "again"), "seed=1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("bound 1/10, ")
    assert any(line.startswith("cooperative 8/10, ") for line in lines)
    numbers = next(line for line in lines if line.startswith("cooperative 10/10, "))
    for shown in ("energy of data", "energy of generated", "energy of refined", "data chain lowers", "latent chain"):
        assert shown in numbers
    assert re.search(r"log-likelihood, nats face -?\d+  sound -?\d+", numbers)
    assert lines[-2].startswith("finished after step 10: saved in ")
    assert "\x1b" not in "".join(lines)


def test_samples_are_pictures_or_arrays_and_item_i_depends_on_the_seed_and_i_alone(trained: Path, capsys: Capture):
    model, picture, archive = str(trained / "run"), trained / "s.png", trained / "s.npz"
    assert run("sample", model, "-n", "18", "--out", str(picture)) == 0
    with Image.open(picture) as image:
        assert image.size == (16 * (64 + 2), 2 * (64 + 2 + 2))  # 18 items of 8 pixels, 8 times enlarged: two bands
    drawn = []
    for arguments in (
        ["-n", "3"],
        ["-n", "5"],
        ["-n", "3", "--seed", "1"],
        ["-n", "3", "--refine"],
        ["-n", "3", "--temperature", "0.2"],
        ["-n", "3", "--data-steps", "1"],
        ["-n", "3", "--data-steps", "10"],
    ):
        assert run("sample", model, *arguments, "--out", str(archive)) == 0
        with np.load(archive) as file:
            drawn.append({name: file[name] for name in file.files})
    assert drawn[0]["face"].shape == (3, 3, 8, 8)
    assert drawn[0]["sound"].shape == (3, 2)
    # convolutions in float32 round a sum in an order that the number of items decides: some units of 2^-24
    assert np.allclose(drawn[0]["face"], drawn[1]["face"][:3], rtol=0, atol=10 * 2**-24)
    assert not np.array_equal(drawn[0]["face"], drawn[2]["face"])
    assert not np.array_equal(drawn[0]["face"], drawn[4]["face"])
    moved = np.abs(drawn[3]["face"] - drawn[0]["face"])
    assert 0 < moved.max() < 0.2  # ten steps of at most 0.004 rms in a state of width 2, from the same start
    once = np.abs(drawn[5]["face"] - drawn[0]["face"])
    assert 0 < once.max() < moved.max()
    assert np.array_equal(drawn[6]["face"], drawn[3]["face"])  # as many steps as in training


def test_parts_are_completed_from_arrays_and_from_folders_of_pictures(trained: Path):
    with np.load(trained / "mine.npz") as file:
        faces, sounds = file["face"][:3], file["sound"][:3]
    (trained / "faces" / "face").mkdir(parents=True)
    for i, face in enumerate(faces):
        Image.fromarray(face).save(trained / "faces" / "face" / f"{i}.png")
    np.savez(trained / "parts.npz", face=faces.transpose(0, 3, 1, 2), sound=sounds)
    np.savez(trained / "seen.npz", face=faces.transpose(0, 3, 1, 2), sound=sounds, present_sound=np.zeros(3, bool))
    completed = {}
    for name, parts in (("pictures", "faces"), ("hidden", "seen.npz"), ("whole", "parts.npz")):
        out = trained / f"{name}.npz"
        command = ["impute", str(trained / "run" / "model"), "--parts", str(trained / parts), "--out", str(out)]
        assert run(*command, "--want", "sound", "--latent-steps", "2") == 0
        with np.load(out) as file:
            assert file.files == ["sound"]
            completed[name] = file["sound"]
    assert np.array_equal(completed["pictures"], completed["hidden"])
    assert np.allclose(completed["whole"], sounds, atol=1e-5)
    assert not np.allclose(completed["hidden"], sounds, atol=1e-2)


@pytest.mark.parametrize("command", ["sample", "impute"])
def test_the_old_name_of_two_chains_is_answered_with_their_names(command: str, capsys: Capture):
    parts = ["--parts", "x.npz"] if command == "impute" else []
    assert run(command, "nowhere", *parts, "--out", "x.npz", "--refine-steps", "2") == 2
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "got --refine-steps 2" in said
    assert "--latent-steps for the chain over codes, --data-steps for the chain of the energy" in said


def test_scores_are_rows_of_csv_or_json(trained: Path, capsys: Capture):
    assert run("sample", str(trained / "run"), "-n", "3", "--out", str(trained / "three.npz")) == 0
    capsys.readouterr()
    parts = ["--parts", str(trained / "three.npz")]
    assert run("score", str(trained / "run"), *parts) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert run("score", str(trained / "run"), *parts, "--out", str(trained / "x.jsonl")) == 0
    lines = [json.loads(line) for line in (trained / "x.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == [0, 1, 2]
    assert [float(row["score"]) for row in rows] == [line["score"] for line in lines]
    assert len({line["score"] for line in lines}) == 3


def test_a_png_says_which_parts_it_does_not_hold(trained: Path, capsys: Capture):
    png, npz = trained / "said.png", trained / "said.npz"
    assert run("sample", str(trained / "run"), "-n", "2", "--out", str(png)) == 0
    assert run("sample", str(trained / "run"), "-n", "2", "--out", str(npz)) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"2 samples, face: {png} (a .png holds pictures alone: for sound write an .npz)",
        f"2 samples, face, sound: {npz}",
    ]


def test_parts_that_a_mask_hides_are_not_scored(trained: Path, capsys: Capture):
    with np.load(trained / "mine.npz") as file:
        faces, sounds = file["face"][:3].transpose(0, 3, 1, 2), file["sound"][:3]
    np.savez(trained / "holes.npz", face=faces, sound=sounds, present_sound=np.array([True, False, True]))
    assert run("score", str(trained / "run"), "--parts", str(trained / "holes.npz")) == 1
    assert "parts missing (sound; 1 rows, first: [1])" in capsys.readouterr().err


def test_completions_refined_by_the_energy_keep_what_was_given_and_move_the_rest(trained: Path):
    with np.load(trained / "mine.npz") as file:
        faces = file["face"][:3].transpose(0, 3, 1, 2)
    np.savez(trained / "faces.npz", face=faces)
    found = {}
    for name, more in (("amortised", []), ("refined", ["--refine"])):
        out = trained / f"{name}.npz"
        parts = ["--parts", str(trained / "faces.npz"), "--out", str(out)]
        assert run("impute", str(trained / "run"), *parts, *more) == 0
        with np.load(out) as file:
            found[name] = {key: file[key] for key in file.files}
    assert np.allclose(found["refined"]["face"], faces / 255, atol=1e-6)
    moved = np.abs(found["refined"]["sound"] - found["amortised"]["sound"])
    # ten steps of at most displacement_max 0.012 times sqrt(D) of all that moves, here both numbers of the sound, and
    # noise of 0.001; a state of 1 is a standard deviation of the sounds, which is below 4
    assert 0 < moved.max() < 4 * 10 * (0.012 * 2**0.5 + 5 * 0.001)


def test_a_run_is_replaced_only_where_asked(trained: Path, capsys: Capture):
    out, source = str(trained / "replaced"), str(trained / "run")
    short = ["training.phases.bound.steps=2", "training.phases.cooperative.steps=0"]
    assert run("train", source, *short, "--out", out) == 0
    assert run("train", source, *short, "seed=3", "--out", out) == 1
    assert "got a folder that is not empty" in capsys.readouterr().err
    assert run("train", source, *short, "seed=3", "--out", out, "--overwrite") == 0
    assert "\nseed: 3\n" in (trained / "replaced" / "config.yaml").read_text()


def test_a_report_is_one_page_with_the_pictures_in_it(trained: Path, capsys: Capture):
    assert run("report", str(trained / "run")) == 0
    page = trained / "run" / "report.html"
    assert str(page) in capsys.readouterr().out
    text = page.read_text()
    assert text.count("data:image/png;base64,") >= 4
    assert not re.search(r"(src|href)=.https?://", text)


def test_the_table_of_methods_is_listed_and_cited(capsys: Capture):
    assert run("baselines") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(ROWS)
    assert run("cite", "mopoe") == 0
    assert capsys.readouterr().out.strip() == "\n\n".join(ROWS["mopoe"].references)
    for row in ROWS.values():
        assert row.references
        for text in row.references:
            assert text.startswith("@")
            assert text.count("{") == text.count("}") > 4
            assert all(f"{field} = {{" in text.replace("  ", " ") for field in ("title", "author", "year"))
    assert run("cite", "mopo") == 2
    assert "Did you mean 'mopoe'?" in capsys.readouterr().err


def test_a_prior_is_fitted_to_a_trained_row_whose_divergence_was_in_closed_form(trained: Path, capsys: Capture):
    """The model stays as it is, the folder can be measured, and what is no setting of the prior is refused."""
    data = [
        f"data.settings.path={trained / 'mine.npz'}",
        "data.settings.modalities={face: {kind: picture, layout: hwc}, sound: {kind: vector}}",
    ]
    small = [
        "model.shared=3",
        "model.networks.picture.width=2",
        "training.phases.bound.steps=3",
        "training.batch_size=16",
        "training.precision=fp32",
    ]
    small += ["evaluation.items=8", "evaluation.samples=16"]
    old, new = trained / "mopoe", trained / "mopoe-tilted"
    assert run("train", "arrays-mopoe", *data, *small, "--out", str(old)) == 0
    command = ["fit-prior", str(old), "--out", str(new), "--steps", "3"]
    assert run(*command, "model.prior.width=8", "model.prior.steps=2") == 0
    said = capsys.readouterr().out
    assert [line.split(":")[0] for line in said.splitlines()[-4:-1]] == [f"step {n} of 3" for n in (1, 2, 3)]
    assert f"multiebm evaluate {new}" in said
    assert run("evaluate", str(new)) == 0
    fitted = json.loads((new / "run.json").read_text())
    assert fitted["prior_fit"]["steps"] == 3
    assert fitted["parameters"]["prior"] > 0 == json.loads((old / "run.json").read_text())["parameters"]["prior"]
    assert run(*command, "model.shared=4") == 2
    assert "expected a setting below model.prior." in capsys.readouterr().err


def test_a_comparison_writes_its_tables_and_its_page(trained: Path, capsys: Capture):
    out = trained / "compared"
    data = [
        f"data.settings.path={trained / 'mine.npz'}",
        "data.settings.modalities={face: {kind: picture, layout: hwc}, sound: {kind: vector}}",
    ]
    small = ["model.shared=3", "model.networks.picture.width=2", "training.phases.bound.steps=3", "evaluation.items=8"]
    small += [
        "evaluation.samples=16",
        "training.batch_size=16",
        "training.precision=fp32",
    ]
    changes = [word for setting in (*data, *small) for word in ("--set", setting)]
    command = ["compare", "mvae", "mmvae-star", "--data", "arrays", "--budget", "2s", "--out", str(out), *changes]
    assert run(*command) == 0
    said = capsys.readouterr().out
    table = (out / "table.md").read_text()
    assert all(row in table for row in ("mvae", "mmvae-star", "joint coherence"))
    for name in ("table.md", "table.csv", "table.tex"):
        assert (out / name).stat().st_size > 100
    assert str(out / "table.md") in said
    before = (out / "table.csv").read_bytes()
    assert run(*command) == 0
    assert (out / "table.csv").read_bytes() == before


def test_evaluation_writes_its_file_and_says_whether_to_trust_it(
    trained: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "200")
    assert run("evaluate", str(trained / "run"), "--samples", "32", "evaluation.items=8") == 0
    said = capsys.readouterr().out
    written = load_evaluation(trained / "run" / "evaluation.json")
    assert (written.settings.samples, written.settings.items, written.settings.refined_items) == (32, 8, 1)
    for name in ("gen/joint_coherence", "ebm/joint_coherence", "gen/fcd", "cond/size1", "latent_classification"):
        assert f"{written.results[name].value:.{1 if abs(written.results[name].value) >= 10 else 3}f}" in said
        assert name in said
    assert "gen/fcd/face" in written.results
    assert "gen/fcd/face" not in said
    accuracy = written.accuracy or {}
    assert f"Judges' accuracy on real test data: face {accuracy['face']:.3f}, sound {accuracy['sound']:.3f}." in said
    assert ("Coherence can be trusted" in said) == bool(written.trustworthy)
    assert written.judge_sets == ((3, 1) if written.trustworthy else (1, 0))
    assert ("mean over 3 sets of judges (of robust ones 1)" in said) == bool(written.trustworthy)
    assert "provisional: 32 samples" in said
    cooler = ["evaluation.temperature=0.5", "evaluation.items=0"]
    assert run("evaluate", str(trained / "run"), "--samples", "16", *cooler) == 0
    assert load_evaluation(trained / "run" / "evaluation.json").settings.temperature == 0.5
    assert "drawn at temperature 0.5" in capsys.readouterr().out


def test_evaluation_does_not_pretend_to_change_the_model(trained: Path, capsys: Capture):
    before = (trained / "run").stat().st_mtime_ns
    assert run("evaluate", str(trained / "run"), "model.temperature=0.5", "seed=3") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "'model.temperature=0.5': expected a setting of evaluation or data" in said
    assert "'seed=3'" in said
    assert (trained / "run").stat().st_mtime_ns == before


def test_a_run_that_was_trained_on_other_data_is_not_evaluated(trained: Path, capsys: Capture):
    assert run("evaluate", str(trained / "run"), "data.settings.test_fraction=0.5") == 2
    assert "which the run was trained on" in capsys.readouterr().err


def test_a_run_whose_data_lived_in_python_is_measured_there_and_the_command_says_so(
    trained: Path, tmp_path: Path, capsys: Capture
):
    folder = shutil.copytree(trained / "run", tmp_path / "mine")
    experiment = load_experiment(folder)
    dataset = multiebm.load_dataset("arrays", experiment.data.settings)
    nameless = experiment.model_copy(update={"data": experiment.data.model_copy(update={"settings": {}})})
    (folder / "config.yaml").write_text(
        dump_experiment(nameless)
    )  # as `train("arrays", "mine", dataset=...)` leaves it
    for name in ("evaluation.json", "report.html"):
        (folder / name).unlink(missing_ok=True)
    before = sorted(folder.rglob("*"))
    for command in ("evaluate", "report"):
        assert run(command, str(folder)) == 2
        said = "".join(capsys.readouterr().err.split())
        assert "thesedatawerehandedoverinPython" in said
        assert f'multiebm.evaluate(model,dataset).save("{folder}/evaluation.json")' in said
    assert sorted(folder.rglob("*")) == before
    model = multiebm.from_pretrained(folder)
    evaluation = multiebm.evaluate(model, dataset, replace(experiment.evaluation, samples=16))
    evaluation.save(str(folder / "evaluation.json"))
    page = multiebm.write_report(folder, dataset=dataset).read_text()
    assert f"{evaluation.results['latent_classification'].value:.3f}" in page
    parts = "data.settings.modalities={face: {kind: picture, layout: hwc}, sound: {kind: vector}}"
    where = [f"data.settings.path={trained / 'mine.npz'}", parts]
    assert run("evaluate", str(folder), "--samples", "16", *where) == 0  # or whoever has the data in a file says where


def test_presets_are_listed_and_shown_and_compared(capsys: Capture):
    assert run("presets") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == preset_names()
    assert run("show", "toy2d-additive", "--against", "toy2d") == 0
    assert capsys.readouterr().out == '# toy2d -> toy2d-additive\nmodel.energy.fusion: "early" -> "additive"\n'
    assert run("show", "mopoe", "--against", "mvae") == 0
    assert capsys.readouterr().out.splitlines() == [
        "# mvae -> mopoe",
        'model.inference.subsets: "full_single" -> "every"',
        'model.inference.prior_expert: "all" -> "full"',
        'training.phases.bound.components: "sum" -> "one"',
        'training.phases.bound.unseen: "skipped" -> "auxiliary"',
    ]
    assert run("show", "toy2d", "seed=5") == 0
    shown = capsys.readouterr().out
    assert parse(shown, "shown") == to_dict(load_experiment("toy2d", ["seed=5"]))
    assert "  # Independent normal densities, N(0, 1)." in shown
    assert "  batch_size: 128                     # items per step\n" in shown


def test_every_setting_that_show_prints_says_what_it_means():
    lines = annotated(to_dict(load_experiment("toy2d")))
    assert [line for line in lines if ":" in line and "#" not in line and not line.endswith(":")] == []


def test_the_version_is_that_of_the_package(capsys: Capture):
    assert run("--version") == 0
    assert capsys.readouterr().out == f"multiebm {multiebm.__version__}\n"


def test_quiet_training_prints_how_it_ended_alone(trained: Path, capsys: Capture):
    quick = ["training.phases.bound.steps=2", "training.phases.cooperative.steps=2"]
    assert run("--quiet", "train", "toy2d", *quick, "--out", str(trained / "quiet")) == 0
    out, err = capsys.readouterr()
    assert [line.split(":")[0] for line in out.splitlines()] == ["finished after step 4", "model"]
    assert err == ""


def test_parts_are_matched_as_in_python(trained: Path, capsys: Capture):
    model = multiebm.from_pretrained(trained / "run")
    parts = {name: view.numpy() for name, view in model.sample(3).items()}
    np.savez(trained / "match.npz", **parts)
    capsys.readouterr()
    assert run("match", str(trained / "run"), "--parts", str(trained / "match.npz")) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [float(row["match"]) for row in rows] == pytest.approx(model.match(parts).tolist())
    assert max(float(row["match"]) for row in rows) < 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["train", "toy3d", "--out", "x"], 2, "Did you mean 'toy2d'?"),
        (["train", "toy2d", "sed=1", "training.batch_size=0", "--out", "x"], 2, "sed: unknown key"),
        (["train", "toy2d", "data.settings.sed=1", "--out", "x"], 2, "unknown setting 'sed'"),
        (
            ["train", "toy2d", "--out", "x", "--device", "cuda:99"],
            2,
            "device: got 'cuda:99', expected one of auto, cpu",
        ),
        (["train", "toy2d"], 2, "Missing option '--out'"),
        (["sample", "nowhere", "--out", "x.png"], 1, "nowhere: got no such folder"),
        (["sample", "nowhere", "--out", "x.gif"], 2, "expected a name that ends in .png or .npz"),
        (["evaluate", "nowhere"], 2, "nowhere: got no run folder (it has no config.yaml)"),
        (["report", "nowhere"], 2, "nowhere: got no run folder"),
        (["show", "toy2d", "--against", "toy2e"], 2, "Did you mean 'toy2d'?"),
        (["train", "toy2d-mopeo", "--out", "x"], 2, "Did you mean 'toy2d-mopoe'?"),
        (
            ["show", "mopoe"],
            2,
            "a row of the baselines, expected it with its data: arrays-mopoe, coco64-mopoe, cub64-mopoe, "
            "mnist-svhn-mopoe, polydigits-mopoe",
        ),
    ],
)
def test_mistakes_are_told_without_a_traceback(
    arguments: list[str], code: int, said: str, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == code
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_pictures_may_have_their_channels_last_as_in_training(trained: Path, tmp_path: Path):
    model, last = str(trained / "run"), np.load(trained / "mine.npz")["face"][:4]
    assert last.shape == (4, 8, 8, 3)
    first = last.transpose(0, 3, 1, 2)
    for name, face in (("last", last), ("first", first)):
        np.savez(tmp_path / f"{name}.npz", face=face)
        assert (
            run("encode", model, "--parts", str(tmp_path / f"{name}.npz"), "--out", str(tmp_path / f"{name}-c.npz"))
            == 0
        )
    codes = [np.load(tmp_path / f"{name}-c.npz")["codes"] for name in ("last", "first")]
    assert np.array_equal(*codes)


def test_mistakes_about_a_model_and_its_parts_are_told(trained: Path, capsys: Capture):
    model = str(trained / "run")
    for arguments, code, said in (
        (["impute", model, "--parts", str(trained), "--out", "x.npz"], 1, "got no pictures, expected <name>.png"),
        (["impute", model, "--parts", "x.txt", "--out", "x.npz"], 1, "expected an .npz file, or a folder"),
        (["train", model, "--out", model], 1, "got a folder that is not empty"),
        (["train", model, "seed=9", "--out", model, "--resume"], 2, "seed: 0 -> 9"),
        (["sample", str(trained / "cache"), "--out", "x.npz"], 1, "a folder without a model"),
    ):
        assert run(*arguments) == code
        assert said in capsys.readouterr().err
    np.savez(trained / "sounds.npz", sound=np.zeros((2, 2), np.float32))
    sounds = ["--parts", str(trained / "sounds.npz")]
    for arguments, said in (
        (["impute", model, *sounds, "--want", "fase", "--out", "x.npz"], "Did you mean 'face'?"),
        (["score", model, *sounds], "parts missing (face"),
        (["evaluate", model, "--inception", "nowhere.pth"], "got Inception weights 'nowhere.pth'"),
        (["evaluate", model, "evaluation.sizes=[2]"], "subset size: got 2 of the 2 modalities"),
        (
            ["impute", model, *sounds, "--want", "sound", "--out", "x.png"],
            "there are none; use --out x.csv, a table, or an .npz",
        ),
    ):
        assert run(*arguments) in (1, 2)
        assert said in capsys.readouterr().err


def test_ctrl_c_saves_says_how_to_go_on_and_exits_with_130(
    trained: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
):
    import signal

    from multiebm.experiments.live import TrainingView

    seen = TrainingView.on_step

    def pressed(self, state, metrics):
        seen(self, state, metrics)
        if state.step == 7:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingView, "on_step", pressed)
        assert run("train", str(trained / "run"), "seed=2", "--out", str(trained / "stopped")) == 130
    said = capsys.readouterr().out.splitlines()
    assert said[-2].startswith("interrupted after step 7: saved in ")
    again = said[-1].removeprefix("to go on: multiebm ").split()
    assert run(*again) == 0
    assert "finished after step 10" in capsys.readouterr().out
    assert run("train", str(trained / "run"), "seed=2", "--out", str(trained / "straight")) == 0
    weights = [next((trained / name / "model").glob("weights-*")) for name in ("stopped", "straight")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_command_gives_each_warning_once(capsys: Capture):
    def warn(text: str) -> None:
        handler = logging.lastResort  # what prints the warnings of a command
        assert handler
        handler.handle(logging.LogRecord("multiebm", logging.WARNING, "", 0, "%s", (text,), None))

    for _ in range(2):  # commands
        with each_warning_once():
            for text in ("cut", "cut", "unknown", "cut"):
                warn(text)
    assert capsys.readouterr().err.split() == ["cut", "unknown"] * 2
    warn("cut")
    warn("cut")
    assert capsys.readouterr().err.split() == ["cut", "cut"]


def test_help_and_import_do_not_wait_for_torch():
    code = (
        "import sys, multiebm\n"
        "from multiebm.cli.main import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'numpy', 'pydantic', 'sklearn', 'matplotlib') if m in sys.modules])"
    )
    began = perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    print(f"--help took {perf_counter() - began:.2f} s")
    assert done.stdout.splitlines()[-1] == "[]"
    for command in ("train", "sample", "impute", "score", "evaluate", "report", "presets", "show"):
        assert f" {command} " in done.stdout


@pytest.mark.parametrize("command", ["presets", "baselines", "cite mvae"])
def test_lists_of_what_there_is_do_not_wait_for_torch(command: str):
    code = (
        "import sys\n"
        "from multiebm.cli.main import app\n"
        f"try: app({command.split()})\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) > 5
    assert done.stdout.splitlines()[-1] == "False"


def test_the_module_is_the_command_line():
    shown = subprocess.run(
        [sys.executable, "-m", "multiebm", "show", "toy2d-additive", "--against", "toy2d"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    )
    assert shown.stdout == '# toy2d -> toy2d-additive\nmodel.energy.fusion: "early" -> "additive"\n'


def test_a_run_that_diverges_ends_with_the_advice_and_a_record_of_it(trained: Path, capsys: Capture):
    folder = trained / "diverged"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("multiebm.training.guard.LIMIT", 1e-12)
        patch.setattr("multiebm.experiments.run.Guard", partial(Guard, retries=0))
        assert run("train", str(trained / "run"), "training.checkpoint_every=2", "--out", str(folder)) == 1
    err = capsys.readouterr().err
    assert "error: training diverged at step 7" in err
    assert str(folder / "checkpoints" / "step-000000006") in err
    assert "Traceback" not in err
    (session,) = json.loads((folder / "run.json").read_text())["sessions"]
    assert (session["to_step"], session["reason"]) == (6, "failed")
