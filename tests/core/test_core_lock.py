"""One writer a folder: who holds it is named, what a kill left is taken over, and nothing of it stays behind."""

import errno
import fcntl
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from multiebm.core.errors import OutputError
from multiebm.core.files import hold
from multiebm.core.lock import LOCK, locked

HOLDER = """
import sys, time
from pathlib import Path
from multiebm.core.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that holds the folder `tmp_path / "run"`."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_folder_is_made_for_the_lock_and_removed_again_where_nothing_came_into_it(tmp_path: Path):
    folder = tmp_path / "new" / "run"
    with locked(folder):
        said = json.loads((folder / LOCK).read_text())
        assert (said["pid"], said["host"]) == (os.getpid(), socket.gethostname())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ZeroDivisionError), locked(folder):
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []
    with locked(folder):
        (folder / "result").write_text("x")
    assert [path.name for path in folder.iterdir()] == ["result"]


def test_a_living_process_is_named_and_gives_way_to_nobody(holder, tmp_path: Path):
    for force in (False, True):
        with pytest.raises(OutputError) as raised, locked(tmp_path / "run", force):
            pytest.fail("two hold it")
        message = str(raised.value)
        assert f"run: in use by process {holder.pid} on {socket.gethostname()} since 2" in message
        assert message.endswith("wait until it has ended, or stop it")
    assert holder.poll() is None
    assert (tmp_path / "run" / LOCK).exists()


def test_a_killed_process_is_named_and_its_lock_taken_over_without_being_asked(holder, tmp_path: Path, caplog):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with caplog.at_level(logging.WARNING), locked(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == os.getpid()
    assert f"left by process {holder.pid} on {socket.gethostname()}" in caplog.text
    assert caplog.text.rstrip().endswith("taken over")
    assert list((tmp_path / "run").iterdir()) == []


def test_another_thread_of_this_process_is_refused_too(tmp_path: Path):
    said = []

    def second() -> None:
        try:
            with locked(tmp_path):
                said.append("held")
        except OutputError as error:
            said.append(str(error))

    with locked(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert said == [
        f"{tmp_path}: in use by this very process ({os.getpid()}), in another thread or call; wait until it has ended, "
        "or stop it"
    ]


@pytest.mark.parametrize("before", [{}, {"pid": 2**31 - 2, "host": socket.gethostname()}])
def test_who_has_locked_but_not_yet_written_its_name_is_waited_for_and_named(before: dict, tmp_path: Path):
    (tmp_path / LOCK).write_text(json.dumps(before) if before else "")
    held = hold(tmp_path / LOCK, wait=False)
    now = json.dumps({"pid": os.getppid(), "host": socket.gethostname(), "started": "now", "command": "x"}).encode()
    writer = threading.Timer(0.2, lambda: os.pwrite(held.handle, now, 0))
    writer.start()
    with pytest.raises(OutputError, match=f"in use by process {os.getppid()} on "), locked(tmp_path):
        pytest.fail("two hold it")
    writer.join()
    os.close(held.handle)


def test_the_lock_of_another_host_takes_force_and_says_so(tmp_path: Path):
    left = {"pid": 7, "host": "elsewhere", "started": "2026-01-01T00:00:00+0000", "command": "multiebm train"}
    (tmp_path / LOCK).write_text(json.dumps(left))
    with pytest.raises(OutputError) as raised, locked(tmp_path):
        pytest.fail("taken")
    message = str(raised.value)
    assert "process 7 on elsewhere since 2026-01-01T00:00:00+0000 (multiebm train)" in message
    assert "--force" in message
    assert f"delete {tmp_path / LOCK}" in message
    assert json.loads((tmp_path / LOCK).read_text()) == left
    with locked(tmp_path, force=True):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("pid", "held"), [(os.getpid(), True), (2**31 - 2, False)], ids=["this process", "a dead one"])
def test_where_the_file_system_has_no_locks_the_file_counts_and_force_takes_over_from_the_dead(
    pid: int, held: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def unsupported(*arguments: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with locked(tmp_path):
        pass
    (tmp_path / LOCK).write_text(json.dumps({"pid": pid, "host": socket.gethostname()}))
    with pytest.raises(OutputError, match="in use by this very process" if held else "--force"), locked(tmp_path):
        pytest.fail("taken")
    if held:
        with pytest.raises(OutputError, match="in use by"), locked(tmp_path, force=True):
            pytest.fail("taken")
    else:
        with locked(tmp_path, force=True):
            pass
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "[]", '"x"', "{", "[" * 5000, '{"pid": true}'])
def test_a_lock_file_that_says_nothing_sensible_is_taken_or_refused_without_a_traceback(text: str, tmp_path: Path):
    (tmp_path / LOCK).write_text(text)
    with locked(tmp_path, force=True):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_what_is_no_folder_or_no_lock_file_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="file: got a file, expected a folder"), locked(tmp_path / "file"):
        pytest.fail("held")
    with pytest.raises(OutputError, match=r"cannot be written .Not a directory."), locked(tmp_path / "file" / "run"):
        pytest.fail("held")
    (tmp_path / LOCK).symlink_to(tmp_path / "file")
    with pytest.raises(OutputError, match="cannot be written"), locked(tmp_path):
        pytest.fail("held")
    assert (tmp_path / "file").read_text() == "mine"
