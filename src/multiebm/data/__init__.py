"""Floor 2: data sets by name, and the stream of batches that training reads."""

import inspect
from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter, ValidationError

from multiebm.core.errors import ConfigError
from multiebm.core.table import Table, nearest
from multiebm.data import coco, cub, mnist_svhn, polymnist, tuxpaint
from multiebm.data.arrays import Rows, from_arrays, load_arrays, read_data
from multiebm.data.dataset import BatchStream, MultimodalDataset, Split
from multiebm.data.downloads import Download
from multiebm.data.parts import read_parts
from multiebm.data.polydigits import load_polydigits
from multiebm.data.shapes import load_shapes
from multiebm.data.toy import load_toy2d

__all__ = [
    "DATASETS",
    "DOWNLOADS",
    "BatchStream",
    "MultimodalDataset",
    "Rows",
    "Split",
    "from_arrays",
    "load_dataset",
    "read_data",
    "read_parts",
]

DATASETS: Table[Callable[..., MultimodalDataset]] = Table(
    "data set",
    {
        "polydigits": load_polydigits,
        "polymnist": polymnist.load_polymnist,
        "mnist_svhn": mnist_svhn.load_mnist_svhn,
        "cub": cub.load_cub,
        "coco": coco.load_coco,
        "tuxpaint": tuxpaint.load_tuxpaint,
        "arrays": load_arrays,
        "toy2d": load_toy2d,
        "shapes": load_shapes,
    },
    group="multiebm.datasets",
)  # a loader's keyword arguments are the settings of its data set

DOWNLOADS: Table[tuple[Download, ...]] = Table(
    "data set that is downloaded",
    {of.__name__.rpartition(".")[2]: of.DOWNLOADS for of in (polymnist, mnist_svhn, cub, coco, tuxpaint)},
)


def load_dataset(name: str, settings: dict[str, Any] | None = None) -> MultimodalDataset:
    """Return the data set `name` built with `settings`, the keyword arguments of its loader in `DATASETS`.

    ConfigError for an unknown name, and for unknown, missing or mistyped settings (all at once); DataError for data
    that does not fit.
    """
    if problems := settings_problems(name, DATASETS[name], settings or {}):
        raise ConfigError(problems)
    return DATASETS[name](**settings or {})


def settings_problems(name: str, loader: Callable[..., MultimodalDataset], settings: dict[str, Any]) -> list[str]:
    """Return what is wrong with the names and types of `settings`, judged by the loader's signature."""
    known = inspect.signature(loader, eval_str=True).parameters
    problems = [
        f"data set {name!r}: got no setting {key!r}, expected one; set data.settings.{key}, or pass data that live in "
        "Python as dataset= to train, evaluate and write_report"
        for key, parameter in known.items()
        if parameter.default is inspect.Parameter.empty and key not in settings
    ]
    for key, value in settings.items():
        if key not in known:
            some = f"expected some of {', '.join(known)}.{nearest(key, list(known))}"
            problems.append(f"data set {name!r}: got unknown setting {key!r}, {some} Remove it")
            continue
        try:
            TypeAdapter(known[key].annotation).validate_python(value, strict=True)
        except ValidationError as error:
            wrong = error.errors()[0]["msg"]
            problems.append(f"{name}.{key}: got {value!r}, expected another type ({wrong}); correct it")
    return problems
