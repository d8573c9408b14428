"""Parts to use a model on, read from files: an .npz archive, or a folder of pictures by modality."""

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from multiebm.core.errors import DataError, ModalityError
from multiebm.core.handed import Array, check_lengths, read_present
from multiebm.core.names import BESIDE, MASK, TEST
from multiebm.core.table import nearest
from multiebm.data.npz import BROKEN, check_bytes, expanded, read_npz, sorted_content
from multiebm.modalities import Modality
from multiebm.modalities.base import PictureLike

logger = logging.getLogger(__name__)

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")  # in small letters; a file's may be in capitals
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")  # nothing else is tried: some readers start other programs
_IGNORED = ("thumbs.db", "desktop.ini")
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # how a picture file holds so many channels
_EIGHT_BITS = ("1", "L", "P", "LA", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def read_parts(path: str | Path, modalities: Mapping[str, Modality]) -> tuple[dict[str, Any], Tensor | None]:
    """Return the raw views [B, ...] of a file or folder by modality and, if it has one, the presence mask bool [B, M].

    An .npz holds an array per modality (channels of pictures first or last), and perhaps `present` [B, M] or
    `present_<modality>` [B]; its `labels` and, beside rows without that prefix, its `test_...` are left aside. A folder
    holds `<modality>.png`, or pictures `<modality>/*.png` (or another of PICTURES) in the order of their names without
    ending, the same names for every modality. DataError for anything else.
    """
    path = expanded(path)
    if os.path.isdir(path):
        try:
            return read_pictures(path, modalities), None
        except OSError as error:
            raise DataError(f"{path}: got a folder that cannot be read ({error}); make it readable") from error
    if path.suffix.lower() != ".npz":
        raise DataError(f"--parts: got {path}, expected an .npz file, or a folder of PNG pictures by modality")
    content = sorted_content(_training_rows(read_npz(path), modalities, path), str(path))
    for name in content.views:
        if name not in modalities:
            known = [*modalities, *BESIDE, *(f"{MASK}{known}" for known in modalities)]
            raise ModalityError(
                f"{path}: got an array {name!r}, expected some of {', '.join(modalities)}.{nearest(name, known)} "
                "Rename or remove it"
            )
    if not content.views:
        raise ModalityError(f"{path}: got no part, expected an array for at least one of {', '.join(modalities)}")
    n = check_lengths(content.views, str(path))
    present = None if content.present is None else read_present(content.present, list(modalities), n, str(path))
    views = {name: _channels_first(array, modalities[name]) for name, array in content.views.items()}
    return views, None if present is None else torch.from_numpy(present)


def read_pictures(folder: Path, modalities: Mapping[str, Modality]) -> dict[str, NDArray[Any]]:
    """Return the pictures [B, C, H, W] of a folder by modality, uint8, or floats in [0, 1] where a file has more bits.

    Where the modality declares the range of its values, grey pictures are the numbers in the file, and bits 0 and 1.
    Colours become grey, and grey colours, as the modality has it; transparency is refused unless it has a channel for
    it. DataError names the file that is no picture, has another size, lies outside `folder`, or has no counterpart.
    """
    found: dict[str, list[Path]] = {}
    unknown: list[str] = []
    for entry in _listed(folder):
        is_dir = entry.is_dir()
        name = entry.name if is_dir else entry.stem
        if not is_dir and entry.suffix.lower() not in PICTURES:
            _refuse_other(entry, modalities)
            continue
        files = _listed(entry) if is_dir else [entry]
        if name not in modalities:
            unknown += [name] if any(file.suffix.lower() in PICTURES for file in files) else []
        elif name in found:
            raise DataError(f"{entry}: got two entries for modality {name!r}, expected one file or folder; remove one")
        else:
            found[name] = _checked(files, folder)
    hint = nearest(unknown[0], list(modalities)) if unknown else ""
    found = {name: files for name, files in found.items() if files}
    if not found:
        raise DataError(
            f"{folder}: got no pictures, expected <name>.png or <name>/*.png for some of {', '.join(modalities)}.{hint}"
        )
    if unknown:
        raise ModalityError(
            f"{folder}: got pictures of {unknown[0]!r}, expected some of {', '.join(modalities)}.{hint} Rename or "
            "remove them"
        )
    _check_counterparts(folder, found)
    check_bytes(folder, sum(4 * len(files) * modalities[name].size for name, files in found.items()))
    return {
        name: _stacked([_read_picture(file, modalities[name]) for file in found[name]], _as_stored(modalities[name]))
        for name in modalities
        if name in found
    }


def _refuse_other(entry: Path, modalities: Mapping[str, Modality]) -> None:
    """Refuse a file that is no picture but has a modality's name; say that any other is not read."""
    if entry.stem in modalities:
        raise DataError(
            f"{entry}: got a file that is no picture for modality {entry.stem!r}, and a folder holds pictures alone; "
            "write all parts into one .npz by numpy.savez"
        )
    logger.warning("%s: not read: it is no picture", entry)


def _training_rows(arrays: dict[str, Array], modalities: Mapping[str, Modality], path: Path) -> dict[str, Array]:
    """Leave the test split of a file aside, and say so; DataError where nothing else is in it."""
    held_out = [key for key in arrays if key.startswith(TEST) and key not in modalities]
    rest = {key: value for key, value in arrays.items() if key not in held_out}
    if held_out and not any(key in modalities for key in rest):
        raise DataError(f"{path}: got {held_out[0]} and no rows without {TEST}; rename its arrays to the modalities")
    if held_out:
        logger.warning("%s: %s are left aside; the rows without %s are used", path, ", ".join(held_out), TEST)
    return rest


def _channels_first(array: Array, modality: Modality) -> Array:
    """Return pictures [B, H, W, C] of this modality as [B, C, H, W], and anything else as it is."""
    if modality.shows != "pictures" or array.shape[1:] == modality.shape:
        return array
    channels, *size = modality.shape
    return np.moveaxis(array, -1, 1) if array.shape[1:] == (*size, channels) else array


def _listed(folder: Path) -> list[Path]:
    """Return what is in `folder`, in the order of names without ending; hidden files are left out."""
    entries = [e for e in folder.iterdir() if not e.name.startswith(".") and e.name.lower() not in _IGNORED]
    return sorted(entries, key=lambda entry: (entry.stem, entry.suffix))


def _checked(files: list[Path], root: Path) -> list[Path]:
    """Return the files of one modality; DataError unless all are pictures inside `root`, one for each name."""
    inside, before = root.resolve(), None
    for file in files:
        if file.suffix.lower() not in PICTURES or not file.is_file():
            raise DataError(f"{file}: got no picture, expected {', '.join(PICTURES)} only; remove or convert it")
        if before is not None and before.stem == file.stem:
            raise DataError(f"{file}: got a second picture of the name {file.stem!r}, as {before.name}; remove one")
        if not file.resolve().is_relative_to(inside):
            raise DataError(f"{file}: got a link that leads outside {root}, expected a picture; copy it there")
        before = file
    return files


def _check_counterparts(folder: Path, found: Mapping[str, list[Path]]) -> None:
    """Raise DataError unless the pictures of all modalities have the same names: they are what makes them one item."""
    names = {name: [file.stem for file in files] for name, files in found.items() if files[0].parent != folder}
    first = next(iter(names), "")
    for name, stems in names.items():
        if odd := sorted(set(stems) ^ set(names[first])):
            has, lacks = (name, first) if odd[0] in stems else (first, name)
            raise DataError(
                f"{folder}: got {odd[0]!r} in {has} and none in {lacks}, expected the same names in both, by which "
                f"pictures are one item ({len(odd)} such names); rename or remove it"
            )
    check_lengths({name: np.empty(len(files)) for name, files in found.items()}, str(folder))


def _as_stored(modality: Modality) -> bool:
    """Return whether the numbers in a file are wanted as they are: where the range of values was declared."""
    return modality.shows == "pictures" and cast(PictureLike, modality).range is not None


def _read_picture(file: Path, modality: Modality) -> NDArray[Any]:
    if modality.shows != "pictures" or modality.shape[0] not in _MODES:
        raise DataError(
            f"{file}: got a picture for modality {modality.name!r}, a {modality.kind} of shape {modality.shape}; pass "
            "an .npz instead"
        )
    channels, height, width = modality.shape
    with opened_picture(file, "expected a readable picture; save it again") as picture:
        if sorted(picture.size) == sorted((width, height)):  # from the header; before, nothing is decoded
            _turn_upright(picture)
        if picture.size != (width, height):
            raise DataError(
                f"{file}: got {picture.width}x{picture.height} pixels, expected {width}x{height} (width x height) as "
                f"modality {modality.name!r} has; resize it"
            )
        if getattr(picture, "n_frames", 1) > 1:
            raise ValueError("several pictures in one file")
        values = _pixels(picture, channels, _as_stored(modality))
        return values.reshape(height, width, channels).transpose(2, 0, 1)


def _turn_upright(picture: Image.Image) -> None:
    """Turn a picture as its camera noted (EXIF), as viewers do; ValueError where Pillow would mix its pixels up."""
    raw_tiff = picture.format == "TIFF" and picture.info.get("compression") == "raw"
    if raw_tiff and picture.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8):
        raise ValueError("an uncompressed TIFF that is turned sideways")
    ImageOps.exif_transpose(picture, in_place=True)


@contextmanager
def opened_picture(file: Path, fix: str) -> Iterator[Image.Image]:
    """Give a picture of which only the header is read yet; DataError with `fix` for all that goes wrong inside."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd notes inside a file
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=_FORMATS) as picture:
                yield picture
    except (OSError, Image.DecompressionBombWarning, Image.DecompressionBombError, *BROKEN) as error:
        raise DataError(f"{file}: got {error or type(error).__name__}, {fix}") from error


def _pixels(picture: Image.Image, channels: int, as_stored: bool) -> NDArray[Any]:
    """Return values [H, W, channels] (or [H, W] for one): uint8, or floats in [0, 1] of a picture of 16 or 32 bits.

    `as_stored`: the numbers of grey pictures as they are in the file, for a modality that declares their range.
    """
    mode = picture.mode
    if mode.startswith("I;16") or mode == "F" or (mode == "I" and picture.format == "PNG"):
        if channels not in (1, 3):
            raise ValueError(f"grey without transparency, for {channels} channels")
        values = np.asarray(picture).astype(np.float32)
        grey = values if mode == "F" or as_stored else values / 65535
        return np.repeat(grey[..., None], channels, axis=2)
    if as_stored and mode == "1" and channels == 1:
        return np.asarray(picture).astype(np.uint8)
    if mode not in _EIGHT_BITS:
        raise ValueError(f"pixels of mode {mode}")
    has_alpha = mode in ("LA", "PA", "RGBA") or "transparency" in picture.info
    if has_alpha:
        picture = picture.convert("RGBA")
    if channels in (2, 4) and not has_alpha:
        raise ValueError(f"no transparency, for {channels} channels; pass an .npz instead")
    if channels in (1, 3) and has_alpha and picture.getchannel("A").getextrema() != (255, 255):
        raise ValueError(f"transparent pixels, for {channels} channels; lay it on a background")
    return np.array(picture.convert(_MODES[channels]))


def _stacked(pictures: list[NDArray[Any]], as_stored: bool) -> NDArray[Any]:
    """Return one array of pictures; where some are floats in [0, 1], those of 8 bits become so too."""
    if not as_stored and any(picture.dtype != np.uint8 for picture in pictures):
        pictures = [p.astype(np.float32) / 255 if p.dtype == np.uint8 else p for p in pictures]
    return np.stack(pictures)
