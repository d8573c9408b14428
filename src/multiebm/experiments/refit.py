"""A finished run whose model is given something more: a new run folder, in which the rest is as it was."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from multiebm.core.errors import ConfigError
from multiebm.core.files import write_json
from multiebm.core.keys import CONFIG, DATA, MODEL, RUN
from multiebm.core.lock import locked
from multiebm.data import MultimodalDataset
from multiebm.experiments.build import build_dataset, training_data
from multiebm.experiments.folder import check_folder, check_same_data, open_folder, parameter_counts, read_run
from multiebm.experiments.load import load_experiment
from multiebm.experiments.saved import from_pretrained, save_pretrained
from multiebm.experiments.schema import Experiment
from multiebm.models.model import MultimodalModel


def run_settings(run: Path) -> Experiment:
    """Return the settings of a run; ConfigError where `run` is no folder of one."""
    if not (run / CONFIG).is_file():
        raise ConfigError(f"{run}: got no run folder (it has no {CONFIG}), expected one that training wrote")
    return load_experiment(run / CONFIG)


def refit(
    run: Path,
    out: Path,
    experiment: Experiment,
    fit: Callable[[MultimodalModel, MultimodalDataset], MultimodalModel],
    note: Callable[[], Mapping[str, Any]],
    device: str,
) -> MultimodalModel:
    """Write a run folder `out`, a new one or empty, with `experiment` and what `fit` makes of the model of `run`.

    `fit` is given that model and the data it was trained on, as training saw them; `note` says afterwards what run.json
    is to say of it. What would stop the writing is raised before that.
    """
    if out.resolve() == run.resolve():
        raise ConfigError(f"--out: got {out}, the folder of the run itself, which stays as it is; give another folder")
    before = run_settings(run).data
    with locked(out):
        check_folder(out, experiment, resume=False, overwrite=False)
        model = from_pretrained(run, device)
        dataset = build_dataset(before, run)
        check_same_data(read_run(run), dataset, run)
        fitted = fit(model, training_data(dataset, before.missing, experiment.seed))
        open_folder(out, experiment, resume=False)
        if (run / DATA).is_file():
            shutil.copyfile(run / DATA, out / DATA)
        write_json(out / RUN, read_run(run) | {"parameters": parameter_counts(fitted)} | dict(note()))
        save_pretrained(fitted, out / MODEL)
    return fitted
