"""metrics.jsonl when a run goes on: what is damaged or lost is said, and nothing of another file is touched."""

import json
import logging
import os
from pathlib import Path

import pytest
from training_standin import hooks, log_lines, make_state, step

from multiebm.core.errors import OutputError
from multiebm.report.record import read_metrics
from multiebm.training.checkpoint import CheckpointStore
from multiebm.training.hooks import MetricsLog, read_log
from multiebm.training.loop import fit

LOG = "metrics.jsonl"


def half(folder: Path) -> None:
    """Twelve of 20 steps, a line every three."""
    fit(make_state(), step, 12, hooks(folder))


def rest(folder: Path):
    state = make_state()
    CheckpointStore(folder / "checkpoints").resume(state)
    fit(state, step, 20, hooks(folder))
    return state


def put(folder: Path, number: int, text: str | None) -> None:
    """Replace a line, or delete it."""
    lines = (folder / LOG).read_text().splitlines()
    lines[number - 1 : number] = [] if text is None else [text]
    (folder / LOG).write_text("".join(f"{line}\n" for line in lines))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "null",
        "[]",
        "{}",
        '{"step": "6"}',
        '{"step": null}',
        '{"step": true}',
        '{"step": -6}',
        '{"step": 1e400}',
    ]
    + ['{"step": 2}', '{"step": NaN}', "[" * 9000, '{"step": ' + "9" * 5000 + "}", '{"step": 6, "retries": "x"}']
    + ['{"step": 6, "event": "rollback", "from_step": "x"}', "\x00\ufffd"],
)
def test_a_damaged_line_is_left_out_with_a_warning_and_the_run_goes_on(text: str, tmp_path: Path, caplog):
    half(tmp_path)
    put(tmp_path, 2, text)
    lines, _ = read_metrics(tmp_path / LOG)
    assert [line["step"] for line in lines] == [3, 9, 12]
    with caplog.at_level(logging.WARNING):
        rest(tmp_path)
    assert f"{tmp_path / LOG}: lines that are no JSON object with a step, or out of order, left out: 2;" in caplog.text
    assert "got 3 of the 4 lines up to step 12; the others are lost, and curves have gaps there" in caplog.text
    assert [line["step"] for line in log_lines(tmp_path)] == [3, 9, 12, 15, 18]


@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_deleted_line_is_missed_wherever_it_was_and_once(number: int, tmp_path: Path, caplog):
    half(tmp_path)
    put(tmp_path, number, None)
    with caplog.at_level(logging.WARNING):
        state = rest(tmp_path)
        assert caplog.text.count("got 3 of the 4 lines up to step 12") == 1
        CheckpointStore(tmp_path / "checkpoints").resume(state)
        fit(state, step, 23, hooks(tmp_path))
    assert caplog.text.count("lines up to step") == 1


def test_a_whole_log_is_not_warned_of_even_where_lines_come_at_another_pace_or_the_last_is_torn(tmp_path: Path, caplog):
    half(tmp_path)
    with (tmp_path / LOG).open("a") as stream:
        stream.write('{"step": 15, "lo')
    with caplog.at_level(logging.WARNING):
        state = make_state()
        CheckpointStore(tmp_path / "checkpoints").resume(state)
        fit(state, step, 20, [*hooks(tmp_path, log_every=7)])
        rest(tmp_path)
    assert [line["step"] for line in log_lines(tmp_path)] == [3, 6, 9, 12, 14]
    assert caplog.text == ""


@pytest.mark.parametrize("made", ["link", "dangling", "folder", "pipe"])
def test_nothing_is_written_through_what_is_no_file(made: str, tmp_path: Path):
    (tmp_path / "diary").write_text("mine\n")
    log = tmp_path / LOG
    if made == "folder":
        log.mkdir()
    elif made == "pipe":
        os.mkfifo(log)
    else:
        log.symlink_to(tmp_path / ("diary" if made == "link" else "nowhere"))
    with pytest.raises(OutputError, match=r"metrics.jsonl: got (a link to .*|what is no file), expected a file"):
        fit(make_state(), step, 6, [MetricsLog(log, every=2)])
    assert (tmp_path / "diary").read_text() == "mine\n"
    assert not (tmp_path / "nowhere").exists()


def test_a_link_put_there_on_the_way_is_not_followed_either(tmp_path: Path):
    (tmp_path / "diary").write_text("mine\n")
    log = MetricsLog(tmp_path / LOG, every=2)

    class Puts:
        def on_step(self, state, metrics) -> None:
            if state.step == 3:
                (tmp_path / LOG).unlink()
                (tmp_path / LOG).symlink_to(tmp_path / "diary")

        def on_end(self, state) -> None:
            pass

    with pytest.raises(OutputError, match="cannot write the line of step 4"):
        fit(make_state(), step, 6, [log, Puts()])
    assert (tmp_path / "diary").read_text() == "mine\n"


def test_reading_a_log_takes_what_can_be_read_of_it(tmp_path: Path):
    (tmp_path / LOG).write_bytes(b'{"step": 3, "a": 1.5, "b": null, "c": "x"}\n\xff\xfe\n{"step": 6}')
    log = read_log(tmp_path / LOG)
    assert ([line.step for line in log.lines], log.damaged) == ([3, 6], [2])
    lines, rollbacks = read_metrics(tmp_path / LOG)
    assert lines == [{"step": 3, "a": 1.5, "b": None}, {"step": 6}]
    assert rollbacks == []
    assert json.loads(log.lines[0].text)["c"] == "x"
    assert read_log(tmp_path / "none").lines == []


@pytest.mark.parametrize("name", ["step-²", "step-", "step-5", "step-000000x05", "step-٣", "step-0000000005"])
def test_a_folder_that_no_save_named_is_no_checkpoint(name: str, tmp_path: Path):
    half(tmp_path)
    store = CheckpointStore(tmp_path / "checkpoints")
    steps = store.steps()
    (store.folder / name).mkdir()
    assert store.steps() == steps == [10, 12]
    rest(tmp_path)
    assert store.latest() == store.path(20)
    assert (store.folder / name).is_dir()


def test_files_and_links_of_the_names_of_half_saved_checkpoints_do_not_stop_a_save(tmp_path: Path):
    store, elsewhere = CheckpointStore(tmp_path / "checkpoints"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "x").write_text("mine")
    store.folder.mkdir()
    (store.folder / ".aside-step-000000001").write_text("half")
    (store.folder / ".aside-step-000000002").symlink_to(elsewhere)
    store.path(0).write_text("a file in the way")
    store.save(make_state())
    assert [path.name for path in store.folder.iterdir()] == ["step-000000000"]
    assert (elsewhere / "x").read_text() == "mine"
