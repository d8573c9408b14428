"""Ranges of the raw values of pictures, black to white."""

import math
from typing import Any

import torch

from multiebm.core.handed import Array
from multiebm.modalities.base import RAW_LIMIT, is_number

_LEVELS = 1000  # that float32, in which pictures are kept, must tell apart in their range


def range_of_bits(values: Array) -> dict[str, Any]:
    """Return the range of 16-bit numbers: cameras have 10, 12, 14 or 16 bits, of which the brightest one says."""
    is_wide = values.dtype.kind == "u" and values.dtype.itemsize == 2 and values.size
    return {"range": [0, 2 ** max(8, 2 * math.ceil(math.log2(int(values.max()) + 1) / 2)) - 1]} if is_wide else {}


def range_problem(span: Any) -> str | None:
    """Return what is wrong with the declared range of a picture, as "got ..., expected ..."; None if nothing is."""
    fits = isinstance(span, list | tuple) and len(span) == 2 and all(map(is_number, span)) and span[0] < span[1]
    if not fits:
        return f"got {span!r}, expected [low, high], two numbers, black and white; correct it"
    low, high = map(float, span)
    if (far := max(abs(low), abs(high))) > RAW_LIMIT:
        return f"got {span!r}, expected numbers of at most {RAW_LIMIT:g}; scale the values down"
    if high - low < _LEVELS * far * torch.finfo(torch.float32).eps:
        return f"got {span!r}, too narrow so far from 0 for float32, expected one near 0; subtract low from the values"
    return None


def declare_range(low: float, high: float) -> str:
    """Return the words that say how values from `low` to `high` are declared."""
    span = f"[{low:g}, {high:g}]" if low < high else "[black, white]"
    return f"declare range: {span} for this modality of the data set"
