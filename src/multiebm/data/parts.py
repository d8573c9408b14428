"""Parts to use a model on, read from files: an .npz archive, a table, or a folder of pictures by modality."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from multiebm.core.errors import DataError, ModalityError
from multiebm.core.frames import as_known, column_names
from multiebm.core.handed import Array, check_lengths, read_arrays
from multiebm.core.names import BESIDE, MASK, TEST
from multiebm.core.presence import read_present
from multiebm.core.table import nearest
from multiebm.data.arrays import rows_of
from multiebm.data.caption_files import CAPTION, CaptionedFolder, find_captions
from multiebm.data.named_pictures import pictures_named
from multiebm.data.npz import expanded, read_npz
from multiebm.data.picture_files import ENDINGS, read_pictures
from multiebm.data.picture_folders import PICTURE, read_rows
from multiebm.data.picture_tables import find_table, tabled_parts
from multiebm.data.table_files import FIXES, TABLES, read_table
from multiebm.modalities import Modality
from multiebm.modalities.tables import forms_of, split_table

logger = logging.getLogger(__name__)

_IGNORED = ("thumbs.db", "desktop.ini")


def read_parts(
    path: str | Path | Mapping[str, Any], modalities: Mapping[str, Modality]
) -> tuple[dict[str, Any], Tensor | None]:
    """Return the raw views [B, ...] of a file or folder by modality and, if it has one, the presence mask bool [B, M].
    Parts by name stay what they are, but for those that name files of pictures, which are read.

    An .npz holds an array per modality (channels of pictures first or last), and perhaps `present` [B, M] or
    `present_<modality>` [B]; its `labels` and, beside rows without that prefix, its `test_...` are left aside. A table
    holds the columns that training had, or that `MultimodalModel.frame` gives. A folder
    holds `<modality>.png`, or pictures `<modality>/*.png` (or another of ENDINGS) in the order of their names without
    ending, the same names for every modality. Where one modality is pictures, they may lie in the folder itself, or
    `path` is one. Parts called picture and caption are also read as training reads a folder of both, and so is a folder
    of pictures with a table of the other parts. DataError for anything else.
    """
    if isinstance(path, Mapping):
        return pictures_named(path, modalities, Path())
    path = expanded(path)
    if os.path.isdir(path):
        try:
            columns = {name: name for name, m in modalities.items() if m.shows != "pictures" and name != CAPTION}
            of_pictures = len(columns.keys() - {CAPTION}) < len(modalities.keys() - {CAPTION})
            if of_pictures and (table := find_table(path, columns)) is not None:
                return tabled_parts(table, modalities)
            if {PICTURE, CAPTION} <= modalities.keys() and (both := find_captions(path)) is not None:
                return _of_captions(both, modalities)
            return _read_folder(path, modalities)
        except OSError as error:
            raise DataError(f"{path}: got a folder that cannot be read ({error}); make it readable") from error
    if path.suffix.lower() in ENDINGS and (only := _one_of_pictures(modalities)) and path.is_file():
        return {only: read_pictures([path], modalities[only])}, None
    if path.suffix.lower() in TABLES:
        columns, there = split_table(_table(path, modalities), modalities, str(path))
        columns, shown = pictures_named(columns, modalities, path.parent)
        return columns, torch.from_numpy(there) if shown is None else torch.from_numpy(there) & shown
    if path.suffix.lower() != ".npz":
        fix = FIXES.get(path.suffix.lower(), "convert it")
        raise DataError(
            f"parts, --parts: got {path}, expected an .npz file, or a folder of PNG pictures by modality, or a table "
            f"({', '.join(TABLES)}); {fix if path.exists() else 'there is no such file: correct the path'}"
        )
    content, what, names = read_npz(path), str(path), list(modalities)
    held_out = [key for key in content if key.startswith(TEST)]
    rows = rows_of({key: array for key, array in content.items() if key not in held_out}, what)
    if held_out and not rows.views.keys() & names:
        raise DataError(f"{path}: got {held_out[0]} and no rows without {TEST}; rename its arrays to the modalities")
    if held_out:
        logger.warning("%s: %s are left aside; the rows without %s are used", path, ", ".join(held_out), TEST)
    numbers = {name: m.numbers for name, m in modalities.items()}
    parts = read_arrays(rows.views, numbers, what, beside=[*BESIDE, *(MASK + name for name in names)])
    views = {name: part.values for name, part in parts.items()}
    for name, array in views.items():
        m, shape = modalities[name], modalities[name].raw_shape  # which its states need not have
        if m.shows == "pictures" and array.shape[1:] == (*shape[1:], shape[0]) != shape:
            views[name] = np.moveaxis(array, -1, 1)
    if rows.present is None:
        return views, None
    return views, torch.from_numpy(read_present(rows.present, names, len(next(iter(views.values()))), what))


def columns_aside(path: Path, modalities: Mapping[str, Modality]) -> Any:
    """Return the columns of a table that are of no part, such as names of rows: a data frame; None of what is none."""
    if (path := expanded(path)).suffix.lower() not in TABLES or os.path.isdir(path):
        return None
    known = {column for name, m in modalities.items() for form in forms_of(name, m) for column in form}
    table = _table(path, modalities)
    table = table.set_axis(as_known(column_names(table), list(known)), axis=1)
    return table[[column for column in table.columns if column not in known]].reset_index(drop=True)


def _table(path: Path, modalities: Mapping[str, Modality]) -> Any:
    known = [column for m in modalities.values() for column in m.handed_columns]
    return read_table(path, nameless=bool(known) and all(name.isdecimal() for name in known))


def _one_of_pictures(modalities: Mapping[str, Modality]) -> str | None:
    """Return the name of the one modality of pictures, None where there are none or several."""
    names = [name for name, m in modalities.items() if m.shows == "pictures"]
    return names[0] if len(names) == 1 else None


def _of_captions(both: CaptionedFolder, modalities: Mapping[str, Modality]) -> tuple[dict[str, Any], Tensor]:
    """Return the rows of a folder of pictures with captions; what one lacks is absent."""
    both.check_gaps("nan")
    views: dict[str, Any] = {CAPTION: both.captions()}
    if any(both.files):
        views[PICTURE] = read_rows(both.folder, both.files, modalities[PICTURE])
    there, n = both.presence(), len(both.pairs)
    return views, torch.from_numpy(np.stack([there.get(name, np.zeros(n, bool)) for name in modalities], 1))


def _read_folder(folder: Path, modalities: Mapping[str, Modality]) -> tuple[dict[str, Array], Tensor | None]:
    found: dict[str, list[Path]] = {}
    unknown: list[str] = []
    entries, only = _listed(folder), _one_of_pictures(modalities)
    pictures = [entry for entry in entries if entry.suffix.lower() in ENDINGS and entry.is_file()]
    if only and pictures and not any(e.is_dir() or e.stem in modalities or e.name in modalities for e in entries):
        found[only], entries = _checked(pictures, folder), [entry for entry in entries if entry not in pictures]
    for entry in entries:
        is_dir = entry.is_dir()
        name, files = (entry.name, _listed(entry)) if is_dir else (entry.stem, [entry])
        is_read = is_dir or entry.suffix.lower() in ENDINGS
        if not is_read and name in modalities:
            raise DataError(
                f"{entry}: got a file that is no picture for modality {name!r}, and a folder holds pictures alone; "
                "write all parts into one .npz by numpy.savez"
            )
        if not is_read:
            logger.warning("%s: not read: it is no picture", entry)
        elif name not in modalities:
            unknown += [name] if any(file.suffix.lower() in ENDINGS for file in files) else []
        elif name in found:
            raise DataError(f"{entry}: got two entries for modality {name!r}, expected one file or folder; remove one")
        else:
            found[name] = _checked(files, folder)
    hint = nearest(unknown[0], list(modalities)) if unknown else ""
    found = {name: found[name] for name in modalities if found.get(name)}
    if not found:
        raise DataError(
            f"{folder}: got no pictures, expected <name>.png or <name>/*.png for some of {', '.join(modalities)}.{hint}"
        )
    if unknown:
        raise ModalityError(
            f"{folder}: got pictures of {unknown[0]!r}, expected some of {', '.join(modalities)}.{hint} Rename or "
            "remove them"
        )
    if any(files[0].parent == folder for files in found.values()):
        check_lengths(found, str(folder))
        return {name: read_rows(folder, files, modalities[name]) for name, files in found.items()}, None
    return _by_name(found, folder, modalities)


def _by_name(
    found: Mapping[str, list[Path]], folder: Path, modalities: Mapping[str, Modality]
) -> tuple[dict[str, Array], Tensor | None]:
    """Return the pictures in folders of parts, of which those of one name are one item, and which items have which."""
    named = {part: {file.stem: file for file in files} for part, files in found.items()}
    names = sorted({name for of in named.values() for name in of})
    if len(named) > 1 and len(names) == sum(map(len, named.values())):
        first, other = [*named][:2]
        raise DataError(
            f"{folder}: got {min(named[first])!r} in {first} and none in {other}, expected the same names in both, by "
            f"which pictures are one item (no name is in two folders); rename them"
        )
    there = {part: np.array([name in of for name in names]) for part, of in named.items()}
    for part, of in there.items():
        if not of.all():
            lacking = [name for name in names if name not in named[part]]
            logger.warning(
                "%s: %d of %d names have no picture in %s, such as %s",
                *(folder, len(lacking), len(names), part, lacking[0]),
            )
    views = {part: read_rows(folder, [of.get(name) for name in names], modalities[part]) for part, of in named.items()}
    if all(of.all() for of in there.values()):
        return views, None
    absent = np.zeros(len(names), bool)
    return views, torch.from_numpy(np.stack([there.get(name, absent) for name in modalities], 1))


def _listed(folder: Path) -> list[Path]:
    """Return what is in `folder`, in the order of names without ending; hidden files are left out."""
    entries = [e for e in folder.iterdir() if not e.name.startswith(".") and e.name.lower() not in _IGNORED]
    return sorted(entries, key=lambda entry: (entry.stem, entry.suffix))


def _checked(files: list[Path], root: Path) -> list[Path]:
    named: dict[str, Path] = {}
    for file in files:
        if file.suffix.lower() not in ENDINGS or not file.is_file():
            raise DataError(f"{file}: got no picture, expected {', '.join(ENDINGS)} only; remove or convert it")
        if (twin := named.setdefault(file.stem, file)) is not file:
            raise DataError(f"{file}: got a second picture of the name {file.stem!r}, as {twin.name}; remove one")
        if not file.resolve().is_relative_to(root.resolve()):
            raise DataError(f"{file}: got a link that leads outside {root}, expected a picture; copy it there")
    return files
