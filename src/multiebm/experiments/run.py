"""One experiment, from data to a saved model, in a run folder that says how to repeat it."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch

from multiebm.core.errors import ConfigError, DataError
from multiebm.core.interrupts import interruptible
from multiebm.core.keys import CONFIG, ELAPSED
from multiebm.core.lock import locked
from multiebm.core.progress import task
from multiebm.data import BatchStream, MultimodalDataset
from multiebm.experiments.build import build_model, build_state, resolved, settling_of
from multiebm.experiments.data import build_dataset, find_device, training_data
from multiebm.experiments.folder import (
    BOARD,
    CHECKPOINTS,
    METRICS,
    check_folder,
    check_same_data,
    describe_run,
    new_session,
    open_folder,
    read_config,
    read_run,
    write_run,
)
from multiebm.experiments.measure import BEST, validation
from multiebm.experiments.saved import MODEL, save_pretrained
from multiebm.experiments.schema import Experiment, contradictions
from multiebm.experiments.sources import preset_names
from multiebm.models.model import MultimodalModel
from multiebm.training.checkpoint import CheckpointStore
from multiebm.training.guard import Guard
from multiebm.training.hooks import Announce, CheckpointEvery, Hook, MetricsLog, TensorBoard, Validate
from multiebm.training.loop import Fit, fit
from multiebm.training.phases.settle import MOST, Planned, settling_within, take_average
from multiebm.training.state import TrainState
from multiebm.training.steps import TrainingStep, marks, total_steps

logger = logging.getLogger(__name__)


class RunResult(NamedTuple):
    """The trained model (averaged weights, as saved in `folder/model`, unless training stopped on the way), its run
    folder, and how training ended.
    """

    model: MultimodalModel
    folder: Path
    fit: Fit


def run_experiment(
    experiment: Experiment,
    out: str | Path,
    dataset: MultimodalDataset | None = None,
    resume: bool = False,
    overwrite: bool = False,
    live: Hook | None = None,
    device: str | torch.device = "auto",
    preset: str | None = None,
    until: int | None = None,
    force: bool = False,
    tensorboard: bool = False,
) -> RunResult:
    """Train in the folder `out`; `dataset` replaces the one the experiment names. `live` is told of every step;
    `preset` is noted in run.json. A run that reaches the step `until` stops there: `fit.reason` is "stopped", no prior
    settles and no model is saved. `force` takes over a lock of a process that may have ended on another host.
    `tensorboard` also writes events for TensorBoard.

    Ctrl-C and SIGTERM end it in order: `fit.reason` is then "interrupted" and `resume` continues; before the first step
    KeyboardInterrupt is raised. Raises ConfigError, DataError or OutputError before anything is written, and
    DivergenceError.
    """
    if problems := contradictions(experiment):
        raise ConfigError(problems)
    if resume and overwrite:
        raise ConfigError("resume, overwrite: got both, expected one; resume continues a run, overwrite deletes it")
    folder, target = Path(out), find_device(device)
    begun = read_config(folder) if resume and (folder / CONFIG).is_file() else None
    experiment = resolved(experiment, target, begun)
    with interruptible(), locked(folder, force):
        with _said("before training began; give the same command again"):
            resume = check_folder(folder, experiment, resume, overwrite)
            run = read_run(folder) if resume else {}
            _say_where_it_begins(preset, folder, resume)
            dataset = build_dataset(experiment.data) if dataset is None else dataset
            state = fresh_state(experiment, dataset, target)
            if run:
                check_same_data(run, dataset, folder)
            hooks = make_hooks(experiment, folder, dataset, target)
            if tensorboard:
                hooks.append(TensorBoard(folder / BOARD, experiment.training.log_every))
            store = CheckpointStore(folder / CHECKPOINTS)
            if resume:
                store.resume(state)
                _say_another_machine(run, folder, target)
        open_folder(folder, experiment, resume)
        run = run or {"preset": preset} | describe_run(dataset, state.model, experiment)
        run.setdefault("sessions", []).append(new_session(state.step))
        write_run(folder, run)
        shown = announced(experiment) if live is None else nullcontext(live)
        with _said("at once; continue from the last checkpoint with --resume"), shown as view:
            fitted = _train(experiment, state, [*hooks, view], store, run, folder, until)
        return RunResult(state.model, folder, fitted)


def _train(
    experiment: Experiment,
    state: TrainState[MultimodalModel],
    hooks: list[Hook],
    store: CheckpointStore,
    run: dict[str, Any],
    folder: Path,
    until: int | None,
) -> Fit:
    """Make the steps, let the priors settle, save the model, and note it all in the last session of `run`."""
    session, ended = run["sessions"][-1], "failed"
    planned = _plan_settling(experiment, state, session)
    try:
        fitted = _fit(experiment, state, hooks, store, until, planned.seconds)
        ended = fitted.reason
    except KeyboardInterrupt:
        ended = "interrupted"
        raise
    finally:
        seconds = round(state.numbers.get(ELAPSED, 0.0), 1)  # of training, since step 0
        session |= {"to_step": state.step, "seconds": seconds, "reason": ended}
        write_run(folder, run)
    over = state.step == total_steps(experiment.training.phases)
    if fitted.reason == "stopped" or (over and fitted.reason == "interrupted"):
        return fitted
    if fitted.reason == "interrupted":
        logger.warning(
            "interrupted after step %d: priors settle, if any, and the model is saved; again ends at once", state.step
        )
    began, ended = time.perf_counter(), "failed"
    try:
        take_average(state, settling_of(experiment, state.numbers), planned.share)
        session["settling"] = round(time.perf_counter() - began, 1)  # seconds more
        save_pretrained(state.model, folder / MODEL)
        ended = fitted.reason
    except KeyboardInterrupt:  # a resumed run begins at the last step, and settles as this one would have
        fitted = fitted._replace(reason="interrupted")
        ended = fitted.reason
    finally:
        session["reason"] = ended
        write_run(folder, run)
    return fitted


def _plan_settling(experiment: Experiment, state: TrainState[MultimodalModel], session: dict[str, Any]) -> Planned:
    """Return how priors settle; within a time budget its seconds, those of finding it out included, are kept free."""
    budget = experiment.training.seconds
    if budget is None:
        return Planned()
    began = time.perf_counter()
    planned = settling_within(state, settling_of(experiment, state.numbers), budget)
    if planned.share < 1:
        session["settling_share"] = float(f"{planned.share:.2g}")
        logger.warning(
            "priors settle with %.2g %% of their steps and codes: in full it would take more than %.0f %% of "
            "training.seconds %g; raise it, or lower training.phases.settle.steps or model.prior.components",
            100 * planned.share,
            100 * MOST,
            budget,
        )
    return planned._replace(seconds=planned.seconds + time.perf_counter() - began)


@contextmanager
def _said(how_to_go_on: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f"interrupted {how_to_go_on}") from stop


def _say_where_it_begins(preset: str | None, folder: Path, resume: bool) -> None:
    """Say it where a run folder is given and another folder is written: that run itself does not go on."""
    if preset is None or resume or preset in preset_names() or not (Path(preset) / CONFIG).is_file():
        return
    logger.warning(
        "configuration of %s taken, training starts anew in %s; to go on with that run use --out %s --resume",
        preset,
        folder,
        preset,
    )


def _say_another_machine(run: dict[str, Any], folder: Path, device: torch.device) -> None:
    """Say it where a run goes on with other threads or on another kind of device: sums are then rounded otherwise."""
    before = run.get("hardware", {})
    was = (before.get("threads"), str(before.get("device")).partition(":")[0])
    now = (torch.get_num_threads(), device.type)
    if before and was != now:
        logger.warning(
            "%s: begun with %s thread(s) on %s, resumed with %d on %s: the run goes on, but not bit for bit as it "
            "would have; set OMP_NUM_THREADS=%s and the device of before for that",
            folder,
            *was,
            *now,
            was[0],
        )


def fresh_state(
    experiment: Experiment, dataset: MultimodalDataset, device: torch.device
) -> TrainState[MultimodalModel]:
    """Return the state at step 0, on `device`: data, weights and every draw a function of the configuration's seed."""
    data = training_data(dataset, experiment.data.missing, experiment.seed, device)
    hidden = int((~data.train.present.all(1)).sum())
    if experiment.model.inference.subsets == "joint" and hidden:
        raise DataError(
            f"model.inference.subsets joint: got {hidden} of {len(data.train)} training items with parts missing, "
            "expected complete items: a joint encoder reads all parts at once; train on complete items or another "
            "baseline"
        )
    model = build_model(experiment.model, dataset.modalities, experiment.seed).to(device)
    stream = BatchStream(data, "train", experiment.training.batch_size, experiment.seed)
    return build_state(experiment, model, stream)


def make_hooks(experiment: Experiment, folder: Path, dataset: MultimodalDataset, device: torch.device) -> list[Hook]:
    """Return what happens between steps, views and checkpoints apart; validation first, so that the logs show it."""
    t = experiment.training
    hooks: list[Hook] = []
    if t.validate_every:
        train = training_data(dataset, experiment.data.missing, experiment.seed, device)
        hooks.append(Validate(t.validate_every, validation(dataset, train, str(device), experiment)))
    hooks.append(MetricsLog(folder / METRICS, t.log_every))
    return hooks


@contextmanager
def announced(experiment: Experiment) -> Iterator[Hook]:
    """Give the hook that tells who listens how many steps are made, for runs that no view of their own shows."""
    with task("training", total_steps(experiment.training.phases)) as advance:
        yield Announce(advance)


def _fit(
    experiment: Experiment,
    state: TrainState[MultimodalModel],
    hooks: list[Hook],
    store: CheckpointStore,
    until: int | None,
    reserved: float,
) -> Fit:
    t = experiment.training
    guard = Guard(
        TrainingStep(t.phases, t.optimiser),
        limits=state.model.generator.prior.limits(),
        snapshot_every=t.checkpoint_every,  # so that a resumed run can go back exactly as far as an uninterrupted one
        last_checkpoint=store.latest,
        starts=marks(t.phases),
    )
    saving = CheckpointEvery(store, t.checkpoint_every, BEST if t.validate_every else None)
    steps = total_steps(t.phases)
    seconds = None if t.seconds is None else t.seconds - reserved
    return fit(state, guard, steps, [*hooks, saving], seconds, lambda: state.step == until)
