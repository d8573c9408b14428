"""PolyDigits: PolyMNIST's recipe (Sutter et al. 2021, arXiv 2105.02470) on scikit-learn's digits; no download."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate, pad

from multiebm.core.errors import ConfigError
from multiebm.core.modality import Modality
from multiebm.core.random import check_seed
from multiebm.data.dataset import MultimodalDataset, Split, content_fingerprint, everything_present
from multiebm.data.recipe import NAMES, Pixels, invert_inside, random_crops, recipe_problems
from multiebm.data.textures import cells, clouds, photograph, waves

MARGINS = {16: 1, 28: 2}  # pixels around the digit, by picture size
TRAIN_SHARE = 2 / 3  # of each class's handwriting: 1,198 of the 1,797 digits
CITATION = (
    "Digits: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI (1998), as in scikit-learn. "
    "Recipe: T. Sutter, I. Daunhawer, J. Vogt, Generalized Multimodal ELBO (2021), arXiv 2105.02470."
)


def load_polydigits(
    size: int = 16,
    seed: int = 0,
    train_tuples: int = 8000,
    test_tuples: int = 2000,
    modalities: Sequence[str] = NAMES,
) -> MultimodalDataset:
    """Build the data set in about a second; equal settings return the same object.

    A tuple is one digit class and, in every modality, a different handwriting of it on a random crop of that modality's
    background: m0 china.jpg (lightened), m1 flower.jpg (both stretched away from grey), m2 waves, m3 clouds, m4 cells.
    No test digit is ever a training digit. Pictures are uint8 [N, 3, size, size]. ConfigError lists every bad value.
    """
    counts = {"train_tuples": train_tuples, "test_tuples": test_tuples}
    problems = recipe_problems("polydigits", size, modalities, counts)
    if problems:
        raise ConfigError(problems)
    return _build(size, check_seed(seed), train_tuples, test_tuples, tuple(modalities))


@lru_cache(maxsize=4)
def _build(size: int, seed: int, train_tuples: int, test_tuples: int, names: tuple[str, ...]) -> MultimodalDataset:
    images, labels = _scikit_digits()
    masks = digit_masks(images, size)
    train_pool, test_pool = split_handwriting(labels, np.random.default_rng([seed, 0]))
    backgrounds = make_backgrounds(size, seed)
    splits = []
    for part, (pool, n) in enumerate(((train_pool, train_tuples), (test_pool, test_tuples))):
        classes, digits = draw_tuples(labels, pool, n, np.random.default_rng([seed, 1, part]))
        views = {
            name: torch.from_numpy(
                invert_inside(
                    random_crops(backgrounds[name], n, size, np.random.default_rng([seed, 2, part, NAMES.index(name)])),
                    masks[digits[:, NAMES.index(name)]],
                )
            )
            for name in names
        }
        splits.append(Split(views, everything_present(views), torch.from_numpy(classes)))
    modalities = {name: Modality(name, "picture", (3, size, size)) for name in names}
    fingerprint = content_fingerprint(modalities, *splits)
    return MultimodalDataset("polydigits", modalities, splits[0], splits[1], 10, CITATION, fingerprint)


def split_handwriting(
    labels: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return disjoint indices into `labels`, shape [N], for training and test, 2/3 and 1/3 of every class."""
    train, test = [], []
    for digit in range(10):
        members = rng.permutation(np.flatnonzero(labels == digit))
        cut = round(len(members) * TRAIN_SHARE)
        train.append(members[:cut])
        test.append(members[cut:])
    return np.concatenate(train), np.concatenate(test)


def draw_tuples(
    labels: NDArray[np.int64], pool: NDArray[np.int64], n: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return shuffled, balanced classes [n] and five different digit indices [n, 5] of that class from `pool`."""
    classes = rng.permutation(np.arange(n) % 10)
    digits = np.empty((n, len(NAMES)), dtype=np.int64)
    for digit in range(10):
        rows, members = np.flatnonzero(classes == digit), pool[labels[pool] == digit]
        # The places of the five smallest of one row's random keys are five different members, uniformly chosen.
        keys = rng.random((len(rows), len(members)))
        digits[rows] = members[np.argsort(keys, axis=1)[:, : len(NAMES)]]
    return classes, digits


def digit_masks(images: Tensor, size: int) -> NDArray[np.bool_]:
    """Return where digits [n, 8, 8] (ink 0..16), enlarged bicubically and given a margin, exceed half: [n, S, S]."""
    margin = MARGINS[size]
    large = interpolate(images[:, None], size=(size - 2 * margin,) * 2, mode="bicubic", align_corners=False)
    return pad(large[:, 0] > 8, (margin,) * 4).numpy()


def make_backgrounds(size: int, seed: int) -> dict[str, Pixels]:
    """Return the five backgrounds, shape [3, H, W], by modality; only the procedural ones depend on the seed."""
    # Bright sky beside dark eaves hides digits: china.jpg is lightened, so that an inverted digit is always darker.
    china = photograph("china.jpg", size, saturation=3.0, floor=0.55)
    flower = photograph("flower.jpg", size, saturation=1.0, floor=0.0)
    textures = (waves, clouds, cells)
    drawn = [texture(size, np.random.default_rng([seed, 3, i])) for i, texture in enumerate(textures)]
    return dict(zip(NAMES, [china, flower, *drawn], strict=True))


def _scikit_digits() -> tuple[Tensor, NDArray[np.int64]]:
    from sklearn.datasets import load_digits  # here, because scikit-learn takes a second to import

    digits = load_digits()
    return torch.from_numpy(digits.images).float(), digits.target.astype(np.int64)
