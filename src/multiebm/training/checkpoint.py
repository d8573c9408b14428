"""Checkpoints that are either whole or absent: folders that are written aside, synced, then renamed."""

import logging
import math
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from multiebm.core.errors import CheckpointError, OutputError
from multiebm.core.files import ASIDE, discard, put_back, remove, whole_folder, why_not_written
from multiebm.core.store import Header, Store
from multiebm.training.state import TrainState

TENSORS, STATE = "tensors.safetensors", "state.json"
_STEP = "step-"

logger = logging.getLogger(__name__)


class _StateHeader(Header):
    step: int
    metric: float | None
    state: dict[str, Any]


_STORE = Store(_StateHeader, "multiebm-checkpoint", 2, "checkpoint", "use an older checkpoint")


class Checkpoint(NamedTuple):
    """The verified content of one checkpoint folder."""

    step: int
    metric: float | None
    tensors: dict[str, Tensor]
    numbers: dict[str, Any]


class CheckpointStore:
    """The checkpoints of one run, `folder/step-000000120/{tensors.safetensors,state.json}`.

    Keeps the newest `keep_last`, and the one whose metric is lowest.
    """

    def __init__(self, folder: str | Path, keep_last: int = 2) -> None:
        if keep_last < 1:
            raise OutputError(f"{folder}: keep_last: got {keep_last}, expected at least 1 checkpoint to keep")
        self.folder, self.keep_last = Path(folder), keep_last

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
        metrics = {}
        for step in self.steps():
            with suppress(CheckpointError):
                metric = _STORE.read(self.path(step) / STATE).metric
                if metric is not None and math.isfinite(metric):
                    metrics[step] = metric
        return self.path(min(metrics, key=lambda step: metrics[step])) if metrics else None

    def save(self, state: TrainState, metric: float | None = None) -> Path:
        """Write the checkpoint of `state.step`, then drop what is no longer kept; the lowest `metric` is the best.

        Raises OutputError when the folder cannot be written; the previous checkpoint is then untouched.
        """
        target = self.path(state.step)
        values = {"step": state.step, "metric": metric, "state": state.numbers_json()}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            put_back(self.folder)
            for stale in self.folder.glob(f"{ASIDE}*"):
                remove(stale)
            with whole_folder(target) as aside:
                for name, data in _STORE.pack(STATE, values, TENSORS, state.tensors()).items():
                    (aside / name).write_bytes(data)
            for step in self.steps():  # those beyond this one are part of no run since a roll-back
                if step > state.step:
                    discard(self.path(step))
            best = self.best()
            for step in self.steps()[: -self.keep_last]:
                if self.path(step) != best:
                    discard(self.path(step))
        except OSError as error:
            steps = self.steps()
            left = (
                f"The previous checkpoint, step {steps[-1]}, is intact" if steps else "There is no earlier checkpoint"
            )
            raise OutputError(
                f"{self.folder}: {why_not_written(error)} while saving the checkpoint of step {state.step}. {left}. "
                "Free space or repair the folder, then run again with --resume (in Python resume=True)."
            ) from error
        return target

    def load(self, state: TrainState, path: str | Path) -> None:
        """Restore `state` from one checkpoint folder; raises CheckpointError when it is damaged or does not fit."""
        _apply(read_checkpoint(path), state, path)

    def resume(self, state: TrainState) -> Path | None:
        """Restore `state` from the newest undamaged checkpoint and return its folder; None where there is none at all.

        A damaged newer one is passed over with a logged warning. Raises CheckpointError when all are damaged.
        """
        put_back(self.folder)
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
                "--overwrite (in Python overwrite=True) or in another folder."
            ) from first
        return None


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
    header = _STORE.read(Path(path) / STATE)
    return Checkpoint(header.step, header.metric, _STORE.tensors(Path(path), header.files[0]), header.state)
