from pathlib import Path

import pytest

from multiebm.core.files import replace_file, sha256_of_json, why_not_written, written_whole


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
