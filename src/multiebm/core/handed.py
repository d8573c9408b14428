"""What users hand over from Python, read once for training and use alike: plain arrays, with their names.

Numbers come as NumPy arrays (masked ones too), torch tensors, scipy's sparse matrices, data frames and series, or
nested lists. Foreign kinds are known by their methods: nothing is imported for them. `docs/data.md` is the table.
"""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence, Sized
from decimal import Decimal
from functools import partial
from numbers import Real
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multiebm.core.cells import is_empty, is_missing, is_text, odd_cells, without_digits
from multiebm.core.errors import DataError, ModalityError
from multiebm.core.frames import as_known, check_order, column_names, without_lists
from multiebm.core.rows import are_pictures, check_even, has_axes, in_colours, stacked
from multiebm.core.table import nearest

logger = logging.getLogger("multiebm")

Array = NDArray[Any]
Mask = NDArray[np.bool_]

DENSE_LIMIT = 2**28  # values of a sparse matrix that are made dense without asking: 2 GiB of float64
SHOWN = 5  # rows named in a message
WAS = "multiebm_was"  # in `attrs` of a data frame that was made of something else: what that was
NOT_NUMBERS = {
    "c": ("complex numbers", "pass .real and .imag as two columns"),
    **dict.fromkeys("US", ("text", "convert it to numbers, or encode its classes, one column each")),
    "M": ("dates", "convert them to numbers, array.astype('datetime64[s]').astype('int64')"),
    "m": ("time spans", "convert them to numbers, array / numpy.timedelta64(1, 's')"),
    "V": ("records with fields", "use numpy.lib.recfunctions.structured_to_unstructured(array)"),
}
_NO_VALUE = "say that it is missing, missing: nan (--missing nan, in Python missing='nan')"
_TIME = (
    "make numbers of them, such as days, (column - column.min()).dt.days (of dates first pandas.to_datetime(column))"
)
_SPAN = "make numbers of them, such as hours, column / pandas.Timedelta('1h')"
FIXES = {  # of objects by the name of their type
    **dict.fromkeys(("NoneType", "NAType", "NaTType"), _NO_VALUE),
    **dict.fromkeys(("Timestamp", "datetime", "date"), _TIME),
    **dict.fromkeys(("Timedelta", "timedelta"), _SPAN),
    **dict.fromkeys(
        ("PosixPath", "WindowsPath"),
        "open them, [PIL.Image.open(path) for path in paths], or hand over "
        "their folder, with a table in it if there is more",
    ),
    "str": "make numbers of them, or put the column into a part of its own, of kind: category",
    "Period": "make times of them, column.dt.to_timestamp(), and numbers of these, (times - times.min()).dt.days, or "
    "classes, column.astype(str) and kind: category",
}
_TIMES = ("M", "m")  # dates and time spans, which as objects may become whole numbers


class Handed(NamedTuple):
    """One array as it was handed over. `values` [N, ...] may share memory with the caller's; `masked` is bool of that
    shape (a masked array's own mask); `columns` are the names that a data frame has; `was` is what its type said of it.
    """

    values: Array
    masked: Mask | None = None
    columns: tuple[str, ...] = ()
    was: Literal["", "sparse", "categories", "gaps"] = ""  # gaps: rows that are None in a list of arrays

    @property
    def hidden(self) -> Mask:
        """Where a masked array is masked, of the shape [N, ...] of the values; nowhere in any other."""
        return np.zeros(self.values.shape, bool) if self.masked is None else self.masked


def read_arrays(
    parts: Any,
    names: Mapping[str, bool],
    what: str,
    present: Any = None,
    labels: Any = None,
    beside: Sequence[str] = (),
    gaps: Collection[str] = (),
) -> dict[str, Handed]:
    """Return the arrays of `parts`, a dict by modality, [N, ...] each with N at least 1; else DataError.

    ModalityError unless each is one of `names`, which say whether its values are numbers or may be anything; `beside`
    are other names that may have been meant. Numbers of `gaps` may be missing: None and NA among them are NaN. Of
    `present` and `labels`, which are read later, the names of rows are compared with those of the parts.
    """
    if not isinstance(parts, Mapping):
        series = hasattr(parts, "to_frame") and hasattr(parts, "index")
        raise DataError(
            f"{what}: got {_named(parts)}, expected a dict of arrays by modality; say whose values they are, for "
            f"example {{'name': values}}{'; of one row of a table pass table.iloc[[0]]' if series else ''}"
        )
    if not parts:
        raise ModalityError(f"{what}: got none, expected at least one of {', '.join(names)}; sample(n) needs none")
    check_known(parts, list(names), what, beside)
    handed = {
        name: read_array(value, f"{what}, modality {name!r}", name in gaps)
        if names[name]
        else unpack(value, f"{what}, modality {name!r}")
        for name, value in parts.items()
    }
    if lacking := [name for name, part in handed.items() if part.was == "gaps" and name not in gaps]:
        hidden, shape = handed[lacking[0]].hidden, handed[lacking[0]].values.shape
        row = int(hidden.reshape(len(hidden), -1).all(1).argmax())
        got = f"{what}, modality {lacking[0]!r}: got None in row {row}"
        raise DataError(f"{got}, expected an array of shape {shape[1:]} in every row; {_NO_VALUE}")
    if single := [name for name, part in handed.items() if part.values.ndim == 0]:
        got, fix = ("a text", "a list, [text]") if is_text(parts[single[0]]) else ("a single number", "an array")
        raise DataError(f"{what}, modality {single[0]!r}: got {got}, expected one row an item; pass {fix}")
    check_lengths({name: part.values for name, part in handed.items()}, what)
    check_order(parts, present, labels, what)
    return handed


def check_known(given: Iterable[Any], names: Sequence[str], what: str, beside: Sequence[str] = ()) -> None:
    """Raise ModalityError for the first of `given` that is none of `names`; `beside` may have been meant."""
    if unknown := [name for name in given if name not in names]:
        some = f"expected some of {', '.join(names)}.{nearest(str(unknown[0]), [*names, *beside])}"
        raise ModalityError(f"{what}: got unknown modality {unknown[0]!r}, {some} Rename or remove it")


def check_lengths(views: Mapping[str, Sized], what: str) -> None:
    """Raise DataError unless all views [N, ...] have one number N of rows, which is at least 1."""
    lengths = {name: len(view) for name, view in views.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {n}" for name, n in lengths.items())
        widths = {name: getattr(view, "shape", ())[1:2] for name, view in views.items()}
        wide = [name for name, width in widths.items() if width and width[0] in lengths.values()]
        turned = f", or pass the transpose of {wide[0]}, .T, if its columns are the items" if wide else ""
        raise DataError(
            f"{what}: got different lengths ({listed}), expected one; row i of every array must be the same item, so "
            f"pad the shorter ones and mark the padding absent in `present`{turned}"
        )
    if 0 in lengths.values():
        raise DataError(f"{what}: got 0 rows, expected at least 1; the arrays are empty")


def read_array(value: Any, where: str, gaps: bool = False) -> Handed:
    """Return real numbers [N, ...] (bool, integers, floats up to 64 bits, native byte order); DataError says what else
    it is. Python objects become float64, if each of them that is not masked is a real number; with `gaps` None, NA and
    NaT become NaN.
    """
    found = unpack(value, where, numbers=True, gaps=gaps)
    values = found.values
    if gaps and values.dtype == object:
        gone = np.array([is_empty(cell) for cell in values.flat], bool).reshape(values.shape)
        found = found._replace(values=(values := np.where(gone, np.nan, values)))
    if wrong := odd_cells(values, found.hidden, found.columns, declared=True):
        raise DataError(f"{where}{wrong}")
    if (lost := without_digits(values, found.hidden)) is not None:
        column = f", column {lost[1]}" if len(lost) == 2 else ""
        logger.warning(
            "%s%s: got %d in row %d, a whole number beyond 2^53, whose last digits are lost; subtract the least number "
            "of its column, or, if it is the name of a row, leave the column out",
            *(where, column, values[lost], lost[0]),
        )
    if values.dtype == object:
        for place, hidden in np.ndenumerate(found.hidden):
            if not hidden and not isinstance(cell := values[place], Real | Decimal | np.bool_):
                row = f" in row {place[0]}" if place else ""
                at = f", column {place[1]}" if len(place) == 2 else ""
                other = "pass a list of them, list(values)" if hasattr(cell, "__len__") else "convert it"
                fix = FIXES.get("NoneType" if is_empty(cell) else type(cell).__name__, other)
                raise DataError(
                    f"{where}{at}: got {_named(cell)}{row}, expected real numbers; {fix}, or mark what is missing "
                    "absent in `present`"
                )
        try:
            values = np.where(found.hidden, 0, values).astype(np.float64)
        except OverflowError as error:
            raise DataError(f"{where}: got a whole number beyond float64, expected real numbers below 1e37") from error
    dtype = values.dtype
    if dtype.kind not in "biuf":
        got, fix = NOT_NUMBERS.get(dtype.kind, (f"values of type {dtype}", "convert them"))
        raise DataError(f"{where}: got dtype {dtype}, {got}, expected real numbers; {fix}")
    kept = np.dtype(np.float64) if dtype.kind == "f" and dtype.itemsize > 8 else dtype.newbyteorder("=")
    return found._replace(values=values.astype(kept, copy=False))


def unpack(value: Any, where: str, numbers: bool = False, gaps: bool = False) -> Handed:
    """Return the array [N, ...] inside a container, of whatever type its values are (columns of data frames: `numbers`
    if so asked, with `gaps`); DataError where there is none.
    """
    sparse = hasattr(value, "toarray") and hasattr(value, "nnz")  # one of scipy's is a dict, too
    if value is None or isinstance(value, Mapping) and not sparse:
        fix = "of columns by name make a table, pandas.DataFrame(columns)" if isinstance(value, Mapping) else "pass one"
        raise DataError(f"{where}: got {_named(value)}, expected an array of numbers, one row an item; {fix}")
    if hasattr(value, "getbands"):
        raise DataError(f"{where}: got one picture, expected one an item; pass a list, [picture]")
    if hasattr(value, "obs_names"):
        raise DataError(f"{where}: got {_named(value)}, expected an array; pass its .X, or one of its .layers or .obsm")
    if isinstance(value, np.ma.MaskedArray):
        return Handed(np.ma.getdata(value), np.ma.getmaskarray(value))
    try:
        if isinstance(value, Tensor):
            if value.layout != torch.strided:
                _check_dense(value.shape, ".to_dense()", where)
                value = value.to_dense()
            value = (value.dequantize() if value.is_quantized else value).detach().cpu().resolve_conj().resolve_neg()
            if value.is_floating_point() and value.dtype not in (torch.float16, torch.float32, torch.float64):
                value = value.float()  # bfloat16 and smaller, which NumPy has not
            return Handed(value.numpy())
        if sparse:
            _check_dense(value.shape, ".toarray()", where)
            return Handed(np.asarray(value.toarray()), was="sparse")
        if hasattr(value, "to_numpy") and hasattr(value, "columns"):
            return _from_frame(value, where, numbers, gaps)
        if hasattr(value, "to_numpy"):
            dtype = getattr(value, "dtype", None)
            if hasattr(dtype, "categories"):
                return Handed(np.asarray(value.to_numpy()), was="categories")
            if (
                dtype is not None
                and not isinstance(dtype, np.dtype)
                and getattr(dtype, "kind", "O") in "biuf"
                and value.isna().any()
            ):
                # what a nullable type calls missing becomes NaN, and is treated as NaN is
                kept = np.float64 if numbers or dtype.kind != "b" else object  # truth values stay what they are
                return Handed(value.to_numpy(dtype=kept, na_value=np.nan))
            if are_pictures(plain := _plain(value)):
                return _from_list(plain.tolist(), where, numbers)
            return Handed(stacked(plain, where), was="sparse" if hasattr(dtype, "fill_value") else "")
        if isinstance(value, list | tuple):
            return _from_list(value, where, numbers)
        if are_pictures(plain := np.asarray(value)):
            return _from_list(plain.tolist(), where, numbers)
        return Handed(stacked(plain, where))
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise DataError(
            f"{where}: got {_named(value)} that is no array ({error}), expected an array of numbers, a tensor, a data "
            "frame or nested lists; convert it by numpy.asarray"
        ) from error


def _plain(value: Any) -> Array:
    try:
        return np.asarray(value.to_numpy())
    except ValueError:  # as pyarrow's, where texts or gaps are copied
        return np.asarray(value)


def _check_dense(shape: Sequence[int], call: str, where: str) -> None:
    if (size := int(np.prod([int(n) for n in shape], dtype=object))) > DENSE_LIMIT:
        raise DataError(
            f"{where}: got a sparse array of {' x '.join(map(str, shape))} = {size:,} values, expected at most "
            f"{DENSE_LIMIT:,}, because models read dense rows; choose fewer columns, or pass {call} if memory allows"
        )


def _from_frame(frame: Any, where: str, numbers: bool, gaps: bool) -> Handed:
    frame = without_lists(frame, where)
    names = tuple(column_names(frame))
    if len(set(names)) < len(names):
        twice = min(name for name in names if names.count(name) > 1)
        raise DataError(f"{where}: got more than one column called {twice!r}, expected one of each; rename them")
    if not names:
        return Handed(np.zeros((len(frame), 0)))
    each = partial(read_array, gaps=gaps) if numbers else unpack
    read = [each(frame[c], f"{where}, column {name!r}") for c, name in zip(frame.columns, names, strict=True)]
    values, said = [column.values for column in read], {column.was for column in read}
    if not numbers and {"", "categories"} <= said:  # whose classes may be numbers, beside columns that are
        values = [_as_classes(of.values) if of.was == "categories" else of.values for of in read]
    if len({"n" if of.dtype.kind in "iuf" else of.dtype.kind for of in values}) > 1:
        if dates := [(n, of.dtype.kind) for n, of in zip(names, values, strict=True) if of.dtype.kind in _TIMES]:
            got, fix = NOT_NUMBERS[dates[0][1]]
            raise DataError(f"{where}, column {dates[0][0]!r}: got {got}, expected columns of one sort; {fix}")
        values = [of.astype(object) for of in values]  # or truth values among texts would become texts
    was = said.pop() if len(said) == 1 else ""
    return Handed(np.stack(values, 1), columns=names, was=getattr(frame, "attrs", {}).get(WAS, was))


def _as_classes(values: Array) -> Array:
    """Return classes [N] that are numbers as texts, None where NaN; others as they are."""
    if values.dtype.kind not in "iuf":
        return values
    named = [None if cell != cell else str(int(cell) if cell == int(cell) else cell) for cell in values.tolist()]
    return np.array([*named, None], object)[:-1]


def _from_list(rows: Sequence[Any], where: str, numbers: bool) -> Handed:
    rows = [in_colours(row) if hasattr(row, "getbands") else row for row in rows]
    gone = np.array([is_missing(row) for row in rows], bool)
    some = next((row for row, is_gone in zip(rows, gone, strict=True) if not is_gone and has_axes(row)), None)
    if gone.any() and some is not None:
        found = _from_list([some if is_gone else row for row, is_gone in zip(rows, gone, strict=True)], where, numbers)
        return found._replace(masked=(found.hidden.T | gone).T, was="gaps")
    if any(isinstance(row, Tensor | np.ma.MaskedArray) or hasattr(row, "to_numpy") for row in rows):
        each = [unpack(row, f"{where}, row {i}") for i, row in enumerate(rows)]
        check_even([row.values for row in each], where)
        masked = np.stack([row.hidden for row in each]) if any(row.masked is not None for row in each) else None
        return Handed(np.stack([row.values for row in each]), masked)
    try:
        values = np.asarray(rows)
        # or numbers and None among texts would become texts
        return Handed(np.asarray(rows, object) if values.dtype.kind in "US" and not numbers else values)
    except ValueError:
        check_even(rows, where)
        raise


def in_order(part: Handed, known: tuple[str, ...], where: str) -> Handed:
    """Return `part` with the columns of a data frame [N, D] in the order `known`; DataError where they are others."""
    part = part._replace(columns=tuple(as_known(part.columns, known)))
    if not known or not part.columns or part.columns == known:
        return part
    listed = f"expected the {len(known)} of training: {', '.join(known[:10])}{', ...' if len(known) > 10 else ''}"
    if unknown := [name for name in part.columns if name not in known]:
        raise DataError(
            f"{where}: got column {unknown[0]!r}, {listed}.{nearest(unknown[0], list(known))} Rename or drop it, or "
            "pass .to_numpy() to go by position"
        )
    if missing := [name for name in known if name not in part.columns]:
        raise DataError(f"{where}: got no column {missing[0]!r}, {listed}; supply it")
    order = [part.columns.index(name) for name in known]
    masked = None if part.masked is None else part.masked[:, order]
    return part._replace(values=part.values[:, order], masked=masked, columns=known)


def in_columns(part: Handed, columns: tuple[str, ...], n: int, where: str) -> Handed:
    """Return [N, n] (of one column also [N]) with a data frame's in the order `columns`; DataError for other shapes."""
    part = in_order(part, columns, where)
    if part.values.ndim == 1 and n == 1:
        part = part._replace(values=part.values[:, None], masked=None if part.masked is None else part.masked[:, None])
    if (got := part.values.shape)[1:] != (n,):
        message = f"{where}: got shape {got}, expected (rows, {n})"
        if got == (n,):
            raise DataError(f"{message}; of one item pass numpy.asarray(x)[None]")
        fix = f"pass the {n} columns of training" if len(got) == 2 else "reshape it"
        raise DataError(f"{message}; {fix}")
    return part


def _named(value: Any) -> str:
    return "None" if value is None else type(value).__name__ + (f" {value[:20]!r}" if isinstance(value, str) else "")
