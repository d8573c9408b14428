"""Pictures with a table of more about them: a column names the files of rows, others are parts, said by name.

The files lie in the folder of the table, or in folders of parts, where one name is one item.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from multiebm.core.errors import ConfigError, DataError, ModalityError
from multiebm.core.table import nearest
from multiebm.data.caption_files import (
    CAPTION,
    TABLES_OF_CAPTIONS,
    Captioned,
    file_inside,
    like_named,
    named_columns,
)
from multiebm.data.columns import Columns, check_parts_said, columns_of, columns_of_parts
from multiebm.data.picture_files import ENDINGS
from multiebm.data.picture_folders import PICTURE, Files, folders_of_parts, pictures_in, read_part, read_rows
from multiebm.data.table_files import TABLES, read_table
from multiebm.modalities import Modality
from multiebm.modalities.tables import split_table

logger = logging.getLogger("multiebm")

_SHOWN = 5  # gaps named in a message


def find_table(folder: Path, parts: Columns | None, labels: str | None = None) -> Path | None:
    """Return the table in a folder that names pictures in a column (FILE_COLUMNS); None where there is none.

    One of captions is left to `find_captions`, unless it has other `parts` too or its pictures are in folders of parts.
    One of other columns is none where nothing says that these are wanted and several folders are parts. DataError for
    several tables.
    """
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    tables = [entry for entry in entries if entry.suffix.lower() in TABLES and entry.is_file()]
    found = [table for table in tables if _is_of_pictures(table, parts, labels)]
    if len(found) > 1:
        listed = ", ".join(table.name for table in found)
        raise DataError(f"{folder}: got {len(found)} tables of pictures ({listed}), expected one; move the others")
    return found[0] if found else None


def _is_of_pictures(table: Path, parts: Columns | None, labels: str | None) -> bool:
    named, folder = named_columns(table), table.parent
    if not named["file"] or parts or (labels and not named["caption"]):
        return named["file"] is not None
    if not named["caption"]:  # folders of parts go on without it
        return sum(entry.is_dir() and bool(pictures_in(entry)) for entry in folder.iterdir()) < 2
    if table.suffix.lower() not in TABLES_OF_CAPTIONS:
        return True
    return bool(_folders(folder)) and _in_folders(folder, _rows_of(table)[1])


def read_tabled(
    table: Path, parts: Columns | None, labels: str | None, missing: Literal["nan"] | None, declared: Any = None
) -> Captioned:
    """Return pictures [N, H, W, C] and columns [N, D] by part of a table's rows, captions too where it has such.

    Pictures in folders of parts are absent where a part has none of a row's name. A row of which no picture is there is
    refused with its name, unless `missing` says that parts may be. ConfigError where `parts` does not say which columns
    form which part.
    """
    folder, (frame, names) = table.parent, _rows_of(table)
    files = _files_by_part(folder, table, names)
    content = _columns_beside(table, frame, parts, labels, list(files))
    gaps = _gaps(folder, table, names, files)
    if len(gaps) == len(names):
        has = ", ".join(f"{part}/{min(of)}" for part, of in _folders(folder).items())
        raise DataError(
            f"{table}: got {gaps[0] if gaps else 'no rows'}, and so in all rows, expected names of pictures in {folder}"
            f"{f' or its folders ({has}, ...)' if has else ''}; correct its column of files"
        )
    if gaps and missing is None:
        more = f"; {len(gaps)} such rows in all" if len(gaps) > _SHOWN else ""
        raise DataError(
            f"{table}: got {'; '.join(gaps[:_SHOWN])}{more}, expected the picture of each row in {folder}; supply it, "
            "or train with --missing nan (missing='nan')"
        )
    pictures = dict[str, Any]()
    for part, of in files.items():
        pictures |= read_part(folder, part, of, missing, declared)
    items = names if list(files) == [PICTURE] else map(name_of, names)
    return Captioned(pictures | content, [item or None for item in items])


def tabled_parts(table: Path, modalities: Mapping[str, Modality]) -> tuple[dict[str, Any], Tensor]:
    """Return pictures and columns of a table's rows to use a model on, and which are there, bool [N, M]."""
    folder, (frame, names) = table.parent, _rows_of(table)
    shown = [name for name, m in modalities.items() if m.shows == "pictures"]
    files = _files_by_part(folder, table, names)
    if list(files) == [PICTURE] and len(shown) == 1:  # whatever the one part of pictures is called
        files = {shown[0]: files[PICTURE]}
    if unknown := [part for part in files if part not in shown]:
        raise ModalityError(
            f"{folder}: got pictures of {unknown[0]!r}, expected some of {', '.join(shown)}, a folder for each."
            f"{nearest(unknown[0], shown)} Rename or remove them"
        )
    _gaps(folder, table, names, files)
    caption = named_columns(table)["caption"]
    if CAPTION in modalities and caption and caption not in modalities[CAPTION].handed_columns:
        frame = frame.rename(columns={caption: modalities[CAPTION].handed_columns[0]})
    others = {name: m for name, m in modalities.items() if name not in shown}
    columns, there = dict[str, Any](), np.zeros((len(names), len(others)), bool)
    if others and frame.shape[1]:
        columns, there = split_table(frame, others, str(table))
    present = dict(zip(others, there.T, strict=True))
    for part in shown:
        of = files.get(part, [None] * len(names))
        present[part] = np.array([file is not None for file in of], bool)
        if present[part].any():
            columns[part] = read_rows(folder, of, modalities[part])
    there = np.stack([present[name] for name in modalities], 1)
    return {name: columns[name] for name in modalities if name in columns}, torch.from_numpy(there)


def _rows_of(table: Path) -> tuple[Any, list[str]]:
    """Return the columns of a table but for that of files, a row for each caption, and the names of files by row."""
    named = named_columns(table)
    frame = read_table(table, texts=[named["file"]])
    if (caption := named["caption"]) and any(isinstance(of, list) for of in frame[caption]):  # as JSON has several
        frame = frame.explode(caption, ignore_index=True)
    return frame.drop(columns=[named["file"]]), _names_of(frame[named["file"]])


def _names_of(cells: Any) -> list[str]:
    """Return the names of files in a column, empty where there is none; folders end in /."""
    whole = (str(int(cell)) if isinstance(cell, float) and cell.is_integer() else cell for cell in cells)
    return ["" if cell is None or cell != cell else str(cell).strip().replace("\\", "/") for cell in whole]


def name_of(file: str) -> str:
    """Return the name of an item that a cell names: that of its file, without folders and the ending of a picture."""
    path = PurePosixPath(file)
    return path.stem if path.suffix.lower() in ENDINGS else path.name


def _folders(folder: Path) -> dict[str, set[str]]:
    """Return the names of the pictures in each folder of pictures in a folder."""
    inside = (entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return {entry.name: {file.stem for file in of} for entry in inside if (of := pictures_in(entry))}


def _in_folders(folder: Path, names: Sequence[str]) -> bool:
    """Return whether names are those of pictures in folders of parts: as they are no files from the folder itself, or
    are all in one folder of it and others have pictures of the same names.
    """
    places = {PurePosixPath(name).parent.as_posix() for name in names if name and (folder / name).is_file()}
    known = {name_of(name) for name in names if name}
    having = {part for part, stems in _folders(folder).items() if stems & known}
    return bool(having - places) if len(places) == 1 and places <= having else not places and bool(having)


def _files_by_part(folder: Path, table: Path, names: Sequence[str]) -> dict[str, Files]:
    """Return the picture of each row by part, None where there is none: of folders of parts by name, else of PICTURE as
    the table names it. It says which pictures are in no row; DataError for a part of which all are.
    """
    if not _in_folders(folder, names):
        found, beside = list[Path | None](), {file.stem: file for file in pictures_in(folder)}
        for row, name in enumerate(names):
            is_file = PurePosixPath(name).suffix.lower() in ENDINGS
            file = file_inside(folder, name, f"{table}, row {row}") if is_file else beside.get(name)
            found.append(file if file and file.is_file() else None)
        used = set(found)
        every = [of for at in dict.fromkeys([folder, *(of.parent for of in found if of)]) for of in pictures_in(at)]
        _say_unused(table, [file for file in every if file not in used])
        return {PICTURE: found}
    parts = folders_of_parts(folder)
    items = [name_of(name) if name and PurePosixPath(name).parent.as_posix() in (".", *parts) else "" for name in names]
    for part, of in parts.items():
        if not of.keys() & set(items):
            raise DataError(
                f"{folder / part}: got {len(of)} pictures, first {next(iter(of.values())).name!r}, of which no row of "
                f"{table.name} names one, expected some of its names, such as {next(filter(None, names))!r}; rename "
                "them, or move the folder away"
            )
    _say_unused(table, [file for of in parts.values() for name, file in of.items() if name not in items])
    return {part: [of.get(item) for item in items] for part, of in parts.items()}


def _say_unused(table: Path, files: Sequence[Path]) -> None:
    if files:
        logger.warning("%s: %d pictures are in no row and are not read, such as %s", table, len(files), files[0].name)


def _gaps(folder: Path, table: Path, names: Sequence[str], files: Mapping[str, Files]) -> list[str]:
    """Return what is wrong with rows of which no picture is there; it says how many of a part others lack."""
    known = set() if list(files) == [PICTURE] else {file.stem for of in files.values() for file in of if file}
    gaps = list[str]()
    for row, (name, *of) in enumerate(zip(names, *files.values(), strict=True)):
        if not any(of):
            near = nearest(name_of(name), sorted(known)) if known else like_named(folder, folder / name)
            hint = f" ({near.strip()})" if known and near else near
            gaps.append(f"no picture {name!r} in row {row}{hint}" if name else f"none in row {row}")
    if len(files) > 1:
        for part, rows in files.items():
            lacking = [row for row, file in enumerate(rows) if file is None and names[row]]
            if lacking:
                row = lacking[0]
                logger.warning(
                    "%s: %d of %d rows have no picture in %s, such as %r in row %d",
                    *(table, len(lacking), len(rows), part, names[row], row),
                )
    return gaps


def _columns_beside(
    table: Path, frame: Any, parts: Columns | None, labels: str | None, pictures: Sequence[str]
) -> dict[str, Any]:
    """Return the parts of the columns beside pictures, and labels; captions are one where nothing else is said."""
    caption, are = named_columns(table)["caption"], "are the part" if len(pictures) == 1 else "are the parts"
    what = f"{table} (its pictures {are} {', '.join(map(repr, pictures))})"
    if parts:
        check_parts_said(parts, str(table))
        if taken := [part for part in parts if part in pictures]:
            raise ConfigError(f"{table}: got columns of part {taken[0]!r}, which the pictures are; give another name")
    said = {name for of in (parts or {}).values() for name in ([of] if isinstance(of, str | int) else of)}
    if (file := named_columns(table)["file"]) in said:
        raise ConfigError(
            f"{what}: got its column of files {file!r} for a part, expected columns beside it; leave that part out, or "
            f"to give the pictures another name pass the table itself, {table}"
        )
    if caption and CAPTION not in (parts or {}) and caption not in said:
        parts = {CAPTION: caption, **(parts or {})}
    if parts or not (labels or frame.shape[1] == 0):
        return columns_of(frame, parts, labels, what)
    at = columns_of_parts([str(name) for name in frame.columns], {"labels": labels}, what) if labels else {}
    return {"labels": frame.iloc[:, at["labels"][0]]} if labels else {}
