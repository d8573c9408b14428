"""Parts whose values are names of files of pictures, which are read in their place."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from multiebm.core.cells import is_empty
from multiebm.core.errors import DataError
from multiebm.core.frames import check_order
from multiebm.core.handed import Array
from multiebm.core.names import BESIDE, MASK, TEST
from multiebm.core.rows import in_colours
from multiebm.data.caption_files import Captioned
from multiebm.data.picture_files import ENDINGS, fitted
from multiebm.data.picture_folders import Files, read_part, read_rows
from multiebm.modalities import Modality
from multiebm.modalities.picture_sizes import size_of

logger = logging.getLogger("multiebm")

_SHOWN = 5  # rows named in a message


def names_in(values: Any) -> list[str] | None:
    """Return the names of files of pictures that values are, one a row and empty where it is missing; None where they
    are anything else: all that are there end as files of pictures do (ENDINGS).
    """
    names = list[str]()
    for cell in _cells(values):
        if is_empty(cell):
            names.append("")
        elif isinstance(cell, str | os.PathLike) and os.fspath(cell).strip().lower().endswith(ENDINGS):
            names.append(os.fspath(cell).strip())
        else:
            return None
    return names if any(names) else None


def _cells(values: Any) -> Iterable[Any]:
    """Return the cells of a list, a column or an array that may be names; of anything else none."""
    if isinstance(values, list | tuple):
        return values
    if hasattr(values, "iloc") and hasattr(values, "columns"):
        values = values.iloc[:, 0] if values.shape[1] == 1 else None
    if hasattr(values, "to_numpy") and getattr(getattr(values, "dtype", None), "kind", "O") in "OUT":
        # pyarrow's own to_numpy() refuses to copy texts
        return cast(Iterable[Any], np.asarray(values) if hasattr(values, "__array__") else values.to_numpy())
    if isinstance(values, np.ndarray) and values.dtype.kind in "OU" and values.ndim and values.size == len(values):
        return cast(Iterable[Any], values.reshape(-1))
    return ()


def read_named(content: dict[str, Any], folder: Path, missing: Literal["nan"] | None, declared: Any) -> dict[str, Any]:
    """Return data by part with the pictures [N, H, W, C] that parts name, from `folder` unless names are whole paths.

    A row without one is refused, unless `missing` says that parts may be; it is absent then. A part that is `declared`
    anything but pictures stays what it is, and one of pictures in a list has them scaled where a size is declared. Rows
    that name one picture several times are one item.
    """
    found, items, known = dict[str, Any](), list[str](), declared if isinstance(declared, Mapping) else {}
    for key, values in content.items():
        prefix = TEST if key.startswith(TEST) else ""
        part = key.removeprefix(prefix)
        kind = of.get("kind", "picture") if isinstance(of := known.get(part), Mapping) else of or "picture"
        if part in BESIDE or part.startswith(MASK) or kind != "picture":
            found[key] = values
            continue
        names = names_in(values)
        found[key] = values if names else all_fitted(values, size_of(of, f"modality {part!r}, size"))
        if names or found[key] is not values:
            beside = {other: rows for other, rows in content.items() if other.startswith(TEST) == bool(prefix)}
            check_order(beside, None, None, "data")  # pictures have no index any more
        if names:
            files = _files(names, folder, f"modality {key!r}", missing)
            pictures = read_part(folder, part, files, missing, declared)
            found[key] = pictures[part]
            if (mask := pictures.get(MASK + part)) is not None:
                given = content.get(prefix + MASK + part)
                found[prefix + MASK + part] = mask if given is None else mask & np.asarray(given, bool)
            items = items or names
    if isinstance(content, Captioned):
        content.update(found)
        return content
    if not items or any(key.startswith(TEST) for key in content):
        return found
    return Captioned(found, [name or None for name in items])


def pictures_named(
    parts: Mapping[str, Any], modalities: Mapping[str, Modality], folder: Path
) -> tuple[dict[str, Any], Tensor | None]:
    """Return parts to use a model on with the pictures [N, C, H, W] that they name, and if one lacks some which are
    there, bool [N, M]. DataError for one that is not there, or cannot be read.
    """
    found, masks = dict(parts), dict[str, Array]()
    for name, m in modalities.items():
        if m.shows != "pictures" or name not in parts:
            continue
        names = names_in(parts[name])
        found[name] = parts[name] if names else all_fitted(parts[name], m.raw_shape[1:] if m.scaled else None)
        if names or found[name] is not parts[name]:
            check_order(parts, None, None, "parts")
        if not names:
            continue
        files = _files(names, folder, f"parts, modality {name!r}", "nan" if "" in names else None)
        found[name] = read_rows(folder, files, m)
        masks[name] = np.array([file is not None for file in files], bool)
    if all(mask.all() for mask in masks.values()):
        return found, None
    there = np.ones(len(next(iter(masks.values()))), bool)
    return found, torch.from_numpy(np.stack([masks.get(name, there) for name in modalities], 1))


def all_fitted(pictures: Any, size: tuple[int, ...] | None) -> Any:
    """Return a list, column or array of single pictures, Pillow's, arrays [H, W] or [H, W, C] or tensors [C, H, W] of
    bytes or floats, as a list with all of them scaled to `size` (height, width); anything else as it is.
    """
    if size is None or not (rows := list(_cells(pictures))) or isinstance(rows[0], str):
        return pictures
    found = list[Any]()
    for picture in rows:
        values = np.asarray(in_colours(picture)) if hasattr(picture, "getbands") else picture
        if isinstance(values, Tensor) and values.ndim == 3 and len(values) <= 4:
            values = values.permute(1, 2, 0).numpy(force=True)
        if not isinstance(values, np.ndarray) or values.ndim not in (2, 3) or values.dtype.kind not in "buf":
            found.append(values)  # whoever reads the values says what is wrong with it
            continue
        kept = values.astype(np.uint8 if values.dtype.kind == "b" or values.dtype == np.uint8 else np.float32)
        channels = fitted(kept[None] if kept.ndim == 2 else kept.transpose(2, 0, 1), size)
        found.append(channels[0] if kept.ndim == 2 else channels.transpose(1, 2, 0))
    return found


def _files(names: Sequence[str], folder: Path, what: str, missing: Literal["nan"] | None) -> Files:
    files = [folder / Path(name.replace("\\", "/")).expanduser() if name else None for name in names]
    files = [file if file is not None and file.is_file() else None for file in files]
    gone = [row for row, file in enumerate(files) if file is None]
    told = [f"no picture {names[row]!r} in row {row}" if names[row] else f"none in row {row}" for row in gone[:_SHOWN]]
    more = f"; {len(gone)} such rows in all" if len(gone) > _SHOWN else ""
    if gone and (missing is None or len(gone) == len(names)):
        fix = "supply it, correct the name" + ("" if missing else ", or say that it is missing: nan (--missing nan)")
        raise DataError(f"{what}: got {'; '.join(told)}{more}, expected a file of each row, from {folder}; {fix}")
    if gone:
        logger.warning("%s: %d of %d rows have no picture: %s%s", what, len(gone), len(names), "; ".join(told), more)
    return files
