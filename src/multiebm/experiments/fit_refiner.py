"""A diffusion refiner for a model that is trained already and stays as it is: the second stage of DiffuseVAE (arXiv
2201.00308), which arXiv 2408.10467 puts on multimodal VAEs (Diff-CMVAE).
"""

import logging
import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor

from multiebm.core.errors import ConfigError, DataError, DivergenceError
from multiebm.core.names import Views
from multiebm.core.progress import track
from multiebm.core.random import make_generator
from multiebm.data import BatchStream, MultimodalDataset
from multiebm.experiments.build import training_data
from multiebm.experiments.refit import refit, run_settings
from multiebm.models.diffusion import Diffusion, DiffusionRefiner, check_diffusers, pictures
from multiebm.models.model import MultimodalModel
from multiebm.nn.precision import precision_of, set_precision
from multiebm.nn.spectral import frozen
from multiebm.training.state import assign, move_average

WARM_UP, DECAY, CLIP = 5000, 0.9999, 1.0  # steps to the full rate; of averaged weights; norm of a gradient at most
SAID = 10  # times that the loss is told

logger = logging.getLogger(__name__)
Pair = tuple[Tensor, Tensor, Tensor]  # a real picture, the guess of it, and which cells of it are there: [B, C, H, W]


class Learning(NamedTuple):
    """How a refiner learns: steps of Adam, its rate, and items a step."""

    steps: int = 20_000
    rate: float = 2e-4
    batch: int = 32


def fit_refiner(
    model: MultimodalModel,
    dataset: MultimodalDataset,
    settings: Diffusion = Diffusion(),  # noqa: B008
    how: Learning = Learning(),  # noqa: B008
    seed: int = 0,
    tell: Callable[[str], None] = logger.info,
) -> MultimodalModel:
    """Return a copy of `model` with a diffusion refiner of its parts of pictures; nothing else is changed.

    It learns on the training split, from real pictures and the model's guesses of them: means of fresh draws from the
    posterior of all that an item has. `tell` hears how far it is. ConfigError where the package diffusers is not there,
    the model has no pictures, or steps, rate or batch teach nothing; DataError where no item has a picture.
    """
    check_learning(how)
    check_fit(model, dataset)
    device = model.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):  # weights and dropout draw from the global
        torch.manual_seed(seed)
        refiner = DiffusionRefiner(settings, model.modalities).to(device)
        set_precision(refiner, precision_of(model))
        data = training_data(dataset, 0.0, seed, device)  # on the device
        stream = BatchStream(data, "train", min(how.batch, len(data.train)), seed)
        rng = make_generator(seed, device)
        with frozen(model):
            learn(refiner, guesses(model, stream, rng), how, rng, tell)
    found = deepcopy(model)
    found.diffusion = refiner.eval()
    return found


def guesses(model: MultimodalModel, stream: BatchStream, rng: torch.Generator) -> Iterator[dict[str, Pair]]:
    """Yield batches of real pictures and the model's guesses of them by part, without end."""
    for batch in stream:
        batch = batch.to(model.device)
        guess: Views = model.decode(model.infer_latents(batch, rng))
        there, real = batch.there(), batch.filled(guess)  # what is missing is made up, and does not count
        yield {name: (real[name], guess[name], there[name]) for name in pictures(model.modalities)}


def learn(
    refiner: DiffusionRefiner,
    pairs: Iterator[dict[str, Pair]],
    how: Learning,
    rng: torch.Generator,
    tell: Callable[[str], None] = logger.info,
) -> None:
    """Teach a refiner the noise of pictures [B, C, H, W] given guesses of them; it ends with averaged weights.

    Adam whose rate grows from 0, gradients of bounded norm. DivergenceError where the loss is not finite.
    """
    optimiser = torch.optim.Adam(refiner.parameters(), lr=how.rate)
    grows, average, losses = min(WARM_UP, max(1, how.steps // 10)), dict[str, Tensor](), list[Tensor]()
    refiner.train()
    for step in track(range(1, how.steps + 1), "steps of the refiner"):
        optimiser.param_groups[0]["lr"] = how.rate * min(1.0, step / grows)
        with torch.enable_grad():
            loss = torch.stack([refiner.loss(name, *pair, rng) for name, pair in next(pairs).items()]).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(refiner.parameters(), CLIP)
        optimiser.step()
        move_average(average, refiner, min(DECAY, (1 + step) / (10 + step)))
        losses.append(loss.detach())
        if step % max(1, how.steps // SAID) == 0 or step == how.steps:
            mean = float(torch.stack(losses).mean())
            losses.clear()
            if not math.isfinite(mean):
                raise DivergenceError(
                    f"step {step} of the refiner: its loss is not finite; nothing was saved: lower its rate (--rate)"
                )
            tell(f"step {step} of {how.steps}: squared error of the noise {mean:.4f} (1: nothing learned)")
    assign(refiner, average)
    refiner.eval()


def fit_refiner_of_run(
    run: Path,
    out: Path,
    settings: Diffusion = Diffusion(),  # noqa: B008
    how: Learning = Learning(),  # noqa: B008
    device: str = "cpu",
    tell: Callable[[str], None] = logger.info,
) -> MultimodalModel:
    """Fit a refiner to the model of the run in `run`; write a run folder `out` with both, a new one or empty."""
    check_learning(how)
    check_diffusers("fit-refiner")
    experiment, started = run_settings(run), perf_counter()

    def fit(model: MultimodalModel, dataset: MultimodalDataset) -> MultimodalModel:
        return fit_refiner(model, dataset, settings, how, experiment.seed, tell)

    def note() -> dict[str, object]:
        seconds = round(perf_counter() - started, 1)
        built = {"formulation": settings.formulation, "width": settings.width, "drawn_in": settings.steps}
        return {"refiner_fit": {"of": str(run), **built, **how._asdict(), "seconds": seconds}}

    return refit(run, out, experiment, fit, note, device)


def check_learning(how: Learning) -> None:
    """Raise ConfigError unless so many steps at this rate can teach a refiner."""
    problems = [
        f"{key}: got {value}, expected at least 1; try {usual}"
        for key, value, usual in (("steps", how.steps, 20_000), ("batch", how.batch, 32))
        if value < 1
    ]
    if not 0 < how.rate < math.inf:
        problems.append(f"rate: got {how.rate}, expected a number above 0; try 2e-4")
    if problems:
        raise ConfigError(problems)


def check_fit(model: MultimodalModel, dataset: MultimodalDataset) -> None:
    """Raise what would stop a fit: no package, no part of pictures, no training item that has one."""
    check_diffusers("fit-refiner")
    parts = pictures(model.modalities)
    if not parts:
        raise ConfigError(
            f"fit-refiner: got a model of {', '.join(model.modalities)}, none of them pictures, expected a part of "
            "pictures: the diffusion refiner draws these alone"
        )
    if empty := [name for name in parts if not bool(dataset.train.there(name).any())]:
        raise DataError(f"fit-refiner: no training item has {', '.join(empty)}, expected some to learn from")
