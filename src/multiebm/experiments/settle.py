"""When the steps are over: averaged weights, priors that settle, and how much of a time budget that takes."""

import logging
import math
import time
from copy import deepcopy
from typing import NamedTuple

import torch

from multiebm.core.errors import DivergenceError
from multiebm.core.progress import listening
from multiebm.experiments.build import settling
from multiebm.experiments.schema import Experiment
from multiebm.models.model import MultimodalModel
from multiebm.training.priors import TILT_STD, settle_priors, warn_if_dead
from multiebm.training.state import TrainState

REFIT_BATCHES = 128  # that fitted mixtures see when training is over
MOST = 0.3  # share of training.seconds that settling may take
REHEARSED, REHEARSED_STEPS = 4, 20  # batches and steps by which it is timed

logger = logging.getLogger(__name__)


class Settling(NamedTuple):
    """The `share` of batches and steps with which priors settle, and the seconds that this should take."""

    share: float
    seconds: float


def take_average(state: TrainState[MultimodalModel], experiment: Experiment, share: float = 1.0) -> None:
    """Give the model its averaged weights for good, and put it in evaluation mode: training is over.

    Priors settle on the codes that the averaged weights give to the stream's next batches, with a `share` of the
    batches and steps. DivergenceError where they cannot.
    """
    model = state.model.eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in state.average:
                parameter.copy_(state.average[name])
    if not experiment.training.phase("settle").steps:  # or it has yet to learn
        warn_if_dead(state.numbers.get(TILT_STD))
    how = settling(experiment, state.numbers)
    batches = (next(state.stream).to(model.device) for _ in range(math.ceil(share * REFIT_BATCHES)))
    settle_priors(model, batches, state.generator, **how | {"steps": math.ceil(share * how["steps"])})


def settling_within(state: TrainState[MultimodalModel], experiment: Experiment) -> Settling:
    """Return how priors settle within MOST of `training.seconds`: in full, or with the share of it that this allows."""
    budget, needed = experiment.training.seconds or math.inf, time_to_settle(state, experiment)
    share = min(1.0, MOST * budget / needed) if needed else 1.0
    return Settling(share, share * needed)


def time_to_settle(state: TrainState[MultimodalModel], experiment: Experiment) -> float:
    """Return the seconds that settling takes, by a small part of it on a copy: `state` stays as it is, draws too."""
    t, how = experiment.training, settling(experiment, state.numbers)
    # a mixture is fitted to no fewer codes than two a dimension, and an item gives two
    n = max(REHEARSED, math.ceil(experiment.model.shared / t.batch_size))
    steps = min(REHEARSED_STEPS, how["steps"])
    model, at = deepcopy(state.model).eval(), state.stream.state_dict()
    batches = [next(state.stream).to(model.device) for _ in range(n)]
    state.stream.load_state_dict(at)
    draws = torch.Generator(state.generator.device).manual_seed(0)
    seconds = []
    for some, seen in ((0, batches[:1]), (0, batches), (steps, batches)):  # the first alone warms up what is slow once
        began = time.perf_counter()
        try:
            with listening(None):
                settle_priors(model, seen, draws, **how | {"steps": some}, warn=lambda *args: None)
        except DivergenceError:  # whoever settles in earnest will hear of it
            return 0.0
        seconds.append(time.perf_counter() - began)
    _, codes, both = seconds
    tilt = max(0.0, both - codes) * how["steps"] / steps if steps else 0.0
    return codes * REFIT_BATCHES / n + tilt
