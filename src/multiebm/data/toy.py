"""toy2d: two 2-D vectors at the corners of a square, whose classes can be read off exactly. Seconds to train on."""

import torch
from torch import Tensor

from multiebm.core.errors import ConfigError
from multiebm.core.names import Views
from multiebm.core.random import check_seed, make_generator
from multiebm.data.dataset import MultimodalDataset, Split, content_fingerprint, everything_present, too_few
from multiebm.modalities import Modality, Vector

NOISE = 0.05  # standard deviation of each coordinate about its corner
_CORNERS = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
# Row c is the corner of class c; no class sits at the same corner in both modalities.
TOY2D_CENTROIDS: dict[str, Tensor] = {"a": _CORNERS, "b": _CORNERS[[2, 0, 3, 1]]}


def load_toy2d(train_items: int = 10_000, test_items: int = 2_000, seed: int = 0) -> MultimodalDataset:
    """Return modalities `a` and `b`, float32 [N, 2], four balanced classes, state equal to raw (no standardisation).

    ConfigError lists every count below 1.
    """
    if problems := too_few("toy2d", {"train_items": train_items, "test_items": test_items}):
        raise ConfigError(problems)
    rng = make_generator(check_seed(seed))
    splits = []
    for n in (train_items, test_items):
        labels = (torch.arange(n) % 4)[torch.randperm(n, generator=rng)]
        views = {m: c[labels] + NOISE * torch.randn(n, 2, generator=rng) for m, c in TOY2D_CENTROIDS.items()}
        splits.append(Split(views, everything_present(views), labels))
    train, test = splits
    parts: dict[str, Modality] = {name: Vector(name, (2,)) for name in TOY2D_CENTROIDS}
    about = "Synthetic; four corners of a square."
    return MultimodalDataset("toy2d", parts, train, test, 4, about, content_fingerprint(parts, train, test))


def toy2d_classes(views: Views) -> dict[str, Tensor]:
    """Return the class of the nearest centroid, int64 [B] by modality, for views [B, 2]."""
    return {name: torch.cdist(view, TOY2D_CENTROIDS[name].to(view)).argmin(1) for name, view in views.items()}


def toy2d_distances(views: Views) -> dict[str, Tensor]:
    """Return distances to the nearest centroid by modality, [B, 2] -> [B]; their mean over data: NOISE sqrt(pi / 2)."""
    return {name: torch.cdist(view, TOY2D_CENTROIDS[name].to(view)).amin(1) for name, view in views.items()}
