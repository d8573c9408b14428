"""PolyMNIST's official layout: `{train,test}/m0..m4/{i}.{digit}.png`."""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multiebm.core.errors import DataError
from multiebm.data.parts import opened_picture
from multiebm.data.recipe import NAMES, Pixels

_FILE = re.compile(r"(\d+)\.(\d)\.png")
Keys = dict[tuple[int, int], str]


def folder_identity(folder: Path) -> str:
    """Return the sha256 of all file names and sizes; pictures edited in place at the same size go unnoticed."""
    digest = hashlib.sha256()
    for split in ("train", "test"):
        for name in NAMES:
            files = sorted((entry.name, entry.stat().st_size) for entry in _entries(folder / split / name))
            digest.update(repr((split, name, files)).encode())
    return digest.hexdigest()


def folder_pictures(folder: Path, side: int) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield ("labels", int64 [N]), then (modality, uint8 [N, 3, side, side]) of one split, rows sorted by (i, digit).

    DataError when a modality lacks a file that m0 has (or has one more), or a file is not such a picture.
    """
    keys = {name: _keys(folder / name) for name in NAMES}
    rows = sorted(keys[NAMES[0]])
    for name in NAMES[1:]:
        if odd := sorted(set(rows) ^ set(keys[name])):
            where = (NAMES[0], name) if odd[0] in keys[name] else (name, NAMES[0])
            raise DataError(
                f"{folder}: got no file {odd[0][0]}.{odd[0][1]}.png in {where[0]}, expected one as in {where[1]} "
                f"({len(odd)} such files); unpack the archive again"
            )
    yield "labels", np.array([digit for _, digit in rows], dtype=np.int64)
    for name in NAMES:
        pictures = np.empty((len(rows), 3, side, side), dtype=np.uint8)
        for i, key in enumerate(rows):
            pictures[i] = read_picture(folder / name / keys[name][key], side)
        yield name, pictures


def read_picture(path: Path, side: int) -> Pixels:
    """Return one RGB picture as uint8 of shape [3, side, side]; DataError when damaged or of another size or mode."""
    with opened_picture(path, "expected a PNG picture; unpack the archive again") as picture:
        if picture.size != (side, side) or picture.mode != "RGB":
            raise DataError(
                f"{path}: got {picture.width}x{picture.height} pixels of mode {picture.mode}, expected an 8-bit RGB "
                f"picture of {side}x{side} pixels; point to the original PolyMNIST folder"
            )
        return np.array(picture).transpose(2, 0, 1)


def _keys(folder: Path) -> Keys:
    keys = {}
    for entry in _entries(folder):
        match = _FILE.fullmatch(entry.name)
        if match is None:
            raise DataError(f"{folder}: got file {entry.name}, expected names {{i}}.{{digit}}.png only; remove it")
        keys[int(match[1]), int(match[2])] = entry.name
    return keys


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    if not folder.is_dir():
        raise DataError(
            f"polymnist: got no folder {folder}, expected {{train,test}}/m0..m4 below the setting `folder`; "
            f"unpack the official archive there, or build the data with mnist_folder and backgrounds_folder"
        )
    entries = [entry for entry in os.scandir(folder) if entry.name.endswith(".png")]
    if not entries:
        raise DataError(f"{folder}: got no .png file, expected pictures {{i}}.{{digit}}.png; unpack the archive again")
    return entries
