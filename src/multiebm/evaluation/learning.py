"""Was training long enough, and did it fluctuate? What its log says."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from multiebm.core.errors import DataError

Sentence = tuple[bool, str]  # whether it is good news
Lines = Sequence[Mapping[str, float | None]]  # of a run's log of training, as in metrics.jsonl
LOSS = "loss/elbo"  # of the log: that of the phase bound
WINDOW = 200  # steps of the running median that is taken from a loss before its fluctuation is measured
LEAST_LINES = 12  # of the log, below which nothing is said of its end
STILL_FALLING = 0.02  # of all that the loss has fallen, in its last quarter


def made_no_step(lines: Lines | None) -> bool:
    """Return whether there is a log of training, without a step."""
    return lines is not None and not lines


def still_learning(lines: Lines | None) -> Sentence | None:
    """Say whether the loss was still falling when training ended; None where the log is too short to say."""
    if made_no_step(lines):
        return False, "Training made no step: the model is as it began."
    if (share := fallen_at_end(lines)) is None:
        return None
    if share <= STILL_FALLING:
        return True, "Training was long enough: its loss had stopped falling."
    return False, f"Training was too short: {share:.0%} of all that its loss fell came in the last quarter."


def is_brief(lines: Lines | None) -> bool:
    """Return whether the log has a loss and ends before anything can be said of its end."""
    return 0 < len(_losses(lines)) < LEAST_LINES


def _losses(lines: Lines | None) -> NDArray[np.float64]:
    """Return the loss [N] of the lines that have one."""
    found = (line.get(LOSS) for line in lines or ())
    return np.array([value for value in found if isinstance(value, int | float)], float)


def fallen_at_end(lines: Lines | None) -> float | None:
    """Return by what share of its whole fall the loss fell in the last quarter of the log, by a straight line through
    the last third; 0 where that is not beyond the noise of single lines, None where the log is too short.
    """
    if len(loss := _losses(lines)) < LEAST_LINES:
        return None
    end, start = loss[-max(len(loss) // 3, 4) :], float(loss[: max(len(loss) // 20, 1)].mean())
    at = np.arange(len(end)) - (len(end) - 1) / 2
    slope = float(at @ end / (at @ at))
    noise = float(np.sqrt(np.square(end - end.mean() - slope * at).sum() / (len(end) - 2) / (at @ at)))
    whole = start - float(end.mean()) - slope * float(at[-1])
    return -slope * (len(loss) // 4) / whole if whole > 0 and -slope > 2 * noise else 0.0


def fluctuation(loss: Sequence[float], scale: float, window: int = WINDOW) -> float:
    """Return the standard deviation of a loss [T] around its running median, over `scale`, a number above 0.

    The median is over the `window` values around each one (W and the next W - 1 of an even 2 W), fewer at the ends.
    `loss` holds one value a step; `scale` is the standard deviation of E over data, so that energies of different
    scales compare. DataError where there are fewer than two values, or one of them or the scale is not usable.
    """
    x = np.asarray(loss, float)
    if x.ndim != 1 or len(x) < 2 or not np.isfinite(x).all() or not scale > 0 or window < 1:
        raise DataError(
            f"fluctuation: got a loss of shape {x.shape}, scale {scale} and window {window}, expected two finite "
            "values or more, a scale and a window above 0; read a log with one line a step (training.log_every=1)"
        )
    before, after = window // 2, window - window // 2
    trend = [np.median(x[max(0, t - before) : t + after]) for t in range(len(x))]
    return float(np.std(x - trend)) / scale
