"""One experiment, from data to a saved model, in a run folder that says how to repeat it."""

import logging
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch

from multiebm.core.errors import ConfigError, DataError
from multiebm.core.files import write_json
from multiebm.core.interrupts import interruptible
from multiebm.core.keys import BOARD, CHECKPOINTS, CONFIG, DATA, ELAPSED, METRICS, MODEL, RUN
from multiebm.core.lock import locked
from multiebm.core.progress import task
from multiebm.data import BatchStream, MultimodalDataset
from multiebm.data.npz import write_npz
from multiebm.experiments.build import (
    NO_CODE,
    begin_linear,
    build_dataset,
    build_model,
    build_state,
    find_device,
    lacking_own,
    resolved,
    settling_of,
    training_data,
)
from multiebm.experiments.folder import (
    check_folder,
    check_same_data,
    describe_run,
    open_folder,
    rates_changed,
    read_config,
    read_run,
)
from multiebm.experiments.measure import BEST, validation
from multiebm.experiments.saved import save_pretrained, start_from
from multiebm.experiments.schema import Experiment, contradictions
from multiebm.experiments.sources import preset_names
from multiebm.models.model import MultimodalModel
from multiebm.models.own import Own
from multiebm.training.checkpoint import CheckpointStore
from multiebm.training.guard import Guard
from multiebm.training.hooks import (
    Announce,
    Callback,
    Callbacks,
    CheckpointEvery,
    Hook,
    MetricsLog,
    TensorBoard,
    Validate,
)
from multiebm.training.loop import Fit, fit
from multiebm.training.phases.settle import MOST, settling_within, take_average
from multiebm.training.state import TrainState
from multiebm.training.steps import TrainingStep, marks, total_steps

logger = logging.getLogger(__name__)


class RunResult(NamedTuple):
    """The trained model (averaged weights, unless training stopped on the way), its run folder, and how it ended."""

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
    callbacks: Sequence[Callback] = (),
    init_from: str | Path | None = None,
    named: Collection[str] = (),
    own: Own = NO_CODE,
) -> RunResult:
    """Train in the folder `out`; `dataset` replaces the one the experiment names. `live` is told of every step;
    `preset` is noted in run.json. A run that reaches the step `until` stops there: `fit.reason` is "stopped", no prior
    settles and no model is saved. `force`, `tensorboard`, `callbacks` and `init_from` are as in `api.train`; where a
    callback ends it `fit.reason` is "callback". `named` are keys of settings that were given one by one: a learning
    rate among them may be another than the run to resume had. Ctrl-C and SIGTERM end it in order: the reason is
    "interrupted" and `resume` continues; before the first step KeyboardInterrupt is raised. Raises ConfigError,
    DataError or OutputError before anything is written, and DivergenceError.
    """
    _check(experiment, resume, overwrite)
    folder, target, told = Path(out), find_device(device), Callbacks(callbacks)
    begun = _begun(folder, own) if resume else None
    experiment = resolved(experiment, target, begun)
    with interruptible(), locked(folder, force):
        with _said("before training began; give the same command again"):
            resume = check_folder(folder, experiment, resume, overwrite, named)
            run = read_run(folder) if resume else {}
            rates = rates_changed(begun, experiment) if begun and resume else {}
            _say_anew(None if resume else preset, folder)
            dataset = build_dataset(experiment.data, folder) if dataset is None else dataset
            state = fresh_state(experiment, dataset, target, own, begins=not resume and init_from is None)
            if init_from is not None and not resume:
                start_from(state.model, init_from)
            if run:
                check_same_data(run, dataset, folder)
            hooks = _hooks(experiment, folder, dataset, target, tensorboard, rates)
            if resume:
                CheckpointStore(folder / CHECKPOINTS).resume(state)
                _say_another_machine(run, folder, target)
                _say_rates(rates, folder, state.step)
        open_folder(folder, experiment, resume)
        if dataset.kept and experiment.data.settings.get("path") == str(folder.absolute() / DATA):
            write_npz(folder / DATA, dataset.kept.arrays)
        begun_from = {} if init_from is None else {"init_from": str(init_from)}
        run = run or {"preset": preset} | begun_from | describe_run(dataset, state.model, experiment)
        session = {"command": sys.argv, "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "from_step": state.step}
        run.setdefault("sessions", []).append(session | ({"rates": rates} if rates else {}))
        write_json(folder / RUN, run)
        # who listens is told of the steps, unless a view shows them
        steps = nullcontext(print) if live else task("training", total_steps(experiment.training.phases))
        with _said("at once; continue from the last checkpoint with --resume (Python: resume=True)"), steps as advance:
            hooks += [live or Announce(advance), told]
            fitted = _train(experiment, state, hooks, run, folder, until)
        return RunResult(state.model, folder, fitted)


def _begun(folder: Path, own: Own) -> Experiment | None:
    """Return the configuration of the run in a folder, if there is one; ConfigError where it needs more networks."""
    begun = read_config(folder) if (folder / CONFIG).is_file() else None
    if begun is not None and (problems := lacking_own(begun.model, own)):
        raise ConfigError(problems)
    return begun


def _check(experiment: Experiment, resume: bool, overwrite: bool) -> None:
    if problems := contradictions(experiment):
        raise ConfigError(problems)
    if resume and overwrite:
        raise ConfigError("resume, overwrite: got both, expected one; resume continues a run, overwrite deletes it")


def _train(
    experiment: Experiment,
    state: TrainState[MultimodalModel],
    hooks: list[Hook],
    run: dict[str, Any],
    folder: Path,
    until: int | None,
) -> Fit:
    """Make the steps, let the priors settle, save the model, and note it all in the last session of `run`."""
    session, ended = run["sessions"][-1], "failed"
    try:
        fitted, share = _fit(experiment, state, hooks, CheckpointStore(folder / CHECKPOINTS), session, until)
        ended = fitted.reason
    except KeyboardInterrupt:
        ended = "interrupted"
        raise
    finally:
        elapsed = round(state.numbers.get(ELAPSED, 0.0), 1)  # of training, since step 0
        session |= {"to_step": state.step, "seconds": elapsed, "reason": ended}
        if state.model.generator.balanced:  # which the configuration does not say
            run["weights"] = {name: float(f"{w:.3g}") for name, w in state.model.generator.weights().items()}
        write_json(folder / RUN, run)
    over = state.step == total_steps(experiment.training.phases)
    if fitted.reason == "stopped" or (over and fitted.reason == "interrupted"):
        return fitted
    if fitted.reason == "interrupted":
        logger.warning(
            "interrupted after step %d: priors settle, if any, and the model is saved; again ends at once", state.step
        )
    if fitted.reason == "budget":
        _say_unreached(experiment, state.step)
    began, ended = time.perf_counter(), "failed"
    try:
        take_average(state, settling_of(experiment, state.numbers), share)
        session["settling"] = round(time.perf_counter() - began, 1)  # seconds more
        save_pretrained(state.model, folder / MODEL)
        ended = fitted.reason
    except KeyboardInterrupt:  # a resumed run begins at the last step, and settles as this one would have
        fitted = fitted._replace(reason="interrupted")
        ended = fitted.reason
    finally:
        session["reason"] = ended
        write_json(folder / RUN, run)
    return fitted


def _fit(
    experiment: Experiment,
    state: TrainState[MultimodalModel],
    hooks: list[Hook],
    store: CheckpointStore,
    session: dict[str, Any],
    until: int | None,
) -> tuple[Fit, float]:
    """Make the steps; return how they ended, and the share of their steps and codes with which priors settle then."""
    t, share, seconds = experiment.training, 1.0, None
    if t.seconds is not None:  # what settling takes is kept free, with the time of finding it out
        began = time.perf_counter()
        share, settling = settling_within(state, settling_of(experiment, state.numbers), t.seconds)
        if share < 1:
            session["settling_share"] = float(f"{share:.2g}")
            logger.warning(
                f"priors settle with {100 * share:.2g} % of their steps and codes: in full it would take more than "
                f"{100 * MOST:.0f} % of training.seconds {t.seconds:g}; raise it, or lower "
                "training.phases.settle.steps or model.prior.components"
            )
        seconds = t.seconds - settling - (time.perf_counter() - began)
        if not state.step and (start := state.numbers.get(ELAPSED, 0.0)) >= seconds:
            said = "the start of the linear half took %.1f s of training.seconds %g, so that no step was made; raise it"
            logger.warning(said, start, t.seconds)
    guard = Guard(
        TrainingStep(t.phases, t.optimiser),
        limits=state.model.generator.prior.limits(),
        snapshot_every=t.checkpoint_every,  # so that a resumed run can go back exactly as far as an uninterrupted one
        last_checkpoint=store.latest,
        starts=marks(t.phases),
    )
    saving = CheckpointEvery(store, t.checkpoint_every, BEST if t.validate_every else None)
    steps = total_steps(t.phases)
    return fit(state, guard, steps, [*hooks, saving], seconds, lambda: state.step == until), share


@contextmanager
def _said(how_to_go_on: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f"interrupted {how_to_go_on}") from stop


def _say_anew(preset: str | None, folder: Path) -> None:
    """Say it where a run takes the settings of another run's folder: training does not go on there."""
    if preset and preset not in preset_names() and (Path(preset) / CONFIG).is_file():
        logger.warning(
            f"configuration of {preset} taken, training starts anew in {folder}; to go on with that run use "
            f"--out {preset} --resume (in Python resume=True)"
        )


def _say_unreached(experiment: Experiment, step: int) -> None:
    """Say it where time was over before all phases had begun."""
    if step and (never := experiment.training.unreached(step)):
        logger.warning(
            f"training.seconds {experiment.training.seconds:g} ended the steps before these phases began, so nothing "
            f"has learned in them: {', '.join(never)}; raise it, or lower the steps of the phases before "
            f"(training.phases.{experiment.training.lengths()[0][0]}.steps)"
        )


def _say_another_machine(run: dict[str, Any], folder: Path, device: torch.device) -> None:
    """Say it where a run goes on with other threads or on another kind of device: sums are then rounded otherwise."""
    before = run.get("hardware", {})
    was = (before.get("threads"), str(before.get("device")).partition(":")[0])
    now = (torch.get_num_threads(), device.type)
    if before and was != now:
        logger.warning(
            f"{folder}: begun with {was[0]} thread(s) on {was[1]}, resumed with {now[0]} on {now[1]}: the run goes on, "
            f"but not bit for bit as it would have; set OMP_NUM_THREADS={was[0]} and the device of before for that"
        )


def _say_rates(rates: dict[str, list[float]], folder: Path, step: int) -> None:
    """Say it where a run goes on at other learning rates."""
    for key, (old, new) in rates.items():
        logger.warning("%s: %s is %g from step %d on, where it was %g", folder, key, new, step, old)


def fresh_state(
    experiment: Experiment, dataset: MultimodalDataset, device: torch.device, own: Own = NO_CODE, begins: bool = True
) -> TrainState[MultimodalModel]:
    """Return the state at step 0, on `device`: data, weights and every draw a function of the configuration's seed.

    Unless it `begins`, and other weights take the place of these, a linear half is not fitted. What that takes is time
    of training.
    """
    data = training_data(dataset, experiment.data.missing, experiment.seed, device)
    hidden = int((~data.train.present.all(1)).sum())
    if experiment.model.inference.subsets == "joint" and hidden:
        raise DataError(
            f"model.inference.subsets joint: got {hidden} of {len(data.train)} training items with parts missing, "
            "expected complete items: a joint encoder reads all parts at once; train on complete items or another "
            "baseline"
        )
    model = build_model(experiment.model, dataset.modalities, experiment.seed, own).to(device)
    took = {ELAPSED: begin_linear(model, data, experiment.seed)} if begins and model.inference.linear else {}
    size = min(experiment.training.batch_size, max(len(data.train), 1))  # of fewer rows all
    state = build_state(experiment, model, BatchStream(data, "train", size, experiment.seed))
    state.numbers |= took
    return state


def _hooks(
    experiment: Experiment,
    folder: Path,
    dataset: MultimodalDataset,
    device: torch.device,
    tensorboard: bool,
    rates: dict[str, list[float]],
) -> list[Hook]:
    """Return what happens between steps, views and checkpoints apart; validation first, so that the logs show it."""
    t = experiment.training
    hooks: list[Hook] = [MetricsLog(folder / METRICS, t.log_every, rates)]
    if t.validate_every:
        train = training_data(dataset, experiment.data.missing, experiment.seed, device)
        hooks.insert(0, Validate(t.validate_every, validation(dataset, train, str(device), experiment)))
    if tensorboard:
        hooks.append(TensorBoard(folder / BOARD, t.log_every))
    return hooks
