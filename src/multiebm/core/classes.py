"""Cells that name classes: texts, bools and whole numbers, the classes of a column of them, and their order."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multiebm.core.cells import is_missing
from multiebm.core.errors import DataError
from multiebm.core.table import nearest

LARGEST = 1000  # classes of a column: each is a coordinate of the state
LISTED = 10  # classes in a message


def class_name(cell: Any, where: str) -> str:
    """Return the name of the class that one cell says; DataError for what names none."""
    if isinstance(cell, str):
        return str(cell)
    if isinstance(cell, bool | np.bool_):
        return str(bool(cell))
    if isinstance(cell, bytes):
        return cell.decode(errors="replace")
    if isinstance(cell, Integral):
        return str(int(cell))
    if isinstance(cell, Real) and float(cell).is_integer():
        return str(int(float(cell)))
    fix = (
        "say that it is missing by missing: nan (--missing nan), or by a mask"
        if is_missing(cell)
        else "declare kind: vector"
        if isinstance(cell, Real)
        else "make a text of it, str(value) or .astype(str)"
    )
    got = f"{cell:g}" if isinstance(cell, float) else f"{cell!r:.40}"
    raise DataError(f"{where}: got {got}, expected a class, a text, bool or whole number; {fix}")


def classes_of(cells: NDArray[Any], hidden: NDArray[np.bool_], where: str, column: str) -> tuple[str, ...]:
    """Return the classes of the cells [N] of one column that are not `hidden` (bool [N]), in order.

    DataError where there is none, or more than LARGEST; `column` says which one it is, as " of column 2".
    """
    found = {class_name(cells[row], f"{where}, row {row}{column}") for row in np.flatnonzero(~hidden)}
    if not 1 <= len(found) <= LARGEST:
        if not found:
            raise DataError(
                f"{where}: got no class that is there{column}, which has no value, expected at least 1; leave it "
                "out, or say what is there"
            )
        raise DataError(
            f"{where}: got {len(found):,} classes{column}, expected 1 to {LARGEST:,}; put rare ones together as "
            "one class, leave out columns that tell rows apart (names, numbers of rows), or declare numbers a vector"
        )
    return tuple(sorted(found, key=_order))


def places_of(
    cells: NDArray[Any], rows: NDArray[np.int_], classes: Sequence[str], where: str, column: str
) -> NDArray[np.int_]:
    """Return the places [N] of the classes of cells [N] of one column, which stand in these `rows`, among `classes`.

    DataError for a class that is not among them, those of training.
    """
    code, found = {text: place for place, text in enumerate(classes)}, np.zeros(len(rows), int)
    for i, (cell, row) in enumerate(zip(cells, rows, strict=True)):
        text = class_name(cell, f"{where}, row {row}{column}")
        if text not in code:
            listed = f"{', '.join(classes[:LISTED])}{', ...' if len(classes) > LISTED else ''}"
            raise DataError(
                f"{where}: got {text!r} in row {row}{column}, expected one of the {len(classes)} classes of "
                f"training: {listed}.{nearest(text, list(classes))} Correct it, or mark it missing"
            )
        found[i] = code[text]
    return found


def _order(text: str) -> tuple[float, str]:
    """Whole numbers come in their order, before texts."""
    return (int(text), "") if text.removeprefix("-").isdecimal() else (np.inf, text)
