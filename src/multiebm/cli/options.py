"""What several commands ask for, said once."""

from pathlib import Path
from typing import Annotated

import typer

INTERRUPTED = 130  # the exit code of a program ended by Ctrl-C


def _say_new_names(given: int | None) -> None:
    if given is not None:
        raise typer.BadParameter(
            f"got --refine-steps {given}, which is two things: expected --latent-steps for the chain over codes, "
            "--data-steps for the chain of the energy over parts"
        )


Run = Annotated[Path, typer.Argument(help="A run folder.", show_default=False)]
Model = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run folder, or one that save_pretrained wrote.", show_default=False)
]
Parts = Annotated[
    Path,
    typer.Option(
        help="An .npz with one array per modality (pictures [N, C, H, W] or [N, H, W, C]) and perhaps present [N, M], "
        "or a folder of <modality>.png or <modality>/*.png (or jpg, bmp, tif, webp), one item by one name."
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings to change, such as training.batch_size=32.", show_default=False),
]
Views = Annotated[Path, typer.Option(help="A .png of the pictures, or an .npz of every wanted modality.")]
Table = Annotated[Path | None, typer.Option(help="A .csv or .jsonl file; CSV on the screen by default.")]
Seed = Annotated[int, typer.Option(help="Seed; item i depends on it and on i alone.", min=0, max=2**32 - 1)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:<i>.")]
Refine = Annotated[bool, typer.Option("--refine", help="Run the data chain of the energy (EBM) as in training.")]
DataSteps = Annotated[
    int | None, typer.Option(help="Steps of the data chain; given parts are held fixed. 0 without --refine.", min=0)
]
LatentSteps = Annotated[int, typer.Option(help="Steps of the latent chain on what is observed.", min=0)]
Noise = Annotated[bool, typer.Option("--noise", help="Add the observation noise that the model assumes around means.")]
OldSteps = Annotated[int | None, typer.Option("--refine-steps", hidden=True, callback=_say_new_names)]
