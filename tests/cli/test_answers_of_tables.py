"""What the commands answer about a table with named columns, among them classes and counts, in .csv and .npz."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import multiebm
from multiebm.cli.main import main
from multiebm.core.errors import DataError
from multiebm.core.progress import listening
from multiebm.evaluation.result import EvaluationSettings
from multiebm.models import model as answers
from multiebm.models.model import MultimodalModel
from multiebm.report import page

N, GIVEN = 60, 5
TINY = [
    "model={shared: 3, private: 2, private_components: 2, networks: {vector: {width: 8}, category: {width: 8}, counts: "
    "{width: 8}}, prior: {kind: energy, components: 2, width: 8, layers: 1, steps: 2}, energy: {width: 4}}",
    "training.phases=[{kind: bound, steps: 6}, {kind: energy, steps: 2}, {kind: cooperative, steps: 2}]",
    "training.batch_size=8",
]
BODY, LOOK, GENES = ["height", "weight"], ["colour", "large"], ["g1", "g2", "g3"]
PROBABILITIES = ["colour=blue", "colour=green", "colour=red", "large=False", "large=True"]


def table(n: int = N, seed: int = 0) -> pd.DataFrame:
    draws = np.random.default_rng(seed)
    kind = draws.integers(3, size=n)
    body = pd.DataFrame(draws.normal([170.1, 70.2], [10, 8], (n, 2)) + kind[:, None], columns=BODY)
    counts = pd.DataFrame(draws.poisson(np.array([3, 20, 900])[(kind[:, None] + np.arange(3)) % 3]), columns=GENES)
    return body.assign(colour=np.array(["red", "green", "blue"])[kind], large=kind > 1).join(counts)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    table().to_csv(folder / "table.csv", index=False)
    parts = [f"body={','.join(BODY)}", f"look={','.join(LOOK)}", "genes=g*"]
    options = [word for part in parts for word in ("--part", part)]
    said = ["-q", "train", str(folder / "table.csv"), *options, "--kind", "genes=counts", "--out", str(folder / "run")]
    command(*said, *TINY)
    return folder / "run"


@pytest.fixture(scope="module")
def model(run: Path) -> MultimodalModel:
    return multiebm.from_pretrained(run)


def command(*arguments: str, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert (ended.value.code or 0) == code


@pytest.fixture
def given(tmp_path: Path) -> str:
    """Rows without genes; the first has no look, the second no body."""
    frame = table(GIVEN, 1).drop(columns=GENES).astype({"large": object})
    frame.loc[0, LOOK] = np.nan
    frame.loc[1, BODY] = np.nan
    frame.to_csv(tmp_path / "given.csv", index=False)
    return str(tmp_path / "given.csv")


def parts_of(file: str) -> tuple[dict, torch.Tensor]:
    frame = pd.read_csv(file)
    present = torch.tensor([[row != 1, row != 0, False] for row in range(GIVEN)])
    look = frame[LOOK].replace({np.nan: None})
    return {"body": frame[BODY], "look": look}, present


def test_a_table_is_completed_and_comes_back_as_one(run, model, given, tmp_path):
    command("impute", str(run), "--parts", given, "--seed", "3", "--out", str(tmp_path / "full.csv"))
    full, before = pd.read_csv(tmp_path / "full.csv"), pd.read_csv(given)
    assert list(full.columns) == [*BODY, *PROBABILITIES, *GENES]
    np.testing.assert_array_equal(full.loc[full.index != 1, BODY], before.loc[before.index != 1, BODY])
    assert (
        full[PROBABILITIES[:3]].to_numpy()[1:].argmax(1)
        == [PROBABILITIES.index(f"colour={c}") for c in before.colour[1:]]
    ).all()
    parts, present = parts_of(given)
    found = model.impute(parts, seed=3, present=present)
    for name, columns in (("body", BODY), ("look", PROBABILITIES), ("genes", GENES)):
        np.testing.assert_array_equal(full[columns].to_numpy(found[name].numpy().dtype), found[name])
    command("impute", str(run), "--parts", given, "--seed", "3", "--out", str(tmp_path / "full.npz"))
    with np.load(tmp_path / "full.npz") as arrays:
        np.testing.assert_array_equal(arrays["body"], full[BODY].to_numpy())


def test_columns_of_no_part_stand_first_in_a_table_that_is_completed(run, given, tmp_path):
    names = [f"row {i}" for i in range(GIVEN)]
    named = pd.read_csv(given).assign(name=names)[["name", *BODY, *LOOK]].assign(note=7)
    named.to_csv(tmp_path / "named.csv", index=False)
    for want, columns in (([], [*BODY, *PROBABILITIES, *GENES]), (["--want", "genes"], GENES)):
        for file in (given, str(tmp_path / "named.csv")):
            command("impute", str(run), "--parts", file, *want, "--out", str(tmp_path / "full.csv"))
            full = pd.read_csv(tmp_path / "full.csv")
            if file == given:
                alone = full
        assert list(full.columns) == ["name", "note", *columns]
        assert full["name"].tolist() == names
        pd.testing.assert_frame_equal(full[columns], alone)


def test_draws_give_deviations_and_noise_whole_counts(run, model, given, tmp_path):
    said = ["impute", str(run), "--parts", given, "--draws", "4", "--noise", "--want", "body,genes"]
    command(*said, "--out", str(tmp_path / "draws.csv"))
    frame = pd.read_csv(tmp_path / "draws.csv")
    assert list(frame.columns) == [c + end for end in ("", "_std") for c in (*BODY, *GENES)]
    command(*said, "--out", str(tmp_path / "draws.npz"))
    parts, present = parts_of(given)
    found = model.impute(parts, ["body", "genes"], present=present, draws=4, noise=True)
    with np.load(tmp_path / "draws.npz") as arrays:
        assert sorted(arrays) == ["body", "body_draws", "body_std", "genes", "genes_draws", "genes_std"]
        assert arrays["genes_draws"].shape == (4, GIVEN, 3)
        np.testing.assert_array_equal(arrays["genes_draws"], found.draws["genes"])
        np.testing.assert_array_equal(arrays["genes_draws"], arrays["genes_draws"].round())
    np.testing.assert_array_equal(frame[["height_std", "weight_std"]], found.std["body"])
    assert (frame.loc[[0, 2, 3, 4], ["height_std", "weight_std"]] == 0).all(axis=None)
    assert (frame.loc[1, ["height_std", "weight_std"]] > 0).all()


def test_samples_with_noise_are_scored_as_data_are_and_those_without_say_how(run, model, tmp_path, capsys):
    command("sample", str(run), "-n", "6", "--noise", "--seed", "2", "--out", str(tmp_path / "drawn.csv"))
    command("score", str(run), "--parts", str(tmp_path / "drawn.csv"), "--out", str(tmp_path / "scores.csv"))
    drawn = model.sample(6, noise=True, seed=2)
    assert torch.equal(drawn["genes"], drawn["genes"].round())
    scores = pd.read_csv(tmp_path / "scores.csv")["score"]
    np.testing.assert_allclose(scores, model.score(drawn), rtol=1e-6)
    command("sample", str(run), "-n", "6", "--out", str(tmp_path / "means.npz"))
    capsys.readouterr()
    command("score", str(run), "--parts", str(tmp_path / "means.npz"), code=1)
    assert "samples and completions are whole counts with noise=True (--noise)" in capsys.readouterr().err
    with pytest.raises(DataError, match="noise=True"):
        model.score(model.sample(2))


def test_codes_come_in_columns(run, model, given, tmp_path):
    command("encode", str(run), "--parts", given, "--out", str(tmp_path / "codes.csv"))
    parts, present = parts_of(given)
    codes = pd.read_csv(tmp_path / "codes.csv")
    assert list(codes.columns) == ["shared_0", "shared_1", "shared_2"]
    np.testing.assert_allclose(codes, model.encode(parts, present), rtol=1e-6)
    command("encode", str(run), "--parts", given, "--private", "--out", str(tmp_path / "private.csv"))
    private = pd.read_csv(tmp_path / "private.csv")
    assert list(private.columns)[3:] == [f"{name}_{i}" for name in ("body", "look", "genes") for i in (0, 1)]
    assert private[["genes_0", "genes_1"]].isna().all(axis=None)
    assert (
        private[["look_0", "body_0"]].isna().to_numpy().tolist() == [[True, False], [False, True]] + [[False] * 2] * 3
    )
    command("encode", str(run), "--parts", given, "--private", "--out", str(tmp_path / "private.npz"))
    with np.load(tmp_path / "private.npz") as arrays:
        np.testing.assert_allclose(arrays["body"][0], private.loc[0, ["body_0", "body_1"]].to_numpy(float), rtol=1e-6)


def test_likelihoods_and_matches_are_rows_as_from_python(run, model, given, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(answers, "PATHS", 20)
    monkeypatch.setattr(answers, "STAGES", 20)
    parts, present = parts_of(given)
    command("match", str(run), "--parts", given, "--out", str(tmp_path / "match.csv"))
    match = pd.read_csv(tmp_path / "match.csv")["match"]
    np.testing.assert_allclose(match, model.match(parts, present), rtol=1e-5)
    assert match.isna().tolist() == [True, True, False, False, False]
    said = ["likelihood", str(run), "--parts", given, "--given", "look", "--samples", "20"]
    command(*said, "--out", str(tmp_path / "likelihood.csv"))
    assert "log Z of the prior, subtracted" in capsys.readouterr().err
    found = pd.read_csv(tmp_path / "likelihood.csv")["log_likelihood"]
    log_z = multiebm.from_pretrained(run).log_normalizer().value
    expected = model.log_likelihood(parts, ["look"], 20, present=present, log_z=log_z, progress=False)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found[1] == 0  # nothing is left to predict


def test_a_table_with_some_columns_of_a_part_or_none_is_refused(run, tmp_path, capsys):
    frame = table(3)
    for columns, said in (
        (["height", *LOOK], "got 'height' of part 'body' and no column 'weight', expected all 2 of it, or none"),
        (["g2"], "got 'g2' of part 'genes' and no column 'g1'"),
    ):
        frame[columns].to_csv(tmp_path / "some.csv", index=False)
        command("match", str(run), "--parts", str(tmp_path / "some.csv"), code=1)
        assert said in capsys.readouterr().err
    frame[["height"]].rename(columns={"height": "size"}).to_csv(tmp_path / "some.csv", index=False)
    command("match", str(run), "--parts", str(tmp_path / "some.csv"), code=1)
    assert (
        "got no columns of a part, expected those of training (body: height, weight; look:" in capsys.readouterr().err
    )


class Heard:
    """A listener that writes down what is announced."""

    def __init__(self):
        self.tasks = []

    def start(self, what, total):
        self.tasks.append(what)
        return 0

    def advance(self, task, steps): ...

    def end(self, task): ...


def test_measuring_and_reporting_say_how_far_they_are_unless_muted(run, model, monkeypatch, tmp_path):
    experiment = multiebm.load_experiment(run)
    data = multiebm.load_dataset("arrays", experiment.data.settings)
    monkeypatch.setattr(page, "SECTIONS", page.SECTIONS[:1])
    monkeypatch.setattr(answers, "STAGES", 20)
    few = EvaluationSettings(samples=20, items=5)
    for progress in (True, False):
        with listening(heard := Heard()):
            multiebm.evaluate(model, data, few, progress=progress)
            multiebm.write_report(run, dataset=data, out=tmp_path / "report.html", progress=progress)
            model.log_likelihood(table(2)[BODY].pipe(lambda body: {"body": body}), samples=2, progress=progress)
        if progress:
            assert {"joint samples", "filling in", "latents", "report", "importance samples"} <= set(heard.tasks)
        else:
            assert heard.tasks == []
