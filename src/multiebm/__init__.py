"""Multimodal energy-based models: generate, complete and score data that comes in several parts.

The names below are imported when they are first used, so that `import multiebm` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiebm.core.errors import (
        CheckpointError,
        ConfigError,
        DataError,
        DivergenceError,
        ModalityError,
        MultiebmError,
        OutputError,
    )
    from multiebm.core.random import make_generator
    from multiebm.data import from_arrays, load_dataset
    from multiebm.experiments.api import build, evaluate, train
    from multiebm.experiments.load import load_experiment
    from multiebm.experiments.saved import from_pretrained, save_pretrained
    from multiebm.experiments.schema import Experiment

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DivergenceError",
    "Experiment",
    "ModalityError",
    "MultiebmError",
    "OutputError",
    "build",
    "evaluate",
    "from_arrays",
    "from_pretrained",
    "load_dataset",
    "load_experiment",
    "make_generator",
    "save_pretrained",
    "train",
]

_HOMES = {
    "multiebm.core.errors": [name for name in __all__ if name.endswith("Error")],
    "multiebm.core.random": ["make_generator"],
    "multiebm.data": ["from_arrays", "load_dataset"],
    "multiebm.experiments.api": ["build", "evaluate", "train"],
    "multiebm.experiments.load": ["load_experiment"],
    "multiebm.experiments.saved": ["from_pretrained", "save_pretrained"],
    "multiebm.experiments.schema": ["Experiment"],
    "multiebm.report.comparison": ["write_comparison"],
    "multiebm.report.page": ["write_report"],
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # reads a file, so not at import

        return version("multiebm")
    home = next((module for module, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module 'multiebm' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__", "write_comparison", "write_report"]
