"""Names of metrics that several floors read, and which of their values say that training has diverged."""

import math
from collections.abc import Mapping

GAP = "energy/gap"  # E(data) - E(refined), which the guard holds within a limit
BELONGING = "loss/belonging"  # of the energy of interaction, nats an item
PRIOR_CODES = "prior/positive_max"  # how far out codes lie
PRIOR_DRAWS = "prior/negative_max"  # how far out the chain of a prior ends
BASE_DRAWS = "prior/base_max"  # how far out its base reaches
TILT_STD = "prior/tilt_std"  # of the tilt over codes, samples and draws of the base, nats; also a number of the state


def find_problem(metrics: Mapping[str, float], limits: Mapping[str, float]) -> str | None:
    """Say which metric has diverged, its value and what was expected of it; None if none has.

    Losses, gradient norms and the gap have to be finite, the metrics named in `limits` within plus or minus theirs.
    """
    draws, base = metrics.get(PRIOR_DRAWS, 0.0), metrics.get(BASE_DRAWS, 0.0)
    if math.isfinite(base) and not math.isfinite(draws):  # the tilt takes every loss with it that reads its draws
        return f"{PRIOR_DRAWS} is {draws}, expected a finite number"
    for name, value in metrics.items():
        if name.startswith(("loss", "grad_norm", GAP)) and not math.isfinite(value):
            return f"{name} is {value}, expected a finite number"
    for name, most in limits.items():
        value = metrics.get(name, 0.0)
        if not abs(value) <= most:  # nor is what is not finite
            return f"{name} is {value:.4g}, expected within +-{most:g}"
    return None
