"""Checks of the user's arrays: every message names the modality, what was given, what was expected, and the fix."""

import logging
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from multiebm.core.errors import DataError, ModalityError
from multiebm.core.handed import Array, Mask, unpack
from multiebm.core.raw import as_picture, as_vector
from multiebm.core.table import nearest

logger = logging.getLogger("multiebm")

UNKNOWN = -1  # the code of a label that is not known
Class = int | str


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


def check_picture(name: str, values: Array, declared: Mapping[str, Any], present: Mask, what: str) -> Tensor:
    """Return pictures as [N, C, H, W] from the declared layout: uint8, or float32 in [0, 1] or the declared range."""
    where, layout = f"{what}, modality {name!r}", declared["layout"]
    if values.ndim != 4:
        channel = "array[:, None]" if layout == "chw" else "array[..., None]"
        extra = f"for grey pictures add a channel axis, {channel}" if values.ndim == 3 else "reshape it"
        raise DataError(f"{where}: got shape {values.shape}, expected 4 axes, (N, {_axes(layout)}); {extra}")
    if 0 in values.shape:
        raise DataError(f"{where}: got shape {values.shape}, expected no axis of length 0; check how it was made")
    _check_layout(values.shape, layout, where)
    if layout == "hwc":
        values = values.transpose(0, 3, 1, 2)
    return as_picture(values, declared.get("range"), present, where)


def _check_layout(shape: tuple[int, ...], layout: str, where: str) -> None:
    """Refuse what is far more likely pictures of the other layout: as that, grey or RGB with sides above 4, and as
    declared, strips of 1 or 3 pixels in many channels. Warn where either may be; the declaration counts.
    """
    channels, other = (shape[1], shape[3]) if layout == "chw" else (shape[3], shape[1])
    if channels <= 4 or other > 4:
        return
    swapped, axes = ("hwc", "(0, 2, 3, 1)") if layout == "chw" else ("chw", "(0, 3, 1, 2)")
    text = (
        f"{where}: got shape {shape}, expected (N, {_axes(layout)}) as declared by layout {layout}; this looks like "
        f"{swapped.upper()}, so declare layout: {swapped}"
    )
    if other in (1, 3) and shape[2] > 4:
        raise DataError(f"{text} (if there are {channels} channels, do so and pass array.transpose{axes})")
    logger.warning("%s if it is", text)


def check_vector(name: str, values: Array, declared: Mapping[str, Any], present: Mask, what: str) -> Tensor:
    """Return vectors as float64 [N, D]; what is not present becomes 0."""
    where = f"{what}, modality {name!r}"
    if values.ndim != 2 or values.shape[1] == 0:
        extra = (
            "for one number a row use array[:, None], of a series series.to_frame()"
            if values.ndim == 1
            else "flatten it, array.reshape(len(array), -1)"
        )
        raise DataError(f"{where}: got shape {values.shape}, expected a vector's (N, D) with D at least 1; {extra}")
    return as_vector(values, present, where)


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
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.shape != (n,):
        one_hot = values.ndim == 2 and values.dtype.kind in "biuf" and bool((np.sort(values)[:, :-1] == 0).all())
        fix = "of one-hot rows pass labels.argmax(1)" if one_hot and len(values) == n else "supply them all"
        raise DataError(f"{where}: got shape {values.shape}, expected ({n},), one for each row; {fix}")
    hidden = found.hidden.reshape(n)
    read = [None if hidden[i] else _label(value, i, where) for i, value in enumerate(values.tolist())]
    if len({type(label) for label in read if label is not None}) > 1:
        raise DataError(f"{where}: got both texts and numbers, expected one of them; convert them, labels.astype(str)")
    return read


def code_labels(splits: Sequence[list[Class | None] | None]) -> tuple[list[Tensor | None], tuple[Class, ...] | None]:
    """Return labels of splits as int64 codes (their place among the distinct values of all splits, UNKNOWN where they
    are unknown), and those values in order. None for both where there is no label that is known.
    """
    known = {label for split in splits if split is not None for label in split if label is not None}
    if not known:
        return [None] * len(splits), None
    classes = tuple(sorted(known))  # all are texts or all are numbers
    code = {label: i for i, label in enumerate(classes)} | {None: UNKNOWN}
    return [None if split is None else torch.tensor([code[label] for label in split]) for split in splits], classes


def _label(value: Any, row: int, where: str) -> Class | None:
    value = value.item() if isinstance(value, Tensor | np.generic) and not value.ndim else value
    value = value.decode() if isinstance(value, bytes) else value
    if value is None or isinstance(value, str):
        return value
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, Real):
        number = float(value)
        if number != number or number == UNKNOWN:
            return None
        if isinstance(value, Integral) or number.is_integer():
            return int(value)  # type: ignore[call-overload]
    raise DataError(
        f"{where}: got {value!r} in row {row}, expected whole numbers or texts, and -1, None or NaN where one is "
        "unknown; name the classes"
    )


def _axes(layout: str) -> str:
    return ", ".join(layout.upper())
