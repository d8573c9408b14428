import json
from pathlib import Path

import pytest
from report_standin import make_evaluation, make_experiment

from multiebm.core.errors import OutputError
from multiebm.evaluation.result import Result
from multiebm.experiments.load import dump_experiment
from multiebm.report.record import RollBack, pair_tables, read_metrics, read_record


def test_a_run_folder_is_read_whole(tmp_path: Path):
    experiment = make_experiment()
    (tmp_path / "config.yaml").write_text(dump_experiment(experiment))
    (tmp_path / "run.json").write_text('{"seed": 3}')
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "loss/elbo": 1.5}\n')
    make_evaluation().save(tmp_path / "evaluation.json")
    record = read_record(tmp_path)
    assert record.name == tmp_path.name
    assert record.experiment == experiment
    assert record.config_text == dump_experiment(experiment)
    assert record.origin == {"seed": 3}
    assert record.lines == [{"step": 2, "loss/elbo": 1.5}]
    assert record.evaluation == make_evaluation()


def test_only_the_configuration_must_be_there(tmp_path: Path):
    (tmp_path / "config.yaml").write_text(dump_experiment(make_experiment()))
    record = read_record(tmp_path)
    assert (record.origin, record.lines, record.rollbacks, record.evaluation) == ({}, [], [], None)


def test_a_folder_that_is_no_run_is_refused_with_what_to_give(tmp_path: Path):
    with pytest.raises(
        OutputError, match=r"without config.yaml, expected a run folder; give the folder named by --out"
    ):
        read_record(tmp_path)


def test_roll_backs_are_told_from_metrics_and_a_torn_last_line_is_passed_over(tmp_path: Path):
    file = tmp_path / "metrics.jsonl"
    event = {"step": 40, "event": "rollback", "from_step": 57, "retries": 1}
    file.write_text(f'{{"step": 20, "a": null}}\n{json.dumps(event)}\n{{"step": 60, "a": 1.0}}\n{{"step": 80, "a')
    lines, rollbacks = read_metrics(file)
    assert lines == [{"step": 20, "a": None}, {"step": 60, "a": 1.0}]
    assert rollbacks == [RollBack(diverged=57, returned=40)]


def test_pairs_are_found_by_way_with_reconstructions_on_the_diagonal():
    tables = pair_tables(make_evaluation())
    assert list(tables) == ["cond"]
    assert tables["cond"]["up", "down"] == Result(0.3, 0.02, 40)
    assert tables["cond"]["down", "up"] == Result(0.4, 0.02, 40)
    assert tables["cond"]["down", "down"].value == pytest.approx(0.91)
    assert len(tables["cond"]) == 4
    assert pair_tables(None) == {}
