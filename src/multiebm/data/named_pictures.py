"""Parts whose values are names of files of pictures, which are read in their place."""

import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from multiebm.core.cells import is_empty, is_text
from multiebm.core.errors import DataError
from multiebm.core.frames import check_order
from multiebm.core.handed import Array, check_lengths
from multiebm.core.names import BESIDE, MASK, TEST
from multiebm.core.presence import read_present
from multiebm.core.rows import in_colours
from multiebm.data.caption_files import CAPTION, Captioned
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

    A row without one is refused, unless `missing` says that parts may be, for all or in the part's declaration, or a
    mask hides it; it is masked then. A part that is `declared` anything but pictures stays what it is, and one of
    single pictures has them scaled where a size is declared. Rows that name one picture in a part are one item.
    """
    found, all_files = dict[str, Any](), list[Files]()
    kinds, known = dict[str, Any](), declared if isinstance(declared, Mapping) else {}
    for key, values in sorted(content.items(), key=lambda item: str(item[0]).startswith(TEST)):
        prefix = TEST if str(key).startswith(TEST) else ""
        part = str(key).removeprefix(prefix)
        kind = of.get("kind", "picture") if isinstance(of := known.get(part), Mapping) else of or "picture"
        if part in BESIDE or part.startswith(MASK) or kind != "picture" or not isinstance(key, str):
            found[key] = values
            continue
        names, says = names_in(values), of if isinstance(of, Mapping) else {}
        if names is None and "picture" in (of, says.get("kind")):
            _check_endings(values, f"modality {key!r}")
        size = size_of(says, f"modality {part!r}, size")
        found[key] = values if names else all_fitted(values, size, says.get("layout") == "chw")
        if names or found[key] is not values:
            beside = {other: rows for other, rows in content.items() if str(other).startswith(TEST) == bool(prefix)}
            check_order(
                beside, beside.get(f"{prefix}present"), beside.get(f"{prefix}labels"), "data"
            )  # pictures have no index any more
        if names:
            shown = _shown(content, prefix, part, len(names))
            files = _files(names, folder, f"modality {key!r}", says.get("missing", missing), shown)
            as_trained = found[part].shape[-1] if prefix and part in kinds else None
            pictures = read_part(folder, part, files, says.get("missing", missing), declared, as_trained)
            gaps = ~pictures.get(MASK + part, np.ones(len(files), bool))
            found[key] = pictures[part]
            if gaps.any():
                found[key] = np.ma.array(
                    pictures[part], mask=np.broadcast_to(gaps[:, None, None, None], found[key].shape)
                )
            column = {"named_by": str(values.columns[0])} if hasattr(values, "columns") else {}
            kinds[part] = {"layout": "hwc"} | column
            all_files.append(files)
    if isinstance(content, Captioned):
        content.update(found)
        content.of_rows = one_item([*all_files, content.of_rows.tolist()])
        content.kinds |= kinds
        return content
    if not all_files or any(str(key).startswith(TEST) for key in content):
        return found
    captioned = Captioned(found, [str(item) for item in one_item(all_files)])
    spoken = any(is_text(cell) for cell in _cells(found.get(CAPTION)))
    captioned.kinds = kinds | (captioned.kinds if spoken else {})
    return captioned


def _check_endings(values: Any, what: str) -> None:
    """Raise DataError with the first of the texts that should name pictures and does not."""
    for row, cell in enumerate(_cells(values)):
        if is_text(cell) and not is_empty(cell) and not cell.strip().lower().endswith(ENDINGS):
            raise DataError(
                f"{what}: got {cell!r} in row {row}, expected pictures, or names of files that end in "
                f"{', '.join(ENDINGS)}; convert that one, or declare another kind"
            )


def one_item(parts: Sequence[Sequence[Any]]) -> Array:
    """Return numbers of items [N]: rows with one value in one of the parts, each [N], are one; None is no value."""
    of_rows = list(range(len(parts[0])))

    def first(row: int) -> int:
        while of_rows[row] != row:
            row = of_rows[row]
        return row

    for values in parts:
        place = dict[Any, int]()
        for row, value in enumerate(values[: len(of_rows)]):
            if value is not None:
                a, b = sorted((first(row), first(place.setdefault(value, row))))
                of_rows[b] = a
    return np.array([first(row) for row in range(len(of_rows))])


def _shown(content: Mapping[str, Any], prefix: str, part: str, n: int) -> Array:
    """Return which rows of a part no mask hides, bool [N]; wrong masks are said by who reads them in earnest."""
    own, whole = content.get(prefix + MASK + part), content.get(f"{prefix}present")
    if own is not None:
        return read_present({part: own}, [part], n, "data")[:, 0]
    if whole is None:
        return np.ones(n, bool)
    names = [str(key).removeprefix(prefix) for key in content if str(key).startswith(TEST) == bool(prefix)]
    names = [name for name in names if name not in BESIDE and not name.startswith(MASK)]
    return read_present(whole, names, n, "data")[:, names.index(part)]


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
        if (n := _none_of(parts[name])) is not None:  # nothing is known of it
            found[name], masks[name] = np.zeros((n, *m.raw_shape), np.uint8), np.zeros(n, bool)
            continue
        names = names_in(parts[name])
        found[name] = (
            parts[name] if names else all_fitted(parts[name], m.raw_shape[1:] if m.scaled else None, m.raw_shape[0])
        )
        if not names:
            continue
        files = _files(names, folder, f"parts, modality {name!r}")
        found[name] = read_rows(folder, files, m)
        masks[name] = np.array([file is not None for file in files], bool)
    check_lengths({name: range(len(mask)) for name, mask in masks.items()}, "parts")
    if all(mask.all() for mask in masks.values()):
        return found, None
    there = np.ones(len(next(iter(masks.values()))), bool)
    return found, torch.from_numpy(np.stack([masks.get(name, there) for name in modalities], 1))


def _none_of(values: Any) -> int | None:
    """Return the number of rows of a list or a column whose cells are all empty; None of any other."""
    if not isinstance(values, list | tuple):
        if len(getattr(values, "shape", ())) not in (1, 2) or math.prod(values.shape) != values.shape[0]:
            return None
        values = np.asarray(values, object).reshape(-1)
    return len(values) if len(values) and all(is_empty(cell) for cell in values) else None


def all_fitted(pictures: Any, size: tuple[int, ...] | None, first: bool | int = False) -> Any:
    """Return a list, column or array of single pictures, Pillow's, arrays [H, W] or [H, W, C] or tensors [C, H, W] of
    bytes, truth values, whole numbers or floats, as a list with all of them scaled to `size` (height, width); anything
    else as it is. Arrays have channels `first` if true; a number says how many channels are on one side or the other.
    """
    if size is None or not (rows := list(_cells(pictures))) or isinstance(rows[0], str):
        return pictures
    found = list[Any]()
    for picture in rows:
        values = np.asarray(in_colours(picture)) if hasattr(picture, "getbands") else picture
        if isinstance(values, np.ma.MaskedArray):
            values = None if np.ma.getmaskarray(values).all() else values if np.ma.is_masked(values) else values.data
        if tensor := isinstance(values, Tensor):
            values = values.numpy(force=True)
        if not isinstance(values, np.ndarray) or values.ndim not in (2, 3) or values.dtype.kind not in "buif":
            found.append(values)  # whoever reads the values says what is wrong with it
            continue
        n, many = len(values), values.shape[-1]
        turned = values.ndim == 3 and (n == first != many if type(first) is int else tensor and n <= 4 or bool(first))
        kept = values[None] if values.ndim == 2 else values if turned else values.transpose(2, 0, 1)
        scaled = _like(kept, fitted(_bytes_or_floats(kept), size))
        found.append(scaled[0] if values.ndim == 2 else scaled if first is True else scaled.transpose(1, 2, 0))
    return found


def _bytes_or_floats(values: Array) -> Array:
    """Return values that can be scaled: truth values as black and white."""
    if values.dtype == bool:
        return values.astype(np.uint8) * np.uint8(255)
    return values if values.dtype == np.uint8 else values.astype(np.float32)


def _like(values: Array, scaled: Array) -> Array:
    """Return scaled values in the type of the values themselves."""
    if values.dtype == bool:
        return scaled > 127
    return (np.rint(scaled) if values.dtype.kind in "iu" else scaled).astype(values.dtype)


def _files(
    names: Sequence[str], folder: Path, what: str, missing: Literal["nan"] | None = None, shown: Array | None = None
) -> Files:
    """Return the file of each row, None where there is none. To train on, with the rows that are `shown`, those are
    refused unless parts may be `missing`; in use names that no file has.
    """
    files = [folder / _at_home(Path(name.replace("\\", "/"))) if name else None for name in names]
    files = [file.resolve() if file is not None and os.path.isfile(file) else None for file in files]
    hidden = np.array([not name for name in names]) if shown is None else ~shown
    gone = [row for row, file in enumerate(files) if file is None and not hidden[row]]
    told = [f"no picture {names[row]!r} in row {row}" if names[row] else f"none in row {row}" for row in gone[:_SHOWN]]
    more = f"; {len(gone)} such rows in all" if len(gone) > _SHOWN else ""
    if gone and (missing is None or not any(files)):
        fix = "supply it, correct the name" + ("" if missing else ", or say that it is missing: nan (--missing nan)")
        fix += "" if any(files) else "; if these are classes declare kind: category (--kind NAME=category)"
        fix = fix if shown is not None else "correct the name, or leave it empty"
        raise DataError(
            f"{what}: got {'; '.join(told)}{more}, expected a file of each row, from {folder.resolve()}; {fix}"
        )
    if gone:
        logger.warning("%s: %d of %d rows have no picture: %s%s", what, len(gone), len(names), "; ".join(told), more)
    return files if shown is None else [file if there else None for file, there in zip(files, shown, strict=True)]


def _at_home(name: Path) -> Path:
    return name.expanduser() if name.parts[:1] == ("~",) else name
