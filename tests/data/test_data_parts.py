"""Parts from files: masks are those of training, pictures keep their values, and rows of two parts are one item."""

import logging
import os
import struct
import zlib
from time import perf_counter

import numpy as np
import pytest
from PIL import Image

from multiebm.core.errors import DataError, ModalityError
from multiebm.data import read_parts
from multiebm.modalities import Picture, Vector
from small_models import make_batch

V, PHOTO = Vector("v", (2,)), Picture("photo", (3, 4, 6))
GREY = Picture("grey", (1, 4, 6))
KNOWN = {"photo": PHOTO, "grey": GREY, "v": V}
DRAWS = np.random.default_rng(0)
COLOURS = DRAWS.integers(0, 256, (3, 4, 6, 3), dtype=np.uint8)
SHADES = DRAWS.integers(0, 256, (3, 4, 6), dtype=np.uint8)
VALUES = DRAWS.normal(size=(3, 2))


def from_npz(tmp_path, **arrays):
    np.savez(tmp_path / "parts.npz", **arrays)
    return read_parts(tmp_path / "parts.npz", KNOWN)


def refused(tmp_path, **arrays) -> str:
    with pytest.raises(DataError) as caught:
        from_npz(tmp_path, **arrays)
    assert str(caught.value).startswith(str(tmp_path / "parts.npz"))
    return str(caught.value)


def test_arrays_are_parts_and_their_masks_are_in_the_order_of_the_modalities(tmp_path):
    seen, all_seen = np.array([True, False, True]), np.ones(3, bool)
    views, present = from_npz(tmp_path, v=VALUES, photo=COLOURS, present_v=seen, labels=np.arange(3))
    assert list(views) == ["v", "photo"]
    assert np.array_equal(views["photo"], COLOURS.transpose(0, 3, 1, 2))
    assert np.array_equal(views["v"], VALUES)
    assert present.tolist() == np.stack([all_seen, all_seen, seen], 1).tolist()
    table = np.array([[True, True, False]] * 3)
    assert from_npz(tmp_path, v=VALUES, present=table)[1].tolist() == table.tolist()
    assert from_npz(tmp_path, v=VALUES)[1] is None
    first = from_npz(tmp_path, photo=COLOURS.transpose(0, 3, 1, 2))[0]["photo"]
    assert np.array_equal(first, COLOURS.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"present_V": np.zeros(3, bool)}, "unknown modality 'V', expected some of photo, grey, v. Did you mean 'v'?"),
        (
            {"presentv": np.zeros(3, bool)},
            "got unknown modality 'presentv', expected some of photo, grey, v. Did you mean",
        ),
        ({"present_v": np.array(["False"] * 3)}, "v, present: got "),
        ({"present_v": np.array([1.0, np.nan, 0.0])}, "v, present: got "),
        ({"present_v": np.zeros(2, bool)}, "v, present: got shape (2,), expected (3,)"),
        ({"present": np.zeros((3, 2), bool)}, "present: got shape (3, 2), expected (3, 3)"),
        (
            {"present": np.ones((3, 3), bool), "present_v": np.ones(3, bool)},
            "got both present and present_v, expected one form; drop one of them",
        ),
        ({"foto": COLOURS}, "got unknown modality 'foto', expected some of photo, grey, v. Did you mean 'photo'?"),
        ({"photo": COLOURS[:2]}, "got different lengths (v 3, photo 2), expected one; row i"),
    ],
)
def test_what_would_be_ignored_or_misread_is_refused_by_name(more, said, tmp_path):
    assert said in refused(tmp_path, v=VALUES, **more)


def test_a_test_split_is_left_aside_and_said_or_refused_where_it_is_all_there_is(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        views, present = from_npz(tmp_path, v=VALUES, test_v=VALUES[:1], test_present_v=np.ones(1, bool))
    assert (list(views), present) == (["v"], None)
    assert "test_v, test_present_v are left aside; the rows without test_ are used" in caplog.text
    assert "rename its arrays to the modalities" in refused(tmp_path, test_v=VALUES)
    assert "got none, expected at least one of photo, grey, v" in refused(tmp_path, labels=VALUES)


def folder(tmp_path, **pictures):
    """Files by modality: name of the file -> array, or what to write, as a folder of parts."""
    for name, files in pictures.items():
        (tmp_path / name).mkdir()
        for file, pixels in files.items():
            if isinstance(pixels, bytes):
                (tmp_path / name / file).write_bytes(pixels)
            else:
                image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
                image.save(tmp_path / name / file)
    return tmp_path


def refused_folder(path) -> str:
    with pytest.raises(DataError) as caught:
        read_parts(path, KNOWN)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


def test_every_usual_ending_is_read_and_rows_are_in_the_order_of_names(tmp_path):
    files = {f"10.{end}": COLOURS[0] for end in ("PNG",)} | {"2.bmp": COLOURS[1], "a.tif": COLOURS[2]}
    read, present = read_parts(
        folder(tmp_path, photo=files, grey={"2.png": SHADES[1], "a.PNG": SHADES[2], "10.Png": SHADES[0]}), KNOWN
    )
    assert present is None
    assert np.array_equal(read["photo"], COLOURS.transpose(0, 3, 1, 2))
    assert np.array_equal(read["grey"], SHADES[:, None])
    assert read["photo"].dtype == np.uint8
    (tmp_path / "photo" / ".DS_Store").write_bytes(b"")
    (tmp_path / "photo" / "Thumbs.db").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no picture")
    assert len(read_parts(tmp_path, KNOWN)[0]["photo"]) == 3
    for ending in ("jpg", "JPEG", "webp"):
        Image.fromarray(np.full((4, 6, 3), 128, np.uint8)).save(tmp_path / "photo" / f"c.{ending}", quality=100)
        Image.fromarray(SHADES[0]).save(tmp_path / "grey" / "c.png")
        assert abs(read_parts(tmp_path, KNOWN)[0]["photo"][3].astype(int) - 128).max() <= 2  # lossy
        (tmp_path / "photo" / f"c.{ending}").unlink()


def test_sixteen_bits_are_kept(tmp_path):
    deep = DRAWS.integers(0, 65536, (4, 6), dtype=np.uint16)
    folder(
        tmp_path,
        grey={"a.png": deep, "b.png": SHADES[0], "c.tif": deep},
        photo={"a.png": deep, "b.png": COLOURS[0], "c.tif": deep},
    )
    read, _ = read_parts(tmp_path, KNOWN)
    np.testing.assert_allclose(read["grey"][0, 0], deep / 65535, rtol=1e-6)
    np.testing.assert_allclose(read["grey"][1, 0], SHADES[0] / 255, rtol=1e-6)
    np.testing.assert_allclose(read["grey"][2], read["grey"][0])
    np.testing.assert_allclose(read["photo"][0], np.broadcast_to(deep / 65535, (3, 4, 6)), rtol=1e-6)


def test_a_declared_range_is_in_the_numbers_of_the_file(tmp_path):
    deep = DRAWS.integers(0, 4096, (4, 6), dtype=np.uint16)
    few, bits = SHADES[0] % 17, SHADES[0] > 127
    folder(tmp_path, grey={"a.png": deep, "b.png": few, "c.png": Image.fromarray(bits)})
    parts = {"grey": Picture("grey", (1, 4, 6), range=(0.0, 4095.0))}
    read, present = read_parts(tmp_path, parts)
    assert np.array_equal(read["grey"][:, 0], np.stack([deep, few, bits]))
    state = make_batch(parts, read, present).views["grey"]
    np.testing.assert_allclose(state[0, 0], deep / 4095 * 2 - 1, atol=1e-6)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
@pytest.mark.parametrize(("note", "undone"), [(2, 0), (3, 3), (4, 1), (5, 5), (6, 2), (7, 6), (8, 4)])
def test_pictures_are_turned_as_their_camera_noted(ending, note, undone, tmp_path):
    upright = np.zeros((8, 16), np.uint8)
    upright[:4, 8:] = 255
    exif = Image.Exif()
    exif[0x0112] = note
    stored = Image.fromarray(upright).transpose(Image.Transpose(undone))
    stored.save(tmp_path / f"grey.{ending}", exif=exif, **{"lossless": True} if ending == "webp" else {})
    read = read_parts(tmp_path, {"grey": Picture("grey", (1, 8, 16))})[0]["grey"]
    assert np.array_equal(read[0, 0] > 127, upright > 127)  # JPEG keeps 255 to within a few levels


def test_a_sideways_tiff_that_would_be_scrambled_is_refused(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(SHADES[0][:, :4]).save(tmp_path / "grey.tif", exif=exif)
    with pytest.raises(DataError, match=r"grey.tif: got an uncompressed TIFF that is turned sideways.*save it again"):
        read_parts(tmp_path, {"grey": Picture("grey", (1, 4, 4))})


def test_palettes_bits_and_colours_become_what_the_modality_has(tmp_path):
    colours = Image.fromarray(np.repeat(np.repeat(COLOURS[0][:2, :2], 2, 0), 3, 1))
    palette = colours.quantize(4)
    bits = Image.fromarray(SHADES[0] > 127)
    opaque = Image.fromarray(np.dstack([COLOURS[1], np.full((4, 6), 255, np.uint8)]))
    grey = Image.fromarray(COLOURS[0]).convert("L")
    folder(
        tmp_path,
        photo={"a.png": palette, "b.png": opaque, "c.png": SHADES[0]},
        grey={"a.png": bits, "b.png": COLOURS[0], "c.png": SHADES[0]},
    )
    read, _ = read_parts(tmp_path, KNOWN)
    assert np.array_equal(read["photo"][0], np.asarray(palette.convert("RGB")).transpose(2, 0, 1))
    assert np.array_equal(read["photo"][1], COLOURS[1].transpose(2, 0, 1))
    assert np.array_equal(read["photo"][2], np.stack([SHADES[0]] * 3))
    assert np.array_equal(read["grey"][0, 0], (SHADES[0] > 127) * 255)
    assert np.array_equal(read["grey"][1, 0], np.asarray(grey))


def test_transparency_is_kept_where_there_is_a_channel_for_it_and_refused_elsewhere(tmp_path):
    clear = np.dstack([COLOURS[0], np.full((4, 6), 255, np.uint8)])
    clear[0, 0, 3] = 0
    folder(tmp_path, photo={"a.png": clear})
    assert "transparent pixels, for 3 channels; lay it on a background" in refused_folder(tmp_path)
    four = {"photo": Picture("photo", (4, 4, 6))}
    assert np.array_equal(read_parts(tmp_path, four)[0]["photo"][0], clear.transpose(2, 0, 1))
    Image.fromarray(COLOURS[0]).save(tmp_path / "photo" / "a.png")
    with pytest.raises(DataError, match="no transparency, for 4 channels; pass an .npz instead"):
        read_parts(tmp_path, four)
    with pytest.raises(DataError, match=r"a picture of shape \(5, 4, 6\); pass an .npz instead"):
        read_parts(tmp_path, {"photo": Picture("photo", (5, 4, 6))})


def test_pictures_of_two_modalities_are_one_item_by_their_names(tmp_path):
    folder(tmp_path, photo={"a.png": COLOURS[0], "c.png": COLOURS[1]}, grey={"a.png": SHADES[0], "b.png": SHADES[1]})
    read, present = read_parts(tmp_path, KNOWN)
    assert present.tolist() == [[True, True, False], [False, True, False], [True, False, False]]
    assert np.array_equal(read["photo"][[0, 2]], COLOURS[:2].transpose(0, 3, 1, 2))
    assert np.array_equal(read["grey"][:2, 0], SHADES[:2])
    (tmp_path / "photo" / "a.png").rename(tmp_path / "photo" / "d.png")
    assert "got 'c' in photo and none in grey, expected the same names in both" in refused_folder(tmp_path)
    (tmp_path / "photo" / "d.png").rename(tmp_path / "photo" / "a.png")
    (tmp_path / "grey" / "b.png").rename(tmp_path / "grey" / "c.png")
    read, present = read_parts(tmp_path, KNOWN)
    assert len(read["grey"]) == 2
    assert present is None
    Image.fromarray(SHADES[0]).save(tmp_path / "grey" / "c.jpg")
    assert "got a second picture of the name 'c', as c.jpg; remove one" in refused_folder(tmp_path)


def test_one_file_a_modality_is_one_item(tmp_path):
    Image.fromarray(COLOURS[0]).save(tmp_path / "photo.PNG")
    Image.fromarray(SHADES[0]).save(tmp_path / "grey.bmp")
    read, _ = read_parts(tmp_path, KNOWN)
    assert {name: view.shape for name, view in read.items()} == {"photo": (1, 3, 4, 6), "grey": (1, 1, 4, 6)}
    folder(tmp_path, photo={"a.png": COLOURS[0]})
    assert "got two entries for modality 'photo'" in refused_folder(tmp_path)


def test_what_is_not_used_is_refused_with_the_nearest_name(tmp_path):
    folder(tmp_path, foto={"a.png": COLOURS[0]}, empty={})
    assert (
        "got no pictures, expected <name>.png or <name>/*.png for some of photo, grey, v. Did you mean 'photo'?"
        in refused_folder(tmp_path)
    )
    folder(tmp_path, grey={"a.png": SHADES[0]})
    assert "got pictures of 'foto', expected some of photo, grey, v. Did you mean 'photo'?" in refused_folder(tmp_path)
    (tmp_path / "foto").rename(tmp_path / "photo")
    for name, content in (("b.gif", b"GIF89a"), ("b.npy", b"")):
        (tmp_path / "photo" / name).write_bytes(content)
        assert f"{name}: got no picture, expected .png, .jpg" in refused_folder(tmp_path)
        (tmp_path / "photo" / name).unlink()
    (tmp_path / "photo" / "b.png").mkdir()
    assert "b.png: got no picture" in refused_folder(tmp_path)


def test_a_picture_that_does_not_fit_is_named_with_both_sizes(tmp_path):
    folder(tmp_path, photo={"a.png": COLOURS[0], "b.png": COLOURS[1].transpose(1, 0, 2)})
    said = refused_folder(tmp_path)
    assert said == (
        f"{tmp_path / 'photo' / 'b.png'}: got 4x6 pixels, expected 6x4 (width x height) as modality 'photo' has; "
        "resize it"
    )
    folder(tmp_path / "photo" / "..", v={"a.png": COLOURS[0]})
    (tmp_path / "photo" / "b.png").unlink()
    assert "got a picture for modality 'v', a vector of shape (2,); pass an .npz instead" in refused_folder(tmp_path)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)) + b"".join(chunks)
    )


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (png(20_000, 20_000, chunk(b"IDAT", zlib.compress(b"\0" * 1000))), "a.png: got "),
        (png(9_000, 10_000, chunk(b"IDAT", zlib.compress(b"\0" * 1000))), "a.png: got "),
        (png(5_000, 5_000, chunk(b"IDAT", b"")), "got 5000x5000 pixels, expected 6x4"),
        (png(6, 4, chunk(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * (1 << 26)))), "expected a readable picture"),
        (png(6, 4, chunk(b"IDAT", b"not compressed")), "expected a readable picture"),
        (png(6, 4), "expected a readable picture"),
        (b"\x89PNG\r\n\x1a\n", "expected a readable picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 4\n", "expected a readable picture"),
        (b"", "expected a readable picture"),
    ],
)
def test_pictures_made_to_do_damage_are_refused_by_their_headers(data, said, tmp_path):
    began = perf_counter()
    assert said in refused_folder(folder(tmp_path, grey={"a.png": data}))
    assert perf_counter() - began < 5


def test_several_pictures_in_one_file_are_refused(tmp_path):
    frames = [Image.fromarray(shades) for shades in SHADES]
    folder(tmp_path, grey={})
    frames[0].save(tmp_path / "grey" / "a.tif", save_all=True, append_images=frames[1:])
    assert "several pictures in one file" in refused_folder(tmp_path)


def test_nothing_outside_the_folder_is_read(tmp_path):
    inside, outside = tmp_path / "parts", tmp_path / "elsewhere"
    inside.mkdir()
    outside.mkdir()
    Image.fromarray(SHADES[0]).save(outside / "secret.png")
    Image.fromarray(SHADES[0]).save(tmp_path / "secret.png")
    for name in (str(outside / "secret"), "../secret", "../elsewhere", ".."):
        named = {name: Picture(name, (1, 4, 6))}
        with pytest.raises(DataError, match="got no pictures"):
            read_parts(inside, named)
    (inside / "grey").symlink_to(outside)
    assert "secret.png: got a link that leads outside" in refused_folder(inside)
    (inside / "grey").unlink()
    (inside / "grey").mkdir()
    (inside / "grey" / "a.png").symlink_to(outside / "secret.png")
    assert "a.png: got a link that leads outside" in refused_folder(inside)
    (inside / "grey" / "a.png").unlink()
    Image.fromarray(SHADES[1]).save(inside / "grey" / "b.png")
    (inside / "grey" / "a.png").symlink_to("b.png")  # inside is well
    assert np.array_equal(read_parts(inside, KNOWN)[0]["grey"], SHADES[[1, 1], None])
    (inside / "grey" / "c.png").symlink_to("c.png")
    assert "c.png: got no picture" in refused_folder(inside)


def test_what_cannot_be_read_is_said_with_the_way_out(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"got nowhere.txt, expected an .npz file, or a folder of PNG pictures"):
        read_parts("nowhere.txt", KNOWN)
    with pytest.raises(DataError, match=r"nowhere.npz: got no such file, expected an .npz; correct the path"):
        read_parts("nowhere.npz", KNOWN)
    folder(tmp_path, grey={"a.png": SHADES[0]})

    def denied(*arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.iterdir", denied)
    assert "got a folder that cannot be read ([Errno 13] Permission denied); make it readable" in refused_folder(
        tmp_path
    )


def test_a_folder_that_would_not_fit_into_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    folder(tmp_path, grey={"a.png": SHADES[0], "b.png": SHADES[1]})
    monkeypatch.setenv("MULTIEBM_MAX_BYTES", str(2 * 4 * 24 - 1))
    assert "got 192 bytes to unpack, expected at most 191; if it is what you think, set" in refused_folder(tmp_path)
    monkeypatch.setenv("MULTIEBM_MAX_BYTES", str(2 * 4 * 24))
    assert len(read_parts(tmp_path, KNOWN)[0]["grey"]) == 2


def test_a_name_that_leads_elsewhere_in_an_archive_is_no_part(tmp_path):
    with pytest.raises(ModalityError, match=r"got unknown modality '/etc/passwd', expected some of photo, grey, v"):
        from_npz(tmp_path, **{"/etc/passwd": VALUES})
    assert os.listdir(tmp_path) == ["parts.npz"]


@pytest.mark.parametrize("name", ["v.npz", "v.csv", "photo.gif"])
def test_a_file_of_a_modality_that_is_no_picture_is_not_passed_over(name, tmp_path):
    Image.fromarray(COLOURS[0]).save(tmp_path / "grey.png")
    (tmp_path / name).write_bytes(b"1,2")
    assert f"{name}: got a file that is no picture for modality {name[:-4]!r}" in refused_folder(tmp_path)
    assert "write all parts into one .npz" in refused_folder(tmp_path)


def test_other_files_beside_pictures_are_said_not_to_be_read(tmp_path, caplog):
    Image.fromarray(COLOURS[0]).save(tmp_path / "grey.png")
    (tmp_path / "notes.txt").write_text("taken in May")
    with caplog.at_level(logging.WARNING):
        assert list(read_parts(tmp_path, KNOWN)[0]) == ["grey"]
    assert "notes.txt: not read: it is no picture" in caplog.text


class Flat(Vector):
    """A kind whose states are vectors, and whose raw values are shown as pictures."""

    shows, raw_shape = "pictures", (3, 4, 6)


def test_files_are_read_as_raw_values_whatever_the_shape_of_the_states(tmp_path):
    kinds = {"flat": Flat("flat", (72,))}
    np.savez(tmp_path / "parts.npz", flat=COLOURS)
    assert np.array_equal(read_parts(tmp_path / "parts.npz", kinds)[0]["flat"], COLOURS.transpose(0, 3, 1, 2))
    folder = tmp_path / "folder"
    folder.mkdir()
    Image.fromarray(COLOURS[0]).save(folder / "flat.png")
    for states in (72, 3):
        views, _ = read_parts(folder, {"flat": Flat("flat", (states,))})
        assert np.array_equal(views["flat"], COLOURS[:1].transpose(0, 3, 1, 2))
