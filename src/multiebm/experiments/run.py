"""One experiment, from data to a saved model, in a run folder that says how to repeat it."""

import time
from pathlib import Path
from typing import NamedTuple

import torch

from multiebm.core.errors import ConfigError
from multiebm.data import BatchStream, MultimodalDataset
from multiebm.experiments.build import TrainingStep, build_model, build_state, settling
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
    read_run,
    write_run,
)
from multiebm.experiments.measure import BEST, validation
from multiebm.experiments.pretrained import MODEL, save_pretrained
from multiebm.experiments.schema import Experiment, contradictions
from multiebm.models.model import MultimodalModel
from multiebm.training.checkpoint import CheckpointStore
from multiebm.training.guard import Guard
from multiebm.training.hooks import CheckpointEvery, Hook, MetricsLog, TensorBoard, Validate
from multiebm.training.loop import Fit, fit
from multiebm.training.priors import TILT_STD, settle_priors, warn_if_dead
from multiebm.training.state import ELAPSED, TrainState

REFIT_BATCHES = 128  # that fitted mixtures see when training is over


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
    device: str = "auto",
    preset: str | None = None,
    until: int | None = None,
) -> RunResult:
    """Train in the folder `out`; `dataset` replaces the one the experiment names. `live` is told of every step;
    `preset` is noted in run.json. A run that reaches the step `until` stops there: `fit.reason` is "stopped", no prior
    settles and no model is saved.

    Ctrl-C ends it in order: `fit.reason` is then "interrupted" and `resume` continues. Raises ConfigError, DataError or
    OutputError before anything is written, and DivergenceError.
    """
    if problems := contradictions(experiment):
        raise ConfigError(problems)
    folder, target = Path(out), find_device(device)
    check_folder(folder, experiment, resume, overwrite)
    dataset = build_dataset(experiment.data) if dataset is None else dataset
    state = fresh_state(experiment, dataset, target)
    run = read_run(folder) if resume else {}
    if run:
        check_same_data(run, dataset, folder)
    hooks = make_hooks(experiment, folder, dataset, target, live)
    store = CheckpointStore(folder / CHECKPOINTS)
    open_folder(folder, experiment, resume)
    if resume:
        store.resume(state)
    run = run or {"preset": preset} | describe_run(dataset, state.model, experiment)
    run["sessions"].append(session := new_session(state.step))
    write_run(folder, run)
    ended = "failed"
    try:
        fitted = _fit(experiment, state, hooks, store, until)
        ended = fitted.reason
    finally:
        seconds = round(state.numbers.get(ELAPSED, 0.0), 1)  # of training, since step 0
        session |= {"to_step": state.step, "seconds": seconds, "reason": ended}
        write_run(folder, run)
    if fitted.reason == "stopped":
        return RunResult(state.model, folder, fitted)
    began = time.perf_counter()
    take_average(state, experiment)
    session["settling"] = round(time.perf_counter() - began, 1)  # seconds more
    write_run(folder, run)
    save_pretrained(state.model, folder / MODEL)
    return RunResult(state.model, folder, fitted)


def fresh_state(
    experiment: Experiment, dataset: MultimodalDataset, device: torch.device
) -> TrainState[MultimodalModel]:
    """Return the state at step 0, on `device`: data, weights and every draw a function of the configuration's seed."""
    data = training_data(dataset, experiment.data.missing, experiment.seed, device)
    model = build_model(experiment.model, dataset.modalities, experiment.seed).to(device)
    stream = BatchStream(data, "train", experiment.training.batch_size, experiment.seed)
    return build_state(experiment, model, stream)


def make_hooks(
    experiment: Experiment, folder: Path, dataset: MultimodalDataset, device: torch.device, live: Hook | None
) -> list[Hook]:
    """Return what happens between steps, checkpoints apart; validation first, so that the logs show it."""
    t = experiment.training
    hooks: list[Hook] = []
    if t.validate_every:
        train = training_data(dataset, experiment.data.missing, experiment.seed, device)
        hooks.append(Validate(t.validate_every, validation(dataset, train, str(device), experiment)))
    hooks.append(MetricsLog(folder / METRICS, t.log_every))
    if t.tensorboard:
        hooks.append(TensorBoard(folder / BOARD, t.log_every))
    return hooks if live is None else [*hooks, live]


def take_average(state: TrainState[MultimodalModel], experiment: Experiment) -> None:
    """Give the model its averaged weights for good, and put it in evaluation mode: training is over.

    Priors settle on the codes that the averaged weights give to the stream's next batches.
    """
    model = state.model.eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in state.average:
                parameter.copy_(state.average[name])
    if not experiment.model.prior.settle:  # or it has yet to learn
        warn_if_dead(state.numbers.get(TILT_STD))
    batches = (next(state.stream).to(model.device) for _ in range(REFIT_BATCHES))
    settle_priors(model, batches, state.generator, **settling(experiment, state.numbers))


def _fit(
    experiment: Experiment,
    state: TrainState[MultimodalModel],
    hooks: list[Hook],
    store: CheckpointStore,
    until: int | None,
) -> Fit:
    t = experiment.training
    guard = Guard(
        TrainingStep(experiment),
        limit=t.gap_limit,
        snapshot_every=t.checkpoint_every,  # so that a resumed run can go back exactly as far as an uninterrupted one
        retries=t.retries,
        last_checkpoint=store.latest,
    )
    saving = CheckpointEvery(store, t.checkpoint_every, BEST if t.validate_every else None)
    steps = t.warmup.steps + t.cooperative.steps
    return fit(state, guard, steps, [*hooks, saving], t.seconds, lambda: state.step == until)
