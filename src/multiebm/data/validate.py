"""Checks of the user's arrays: every message names the modality, what was given, what was expected, and the fix."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multiebm.core.errors import DataError, ModalityError
from multiebm.core.table import nearest

Array = NDArray[np.generic]
Mask = NDArray[np.bool_]

MAX_CHANNELS = 4  # a last axis this short, and a first axis that is not, is taken for channels
_SHOWN = 5  # rows named in a message


def check_names(given: Sequence[str], declared: Sequence[str], what: str) -> None:
    """Raise ModalityError unless the arrays `given` are exactly the modalities `declared`."""
    for name in given:
        if name not in declared:
            raise ModalityError(
                f"{what}: got an array for unknown modality {name!r}, expected {', '.join(declared)}."
                f"{nearest(name, list(declared))} Declare it in `modalities`, or remove the array"
            )
    for name in declared:
        if name not in given:
            raise ModalityError(
                f"{what}: got no array for modality {name!r}, expected one for each of {', '.join(declared)}; "
                f"supply it (entries that are missing are marked in `present`)"
            )


def check_lengths(views: Mapping[str, Array], what: str) -> int:
    """Return the number N of rows that all views [N, ...] share; DataError when they differ or there are none."""
    lengths = {name: len(view) if view.ndim else 0 for name, view in views.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {n}" for name, n in lengths.items())
        raise DataError(
            f"{what}: got different lengths ({listed}), expected one; row i of every array must be the same item, so "
            f"pad the shorter ones and mark the padding absent in `present`"
        )
    n = next(iter(lengths.values()))
    if n == 0:
        raise DataError(f"{what}: got 0 rows, expected at least 1; the arrays are empty")
    return n


def check_present(
    present: Array | Mapping[str, Array] | None, names: Sequence[str], n: int, what: str
) -> NDArray[np.bool_]:
    """Return the presence mask [n, M], columns in the order of `names`, from an [n, M] array or name -> [n] (modalities
    left out are present everywhere); all present for None.
    """
    if present is None:
        return np.ones((n, len(names)), dtype=bool)
    if isinstance(present, Mapping):
        for name in present:
            if name not in names:
                raise ModalityError(
                    f"{what}, present: got unknown modality {name!r}, expected some of {', '.join(names)}."
                    f"{nearest(name, list(names))} Correct the name"
                )
        columns = [
            _check_mask(np.asarray(present.get(name, np.ones(n, bool))), (n,), f"{what}, {name}") for name in names
        ]
        return np.stack(columns, axis=1)
    return _check_mask(np.asarray(present), (n, len(names)), f"{what}, columns {', '.join(names)}")


def check_picture(name: str, values: Array, layout: str, present: Mask, what: str) -> Tensor:
    """Return pictures as uint8 [N, C, H, W] from the declared layout; floats in [0, 1] are rounded to 8 bits, and
    their absent rows become 0.
    """
    where = f"{what}, modality {name!r}"
    if values.ndim != 4:
        extra = "; for grey pictures add a channel axis, array[:, None]" if values.ndim == 3 else "; reshape it"
        raise DataError(f"{where}: got shape {values.shape}, expected 4 axes, (N, {_axes(layout)}){extra}")
    if 0 in values.shape:
        raise DataError(f"{where}: got shape {values.shape}, expected no axis of length 0; check how it was made")
    first, last = values.shape[1] <= MAX_CHANNELS, values.shape[3] <= MAX_CHANNELS
    if (first, last) == ((False, True) if layout == "chw" else (True, False)):
        other = "hwc" if layout == "chw" else "chw"
        raise DataError(
            f"{where}: got shape {values.shape}, expected (N, {_axes(layout)}) as declared by layout {layout}; this "
            f"looks like {other.upper()}, so declare layout: {other}"
        )
    if layout == "hwc":
        values = values.transpose(0, 3, 1, 2)
    if values.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(values))
    if not np.issubdtype(values.dtype, np.floating):
        raise DataError(f"{where}: got dtype {values.dtype}, expected uint8 or floats in [0, 1]; cast it to uint8")
    values = _finite(values, present, where)
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        fix = (
            "divide by 255, or pass uint8"
            if low >= 0
            else "map it to [0, 1], for example (x + 1) / 2 when it is in [-1, 1]"
        )
        raise DataError(f"{where}: got floats in [{low:g}, {high:g}], expected [0, 1]; {fix}")
    return torch.from_numpy(np.rint(values * 255).astype(np.uint8, order="C"))


def check_vector(name: str, values: Array, present: Mask, what: str) -> Tensor:
    """Return vectors as float32 [N, D]; what is not present becomes 0."""
    where = f"{what}, modality {name!r}"
    if values.ndim != 2 or values.shape[1] == 0:
        extra = (
            "for one number a row use array[:, None]"
            if values.ndim == 1
            else "flatten it, array.reshape(len(array), -1)"
        )
        raise DataError(f"{where}: got shape {values.shape}, expected a vector's (N, D) with D at least 1; {extra}")
    if values.dtype.kind not in "fiub":
        raise DataError(f"{where}: got dtype {values.dtype}, expected real numbers; cast it to float32")
    return torch.from_numpy(_finite(values, present, where))


def check_labels(labels: Array | None, n: int, what: str) -> Tensor | None:
    """Return labels as int64 of shape [n]; DataError when they are not n whole numbers from 0."""
    if labels is None:
        return None
    if labels.shape != (n,):
        raise DataError(f"{what}, labels: got shape {labels.shape}, expected ({n},), one for each row; supply them all")
    if labels.dtype.kind not in "iu":
        raise DataError(
            f"{what}, labels: got dtype {labels.dtype}, expected integers 0 .. classes - 1; number the classes, for "
            f"example by numpy.unique(labels, return_inverse=True)[1]"
        )
    if labels.min() < 0:
        row = int(labels.argmin())
        raise DataError(
            f"{what}, labels: got {labels[row]} in row {row}, expected 0 or more; number the classes from 0"
        )
    return torch.from_numpy(labels.astype(np.int64))


def _finite(values: Array, present: Mask, where: str) -> NDArray[np.float32]:
    """Return float32 values with absent rows zero; DataError names the first present rows with NaN or Inf."""
    shape = (-1, *[1] * (values.ndim - 1))
    with np.errstate(over="ignore"):  # what overflows float32 is reported as infinite just below
        kept = np.where(present.reshape(shape), values, 0).astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(kept).reshape(len(kept), -1).all(1))
    if len(bad):
        raise DataError(
            f"{where}: got NaN or infinite values in {len(bad)} rows, first {bad[:_SHOWN].tolist()}, expected finite "
            f"float32; repair them, or mark those entries absent in `present`"
        )
    return kept


def _check_mask(mask: Array, shape: tuple[int, ...], where: str) -> Mask:
    if mask.shape != shape:
        raise DataError(f"{where}, present: got shape {mask.shape}, expected {shape}; one entry a row and modality")
    if mask.dtype != bool:
        raise DataError(f"{where}, present: got dtype {mask.dtype}, expected bool; use mask.astype(bool)")
    return mask.astype(bool)


def _axes(layout: str) -> str:
    return ", ".join(layout.upper())
