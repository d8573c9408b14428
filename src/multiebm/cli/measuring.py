"""`multiebm evaluate`, `report`, `presets` and `show`: what a run is worth, and what can be run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from multiebm.data import MultimodalDataset
    from multiebm.experiments.schema import Experiment

Run = Annotated[Path, typer.Argument(help="A run folder.", show_default=False)]


def evaluate(
    run: Run,
    samples: Annotated[int | None, typer.Option(help="Joint samples; the run's evaluation.samples by default.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Such as evaluation.sizes=[1,2,3,4], evaluation.temperature=1.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the samples.", min=0, max=2**32 - 1)] = 0,
    inception: Annotated[
        Path | None, typer.Option(help="Weights of Inception (pt_inception-2015-12-05-6726825d.pth), for FID too.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:<i>.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="File to write; the run's evaluation.json by default.")] = None,
) -> None:
    """Measure a trained model on its test data; writes evaluation.json into the run folder."""
    from multiebm.core.errors import ConfigError
    from multiebm.core.files import try_output
    from multiebm.experiments.load import load_experiment

    changes = [*(overrides or []), *([] if samples is None else [f"evaluation.samples={samples}"])]
    if wrong := [text for text in changes if not text.startswith(("evaluation.", "data."))]:
        problems = [f"{text!r}: expected a setting of evaluation or data; the model is the run's" for text in wrong]
        raise ConfigError(problems)
    experiment = load_experiment(_config_of(run), changes)
    from multiebm.cli.tables import print_evaluation
    from multiebm.evaluation.judges import readable
    from multiebm.experiments.data import find_device
    from multiebm.experiments.folder import EVALUATION
    from multiebm.experiments.measure import measure_model
    from multiebm.experiments.pretrained import from_pretrained

    out = run / EVALUATION if out is None else out
    try_output(out, "give another file with --out")
    dataset = _data_of(run, experiment)
    model = from_pretrained(run, find_device(device))
    measured = experiment.evaluation
    judges = "; judges of the data are trained the first time" if readable(dataset) else ""
    what = f"{measured.samples} joint samples and completions of {measured.items} items"
    typer.echo(f"measuring {what}{judges}", err=True)
    evaluation = measure_model(model, dataset, measured, seed, inception)
    evaluation.save(out)
    print_evaluation(evaluation)
    typer.echo(f"all of it: {out}")


def report(
    run: Run,
    out: Annotated[Path | None, typer.Option(help="File to write; the run's report.html by default.")] = None,
) -> None:
    """Write report.html, one self-contained page about a run."""
    import multiebm
    from multiebm.experiments.load import load_experiment

    dataset = _data_of(run, load_experiment(_config_of(run)))
    page = multiebm.write_report(run, dataset=dataset, out=out, progress=False)  # the command shows it
    typer.echo(f"report: {page}")


def _data_of(run: Path, experiment: "Experiment") -> "MultimodalDataset":
    """Return what the run was trained on; ConfigError where its configuration does not name it, or names another."""
    from multiebm.core.errors import ConfigError
    from multiebm.data import DATASETS, settings_problems
    from multiebm.experiments.data import build_dataset
    from multiebm.experiments.folder import check_same_data, read_run

    data, origin = experiment.data, read_run(run)
    if origin and (problems := settings_problems(data.name, DATASETS[data.name], data.settings)):
        raise ConfigError(
            [
                f"{run}: got a run whose configuration does not say where its data are, expected that of a run trained "
                "on files: these data were handed over in Python, so measure it there, by "
                f'multiebm.evaluate(model, dataset).save("{run}/evaluation.json") and '
                f'multiebm.write_report("{run}", dataset=dataset)',
                *problems,
            ]
        )
    dataset = build_dataset(data)
    if origin:
        check_same_data(origin, dataset, run)
    return dataset


def _config_of(run: Path) -> Path:
    from multiebm.core.errors import ConfigError
    from multiebm.experiments.load import CONFIG

    if not (run / CONFIG).is_file():
        raise ConfigError(
            f"{run}: got no run folder (it has no {CONFIG}), expected one that `multiebm train` wrote, which "
            "names the data to measure on; for a model alone use multiebm.evaluate(model, dataset) in Python"
        )
    return run / CONFIG


def presets() -> None:
    """List the presets, one line each."""
    from multiebm.experiments.load import preset_comment, preset_names

    names = preset_names()
    width = max(map(len, names))
    for name in names:
        typer.echo(f"{name:<{width}}  {(preset_comment(name) or [''])[0]}")


def show(
    preset: Annotated[str, typer.Argument(help="A preset, a YAML file, a run folder, or a row of the baselines.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings to change.", show_default=False)
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Show only what differs from this preset, file, run or row.")
    ] = None,
) -> None:
    """Show every setting of a configuration and what it means, or how it differs from another; of two baselines, the
    cells that differ.
    """
    from multiebm.experiments.baselines import baselines
    from multiebm.experiments.explain import annotated
    from multiebm.experiments.load import differences, differences_of_rows, load_experiment, say, to_dict

    if against is not None and {preset, against} <= set(baselines()) and not overrides:
        changes = differences_of_rows(against, preset)
    else:
        experiment = load_experiment(preset, overrides or [])
        if against is None:
            typer.echo("\n".join(annotated(to_dict(experiment))).lstrip())
            return
        changes = differences(load_experiment(against), experiment)
    typer.echo(f"# {against} -> {preset}")
    for change in changes:
        typer.echo(say(change))
