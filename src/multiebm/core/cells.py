"""Cells that do not fit their column: a text among numbers, numbers written as texts; and what is to be done."""

import re
from collections.abc import Sequence
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MARKS = ("?", "-", "--", ".", "na", "n/a", "n.a.", "#n/a", "nan", "none", "null", "nil", "missing", "unknown", "*")
_COMMA = re.compile(r"[-+]?[\d.]*\d,\d+")  # 1,5 for 1.5, or thousands
_IN_PYTHON = "in Python missing='nan'"
EMPTY = f"leave such cells empty (NaN) and say that NaN means missing, --missing nan ({_IN_PYTHON})"
CLASSES = "if each value is a class declare kind: category (--kind NAME=category)"


def is_missing(cell: Any) -> bool:
    """Return whether a cell is None, NaN, NaT or NA."""
    return cell is None or type(cell).__name__ in ("NAType", "NaTType") or (isinstance(cell, Real) and cell != cell)


def odd_cells(
    values: Array, hidden: Array, columns: Sequence[str] = (), declared: bool = False, empty: str = EMPTY
) -> str:
    """Return what is wrong with texts in values [N] or [N, D], as ", column 'temp': got ..., expected ...; fix"; empty
    where nothing is. `hidden` (bool, of the same shape) are no matter; `columns` are names, if there are any; `empty`
    says how a cell is left out.

    A column that has more numbers than texts is one of numbers. Unless its kind is `declared`, numbers that are written
    as texts, and columns of numbers beside columns of texts, are wrong too.
    """
    if values.ndim not in (1, 2) or values.dtype.kind not in "OUS":
        return ""
    sorts = dict[str, str]()  # the name of the first column of a sort
    flat, gone = values.reshape(len(values), -1), hidden.reshape(len(values), -1)
    for i, column in enumerate(flat.T):
        at = f", column {columns[i] if columns else i!r}" if columns or len(flat.T) > 1 else ""
        rows = np.flatnonzero([not out and not _is_empty(cell) for cell, out in zip(column, gone[:, i], strict=True)])
        cells = column[rows]
        found = np.array([_sort(cell) for cell in cells], "U1")
        numbers = int(np.isin(found, ["n", "w", "f"]).sum())
        texts = np.flatnonzero(np.isin(found, ["t", "c"] if numbers > len(found) / 2 else ["t"]))
        if len(texts) and numbers > len(found) / 2:
            row = int(rows[texts[0]])
            return f"{at}: {_among_numbers(cells[texts[0]], row, len(texts), len(found), declared, empty)}"
        written = np.flatnonzero(np.isin(found, ["w", "f", "c"]))
        if not declared and len(written) and not len(texts) and np.isin(found, ["n", "f", "c"]).any():
            first = written[int(np.argmax(found[written] != "w"))]
            return (
                f"{at}: got a number that is written as a text, {_shown(cells[first])} in row {rows[first]}, expected "
                f"numbers; convert them (with a decimal point; pandas.to_numeric), or {CLASSES}"
            )
        if len(texts) or len(written):
            sorts.setdefault("texts", at.removeprefix(", "))
        elif not all(cell in (0, 1) for cell in cells[found == "n"]):
            sorts.setdefault("numbers", at.removeprefix(", "))
    if declared or len(sorts) < 2:
        return ""
    return (
        f": got numbers ({sorts['numbers']}) and texts ({sorts['texts']}) in one part, expected columns of one sort; "
        f"make two parts of them, or {CLASSES}"
    )


def _is_empty(cell: Any) -> bool:
    return is_missing(cell) or (isinstance(cell, str | bytes) and not cell.strip())


def _sort(cell: Any) -> str:
    """Return n for a number, w and f for a whole one and a fraction that are written as texts, c for one with a comma,
    t for any other text.
    """
    if isinstance(cell, bool | np.bool_):
        return "b"
    if isinstance(cell, Real | Decimal):
        return "n"
    if not isinstance(cell, str | bytes):
        return ""
    text = (cell.decode(errors="replace") if isinstance(cell, bytes) else cell).strip()
    try:
        number = float(text)
    except ValueError:
        return "c" if _COMMA.fullmatch(text) else "t"
    return "t" if number != number else "w" if number.is_integer() and "." not in text else "f"


def _among_numbers(cell: Any, row: int, texts: int, n: int, declared: bool, empty: str) -> str:
    """Say which text stands among `n` cells that are numbers but for `texts` of them, and what to do."""
    text = cell.decode(errors="replace") if isinstance(cell, bytes) else str(cell)
    more = "" if texts == 1 else f" ({texts} texts in all)"
    marks = text.strip().lower() in MARKS
    mend = "write it with a decimal point" if _COMMA.fullmatch(text.strip()) else "mend it"
    fix = f"if {text!r} means missing, {empty}; else {mend}" if marks else f"{mend}, or {empty}"
    return (
        f"got the text {_shown(cell)} in row {row}{more}, expected a number, as {n - texts} of the {n} cells are; {fix}"
        f"{'' if declared else f', or {CLASSES}'}"
    )


def _shown(cell: Any) -> str:
    return repr(cell.decode(errors="replace") if isinstance(cell, bytes) else str(cell))[:40]
