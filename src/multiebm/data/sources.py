"""What data come in beside arrays: tables, folders of pictures, annotated matrices; each becomes a dict by part.

Foreign objects are known by their attributes: nothing is imported for them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from multiebm.core.errors import ConfigError, DataError
from multiebm.core.frames import as_pandas
from multiebm.core.handed import WAS, unpack
from multiebm.core.names import MASK, TEST
from multiebm.core.table import nearest
from multiebm.data.caption_files import FILE_COLUMNS, find_captions
from multiebm.data.columns import Columns, columns_of
from multiebm.data.named_pictures import read_named
from multiebm.data.npz import expanded, read_npz
from multiebm.data.picture_folders import read_folder
from multiebm.data.picture_tables import find_table, read_tabled
from multiebm.data.table_files import FIXES, TABLES, names_in, read_table


def read_source(
    data: Any,
    parts: Columns | None = None,
    labels: str | None = None,
    missing: Literal["nan"] | None = None,
    declared: Any = None,
) -> dict[str, Any]:
    """Return what `data` holds as a dict of arrays [N, ...] by part, with `labels` and `present_<part>` where it says.

    `data` is a dict of arrays, a data frame (`parts`: which columns form which part), AnnData (`X` by name "X", each of
    `obsm`), MuData or a dict of AnnData (a part each, rows matched by name), an xarray Dataset (a part a variable),
    or a path (`read_path`). `labels` names the column or the array of classes. Parts may name files of pictures;
    `declared` says by part what is known of them.
    """
    if isinstance(data, str | Path):
        return read_path(data, parts, labels, missing, declared)
    return read_named(_in_memory(data, parts, labels), Path(), missing, declared)


def _in_memory(data: Any, parts: Columns | None, labels: str | None) -> dict[str, Any]:
    if isinstance(data, Mapping):
        matrices = bool(data) and all(hasattr(one, "obs_names") for one in data.values())
        return _as_it_is(_matched(data) if matrices else _by_dimension(data), parts, labels)
    if isinstance(modalities := getattr(data, "mod", None), Mapping):
        found = _matched({str(name): one for name, one in modalities.items()})
        return _as_it_is(found | _observed(data, labels), parts, "labels" if labels else None)
    if hasattr(data, "obsm") and hasattr(data, "X"):
        found = {"X": _named_columns(data.X, data.var_names)} | {str(key): value for key, value in data.obsm.items()}
        return _as_it_is(found | _observed(data, labels), parts, "labels" if labels else None)
    if hasattr(data, "data_vars"):
        found = _by_dimension({str(name): array for name, array in data.data_vars.items()})
        return _as_it_is({name: array.to_numpy() for name, array in found.items()}, parts, labels)
    if (frame := as_pandas(data)) is not None:
        return columns_of(frame, parts, labels, "table")
    if isinstance(data, list | tuple) and data and isinstance(data[0], Mapping):
        raise DataError("data: got rows by name, expected a table; pass pandas.DataFrame(rows), with parts=")
    fix = "collect it, data.collect()" if hasattr(data, "collect") else "make it a dict: {'name': values}"
    raise DataError(
        f"data: got {type(data).__name__}, expected a dict of arrays by part, a data frame, AnnData, MuData, "
        f"an xarray Dataset, or a path; {fix}"
    )


def read_path(
    path: str | Path,
    parts: Columns | None = None,
    labels: str | None = None,
    missing: Literal["nan"] | None = None,
    declared: Any = None,
) -> dict[str, Any]:
    """Return what the file or folder at `path` holds as a dict of arrays [N, ...], as `read_source` does.

    It is an .npz, a table (TABLES), a folder with a folder of pictures for each part, or one of pictures with captions,
    and either with a table of columns beside them; `missing` nan says that rows may lack any of these. DataError for
    anything else. `declared` as in `read_source`.
    """
    file = expanded(path)
    if file.is_dir():
        if (table := find_table(file, parts, labels)) is not None:
            found: dict[str, Any] = read_tabled(table, parts, labels, missing, declared)
        elif (captioned := find_captions(file, labels)) is not None:
            return _as_it_is(captioned.read(missing, labels is not None, declared), parts)
        else:
            _check_no_columns(file, parts, labels)
            return read_folder(file, missing, declared)
    else:
        found = _from_file(file, parts, labels)
    return read_named(found, file if file.is_dir() else file.parent, missing, declared)


def _from_file(file: Path, parts: Columns | None, labels: str | None) -> dict[str, Any]:
    if file.suffix.lower() in TABLES:
        return columns_of(read_table(file), parts, labels, str(file))
    if not file.suffix and not file.exists():
        kinds = f"a folder, a table ({', '.join(TABLES)}) or an .npz"
        raise DataError(f"{file}: got no such file or folder, expected {kinds}; correct the path")
    if file.suffix.lower() in (".npz", ".npy", ""):
        return _as_it_is(dict(read_npz(file)), parts, labels)
    known, fix = ", ".join((".npz", *TABLES)), FIXES.get(file.suffix.lower(), "convert it")
    raise DataError(f"{file}: got a file {file.suffix!r}, expected {known}, or a folder of pictures; {fix}")


def _check_no_columns(folder: Path, parts: Columns | None, labels: str | None) -> None:
    """Raise ConfigError where columns are asked for of a folder that has no table with names of pictures."""
    if not parts and labels is None:
        return
    tables = sorted(file for file in folder.iterdir() if file.suffix.lower() in TABLES and file.is_file())
    has = "; ".join(f"{table.name} has {', '.join(names_in(table)[:8]) or 'none that can be read'}" for table in tables)
    asked = f"columns of {', '.join(parts)}" if parts else f"labels {labels!r}"
    raise ConfigError(
        f"{folder}: got {asked} and no table that names pictures, expected one in it with a column "
        f"{', '.join(FILE_COLUMNS[:-1])} or {FILE_COLUMNS[-1]}; "
        f"{f'give the column of their names that name ({has})' if has else 'supply it, or leave them out'}"
    )


def _as_it_is(content: dict[str, Any], parts: Columns | None, labels: str | None = None) -> dict[str, Any]:
    """Return data that have their parts already, one of which may be the labels."""
    if parts:
        raise ConfigError(
            f"parts: got columns of {', '.join(parts)}, expected none: the data is no table and has its parts already; "
            "leave them out"
        )
    if labels is None:
        return content
    if labels not in content:
        raise ConfigError(
            f"labels: got {labels!r}, expected one of {', '.join(content)}.{nearest(labels, list(content))} Correct it"
        )
    for prefix in ("", TEST):
        if prefix + labels in content:
            content[f"{prefix}labels"] = content.pop(prefix + labels)
    return content


def _observed(data: Any, labels: str | None) -> dict[str, Any]:
    """Return the labels of annotated matrices, a column of `obs`; ConfigError where there is none of the name."""
    if labels is None:
        return {}
    if labels not in (known := [str(name) for name in data.obs.columns]):
        raise ConfigError(
            f"labels: got {labels!r}, expected a column of obs: {', '.join(known)}.{nearest(labels, known)} Correct it"
        )
    return {"labels": data.obs[labels].to_numpy()}


def _by_dimension(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return arrays of which those that name their dimensions begin with the one that all of these have, if there is
    one; DataError where there are several and they do not begin with the same.
    """
    dims = {name: tuple(of.dims) for name, of in arrays.items() if getattr(of, "dims", ()) and hasattr(of, "transpose")}
    common = set.intersection(*(set(of) for of in dims.values())) if dims else set()
    if not common or len({of[0] for of in dims.values()}) < 2:
        return dict(arrays)
    if len(common) > 1:
        listed = "; ".join(f"{name}: {', '.join(map(str, of))}" for name, of in dims.items())
        raise DataError(
            f"data: got arrays whose dimensions are in other orders ({listed}), expected that of items first in all; "
            "put it there, array.transpose('item', ...)"
        )
    return {name: of.transpose(*common, ...) if name in dims else of for name, of in arrays.items()}


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
