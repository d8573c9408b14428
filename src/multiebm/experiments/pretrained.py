"""Saving a model in a folder and building it again from there, alone: no run, preset or data is needed."""

import json
from pathlib import Path

import torch
from pydantic import ValidationError

from multiebm.core.errors import CheckpointError
from multiebm.experiments.build import build_model
from multiebm.experiments.schema import ModelSection
from multiebm.models import pretrained
from multiebm.models.model import MultimodalModel
from multiebm.models.pretrained import HEADER
from multiebm.nn.precision import set_precision

MODEL = "model"  # folder of a run


def save_pretrained(model: MultimodalModel, folder: str | Path) -> None:
    """Write weights and description into `folder`, which is new, empty or holds a model; else OutputError."""
    model.save_pretrained(folder)


def from_pretrained(folder: str | Path, device: str | torch.device = "cpu") -> MultimodalModel:
    """Return the model saved in `folder` (of `save_pretrained`, or a run folder), its outputs those of the one saved.

    CheckpointError when the folder is no such folder, its files are damaged, or of another version or architecture.
    """
    where = find_model(folder)
    content = pretrained.read_pretrained(where)
    try:
        section = ModelSection.model_validate_json(json.dumps(content.blueprint), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise CheckpointError(
            f"{where / HEADER}: got a description this release does not know (model.{key}: {first['msg']}), expected "
            "one of its own; load it with the multiebm release that wrote it"
        ) from error
    model = build_model(section, content.modalities, seed=0)
    pretrained.load_weights(model, content.tensors, where)
    set_precision(model, content.precision)
    return model.to(device)


def find_model(folder: str | Path) -> Path:
    """Return the folder with the saved model, given it or the run folder around it."""
    path = Path(folder)
    for candidate in (path / MODEL, path):
        if (candidate / HEADER).is_file():
            return candidate
    if (path / "checkpoints").is_dir():
        raise CheckpointError(
            f"{path}: got a run that has not ended in order, so no {MODEL}/{HEADER}; continue it with "
            f"`multiebm train ... --out {path} --resume`"
        )
    what = "a folder without a model" if path.is_dir() else "no such folder"
    raise CheckpointError(f"{path}: got {what}, expected a run folder or one that save_pretrained wrote")
