"""Judges are trained once per data set, and kept. Where nothing can be written, a warning says so, and they are trained
whenever they are asked for.
"""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

from multiebm.core.errors import CheckpointError
from multiebm.core.files import ASIDE, reading, remove_stale, replace_file, sha256_of_json, why_not_written
from multiebm.core.store import Header, Store
from multiebm.data.cache import CHOOSE
from multiebm.data.dataset import MultimodalDataset
from multiebm.evaluation.judges import Judge, Judges, JudgeSettings, build_judge, readable, train_judges
from multiebm.nn.precision import fastest_precision

_LEFTOVERS = (f"{ASIDE}judges-*", "judges-*.tmp")  # of writers that were killed, now and in releases before
_log = logging.getLogger(__name__)


class _JudgesHeader(Header):
    accuracy: dict[str, Annotated[float, Field(ge=0, le=1)]]


# raise the version when the networks, their training or the files change
_STORE = Store(_JudgesHeader, "multiebm-judges", 4, "set of judges", "it is replaced")


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
        problem = why_not_written(error)
        _log.warning("judges are not kept: %s: %s; free space, or %s", cache_folder, problem, CHOOSE)
    return judges


def cache_key(dataset: MultimodalDataset, seed: int, settings: JudgeSettings, device: str = "cpu") -> str:
    """Return 24 hexadecimal digits that name (data, settings, seed, the precision of training, version)."""
    return sha256_of_json([_STORE.version, dataset.fingerprint, asdict(settings), seed, fastest_precision(device)])[:24]


def write_judges(stem: Path, judges: Judges) -> None:
    """Write `stem`.safetensors, then `stem`.json, which makes the entry complete."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    networks = enumerate(judges.networks.values())
    tensors = {f"{i}.{key}": value for i, network in networks for key, value in network.state_dict().items()}
    files = _STORE.pack(f"{stem.name}.json", {"accuracy": judges.accuracy}, f"{stem.name}.safetensors", tensors)
    for name, data in files.items():
        replace_file(stem.with_name(name), data)


def read_judges(stem: Path, dataset: MultimodalDataset, settings: JudgeSettings, device: str) -> Judges:
    """Read what `write_judges` wrote; CheckpointError naming the file where anything does not fit."""
    file = stem.with_suffix(".json")
    header = _STORE.read(file)
    tensors = _STORE.tensors(stem.parent, header.files[0])
    with reading(file, CheckpointError, _STORE.way_out):
        if list(header.accuracy) != (names := readable(dataset)):
            raise ValueError(f"got judges of {', '.join(header.accuracy)}, expected of {', '.join(names)}")
        networks = {name: _restored(tensors, f"{i}.", dataset, name, settings) for i, name in enumerate(names)}
    return Judges({name: network.to(device) for name, network in networks.items()}, header.accuracy)


def _restored(
    tensors: dict[str, torch.Tensor], prefix: str, dataset: MultimodalDataset, name: str, settings: JudgeSettings
) -> Judge:
    assert dataset.n_classes is not None
    network = build_judge(dataset.modalities[name], dataset.n_classes, settings.width)
    own = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    try:
        network.load_state_dict(own)
    except RuntimeError as error:
        raise ValueError(f"got weights of another network of {name!r} ({error})") from error
    return network.eval().requires_grad_(False)
