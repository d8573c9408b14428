"""From numbers to the raw values that are kept: pictures as bytes or float32, vectors as float64. Always a copy."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from multiebm.core.errors import DataError
from multiebm.core.handed import SHOWN, Array, Mask
from multiebm.core.modality import RAW_LIMIT, Modality

STATE_LIMIT = 1e9  # standard deviations from the training mean; networks square them, and float32 ends at 3e38
TOLERANCE = 1e-6  # share of a range by which rounding may leave it; such values are clamped


def as_vector(values: Array, present: Mask, where: str) -> Tensor:
    """Return numbers [N, D] as float64, with rows that are not `present` (bool [N]) zero; DataError if not finite."""
    kept = np.zeros(values.shape, np.float64)
    kept[present] = values[present]
    with np.errstate(invalid="ignore"):
        _refuse(~(np.abs(kept) <= RAW_LIMIT), where)
    return torch.from_numpy(kept)


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
        _refuse(bad, where)
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


def check_dark(of_splits: Sequence[tuple[Tensor, Tensor]], where: str) -> None:
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


def check_state(modality: Modality, raw: Tensor, present: Tensor, where: str) -> None:
    """Refuse vectors [N, D] whose standardised values, where `present` (bool [N]), lie where arithmetic ends."""
    if modality.kind == "picture":
        return
    size = modality.to_state(raw).abs_().masked_fill_(~present[:, None], 0)
    far = (~(size <= STATE_LIMIT).all(1)).nonzero()[:, 0].tolist()
    if far:
        row, column = far[0], int(size[far[0]].nan_to_num(nan=float("inf")).argmax())
        raise DataError(
            f"{where}: got {raw[row, column].item():g} in row {row}, column {column} ({len(far)} rows in all, first "
            f"{far[:SHOWN]}), expected at most {STATE_LIMIT:g} standard deviations from the mean of training; repair "
            "them, or mark those entries absent in `present`"
        )


def _refuse(bad: Mask, where: str) -> None:
    if len(rows := np.flatnonzero(bad.reshape(len(bad), -1).any(1))):
        raise DataError(
            f"{where}: got NaN or infinite values in {len(rows)} rows, first {rows[:SHOWN].tolist()}, expected finite "
            f"numbers below {RAW_LIMIT:g}; repair them, or mark those entries absent in `present`"
        )


def _declare(low: float, high: float) -> str:
    span = f"[{low:g}, {high:g}]" if low < high else "[black, white]"
    return f"declare range: {span} for this modality of the data set"
