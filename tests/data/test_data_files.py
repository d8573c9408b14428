"""Archives from users: what is damaged or made to do damage is refused by name, with little unpacked or in memory."""

import io
import os
import tracemalloc
import zipfile

import numpy as np
import pytest
from numpy.lib import format as npy

from multiebm.core.errors import DataError, OutputError
from multiebm.data import load_dataset
from multiebm.data.npz import MAX_BYTES, read_npz, write_npz

LITTLE = 32 << 20  # bytes that a refusal may take
UNPACKED = 1 << 18  # bytes of members that may be unpacked for it: their headers, whatever they declare


def refused(path) -> str:
    """What a file is answered with, which must come before much is unpacked, and take little memory."""
    unpacked, read = list[int](), zipfile.ZipExtFile.read

    def counted(member, n=-1):
        unpacked.append(len(found := read(member, n)))
        return found

    tracemalloc.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(zipfile.ZipExtFile, "read", counted)
            with pytest.raises(DataError) as caught:
                read_npz(path)
        assert tracemalloc.get_traced_memory()[1] < LITTLE
    finally:
        tracemalloc.stop()
    assert sum(unpacked) < UNPACKED
    assert str(path) in str(caught.value)
    return str(caught.value)


def archive(path, members: dict[str, bytes], method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as stored:
        for name, data in members.items():
            stored.writestr(name, data)
    return path


def header(descr: str = "'<f4'", shape: str = "(3,)", version=(1, 0)) -> bytes:
    """The beginning of an array that says what it is told to say."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return npy.magic(*version) + len(text).to_bytes(2 if version == (1, 0) else 4, "little") + text


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            header(shape="(1000000000000, 8)") + b"\0" * 64,
            r"shape (1000000000000, 8) of float32 declared, and 64 bytes",
        ),
        (header(shape="(1000000000000, 0)"), "shape (1000000000000, 0) of float32 declared, and 0 bytes"),
        (header(shape="(-2, -2)") + b"\0" * 16, "shape (-2, -2)"),
        (header(shape=f"({'9' * 4000},)"), "declared"),
        (header(shape=f"({'9' * 5000},)"), "cannot be read"),
        (header(descr="'<U0'", shape="(1000000000000,)"), "values of type <U0"),
        (header(descr="('<f4', (100000000,))", shape="()") + b"\0" * 64, "values of type"),
        (header(descr="[('a', '<f4')]", shape="(1,)") + b"\0" * 4, "values of type"),
        (header(descr="'|O'", shape="(1,)") + b"\0" * 8, "values of type object"),
        (header(descr="'no such type'"), "cannot be read"),
        (header(shape="(" * 3000 + ")" * 3000), "cannot be read"),
        (header(shape="-" * 9000 + "1"), "cannot be read"),
        (npy.magic(2, 0) + (1 << 30).to_bytes(4, "little") + b" " * 1000, "cannot be read"),
        (npy.magic(3, 0) + b"\0" * 20, "format 3.0 of an array"),
        (header() + b"\0" * 11, "shape (3,) of float32 declared, and 11 bytes of values"),
        (b"no array at all", "cannot be read"),
        (b"", "cannot be read"),
    ],
)
def test_an_array_that_declares_what_it_does_not_hold_is_refused_before_memory_is_taken(data, said, tmp_path):
    assert said in refused(archive(tmp_path / "hostile.npz", {"x.npy": data}))


def test_a_zip_bomb_is_refused_by_what_it_declares(tmp_path, monkeypatch):
    bomb, start = tmp_path / "bomb.npz", header(descr="'|u1'", shape=f"({17 << 24},)")
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as stored, stored.open("x.npy", "w") as member:
        member.write(start)
        for _ in range(17):
            member.write(b"\0" * (1 << 24))
    size, said = bomb.stat().st_size, refused(bomb)
    assert f"to unpack of a file of {size:,}, expected at most 268,435,456; if it is what you think, set the" in said
    assert said.endswith(f"MULTIEBM_MAX_BYTES={(17 << 24) + len(start)}")
    monkeypatch.setenv("MULTIEBM_MAX_BYTES", "1000")
    np.savez(tmp_path / "small.npz", x=np.zeros(2000))
    assert "expected at most 1,000" in refused(tmp_path / "small.npz")
    monkeypatch.setenv("MULTIEBM_MAX_BYTES", "20000")
    assert read_npz(tmp_path / "small.npz")["x"].shape == (2000,)
    monkeypatch.setenv("MULTIEBM_MAX_BYTES", "much")
    assert "MULTIEBM_MAX_BYTES: got 'much', expected a number of bytes" in str(
        pytest.raises(DataError, read_npz, tmp_path / "small.npz").value
    )


def test_a_member_that_declares_more_than_the_limit_is_refused(tmp_path):
    path = archive(tmp_path / "large.npz", {"x.npy": header() + b"\0" * 12})
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\1\2") + 24  # the size in the directory of the archive
    data[at : at + 4] = (0xFFFFFFF0).to_bytes(4, "little")
    path.write_bytes(bytes(data))
    assert "4,294,967,280 bytes to unpack" in refused(path)
    assert MAX_BYTES == 8 * 2**30


def test_an_archive_of_mostly_nothing_is_no_bomb(tmp_path):
    np.savez_compressed(tmp_path / "zeros.npz", x=np.zeros((3000, 3, 28, 28), np.uint8))
    assert read_npz(tmp_path / "zeros.npz")["x"].sum() == 0


def test_an_archive_with_anything_but_arrays_in_it_is_refused(tmp_path):
    good = header() + b"\0" * 12
    assert "'notes.txt' in it, which is no .npy" in refused(
        archive(tmp_path / "a.npz", {"x.npy": good, "notes.txt": b""})
    )
    twice = archive(tmp_path / "b.npz", {"x.npy": good, "y.npy": good})
    twice.write_bytes(twice.read_bytes().replace(b"y.npy", b"x.npy"))
    assert "two arrays called 'x' in it" in refused(twice)
    assert "compressed by a method" in refused(archive(tmp_path / "c.npz", {"x.npy": good}, zipfile.ZIP_LZMA))


def test_what_cannot_be_read_is_named_with_the_way_out(tmp_path, monkeypatch):
    (tmp_path / "folder.npz").mkdir()
    assert "got a folder, expected an .npz; correct the path" in refused(tmp_path / "folder.npz")
    os.mkfifo(tmp_path / "pipe.npz")
    assert "got no such file" in refused(tmp_path / "pipe.npz")
    (tmp_path / "text.npz").write_text("a,b\n1,2\n")
    assert "expected an .npz of plain arrays; write it by numpy.savez" in refused(tmp_path / "text.npz")
    np.savez(tmp_path / "whole.npz", x=np.arange(1000))
    data = (tmp_path / "whole.npz").read_bytes()
    for cut in (0, 10, 200, len(data) // 2, len(data) - 1):
        (tmp_path / "cut.npz").write_bytes(data[:cut])
        assert "cannot be read" in refused(tmp_path / "cut.npz")
    (tmp_path / "changed.npz").write_bytes(data[:400] + b"\xff" + data[401:])
    assert "cannot be read (Bad CRC-32" in refused(tmp_path / "changed.npz")

    def denied(*arguments, **named):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", denied)
    assert "cannot be read (Permission denied), expected an .npz; make it readable" in refused(tmp_path / "whole.npz")


def test_an_archive_reads_back_as_it_was_written_whatever_its_arrays_are_called(tmp_path):
    arrays = {
        "file": np.arange(6, dtype=">i4").reshape(2, 3),
        "allow_pickle": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "a b ü": np.zeros((0, 4), np.uint8),
        "scalar": np.float64(3.5),
    }
    write_npz(tmp_path / "any.npz", arrays)
    found = read_npz(tmp_path / "any.npz")
    with np.load(tmp_path / "any.npz") as plain:
        assert list(found) == plain.files == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)
    assert [path.name for path in tmp_path.iterdir()] == ["any.npz"]
    first = (tmp_path / "any.npz").read_bytes()
    write_npz(tmp_path / "any.npz", arrays)
    assert (tmp_path / "any.npz").read_bytes() == first


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "..", "a/b", "a\\b", "c:x", "a\0b"])
def test_no_name_leads_out_of_an_archive(name, tmp_path):
    with pytest.raises(OutputError, match="expected a name without"):
        write_npz(tmp_path / "x.npz", {name: np.zeros(2)})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_archive_as_it_was(tmp_path, monkeypatch):
    write_npz(tmp_path / "x.npz", {"x": np.arange(3)})

    def full(*arguments, **named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("multiebm.data.npz.npy.write_array", full)
    with pytest.raises(OutputError, match=r"x.npz: the disk is full; choose another place"):
        write_npz(tmp_path / "x.npz", {"x": np.arange(4)})
    assert read_npz(tmp_path / "x.npz")["x"].tolist() == [0, 1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


def test_the_home_folder_and_capitals_are_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    rows = np.random.default_rng(0).normal(size=(10, 2))
    with (tmp_path / "MINE.NPZ").open("wb") as stream:
        np.savez(stream, x=rows)
    data = load_dataset("arrays", {"path": "~/MINE.NPZ", "modalities": {"x": {"kind": "vector"}}})
    assert (len(data.train), data.name) == (8, "MINE.NPZ")
    assert np.array_equal(read_npz("~/MINE.NPZ")["x"], rows)


def test_archives_of_old_pythons_are_read(tmp_path):
    data = header(shape="(3L,)") + np.arange(3, dtype="<f4").tobytes()
    assert read_npz(archive(tmp_path / "old.npz", {"x.npy": data}))["x"].tolist() == [0.0, 1.0, 2.0]
    stored = io.BytesIO()
    np.save(stored, np.arange(3))
    assert read_npz(archive(tmp_path / "new.npz", {"x.npy": stored.getvalue()}))["x"].tolist() == [0, 1, 2]
