"""What several commands ask for, said once."""

import csv
import json
from pathlib import Path
from typing import Annotated, Any

import typer

OWN_DATA = "own"  # the preset for the user's own data
ROWS_DATA = "arrays"  # of which rows of baselines have presets
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
_PARTS = (
    "An .npz with one array per modality (pictures [N, C, H, W] or [N, H, W, C]) and perhaps present [N, M], "
    "a table (.csv, .tsv, .jsonl, .parquet) with columns as in training, empty where a part is missing, or a folder of "
    "<modality>.png or <modality>/*.png (or jpg, bmp, tif, webp), one item by one name; of a model with one part of "
    "pictures also a picture, or a folder of pictures."
)
Parts = Annotated[Path, typer.Option(help=_PARTS)]
SomeParts = Annotated[Path | None, typer.Option("--parts", help=_PARTS)]
Captions = Annotated[
    list[str] | None,
    typer.Option("--caption", help="A caption in place of --parts, for the model's part of captions; may be repeated."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings to change, such as training.batch_size=32.", show_default=False),
]
ViewsFile = Annotated[
    Path, typer.Option(help="A .png of the pictures, an .npz of every wanted modality, or a .csv of their columns.")
]
AnyFile = Annotated[
    Path | None,
    typer.Option(
        help="A .png of the pictures, an .npz of every wanted modality, or a .csv of their columns, which are on the "
        "screen by default."
    ),
]
Table = Annotated[Path | None, typer.Option(help="A .csv or .jsonl file; CSV on the screen by default.")]
Seed = Annotated[int, typer.Option(help="Seed; item i depends on it and on i alone.", min=0, max=2**32 - 1)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:<i>.")]
Refine = Annotated[bool, typer.Option("--refine", help="Run the data chain of the energy (EBM) as in training.")]
DataSteps = Annotated[
    int | None, typer.Option(help="Steps of the data chain; given parts are held fixed. 0 without --refine.", min=0)
]
Diffuse = Annotated[
    bool, typer.Option("--diffusion", help="Draw pictures by the diffusion refiner (`fit-refiner`), as it was fitted.")
]
DiffusionSteps = Annotated[
    int | None,
    typer.Option(help="Its steps, 1 to 1000, of which 1000 is a multiple; given parts are held fixed.", min=0),
]
LatentSteps = Annotated[int, typer.Option(help="Steps of the latent chain on what is observed.", min=0)]
SampleSteps = Annotated[
    int | None,
    typer.Option(
        "--latent-steps",
        help="Steps that move latents to where the parts belong together, by an energy of interaction; with --refine "
        "as many as the model was set to by default.",
        min=0,
    ),
]
Source = Annotated[
    str,
    typer.Argument(
        metavar="DATA|PRESET",
        help="Your data: a table (.csv, .tsv, .jsonl, .parquet), an .npz, a folder with a folder of pictures for each "
        "part, or one of pictures, with a table of their captions or numbers if there is one; or "
        "a preset (see `multiebm presets`), a YAML file, or a run folder.",
    ),
]
PartColumns = Annotated[
    list[str] | None,
    typer.Option(
        "--part",
        help="Columns of a table that form a part, NAME=COLUMN,COLUMN, by name or pattern (hum*), names with commas in "
        "quotes; once for each part.",
    ),
]
Kinds = Annotated[
    list[str] | None,
    typer.Option(
        "--kind",
        help="A part's kind, NAME=KIND, where it is not as inferred; what else is declared of it after commas: "
        "NAME=vector,standardise=robust, or NAME=picture,size=64.",
    ),
]
Missing = Annotated[str | None, typer.Option(help="nan: NaN, or an empty cell of a table, means missing.")]
Labels = Annotated[str | None, typer.Option(help="The column of a table that holds classes, to measure by.")]
Method = Annotated[str, typer.Option(help="The preset for your data; arrays-ROW: another method.")]
InitFrom = Annotated[
    Path | None, typer.Option(help="A run or saved model of the same parts and networks: the weights to begin with.")
]
Noise = Annotated[bool, typer.Option("--noise", help="Add the observation noise that the model assumes around means.")]
OldSteps = Annotated[int | None, typer.Option("--refine-steps", hidden=True, callback=_say_new_names)]


def data_settings(
    source: str,
    own: bool,
    part: list[str] | None,
    kind: list[str] | None,
    missing: str | None,
    labels: str | None,
    method: str,
) -> list[str]:
    """Return what the options for the user's own data say as KEY=VALUE; none for a source of settings."""
    parts = {name: _columns(said) for name, said in _pairs("--part", part).items()}
    kinds = {name: _declared(name, said) for name, said in _pairs("--kind", kind).items()}
    if missing not in (None, "nan"):
        raise typer.BadParameter(
            f"--missing: got {missing!r}, expected nan: NaN, or an empty cell, means missing; first empty the cells "
            f"that are {missing}"
        )
    options = {"parts": parts, "kinds": kinds, "missing": missing, "labels": labels}
    given: dict[str, Any] = {name: value for name, value in options.items() if value}
    if own:
        given |= {"path": source, "modalities": None}
    elif given or method != OWN_DATA:
        from multiebm.experiments.sources import near_file, preset_names

        if source not in preset_names() and not Path(source).exists():
            raise typer.BadParameter(
                f"{source}: got no file or folder, expected your data: a folder, a table or an .npz.{near_file(source)}"
            )
        raise typer.BadParameter(
            f"got {source}, which names settings, with options for data; expected data with them (a folder, a table or "
            "an .npz that is there), or no such options"
        )
    return [f"data.settings.{name}={json.dumps(value)}" for name, value in given.items()]


def _columns(said: str) -> list[str]:
    """Return the names of columns between commas; in quotes a name may have commas itself."""
    return [name.strip() for name in next(csv.reader([said], skipinitialspace=True))]


def _declared(name: str, said: str) -> Any:
    """Return the kind of a part, or with what stands after it, "vector,standardise=robust", its declaration."""
    from multiebm.experiments.values import parse

    kind, more, rest = said.partition(",")
    return {"kind": kind, **parse(f"{{{rest.replace('=', ': ')}}}", f"--kind {name}={said}")} if more else kind


def _pairs(option: str, given: list[str] | None) -> dict[str, str]:
    """Return NAME=VALUE of an option that may be given several times, by name."""
    found: dict[str, str] = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not (name and equals and value) or name in found:
            raise typer.BadParameter(f"{option}: got {text!r}, expected NAME=VALUE, each name once")
        found[name] = value
    return found
