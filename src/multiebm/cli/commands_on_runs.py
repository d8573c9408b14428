"""`multiebm presets`, `baselines`, `cite`, `show`, `train`, `fit-prior`, `fit-refiner`, `compare`, `evaluate` and
`report`: what can be run, with which settings, whose idea it was, and what a run is worth.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from multiebm.cli.options import (
    INTERRUPTED,
    OWN_DATA,
    ROWS_DATA,
    Device,
    InitFrom,
    Kinds,
    Labels,
    Method,
    Missing,
    Overrides,
    PartColumns,
    Run,
    Source,
    data_settings,
)
from multiebm.core.keys import CONFIG, EVALUATION, REPORT

if TYPE_CHECKING:
    from multiebm.data import MultimodalDataset
    from multiebm.experiments.schema import Experiment

UNITS = {"s": 1, "m": 60, "h": 3600}


def presets() -> None:
    """List the presets, one line each."""
    from multiebm.experiments.sources import preset_comment, preset_names

    _list({name: (preset_comment(name) or [""])[0] for name in preset_names()})


def baselines() -> None:
    """List the multimodal VAEs, one line each; train one on data D as `multiebm train D-ROW`."""
    from multiebm.experiments import baselines as table

    rows = table.baselines()
    _list({name: rows[name].title for name in rows})


def _list(lines: Mapping[str, str]) -> None:
    width = max(map(len, lines))
    for name, line in lines.items():
        typer.echo(f"{name:<{width}}  {line}")


def cite(row: Annotated[str, typer.Argument(help="A row of `multiebm baselines`, or cooperative.")]) -> None:
    """Print the BibTeX of a method's sources."""
    from multiebm.experiments.baselines import COOPERATIVE, REFERENCES
    from multiebm.experiments.baselines import baselines as table

    cooperative = [REFERENCES[key] for key in COOPERATIVE]
    typer.echo("\n\n".join(cooperative if row == "cooperative" else table()[row].references))


def show(
    preset: Annotated[str, typer.Argument(help="A preset, a YAML file, a run folder, or a row of the baselines.")],
    overrides: Overrides = None,
    against: Annotated[
        str | None, typer.Option(help="Show only what differs from this preset, file, run or row.")
    ] = None,
) -> None:
    """Show every setting of a configuration and what it means, or how it differs from another; of two baselines, the
    cells that differ.
    """
    from multiebm.experiments.baselines import baselines
    from multiebm.experiments.explain import annotated
    from multiebm.experiments.folder import read_run
    from multiebm.experiments.load import differences, differences_of_rows, load_experiment, say, to_dict
    from multiebm.experiments.sources import preset_names
    from multiebm.training.weights import say_weights

    if against is not None and {preset, against} <= set(baselines()) and not overrides:
        changes = differences_of_rows(against, preset)
    else:
        experiment = load_experiment(preset, overrides or [])
        if against is None:
            typer.echo("\n".join(annotated(to_dict(experiment))).lstrip())
            run = {} if preset in preset_names() else read_run(Path(preset))
            if found := run.get("weights"):
                typer.echo(f"\n# {say_weights(found)}")
            return
        changes = differences(load_experiment(against), experiment)
    typer.echo("\n".join([f"# {against} -> {preset}", *map(say, changes)]))


def train(
    context: typer.Context,
    source: Source,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Run folder: configuration, log, checkpoints, model; RUN itself in `train RUN --resume`.",
            show_default=False,
        ),
    ] = None,
    overrides: Overrides = None,
    part: PartColumns = None,
    kind: Kinds = None,
    missing: Missing = None,
    labels: Labels = None,
    method: Method = OWN_DATA,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the folder, bit-exactly.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the run in the folder first.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Take over the folder's lock of another, ended host.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write events for TensorBoard too.")] = False,
    init_from: InitFrom = None,
    device: Device = "auto",
) -> None:
    """Train a model; Ctrl-C saves, and --resume continues."""
    from multiebm.experiments.load import load_experiment
    from multiebm.experiments.sources import names_settings
    from multiebm.experiments.values import with_new_names

    overrides = [*with_new_names(overrides or [])]
    if out is None and resume and (Path(source) / CONFIG).is_file():
        out = Path(source)
    if out is None:
        raise typer.BadParameter("Missing option '--out', expected the folder of the run that is written")
    preset = method if (own := not names_settings(source)) else source
    of_data = data_settings(source, own, part, kind, missing, labels, method)
    experiment = load_experiment(preset, [*of_data, *overrides])  # before torch: mistakes are told at once
    from multiebm.cli.outputs import view_ending
    from multiebm.experiments.build import build_dataset
    from multiebm.experiments.folder import check_folder
    from multiebm.experiments.live import live_view
    from multiebm.experiments.run import run_experiment
    from multiebm.experiments.sizes import sizes_for

    if own and not resume:
        check_folder(out, experiment, resume, overwrite)  # before the data are read
    dataset = build_dataset(experiment.data) if own else None
    if dataset is not None:
        typer.echo(f"data: {dataset.describe()}", err=True)
        chosen = sizes_for(preset, dataset, overrides)
        experiment = load_experiment(preset, [*chosen, *of_data, *overrides])
    with live_view(experiment, progress=not context.obj) as live:
        result = run_experiment(
            *(experiment, out, dataset, resume, overwrite, live, device, preset),
            force=force,
            tensorboard=tensorboard,
            init_from=init_from,
            named=[text.partition("=")[0].strip() for text in overrides],
        )
    typer.echo(result.fit.message())
    if result.fit.reason == "interrupted":
        again = [*(["--device", device] if device != "auto" else []), *(["--tensorboard"] if tensorboard else [])]
        typer.echo(f"to go on: {shlex.join(['multiebm', 'train', str(out), *again, '--resume'])}")
        raise typer.Exit(INTERRUPTED)
    look = shlex.join(["multiebm", "sample", str(out), "--out", f"samples{view_ending(result.model.modalities)}"])
    typer.echo(f"model: {result.folder / 'model'}; look at it: {look}")


def fit_prior(
    run: Annotated[Path, typer.Argument(help="A run folder; it stays as it is.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Run folder of the same model with the new prior.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings of model.prior, such as model.prior.components=60."),
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of Adam.", min=1)] = 3000,
    rate: Annotated[float, typer.Option(help="Its learning rate.", min=0)] = 1e-3,
    device: Device = "auto",
) -> None:
    """Fit an energy prior over the shared latent to a trained model, which stays as it is."""
    from multiebm.experiments.fit_prior import fit_prior_of_run
    from multiebm.priors.prior import Settling

    fit_prior_of_run(run, out, overrides or [], Settling(steps, rate=rate), device, typer.echo)
    typer.echo(f"model: {out / 'model'}; measure it: multiebm evaluate {out}")


def fit_refiner(
    run: Annotated[Path, typer.Argument(help="A run folder; it stays as it is.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Run folder of the same model with a refiner.", show_default=False)],
    formulation: Annotated[int, typer.Option(help="1: from noise; 2: from noise around a draw.", min=1, max=2)] = 1,
    width: Annotated[int, typer.Option(help="Channels of the U-Net's first stage, a multiple of 4.")] = 64,
    steps: Annotated[int, typer.Option(help="Steps of Adam.", min=1)] = 20_000,
    rate: Annotated[float, typer.Option(help="Its learning rate.", min=0)] = 2e-4,
    batch: Annotated[int, typer.Option(help="Items a step.", min=1)] = 32,
    drawn_in: Annotated[int, typer.Option(help="Steps that draw a picture unless said otherwise.")] = 250,
    device: Device = "auto",
) -> None:
    """Fit a diffusion refiner of pictures to a trained model, which stays as it is (DiffuseVAE)."""
    from multiebm.experiments.fit_refiner import Learning, fit_refiner_of_run
    from multiebm.models.diffusion import Diffusion

    settings = Diffusion(formulation, width, drawn_in)  # type: ignore[arg-type]
    fit_refiner_of_run(run, out, settings, Learning(steps, rate, batch), device, typer.echo)
    typer.echo(f"model: {out / 'model'}; look at it: multiebm sample {out} --diffusion --out samples.png")


def compare(
    rows: Annotated[
        list[str],
        typer.Argument(
            help="Rows of `multiebm baselines`, combined (the preset), or ROW of D-ROW.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of cells, runs and tables; what it holds is not made again.")],
    data: Annotated[
        str,
        typer.Option(
            help="Your data, a file or folder, or a preset: polydigits, polymnist16, polymnist, mnist-svhn, cub64, "
            "coco64, tuxpaint, toy2d, shapes, arrays."
        ),
    ] = "polydigits",
    budget: Annotated[str, typer.Option(help="Time to train each, such as 240s, 15m or 1h.")] = "4m",
    seeds: Annotated[int, typer.Option(help="Seeds 0 to N - 1.", min=1)] = 1,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting to change in every row.")
    ] = None,
    part: PartColumns = None,
    kind: Kinds = None,
    missing: Missing = None,
    labels: Labels = None,
    device: Device = "auto",
) -> None:
    """Train and measure methods under one budget, one at a time; writes a table as Markdown, CSV, LaTeX and HTML."""
    seconds = seconds_of(budget)
    import multiebm
    from multiebm.experiments.compare import compare as run
    from multiebm.experiments.sources import names_settings

    own = not names_settings(data)
    changes = [*data_settings(data, own, part, kind, missing, labels, OWN_DATA), *(settings or [])]
    try:
        cells = run(rows, ROWS_DATA if own else data, seconds, seeds, out, changes, typer.echo, device)
    except KeyboardInterrupt as interrupted:
        typer.echo("interrupted; the same command goes on where it was")
        raise typer.Exit(INTERRUPTED) from interrupted
    typer.echo(f"tables: {out / 'table.md'}, .csv, .tex; page: {multiebm.write_comparison(cells, out, data)}")


def seconds_of(budget: str) -> float:
    """Return the seconds that "240s", "15m" or "1.5h" stand for; ConfigError for anything else."""
    from multiebm.core.errors import ConfigError

    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", budget.strip())
    if found is None or not float(found[1]):
        raise ConfigError(f"--budget: got {budget!r}, expected a time such as 240s, 15m or 1h")
    return float(found[1]) * UNITS[found[2]]


def evaluate(
    run: Run,
    samples: Annotated[int | None, typer.Option(help="Joint samples; the run's evaluation.samples by default.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Such as evaluation.sizes=[1,2,3,4].", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the samples.", min=0, max=2**32 - 1)] = 0,
    inception: Annotated[
        Path | None, typer.Option(help="Weights of Inception (pt_inception-2015-12-05-6726825d.pth), for FID too.")
    ] = None,
    judges: Annotated[
        int | None, typer.Option(help="Sets of judges, of different seeds; 3 unless they misread.", min=1, max=100)
    ] = None,
    robust_judges: Annotated[
        int | None,
        typer.Option(help="Sets that read under noise and blur; 1 unless judges misread, 0 = none.", min=0, max=100),
    ] = None,
    device: Device = "auto",
    out: Annotated[Path | None, typer.Option(help="File to write; the run's evaluation.json by default.")] = None,
) -> None:
    """Measure a trained model on its test data; writes evaluation.json into the run folder."""
    from multiebm.core.errors import ConfigError

    changes = [*(overrides or []), *([] if samples is None else [f"evaluation.samples={samples}"])]
    if wrong := [text for text in changes if not text.startswith(("evaluation.", "data."))]:
        problems = [f"{text!r}: expected a setting of evaluation or data; the model is the run's" for text in wrong]
        raise ConfigError(problems)
    out = run / EVALUATION if out is None else out
    experiment, dataset = _opened(run, out, changes)
    from multiebm.cli.outputs import print_evaluation
    from multiebm.evaluation.judges import readable
    from multiebm.experiments.folder import read_lines
    from multiebm.experiments.measure import measure_model
    from multiebm.experiments.saved import from_pretrained

    model, measured = from_pretrained(run, device), experiment.evaluation
    first = "; judges of the data are trained the first time" if readable(dataset) and dataset.exact is None else ""
    what = f"{measured.samples} joint samples and completions of {min(measured.items, len(dataset.test))} items"
    typer.echo(f"measuring {what}{first}", err=True)
    evaluation = measure_model(model, dataset, measured, seed, inception, judges, robust_judges)
    evaluation.save(out)
    print_evaluation(evaluation, read_lines(run))
    typer.echo(f"all of it: {out}")


def report(
    run: Run, out: Annotated[Path | None, typer.Option(help="File to write; the run's report.html by default.")] = None
) -> None:
    """Write report.html, one self-contained page about a run."""
    import multiebm

    out = run / REPORT if out is None else out
    _, dataset = _opened(run, out)
    page = multiebm.write_report(run, dataset=dataset, out=out)
    typer.echo(f"report: {page}")


def _opened(run: Path, out: Path, changes: Sequence[str] = ()) -> "tuple[Experiment, MultimodalDataset]":
    """Return settings and data of a run, when `out` can be written; ConfigError where its configuration does not name
    what it was trained on, or names something else.
    """
    from multiebm.core.errors import ConfigError
    from multiebm.core.files import try_output
    from multiebm.data import DATASETS, settings_problems
    from multiebm.experiments.build import build_dataset
    from multiebm.experiments.folder import check_same_data, read_run
    from multiebm.experiments.load import load_experiment

    if not (run / CONFIG).is_file():
        raise ConfigError(
            f"{run}: got no run folder (it has no {CONFIG}), expected one that `multiebm train` wrote, which "
            "names the data to measure on; for a model alone use multiebm.evaluate(model, dataset) in Python"
        )
    experiment = load_experiment(run / CONFIG, changes)
    try_output(out, "free space, or give another file with --out")
    data, origin = experiment.data, read_run(run)
    problems = settings_problems(data.name, DATASETS[data.name], data.settings)
    if data.name == "arrays" and not data.settings.get("path"):
        problems.append("data.settings.path: got none, expected the file of the data")
    if origin and problems:
        raise ConfigError(
            [
                f"{run}: got a run whose configuration does not say where its data are, expected that of a run trained "
                "on files: these data were handed over in Python, so measure it there, by "
                f'multiebm.evaluate(model, dataset).save("{run}/evaluation.json") and '
                f'multiebm.write_report("{run}", dataset=dataset)',
                *problems,
            ]
        )
    dataset = build_dataset(data, run)
    if origin:
        check_same_data(origin, dataset, run)
    return experiment, dataset
