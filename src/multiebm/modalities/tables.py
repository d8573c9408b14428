"""Tables to use a model on: split into parts by the names of the columns that training had."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from multiebm.core.errors import ConfigError, DataError, imported
from multiebm.core.frames import as_known, column_names, without_lists
from multiebm.core.handed import SHOWN, Mask
from multiebm.core.names import SHARED
from multiebm.core.table import nearest
from multiebm.modalities.base import Modality

if TYPE_CHECKING:
    from pandas import DataFrame

logger = logging.getLogger("multiebm")


def split_table(frame: Any, modalities: Mapping[str, Modality], what: str) -> tuple[dict[str, Any], Mask]:
    """Return the columns of each part that a data frame has, and which rows have which part, bool [N, M]: not where
    all cells of it are empty. DataError where it has some columns of a part and not all, or none of any.
    """
    frame = without_lists(frame.set_axis(column_names(frame), axis=1), what)
    trained = [column for m in modalities.values() for column in m.handed_columns]
    frame = frame.set_axis(as_known(list(frame.columns), trained), axis=1)
    found, there, used = dict[str, Any](), dict[str, Mask](), set[str]()
    for name, m in modalities.items():
        others = {column for other, of in modalities.items() if other != name for column in of.handed_columns}
        forms = [form for form in forms_of(name, m) if form != (name,) or name not in others]
        plain = forms[0]
        chosen = next((form for form in forms if set(form) <= set(frame.columns)), None)
        for form in forms if chosen is None else ():
            if some := [column for column in form if column in frame.columns]:
                lacks = next(column for column in form if column not in frame.columns)
                near = nearest(lacks, [column for column in frame.columns if column not in form])
                raise DataError(
                    f"{what}: got {some[0]!r} of part {name!r} and no column {lacks!r}, expected all {len(form)} of "
                    f"it, or none.{near} Supply it, empty where nothing is known"
                )
        if chosen is not None and (twice := used & set(chosen)):
            raise DataError(
                f"{what}: got {min(twice)!r}, a column of part {name!r} and of one before it, expected whose it is; "
                f"name them with their part, such as {forms[1][0]!r}"
            )
        if chosen is not None:
            columns = frame[list(chosen)]
            there[name] = columns.notna().any(axis=1).to_numpy()
            found[name] = columns if chosen == plain == m.handed_columns else columns.to_numpy()
            used |= set(chosen)
    if not found:
        raise DataError(_no_columns(frame, modalities, what))
    if unused := [column for column in frame.columns if column not in used]:
        logger.warning("%s: %d columns are of no part and are not read, first %s", what, len(unused), unused[0])
    absent = np.zeros(len(frame), bool)
    return found, np.stack([there.get(name, absent) for name in modalities], 1)


def forms_of(name: str, m: Modality) -> list[tuple[str, ...]]:
    """Return the names that the columns of a part may have: as training had them, as two parts of one name are told
    apart, as probabilities of classes; of files of pictures, and of one number without a name, that of the part.
    """
    plain = m.handed_columns or tuple(f"{name}_{i}" for i in range(m.size))
    alone = [(name,)] if m.shows == "pictures" or m.size == 1 else []
    return [plain, tuple(f"{name}_{column}" for column in plain), tuple(m.columns or plain), *alone]


def _no_columns(frame: Any, modalities: Mapping[str, Modality], what: str) -> str:
    """Say which columns were expected, which a table has, and how they are handed over as a part."""
    known = {
        name: list(m.handed_columns[:SHOWN]) or [f"{name}_0" if m.shows != "pictures" else name]
        for name, m in modalities.items()
    }
    listed = "; ".join(f"{name}: {', '.join(columns)}" for name, columns in known.items())
    own, first = list(frame.columns[:SHOWN]), next(iter(modalities))
    return (
        f"{what}: got no columns of a part, expected those of training ({listed}); it has {', '.join(own)}"
        f"{', ...' if len(frame.columns) > SHOWN else ''}: rename them, or in Python say whose they are, "
        f"{{{first!r}: table[{own[: max(1, modalities[first].size)]!r}].to_numpy()}}"
    )


def as_table(modalities: Mapping[str, Modality], by_name: Mapping[str, Any]) -> "DataFrame":
    """Return codes or parts [B, D] by name as a data frame: columns as training had them, of codes numbered.

    DataError for what has no rows of numbers, ConfigError without pandas.
    """
    pd = imported("pandas", ConfigError, 'frame: got no pandas, expected it here; pip install "multiebm[tables]"')
    if not isinstance(by_name, Mapping):
        raise DataError(
            f"frame: got {type(by_name).__name__}, expected codes, or parts by name, as encode, impute and sample give "
            "them; pass these"
        )
    found: list[tuple[str, str, Any]] = []
    for name, values in by_name.items():
        rows = values.cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
        of_part = modalities[name] if SHARED not in by_name and name in modalities else None
        if rows.ndim == 1:  # one caption an item, or one number
            found.append((name, name if of_part is None else of_part.handed_columns[0], rows))
            continue
        if rows.ndim != 2:
            raise DataError(
                f"frame, {name!r}: got shape {list(rows.shape)}, expected rows of numbers [B, D]; leave it out (want=)"
            )
        named = (of_part.columns if of_part else ()) or [f"{name}_{i}" for i in range(rows.shape[1])]
        found += [(name, column, of) for column, of in zip(named, rows.T, strict=True)]
    twice = [column for _, column, _ in found]
    return pd.DataFrame({c if twice.count(c) == 1 else f"{part}_{c}": of for part, c, of in found})
