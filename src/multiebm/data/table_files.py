"""Files of tables: texts with marks between cells, JSON a line, Parquet and Feather; what reads them is pandas."""

import csv
import io
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from multiebm.core.errors import DataError
from multiebm.core.frames import EXTRA
from multiebm.data.delimited import first_rows, is_row, number_of, say_what_leads, separator, with_decimal_commas
from multiebm.data.npz import check_bytes

logger = logging.getLogger("multiebm")

_LONGEST_LINE = 1 << 20  # characters of a first line
_TEXTS, _BINARY = (".csv", ".tsv"), (".parquet", ".feather")
TABLES = (*_TEXTS, ".jsonl", *_BINARY)
_TO_CSV = "save it as CSV"
FIXES = {  # of files that are no data here, by their ending
    **dict.fromkeys((".gz", ".zip", ".bz2", ".xz", ".zst", ".tar", ".7z"), "unpack it"),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), _TO_CSV),
    **dict.fromkeys((".txt", ".dat", ".data", ".tab"), "if it is a table with commas or tabs, call it .csv"),
    **dict.fromkeys((".pkl", ".pickle", ".pt", ".pth", ".joblib"), "which may run any code and is not read; write its "
                    "arrays by numpy.savez, its tables by DataFrame.to_csv"),
    ".json": "write a line a row, DataFrame.to_json(path, orient='records', lines=True), and call it .jsonl",
    **dict.fromkeys((".h5ad", ".h5mu"), "read it in Python, anndata.read_h5ad(path), and hand that over"),
    **dict.fromkeys((".h5", ".hdf5", ".nc", ".mat"), "read it in Python and hand over a dict of its arrays"),
}  # fmt: skip


def read_table(file: Path, nameless: bool = False, texts: Sequence[str | None] = ()) -> Any:
    """Return the data frame of a table (TABLES), whose first line is a row if it is `nameless` or looks like those
    below it; DataError where it cannot be read, or what reads it is not here. Columns `texts` of a text are not read as
    numbers: 007 stays.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise DataError(f"{file}: got a table, which pandas reads, and it is not here; {EXTRA}") from error
    if not file.is_file():
        raise DataError(f"{file}: got no such file, expected a table; correct the path")
    check_bytes(file, file.stat().st_size)
    try:
        if file.suffix.lower() in _TEXTS:
            return _read_text(file, nameless, texts)
        if file.suffix.lower() == ".jsonl":
            if not (read := [row for _, row in table_rows(file)]):
                raise ValueError("no rows")
            return pd.DataFrame(read)
        return pd.read_parquet(file) if file.suffix.lower() == ".parquet" else pd.read_feather(file)
    except ImportError as error:
        raise DataError(f"{file}: got {file.suffix}, which pyarrow reads, and it is not here; {EXTRA}") from error
    except UnicodeDecodeError as error:
        with file.open("rb") as stream:
            start = stream.read(2)
        if packed := {b"\x1f\x8b": "a packed file (gzip)", b"PK": "a packed file (zip), or a spreadsheet"}.get(start):
            raise DataError(f"{file}: got {packed}, expected a text; unpack it, or {_TO_CSV}") from error
        raise DataError(f"{file}: got a table in another encoding than UTF-8 ({error}); save it as UTF-8") from error
    except OSError as error:
        why = error.strerror or " ".join(str(error).split())
        raise DataError(f"{file}: got a table that cannot be read ({why}); make it readable") from error
    except (ValueError, csv.Error) as error:  # pandas' own are of the former
        why = " ".join(str(error).split())
        lines = "a line of names and then a line a row, with as many cells in each; repair it"
        fix = f"expected {'a whole file; write it again' if file.suffix.lower() in _BINARY else lines}"
        raise DataError(f"{file}: got a table that cannot be read ({why}), {fix}") from error


def _read_text(file: Path, nameless: bool, texts: Sequence[str | None]) -> Any:
    """Return the data frame of a .csv or .tsv, its columns named as its first line says, twice if it does, or by their
    places where that is a row.

    Where lines end in a separator, the empty cells behind it are left out. Where rows have one cell more than there are
    names, the first one is the name of the row, as R writes it, which is said. DataError where they have more.
    """
    import pandas as pd

    with file.open(encoding="utf-8-sig", newline="") as stream:
        rows = first_rows(stream, mark := separator(stream, file))
    names, first = [*rows, [], []][:2]
    _check_above(rows)
    row = is_row(rows) if rows else False
    row = row or (nameless and names != [str(i) for i in range(len(names))])
    say_what_leads(names, row, file)
    width = max(len(names), len(first))
    names = [str(i) for i in range(width)] if row else names

    def read(decimal: str = ".") -> Any:
        header, kept = None if row else 0, {at: str for at, name in enumerate(names) if name in texts}
        of_text: dict[str, Any] = {"sep": mark, "skipinitialspace": True, "decimal": decimal, "dtype": kept}
        frame = pd.read_csv(file, header=header, names=list(range(width)), **of_text)
        return _with_names(frame, names, file)

    frame = read()
    return with_decimal_commas(frame, lambda: read(","), file, texts) if mark in ";\t" else frame


def _check_above(rows: Sequence[Sequence[str]]) -> None:
    """Raise ValueError where lines above that of the names have one cell and all below several, as titles have."""
    widths = [len(row) for row in rows]
    above = next((i for i, width in enumerate(widths) if width > 1), 0)
    if above and min(widths[above:]) == max(widths) and all(number_of(cell) is None for cell in rows[above]):
        raise ValueError(f"{above} lines of one cell above the names of columns, first {rows[0][0]!r:.40}; remove them")


def _with_names(frame: Any, names: Sequence[str], file: Path) -> Any:
    """Return the columns of a frame that the names of the first line are of, under these names."""
    width, n = frame.shape[1], len(names)
    if frame.iloc[:, n:].notna().any(axis=None):
        if width > n + 1:
            raise ValueError(f"{n} names in the first line and {width} cells in the next")
        logger.warning("%s: rows have a cell more than there are names; the first is read as the name of a row", file)
        frame = frame.iloc[:, 1:]
    while n and not names[n - 1] and frame.iloc[:, n - 1].isna().all():
        n -= 1
    frame = frame.iloc[:, :n]
    frame.columns = [name or f"Unnamed: {i}" for i, name in enumerate(names[:n])]
    return frame


def names_in(table: Path) -> list[str]:
    """Return the names of the columns of a table; of .jsonl those of its first line, none where it has no such line;
    none of one that cannot be read.
    """
    if table.suffix.lower() in _BINARY:
        try:
            return [str(name) for name in read_table(table).columns]
        except DataError:  # any file beside pictures may have such a name
            return []
    if table.suffix.lower() != ".jsonl":
        return next(csv.reader([_head(table)], delimiter=_mark(table), skipinitialspace=True), [])
    try:
        first = json.loads(_head(table) or "{}")
    except ValueError:
        first = {}
    return list(first) if isinstance(first, dict) else []


def _mark(table: Path) -> str:
    """Return what stands between cells: of a .tsv a tab, else a comma, unless the first line has none."""
    if table.suffix.lower() == ".tsv":
        return "\t"
    return next((mark for mark in (",", ";", "\t", "|") if mark in _head(table)), ",")


def _head(table: Path) -> str:
    """Return the first line, which any file beside pictures may have, empty where it cannot be read."""
    try:
        with table.open(encoding="utf-8-sig", errors="replace") as stream:
            return stream.readline(_LONGEST_LINE).rstrip("\n")
    except OSError:
        return ""


def table_rows(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Give the rows of a .csv, .tsv or .jsonl by column, each with the number of the line on which it ends."""
    if table.suffix.lower() == ".jsonl":
        for line, text in enumerate(text_lines(table), 1):
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except ValueError as error:
                raise DataError(
                    f"{table}, line {line}: got no JSON ({error}), expected an object; repair it"
                ) from error
            if not isinstance(row, dict):
                raise DataError(f"{table}, line {line}: got {text:.40}, expected an object of JSON; repair it")
            yield line, row
        return
    reader = csv.reader(text_lines(table, keep_ends=True), delimiter=_mark(table), skipinitialspace=True)
    try:
        names = next(reader)
        for cells in reader:
            if len(cells) > len(names) and any(cells[len(names) :]):
                raise DataError(
                    f"{table}, line {reader.line_num}: got {len(cells)} cells, expected {len(names)} as in its first "
                    f'line; put a caption that has commas in quotes, "like, this"'
                )
            if any(cells):
                yield reader.line_num, dict(zip(names, cells, strict=False))
    except csv.Error as error:
        raise DataError(
            f"{table}, line {reader.line_num}: got {error}, expected a row of a table; repair it"
        ) from error


def text_lines(file: Path, keep_ends: bool = False) -> list[str]:
    """Return the lines of a text file in UTF-8; DataError where it cannot be read."""
    try:
        check_bytes(file, file.stat().st_size)
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: got another encoding than UTF-8 ({error}); save it as UTF-8") from error
    except OSError as error:
        raise DataError(
            f"{file}: got a file that cannot be read ({error.strerror or error}); make it readable"
        ) from error
    return io.StringIO(text).readlines() if keep_ends else [line.rstrip("\n") for line in io.StringIO(text)]
