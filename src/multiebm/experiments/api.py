"""The Python interface: build, train and measure by the name of a preset, a YAML file or an Experiment."""

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from multiebm.core.bars import showing
from multiebm.core.errors import ConfigError, instance_of, whole_number
from multiebm.core.keys import CONFIG
from multiebm.data import MultimodalDataset, read_data
from multiebm.data.columns import Columns
from multiebm.evaluation.result import Evaluation, EvaluationSettings
from multiebm.experiments.build import build_dataset, build_model, naming_kept, naming_own, resolved
from multiebm.experiments.live import live_view
from multiebm.experiments.load import Source, load_experiment
from multiebm.experiments.measure import measure_model
from multiebm.experiments.run import run_experiment
from multiebm.experiments.schema import Experiment
from multiebm.experiments.sizes import sizes_for
from multiebm.experiments.sources import names_settings
from multiebm.experiments.values import apply_overrides, with_new_names
from multiebm.models.model import MultimodalModel
from multiebm.models.own import Maker, handed_over
from multiebm.nn.precision import set_precision
from multiebm.training.hooks import Callback

READ = "a data set; read it, multiebm.read_data(data), of a table with parts={'name': [columns]}"


def build(
    source: Source,
    dataset: MultimodalDataset | None = None,
    seed: int | None = None,
    encoders: Mapping[str, Maker] | None = None,
    decoders: Mapping[str, Maker] | None = None,
) -> MultimodalModel:
    """Return the untrained model of a preset, YAML file or Experiment, for the modalities of `dataset` (or of its own).

    `seed` replaces the configuration's; `encoders` and `decoders` are as in `train`. ConfigError lists everything that
    is wrong with the configuration.
    """
    if dataset is not None:
        instance_of("dataset", dataset, MultimodalDataset, READ)
    experiment, own = load_experiment(source), handed_over(encoders, decoders)
    data = build_dataset(experiment.data) if dataset is None else dataset
    section = naming_own(experiment.model, own)
    model = build_model(section, data.modalities, experiment.seed if seed is None else seed, own)
    set_precision(model, resolved(experiment, model.device).training.precision)
    return model


def train(
    source: Source | Any,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    dataset: MultimodalDataset | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str | torch.device = "auto",
    progress: bool = True,
    force: bool = False,
    tensorboard: bool = False,
    method: Source = "own",
    callbacks: Sequence[Callback] = (),
    init_from: str | Path | None = None,
    encoders: Mapping[str, Maker] | None = None,
    decoders: Mapping[str, Maker] | None = None,
    parts: Columns | None = None,
    kinds: dict[str, str | dict[str, Any]] | None = None,
    missing: Literal["nan"] | None = None,
    labels: Any = None,
) -> MultimodalModel:
    """Train in the run folder `out` and return the model, with averaged weights, as saved in `out/model`.

    `source` is a preset, a YAML file or an Experiment, or data: whatever `read_data` reads, with `parts`, `kinds`,
    `missing` and `labels` as there (train(table, parts={"sensor": ["temp", "hum*"]})), or what it returned. Data are
    trained on by the preset `method`; `out` is by default a new folder run-1, ... `overrides` are such as
    "training.batch_size=32"; `dataset` replaces the configured. A run keeps data
    that were handed over in Python (up to LARGEST_KEPT bytes), so that the command line can evaluate and report it.
    After Ctrl-C everything is saved before KeyboardInterrupt is raised. `resume` continues bit-exactly, in the run
    folder `source` unless `out` is given; learning rates among `overrides` hold from there on, which run.json and
    metrics.jsonl note. The same seed gives the same model, on the same kind of device with the same number of threads
    (OMP_NUM_THREADS). `progress` shows how far training is, on standard error: bars in terminals and notebooks, lines
    elsewhere. `force` takes over the lock of a folder that a process on another host has left. `tensorboard` also
    writes events for TensorBoard into `out/tensorboard`. `callbacks` are functions of the metrics by name and the
    number of a step, or objects with such a method `on_step`, called after each; if one returns True or raises
    StopTraining, training ends there in order, as when its time is spent. `init_from`, a run or saved model of the same
    modalities and networks, has the weights with which it begins; values are standardised by the new data. `encoders`
    and `decoders` are networks of your own by part: a class or function of the modality and a number n that returns a
    network, of states [B, *modality.shape] -> [B, n], or of [B, n] -> mean states [B, *modality.shape]. Whoever loads
    the model hands them over again.
    """
    own, overrides = handed_over(encoders, decoders), with_new_names(overrides)
    if dataset is not None:
        instance_of("dataset", dataset, MultimodalDataset, READ)
    said = {"parts": parts, "kinds": kinds, "missing": missing, "labels": labels}
    said = {key: value for key, value in said.items() if value is not None}
    source, dataset = _settings_and_data(source, dataset, method, overrides, said)
    out = _new_folder(source, resume) if out is None else out
    chosen = [] if dataset is None else sizes_for(source, dataset, overrides)
    experiment = load_experiment(source, [*chosen, *overrides])
    experiment = experiment.model_copy(update={"model": naming_own(experiment.model, own)})
    if dataset is not None:
        experiment = naming_kept(experiment, dataset, out)
        if progress:
            Console(stderr=True).print(f"data: {dataset.describe()}\nrun: {out}", soft_wrap=True, highlight=False)
    named = None if isinstance(source, Experiment) else str(source)
    with live_view(experiment, Console(stderr=True), progress) as live:
        result = run_experiment(
            *(experiment, out, dataset, resume, overwrite, live, device, named),
            force=force,
            tensorboard=tensorboard,
            callbacks=callbacks,
            init_from=init_from,
            named=[text.partition("=")[0].strip() for text in overrides],
            own=own,
        )
    if result.fit.reason == "interrupted":
        raise KeyboardInterrupt(result.fit.message(f"multiebm.train({str(out)!r}, resume=True)"))
    return result.model


def _settings_and_data(
    source: Source | Any,
    dataset: MultimodalDataset | None,
    method: Source,
    overrides: Sequence[str],
    reading: Mapping[str, Any],
) -> tuple[Source, MultimodalDataset | None]:
    """Return what names the settings of a run, and its data where they were handed over: beside such, settings of data
    are refused. `reading` are arguments of `read_data`, refused where there are no data to read.
    """
    settings = isinstance(source, Experiment) or not isinstance(source, MultimodalDataset) and names_settings(source)
    if problems := apply_overrides({}, overrides):
        raise ConfigError(problems)
    said = [text.partition("=") for text in overrides]
    keys = [key.strip() for key, _, value in said if value.strip() != "{}"]  # those of a preset may be taken away
    of_data = [key for key in keys if key == "data" or key.startswith(("data.name", "data.settings"))]
    if of_data and (dataset is not None or not settings):
        raise ConfigError(
            f"overrides: got {of_data[0]} beside data that were handed over, expected settings of the model and the "
            "training; say it where data are read, as in multiebm.train(multiebm.read_data(data, kinds={...}, "
            "missing='nan', test_fraction=0.2))"
        )
    if reading and (settings or isinstance(source, MultimodalDataset)):
        got = f"{source!s:.60}, which names settings" if settings else "data that read_data has read"
        raise ConfigError(
            f"{', '.join(reading)}: got with {got}, expected data to read beside it, as in multiebm.train(table, "
            "parts={'name': [columns]}); hand over the data there, or leave it out"
        )
    if settings:
        return source, dataset
    if dataset is not None:
        raise ConfigError("dataset: got one beside data, expected data once; leave dataset= out")
    return method, source if isinstance(source, MultimodalDataset) else read_data(source, **reading)


def _new_folder(source: Source, resume: bool) -> str | Path:
    """Return the folder of a run to resume where `source` is one, else a new one."""
    if resume and isinstance(source, str | Path) and (Path(source) / CONFIG).is_file():
        return source
    return next(path for i in count(1) if not (path := Path(f"run-{i}")).exists())


def evaluate(
    model: MultimodalModel,
    dataset: MultimodalDataset,
    settings: EvaluationSettings | None = None,
    seed: int = 0,
    inception: str | Path | None = None,
    progress: bool = True,
    judges: int | None = None,
    robust_judges: int | None = None,
) -> Evaluation:
    """Return every metric defined for model and data, with standard errors; see `Evaluation.results`.

    `inception`: a file with the weights of Inception, for FID too (torchmetrics, TensorFlow-ported weights).
    `progress` shows how far it is, as in `train`. `judges`: sets of judges, of different seeds, over which coherence is
    a mean. `robust_judges`: sets of judges that learn and read under noise and blur, for `gen/robust_coherence` and the
    like; 0 leaves these out. By default three and one, where the first set reads 95 % of real test items correctly.
    """
    instance_of("model", model, MultimodalModel, "a model; load it, multiebm.from_pretrained(run)")
    instance_of("dataset", dataset, MultimodalDataset, READ)
    instance_of("settings", settings := settings or EvaluationSettings(), EvaluationSettings, "EvaluationSettings(...)")
    plain, robust = (
        None if sets is None else whole_number(name, sets, least, 100, "a number of sets of judges")
        for name, sets, least in (("judges", judges, 1), ("robust_judges", robust_judges, 0))
    )
    weights = None if inception is None else Path(inception)
    with showing(progress):
        return measure_model(model, dataset, settings, seed, weights, plain, robust)
