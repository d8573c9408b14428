"""What commands write: archives, pictures and scores, each whole or not at all; and a table for the screen."""

import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from multiebm.core.errors import ConfigError, OutputError
from multiebm.core.files import write_output
from multiebm.core.names import Views
from multiebm.core.tiles import tiles
from multiebm.data.npz import write_npz
from multiebm.evaluation.learning import Lines
from multiebm.evaluation.result import TRUSTED_ACCURACY, Evaluation
from multiebm.evaluation.verdict import verdict
from multiebm.evaluation.words import QUESTION, figure, is_main, marked
from multiebm.modalities import Modality

if TYPE_CHECKING:
    from pandas import DataFrame

GAP = 2  # white pixels between pictures
WAY_OUT = "choose another place with --out"
COLUMNS = 16  # items side by side; more items go into bands below
FEW_ITEMS = 10  # below, a standard error is not to be relied on; of one item it is 0


def check_target(out: Path | None, endings: Sequence[str] = (".png", ".npz")) -> None:
    """Raise what would stop writing `out` (None is the screen), before anything is computed; nothing is made yet.

    ConfigError unless it has one of these endings (in small letters or capitals), OutputError where it cannot be put.
    """
    if out is None:
        return
    if out.suffix.lower() not in endings:
        raise ConfigError(f"--out: got {out}, expected a name that ends in {' or '.join(endings)}")
    if os.path.isdir(out):
        raise OutputError(f"--out: got {out}, a folder, expected the name of a file; choose another")
    above = next(folder for folder in out.absolute().parents if os.path.lexists(folder))
    is_folder = os.path.isdir(above)
    if not is_folder or not os.access(above, os.W_OK | os.X_OK):
        what = "which is read-only" if is_folder else "which is no folder"
        raise OutputError(f"--out: got {out}, under {above}, {what}; choose another place")


def write_views(out: Path, views: Views, modalities: dict[str, Modality]) -> str:
    """Write raw views [B, ...]: arrays by name into an .npz, or the picture modalities, one row each, into a .png.

    Return what is where, for the user.
    """
    if out.suffix.lower() == ".npz":
        arrays = {name: view.detach().cpu() if isinstance(view, Tensor) else view for name, view in views.items()}
        write_npz(out, {name: np.asarray(array) for name, array in arrays.items()})
        return f"{', '.join(views)}: {out}"
    sheet = io.BytesIO()
    Image.fromarray(grid(views, modalities)).save(sheet, "PNG")
    write_output(out, sheet.getvalue(), WAY_OUT)
    others = [name for name in views if modalities[name].shows != "pictures"]
    said = f"{', '.join(name for name in views if name not in others)}: {out}"
    return f"{said} (a .png holds pictures alone: for {', '.join(others)} write an .npz)" if others else said


def check_form(out: Path | None, modalities: dict[str, Modality]) -> None:
    """Raise ConfigError where the file `out`, or the screen if that is None, cannot hold these modalities."""
    odd = [name for name, m in modalities.items() if len(m.raw_shape) != 1]  # no rows of a table
    if out is None and odd:
        rows = [name for name in modalities if name not in odd]
        way = f", or --want {','.join(rows)} for the screen" if rows else ""
        ending = ".png" if modalities[odd[0]].shows == "pictures" else ".npz"
        raise ConfigError(f"--out: got none for {odd[0]}, expected a file; use --out {odd[0]}{ending}{way}")
    form = "" if out is None else out.suffix.lower()
    if form == ".csv" and odd:
        raise ConfigError(f"--out: got a .csv for {odd[0]}, which is no row of numbers; write an .npz, or leave it out")
    if out is not None and form == ".png" and (ending := view_ending(modalities)) != ".png":
        raise ConfigError(
            f"--out: got {out} for {', '.join(modalities)}, expected pictures for a .png, of which there are none; use "
            f"--out {out.with_suffix(ending)}{', a table, or an .npz' if ending == '.csv' else ''}"
        )


def write_frame(out: Path | None, frame: "DataFrame") -> None:
    """Write a data frame as CSV, None: on the screen: the names of its columns, and every digit of its numbers."""
    _write_text(out, frame.to_csv(index=False, lineterminator="\n"))


def write_columns(out: Path | None, columns: Mapping[str, Sequence[float]]) -> None:
    """Write row numbers and columns by title, bool as 0 and 1, as CSV or JSON lines (.jsonl); None: on the screen."""
    rows = [[int(v) if isinstance(v, bool) else v for v in values] for values in zip(*columns.values(), strict=True)]
    if out is not None and out.suffix.lower() == ".jsonl":
        titles = ["row", *columns]
        lines = [json.dumps(dict(zip(titles, [i, *row], strict=True))) for i, row in enumerate(rows)]
    else:
        lines = [",".join(["row", *columns]), *(",".join(map(str, [i, *row])) for i, row in enumerate(rows))]
    _write_text(out, "".join(f"{line}\n" for line in lines))


def _write_text(out: Path | None, text: str) -> None:
    if out is None:
        sys.stdout.write(text)
    else:
        write_output(out, text.encode(), WAY_OUT)


def view_ending(modalities: dict[str, Modality]) -> str:
    """Return the ending of a file that people can look at: pictures, else a table, else arrays."""
    if any(m.shows == "pictures" for m in modalities.values()):
        return ".png"
    return ".csv" if all(len(m.raw_shape) == 1 for m in modalities.values()) else ".npz"


def grid(views: Views, modalities: dict[str, Modality]) -> NDArray[np.uint8]:
    """Lay raw pictures [B, C, h, w] out on white, uint8 [H, W, 3]: a row per modality, a column per item, 16 a band.

    Pictures of 1 channel are grey and of 3 in colour; of any other number every channel is a grey picture.
    """
    names = [name for name in views if modalities[name].shows == "pictures"]
    shown = {name: tiles(modalities[name].show(views[name]))[..., :3] for name in names}
    height, width = (max(tile.shape[axis] for tile in shown.values()) + GAP for axis in (1, 2))
    n = len(shown[names[0]])
    columns, bands = min(n, COLUMNS), -(-n // COLUMNS)
    sheet = np.full((bands * (len(names) * height + GAP), columns * width, 3), 255, np.uint8)
    for row, name in enumerate(names):
        for i, tile in enumerate(shown[name]):
            top = i // COLUMNS * (len(names) * height + GAP) + row * height
            left = i % COLUMNS * width
            sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return sheet


def print_evaluation(evaluation: Evaluation, lines: Lines | None = None) -> None:
    """Print the main results with their standard errors, how well the judges read real data, what was left out, and at
    the end whether it works, with training by its log `lines`.
    """
    console = Console()
    table = Table("metric", "value", "standard error", "n", title=f"{evaluation.dataset}, seed {evaluation.seed}")
    for name, result in evaluation.results.items():
        if is_main(name):
            table.add_row(name, figure(result.value), figure(result.standard_error, result.value), f"{result.n:,}")
    console.print(table)
    told = verdict(evaluation, lines)
    others = [line for line in remarks(evaluation) if line not in [words for _, words in told]]
    for line in [*others, *(["", QUESTION, *marked(told)] if told else [])]:
        console.print(line, markup=False, highlight=False)


def remarks(evaluation: Evaluation) -> list[str]:
    """Return the sentences without which the numbers would mislead."""
    lines = []
    if evaluation.accuracy is None:
        lines.append("No judges: what needs them was not measured.")
    else:
        listed = ", ".join(f"{name} {value:.3f}" for name, value in evaluation.accuracy.items())
        lines.append(f"Judges' accuracy on real test data: {listed}.")
        plain, robust = evaluation.judge_sets or (1, 0)
        if plain > 1:
            also = f" (of robust ones {robust})" if robust else ""
            lines.append(f"Coherence is the mean over {plain} sets of judges{also}; its error is of items and judges.")
        trust = ("can be trusted: every judge reads at least", "is NOT to be trusted: a judge reads less than")
        said = trust[not evaluation.trustworthy]
        lines.append(f"Coherence {said} {TRUSTED_ACCURACY:.0%} of real test items correctly.")
    if evaluation.collapse is not None:
        lines.append(evaluation.collapse)
    if "latent/kl" in evaluation.results:
        lines.append("latent/kl: nats an item between its code's density and the prior (of an energy prior, its base).")
    if few := [name for name, result in evaluation.results.items() if is_main(name) and result.n < FEW_ITEMS]:
        lines.append(f"Fewer than {FEW_ITEMS} items, whose standard errors say little: {', '.join(few)}.")
    if (at := evaluation.settings.temperature or evaluation.temperature or 1.0) < 1:
        lines.append(f"Joint samples were drawn at temperature {at:g} of the prior.")
    if evaluation.provisional and evaluation.has_distances:
        n = evaluation.settings.samples
        lines.append(f"Frechet distances are provisional: {n:,} samples bias them upwards; compare equal numbers only.")
    alike = {
        reason: [n for n, why in evaluation.skipped.items() if why == reason] for reason in evaluation.skipped.values()
    }
    return lines + [f"Not measured: {', '.join(names)} ({reason})." for reason, names in alike.items()]
