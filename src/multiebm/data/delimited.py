"""Tables as texts: what stands between cells, names in the first line, and numbers with a decimal comma."""

import csv
import logging
import re
from collections.abc import Callable, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import IO, Any

from multiebm.core.errors import DataError

logger = logging.getLogger("multiebm")

MARKS = (",", ";", "\t", "|")  # that stand between cells
_LOOKED_AT = 200  # rows that tell what the first line is
_COMMA = re.compile(r"[-+]?\d+(,\d+)?([eE][-+]?\d+)?")  # 1,5 or 2
_PERHAPS_THOUSANDS = re.compile(r"[-+]?([1-9]\d{0,2},\d{3}|\d+)")  # 1,500 is 1.5 or 1500
_SHOWN = 8  # columns that are named


def with_decimal_commas(frame: Any, read: Callable[[], Any], file: Path, texts: Sequence[str | None] = ()) -> Any:
    """Return the table of a file whose cells stand between semicolons or tabs, as `read` reads it with decimal commas.

    Commas are decimal where all cells of a column of texts are numbers such as 1,5, and one of them cannot be
    thousands; then they are so in all columns. DataError where other numbers have a decimal point. If no column has
    one, a few cells that are none may be among them: they stay texts, to be named by whoever needs numbers. Columns
    `texts` stay.
    """
    names = [str(name) for name in frame.columns]
    every = {
        at: of for at, name in enumerate(names) if name not in texts and (of := _with_commas(frame.iloc[:, at]))[0]
    }
    points = any(kind.kind == "f" for kind in frame.dtypes)
    commas = {at: cells for at, (cells, all_of_it) in every.items() if all_of_it or not points}
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
    for at in commas:
        if found.iloc[:, at].dtype.kind == "O":  # one cell that is no number keeps all of them texts
            found.isetitem(at, [_plain(cell) for cell in found.iloc[:, at]])
    listed = ", ".join([names[at] for at in commas][:_SHOWN]) + (", ..." if len(commas) > _SHOWN else "")
    logger.warning("%s: numbers such as %s are read with a decimal comma, in columns %s", file, cell, listed)
    return found


def _with_commas(column: Any) -> tuple[list[str], bool]:
    """Return the numbers of a column of texts, some with a comma, and whether these are all of its cells. Nothing where
    less than nine in ten are, or another cell has several commas, as a list has.
    """
    if column.dtype.kind != "O":
        return [], False
    cells = [str(cell).strip() for cell in column.dropna()]
    found, others = ([cell for cell in cells if bool(_COMMA.fullmatch(cell)) == fits] for fits in (True, False))
    lists = len(others) > len(cells) / 10 or any(cell.count(",") > 1 for cell in others)
    return ([], False) if lists or not any("," in cell for cell in found) else (found, not others)


def _plain(cell: Any) -> Any:
    """Return the number that a text such as 1,5 is; any other cell as it is."""
    is_number = isinstance(cell, str) and _COMMA.fullmatch(cell.strip())
    return float(cell.strip().replace(",", ".")) if is_number else cell


def separator(stream: IO[str], file: Path) -> str:
    """Return what stands between the cells of a text: of a .tsv a tab; else of the marks in its first line the one by
    which lines are even and most cells are numbers, and of several such the first of MARKS.
    """
    head = next((line for line in stream if line.strip()), "")
    marks = [mark for mark in MARKS if mark in head]
    if file.suffix.lower() == ".tsv" or len(marks) < 2:
        return "\t" if file.suffix.lower() == ".tsv" else (marks or [","])[0]
    return max(marks, key=lambda mark: _fits(first_rows(stream, mark), mark))


def _fits(rows: Sequence[Sequence[str]], mark: str) -> tuple[bool, float]:
    """Return whether rows have cells of one number, several of them, and the share of cells that are numbers."""
    cells = [cell for row in rows for cell in row if cell.strip()]
    numbers = sum(number_of(cell) is not None and (mark != "," or "," not in cell) for cell in cells)
    return len({len(row) for row in rows}) == 1 < len(rows[0]), numbers / max(1, len(cells))


def first_rows(stream: IO[str], mark: str) -> list[list[str]]:
    """Return the first rows of a text with this `mark` between cells, without empty lines."""
    stream.seek(0)
    lines = (row for row in csv.reader(stream, delimiter=mark, skipinitialspace=True) if row)
    return list(islice(lines, _LOOKED_AT))


def number_of(cell: str) -> float | None:
    """Return the number that a cell is, with a decimal point or a decimal comma; None where it is none."""
    try:
        return float(cell.strip().replace(",", "."))
    except ValueError:
        return None


def is_row(rows: Sequence[Sequence[str]]) -> bool:
    """Return whether the first of these rows is one as those below, and has no names of columns.

    A text in it is also below it, in its column. Of numbers alone one is there twice, or half of them lie between those
    below; four that rise evenly, as years do, are names, and so are 0, 1, 2.
    """
    head, below = rows[0], rows[1:]
    columns = [{row[i].strip() for row in below if i < len(row)} - {""} for i in range(len(head))]
    filled = [(cell.strip(), column) for cell, column in zip(head, columns, strict=True) if cell.strip()]
    if not filled or not below:
        return False
    numbers = [number_of(cell) for cell, _ in filled]
    if None in numbers:
        texts = [of for of, number in zip(filled, numbers, strict=True) if number is None]
        return all(cell in column for cell, column in texts)
    found = [number for number in numbers if number is not None]
    steps = {round(b - a, 9) for a, b in pairwise(found)}
    if (
        len(found) > 1
        and len(steps) == 1
        and steps != {0.0}
        and (len(found) > 3 or (steps == {1.0} and found[0] in (0, 1)))
    ):
        return False
    inside = 0
    for cell, column in filled:
        others = [number for other in column if (number := number_of(other)) is not None]
        inside += bool(others) and min(others) <= (number_of(cell) or 0.0) <= max(others)
    return len(set(found)) < len(found) or 2 * inside >= len(found)


def say_what_leads(names: Sequence[str], row: bool, file: Path) -> None:
    """Say it where the first line of a file is a `row`, or has numbers alone and is none by its looks."""
    shown = f"{', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
    if row:
        logger.warning(
            "%s: the first line (%s) is read as a row, as it looks like those below; columns are called 0 to %d. If it "
            "has their names, write a letter into each",
            *(file, shown, len(names) - 1),
        )
    elif any(names) and all(number_of(name) is not None for name in names if name):
        logger.warning(
            "%s: the first line has numbers alone (%s), and is read as the names of columns; if it is a row, write a "
            "line of names above it",
            *(file, shown),
        )
