"""The data a run trains on: loaded by name, some parts hidden if asked, and resident on the device of the run."""

from dataclasses import replace

import torch

from multiebm.core.errors import ConfigError
from multiebm.core.random import make_generator
from multiebm.data import MultimodalDataset, Split, load_dataset
from multiebm.experiments.schema import DataSection


def build_dataset(section: DataSection) -> MultimodalDataset:
    """Return the complete data set of a configuration; `missing` is applied to what a run trains on, not here."""
    return load_dataset(section.name, section.settings)


def training_data(
    dataset: MultimodalDataset, missing: float, seed: int, device: str | torch.device = "cpu"
) -> MultimodalDataset:
    """Return the data set whose training split has a share `missing` of its parts hidden and lies on `device`, raw."""
    rows = hide_at_random(dataset.train, missing, seed) if missing else dataset.train
    if torch.device(device).type != "cpu":
        labels = None if rows.labels is None else rows.labels.to(device)
        views = {name: view.to(device) for name, view in rows.views.items()}
        rows = Split(views, rows.present.to(device), labels)
    return replace(dataset, train=rows)


def hide_at_random(rows: Split, share: float, seed: int) -> Split:
    """Hide each part (of `present` [N, M]) with probability `share`, completely at random; an item keeps at least 1."""
    draws = torch.rand(rows.present.shape, generator=make_generator((seed * 1_000_003 + 1) % 2**63))
    hidden = draws < share
    kept = torch.where(rows.present, draws, -1.0).argmax(1)
    hidden[torch.arange(len(hidden)), kept] = False
    return replace(rows, present=rows.present & ~hidden)


def find_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device: auto (the first GPU if there is one), cpu, cuda or cuda:<i>, as text or torch.device."""
    name = str(device)  # of a torch.device that which names it
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    known = ["auto", "cpu", *(["cuda"] if available else []), *[f"cuda:{i}" for i in range(available)]]
    if name not in known or not isinstance(device, str | torch.device):
        what = f"{available} CUDA device(s)" if available else "no CUDA device"
        raise ConfigError(
            f"device: got {device!r}, expected one of {', '.join(known)}; torch {torch.__version__} finds {what} "
            "here: use --device auto, or install a torch build and driver for the device"
        )
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    return torch.device(name)
