"""From numbers to the pictures that are kept: bytes, or float32 in a range. Always a copy."""

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from multiebm.core.errors import DataError
from multiebm.core.handed import Array, Mask
from multiebm.modalities.base import RAW_LIMIT, Given, is_number, refuse

logger = logging.getLogger("multiebm")

AXES = {"chw": "C, H, W", "hwc": "H, W, C"}  # by layout
TOLERANCE = 1e-6  # share of a range by which rounding may leave it; such values are clamped
_LEVELS = 1000  # that float32, in which pictures are kept, must tell apart in their range


def range_problem(span: Any) -> str | None:
    """Return what is wrong with the declared range of a picture, as "got ..., expected ..."; None if nothing is."""
    fits = isinstance(span, list | tuple) and len(span) == 2 and all(map(is_number, span)) and span[0] < span[1]
    if not fits:
        return f"got {span!r}, expected [low, high], two numbers, black and white; correct it"
    low, high = map(float, span)
    if (far := max(abs(low), abs(high))) > RAW_LIMIT:
        return f"got {span!r}, expected numbers of at most {RAW_LIMIT:g}; scale the values down"
    if high - low < _LEVELS * far * torch.finfo(torch.float32).eps:
        return (
            f"got {span!r}, too narrow so far from 0 for float32, expected one around 0; subtract low from the values"
        )
    return None


def check_layout(shape: tuple[int, ...], layout: str, where: str) -> None:
    """Refuse what is far more likely pictures of the other layout: as that, grey or RGB with sides above 4, and as
    declared, strips of 1 or 3 pixels in many channels. Warn where either may be; the declaration counts.
    """
    channels, other = (shape[1], shape[3]) if layout == "chw" else (shape[3], shape[1])
    if channels <= 4 or other > 4:
        return
    swapped, axes = ("hwc", "(0, 2, 3, 1)") if layout == "chw" else ("chw", "(0, 3, 1, 2)")
    text = (
        f"{where}: got shape {shape}, expected (N, {AXES[layout]}) as declared by layout {layout}; this looks like "
        f"{swapped.upper()}, so declare layout: {swapped}"
    )
    if other in (1, 3) and shape[2] > 4:
        raise DataError(f"{text} (if there are {channels} channels, do so and pass array.transpose{axes})")
    logger.warning("%s if it is", text)


def as_picture(values: Array, span: Sequence[float] | None, present: Mask, where: str) -> Tensor:
    """Return pictures [N, ...] as uint8, where they are bytes or bool, or float32 in the range `span`.

    Without a range bytes are 0..255, bool black and white, and floats in [0, 1]; other integers are refused. What
    leaves the range by rounding is clamped, and floats that are not `present` (bool [N]) become `low`.
    """
    if span is None and values.dtype == bool:
        return torch.from_numpy(values.astype(np.uint8, order="C") * np.uint8(255))
    if span is None and values.dtype == np.uint8:
        return torch.from_numpy(np.array(values, order="C"))
    low, high = map(float, (0, 1) if span is None else span)
    rows = values[present]
    if values.dtype.kind == "f":
        bad = np.zeros(values.shape, bool)
        bad[present] = ~np.isfinite(rows)
        refuse(bad, where)
    least, most = (float(rows.min()), float(rows.max())) if rows.size else (low, low)
    if span is None and values.dtype.kind != "f":
        raise DataError(
            f"{where}: got dtype {values.dtype} in [{least:g}, {most:g}], expected uint8 or floats in [0, 1]; "
            f"{_declare(min(least, 0), 2 ** math.ceil(math.log2(max(most, 1) + 1)) - 1)}, or what black and white are, "
            "or convert it"
        )
    slack = TOLERANCE * (high - low)
    if least < low - slack or most > high + slack:
        fix = f"{_declare(least, most)}, or clip the values"
        if span is None:
            signed = "map it to [0, 1], for example (x + 1) / 2 when it is in [-1, 1]"
            fix = f"{'divide by 255, or pass uint8' if least >= 0 else signed}, or {_declare(least, most)}"
        raise DataError(
            f"{where}: got {'floats' if values.dtype.kind == 'f' else values.dtype} in [{least:g}, {most:g}], expected "
            f"[{low:g}, {high:g}]; {fix}"
        )
    if values.dtype.kind == "b" or values.dtype == np.uint8:
        return torch.from_numpy(values.astype(np.uint8, order="C"))
    kept = np.full(values.shape, low, np.float32)
    kept[present] = np.clip(rows, low, high)
    return torch.from_numpy(kept)


def check_dark(of_splits: Sequence[Given], where: str) -> None:
    """Refuse pictures of a whole set that are nearly black, so are not in the units that they are taken for.

    These are bytes that never pass an eighth of 255 (masks, classes, other grey levels), and floats that vary and never
    pass 1 / 255 (divided twice). Given the raw values [N, ...] of every split, and which are present, bool [N].
    """
    rows = [raw[present] for raw, present in of_splits if present.any()]
    least = min((float(of.min()) for of in rows), default=0)
    most = max((float(of.max()) for of in rows), default=0)
    if any(raw.dtype == torch.uint8 for raw, _ in of_splits):
        if 0 < most < 32 and (most == 1 or least < most):
            raise DataError(
                f"{where}: got uint8 in [{least:g}, {most:g}], expected them in 0..255, of which these are nearly "
                f"black; {_declare(0, most)}, or range: [0, 255] if they are that dark"
            )
    elif least < most <= (1 + TOLERANCE) / 255:
        raise DataError(
            f"{where}: got floats in [{least:g}, {most:g}], expected them in [0, 1], of which these are nearly black; "
            f"if bytes were divided by 255 twice, do it once, or {_declare(0, most)}, or range: [0, 1] if they are "
            "that dark"
        )


def _declare(low: float, high: float) -> str:
    span = f"[{low:g}, {high:g}]" if low < high else "[black, white]"
    return f"declare range: {span} for this modality of the data set"
