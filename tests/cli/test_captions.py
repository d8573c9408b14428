"""Captions on the command line: a table of them is trained on, completed, sampled, measured and shown as text."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from multiebm.cli.main import main

TINY = [
    "model.networks.vector.width=8",
    "model.networks.text.width=8",
    "training.phases.bound.steps=20",
    "training.batch_size=16",
]
SIZES, COLOURS, SHAPES = ("big", "small"), ("red", "green", "blue"), ("cat", "dog", "bird")


def command(*arguments: object) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    assert not ended.value.code


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, draws = tmp_path_factory.mktemp("captions"), np.random.default_rng(0)
    size, colour, shape = draws.integers((2, 3, 3), size=(90, 3)).T
    said = [f"A {SIZES[a]} {COLOURS[b]} {SHAPES[c]}." for a, b, c in zip(size, colour, shape, strict=True)]
    table = pd.DataFrame({"size": size, "hue": colour - 1.0, "said": said})
    table["size"] += 0.1 * draws.normal(size=90)
    table.to_csv(folder / "table.csv", index=False)
    pd.DataFrame({"said": ["A RED cat", "", "a crimson dog"], "size": [np.nan, 1, 0], "hue": [np.nan, 1, 0]}).to_csv(
        folder / "some.csv", index=False
    )
    parts = ["--part", "x=size,hue", "--part", "caption=said"]
    command("-q", "train", folder / "table.csv", *parts, "--out", folder / "run", *TINY)
    return folder


def test_a_table_is_completed_and_what_was_said_comes_back(folder: Path):
    command("-q", "impute", folder / "run", "--parts", folder / "some.csv", "--out", folder / "out.csv")
    found = pd.read_csv(folder / "out.csv")
    assert found["said"][[0, 2]].tolist() == ["A RED cat", "a crimson dog"]
    assert set(found["said"][1].removesuffix(".").split()) <= {"a", *SIZES, *COLOURS, *SHAPES}
    assert found[["size", "hue"]].notna().all().all()
    command("-q", "impute", folder / "run", "--parts", folder / "some.csv", "--out", folder / "out.npz", "--draws", 3)
    with np.load(folder / "out.npz") as kept:
        assert kept["caption"].dtype.kind == "U"
        assert kept["caption_draws"].shape == (3, 3)
        assert kept["caption_std"][[0, 2]].tolist() == [0, 0]


def test_what_was_drawn_may_be_handed_over_again(folder: Path):
    command("-q", "sample", folder / "run", "-n", 4, "--out", folder / "drawn.npz")
    command("-q", "match", folder / "run", "--parts", folder / "drawn.npz", "--out", folder / "match.csv")
    assert pd.read_csv(folder / "match.csv")["match"].notna().all()
    command("-q", "sample", folder / "run", "-n", 4, "--out", folder / "drawn.csv")
    with np.load(folder / "drawn.npz") as kept:
        assert pd.read_csv(folder / "drawn.csv", keep_default_na=False)["said"].tolist() == kept["caption"].tolist()


def test_a_run_is_measured_and_its_report_shows_captions(folder: Path):
    command("-q", "evaluate", folder / "run", "evaluation.items=20")
    command("-q", "report", folder / "run")
    page = (folder / "run" / "report.html").read_text()
    assert "whole captions" in page
    with np.load(folder / "drawn.npz") as kept:
        assert kept["caption"][0].split()[0] in page
