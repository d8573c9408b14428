"""The folder of a run: made, checked before anything is overwritten, and told what happened in it."""

import json
import platform
import shutil
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from multiebm.core.errors import ConfigError, OutputError
from multiebm.core.files import replace_file
from multiebm.data import MultimodalDataset
from multiebm.experiments.load import CONFIG, differences, dump_experiment, load_experiment, say
from multiebm.experiments.pretrained import MODEL
from multiebm.experiments.schema import Experiment
from multiebm.models.model import MultimodalModel

RUN, METRICS, CHECKPOINTS, EVALUATION, REPORT, BOARD = (
    "run.json",
    "metrics.jsonl",
    "checkpoints",
    "evaluation.json",
    "report.html",
    "tensorboard",
)
_OURS = (CONFIG, RUN, METRICS, CHECKPOINTS, MODEL, EVALUATION, REPORT, BOARD)
_LIBRARIES = ("multiebm", "torch", "numpy", "scikit-learn", "pydantic", "safetensors")
_MAY_CHANGE = {  # what leaves the steps made so far as they are
    "training.cooperative.steps",
    "training.seconds",
    "training.checkpoint_every",
    "training.log_every",
    "training.validate_every",
    "training.tensorboard",
}


def check_folder(folder: Path, experiment: Experiment, resume: bool, overwrite: bool) -> None:
    """Raise what would stop a run in `folder`, before anything is loaded, built or deleted.

    OutputError where it is not empty (and neither `resume` nor `overwrite`) or was not written by a run; ConfigError
    where a run to resume had another configuration.
    """
    if resume and overwrite:
        raise ConfigError("resume, overwrite: got both, expected one; resume continues a run, overwrite deletes it")
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: got a file, expected a folder for the run; choose another name")
    # a file that a kill left half-written does not fill a folder
    filled = folder.is_dir() and any(not path.name.startswith(".aside-") for path in folder.iterdir())
    if resume:
        check_same(folder, experiment)
    elif filled and not (folder / CONFIG).is_file():
        raise OutputError(
            f"{folder}: got a folder that is not empty and holds no run (no {CONFIG}), expected a new one; choose "
            "another with --out"
        )
    elif filled and not overwrite:
        raise OutputError(
            f"{folder}: got a folder that is not empty, expected a new one; choose another with --out, continue the "
            "run in it with --resume, or replace it with --overwrite"
        )


def open_folder(folder: Path, experiment: Experiment, resume: bool) -> None:
    """Make the run folder, with the resolved configuration and, unless `resume`, nothing else that a run writes.

    OutputError when it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not resume:
            clear(folder)
        replace_file(folder / CONFIG, dump_experiment(experiment).encode())
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror}); choose another with --out") from error


def clear(folder: Path) -> None:
    """Delete what a run writes, and only that."""
    for name in _OURS:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def check_same(folder: Path, experiment: Experiment) -> None:
    """Raise ConfigError unless the run in `folder` has this configuration, save for its length and its notes."""
    if not (folder / CONFIG).is_file():
        raise ConfigError(
            f"{folder}: got no {CONFIG}, expected the folder of a run to resume; start it without --resume"
        )
    before = load_experiment(folder / CONFIG)
    allowed = set(_MAY_CHANGE)
    if not before.training.cooperative.steps and not experiment.training.cooperative.steps:
        allowed.add("training.warmup.steps")  # the length of a run that is all warm-up
    changed = [change for change in differences(before, experiment) if change.key not in allowed]
    if changed:
        listed = "\n  ".join(say(change) for change in changed)
        raise ConfigError(
            f"{folder}: cannot resume with another configuration:\n  {listed}\n"
            f"Resume with that of the run, {folder / CONFIG} (its length and how often it saves and logs may change), "
            "or start anew in another folder."
        )


def check_same_data(run: dict[str, Any], dataset: MultimodalDataset, folder: Path) -> None:
    """Raise ConfigError unless `dataset` is what the run in `folder` was trained on, by its fingerprint."""
    trained = run.get("data", {})
    if trained.get("fingerprint") != dataset.fingerprint:
        raise ConfigError(
            f"{folder}: got data set {dataset.name!r} with fingerprint {dataset.fingerprint[:12]}, expected "
            f"{trained.get('name')!r} with {str(trained.get('fingerprint'))[:12]}, which the run was trained on; "
            "restore the data, or pass it from Python with dataset="
        )


def describe_run(dataset: MultimodalDataset, model: MultimodalModel, experiment: Experiment) -> dict[str, Any]:
    """Return what `run.json` starts with: versions, hardware, seed, data, parameter counts."""
    cuda = model.device.type == "cuda"
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _LIBRARIES}},
        "hardware": {
            "machine": platform.platform(),
            "processor": _processor(),
            "threads": torch.get_num_threads(),
            "device": str(model.device),
            "gpu": torch.cuda.get_device_name(model.device) if cuda else None,
        },
        "seed": experiment.seed,
        "data": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "train_items": len(dataset.train),
            "test_items": len(dataset.test),
            "modalities": [m.to_json() for m in dataset.modalities.values()],
            "citation": dataset.citation,
        },
        "parameters": parameter_counts(model),
        "sessions": [],
    }


def parameter_counts(model: MultimodalModel) -> dict[str, int]:
    """Return the number of parameters by part: generator (without prior), inference, energy, prior."""
    prior = (
        {id(p) for p in model.generator.prior.parameters()}
        if isinstance(model.generator.prior, torch.nn.Module)
        else set()
    )
    return {
        "generator": sum(p.numel() for p in model.generator.parameters() if id(p) not in prior),
        "inference": sum(p.numel() for p in model.inference.parameters()),
        "energy": sum(p.numel() for p in model.energy.parameters()) if model.energy else 0,
        "prior": sum(p.numel() for p in model.generator.parameters() if id(p) in prior),
    }


def read_run(folder: Path) -> dict[str, Any]:
    """Return the content of `run.json`, {} where there is none; OutputError when it is damaged."""
    file = folder / RUN
    if not file.is_file():
        return {}
    try:
        return json.loads(file.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise OutputError(f"{file}: got a file that cannot be read ({error}); delete it, or restore it") from error


def write_run(folder: Path, run: dict[str, Any]) -> None:
    """Write `run.json` atomically."""
    write_json(folder / RUN, run)


def write_json(file: Path, values: dict[str, Any]) -> None:
    """Write a JSON file atomically; OutputError when it cannot be written."""
    try:
        replace_file(file, (json.dumps(values, indent=1) + "\n").encode())
    except OSError as error:
        raise OutputError(f"{file}: cannot be written ({error.strerror}); free space or repair the folder") from error


def new_session(from_step: int) -> dict[str, Any]:
    """Return the entry of one call of training: its command, when it began, and where; completed when it ends."""
    return {"command": sys.argv, "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "from_step": from_step}


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """Return the processor's name; Linux keeps it in a file, and platform.processor() is often empty there."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()
