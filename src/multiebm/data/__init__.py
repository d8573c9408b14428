"""Floor 2: data sets by name, and the stream of batches that training reads."""

import inspect
from collections.abc import Callable
from typing import Any

from multiebm.core.errors import ConfigError
from multiebm.core.table import Table, nearest
from multiebm.data.dataset import MultimodalDataset, Split, SplitName
from multiebm.data.polydigits import load_polydigits
from multiebm.data.stream import BatchStream

__all__ = ["DATASETS", "BatchStream", "MultimodalDataset", "Split", "SplitName", "load_dataset"]

DATASETS: Table[Callable[..., MultimodalDataset]] = Table(
    "data set",
    {"polydigits": load_polydigits},
)


def load_dataset(name: str, settings: dict[str, Any] | None = None) -> MultimodalDataset:
    """Return the data set `name` built with `settings`, the keyword arguments of its loader in `DATASETS`.

    ConfigError for an unknown name or for unknown settings (all at once); DataError for files that do not fit.
    """
    loader, settings = DATASETS[name], settings or {}
    known = list(inspect.signature(loader).parameters)
    problems = [
        f"data set {name!r}: got unknown setting {key!r}, expected one of {', '.join(known)}.{nearest(key, known)}"
        for key in settings
        if key not in known
    ]
    if problems:
        raise ConfigError(problems)
    return loader(**settings)
