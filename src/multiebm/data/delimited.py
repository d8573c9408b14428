"""Tables as texts: names in the first line, and numbers that are written with a decimal comma."""

import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from multiebm.core.errors import DataError

logger = logging.getLogger("multiebm")

_COMMA = re.compile(r"[-+]?\d+(,\d+)?([eE][-+]?\d+)?")  # 1,5 or 2
_PERHAPS_THOUSANDS = re.compile(r"[-+]?([1-9]\d{0,2},\d{3}|\d+)")  # 1,500 is 1.5 or 1500
_SHOWN = 8  # columns that are named


def with_decimal_commas(frame: Any, read: Callable[[], Any], file: Path) -> Any:
    """Return the table of a file whose cells stand between semicolons, as `read` reads it where commas are decimal.

    They are where all cells of a column of texts are numbers such as 1,5, and one of them cannot be thousands; then
    they are so in all columns. DataError where other numbers have a decimal point.
    """
    names = [str(name) for name in frame.columns]
    commas = {at: cells for at in range(len(names)) if (cells := _with_commas(frame.iloc[:, at]))}
    sure = [(names[at], cell) for at, of in commas.items() for cell in of if not _PERHAPS_THOUSANDS.fullmatch(cell)]
    if not sure:
        return frame
    found, (name, cell) = read(), sure[0]
    for at, other in enumerate(names):
        if frame.iloc[:, at].dtype.kind == "f" and found.iloc[:, at].dtype.kind == "O":
            point = next(str(of) for of in found.iloc[:, at].dropna() if "." in str(of))
            raise DataError(
                f"{file}: got {cell!r} in column {name!r} and {point!r} in column {other!r}, expected a decimal comma "
                "or a decimal point in all columns; write all numbers with a point, and nothing between thousands"
            )
    listed = ", ".join([names[at] for at in commas][:_SHOWN]) + (", ..." if len(commas) > _SHOWN else "")
    logger.warning("%s: numbers such as %s are read with a decimal comma, in columns %s", file, cell, listed)
    return found


def _with_commas(column: Any) -> list[str]:
    """Return the cells that are there of a column of texts whose cells are all numbers, some of them with a comma."""
    if column.dtype.kind != "O":
        return []
    cells = [str(cell).strip() for cell in column.dropna()]
    return cells if any("," in cell for cell in cells) and all(map(_COMMA.fullmatch, cells)) else []


def say_names_are_numbers(names: Sequence[str], file: Path) -> None:
    """Say it where the first line of a file has numbers alone, and so is no line of names."""
    try:
        numbers = [float(name.replace(",", ".")) for name in names if name]
    except ValueError:
        return
    if numbers:
        logger.warning(
            "%s: the first line has numbers alone (%s), and is read as the names of columns; if it is a row, write a "
            "line of names above it",
            file,
            ", ".join(names[:_SHOWN]),
        )
