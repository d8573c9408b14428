"""Tables of any library, as data frames of pandas: the names of their columns and of their rows."""

import logging
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from multiebm.core.errors import DataError, imported
from multiebm.core.rows import stacked

logger = logging.getLogger("multiebm")

EXTRA = 'pip install "multiebm[tables]"'


def column_names(frame: Any) -> list[str]:
    """Return the names of the columns of a data frame as texts; those of several levels are joined: mean_x."""
    several = [of if isinstance(of, tuple) else (of,) for of in frame.columns]
    return ["_".join(str(level) for level in of if len(of) == 1 or str(level)) for of in several]


def plain_name(name: str) -> str:
    """Return the name of a column without spaces around it, its accents in one form."""
    return unicodedata.normalize("NFC", name).strip()


def as_known(names: Sequence[str], known: Collection[str]) -> list[str]:
    """Return names of columns, each that is none of the `known` as the one of these that it is but for spaces around it
    and the form of its accents, if neither is there twice.
    """
    plain, given = [plain_name(name) for name in known], [plain_name(name) for name in names]
    by_plain = {plain_name(name): name for name in known if plain.count(plain_name(name)) == 1}
    return [
        name if name in known or given.count(of) > 1 else by_plain.get(of, name)
        for name, of in zip(names, given, strict=True)
    ]


def without_lists(frame: Any, where: str) -> Any:
    """Return a data frame of pandas whose columns of lists of numbers are columns of numbers, emb_0, emb_1, ...; other
    tables as they are. DataError where such a column has lists of several lengths.
    """
    if not hasattr(frame, "iloc"):
        return frame
    places = [at for at, dtype in enumerate(frame.dtypes) if dtype == np.dtype(object)]
    listed = {at: values for at in places if (values := stacked(frame.iloc[:, at].to_numpy(), where)).ndim == 2}
    if not listed:
        return frame
    import pandas as pd  # of whoever made the frame

    pieces = []
    for at, name in enumerate(column_names(frame)):
        if at in listed:
            names = [f"{name}_{i}" for i in range(listed[at].shape[1])]
            pieces.append(pd.DataFrame(listed[at], frame.index, names))
        else:
            pieces.append(frame.iloc[:, [at]].set_axis([name], axis=1))
    return pd.concat(pieces, axis=1)


def as_pandas(data: Any, what: str = "data") -> Any:
    """Return a table of any library as a data frame of pandas; None for what is no table."""
    if hasattr(data, "iloc"):
        return data if hasattr(data, "columns") else None  # a series is no table
    if not hasattr(data, "to_pandas") and not (hasattr(data, "columns") and hasattr(data, "to_numpy")):
        return None
    pd = imported(
        "pandas", DataError, f"{what}: got {type(data).__name__}, which pandas reads, and it is not here; {EXTRA}"
    )
    if hasattr(data, "to_pandas"):
        try:
            return data.to_pandas()
        except ImportError:  # polars wants pyarrow for it
            pass
    if hasattr(data, "__getitem__") and hasattr(data, "columns"):
        return pd.DataFrame({str(name): np.asarray(data[name].to_numpy()) for name in data.columns})
    return pd.DataFrame(data.to_numpy(), columns=list(data.columns))


def check_order(parts: Mapping[str, Any], present: Any, labels: Any, what: str) -> None:
    """Raise DataError where pandas' indices say that rows of parts, masks or labels are the same in another order, or
    that some are at other places; it is said where one of the indices is 0, 1, ... and may be no name.
    """
    masks = {f"present {m}": of for m, of in present.items()} if isinstance(present, Mapping) else {"present": present}
    given = {**parts, **masks, "labels": labels}
    indices = {k: np.asarray(v.index) for k, v in given.items() if hasattr(v, "to_numpy") and hasattr(v, "index")}
    first = next(iter(indices), "")
    for name, index in indices.items():  # rows of the same names in another order: row i would be two different items
        if np.array_equal(index, indices[first]):
            continue
        known, found = indices[first].tolist(), index.tolist()
        if set(found) == set(known):
            raise DataError(
                f"{what}: got rows of {name} in another order than those of {first} (by their index), expected the "
                f"same item in row i of both; use {name}.loc[{first}.index], or .to_numpy() to go by position"
            )
        if not (shared := set(found) & set(known)):
            continue
        row = next(i for i, of in enumerate(found) if i >= len(known) or of != known[i])
        told = f"{len(shared)} rows of {name} have the names of rows of {first} (by their index), row {row} another one"
        if any(of == list(range(len(of))) for of in (known, found)):
            logger.warning("%s: %s; rows are matched by position", what, told)
        else:
            raise DataError(
                f"{what}: got {told}, expected the same item in row i of both; use table.join, or "
                f"{name}.reindex({first}.index) with missing='nan', or .to_numpy() to go by position"
            )
