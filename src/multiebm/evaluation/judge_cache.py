"""Judges are trained once per data set: weights in safetensors, accuracies in JSON, each written whole.

The JSON has a checksum of itself, and in it that of the weights. Where nothing can be written, a warning says so, and
judges are trained whenever they are asked for.
"""

import hashlib
import json
import logging
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from multiebm.core.errors import CheckpointError
from multiebm.core.files import ASIDE, read_sealed, remove_stale, replace_file, sealed, why_not_written
from multiebm.data.cache import CHOOSE
from multiebm.data.dataset import MultimodalDataset
from multiebm.evaluation.judges import Judge, Judges, JudgeSettings, build_judge, readable, train_judges
from multiebm.nn.precision import fastest_precision

_FORMAT = 3  # raise it when the networks, their training or the files change
_LEFTOVERS = (f"{ASIDE}judges-*", "judges-*.tmp")  # of writers that were killed, now and in releases before
_log = logging.getLogger(__name__)


def load_judges(
    dataset: MultimodalDataset,
    cache_folder: Path,
    seed: int = 0,
    settings: JudgeSettings | None = None,
    device: str = "cpu",
) -> Judges:
    """Return the judges of `dataset` from `cache_folder`, or train them and store them there.

    The key is the data set's fingerprint, the settings, the seed and the precision. A damaged or half-written entry is
    reported in the log and replaced; a folder that cannot be written is reported too, and the judges are returned.
    """
    settings = settings or JudgeSettings()
    stem = cache_folder / f"judges-{cache_key(dataset, seed, settings, device)}"
    try:
        remove_stale(path for pattern in _LEFTOVERS for path in cache_folder.glob(pattern))
        if stem.with_suffix(".json").exists():
            return read_judges(stem, dataset, settings, device)
    except (CheckpointError, OSError) as error:
        _log.warning("judges are trained again: %s", error)
    judges = train_judges(dataset, seed, settings, device)
    try:
        write_judges(stem, judges)
    except OSError as error:
        _log.warning(
            "judges are not kept for the next time: %s: %s; free space, or %s",
            cache_folder,
            why_not_written(error),
            CHOOSE,
        )
    return judges


def cache_key(dataset: MultimodalDataset, seed: int, settings: JudgeSettings, device: str = "cpu") -> str:
    """Return 24 hexadecimal digits that name (data, settings, seed, the precision of training, format)."""
    parts = json.dumps([_FORMAT, dataset.fingerprint, asdict(settings), seed, fastest_precision(device)])
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
    record = {"accuracy": judges.accuracy, "weights": hashlib.sha256(weights).hexdigest()}
    replace_file(stem.with_suffix(".safetensors"), weights)
    replace_file(stem.with_suffix(".json"), sealed(record))


def read_judges(stem: Path, dataset: MultimodalDataset, settings: JudgeSettings, device: str) -> Judges:
    """Read what `write_judges` wrote; CheckpointError naming the file where anything does not fit."""
    file = stem.with_suffix(".safetensors")
    try:
        record, whole = read_sealed(stem.with_suffix(".json"))
        if not whole:
            raise CheckpointError(f"{stem}.json: damaged: its values do not match its sha256")
        weights = file.read_bytes()
        if hashlib.sha256(weights).hexdigest() != record["weights"]:
            raise CheckpointError(f"{file}: damaged: the checksum differs from the one in {stem.name}.json")
        tensors = load(weights)
        names = readable(dataset)
        accuracy = {name: float(record["accuracy"][name]) for name in names}
        if not all(0 <= share <= 1 for share in accuracy.values()):
            raise ValueError("an accuracy is no share")
        networks = {
            name: _restored(tensors, f"{i}.", dataset, name, settings).to(device) for i, name in enumerate(names)
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
