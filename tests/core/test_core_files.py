import resource
import threading
from pathlib import Path

import pytest

from multiebm.core.errors import OutputError
from multiebm.core.files import (
    remove,
    replace_file,
    sha256_of_json,
    try_output,
    why_not_written,
    write_output,
    written_whole,
)


def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(tmp_path: Path):
    target = tmp_path / "kept.txt"
    replace_file(target, b"old")
    with pytest.raises(FileNotFoundError), written_whole(target):
        (tmp_path / "the source of the new text, which is not there").read_bytes()
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_a_write_replaces_and_keeps_the_ending_of_the_name(tmp_path: Path):
    target = tmp_path / "picture.png"
    target.write_bytes(b"old")
    with written_whole(target) as aside:
        assert aside.suffix == ".png"
        aside.write_bytes(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


def test_reasons_and_checksums():
    assert why_not_written(OSError(28, "No space left on device")) == "the disk is full"
    assert why_not_written(OSError(13, "Permission denied")) == "cannot be written (Permission denied)"
    assert sha256_of_json({"a": 1, "b": [2.5, None]}) == sha256_of_json({"b": [2.5, None], "a": 1})
    assert sha256_of_json({"a": 1}) != sha256_of_json({"a": 2})


def test_of_two_that_write_one_file_at_once_the_second_waits_and_both_are_whole(tmp_path: Path):
    target, second = tmp_path / "x", threading.Event()

    def other() -> None:
        replace_file(target, b"second")
        second.set()

    thread = threading.Thread(target=other)
    with written_whole(target) as aside:
        thread.start()
        aside.write_bytes(b"first")
        assert not second.wait(0.1)
    thread.join()
    assert target.read_bytes() == b"second"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_what_a_kill_left_half_written_is_written_over_but_never_through_a_link(tmp_path: Path):
    (tmp_path / ".aside-x").write_bytes(b"half of something longer")
    replace_file(tmp_path / "x", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x", b"new")]
    (tmp_path / ".aside-y").symlink_to(tmp_path / "x")
    with pytest.raises(OutputError, match=r"y: cannot be written"):
        write_output(tmp_path / "y", b"more")
    assert (tmp_path / "x").read_bytes() == b"new"


def test_a_target_is_tried_before_the_work_and_nothing_is_left_of_it(tmp_path: Path):
    (tmp_path / "kept").write_bytes(b"old")
    for good in ("kept", "new", "no/such/folder/x.csv"):
        try_output(tmp_path / good, "give another")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_bytes() == b"old"
    for bad in (tmp_path, tmp_path / "kept" / "x", Path("/proc/x.json")):
        with pytest.raises(OutputError, match=f"{bad}: cannot be written .*; give another"):
            try_output(bad, "give another")


def test_a_full_disk_leaves_what_was_there(tmp_path: Path):
    """The kernel itself refuses the write (RLIMIT_FSIZE)."""
    write_output(tmp_path / "new" / "x", b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OutputError, match="x: the disk is full; free space"):
            write_output(tmp_path / "new" / "x", b"n" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "new").iterdir()] == [("x", b"old")]


def test_removing_a_link_leaves_what_it_leads_to(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    remove(tmp_path / "link")
    remove(tmp_path / "nothing")
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "x"]
    remove(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []
