"""A folder of pictures with a table of more about them: a column names the files, others are parts, said by name."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from multiebm.core.errors import ConfigError, DataError
from multiebm.core.names import MASK
from multiebm.data.caption_files import (
    CAPTION,
    PICTURE,
    Captioned,
    CaptionedFolder,
    Pair,
    file_inside,
    like_named,
    named_columns,
    pictures_in,
)
from multiebm.data.columns import Columns, check_parts_said, columns_of
from multiebm.data.picture_files import read_shape
from multiebm.modalities import Modality, Picture
from multiebm.modalities.picture import check_size
from multiebm.modalities.tables import split_table

logger = logging.getLogger("multiebm")

_TABLES = (".csv", ".tsv")
_SHOWN = 5  # gaps named in a message


def find_table(folder: Path, parts: Columns | None) -> Path | None:
    """Return the table in a folder that names pictures: with a column of files, and others than captions, or `parts`.

    None where there is none, or where several folders in it are parts and no columns are; DataError for several tables.
    """
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    columns = {entry: named_columns(entry) for entry in entries if entry.suffix.lower() in _TABLES and entry.is_file()}
    found = [table for table, of in columns.items() if of["file"] and (parts or not of["caption"])]
    if not found or (not parts and sum(entry.is_dir() and bool(pictures_in(entry)) for entry in entries) > 1):
        return None
    if len(found) > 1:
        listed = ", ".join(table.name for table in found)
        raise DataError(f"{folder}: got {len(found)} tables of pictures ({listed}), expected one; move the others")
    return found[0]


def read_tabled(
    table: Path, frame: Any, parts: Columns | None, labels: str | None, missing: Literal["nan"] | None
) -> Captioned:
    """Return pictures [N, H, W, C] and columns [N, D] by part of a table's rows, captions too where it has such.

    A row whose picture is not there is refused with its name, unless `missing` says that parts may be. ConfigError
    where `parts` does not say which columns form which part.
    """
    folder, named = table.parent, named_columns(table)
    rest = frame.drop(columns=[named["file"]])
    if parts:
        check_parts_said(parts, str(table))
        if PICTURE in parts:
            raise ConfigError(f"{table}: got columns of part {PICTURE!r}, which the pictures are; give another name")
        said = {name for of in parts.values() for name in ([of] if isinstance(of, str | int) else of)}
        if named["caption"] and CAPTION not in parts and named["caption"] not in said:
            parts = {CAPTION: named["caption"], **parts}
    content = columns_of(rest, parts, labels, f"{table} (its pictures are the part {PICTURE!r})")
    both, gaps = _rows(folder, table, frame[named["file"]])
    if gaps and missing is None:
        more = f"; {len(gaps)} such rows in all" if len(gaps) > _SHOWN else ""
        raise DataError(
            f"{table}: got {'; '.join(gaps[:_SHOWN])}{more}, expected the picture of each row in {folder}; supply it, "
            "or train with --missing nan (missing='nan')"
        )
    files = list(dict.fromkeys(pair.file for pair in both.pairs if pair.file is not None))
    if not files:
        raise DataError(f"{table}: got {gaps[0]}, expected pictures in {folder} by its column {named['file']!r}")
    shape = read_shape(files)
    check_size(shape, f"{folder}, modality {PICTURE!r}")
    pictures, there = both.pictures(files, Picture(PICTURE, shape)), both.presence()[PICTURE]
    mask = {} if there.all() else {MASK + PICTURE: there}
    place = {file: i for i, file in enumerate(files)}
    of_rows = [len(files) + i if pair.file is None else place[pair.file] for i, pair in enumerate(both.pairs)]
    return Captioned({PICTURE: pictures.transpose(0, 2, 3, 1), **content, **mask}, np.array(of_rows))


def tabled_parts(table: Path, frame: Any, modalities: Mapping[str, Modality]) -> tuple[dict[str, Any], Tensor]:
    """Return pictures and columns of a table's rows to use a model on, and which are there, bool [N, M]."""
    both, _ = _rows(table.parent, table, frame[file := named_columns(table)["file"]])
    files = list(dict.fromkeys(pair.file for pair in both.pairs if pair.file is not None))
    others = {name: m for name, m in modalities.items() if name != PICTURE}
    columns, there = split_table(frame.drop(columns=[file]), others, str(table))
    present = {PICTURE: both.presence()[PICTURE], **dict(zip(others, there.T, strict=True))}
    pictures = {PICTURE: both.pictures(files, modalities[PICTURE])} if files else {}
    return pictures | columns, torch.from_numpy(np.stack([present[name] for name in modalities], 1))


def _rows(folder: Path, table: Path, names: Any) -> tuple[CaptionedFolder, list[str]]:
    """Return the pictures that rows of a table name, and what is wrong with rows whose picture is not there."""
    pairs, gaps = list[Pair](), list[str]()
    for row, name in enumerate(names):
        file = file_inside(folder, name.strip(), f"{table}, row {row}") if isinstance(name, str) and name else None
        there = file is not None and file.is_file()
        pairs.append(Pair(file if there else None, None, ""))
        if not there:
            gaps.append(f"no picture {name!r} in row {row}{like_named(folder, file)}" if file else f"none in row {row}")
    used = {pair.file for pair in pairs}
    if others := [of for at in {folder, *(f.parent for f in used if f)} for of in pictures_in(at) if of not in used]:
        logger.warning("%s: %d pictures are in no row and are not read, such as %s", table, len(others), others[0].name)
    return CaptionedFolder(folder, pairs), gaps
