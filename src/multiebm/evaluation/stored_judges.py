"""Judges are trained once per data set, and kept. Where nothing can be written, a warning says so, and they are trained
whenever they are asked for.
"""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from pydantic import Field

from multiebm.core.errors import CheckpointError
from multiebm.core.files import ASIDE, reading, remove_stale, replace_file, sha256_of_json, why_not_written
from multiebm.core.store import Header, Store
from multiebm.data.cache import CHOOSE
from multiebm.data.dataset import MultimodalDataset
from multiebm.evaluation.judges import Judge, Judges, JudgeSettings, Wanted, readable, train_sets
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
    """Return the judges of `dataset` from `cache_folder`, or train them and store them there (`load_sets`)."""
    return load_sets(dataset, cache_folder, [(seed, settings or JudgeSettings())], device)[0]


def load_sets(dataset: MultimodalDataset, cache_folder: Path, wanted: Wanted, device: str = "cpu") -> list[Judges]:
    """Return the sets of judges `wanted` from `cache_folder`; those that are not there are trained and stored there.

    A damaged or half-written entry is reported in the log and replaced; so is a folder that cannot be written.
    """
    stems = [cache_folder / f"judges-{cache_key(dataset, seed, how, device)}" for seed, how in wanted]
    found = [_kept(stem, dataset, how, device) for stem, (_, how) in zip(stems, wanted, strict=True)]
    missing = [i for i, judges in enumerate(found) if judges is None]
    made = train_sets(dataset, [wanted[i] for i in missing], device) if missing else []
    for i, judges in zip(missing, made, strict=True):
        found[i] = judges
        try:
            write_judges(stems[i], judges)
        except OSError as error:
            problem = why_not_written(error)
            _log.warning("judges are not kept: %s: %s; free space, or %s", cache_folder, problem, CHOOSE)
    return [judges for judges in found if judges is not None]


def _kept(stem: Path, dataset: MultimodalDataset, settings: JudgeSettings, device: str) -> Judges | None:
    """Return the judges of an entry of the cache; None where it is not there, or with a warning where it is damaged."""
    try:
        remove_stale(path for pattern in _LEFTOVERS for path in stem.parent.glob(pattern))
        if stem.with_suffix(".json").exists():
            return read_judges(stem, dataset, settings, device)
    except (CheckpointError, OSError) as error:
        _log.warning("judges are trained again: %s", error)
    return None


def cache_key(dataset: MultimodalDataset, seed: int, settings: JudgeSettings, device: str = "cpu") -> str:
    """Return 24 hexadecimal digits that name the version, data, settings, seed and precision of training."""
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
    networks = {}
    with reading(file, CheckpointError, _STORE.way_out):
        if list(header.accuracy) != (names := readable(dataset)):
            raise ValueError(f"got judges of {', '.join(header.accuracy)}, expected of {', '.join(names)}")
        assert dataset.n_classes is not None
        for i, name in enumerate(names):
            network = Judge(dataset.modalities[name], dataset.n_classes, settings.width, settings.reads)
            own = {key.removeprefix(f"{i}."): t for key, t in tensors.items() if key.startswith(f"{i}.")}
            try:
                network.load_state_dict(own)
            except RuntimeError as error:
                raise ValueError(f"got weights of another network of {name!r} ({error})") from error
            networks[name] = network.eval().requires_grad_(False).to(device)
    return Judges(networks, header.accuracy)
