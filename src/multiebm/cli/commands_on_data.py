"""`multiebm data`: what is there of a data set that was downloaded, and what is missing."""

import shlex
from pathlib import Path
from typing import Annotated

import typer


def data(
    name: Annotated[str, typer.Argument(help="polymnist, mnist_svhn, cub, coco or tuxpaint.", show_default=False)],
    root: Annotated[Path, typer.Option(help="The folder of the download.", show_default=False)],
) -> None:
    """Check a download of a published data set: what is there, what is missing, and where to have it."""
    from multiebm.data import DOWNLOADS
    from multiebm.data.downloads import is_whole, said
    from multiebm.experiments.sources import COMMON, preset_names, read_source

    root = root.expanduser()
    typer.echo("\n".join(said(root, DOWNLOADS[name])))
    if not is_whole(root, DOWNLOADS[name]):
        typer.echo(f"some of {name} is missing in {root}; download it from the link", err=True)
        raise typer.Exit(1)
    of = {preset: read_source(preset).get("data", {}).get("name") for preset in preset_names()}
    presets = [preset for preset, named in of.items() if named == name and not preset.endswith(COMMON)]
    for preset in presets:
        command = shlex.join(["multiebm", "train", preset, f"data.settings.folder={root}"])
        typer.echo(f"all there: {command} --out RUN")
