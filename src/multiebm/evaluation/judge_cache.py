"""Judges are trained once per data set: weights in safetensors, accuracies in JSON, each written whole."""

import hashlib
import json
import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from multiebm.core.errors import CheckpointError
from multiebm.data.dataset import MultimodalDataset
from multiebm.evaluation.judges import Judge, Judges, JudgeSettings, build_judge, train_judges

_FORMAT = 2  # raise it when the networks or their training change
_log = logging.getLogger(__name__)


def load_judges(
    dataset: MultimodalDataset,
    cache_folder: Path,
    seed: int = 0,
    settings: JudgeSettings | None = None,
    device: str = "cpu",
) -> Judges:
    """Return the judges of `dataset` from `cache_folder`, or train them and store them there.

    The key is the data set's fingerprint, the settings and the seed. A damaged or half-written entry is reported in the
    log and replaced.
    """
    settings = settings or JudgeSettings()
    stem = cache_folder / f"judges-{cache_key(dataset, seed, settings)}"
    if stem.with_suffix(".json").exists():
        try:
            return read_judges(stem, dataset, settings, device)
        except CheckpointError as error:
            _log.warning("judges are trained again: %s", error)
    judges = train_judges(dataset, seed, settings, device)
    write_judges(stem, judges)
    return judges


def cache_key(dataset: MultimodalDataset, seed: int, settings: JudgeSettings) -> str:
    """Return 24 hexadecimal digits that name (data, settings, seed, format)."""
    parts = json.dumps([_FORMAT, dataset.fingerprint, asdict(settings), seed])
    return hashlib.sha256(parts.encode()).hexdigest()[:24]


def write_judges(stem: Path, judges: Judges) -> None:
    """Write `stem`.safetensors, then `stem`.json with its checksum; the JSON file is what makes an entry complete."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{i}.{key}": value.contiguous().cpu()
        for i, network in enumerate(judges.networks.values())
        for key, value in network.state_dict().items()
    }
    weights = save(tensors)
    record = {"accuracy": judges.accuracy, "sha256": hashlib.sha256(weights).hexdigest()}
    _replace(stem.with_suffix(".safetensors"), weights)
    _replace(stem.with_suffix(".json"), json.dumps(record, indent=2).encode())


def read_judges(stem: Path, dataset: MultimodalDataset, settings: JudgeSettings, device: str) -> Judges:
    """Read what `write_judges` wrote; CheckpointError naming the file where anything does not fit."""
    file = stem.with_suffix(".safetensors")
    try:
        record: dict[str, Any] = json.loads(stem.with_suffix(".json").read_bytes())
        weights = file.read_bytes()
        if hashlib.sha256(weights).hexdigest() != record["sha256"]:
            raise CheckpointError(f"{file}: the checksum differs from the one in {stem.name}.json; the file is damaged")
        tensors = load(weights)
        accuracy = {name: float(record["accuracy"][name]) for name in dataset.modalities}
        networks = {
            name: _restored(tensors, f"{i}.", dataset, name, settings).to(device)
            for i, name in enumerate(dataset.modalities)
        }
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{stem}: cannot be read as judges of {dataset.name!r} ({error})") from error
    return Judges(networks, accuracy)


def _restored(
    tensors: dict[str, torch.Tensor], prefix: str, dataset: MultimodalDataset, name: str, settings: JudgeSettings
) -> Judge:
    assert dataset.n_classes is not None
    network = build_judge(dataset.modalities[name], dataset.n_classes, settings.width)
    network.load_state_dict({key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)})
    return network.eval().requires_grad_(False)


def _replace(file: Path, content: bytes) -> None:
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, file)
