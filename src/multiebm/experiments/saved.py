"""Saving a model in a folder and building it again from there, alone: no run, preset or data is needed."""

import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from math import prod
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch.overrides import TorchFunctionMode

from multiebm.core.errors import CheckpointError, ConfigError, MultiebmError
from multiebm.core.keys import CHECKPOINTS, MODEL
from multiebm.core.store import describe, misfits, said
from multiebm.data.npz import expanded
from multiebm.experiments.build import build_model, check_own, find_device, naming_own
from multiebm.experiments.schema import ModelSection, apart_problems
from multiebm.modalities import Modality, to_json
from multiebm.models.diffusion import DiffusionRefiner, check_diffusers
from multiebm.models.interaction import FEATURES
from multiebm.models.model import MultimodalModel
from multiebm.models.own import Maker, Own, handed_over
from multiebm.models.saving import HEADER, Description, load_weights, newer, read_description
from multiebm.nn.precision import set_precision

logger = logging.getLogger(__name__)
FITTED = (
    "loc",
    "scale",
    "total",
    "standardise",
    "same",
)  # what a modality has of its data, and another of the same kind need not have
LEFT_OUT = ("diffusion.", "ratio.")  # begin the names of weights that say what other weights draw
LATER = (
    "energy.",
    "interaction.",
    "step_size",
    "generator.balance",
)  # begin the names of weights that a finished model may be given
MOST_KEPT = 2**24  # numbers of joint samples, at most, for which an older save has room
_MAKERS = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.eye, torch.Tensor.expand}


def save_pretrained(model: MultimodalModel, folder: str | Path) -> None:
    """Write weights and description into `folder`, which is new, empty or holds a model; else OutputError."""
    model.save_pretrained(folder)


def from_pretrained(
    folder: str | Path,
    device: str | torch.device = "cpu",
    encoders: Mapping[str, Maker] | None = None,
    decoders: Mapping[str, Maker] | None = None,
) -> MultimodalModel:
    """Return the model saved in `folder` (of `save_pretrained`, or a run folder), in evaluation mode, its outputs those
    of the one saved.

    `encoders` and `decoders` are those of `train`, for a model that has networks of your own; without them ConfigError
    names what it needs. Code of another name is taken, with a warning, where the weights fit.
    `device` is auto, cpu, cuda, cuda:<i> or a torch.device; ConfigError when there is no such device. CheckpointError
    when the folder is no such folder, its files are damaged, or of another version or architecture.
    """
    target, where, own = find_device(device), find_model(folder), handed_over(encoders, decoders)
    description = read_description(where)
    try:
        section = ModelSection.model_validate_json(json.dumps(description.blueprint), strict=True)
    except ValidationError as error:
        raise CheckpointError(
            f"{where / HEADER}: got a description this release does not know (model.{said(error)}); load it "
            "with the multiebm release that wrote it"
        ) from error
    check_own(section, own, description.modalities, f"{where / HEADER}: ")
    if description.diffusion is not None:
        check_diffusers(str(where))
    deepest = getattr(section.prior, "layers", 0)
    shapes = [json.loads(text.partition(" ")[2]) for text in description.tensors.values()]
    with torch.inference_mode(False):  # weights made in it could never be differentiated through
        try:
            if deepest > len(shapes):  # each has a tensor of its own
                raise ValueError(f"it has {deepest} layers in a row")
            if problems := apart_problems(section):
                raise ValueError(problems[0])
            kept = _kept_samples(section, len(description.modalities))
            with nullcontext() if any(own) else _Bounded(shapes, kept):  # code of the user's own may make what it likes
                model = build_model(naming_own(section, own), description.modalities, 0, own)
                if description.diffusion is not None:
                    model.diffusion = DiffusionRefiner(description.diffusion, model.modalities)
        except (MultiebmError, RuntimeError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            if any(own):  # whose errors are the user's
                raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(
                f"{where / HEADER}: got a model that is not that of the weights in {description.weights.name} "
                f"({reason}), expected the one they were saved with; restore the model.json that was saved with them"
            ) from error
        _load_own(model, description, section, own)
        set_precision(model, description.precision)
        model.kept = description.kept
        return model.to(target).eval()


def _load_own(model: MultimodalModel, description: Description, section: ModelSection, own: Own) -> None:
    """Load the weights; say which networks of the user's own have other names than those that were saved."""
    before = {kind: {part: getattr(section.parts[part], kind) for part in of} for kind, of in own.names().items()}
    saved = ", ".join(f"{kind} {part}: {name}" for kind, of in before.items() for part, name in of.items())
    try:
        load_weights(model, description)
    except CheckpointError as error:
        if not any(own):
            raise
        raise CheckpointError(f"{error}\nOr hand over the networks that it was saved with: {saved}") from error
    if before != own.names():
        now = ", ".join(f"{kind} {part}: {name}" for kind, of in own.names().items() for part, name in of.items())
        logger.warning("%s: saved with %s, loaded with %s, which the weights fit", description.folder, saved, now)


def start_from(model: MultimodalModel, folder: str | Path) -> None:
    """Give `model` the weights saved in `folder`; how it standardises values stays its own, and so do an energy,
    an energy of interaction, a steered step size and balanced weights of parts that the saved model lacks: they may be
    learned by a model that is finished. Its diffusion refiner and its ratio are left out: other weights will draw.

    ConfigError where modalities or shapes are others, with every difference; CheckpointError where files are damaged.
    """
    description = read_description(find_model(folder))
    kept = {name: of for name, of in description.tensors.items() if not name.startswith(LEFT_OUT)}
    description = description._replace(tensors=kept)
    own, saved = model.modalities, description.modalities
    if list(own) != list(saved):
        raise ConfigError(
            f"init_from {folder}: got a model of {', '.join(saved)}, expected one of {', '.join(own)}, in that order; "
            "name the parts as it does"
        )
    problems = unlike(model.modalities, description.modalities)
    fresh = tuple(key for key in LATER if not any(name.startswith(key) for name in description.tensors))
    known = {n: t for n, t in model.state_dict().items() if not n.startswith((*fresh, *newer(description)))}
    expected = {n: describe(t) for n, t in known.items()}
    if problems := problems or misfits(description.tensors, expected):
        listed = "\n  ".join(problems)
        raise ConfigError(
            f"init_from {folder}: its model does not fit these data and settings:\n  {listed}\nTrain with the settings "
            "of its run (the run folder in place of the preset), on parts of the same kinds and columns."
        )
    load_weights(model, description, but=fresh)


def unlike(own: Mapping[str, Modality], other: Mapping[str, Modality]) -> list[str]:
    """Return a line for each part that is another in `other` than in `own`, but for what their data say of it."""
    mine, theirs = (
        {n: {k: v for k, v in to_json(m).items() if k not in FITTED} for n, m in of.items()} for of in (own, other)
    )
    return [
        f"modality {name!r}: got {theirs.get(name)}, expected {mine[name]}"
        for name in mine
        if mine[name] != theirs.get(name)
    ]


def find_model(folder: str | Path) -> Path:
    """Return the folder with the saved model, given it or the run folder around it."""
    path = expanded(folder)
    for candidate in (path / MODEL, path):
        if (candidate / HEADER).is_file():
            return candidate
    for run in (path, path.parent):
        if (run / CHECKPOINTS).is_dir() and path in (run, run / MODEL):
            raise CheckpointError(
                f"{path}: got a run that has not ended in order, so no {MODEL}/{HEADER}; continue it with "
                f"`multiebm train ... --out {run} --resume` (in Python multiebm.train({str(run)!r}, resume=True))"
            )
    what = "a folder without a model" if path.is_dir() else "no such folder"
    raise CheckpointError(f"{path}: got {what}, expected a run folder or one that save_pretrained wrote")


def _kept_samples(section: ModelSection, parts: int) -> int:
    """Return how many numbers joint samples that a model keeps have: older saves have none of these."""
    several = 0 if section.interaction is None or not section.interaction.compares else section.interaction.best_of
    return min(MOST_KEPT, several * (section.shared + parts * (section.private + FEATURES)))


class _Bounded(TorchFunctionMode):
    """Inside: networks that have much more tensors or numbers than `shapes` raise ValueError before they have them."""

    def __init__(self, shapes: Collection[Sequence[int]], more: int = 0) -> None:
        super().__init__()
        self.tensors = 2 * len(shapes) + 16  # not all that is made is kept
        self.numbers = 2 * sum(map(prod, shapes)) + 10_000 + more

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[Any], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Call `func`, unless it makes too much."""
        if func in _MAKERS:
            sizes = [size for arg in args for size in (arg if isinstance(arg, Sequence) else [arg])]
            whole = [size for size in sizes if isinstance(size, int)]
            self.tensors -= 1
            self.numbers -= abs(prod(whole)) ** (2 if func is torch.eye else 1)
            if self.tensors < 0 or self.numbers < 0:
                raise ValueError("it is larger than they are")
        return func(*args, **(kwargs or {}))
