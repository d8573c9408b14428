"""Comparisons: what is made once stays made, a killed one goes on, and the tables say what the cells hold."""

import csv
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from multiebm.cli.commands_on_runs import seconds_of
from multiebm.cli.main import app
from multiebm.core.errors import ConfigError, DataError, DivergenceError
from multiebm.evaluation.result import Evaluation, Result
from multiebm.experiments import compare as module
from multiebm.experiments.compare import Cell, compare, write_tables
from multiebm.report.page import write_comparison
from multiebm.training.steps import TrainingStep

SMALL = [
    "training.phases.bound.steps=3",
    "training.batch_size=8",
    "model.shared=3",
    "model.networks.picture.width=2",
    "training.checkpoint_every=1",
]
CELLS = [
    Cell("mvae", 0, 10, 4.0, {"gen/joint_coherence": 0.1, "gen/fcd": 50.0}),
    Cell("mvae", 1, 11, 4.0, {"gen/joint_coherence": 0.3, "gen/fcd": 60.0}),
    Cell("mopoe", 0, 12, 4.0, {"gen/joint_coherence": 0.25, "gen/fcd": 40.0}),
]


@pytest.fixture
def measured(monkeypatch):
    """Measuring is replaced by a count of calls; planning keeps the steps asked for."""
    calls = []

    def measure(model, dataset, settings, seed):
        calls.append(seed)
        return Evaluation({"gen/fcd": Result(40.0 + seed, 0.1, 10)}, {}, None, "polydigits", seed, 0.0)

    monkeypatch.setattr(module, "measure_model", measure)
    monkeypatch.setattr(module, "planned", lambda experiment, device: experiment)
    monkeypatch.setattr(module, "run_planned", run_as_it_is)
    return calls


def run_as_it_is(plan, run, preset, device):
    return module.run_experiment(plan, run, preset=preset, device=device)


def run(out, rows=("mvae", "helvae"), seeds=2, overrides=()):
    return compare(rows, "polydigits", 60.0, seeds, out, [*SMALL, *overrides], tell=lambda line: None)


def test_every_row_and_seed_is_made_once(tmp_path, measured):
    cells = run(tmp_path)
    assert [(c.row, c.seed, c.steps) for c in cells] == [(r, s, 3) for s in (0, 1) for r in ("mvae", "helvae")]
    assert [c.measured["gen/fcd"] for c in cells] == [40, 40, 41, 41]
    assert len(measured) == 4
    session = json.loads((tmp_path / "runs" / "mvae-0" / "run.json").read_text())["sessions"][-1]
    assert cells[0].seconds == session["seconds"] + session["settling"] > 0
    assert run(tmp_path) == cells
    assert len(measured) == 4


def test_a_killed_comparison_goes_on_where_it_was(tmp_path, measured, monkeypatch):
    whole = module.measure_model

    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "measure_model", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, ("mvae",), 1)
    assert not (tmp_path / "cells").exists() or not list((tmp_path / "cells").iterdir())
    monkeypatch.setattr(module, "measure_model", whole)
    monkeypatch.setattr(module, "planned", lambda experiment, device: pytest.fail("planned anew"))
    cells = run(tmp_path, ("mvae",), 1)
    assert (cells[0].steps, len(measured)) == (3, 1)


def test_a_comparison_killed_in_mid_training_ends_as_if_it_had_not_been(tmp_path, measured, monkeypatch):
    settings = ["training.checkpoint_every=1", "training.phases.bound.steps=6"]
    (whole,) = run(tmp_path / "whole", ("mvae",), 1, settings)
    step = TrainingStep.__call__

    def killed(self, state, batch):
        if state.step == 4:
            raise KeyboardInterrupt
        return step(self, state, batch)

    monkeypatch.setattr(TrainingStep, "__call__", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part", ("mvae",), 1, settings)
    assert not (tmp_path / "part" / "cells").exists()
    monkeypatch.setattr(TrainingStep, "__call__", step)
    (part,) = run(tmp_path / "part", ("mvae",), 1, settings)
    sessions = json.loads((tmp_path / "part" / "runs" / "mvae-0" / "run.json").read_text())["sessions"]
    assert [(s["from_step"], s["to_step"]) for s in sessions] == [(0, 4), (4, 6)]
    assert (part.steps, part.measured) == (whole.steps, whole.measured)
    one, other = (next((tmp_path / x / "runs/mvae-0/model").glob("*.safetensors")) for x in ("whole", "part"))
    assert one.read_bytes() == other.read_bytes()


def test_a_comparison_killed_in_the_first_save_of_a_model_goes_on(tmp_path, measured, monkeypatch):
    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "measure_model", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, ("mvae",), 1)
    model = tmp_path / "runs" / "mvae-0" / "model"
    (model / "model.json").rename(model / ".aside-model.json")
    (cell,) = run(tmp_path, ("mvae",), 1)
    assert (cell.steps, len(measured)) == (3, 1)
    assert sorted(path.suffix for path in model.iterdir()) == [".json", ".safetensors"]


def test_a_row_that_diverges_is_said_to_have_and_the_others_go_on(tmp_path, measured, monkeypatch):
    real = module.run_experiment

    def diverging(plan, folder, **rest):
        result = real(plan, folder, **rest)
        if folder.name == "mvae-0":
            raise DivergenceError("training diverged at step 3: prior/gap is 218.2, expected within +-200")
        return result

    monkeypatch.setattr(module, "run_experiment", diverging)
    cells = run(tmp_path)
    assert [(c.row, c.seed, bool(c.measured)) for c in cells] == [
        ("mvae", 0, False),
        ("helvae", 0, True),
        ("mvae", 1, True),
        ("helvae", 1, True),
    ]
    assert (cells[0].steps, cells[0].values()) == (3, {})
    table = (tmp_path / "table.md").read_text().splitlines()
    assert table[2:] == [
        "| mvae | 3 | 41.0 |",
        "| helvae | 3 ± 0 | 40.5 ± 0.7 |",
        "",
        "mvae, seed 0: training diverged at step 3: prior/gap is 218.2, expected within +-200",
    ]
    page = write_comparison([*CELLS, cells[0]], tmp_path, "polydigits").read_text()
    assert "mvae, seed 0: training diverged at step 3" in page
    assert run(tmp_path) == cells  # nor is it tried again


def test_a_run_begun_with_other_settings_is_not_gone_on_with(tmp_path, measured):
    """Neither after a kill nor where the cell alone was deleted; planned steps may differ."""
    run(tmp_path, ("mvae",), 1)
    (tmp_path / "cells" / "mvae-0.json").unlink()
    with pytest.raises(
        DataError, match=r"runs/mvae-0: got a run begun with other settings .asked -> begun: model.shared: 4 -> 3.,"
    ):
        run(tmp_path, ("mvae",), 1, ["model.shared=4"])
    cells = run(tmp_path, ("mvae",), 1, ["training.phases.bound.steps=7"])
    assert (cells[0].steps, len(measured)) == (3, 2)


def test_an_unknown_row_or_data_is_refused_before_anything_is_made(tmp_path, measured):
    with pytest.raises(ConfigError, match="Did you mean 'mopoe'"):
        run(tmp_path / "a", ("mvae", "mopo"))
    known = "arrays, coco64, cub64, mnist-svhn, polydigits, polymnist, polymnist16, shapes, toy2d, tuxpaint"
    with pytest.raises(ConfigError, match=f"expected one of {known}"):
        compare(["mvae"], "toy3d", 60.0, 1, tmp_path / "a", tell=lambda line: None)
    assert not (tmp_path / "a").exists()


def test_rows_that_do_not_fit_the_settings_or_the_data_are_all_named_before_anything_is_trained(tmp_path, measured):
    """JMVAE reads all parts at once; the divergence of MVAE is in closed form, of a normal prior alone."""
    with pytest.raises(ConfigError) as error:
        run(tmp_path / "a", ("mvae", "mmvae", "mvtcae"), overrides=["model.prior={kind: mixture, components: 2}"])
    first, *others = error.value.problems
    assert first == "rows that do not go with these settings; leave them out, or change them:"
    assert [line.split(": got analytic")[0] for line in others] == [
        f"{row}: training.phases.bound.divergence" for row in ("mvae", "mvtcae")
    ]
    present = np.random.default_rng(0).random((40, 2)) < 0.7
    np.savez(tmp_path / "gaps.npz", x=np.random.rand(40, 2), y=np.random.rand(40, 3), present=present)
    own = [*SMALL, f"data.settings.path={tmp_path / 'gaps.npz'}"]
    with pytest.raises(DataError, match="rows that cannot be trained on this data; leave them out:\njmvae: ") as error:
        compare(["mvae", "jmvae"], "arrays", 60.0, 1, tmp_path / "b", own)
    assert "mvae: got" not in str(error.value).replace("jmvae", "")
    assert "expected complete items" in str(error.value)
    with pytest.raises(DataError, match="mvae: model.parts.x.likelihood: got 'poisson', which vector does not know"):
        compare(["mvae"], "arrays", 60.0, 1, tmp_path / "c", [*own, "model.parts={x: {likelihood: poisson}}"])
    assert not list(tmp_path.glob("*/runs/*"))
    assert not measured


def test_a_cell_of_other_settings_is_not_passed_off(tmp_path, measured):
    run(tmp_path, ("mvae",), 1)
    with pytest.raises(DataError, match=r"got a cell of other settings \(asked -> stored: model.shared: 4 -> 3\)"):
        run(tmp_path, ("mvae",), 1, ["model.shared=4"])


def test_a_row_may_be_the_end_of_a_presets_name_or_the_preset_itself():
    assert module.source_of("long", "polydigits") == "polydigits-long"
    assert module.source_of("combined", "polydigits") == "polydigits"
    assert module.source_of("mopoe", "polydigits") == "polydigits-mopoe"
    with pytest.raises(ConfigError, match="got 'vae'"):
        module.source_of("vae", "polydigits")


def test_a_setting_younger_than_a_cell_counts_as_its_default(tmp_path, measured):
    run(tmp_path, ("mvae",), 1)
    path = tmp_path / "cells" / "mvae-0.json"
    cell = json.loads(path.read_text())
    del cell["settings"]["training"]["phases"][0]["alpha"]
    path.write_text(json.dumps(cell))
    run(tmp_path, ("mvae",), 1)
    assert len(measured) == 1
    cell["settings"]["training"]["gone"] = 1
    path.write_text(json.dumps(cell))
    with pytest.raises(DataError, match="got a cell of other settings"):
        run(tmp_path, ("mvae",), 1)


def test_tables_hold_mean_and_spread_by_row_and_every_cell(tmp_path):
    write_tables(CELLS, tmp_path)
    assert (tmp_path / "table.md").read_text().splitlines()[2:] == [
        "| mvae | 10 ± 1 | 0.200 ± 0.141 | 55.0 ± 7.1 |",
        "| mopoe | 12 | 0.250 | 40.0 |",
    ]
    assert r"mvae & 10 $\pm$ 1 & 0.200 $\pm$ 0.141 & 55.0 $\pm$ 7.1 \\" in (tmp_path / "table.tex").read_text()
    with (tmp_path / "table.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert [(line["row"], line["steps"], line["gen/fcd"]) for line in lines] == [
        ("mvae", "10", "50.0"),
        ("mvae", "11", "60.0"),
        ("mopoe", "12", "40.0"),
    ]


def own_cells() -> list[Cell]:
    """Of data without labels: a vector and a category, filled in, and beside them what the rows alone say."""
    beside = {"fill/regression/lab": 0.5, "fill/neighbours/lab": 0.6, "fill/mean/lab": 1.0}
    beside |= {"fill/regression/ward": 0.4, "fill/mean/ward": 0.7, "fill/mean/lab/ward": 9.0}
    own = {"fill/rmse/lab": 0.4, "fill/log_loss/ward": 0.5, "fill/accuracy/ward": 0.8, "fill/rmse/lab/ward": 0.9}
    own |= {"fill/r2": 0.7, "belong/match": 0.9}
    better = {"fill/rmse/lab": 0.3, "fill/log_loss/ward": 0.45, "fill/r2": 0.8}
    return [Cell("mvae", 0, 10, 4.0, own | beside), Cell("mopoe", 0, 12, 4.0, own | better | beside)]


def test_without_labels_parts_filled_in_stand_beside_regression_and_neighbours(tmp_path):
    write_tables(own_cells(), tmp_path)
    assert (tmp_path / "table.md").read_text().splitlines() == [
        "| row | steps | lab, error | ward, log loss | R2 of parts filled in | match |",
        "| --- | --- | --- | --- | --- | --- |",
        "| mvae | 10 | 0.400 | 0.500 | 0.700 | 0.900 |",
        "| mopoe | 12 | 0.300 | 0.450 | 0.800 | 0.900 |",
        "| regression | — | 0.500 | 0.400 | — | — |",
        "| 10 neighbours | — | 0.600 | — | — | — |",
        "| the mean | — | 1.000 | 0.700 | — | — |",
    ]
    page = write_comparison(own_cells(), tmp_path, "mine").read_text()
    assert page.index("mopoe") < page.index("10 neighbours")
    assert "the last rows are what the same rows say without a model" in page
    assert "without a model" not in write_comparison(CELLS, tmp_path, "polydigits").read_text()
    assert "0.450" in page
    with (tmp_path / "table.csv").open() as stream:
        assert [line["fill/rmse/lab"] for line in csv.DictReader(stream)] == ["0.4", "0.3"]


def test_with_labels_the_means_alone_are_added(tmp_path):
    labelled = [cell._replace(measured=cell.measured | {"gen/joint_coherence": 0.5}) for cell in own_cells()]
    write_tables(labelled, tmp_path)
    assert (tmp_path / "table.md").read_text().splitlines()[0] == (
        "| row | steps | joint coherence | R2 of parts filled in | match |"
    )
    assert "regression" not in (tmp_path / "table.md").read_text()


def test_own_data_are_compared_from_the_command_line(tmp_path, monkeypatch):
    """A table of which one column is twice another: trained for an instant, measured, and beside regression."""
    monkeypatch.setattr(module, "planned", lambda experiment, device: experiment)
    monkeypatch.setattr(module, "run_planned", run_as_it_is)
    x = np.random.default_rng(0).normal(size=120)
    lines = [f"{a},{2 * a},{-a},{'high' if a > 0 else 'low'}" for a in x]
    (tmp_path / "mine.csv").write_text("\n".join(["a,b,c,level", *lines]))
    settings = ["training.phases.bound.steps=2", "model.shared=3", "evaluation.items=20", "evaluation.samples=20"]
    command = ["compare", "mvae", "mopoe", "--data", str(tmp_path / "mine.csv"), "--budget", "1s"]
    command += ["--part", "one=a", "--part", "two=b,c", "--part", "level=level", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*command, *(word for text in settings for word in ("--set", text))])
    assert result.exit_code == 0, result.output
    table = [line.split(" | ") for line in (tmp_path / "out" / "table.md").read_text().splitlines()]
    assert table[0][2:5] == ["one, error", "two, error", "level, log loss"]
    rows = {line[0].lstrip("| "): line[2:5] for line in table[2:]}
    assert list(rows) == ["mvae", "mopoe", "regression", "10 neighbours", "the mean"]
    assert max(float(value) for value in rows["regression"][:2]) < 0.1  # a line
    assert min(float(value) for value in rows["the mean"][:2]) > 0.5


def test_the_page_holds_table_and_scatter_and_fetches_nothing(tmp_path):
    page = write_comparison(CELLS, tmp_path, "polydigits").read_text()
    assert "0.200 ± 0.141" in page
    assert page.count('<svg class="chart"') == 1
    assert "<script" not in page
    assert "src=" not in page


def test_runs_that_draw_few_classes_are_named_beneath_the_scatter_and_not_drawn_in_it(tmp_path):
    few = Cell("mmvae", 3, 12, 4.0, {"gen/joint_coherence": 0.9, "gen/fcd": 333.0, "gen/label_entropy": 0.2})
    page = write_comparison([*CELLS, few], tmp_path, "polydigits").read_text()
    chart = page[page.index('<svg class="chart"') : page.index("</svg>")]
    assert [name for name in ("mvae", "mopoe", "mmvae") if f">{name}</text>" in chart] == ["mvae", "mopoe"]
    assert "label entropy is below 0.5: mmvae (seed 3)." in page


@pytest.mark.parametrize(("text", "seconds"), [("240s", 240), ("15m", 900), ("1.5h", 5400)])
def test_budgets_are_times_with_a_unit(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["15", "m", "0m", "-3m", "1d"])
def test_other_budgets_are_refused(text):
    with pytest.raises(ConfigError, match="expected a time such as"):
        seconds_of(text)
