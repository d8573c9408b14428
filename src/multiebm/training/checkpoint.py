"""Checkpoints that are either whole or absent: safetensors and JSON, written aside, synced, then renamed."""

import hashlib
import json
import logging
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from multiebm.core.errors import CheckpointError, OutputError
from multiebm.core.files import ASIDE, read_json, read_verified, remove, why_not_written
from multiebm.training.state import TrainState

FORMAT = "multiebm-checkpoint"
VERSION = 1
TENSORS, STATE = "tensors.safetensors", "state.json"
_STEP, _OLD = "step-", f"{ASIDE}old-"

logger = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    """The verified content of one checkpoint folder."""

    step: int
    metric: float | None
    tensors: dict[str, Tensor]
    numbers: dict[str, Any]


class CheckpointStore:
    """The checkpoints of one run, `folder/step-000000120/{tensors.safetensors,state.json}`.

    Keeps the newest `keep_last` and, with `keep_best`, the one whose metric is lowest.
    """

    def __init__(self, folder: str | Path, keep_last: int = 2, keep_best: bool = True) -> None:
        if keep_last < 1:
            raise OutputError(f"{folder}: keep_last: got {keep_last}, expected at least 1 checkpoint to keep")
        self.folder = Path(folder)
        self.keep_last = keep_last
        self.keep_best = keep_best

    def steps(self) -> list[int]:
        """Return the steps of the checkpoints in the folder, oldest first."""
        named = {path.name: path for path in self.folder.glob(f"{_STEP}*") if path.is_dir()}
        numbers = [text for text in (name.removeprefix(_STEP) for name in named) if text.isascii() and text.isdigit()]
        return sorted(step for step in map(int, numbers) if self.path(step).name in named)

    def path(self, step: int) -> Path:
        """Return the folder of the checkpoint of `step`."""
        return self.folder / f"{_STEP}{step:09d}"

    def latest(self) -> Path | None:
        """Return the newest checkpoint, or None."""
        steps = self.steps()
        return self.path(steps[-1]) if steps else None

    def best(self) -> Path | None:
        """Return the checkpoint of the lowest metric (the earlier of equal ones), or None where none has a metric."""
        metrics = {step: _metric_of(self.path(step)) for step in self.steps()}
        known = {step: metric for step, metric in metrics.items() if metric is not None}
        return self.path(min(known, key=lambda step: known[step])) if known else None

    def save(self, state: TrainState, metric: float | None = None) -> Path:
        """Write the checkpoint of `state.step`, then drop what is no longer kept; the lowest `metric` is the best.

        Raises OutputError when the folder cannot be written; the previous checkpoint is then untouched.
        """
        target = self.path(state.step)
        aside = self.folder / f"{ASIDE}{target.name}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._tidy()
            _write(aside, state, metric)
            if target.exists():  # the same step again after a roll-back: a folder cannot be replaced in one call
                os.replace(target, self.folder / f"{_OLD}{target.name}")
            os.replace(aside, target)
            _sync_folder(self.folder)
            self._prune(state.step)
        except OSError as error:
            with suppress(OSError):
                remove(aside)
            raise self._not_written(error, state.step) from error
        return target

    def load(self, state: TrainState, path: str | Path) -> None:
        """Restore `state` from one checkpoint folder; raises CheckpointError when it is damaged or does not fit."""
        _apply(read_checkpoint(path), state, path)

    def resume(self, state: TrainState) -> Path | None:
        """Restore `state` from the newest undamaged checkpoint and return its folder; None where there is none at all.

        A damaged newer one is passed over with a logged warning. Raises CheckpointError when all are damaged.
        """
        self._put_back()
        first: CheckpointError | None = None
        for step in reversed(self.steps()):
            try:
                content = read_checkpoint(self.path(step))
            except CheckpointError as error:
                logger.warning("%s; trying the checkpoint before it", error)
                first = first or error
                continue
            _apply(content, state, self.path(step))
            return self.path(step)
        if first is not None:
            raise CheckpointError(
                f"{self.folder}: no undamaged checkpoint; the newest: {first}. Restore one, or begin the run anew with "
                "--overwrite or in another folder."
            ) from first
        return None

    def _tidy(self) -> None:
        self._put_back()
        for stale in self.folder.glob(f"{ASIDE}*"):
            remove(stale)

    def _put_back(self) -> None:
        """Undo a replacement that was killed between its two renames."""
        for old in self.folder.glob(f"{_OLD}*"):
            target = self.folder / old.name.removeprefix(_OLD)
            if not target.exists():
                os.replace(old, target)

    def _prune(self, newest: int) -> None:
        """Drop old checkpoints, and those beyond `newest`, which a roll-back has made part of no run."""
        for step in [step for step in self.steps() if step > newest]:
            self._drop(step)
        steps = self.steps()
        best = self.best() if self.keep_best else None
        for step in steps[: -self.keep_last]:
            if self.path(step) != best:
                self._drop(step)
        self._tidy()

    def _drop(self, step: int) -> None:
        os.replace(self.path(step), self.folder / f"{ASIDE}{self.path(step).name}")  # never half a checkpoint

    def _not_written(self, error: OSError, step: int) -> OutputError:
        steps = self.steps()
        before = f"The previous checkpoint, step {steps[-1]}, is intact" if steps else "There is no earlier checkpoint"
        return OutputError(
            f"{self.folder}: {why_not_written(error)} while saving the checkpoint of step {step}. {before}. "
            "Free space or repair the folder, then run again with --resume."
        )


def _apply(content: Checkpoint, state: TrainState, path: str | Path) -> None:
    try:
        state.load(content.tensors, content.numbers)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: got a state that is none of this model's training ({type(error).__name__}: {error}), expected "
            "the one that was saved here; use an older checkpoint"
        ) from error


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read and verify one checkpoint folder; raises CheckpointError naming the file and what is wrong with it."""
    folder = Path(path)
    header = _read_header(folder / STATE)
    file, expected = folder / TENSORS, header["tensors"]
    try:
        data = read_verified(file, expected["bytes"], expected["sha256"])
    except OSError as error:
        raise _unreadable(file, error) from error
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}; use an older checkpoint") from error
    try:
        tensors = safetensors.torch.load(data)
    except SafetensorError as error:
        raise CheckpointError(f"{file}: not readable as safetensors ({error}); use an older checkpoint") from error
    return Checkpoint(header["step"], header["metric"], tensors, header["state"])


def _read_header(file: Path) -> dict[str, Any]:
    try:
        header = read_json(file)
    except OSError as error:
        raise _unreadable(file, error) from error
    except ValueError as error:
        raise CheckpointError(f"{file}: not readable as JSON ({error}); use an older checkpoint") from error
    kind = header.get("format") if isinstance(header, dict) else None
    if kind != FORMAT:
        raise CheckpointError(f"{file}: got format {kind!r}, expected {FORMAT!r}; this is not a training checkpoint")
    if header.get("version") != VERSION:
        raise CheckpointError(
            f"{file}: got checkpoint version {header.get('version')!r}, expected {VERSION}; "
            "load it with the multiebm version that wrote it (run.json names it), or train again"
        )
    claimed = header.pop("sha256", None)
    if claimed != _header_digest(header):
        raise CheckpointError(f"{file}: damaged: its values do not match its sha256; use an older checkpoint")
    if not _is_complete(header):
        raise CheckpointError(f"{file}: damaged: got no step, metric, tensors and state as expected; use an older one")
    return header


def _is_complete(header: dict[str, Any]) -> bool:
    tensors = header.get("tensors")
    entry = tensors if isinstance(tensors, dict) else {}
    return (
        isinstance(header.get("step"), int)
        and isinstance(header.get("metric", ""), int | float | None)
        and isinstance(header.get("state"), dict)
        and isinstance(entry.get("bytes"), int)
        and isinstance(entry.get("sha256"), str)
    )


def _unreadable(file: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"{file}: cannot be read ({error.strerror}); use an older checkpoint")


def _metric_of(path: Path) -> float | None:
    try:
        metric = _read_header(path / STATE)["metric"]
    except CheckpointError:
        return None
    return metric if metric is not None and math.isfinite(metric) else None


def _header_digest(header: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


def _write(folder: Path, state: TrainState, metric: float | None) -> None:
    data = safetensors.torch.save(_storable(state.tensors()))
    header = {
        "format": FORMAT,
        "version": VERSION,
        "step": state.step,
        "metric": metric,
        "tensors": {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()},
        "state": state.numbers_json(),
    }
    header["sha256"] = _header_digest(header)
    folder.mkdir()
    _write_file(folder / TENSORS, data)
    _write_file(folder / STATE, json.dumps(header, indent=1).encode())
    _sync_folder(folder)


def _storable(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors that share no memory, as the format wants them; tied weights are written twice."""
    seen: set[int] = set()
    plain = {}
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous()
        storage = flat.untyped_storage().data_ptr()
        plain[name] = flat.clone() if storage in seen else flat
        seen.add(storage)
    return plain


def _write_file(file: Path, data: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
