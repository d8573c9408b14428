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
Source = Annotated[
    str,
    typer.Argument(
        metavar="DATA|PRESET",
        help="Your data: a table (.csv, .tsv, .parquet), an .npz, a folder with a folder of pictures for each part; or "
        "a preset (see `multiebm presets`), a YAML file, or a run folder.",
    ),
]
PartColumns = Annotated[
    list[str] | None,
    typer.Option("--part", help="Columns of a table that form a part, NAME=COLUMN,COLUMN; once for each part."),
]
Kinds = Annotated[
    list[str] | None, typer.Option("--kind", help="A part's kind, NAME=KIND, where it is not as inferred.")
]
Missing = Annotated[str | None, typer.Option(help="nan: NaN, or an empty cell of a table, means missing.")]
Labels = Annotated[str | None, typer.Option(help="The column of a table that holds classes, to measure by.")]
Method = Annotated[str, typer.Option(help="The preset for your data; arrays-ROW: another method.")]
InitFrom = Annotated[
    Path | None, typer.Option(help="A run or saved model of the same parts and networks: the weights to begin with.")
]
Noise = Annotated[bool, typer.Option("--noise", help="Add the observation noise that the model assumes around means.")]
OldSteps = Annotated[int | None, typer.Option("--refine-steps", hidden=True, callback=_say_new_names)]
