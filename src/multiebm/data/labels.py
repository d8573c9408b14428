"""Labels of rows: read from what was handed over, as codes of classes."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from multiebm.core.cells import is_missing
from multiebm.core.errors import DataError
from multiebm.core.handed import unpack

UNKNOWN = -1  # the code of a label that is not known
Class = int | str


def read_labels(labels: Any, n: int, what: str) -> list[Class | None] | None:
    """Return the n labels as whole numbers or texts, None where one is unknown (-1, NaN, None, masked)."""
    if labels is None:
        return None
    where = f"{what}, labels"
    if isinstance(labels, list | tuple) and not any(np.ndim(label) for label in labels):
        labels = np.array([*labels, None], dtype=object)[:-1]  # or NumPy makes texts of None and NaN among texts
    found = unpack(labels, where)
    values = found.values
    if values.dtype.kind in "cMmV":
        raise DataError(f"{where}: got dtype {values.dtype}, expected whole numbers or texts; convert them")
    if values.shape not in ((n,), (n, 1)):
        one_hot = values.ndim == 2 and values.dtype.kind in "biuf" and bool((np.sort(values)[:, :-1] == 0).all())
        fix = "of one-hot rows pass labels.argmax(1)" if one_hot and len(values) == n else "supply them all"
        raise DataError(f"{where}: got shape {values.shape}, expected ({n},), one for each row; {fix}")
    pairs = zip(values.reshape(n).tolist(), found.hidden.reshape(n), strict=True)
    read = [None if hidden else _label(value, i, where) for i, (value, hidden) in enumerate(pairs)]
    if len({type(label) for label in read if label is not None}) > 1:
        raise DataError(f"{where}: got both texts and numbers, expected one of them; convert them, labels.astype(str)")
    return read


def code_labels(splits: Sequence[list[Class | None] | None]) -> tuple[list[Tensor | None], tuple[Class, ...] | None]:
    """Return labels of splits as codes, int64 [N] each (their place among the distinct values of all splits, UNKNOWN
    where they are unknown), and those values in order. None for both where there is no label that is known.
    """
    known = {label for split in splits for label in split or () if label is not None}
    if not known:
        return [None] * len(splits), None
    classes = tuple(sorted(known))  # all are texts or all are numbers
    code = {label: i for i, label in enumerate(classes)} | {None: UNKNOWN}
    return [None if split is None else torch.tensor([code[label] for label in split]) for split in splits], classes


def _label(value: Any, row: int, where: str) -> Class | None:
    value = value.item() if isinstance(value, Tensor | np.generic) and not value.ndim else value
    value = value.decode() if isinstance(value, bytes) else value
    if isinstance(value, str):
        return value
    if is_missing(value) or (isinstance(value, Real) and value == UNKNOWN):
        return None
    if isinstance(value, Real) and (isinstance(value, Integral) or float(value).is_integer()):
        return int(value)  # type: ignore[call-overload]
    raise DataError(
        f"{where}: got {value!r} in row {row}, expected whole numbers or texts, and -1, None or NaN where one is "
        "unknown; name the classes"
    )
