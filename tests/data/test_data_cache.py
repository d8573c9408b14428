"""The cache is there whole or not at all; whatever is damaged is found, reported and built again to the same bytes."""

import json
import logging
import os
import pwd
import shutil
from pathlib import Path

import numpy as np
import pytest

from multiebm.core.errors import DataError
from multiebm.core.files import file_sha256, sealed
from multiebm.data import cache
from multiebm.data.cache import cache_root, cached_arrays

ARRAYS = {"first": np.arange(1000, dtype=np.uint8), "second": np.arange(24.0).reshape(2, 3, 4)}
IDENTITY = {"source": "abc", "size": 16}


class Counted:
    """A builder that counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        yield from ARRAYS.items()


def open_cache(root, build, identity=None):
    return cached_arrays(root, "things", identity or IDENTITY, build, list(ARRAYS))


def only_folder(root):
    (folder,) = root.iterdir()
    return folder


def assert_whole(arrays):
    assert all(np.array_equal(arrays[name], ARRAYS[name]) for name in ARRAYS)
    assert all(arrays[name].dtype == ARRAYS[name].dtype for name in ARRAYS)


def test_it_is_built_once_and_then_memory_mapped(tmp_path):
    build = Counted()
    for _ in range(3):
        arrays, sums = open_cache(tmp_path, build)
        assert_whole(arrays)
        assert all(isinstance(array, np.memmap) for array in arrays.values())
    assert build.calls == 1
    assert sums == {name: file_sha256(only_folder(tmp_path) / f"{name}.npy") for name in ARRAYS}


def test_writing_into_a_returned_array_does_not_reach_the_file(tmp_path):
    arrays, _ = open_cache(tmp_path, Counted())
    arrays["first"][:] = 0
    del arrays
    assert_whole(open_cache(tmp_path, Counted())[0])


def truncate(folder):
    path = folder / "second.npy"
    path.write_bytes(path.read_bytes()[:-5])


def flip_a_byte(folder):
    path = folder / "second.npy"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))


def remove_a_file(folder):
    (folder / "first.npy").unlink()


def remove_the_manifest(folder):
    (folder / "manifest.json").unlink()


def truncate_the_manifest(folder):
    path = folder / "manifest.json"
    path.write_text(path.read_text()[:40])


def edit_the_manifest(folder):
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace("abc", "abd"))


def seal_again(folder, **changes):
    path = folder / "manifest.json"
    content = json.loads(path.read_text()) | changes
    del content["sha256"]
    path.write_bytes(sealed(content))


def forge_the_manifest(folder):
    seal_again(folder, identity={"source": "other"})


def empty_the_entries(folder):
    seal_again(folder, files=[{"name": "first.npy"}])


def be_of_another_release(folder):
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "identity": {}, "files": {}}))


def drop_an_entry(folder):
    seal_again(folder, files=json.loads((folder / "manifest.json").read_text())["files"][:1])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "second.npy: truncated: got 315 bytes, expected 320"),
        (flip_a_byte, "second.npy: damaged: got sha256 "),
        (remove_a_file, "first.npy: cannot be read (No such file or directory)"),
        (remove_the_manifest, "manifest.json: cannot be read (No such file or directory)"),
        (truncate_the_manifest, "manifest.json: not readable as JSON"),
        (edit_the_manifest, "manifest.json: damaged: its values do not match its sha256"),
        (forge_the_manifest, "manifest.json: got that of other data"),
        (empty_the_entries, "manifest.json: files.0.bytes: got nothing, expected"),
        (be_of_another_release, "or of another release; building it again: "),
        (be_of_another_release, "got format 1, expected 'multiebm-arrays'; this is no cache of this release"),
        (drop_an_entry, "second.npy: not in manifest.json"),
    ],
)
def test_damage_is_reported_and_repaired_to_identical_files(tmp_path, caplog, damage, reason):
    open_cache(tmp_path, Counted())
    folder = only_folder(tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    damage(folder)
    build = Counted()
    with caplog.at_level(logging.WARNING):
        arrays, _ = open_cache(tmp_path, build)
    assert_whole(arrays)
    assert build.calls == 1
    assert reason in caplog.text
    assert "building it again" in caplog.text
    assert {path.name: path.read_bytes() for path in only_folder(tmp_path).iterdir()} == before


def test_a_build_that_was_killed_leaves_nothing_that_is_mistaken_for_a_cache(tmp_path):
    open_cache(tmp_path, Counted())
    folder = only_folder(tmp_path)
    half = tmp_path / f".aside-{folder.name}-k1ll3d"
    half.mkdir()
    shutil.copy(folder / "first.npy", half)
    shutil.rmtree(folder)
    build = Counted()
    assert_whole(open_cache(tmp_path, build)[0])
    assert build.calls == 1
    assert half.exists()  # young: it could belong to a process that is still building


def test_old_leftovers_of_killed_builds_are_removed_with_the_next_build(tmp_path):
    open_cache(tmp_path, Counted())
    folder = only_folder(tmp_path)
    half = tmp_path / f".aside-{folder.name}-k1ll3d"
    half.mkdir()
    os.utime(half, (0, 0))
    truncate(folder)
    assert_whole(open_cache(tmp_path, Counted())[0])
    assert list(tmp_path.iterdir()) == [folder]


def test_a_builder_that_fails_leaves_nothing_behind(tmp_path):
    def build():
        yield "first", ARRAYS["first"]
        raise DataError("no such source")

    with pytest.raises(DataError, match="no such source"):
        open_cache(tmp_path, build)
    assert list(tmp_path.iterdir()) == []


def test_another_identity_is_another_cache(tmp_path):
    open_cache(tmp_path, Counted())
    build = Counted()
    open_cache(tmp_path, build, {"source": "abc", "size": 28})
    assert build.calls == 1
    assert len(list(tmp_path.iterdir())) == 2


def test_the_result_of_a_faster_process_is_used(tmp_path):
    build = Counted()

    def slower():
        yield from ARRAYS.items()
        open_cache(tmp_path, build)  # another process finishes while this one still builds

    assert_whole(open_cache(tmp_path, slower)[0])
    assert build.calls == 1
    assert [path.name for path in only_folder(tmp_path).iterdir() if path.suffix == ".json"] == ["manifest.json"]


def test_a_full_disk_is_reported_with_the_fix_and_the_data_is_built_in_memory(tmp_path, monkeypatch, caplog):
    def no_space(handle):
        raise OSError(28, "No space left on device")

    whole = open_cache(tmp_path / "whole", Counted())[1]
    monkeypatch.setattr(os, "fsync", no_space)
    arrays, sums = open_cache(tmp_path / "full", Counted())
    assert_whole(arrays)
    assert sums == whole  # the fingerprint of the data does not depend on where it is
    assert "the disk is full; the data is built in memory" in caplog.text
    assert "free space, or choose another folder by cache_folder, or set MULTIEBM_CACHE" in caplog.text
    assert list((tmp_path / "full").iterdir()) == []


def read_only(root):
    root.mkdir()
    return root


def a_file(root):
    root.write_text("mine")
    return root


def below_a_file(root):
    root.write_text("mine")
    return root / "deeper"


@pytest.mark.parametrize("place", [read_only, a_file, below_a_file])
def test_a_place_that_cannot_be_written_is_reported_once_and_gone_without(tmp_path, monkeypatch, caplog, place):
    root = place(tmp_path / "cache")
    if place is read_only:  # permissions do not bind those who run tests as root

        def refused(*arguments, **named):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "mkdir", refused)
    before = [path.read_bytes() for path in tmp_path.iterdir() if path.is_file()]
    assert_whole(open_cache(root, Counted())[0])
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert str(root) in record.getMessage()
    assert "cannot be written" in record.getMessage()
    assert [path.read_bytes() for path in tmp_path.iterdir() if path.is_file()] == before


def test_a_cache_that_is_read_only_but_filled_is_read(tmp_path, monkeypatch, caplog):
    open_cache(tmp_path, Counted())

    def refused(*arguments, **named):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refused)
    monkeypatch.setattr(os, "replace", refused)
    build = Counted()
    assert_whole(open_cache(tmp_path, build)[0])
    assert build.calls == 0
    assert not caplog.records
    truncate(only_folder(tmp_path))  # nor does damage stop it
    assert_whole(open_cache(tmp_path, build)[0])
    assert "building it again" in caplog.text
    assert "built in memory" in caplog.text


def test_a_source_that_cannot_be_read_is_an_error_of_the_data(tmp_path):
    def build():
        yield "first", ARRAYS["first"]
        raise FileNotFoundError(2, "No such file or directory", "images.gz")

    with pytest.raises(DataError, match="cannot be built.*images.gz"):
        open_cache(tmp_path, build)


def test_old_leftovers_of_any_build_are_removed_and_nothing_else(tmp_path):
    names = ["digits-0123456789abcdef.building-x1_y", "digits-0123456789abcdef.damaged-x1_y", "my-notes.building-x"]
    names += [".aside-digits-0123456789abcdef-x1y2", ".aside-old-digits-0123456789abcdef"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "first.npy").write_bytes(b"half")
        os.utime(tmp_path / name, (0, 0))
    open_cache(tmp_path, Counted())
    open_cache(tmp_path, Counted())
    assert sorted(path.name.partition("-")[0] for path in tmp_path.iterdir()) == ["my", "things"]


def test_a_user_without_a_home_has_a_cache_for_the_process_and_is_told(tmp_path, monkeypatch, caplog):
    def lost(*arguments):
        raise KeyError("uid not found")

    for variable in ("MULTIEBM_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lost)
    folder = cache_root()
    assert folder.is_dir()
    assert cache_root() == folder
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "set MULTIEBM_CACHE to a folder that can be written" in caplog.text
    shutil.rmtree(folder)
    cache._homeless.cache_clear()


def test_the_environment_chooses_the_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("MULTIEBM_CACHE", str(tmp_path / "mine"))
    assert cache_root() == tmp_path / "mine"
    monkeypatch.delenv("MULTIEBM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "multiebm"
