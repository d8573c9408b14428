"""`multiebm train`."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

INTERRUPTED = 130  # the exit code of a program ended by Ctrl-C

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings to change, such as training.batch_size=32.", show_default=False),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:<i>.")]


def train(
    preset: Annotated[str, typer.Argument(help="A preset (see `multiebm presets`), a YAML file, or a run folder.")],
    out: Annotated[Path, typer.Option(help="Run folder: configuration, log, checkpoints, model.", show_default=False)],
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the folder, bit-exactly.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the run in the folder first.")] = False,
    device: Device = "auto",
) -> None:
    """Train a model; Ctrl-C saves, and --resume continues."""
    from multiebm.experiments.load import load_experiment

    experiment = load_experiment(preset, overrides or [])  # before torch: mistakes are told at once
    from multiebm.cli.live import live_view
    from multiebm.experiments.run import run_experiment

    with live_view(experiment) as live:
        result = run_experiment(
            experiment, out, resume=resume, overwrite=overwrite, live=live, device=device, preset=preset
        )
    typer.echo(result.fit.message())
    if result.fit.reason == "interrupted":
        again = shlex.join(["multiebm", "train", preset, *(overrides or []), "--out", str(out), "--resume"])
        typer.echo(f"to go on: {again}")
        raise typer.Exit(INTERRUPTED)
    typer.echo(f"model: {result.folder / 'model'}; look at it: multiebm sample {out} --out samples.png")
