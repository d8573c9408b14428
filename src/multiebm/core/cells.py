"""Cells that do not fit their column: a text among numbers, numbers written as texts; and what is to be done."""

import re
from collections.abc import Sequence
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multiebm.core.captions import are_captions
from multiebm.core.errors import DataError
from multiebm.core.names import PICTURES

Array = NDArray[Any]

MARKS = ("?", "-", "--", ".", "na", "n/a", "n.a.", "#n/a", "nan", "none", "null", "nil", "missing", "unknown", "*")
_COMMA = re.compile(r"[-+]?[\d.]*\d,\d+")  # 1,5 for 1.5, or thousands
_UNIT = re.compile(r"[$€£]?\s?[-+]?\d[\d.,]*\s?[%$€£]?")  # 12 %, €3
_DATE = re.compile(r"\d{4}-\d\d?-\d\d?([T ].*)?|\d\d?[./]\d\d?[./]\d{2,4}")
_MOST = 10**300  # of whole numbers that have a float64
OWN_CLASS, FEW_ROWS = 0.5, 20  # share of the cells that are classes of their own where texts name rows; from so many on
EMPTY = "leave such cells empty (NaN) and train with --missing nan (in Python missing='nan')"
CLASSES = "if each value is a class declare kind: category (--kind NAME=category)"


def missing_texts(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which cells among texts are missing: None, NaN, NA and empty ones, in the shape of the values."""
    gone = [is_missing(cell) or cell in ("", b"") for cell in values.flat]
    return np.array(gone, bool).reshape(values.shape)


def is_missing(cell: Any) -> bool:
    """Return whether a cell is None, NaN, NaT or NA."""
    return cell is None or type(cell).__name__ in ("NAType", "NaTType") or (isinstance(cell, Real) and cell != cell)


def without_digits(values: Array, hidden: Array) -> tuple[int, ...] | None:
    """Return the place of the first whole number, not `hidden`, of which float64 has not every digit; None if none."""
    if values.dtype.kind in "iu" and values.dtype.itemsize == 8:
        with np.errstate(invalid="ignore"):
            lost = values.astype(np.float64).astype(values.dtype) != values
    elif values.dtype == object:
        whole = (int(of) if isinstance(of, int | np.integer) else 0 for of in values.flat)
        lost = np.array([abs(of) < _MOST and int(float(of)) != of for of in whole], bool).reshape(values.shape)
    else:
        return None
    return next((tuple(place.tolist()) for place in np.argwhere(lost & ~hidden)), None)


def is_text(cell: Any) -> bool:
    """Return whether a cell is a text, be it of bytes."""
    return isinstance(cell, str | bytes)


def decoded(cell: Any) -> str:
    """Return a text, one of bytes as UTF-8."""
    return cell.decode(errors="replace") if isinstance(cell, bytes) else str(cell)


def texts_in(cells: Array, rows: Array, where: str) -> list[str]:
    """Return the captions in these rows of cells [N]; DataError for what is no text."""
    for row in rows:
        if not is_text(cell := cells[row]):
            fix = (
                "say that it is missing by missing: nan (--missing nan), or by a mask"
                if is_missing(cell)
                else "convert it by str(), or declare another kind"
            )
            raise DataError(f"{where}: got {cell!r:.40} in row {row}, expected a caption, a text; {fix}")
    return [decoded(cells[row]) for row in rows]


def odd_cells(
    values: Array, hidden: Array, columns: Sequence[str] = (), declared: bool = False, empty: str = EMPTY
) -> str:
    """Return what is wrong with texts in values [N] or [N, D], as ", column 'temp': got ..., expected ...; fix"; empty
    where nothing is. `hidden` (bool, of the same shape) are no matter; `columns` are names, if there are any; `empty`
    says how a cell is left out.

    A column that has more numbers than texts is one of numbers. Unless its kind is `declared`, numbers that are written
    as texts, and columns of numbers beside columns of texts, are wrong too.
    """
    if values.ndim not in (1, 2) or values.dtype.kind not in "OUS" or not values.size:
        return ""
    sorts = dict[str, str]()  # the name of the first column of a sort
    flat, gone = values.reshape(len(values), -1), hidden.reshape(len(values), -1)
    for i, column in enumerate(flat.T):
        at = f", column {columns[i] if columns else i!r}" if columns or len(flat.T) > 1 else ""
        rows = np.flatnonzero([not out and not is_empty(cell) for cell, out in zip(column, gone[:, i], strict=True)])
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
                "numbers; write them plainly (with a decimal point, without a unit or marks of thousands; "
                f"{_reader(cells[first])}), or {CLASSES}"
            )
        captions = len(flat.T) == 1 and are_captions(cells)
        if not declared and not captions and (no_classes := _no_classes(cells, rows)):
            return f"{at}: {no_classes}, or {CLASSES}"
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


def _reader(cell: Any) -> str:
    """Return what of pandas makes a number of a text like this one."""
    comma = (b"," if isinstance(cell, bytes) else ",") in cell
    return "pandas.read_csv has decimal=',' and thousands=','" if comma else "pandas.to_numeric"


def _no_classes(cells: Array, rows: Array) -> str:
    """Return what texts are that are no classes: dates, or names of rows; empty where they may be classes."""
    texts = [i for i, cell in enumerate(cells) if is_text(cell)]
    dates = [i for i in texts if isinstance(cells[i], str) and _DATE.fullmatch(cells[i].strip())]
    if len(dates) > len(cells) / 2:
        return (
            f"got dates, {_shown(cells[dates[0]])} in row {rows[dates[0]]}, expected numbers or classes; make them "
            "numbers, such as days, (pandas.to_datetime(column) - pandas.Timestamp(2000, 1, 1)).dt.days, leave the "
            "column out"
        )
    words = sum(len(str(cells[i]).split()) for i in texts)
    captions = ", if they are captions declare kind: text (--kind NAME=text)" if words > 2 * len(texts) else ""
    if len(texts) >= FEW_ROWS and (n := len({cells[i] for i in texts})) > OWN_CLASS * len(cells):
        pictures = (
            f", if they name pictures use read_data or train, which read {', '.join(PICTURES)} where all names end so"
            if decoded(cells[texts[0]]).lower().endswith(PICTURES)
            else ""
        )
        return (
            f"got {n:,} different texts in {len(cells):,} cells, such as {_shown(cells[texts[0]])}, expected classes "
            f"that most rows share; leave out what names rows{captions}{pictures}"
        )
    return ""


def is_empty(cell: Any) -> bool:
    """Return whether a cell is missing, or a blank text."""
    return is_missing(cell) or (is_text(cell) and not cell.strip())


def _sort(cell: Any) -> str:
    """Return n for a number, w and f for a whole one and a fraction that are written as texts, c for one with a comma
    or a unit, t for any other text.
    """
    if isinstance(cell, bool | np.bool_):
        return "b"
    if isinstance(cell, Real | Decimal):
        return "n"
    if not is_text(cell):
        return ""
    text = decoded(cell).strip()
    try:
        number = float(text)
    except ValueError:
        return "c" if _COMMA.fullmatch(text) or _UNIT.fullmatch(text) else "t"
    return "t" if number != number else "w" if number.is_integer() and "." not in text else "f"


def _among_numbers(cell: Any, row: int, texts: int, n: int, declared: bool, empty: str) -> str:
    """Say which text stands among `n` cells that are numbers but for `texts` of them, and what to do."""
    text = decoded(cell)
    more = "" if texts == 1 else f" ({texts} texts in all)"
    marks = text.strip().lower() in MARKS
    bare = "write it with a decimal point and without a unit"
    mend = bare if _sort(text) == "c" else "mend it"
    fix = f"if {text!r} means missing, {empty}; else {mend}" if marks else f"{mend}, or {empty}"
    return (
        f"got the text {_shown(cell)} in row {row}{more}, expected a number, as {n - texts} of the {n} cells are; {fix}"
        f"{'' if declared else f', or {CLASSES}'}"
    )


def _shown(cell: Any) -> str:
    return repr(decoded(cell))[:40]
