"""A folder of pictures with captions on the command line: trained on, then a picture for a caption, and captions."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from multiebm.cli.main import main

TINY = ["model.networks.text.width=8", "training.phases.bound.steps=10", "training.batch_size=16"]
COLOURS = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250)}


def command(*arguments: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    assert (ended.value.code or 0) == code


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rows = tmp_path_factory.mktemp("captioned"), ["file,caption"]
    (folder / "data").mkdir()
    for i in range(36):
        colour, place = list(COLOURS)[i % 3], ("left", "right")[i // 3 % 2]
        made = Image.new("RGB", (4, 4), (0, 0, 10 * (i // 6)))
        made.paste(COLOURS[colour], (0, 0, 2, 4) if place == "left" else (2, 0, 4, 4))
        made.save(folder / "data" / f"{i:02d}.png")
        rows.append(f"{i:02d}.png,{('a', 'the')[i // 6 % 2]} {colour} square on the {place}")
    (folder / "data" / "captions.csv").write_text("\n".join(rows))
    command("-q", "train", folder / "data", "--out", folder / "run", *TINY)
    return folder


def test_a_picture_for_a_caption(folder, caplog, capsys):
    said = ["a red square on the left", "the blue squar on the right"]
    of = ["--caption", said[0], "--caption", said[1]]
    command("-q", "impute", folder / "run", *of, "--out", folder / "x.npz")
    with np.load(folder / "x.npz") as kept:
        assert kept["picture"].shape == (2, 3, 4, 4)
        assert kept["caption"].tolist() == said
        shown = np.round(255 * kept["picture"][0].transpose(1, 2, 0))
    told = capsys.readouterr().err + caplog.text
    assert "words that training had not" in told
    assert "'squar' in row 1. Did you mean 'square'?" in told
    command("-q", "impute", folder / "run", *of[:2], "--want", "picture", "--out", folder / "x.png")
    sheet = np.asarray(Image.open(folder / "x.png")).astype(int)
    assert np.abs(sheet[8:64:16, 8:64:16] - shown).max() <= 1  # small pictures are shown 16 times as large


def test_captions_for_pictures_in_a_table_or_on_the_screen(folder, capsys):
    (folder / "new").mkdir()
    for name in ("a", "b"):
        Image.open(folder / "data" / "04.png").save(folder / "new" / f"{name}.png")
    command("-q", "impute", folder / "run", "--parts", folder / "new", "--want", "caption", "--out", folder / "x.csv")
    said = pd.read_csv(folder / "x.csv", keep_default_na=False)
    assert list(said.columns) == ["caption"]
    assert len(said) == 2
    command("-q", "impute", folder / "run", "--parts", folder / "new", "--want", "caption")
    assert capsys.readouterr().out.endswith((folder / "x.csv").read_text())
    command("-q", "impute", folder / "run", "--parts", folder / "new" / "a.png", "--want", "caption")
    assert capsys.readouterr().out.splitlines() == ["caption", said["caption"][0]]


def test_the_folder_itself_may_be_scored(folder):
    command("-q", "match", folder / "run", "--parts", folder / "data", "--out", folder / "match.csv")
    assert len(pd.read_csv(folder / "match.csv")) == 36


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--caption", "a red square"], 2, "--out: got none for picture, expected a file; use --out picture.png, or"),
        ([], 2, "got neither of --parts and --caption, expected one"),
        (["--caption", "a", "--parts", "x.npz"], 2, "got both of --parts and --caption, expected one"),
    ],
)
def test_what_is_asked_for_wrongly_is_said(folder, capsys, options, code, said):
    command("-q", "impute", folder / "run", *options, code=code)
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_a_gap_is_refused_before_training(folder, tmp_path, capsys):
    (tmp_path / "captions.csv").write_text("file,caption\n0.png,a red square\n1.png,a blue one\n")
    Image.new("RGB", (4, 4)).save(tmp_path / "0.png")
    command("-q", "train", tmp_path, "--out", tmp_path / "run", code=1)
    assert "captions.csv, line 3: no picture 1.png" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_a_model_without_captions_takes_none(tmp_path, capsys):
    values = np.random.default_rng(0).normal(size=(20, 3))
    np.savez(tmp_path / "data.npz", a=values, b=values[:, :2])
    command("-q", "train", tmp_path / "data.npz", "--out", tmp_path / "run", "training.phases.bound.steps=2")
    command("-q", "impute", tmp_path / "run", "--caption", "a cat", code=2)
    told = " ".join(capsys.readouterr().err.split())
    assert "--caption: got a model with no part of captions among a, b, expected one; hand over parts in a file" in told


def test_classes_that_are_texts_are_no_captions(tmp_path):
    """A caption is for the part that speaks, whatever other parts have names."""
    words, classes = [f"a {colour} lamp" for colour in COLOURS] * 8, ["metal", "wood"] * 12
    frame = pd.DataFrame({"title": words, "material": classes, "price": np.arange(24.0)})
    frame.to_csv(tmp_path / "t.csv", index=False)
    parts = [of for name in frame for of in ("--part", f"{name}={name}")]
    told = ["--kind", "title=text", *TINY, "training.phases.bound.steps=2"]
    command("-q", "train", tmp_path / "t.csv", *parts, "--out", tmp_path / "run", *told)
    command("-q", "impute", tmp_path / "run", "--caption", "a red lamp", "--out", tmp_path / "found.csv")
    found = pd.read_csv(tmp_path / "found.csv")
    assert found.columns.tolist() == ["title", "material=metal", "material=wood", "price"]
    assert found["title"].tolist() == ["a red lamp"]
    assert found.filter(like="material=").sum(axis=1).tolist() == pytest.approx([1.0])


def test_folders_of_parts_with_a_table_are_trained_measured_and_filled_in(tmp_path, caplog):
    sizes = {"all": 40, "other": 40, "few": 6}
    for name, n in sizes.items():
        for part in ("photo", "sketch"):
            (tmp_path / name / part).mkdir(parents=True)
        rows = ["file,temp,hum"]
        for i in range(n):
            for part in ("photo", "sketch"):
                if (part, i % 5) != ("sketch", 4):
                    Image.new("RGB" if part == "photo" else "L", (4, 4), 6 * i).save(
                        tmp_path / name / part / f"{i:02d}.png"
                    )
            rows.append(f"{i:02d},{i},{-i}")
        (tmp_path / name / "labels.csv").write_text("\n".join(rows))
    run = tmp_path / "run"
    tiny = ["training.phases.bound.steps=10", "training.batch_size=16"]
    command("-q", "train", tmp_path / "all", "--part", "sensor=temp,hum", "--out", run, *tiny)
    assert "labels.csv: 8 of 40 rows have no picture in sketch, such as '04' in row 4" in caplog.text
    command("-q", "evaluate", run, f"data.settings.path={tmp_path / 'other'}", "evaluation.samples=20")
    assert (run / "evaluation.json").is_file()
    for parts in ("few", "few/labels.csv"):
        command("-q", "impute", run, "--parts", tmp_path / parts, "--out", tmp_path / "x.npz")
        with np.load(tmp_path / "x.npz") as kept:
            assert np.array_equal(kept["sensor"], [[i, -i] for i in range(6)])
            assert kept["sketch"].shape == (6, 1, 4, 4)
            if parts == "few":
                seen = np.round(255 * kept["sketch"][[0, 1, 2, 3, 5], 0, 0, 0])
                assert seen.tolist() == [6 * i for i in (0, 1, 2, 3, 5)]
        command("-q", "match", run, "--parts", tmp_path / parts, "--out", tmp_path / "match.csv")
        assert len(pd.read_csv(tmp_path / "match.csv")) == 6
