"""Masks: which parts of an item are there, as users say it."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from multiebm.core.errors import DataError
from multiebm.core.handed import SHOWN, Handed, Mask, check_known, unpack

logger = logging.getLogger("multiebm")


def read_presence(parts: Mapping[str, Handed], present: Any, names: Mapping[str, bool], what: str) -> Mask:
    """Return what is there, bool [N, M], columns in the order of `names`, which say whether a part may lack cells.

    Not there is a part that was not handed over, what `present` hides, and a row of a masked array whose cells are all
    masked. DataError for a row that is there and masked in some of its cells, where these may not be lacking.
    """
    n = len(next(iter(parts.values())).values)
    there = read_present(present, list(names), n, what)
    for i, (name, by_cell) in enumerate(names.items()):
        masked = parts[name].masked if name in parts else np.ones(n, bool)
        cells = np.zeros((n, 1), bool) if masked is None else masked.reshape(n, -1)
        there[:, i] &= ~cells.all(1)
        if not by_cell and len(partly := np.flatnonzero(cells.any(1) & there[:, i])):
            raise DataError(
                f"{what}, modality {name!r}: got {len(partly)} rows that are masked in some of their cells, first "
                f"{partly[:SHOWN].tolist()}, expected rows masked in all or none; a part is there whole or not at all: "
                "fill those cells, or mask the whole rows"
            )
    if len(empty := np.flatnonzero(~there.any(1))):
        rows = empty[:SHOWN].tolist()
        logger.warning("%s: %d rows have nothing present and get the prior: rows %s", what, len(empty), rows)
    return there


def read_present(present: Any, names: Sequence[str], n: int, what: str) -> Mask:
    """Return the mask `present` as bool [n, M], columns in the order of `names`; all true for None.

    It is an array [n, M], or a dict or data frame of columns [n] by name, where a name left out is present everywhere.
    Its values are bool, or whole numbers 0 and 1.
    """
    if hasattr(present, "columns") and list(present.columns) != list(range(len(names))):
        present = {name: present[name] for name in present.columns}
    if not isinstance(present, Mapping | None):
        return _as_mask(present, (n, len(names)), f"{what}, columns {', '.join(names)}")
    by_name = present or {}
    check_known(by_name, names, f"{what}, present")
    there = np.ones(n, bool)
    columns = [_as_mask(by_name[name], (n,), f"{what}, {name}") if name in by_name else there for name in names]
    return np.stack(columns, 1)


def _as_mask(mask: Any, shape: tuple[int, ...], where: str) -> Mask:
    found = unpack(mask, f"{where}, present")
    values = found.values
    if values.dtype == object and all(isinstance(cell, bool | np.bool_) for cell in values.flat):
        values = values.astype(bool)
    if values.shape != shape:
        raise DataError(f"{where}, present: got shape {values.shape}, expected {shape}; one entry a row and modality")
    if found.hidden.any():
        raise DataError(f"{where}, present: got masked entries, expected true or false in each; fill them")
    if values.dtype != bool and not (values.dtype.kind in "iu" and np.isin(values, (0, 1)).all()):
        raise DataError(
            f"{where}, present: got dtype {values.dtype}, expected bool; use mask.astype(bool) if true is what is "
            "there and false what is not"
        )
    return values.astype(bool)
