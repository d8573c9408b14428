"""How a learning rate moves from one value to another."""

import math


def half_cosine(start: float, end: float, progress: float) -> float:
    """Return the way from `start` to `end` along half a cosine; progress is clipped to [0, 1]."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))
