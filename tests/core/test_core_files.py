import os
import resource
import threading
import time
from pathlib import Path

import pytest

from multiebm.core.errors import OutputError
from multiebm.core.files import (
    OLD,
    STALE_SECONDS,
    read_json,
    read_sealed,
    remove,
    remove_stale,
    replace_file,
    sealed,
    sha256_of_json,
    try_output,
    whole_folder,
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


def test_a_folder_that_cannot_be_replaced_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder, replace = tmp_path / "whole", os.replace
    with whole_folder(folder) as aside:
        (aside / "x").write_bytes(b"old")

    def refused(source: Path, target: Path) -> None:
        if target == folder and not source.name.startswith(OLD):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(OSError, match="No space"), whole_folder(folder) as aside:
        (aside / "x").write_bytes(b"new")
    assert (folder / "x").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


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


def test_what_is_left_behind_is_removed_once_it_is_old(tmp_path: Path):
    for name in ("young", "old", "folder/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"half")
    for name in ("old", "folder"):
        os.utime(tmp_path / name, (time.time() - STALE_SECONDS - 60,) * 2)
    remove_stale(list(tmp_path.iterdir()) + [tmp_path / "gone"])
    assert [path.name for path in tmp_path.iterdir()] == ["young"]


def test_a_sealed_file_comes_back_and_says_whether_it_is_unchanged(tmp_path: Path):
    values = {"a": [1, 2.5, 0.1 + 0.2], "b": {"c": "d\u00e9", "e": None}}
    file = tmp_path / "x.json"
    file.write_bytes(sealed(values))
    assert read_sealed(file) == (values, True)
    text = file.read_text()
    for old, new in [("2.5", "2.6"), ("0.30000000000000004", "0.30000000000000005"), ('"c"', '"C"'), ("null", "false")]:
        assert old in text
        file.write_text(text.replace(old, new))
        assert not read_sealed(file)[1]
    file.write_text('{"a": 1}')
    assert read_sealed(file) == ({"a": 1}, False)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 200_000, "nested more than 100 deep"),
        ('{"a":' * 200_000, "nested more than 100 deep"),
        ('["' + "[" * 2000 + '\\"", 1', "Expecting"),  # brackets in a text are none
        ("9" * 5000, "an integer of 5000 digits"),
        ("[" + "9" * 100 + "]", "an integer of 100 digits"),
        ('"' + '\\"' * 500_000, "Unterminated string"),
        (" " * 2_000, "larger than 1000 bytes"),
        ("\xff", "can't decode"),
        ("", "Expecting value"),
    ],
)
def test_json_is_bounded_before_it_is_parsed(text: str, reason: str, tmp_path: Path):
    file = tmp_path / "x.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=reason):
        read_json(file, largest=1000) if reason.startswith("larger") else read_json(file)


def test_a_pipe_is_no_json_file(tmp_path: Path):
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(ValueError, match="not a file"):
        read_json(tmp_path / "x.json")
