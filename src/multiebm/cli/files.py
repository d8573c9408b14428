"""Between files and raw views: .npz archives, PNG pictures, lines of scores."""

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from multiebm.core.errors import ConfigError, DataError, OutputError
from multiebm.core.modality import Modality, Views
from multiebm.core.tiles import tiles
from multiebm.data.arrays import read_npz

GAP = 2  # white pixels between pictures
COLUMNS = 16  # items side by side; more items go into bands below
_MODES = {1: "L", 3: "RGB"}


def check_target(out: Path | None, endings: Sequence[str] = (".png", ".npz")) -> None:
    """Raise ConfigError unless `out` is None (the screen) or has one of these endings, before anything is computed."""
    if out is not None and out.suffix not in endings:
        raise ConfigError(f"--out: got {out}, expected a name that ends in {' or '.join(endings)}")


def read_parts(path: Path, modalities: dict[str, Modality]) -> tuple[Views, Tensor | None]:
    """Return raw views [B, ...] and, where the file has one, the presence mask bool [B, M].

    An .npz holds an array per modality (channels of pictures first or last), and perhaps `present` [B, M] or
    `present_<modality>` [B]; a folder holds <modality>.png, or the pictures <modality>/*.png in the order of their
    names. DataError for anything else.
    """
    if path.is_dir():
        return _read_pictures(path, modalities), None
    if path.suffix != ".npz":
        raise DataError(f"--parts: got {path}, expected an .npz file, or a folder of PNG pictures by modality")
    arrays = read_npz(path)
    masks = {key: arrays.pop(key) for key in list(arrays) if key == "present" or key.startswith("present_")}
    arrays.pop("labels", None)
    views = {name: _channels_first(_tensor(name, array), modalities.get(name)) for name, array in arrays.items()}
    return views, _presence(masks, modalities, views)


def write_views(out: Path, views: Views, modalities: dict[str, Modality]) -> None:
    """Write raw views [B, ...]: arrays by name into an .npz, or the picture modalities, one row each, into a .png."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix == ".npz":
            np.savez(out, **{name: view.cpu().numpy() for name, view in views.items()})  # type: ignore[arg-type]
        else:
            Image.fromarray(grid(views, modalities)).save(out)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error.strerror}); choose another place with --out") from error


def write_scores(out: Path | None, scores: Sequence[float], title: str = "score") -> None:
    """Write row and score as CSV under this title, or as JSON lines where `out` ends in .jsonl; None: on the screen."""
    if out is None:
        _write_csv(sys.stdout, scores, title)
        return
    try:
        with out.open("w", newline="") as stream:
            if out.suffix == ".csv":
                _write_csv(stream, scores, title)
            else:
                stream.writelines(json.dumps({"row": i, title: s}) + "\n" for i, s in enumerate(scores))
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error.strerror}); choose another place with --out") from error


def grid(views: Views, modalities: dict[str, Modality]) -> NDArray[np.uint8]:
    """Lay raw pictures [B, C, h, w] out on white, uint8 [H, W, 3]: a row per modality, a column per item, 16 a band."""
    names = [name for name in views if modalities[name].kind == "picture"]
    if not names:
        raise ConfigError(f"--out: got a .png for {', '.join(views)}, which are vectors; write an .npz instead")
    shown = {name: tiles(views[name])[..., :3] for name in names}
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


def _read_pictures(folder: Path, modalities: dict[str, Modality]) -> Views:
    views = {}
    for name, modality in modalities.items():
        files = [folder / f"{name}.png"] if (folder / f"{name}.png").is_file() else sorted(folder.glob(f"{name}/*.png"))
        if files:
            views[name] = torch.stack([_read_picture(file, modality) for file in files])
    if not views:
        raise DataError(
            f"{folder}: got no pictures, expected <name>.png or <name>/*.png for some of {', '.join(modalities)}"
        )
    return views


def _read_picture(file: Path, modality: Modality) -> Tensor:
    if modality.kind != "picture" or modality.shape[0] not in _MODES:
        raise DataError(f"{file}: got a picture for modality {modality.name!r}, which is none; pass an .npz instead")
    try:
        with Image.open(file) as picture:
            pixels = np.array(picture.convert(_MODES[modality.shape[0]]))
    except OSError as error:
        raise DataError(f"{file}: got a file that is no readable picture ({error}); expected a PNG") from error
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)


def _tensor(name: str, array: NDArray[np.generic]) -> Tensor:
    if array.dtype.kind not in "uif":
        raise DataError(f"modality {name!r}: got an array of {array.dtype}, expected numbers; convert it")
    return torch.from_numpy(array.astype(np.float32) if array.dtype.kind == "f" else array)


def _channels_first(view: Tensor, modality: Modality | None) -> Tensor:
    """Return pictures [B, H, W, C] of this modality as [B, C, H, W], and anything else as it is."""
    if modality is None or modality.kind != "picture" or tuple(view.shape[1:]) == modality.shape:
        return view
    channels, *size = modality.shape
    return view.movedim(-1, 1) if tuple(view.shape[1:]) == (*size, channels) else view


def _presence(masks: dict[str, NDArray[np.generic]], modalities: dict[str, Modality], views: Views) -> Tensor | None:
    if not masks:
        return None
    if "present" in masks:
        return torch.from_numpy(masks["present"].astype(bool))
    n = len(next(iter(views.values()), ()))
    columns = [masks.get(f"present_{name}", np.ones(n, bool)) for name in modalities]
    return torch.from_numpy(np.stack(columns, 1).astype(bool))


def _write_csv(stream: TextIO, scores: Sequence[float], title: str) -> None:
    writer = csv.writer(stream)
    writer.writerow(["row", title])
    writer.writerows(enumerate(scores))
