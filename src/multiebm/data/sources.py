"""What data come in beside arrays: tables, folders of pictures, annotated matrices; each becomes a dict by part.

Foreign objects are known by their attributes: nothing is imported for them.
"""

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from multiebm.core.errors import ConfigError, DataError
from multiebm.core.frames import EXTRA, as_pandas
from multiebm.core.handed import WAS, unpack
from multiebm.core.names import MASK
from multiebm.data.caption_files import PICTURE, find_captions, pictures_in
from multiebm.data.columns import Columns, columns_of
from multiebm.data.delimited import first_rows, is_row, say_what_leads, separator, with_decimal_commas
from multiebm.data.npz import check_bytes, expanded, read_npz
from multiebm.data.picture_files import ENDINGS, read_pictures, read_shape
from multiebm.data.picture_tables import find_table, read_tabled
from multiebm.modalities import Picture
from multiebm.modalities.picture import check_size

logger = logging.getLogger("multiebm")

TABLES = (".csv", ".tsv", ".parquet", ".feather")


def read_source(
    data: Any, parts: Columns | None = None, labels: str | None = None, missing: Literal["nan"] | None = None
) -> dict[str, Any]:
    """Return what `data` holds as a dict of arrays [N, ...] by part, with `labels` and `present_<part>` where it says.

    `data` is a dict of arrays, a data frame (`parts`: which columns form which part; `labels`: the column of classes),
    AnnData (`X` by name "X", and each of `obsm`), MuData (a part a modality, rows matched by name), an xarray Dataset
    (a part a variable), or a path (`read_path`).
    """
    if isinstance(data, str | Path):
        return read_path(data, parts, labels, missing)
    if isinstance(data, Mapping):
        return _without_parts(dict(data), parts)
    if isinstance(modalities := getattr(data, "mod", None), Mapping):
        return _matched({str(name): one for name, one in modalities.items()})
    if hasattr(data, "obsm") and hasattr(data, "X"):
        found = {"X": _named_columns(data.X, data.var_names)} | {str(key): value for key, value in data.obsm.items()}
        return found | ({"labels": data.obs[labels].to_numpy()} if labels else {})
    if hasattr(data, "data_vars"):
        return _without_parts({str(name): array.to_numpy() for name, array in data.data_vars.items()}, parts)
    if (frame := as_pandas(data)) is not None:
        return columns_of(frame, parts, labels, "table")
    raise DataError(
        f"data: got {type(data).__name__}, expected a dict of arrays by part, a data frame, AnnData, MuData, "
        "an xarray Dataset, or a path; make it a dict: {'name': values}"
    )


def read_path(
    path: str | Path,
    parts: Columns | None = None,
    labels: str | None = None,
    missing: Literal["nan"] | None = None,
) -> dict[str, Any]:
    """Return what the file or folder at `path` holds as a dict of arrays [N, ...], as `read_source` does.

    It is an .npz, a table (TABLES), a folder with a folder of pictures for each part, or one of pictures with captions
    or a table of columns beside them, of which `missing` nan says that either may be missing. DataError for anything
    else.
    """
    file = expanded(path)
    if file.is_dir():
        if (table := find_table(file, parts)) is not None:
            return read_tabled(table, read_table(table), parts, labels, missing)
        if (captioned := find_captions(file, labels)) is not None:
            return _without_parts(captioned.read(missing, labels is not None), parts)
        return _without_parts(read_folder(file), parts)
    if file.suffix.lower() in TABLES:
        return columns_of(read_table(file), parts, labels, str(file))
    if not file.suffix and not file.exists():
        kinds = f"a folder, a table ({', '.join(TABLES)}) or an .npz"
        raise DataError(f"{file}: got no such file or folder, expected {kinds}; correct the path")
    if file.suffix.lower() in (".npz", ".npy", ""):
        return _without_parts(dict(read_npz(file)), parts)
    known = ", ".join((".npz", *TABLES))
    raise DataError(f"{file}: got a file {file.suffix!r}, expected {known}, or a folder of pictures; convert it")


def _without_parts(content: dict[str, Any], parts: Columns | None) -> dict[str, Any]:
    if parts:
        raise ConfigError(
            f"parts: got columns of {', '.join(parts)}, expected none: the data is no table and has its parts already; "
            "leave them out"
        )
    return content


def read_table(file: Path, nameless: bool = False) -> Any:
    """Return the data frame of a table (TABLES), whose first line is a row if it is `nameless` or looks like those
    below it; DataError where it cannot be read, or what reads it is not here.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise DataError(f"{file}: got a table, which pandas reads, and it is not here; {EXTRA}") from error
    if not file.is_file():
        raise DataError(f"{file}: got no such file, expected a table; correct the path")
    check_bytes(file, file.stat().st_size)
    try:
        if file.suffix.lower() in (".csv", ".tsv"):
            return _read_text(file, nameless)
        return pd.read_parquet(file) if file.suffix.lower() == ".parquet" else pd.read_feather(file)
    except ImportError as error:
        raise DataError(f"{file}: got {file.suffix}, which pyarrow reads, and it is not here; {EXTRA}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: got a table in another encoding than UTF-8 ({error}); save it as UTF-8") from error
    except OSError as error:
        why = error.strerror or " ".join(str(error).split())
        raise DataError(f"{file}: got a table that cannot be read ({why}); make it readable") from error
    except (ValueError, csv.Error) as error:  # pandas' own are of the former
        why = " ".join(str(error).split())
        fix = "expected a line of names and then a line a row, with as many cells in each; repair it"
        raise DataError(f"{file}: got a table that cannot be read ({why}), {fix}") from error


def _read_text(file: Path, nameless: bool) -> Any:
    """Return the data frame of a .csv or .tsv, its columns named as its first line says, twice if it does, or by their
    places where that is a row.

    Where lines end in a separator, the empty cells behind it are left out. Where rows have one cell more than there are
    names, the first one is the name of the row, as R writes it, which is said. DataError where they have more.
    """
    import pandas as pd

    with file.open(encoding="utf-8-sig", newline="") as stream:
        rows = first_rows(stream, mark := separator(stream, file))
    names, first = [*rows, [], []][:2]
    row = is_row(rows) if rows else False
    row = row or (nameless and names != [str(i) for i in range(len(names))])
    say_what_leads(names, row, file)
    width = max(len(names), len(first))
    names = [str(i) for i in range(width)] if row else names

    def read(decimal: str = ".") -> Any:
        header = None if row else 0
        frame = pd.read_csv(
            file, sep=mark, skipinitialspace=True, header=header, names=list(range(width)), decimal=decimal
        )
        return _with_names(frame, names, file)

    frame = read()
    return with_decimal_commas(frame, lambda: read(","), file) if mark in ";\t" else frame


def _with_names(frame: Any, names: Sequence[str], file: Path) -> Any:
    """Return the columns of a frame that the names of the first line are of, under these names."""
    width, n = frame.shape[1], len(names)
    if frame.iloc[:, n:].notna().any(axis=None):
        if width > n + 1:
            raise ValueError(f"{n} names in the first line and {width} cells in the next")
        logger.warning("%s: rows have a cell more than there are names; the first is read as the name of a row", file)
        frame = frame.iloc[:, 1:]
    while n and not names[n - 1] and frame.iloc[:, n - 1].isna().all():
        n -= 1
    frame = frame.iloc[:, :n]
    frame.columns = [name or f"Unnamed: {i}" for i, name in enumerate(names[:n])]
    return frame


def _named_columns(matrix: Any, names: Any) -> Any:
    """Return a matrix [N, D] as a data frame with these names of columns, where pandas is there."""
    import pandas as pd  # of whoever made the names

    part = unpack(matrix, "matrix")
    frame = pd.DataFrame(part.values, columns=[str(name) for name in names])
    frame.attrs[WAS] = part.was
    return frame


def _matched(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return annotated matrices by part with rows matched by name: absent in a part that has no row of the name."""
    names = list(dict.fromkeys(str(row) for one in parts.values() for row in one.obs_names))
    place = {name: i for i, name in enumerate(names)}
    found: dict[str, Any] = {}
    for part, one in parts.items():
        frame = _named_columns(one.X, one.var_names)
        rows = np.array([place[str(row)] for row in one.obs_names])
        values = np.zeros((len(names), frame.shape[1]), frame.to_numpy().dtype)
        values[rows] = frame.to_numpy()
        found[part] = type(frame)(values, columns=frame.columns)
        found[part].attrs = frame.attrs
        if len(rows) < len(names):
            found[MASK + part] = np.isin(np.arange(len(names)), rows)
    return found


def _alone(folder: Path) -> str:
    """Return what to do with pictures that lie in a folder itself, without anything beside them."""
    n = len(pictures_in(folder))
    return f". Its {n} pictures are in no such folder: move them into {folder / PICTURE}" if n else ""


def read_folder(folder: Path) -> dict[str, Any]:
    """Return pictures [N, H, W, C] by part of a folder with a folder of pictures for each, matched by file name.

    A part is absent where it has no picture of a name. All pictures of a part have one size: DataError names the first
    that has another. Colour and transparency are those of most of its pictures.
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
    for name_of_part, pictures in named.items():
        files = [pictures[name] for name in names if name in pictures]
        channels, height, width = shape = read_shape(files)
        check_size(shape, f"{folder}, modality {name_of_part!r}")
        check_bytes(folder / name_of_part, 4 * len(names) * channels * height * width)
        values = read_pictures(files, Picture(name_of_part, shape))
        there = np.array([name in pictures for name in names])
        whole = np.zeros((len(names), height, width, channels), values.dtype)
        whole[there] = values.transpose(0, 2, 3, 1)
        found[name_of_part] = whole
        if not there.all():
            found[MASK + name_of_part] = there
    if not any(len(pictures) == len(names) for pictures in named.values()):
        logger.warning("%s: no part has a picture of all %d names: %s", folder, len(names), ", ".join(named))
    return found
