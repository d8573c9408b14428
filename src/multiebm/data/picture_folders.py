"""Folders of pictures: one for each part, in which files of one name are one item; and pictures by row."""

import logging
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np

from multiebm.core.errors import ConfigError, DataError
from multiebm.core.handed import SHOWN, Array
from multiebm.core.names import MASK
from multiebm.data.npz import check_bytes
from multiebm.data.picture_files import ENDINGS, read_pictures, read_shape
from multiebm.modalities import Modality, Picture
from multiebm.modalities.picture_sizes import check_size, size_of
from multiebm.modalities.ranges import range_problem

logger = logging.getLogger("multiebm")

PICTURE = "picture"  # the part of pictures that lie in a folder itself
Files = Sequence[Path | None]  # the picture of each row, None where it has none


def pictures_in(folder: Path) -> list[Path]:
    """Return the pictures in a folder itself, by name."""
    files = (file for file in folder.iterdir() if not file.name.startswith(".") and file.suffix.lower() in ENDINGS)
    return sorted(file for file in files if file.is_file())


def folders_of_parts(folder: Path) -> dict[str, dict[str, Path]]:
    """Return the pictures of each part, a folder in `folder`, by their names without ending.

    Other entries of such a folder are said; DataError for two pictures of one name, and where there is no picture.
    """
    named: dict[str, dict[str, Path]] = {}
    for part in sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        files = sorted(file for file in part.iterdir() if not file.name.startswith("."))
        pictures = {file.stem: file for file in files if file.suffix.lower() in ENDINGS}
        if len(pictures) < sum(file.suffix.lower() in ENDINGS for file in files):
            names = [file.stem for file in files if file.suffix.lower() in ENDINGS]
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f"{part}: got two pictures called {twice!r}, expected one; remove one of them")
        others = [file.name for file in files if file.suffix.lower() not in ENDINGS]
        if others and not pictures:
            raise DataError(
                f"{part}: got {len(others)} entries, first {others[0]!r}, and no picture, expected pictures "
                f"({', '.join(ENDINGS)}) in the folder of a part itself; convert or move them, or remove the folder"
            )
        if others:
            logger.warning("%s: %d entries are no pictures and are not read, first %s", part, len(others), others[0])
        if pictures:
            named[part.name] = pictures
        else:
            logger.warning("%s: an empty folder, which is no part", part)
    return named


def read_folder(folder: Path, missing: Literal["nan"] | None = None, declared: Any = None) -> dict[str, Any]:
    """Return pictures [N, H, W, C] by part of a folder with a folder of pictures for each, matched by file name.

    A part is absent where it has no picture of a name. All pictures of a part have one size: DataError names the first
    that has another. Colour and transparency are those of most of its pictures.
    """
    named = folders_of_parts(folder)
    if not named:
        raise DataError(
            f"{folder}: got no folders of pictures, expected one for each part ({', '.join(ENDINGS)}), with the same "
            "file names where they are one item; or pictures with captions: a table of both with the columns file "
            "and caption, or name.txt beside name.png; or pictures with numbers: a table with the column file, and "
            f"--part NAME=COLUMN,COLUMN (parts={{'name': [columns]}}){_alone(folder)}"
        )
    if loose := sorted(entry.name for entry in folder.iterdir() if not entry.is_dir() and entry.name[0] != "."):
        logger.warning("%s: %d files are in no folder of a part and are not read: %s", folder, len(loose), loose[0])
    names = sorted({name for pictures in named.values() for name in pictures})
    found: dict[str, Any] = {}
    for part, pictures in named.items():
        found |= read_part(folder, part, [pictures.get(name) for name in names], missing, declared)
    if not any(len(pictures) == len(names) for pictures in named.values()):
        logger.warning("%s: no part has a picture of all %d names: %s", folder, len(names), ", ".join(named))
    return found


def read_part(
    folder: Path,
    part: str,
    files: Files,
    missing: Literal["nan"] | None = None,
    declared: Any = None,
    channels: int | None = None,
) -> dict[str, Any]:
    """Return the pictures of a part by row [N, H, W, C], and where some rows have none a mask, bool [N].

    There is at least one. They have the shape that `read_shape` tells, of the size that the part's declaration among
    `declared` says, and as many `channels` as are asked for. One that cannot be read is refused, or said and missing
    where parts may be `missing`.
    """
    broken: dict[Path, str] | None = {} if missing else None
    of = declared.get(part) if isinstance(declared, Mapping) else None
    size = size_of(of, f"modality {part!r}, size")
    shape = read_shape(list(dict.fromkeys(file for file in files if file is not None)), part, size, broken)
    shape = (channels or shape[0], *shape[1:])
    check_size(shape, f"{folder}, modality {part!r}")
    span = of.get("range") if isinstance(of, Mapping) else None
    if span is not None and (problem := range_problem(span)):
        raise ConfigError(f"modality {part!r}, range: {problem}")
    as_declared = Picture(part, shape, None if span is None else tuple(span), scaled=size is not None)
    values = read_rows(folder, files, as_declared, broken).transpose(0, 2, 3, 1)
    if broken:
        told = "; ".join(list(broken.values())[:SHOWN])
        logger.warning("%s: %d pictures cannot be read and are missing: %s", folder, len(broken), told)
    there = np.array([file is not None and file not in (broken or {}) for file in files], bool)
    if broken and not there.any():
        raise DataError(f"{next(iter(broken.values()))}; so are all {len(broken)} pictures of part {part!r}")
    return {part: values} | ({} if there.all() else {MASK + part: there})


def read_rows(folder: Path, files: Files, modality: Modality, broken: dict[Path, str] | None = None) -> Array:
    """Return the pictures of rows [N, C, H, W] as the modality has them, each file read once, 0 where a row has none.

    There is at least one. Those that cannot be read are put into `broken`; else DataError names the first.
    """
    distinct = list(dict.fromkeys(file for file in files if file is not None))
    as_rows = len(distinct) == len(files)
    check_bytes(folder, 4 * (len(distinct) + (0 if as_rows else len(files))) * prod(modality.raw_shape))
    values = read_pictures(distinct, modality, broken)
    if as_rows:
        return values
    place, whole = {file: i for i, file in enumerate(distinct)}, np.zeros((len(files), *values.shape[1:]), values.dtype)
    for row, file in enumerate(files):
        if file is not None:
            whole[row] = values[place[file]]
    return whole


def _alone(folder: Path) -> str:
    """Return what to do with pictures that lie in a folder itself, without anything beside them."""
    n = len(pictures_in(folder))
    return f". Its {n} pictures are in no such folder: move them into {folder / PICTURE}" if n else ""
