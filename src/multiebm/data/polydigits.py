"""PolyDigits: PolyMNIST's recipe (Sutter et al. 2021, arXiv 2105.02470) on scikit-learn's digits; no download.

Its five backgrounds are two photographs that scikit-learn ships and three procedural textures. Inverting the colours of
a mid-grey pixel changes nothing, so a background must keep its channels away from the middle.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from torch import Tensor
from torch.nn.functional import interpolate, pad

from multiebm.core.errors import ConfigError
from multiebm.core.random import check_seed
from multiebm.data.dataset import MultimodalDataset, Split, content_fingerprint, everything_present
from multiebm.data.recipe import NAMES, Pixels, invert_inside, random_crops, recipe_problems
from multiebm.modalities import Modality, Picture

MARGINS = {16: 1, 28: 2}  # pixels around the digit, by picture size
TRAIN_SHARE = 2 / 3  # of each class's handwriting: 1,198 of the 1,797 digits
CITATION = (
    "Digits: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI (1998), as in scikit-learn. "
    "Recipe: T. Sutter, I. Daunhawer, J. Vogt, Generalized Multimodal ELBO (2021), arXiv 2105.02470."
)
WINDOW = 48  # pixels of a photograph that a crop shows on each side, enough for its structure to be seen
HIGH, WIDE = 8, 12  # extent of a procedural texture, in crops
CELLS = 5  # a crop
Whole = NDArray[np.int64]
Field = NDArray[np.float64]


def load_polydigits(
    size: int = 16, seed: int = 0, train_tuples: int = 8000, test_tuples: int = 2000, modalities: Sequence[str] = NAMES
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


def make_backgrounds(size: int, seed: int) -> dict[str, Pixels]:
    """Return the five backgrounds, shape [3, H, W], by modality; only the procedural ones depend on the seed."""
    # Bright sky beside dark eaves hides digits: china.jpg is lightened, so that an inverted digit is always darker.
    china = photograph("china.jpg", size, saturation=3.0, floor=0.55)
    flower = photograph("flower.jpg", size, saturation=1.0, floor=0.0)
    drawn = [texture(size, np.random.default_rng([seed, 3, i])) for i, texture in enumerate((waves, clouds, cells))]
    return dict(zip(NAMES, [china, flower, *drawn], strict=True))


def photograph(file_name: str, size: int, saturation: float, floor: float) -> Pixels:
    """Return scikit-learn's "china.jpg" or "flower.jpg", uint8, shape [3, H, W], shrunk so that a crop of `size` pixels
    covers 48 of the original's; colours times `saturation`, lightened to [floor, 1], stretched away from grey.
    """
    from sklearn.datasets import load_sample_image  # here, because scikit-learn takes a second to import

    picture = ImageEnhance.Color(Image.fromarray(load_sample_image(file_name))).enhance(saturation)
    factor = size / WINDOW
    small = picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.Resampling.BOX)
    values = np.asarray(small, dtype=np.float64).transpose(2, 0, 1) / 255
    centred = 2 * (floor + (1 - floor) * values) - 1
    return _pixels(0.5 + 0.5 * np.sign(centred) * np.abs(centred) ** 0.7)  # 1 would leave grey where it is


def waves(size: int, rng: np.random.Generator) -> Pixels:
    """Return warped navy to turquoise stripes, uint8 of shape [3, H, W]; red is low, so inverted digits are reddish."""
    y, x = np.mgrid[: HIGH * size, : WIDE * size] / size
    level = 0.5 + 0.5 * np.sin(2 * np.pi * (1.1 * x + 0.6 * y + 0.3 * smooth_noise(size, 1, 0.7, rng)))
    dark, light = np.array([[0.02, 0.05, 0.30], [0.10, 0.75, 0.85]])[:, :, None, None]
    return _pixels(dark + (light - dark) * level)


def clouds(size: int, rng: np.random.Generator) -> Pixels:
    """Return soft red to blue patches, uint8 of shape [3, H, W]; green stays low, so inverted digits are greenish."""
    level = 1 / (1 + np.exp(-3 * smooth_noise(size, 3, 1.0, rng)))
    return _pixels(level * np.array([1.0, 0.25, 1.0])[:, None, None])


def cells(size: int, rng: np.random.Generator) -> Pixels:
    """Return a mosaic of warm cells, uint8 of shape [3, H, W]: a pixel is as its nearest centre, red high, blue low."""
    from sklearn.neighbors import KDTree  # here, because scikit-learn takes a second to import

    n = CELLS * HIGH * WIDE
    centres = rng.uniform((0, 0), (HIGH * size, WIDE * size), (n, 2))
    colours = rng.uniform((0.80, 0.40, 0.00), (1.00, 0.95, 0.20), (n, 3))
    places = np.mgrid[: HIGH * size, : WIDE * size].reshape(2, -1).T
    nearest = KDTree(centres).query(places, return_distance=False)[:, 0]
    return _pixels(colours[nearest].T.reshape(3, HIGH * size, WIDE * size))


def smooth_noise(size: int, channels: int, width: float, rng: np.random.Generator) -> Field:
    """Return periodic Gaussian noise, shape [channels, H, W] of a texture, of unit variance, blurred over `width` crops
    (standard deviation of the blur: width / 4).
    """
    shape = (HIGH * size, WIDE * size)
    down, across = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])
    blur = np.exp(-2 * (np.pi * size * width / 4) ** 2 * (down**2 + across**2))
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((channels, *shape))) * blur, shape)
    return noise / noise.std(axis=(1, 2), keepdims=True)


def _pixels(values: Field) -> Pixels:
    return np.round(values.clip(0, 1) * 255).astype(np.uint8)
