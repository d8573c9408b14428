"""What says that a value is missing: the declaration `missing`, and codes such as -999 that stand for it unsaid."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SHARE, LEAST = 0.02, 3  # of the cells of a column that a code fills, and how many cells at least
AT_ONE_END = 3  # codes beyond the other values, such as 97, 98 and 99
WIDE, NEAR, APART = 1.0, 0.25, 10.0  # ranges of the other values between them and any code, a usual one, one beside few
VALUES = 5  # that the others have at least, or 0 beside 50 and 100 would be one


class Code(NamedTuple):
    """A value of a column far outside the others, which lie between `low` and `high`: `share` of its cells have it."""

    column: int
    value: float
    share: float
    low: float
    high: float


def missing_problems(where: str, declared: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with `missing` in a declaration."""
    given = declared.get("missing")
    if given is None or isinstance(given, str) and given == "nan":
        return []
    got, fix = repr(given), f"first make NaN of cells that are {given!s:.40}, or remove it"
    if given != given:
        got, fix = "the number nan", "write missing='nan'"
    return [f"{where}.missing: got {got}, expected nan, a word, which says that NaN means missing; {fix}"]


def of_one_value(raw: Tensor) -> list[int]:
    """Return the places of the columns of raw values [N, D] that have one value, or none but NaN."""
    least, largest = raw.nan_to_num(nan=torch.inf).amin(0), raw.nan_to_num(nan=-torch.inf).amax(0)
    return (least >= largest).nonzero()[:, 0].tolist()


def codes_in(values: NDArray[Any]) -> list[Code]:
    """Return the codes of values [N, D], NaN where one is missing: what many cells have at the end of a column, with
    wide a gap between it and the others.
    """
    gone = np.isnan(values)
    least, largest = np.where(gone, np.inf, values).min(0), np.where(gone, -np.inf, values).max(0)
    often = np.maximum((values == least).sum(0), (values == largest).sum(0)) >= LEAST
    return [code for at in np.flatnonzero(often & (least < largest)) for code in _codes_of(values[:, at], int(at))]


def _codes_of(column: NDArray[Any], at: int) -> list[Code]:
    values, counts = np.unique(column[~np.isnan(column)], return_counts=True)
    n = int(counts.sum())
    many = counts >= max(LEAST, SHARE * n)
    ways = [(k, j) for k in range(AT_ONE_END + 1) for j in range(AT_ONE_END + 1) if 0 < k + j <= len(values) - 2]
    for k, j in sorted(ways, key=sum, reverse=True):  # codes at both ends are none of the others
        ends, others = (values[:k][::-1], values[len(values) - j :]), values[k : len(values) - j]
        low, high = float(others[0]), float(others[-1])
        if (many[:k].all() and many[len(values) - j :].all()) and all(
            _is_apart(of, abs(float(of[0]) - beside), len(others), high - low)
            for of, beside in zip(ends, (low, high), strict=True)
            if len(of)
        ):
            coded = [*range(k), *range(len(values) - 1, len(values) - 1 - j, -1)]
            return [Code(at, float(values[i]), int(counts[i]) / n, low, high) for i in coded]
    return []


def _is_apart(codes: NDArray[Any], gap: float, others: int, span: float) -> bool:
    """Return whether values are so far from so many `others`, which span so much, that they are codes."""
    usual = all(_is_usual(value) for value in codes)
    return (others >= VALUES and gap > (NEAR if usual else WIDE) * span) or (usual and gap > APART * span)


def _is_usual(value: float) -> bool:
    """Return whether codes are called so: -1, -9, 99, 999, -999 and so on, and 97 and 98 beside 99."""
    near = {str(int(abs(value)) + more) for more in range(3)} if float(value).is_integer() else set()
    return value in (-1, -9) or any(len(of) > 1 and set(of) == {"9"} for of in near)
