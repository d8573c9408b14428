"""When the steps are over: averaged weights, and priors that learn on from codes that no longer move."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import count, cycle
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field

from multiebm.core.batch import Batch
from multiebm.core.errors import DivergenceError
from multiebm.core.progress import listening
from multiebm.models.chains import steers_step_size
from multiebm.models.choosing import SURPLUS, keep_pool
from multiebm.models.inference import SHARED
from multiebm.models.model import MultimodalModel
from multiebm.priors.prior import Settling
from multiebm.training.codes import codes_of, steer_step_size
from multiebm.training.guard import PRIOR_RATE
from multiebm.training.phases.bound import Bound
from multiebm.training.phases.phase import Chosen, Phase
from multiebm.training.ratio import REUSE, STEPS, learn_ratio
from multiebm.training.state import TrainState, assign
from multiebm.training.weights import weigh_interaction, weigh_score

STEP_SAMPLES, STEP_ROUNDS = 128, 3  # of the data chain, by which a steered step size settles
REFIT_BATCHES = 128  # that priors settle on when training is over, at most
FEWEST, TIMES = 1024, 2  # items that they settle on at least, and how often each item, where that is fewer
MOST = 0.3  # share of a time budget that settling may take
REHEARSED, REHEARSED_STEPS, REHEARSED_DRAWS = 4, 20, 256  # batches, steps and joint samples by which it is timed
_ADVICE = (
    "Train again with lower rates of the generator and the inference model (training.optimiser.generator, "
    "training.optimiser.inference), or for fewer steps."
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settle(Phase):
    """The prior learns on from finished codes, when training is over."""

    kind: Literal["settle"] = "settle"
    is_last: ClassVar[bool] = True
    planned: ClassVar[tuple[str, ...]] = ()  # settling has its own share of the time
    steps: Annotated[
        int, Field(ge=0, description="steps of an energy prior's tilt; with any, clusters are pruned; 0 = neither")
    ] = 500
    widen_base: Annotated[
        float,
        Field(ge=1, le=16, description="factor on a mixture base's covariances meanwhile; above 1 sharpens the prior"),
    ] = 1.0

    def step(self, state: TrainState[MultimodalModel], batch: Batch, done: int) -> dict[str, float]:
        """Not reached: the loop makes no step of it, `take_average` all of them."""
        raise NotImplementedError("a phase that settles: got a step of the loop, expected none")

    def settling(self, beta: float, rate: float) -> Settling:
        """Its steps; clusters are pruned with the entropy weighed as the divergence was."""
        return Settling(self.steps, self.widen_base, beta if self.steps else 0.0, rate)

    def problems(self, chosen: Chosen) -> list[str]:
        """Return a line where there is no mixture base to widen, or another phase of the kind."""
        at, problems = "training.phases.settle", []
        if self.widen_base != 1 and "widen_base" not in chosen.prior.settles_by:
            problems.append(
                f"{at}.widen_base: got {self.widen_base:g} where no tilt settles on a mixture, expected 1; set "
                f"{at}.widen_base=1, or model.prior.kind=energy with components above 0"
            )
        if (n := sum(phase.is_last for phase in chosen.phases)) > 1:
            problems.append(f"training.phases: got {n} of kind settle, expected one: priors settle once; leave one out")
        return problems


class Planned(NamedTuple):
    """The `share` of batches and steps with which priors settle, and the seconds that this should take."""

    share: float = 1.0
    seconds: float = 0.0


def settling(phases: Sequence[Phase], rate: float, numbers: Mapping[str, float]) -> Settling:
    """Return how priors settle after these phases, as the one that `is_last` says; `numbers` are those of the state.

    Where the guard had to lower the `rate` of the prior, it settles at the lower one.
    """
    last = next((phase for phase in phases if phase.is_last), Settle(steps=0))
    beta = next((phase.beta for phase in phases if isinstance(phase, Bound) and phase.steps), 1.0)
    return last.settling(beta, rate * numbers.get(PRIOR_RATE, 1.0))


def take_average(state: TrainState[MultimodalModel], how: Settling, share: float = 1.0) -> None:
    """Give the model its averaged weights for good, and put it in evaluation mode: training is over.

    Priors settle on the codes that the averaged weights give to the stream's next batches (`batches_to_settle`), with a
    `share` of the batches and steps. DivergenceError where they cannot. The ratio of codes to draws then learns, a
    steered step size of the data chain settles, and an energy of interaction gets its weight, in chains and in scores.
    """
    model = state.model.eval()
    assign(model, state.average)
    if not how.steps and (said := model.generator.prior.warning(state.numbers)):  # or it has yet to learn
        logger.warning("%s", said)
    batches = (next(state.stream).to(model.device) for _ in range(math.ceil(share * batches_to_settle(state))))
    settle_priors(model, batches, state.rng, how._replace(steps=math.ceil(share * how.steps)))
    if model.interaction_learned:  # whose choice it serves
        stream = (next(state.stream).to(model.device) for _ in count())
        learn_ratio(model, stream, state.rng, math.ceil(share * STEPS))
    settle_step_size(model, state.rng)
    weigh_interaction(model, state.rng.initial_seed())
    weigh_score(model, (next(state.stream).to(model.device) for _ in range(batches_to_settle(state))))
    keep_pool(model, share)


def settle_step_size(model: MultimodalModel, rng: torch.Generator) -> None:
    """Fit a steered step size of the data chain, if there is one, to samples of the model as it is now.

    The gradient of averaged weights has another length than the gradients that training steered it by.
    """
    if steers_step_size(model.data_chain) and model.energy_learned:
        for _ in range(STEP_ROUNDS):
            _, chain = model.refine_data(model.decode(model.sample_latents(STEP_SAMPLES, rng)), rng)
            steer_step_size(model, chain, share=1.0)


def batches_to_settle(state: TrainState[MultimodalModel]) -> int:
    """Return how many batches of the stream priors settle on: of few rows fewer, for more would be the same again."""
    at = state.stream.state_dict()
    return min(REFIT_BATCHES, math.ceil(max(FEWEST, TIMES * at["rows"]) / at["batch_size"]))


def settle_priors(
    model: MultimodalModel,
    batches: Iterable[Batch],
    rng: torch.Generator,
    how: Settling,
    warn: Callable[..., None] = logger.warning,
) -> None:
    """Let every prior settle on the codes [N, D] of these batches; `warn`, by default in the log, of what it says.

    DivergenceError where the codes are so far out that a prior cannot.
    """
    priors = model.generator.priors()
    wanted = {key: prior.settles_on(how) for key, prior in priors.items()}
    if wanted[SHARED] == "locations":
        with torch.no_grad():
            found = [(model.inference.given(batch).experts.loc, batch.present) for batch in batches]
        codes = {SHARED: torch.cat([loc[present.T] for loc, present in found])}
    else:
        codes = codes_of(model, batches, rng, {key for key, what in wanted.items() if what == "draws"})
    if astray := [key for key, some in codes.items() if not some.isfinite().all()]:
        raise DivergenceError(f"priors cannot settle: codes of {', '.join(astray)} are not finite. {_ADVICE}")
    for key, some in codes.items():
        try:
            said, _ = priors[key].settle(some, rng, how, logger.debug)
        except DivergenceError as error:
            raise DivergenceError(f"priors cannot settle: {key}: {error}. {_ADVICE}") from error
        if said:
            warn("%s", said)


def settling_within(state: TrainState[MultimodalModel], how: Settling, budget: float | None) -> Planned:
    """Return how priors settle within MOST of the `budget` of seconds: in full, or with the share that this allows."""
    needed = time_to_settle(state, how)
    share = min(1.0, MOST * (math.inf if budget is None else budget) / needed) if needed else 1.0
    return Planned(share, share * needed)


def time_to_settle(state: TrainState[MultimodalModel], how: Settling) -> float:
    """Return the seconds that settling takes, by a small part of it on a copy: `state` stays as it is, draws too."""
    steps = min(REHEARSED_STEPS, how.steps)
    model, at = deepcopy(state.model).eval(), state.stream.state_dict()
    batches = [next(state.stream).to(model.device)]
    # a mixture is fitted to no fewer codes than two a dimension, and an item gives two
    n = max(REHEARSED, math.ceil(model.generator.prior.dim / len(batches[0].present)))
    batches += [next(state.stream).to(model.device) for _ in range(n - 1)]
    state.stream.load_state_dict(at)
    draws = torch.Generator(state.rng.device).manual_seed(0)
    seconds = []
    for some, seen in ((0, batches[:1]), (0, batches), (steps, batches)):  # the first alone warms up what is slow once
        began = time.perf_counter()
        try:
            with listening(None):
                settle_priors(model, seen, draws, how._replace(steps=some), warn=lambda *said: None)
        except DivergenceError:  # whoever settles in earnest will hear of it
            return 0.0
        seconds.append(time.perf_counter() - began)
    _, codes, both = seconds
    tilt = max(0.0, both - codes) * how.steps / steps if steps else 0.0
    settles = codes * batches_to_settle(state) / n + tilt
    if model.ratio is None:
        return settles
    with listening(None):
        learn_ratio(model, cycle(batches), draws, REUSE)  # what is slow once
        began = time.perf_counter()
        learn_ratio(model, cycle(batches), draws, REHEARSED * REUSE)
    learns = (time.perf_counter() - began) * STEPS / (REHEARSED * REUSE)
    began = time.perf_counter()
    with torch.no_grad():
        model.ratio(model.likeliest(model.decode(model.sample_latents(REHEARSED_DRAWS, draws))))
    keeps = (time.perf_counter() - began) * len(model.ratio.pool_latents) * SURPLUS / REHEARSED_DRAWS
    return settles + learns + keeps
