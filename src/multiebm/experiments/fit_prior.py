"""An energy prior for a model that is trained already and stays as it is (the CUB experiment of MVEBM, ECCV 2024)."""

import logging
import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch

from multiebm.core.errors import ConfigError, DivergenceError
from multiebm.core.random import make_generator
from multiebm.data import BatchStream, MultimodalDataset
from multiebm.experiments.build import build_model, training_data
from multiebm.experiments.load import load_experiment
from multiebm.experiments.refit import refit, run_settings
from multiebm.experiments.schema import Experiment
from multiebm.models.choosing import keep_pool
from multiebm.models.inference import SHARED
from multiebm.models.model import MultimodalModel
from multiebm.nn.precision import precision_of, set_precision
from multiebm.priors.energy import Energy
from multiebm.priors.mixture import Mixture
from multiebm.priors.prior import PriorSettings, Settling
from multiebm.training.codes import codes_of
from multiebm.training.phases.bound import Bound
from multiebm.training.phases.settle import Settle
from multiebm.training.ratio import STEPS, learn_ratio

CODES_BATCHES, CODES_BATCH = 128, 64  # items whose codes the prior is fitted to, twice each
USUAL = Settling(steps=3000, rate=1e-3)
PRIOR = "generator.prior."
OWN = ("model.prior.", "model.temperature=", "training.phases.settle.")  # settings that are the fit's, not the run's
TILT = {key: getattr(Energy(), key) for key in ("width", "layers", "steps", "step_size", "penalty")}
TILT_ON_CODES = {"steps": 20, "step_size": 0.1}  # a chain on a base that is where the codes are

LINEAR = (
    "fit-prior: got a model with a linear half, expected one without: N(0, I) is in its posterior; train with "
    "model.linear=false, or --method arrays-mopoe"
)

logger = logging.getLogger(__name__)


def fit_prior(
    model: MultimodalModel,
    dataset: MultimodalDataset,
    prior: PriorSettings,
    how: Settling = USUAL,
    seed: int = 0,
    tell: Callable[[str], None] = logger.info,
) -> MultimodalModel:
    """Return a copy of `model` whose prior over z is an energy prior fitted to its codes; nothing else is changed.

    But for a ratio of codes to draws, which learns on from draws of this prior.

    The base is the standard density of the model's family (with the scales it had learned), or a mixture fitted to the
    codes first (`prior.components`); the tilt is contrasted with its chain for `how.steps` steps of Adam at `how.rate`.
    What is minimised is KL(codes || prior); of CODES_BATCHES batches of the training split two codes an item are drawn
    once. `tell` hears how far it is. ConfigError where `prior.kind` is not energy, or steps or rate teach nothing;
    DivergenceError where the tilt runs away.
    """
    check_fit(how)
    if model.inference.linear:
        raise ConfigError(LINEAR)
    if not isinstance(prior, Energy):
        raise ConfigError(f"model.prior.kind: got {prior.kind}, expected energy: other priors learn with their model")
    section = Experiment.model_validate({"model": model.blueprint | {"prior": asdict(prior)}}).model
    fitted = build_model(section, model.modalities, seed, model.own).to(model.device)
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(PRIOR)}
    scale = getattr(model.generator.prior.untilted(), "log_scale", None)
    if isinstance(scale, torch.Tensor) and prior.learned_scale:
        own[f"{PRIOR}base.log_scale"] = scale.detach()
    lacking, _ = fitted.load_state_dict(own, strict=False)
    assert all(name.startswith(PRIOR) for name in lacking)
    fitted.diffusion = deepcopy(model.diffusion)  # its guesses are reconstructions, which know no prior
    set_precision(fitted, precision_of(model))
    stream = BatchStream(training_data(dataset, 0.0, seed, model.device), "train", CODES_BATCH, seed)
    generator = make_generator(seed, model.device)
    batches = (next(stream).to(model.device) for _ in range(CODES_BATCHES))
    tell(f"drawing codes of {CODES_BATCHES} batches of {CODES_BATCH} training items")
    codes = codes_of(fitted.eval(), batches, generator, {SHARED})[SHARED]
    said, ok = fitted.generator.prior.settle(codes, generator, how, tell)
    if not ok:
        raise DivergenceError(said)
    if said:
        logger.warning("%s", said)
    if fitted.ratio is not None and fitted.ratio.learned:  # what it knows are draws of the prior before
        learn_ratio(fitted, (next(stream).to(model.device) for _ in count()), generator, STEPS)
        keep_pool(fitted)
    return fitted


def fit_prior_of_run(
    run: Path,
    out: Path,
    overrides: Sequence[str] = (),
    how: Settling = USUAL,
    device: str = "cpu",
    tell: Callable[[str], None] = logger.info,
) -> MultimodalModel:
    """Fit an energy prior to the model of the run in `run`; write a run folder `out` with it, a new one or empty.

    Its base is of the kind that the model was trained with (`tilted`). `overrides` are settings such as
    "model.prior.components=60", all of model.prior; how far the base is widened is a setting too.
    """
    before = run_settings(run)
    check_fit(how)
    if wrong := [text for text in overrides if not text.startswith(OWN)]:
        raise ConfigError(
            [f"{text!r}: expected a setting below {' or '.join(OWN)}; the rest is the run's" for text in wrong]
        )
    if before.model.linear:
        raise ConfigError(LINEAR)
    experiment = tilted(before, overrides, how.steps)
    how = how._replace(widen_base=experiment.training.phase("settle").widen_base)

    def fit(model: MultimodalModel, dataset: MultimodalDataset) -> MultimodalModel:
        return fit_prior(model, dataset, experiment.model.prior, how, experiment.seed, tell)

    told = {"of": str(run), "steps": how.steps, "rate": how.rate, "trained_with": asdict(before.model.prior)}
    return refit(run, out, experiment, fit, lambda: {"prior_fit": told}, device)


def check_fit(how: Settling) -> None:
    """Raise ConfigError unless so many steps at this rate can teach a tilt."""
    problems = [f"steps: got {how.steps}, expected at least 1; try 3000"] if how.steps < 1 else []
    if not 0 < how.rate < math.inf:
        problems.append(f"rate: got {how.rate}, expected a number above 0; try 1e-3")
    if problems:
        raise ConfigError(problems)


def tilted(before: Experiment, overrides: Sequence[str], steps: int) -> Experiment:
    """Return the experiment `before` with a tilt: on the base of its prior, or on the one that `overrides` ask for.

    Learned clusters have no tilt of their own and give way to the standard density. A chain that is new to its base is
    the one that a tilt has by default, or on a fitted base that of the demo.
    """
    old, phases = before.model.prior, list(before.training.phases)
    for i, phase in enumerate(phases):
        # the bound that trained it may have had the divergence to the old prior in closed form; it is not used again
        if isinstance(phase, Bound) and phase.divergence == "analytic":
            phases[i] = replace(phase, divergence="component")
    phases = [phase for phase in phases if not isinstance(phase, Settle)] + [Settle(steps=steps)]
    under = before.changed("training", {"phases": phases})
    components = old.components if isinstance(old, Mixture | Energy) else 0

    def laid_over(settings: dict[str, Any]) -> Experiment:
        changes = [f"model.prior.{key}={value}" for key, value in settings.items()]
        return load_experiment(under, ["model.temperature=1", *changes, *overrides])

    base = {"kind": "energy", "components": components}
    after = laid_over(base)
    fitted = after.model.prior.components > 0  # type: ignore[attr-defined]
    if isinstance(old, Energy) and fitted == (old.components > 0):
        return after
    return laid_over(base | (TILT_ON_CODES if fitted else TILT))
