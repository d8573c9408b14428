"""The folder of a run: made, checked before anything is overwritten, and told what happened in it."""

import logging
import os
import platform
import re
from collections.abc import Collection
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ValidationError

from multiebm.core.errors import ConfigError, OutputError
from multiebm.core.files import ASIDE, read_json, reading, remove, replace_file, writing
from multiebm.core.keys import BOARD, CHECKPOINTS, CONFIG, DATA, EVALUATION, METRICS, MODEL, REPORT, RUN
from multiebm.core.lock import ANOTHER, LOCK
from multiebm.core.store import said
from multiebm.data import MultimodalDataset
from multiebm.evaluation.learning import Lines
from multiebm.experiments.load import differences, dump_experiment, load_experiment, say
from multiebm.experiments.schema import Experiment
from multiebm.modalities import to_json
from multiebm.models.model import MultimodalModel
from multiebm.models.saving import check_model_folder
from multiebm.training.hooks import check_log, read_log
from multiebm.training.steps import counted

_FILES = (CONFIG, RUN, METRICS, EVALUATION, REPORT, DATA)
_FOLDERS = {  # and what a run writes into them
    CHECKPOINTS: re.compile(r"step-\d+"),
    MODEL: re.compile(r"model\.json|weights-\w+\.safetensors"),
    BOARD: re.compile(r"events\.out\.tfevents\..*"),
}
_LEFT = re.compile(  # what a kill leaves of a write, now and in releases before
    rf"{re.escape(ASIDE)}.*|(evaluation\.json|report\.html)\.\d+\.tmp|metrics\.jsonl\.aside"
)
_LIBRARIES = ("multiebm", "torch", "numpy", "scikit-learn", "pydantic", "safetensors")
# settings of training that leave the steps made so far as they are
_MAY_CHANGE = ("seconds", "checkpoint_every", "log_every", "validate_every")
_RATES = tuple(f"training.optimiser.{part}" for part in ("generator", "inference", "energy", "prior"))

logger = logging.getLogger(__name__)


class _Session(BaseModel):
    from_step: int = 0
    to_step: int = 0
    seconds: float = 0.0
    settling: float = 0.0


class _RunFile(BaseModel):  # what of run.json is read again; there is more in it
    versions: dict[str, Any] = {}
    hardware: dict[str, Any] = {}
    data: dict[str, Any] = {}
    parameters: dict[str, Any] = {}
    weights: dict[str, float] = {}
    sessions: list[_Session] = []


def check_folder(
    folder: Path, experiment: Experiment, resume: bool, overwrite: bool, named: Collection[str] = ()
) -> bool:
    """Raise what would stop a run in `folder`, before anything is loaded, built or deleted; whether one goes on there.

    OutputError where it is not empty (and neither `resume` nor `overwrite`), was not written by a run, or holds what a
    run cannot write over; ConfigError where a run to resume had another configuration, learning rates apart that are
    `named`. There is nothing to resume where nothing is but what a kill left before the first file: then a run begins,
    with a warning.
    """
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if all(name == LOCK or _LEFT.fullmatch(name) for name in names):
        if resume:
            logger.warning("%s: no run is here yet, so there is nothing to resume: training starts anew", folder)
        return False
    if resume and not (folder / CONFIG).is_file():
        raise ConfigError(
            f"{folder}: got no {CONFIG}, expected the folder of a run to resume; start it without --resume (in Python "
            "without resume=True)"
        )
    if resume:
        before = read_config(folder)
        *_, last = ["", *(phase.kind for phase in counted(experiment.training.phases))]
        # the length of a run is that of its last phase
        allowed = [f"training.{name}" for name in (*_MAY_CHANGE, f"phases.{last}.steps")]
        allowed.append("data.settings.path")  # a file may have moved; that it holds the same data is checked
        allowed += [key for key in _RATES if key in named]
        if changed := [change for change in differences(before, experiment) if change.key not in allowed]:
            listed = "\n  ".join(say(change) for change in changed)
            raise ConfigError(
                f"{folder}: cannot resume with another configuration:\n  {listed}\n"
                f"Resume with that of the run, multiebm train {folder} --resume, in Python "
                f"multiebm.train({str(folder)!r}, resume=True) (its length, how often it saves and logs, and rates "
                "given by name, training.optimiser.generator=1e-4, may change), or start anew in another folder."
            )
        check_log(folder / METRICS)
        check_model_folder(folder / MODEL)
    elif not (folder / CONFIG).is_file():
        raise OutputError(
            f"{folder}: got a folder that is not empty and holds no run (no {CONFIG}), expected a new one; choose "
            f"{ANOTHER}"
        )
    elif not overwrite:
        raise OutputError(
            f"{folder}: got a folder that is not empty, expected a new one; choose another with --out, continue the "
            "run in it with --resume, or replace it with --overwrite (in Python out=, resume=True, overwrite=True)"
        )
    if problems := _in_the_way(folder, overwrite):
        raise OutputError("\n".join(problems))
    return resume


def rates_changed(before: Experiment, now: Experiment) -> dict[str, list[float]]:
    """Return the learning rates that differ, by key: those of before and now."""
    return {change.key: list(change[1:]) for change in differences(before, now) if change.key in _RATES}


def _in_the_way(folder: Path, overwrite: bool) -> list[str]:
    """Return a line for all that a run would write over and that is none of a run's; with `overwrite` or delete."""
    problems = []
    for path in [folder / name for name in (*_FILES, *_FOLDERS) if (folder / name).exists()]:
        file, link = path.name in _FILES, path.is_symlink()
        if not link and path.is_dir() == file:
            what, expected = ("a folder", "a file") if file else ("a file", "a folder")
            problems.append(f"{path}: got {what}, expected {expected} that a run wrote; move it away")
        elif not file and path.is_dir() and not os.access(path, os.W_OK | os.X_OK):
            problems.append(f"{path}: cannot be written; repair its permissions, or choose {ANOTHER}")
        elif not file and path.is_dir() and overwrite and not link:  # of a link the link is deleted, not what is there
            ours = _FOLDERS[path.name]
            others = [x.name for x in path.iterdir() if not (ours.fullmatch(x.name) or _LEFT.fullmatch(x.name))]
            if others:
                named = ", ".join(sorted(others)[:5])
                problems.append(
                    f"{path}: got {named} in it, which no run wrote, expected nothing that is to be kept; move it away"
                )
    return problems


def open_folder(folder: Path, experiment: Experiment, resume: bool) -> None:
    """Make the run folder, with the resolved configuration and, unless `resume`, nothing else that a run writes.

    What kills have left half-written is deleted, and of a link the link alone. OutputError when it cannot be written.
    """
    with writing(folder, f"choose {ANOTHER}"):
        folder.mkdir(parents=True, exist_ok=True)
        for path in list(folder.iterdir()):
            # the configuration stays until it is written over: should this fail, it says that a run was here
            written = path.name in (*_FILES, *_FOLDERS) and path.name != CONFIG
            if written and not resume and path.is_symlink():
                logger.warning("%s: a link to %s; the link is deleted, what it leads to stays", path, os.readlink(path))
            if (written and not resume) or _LEFT.fullmatch(path.name):
                remove(path)
        replace_file(folder / CONFIG, dump_experiment(experiment).encode())


def read_config(folder: Path) -> Experiment:
    """Return the configuration of a run; ConfigError says which file is damaged."""
    try:
        return load_experiment(folder / CONFIG)
    except ConfigError as error:
        wrote = read_run(folder).get("versions", {}).get("multiebm", "unknown")
        advice = (
            f"{folder / CONFIG}: damaged, or of another release (multiebm {wrote} wrote it); restore it, go on with "
            "that release, or start anew in another folder"
        )
        raise ConfigError([*error.problems, advice]) from error


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
    cuda, info = model.device.type == "cuda", Path("/proc/cpuinfo")  # platform.processor() is often empty on Linux
    named = re.search(r"^model name\s*: (.+)", info.read_text() if info.is_file() else "", re.MULTILINE)
    versions = {name: next((found.version for found in distributions(name=name)), None) for name in _LIBRARIES}
    return {
        "versions": {"python": platform.python_version(), **versions},
        "hardware": {
            "machine": platform.platform(),
            "processor": named[1].strip() if named else platform.processor(),
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
            "modalities": [to_json(m) for m in dataset.modalities.values()],
            "citation": dataset.citation,
        },
        "parameters": parameter_counts(model),
        "sessions": [],
    }


def parameter_counts(model: MultimodalModel) -> dict[str, int]:
    """Return the number of parameters of generator (but its prior), inference, energy, prior, and any interaction and
    diffusion refiner.
    """
    parts: dict[str, torch.nn.Module | None] = {"generator": model.generator, "inference": model.inference}
    parts |= {"energy": model.energy, "prior": model.generator.prior}
    later = {"interaction": model.interaction, "diffusion": model.diffusion}
    parts |= {name: part for name, part in later.items() if part}
    count = {name: sum(p.numel() for p in part.parameters()) if part is not None else 0 for name, part in parts.items()}
    return count | {"generator": count["generator"] - count["prior"]}


def read_run(folder: Path) -> dict[str, Any]:
    """Return the content of `run.json`, {} where there is none; OutputError when it is damaged."""
    file = folder / RUN
    if not file.is_file():
        return {}
    with reading(file, OutputError, "delete it, or restore it"):
        run = read_json(file)
        try:
            _RunFile.model_validate(run, strict=True)
        except ValidationError as error:
            raise ValueError(f"damaged: {said(error)}") from error
    return run


def read_lines(folder: Path) -> Lines | None:
    """Return the lines of a run's log, none where training made no step; None where nothing says how many it made."""
    lines, sessions = [line.values for line in read_log(folder / METRICS).lines], read_run(folder).get("sessions")
    return lines if lines or (sessions and sessions[-1].get("to_step") == 0) else None
