"""PolyDigits: PolyMNIST's recipe (Sutter et al. 2021, arXiv 2105.02470) on scikit-learn's digits; no download."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate, pad

from multiebm.core.errors import ConfigError
from multiebm.core.random import check_seed
from multiebm.data.backgrounds import make_backgrounds
from multiebm.data.dataset import MultimodalDataset, Split, content_fingerprint, everything_present
from multiebm.data.recipe import NAMES, invert_inside, random_crops, recipe_problems
from multiebm.modalities import Modality, Picture

MARGINS = {16: 1, 28: 2}  # pixels around the digit, by picture size
TRAIN_SHARE = 2 / 3  # of each class's handwriting: 1,198 of the 1,797 digits
CITATION = (
    "Digits: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI (1998), as in scikit-learn. "
    "Recipe: T. Sutter, I. Daunhawer, J. Vogt, Generalized Multimodal ELBO (2021), arXiv 2105.02470."
)
Whole = NDArray[np.int64]


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
    if problems := recipe_problems("polydigits", size, modalities, counts):
        raise ConfigError(problems)
    return _build(size, check_seed(seed), train_tuples, test_tuples, tuple(modalities))


@lru_cache(maxsize=4)
def _build(size: int, seed: int, train_tuples: int, test_tuples: int, names: tuple[str, ...]) -> MultimodalDataset:
    images, labels = _scikit_digits()
    masks, backgrounds = digit_masks(images, size), make_backgrounds(size, seed)
    pools, splits = split_handwriting(labels, np.random.default_rng([seed, 0])), []
    for part, n in enumerate((train_tuples, test_tuples)):
        classes, digits = draw_tuples(labels, pools[part], n, np.random.default_rng([seed, 1, part]))
        views = {}
        for name in names:
            m = NAMES.index(name)
            crops = random_crops(backgrounds[name], n, size, np.random.default_rng([seed, 2, part, m]))
            views[name] = torch.from_numpy(invert_inside(crops, masks[digits[:, m]]))
        splits.append(Split(views, everything_present(views), torch.from_numpy(classes)))
    train, test = splits
    parts: dict[str, Modality] = {name: Picture(name, (3, size, size)) for name in names}
    return MultimodalDataset("polydigits", parts, train, test, 10, CITATION, content_fingerprint(parts, train, test))


def split_handwriting(labels: Whole, rng: np.random.Generator) -> tuple[Whole, Whole]:
    """Return disjoint indices into `labels`, shape [N], for training and test, 2/3 and 1/3 of every class."""
    members = [rng.permutation(np.flatnonzero(labels == digit)) for digit in range(10)]
    cuts = [round(len(of) * TRAIN_SHARE) for of in members]
    train, test = zip(*(np.split(of, [cut]) for of, cut in zip(members, cuts, strict=True)), strict=True)
    return np.concatenate(train), np.concatenate(test)


def draw_tuples(labels: Whole, pool: Whole, n: int, rng: np.random.Generator) -> tuple[Whole, Whole]:
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


def _scikit_digits() -> tuple[Tensor, Whole]:
    from sklearn.datasets import load_digits  # here, because scikit-learn takes a second to import

    digits = load_digits()
    return torch.from_numpy(digits.images).float(), digits.target.astype(np.int64)
