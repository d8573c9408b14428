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
    context: typer.Context,
    preset: Annotated[str, typer.Argument(help="A preset (see `multiebm presets`), a YAML file, or a run folder.")],
    out: Annotated[Path, typer.Option(help="Run folder: configuration, log, checkpoints, model.", show_default=False)],
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the folder, bit-exactly.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the run in the folder first.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Take over the folder's lock of another, ended host.")] = False,
    device: Device = "auto",
) -> None:
    """Train a model; Ctrl-C saves, and --resume continues."""
    from multiebm.experiments.load import load_experiment

    experiment = load_experiment(preset, overrides or [])  # before torch: mistakes are told at once
    from multiebm.experiments.live import live_view
    from multiebm.experiments.run import run_experiment

    with live_view(experiment, progress=not context.obj) as live:
        result = run_experiment(
            experiment, out, resume=resume, overwrite=overwrite, live=live, device=device, preset=preset, force=force
        )
    typer.echo(result.fit.message())
    if result.fit.reason == "interrupted":
        where = ["--out", str(out), *([] if device == "auto" else ["--device", device])]
        again = shlex.join(["multiebm", "train", preset, *(overrides or []), *where, "--resume"])
        typer.echo(f"to go on: {again}")
        raise typer.Exit(INTERRUPTED)
    ending = "png" if any(m.kind == "picture" for m in result.model.modalities.values()) else "npz"
    typer.echo(f"model: {result.folder / 'model'}; look at it: multiebm sample {out} --out samples.{ending}")


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
    from multiebm.experiments.data import find_device
    from multiebm.experiments.fit_prior import fit_prior_of_run

    fit_prior_of_run(run, out, overrides or [], steps, rate, str(find_device(device)), typer.echo)
    typer.echo(f"model: {out / 'model'}; measure it: multiebm evaluate {out}")
