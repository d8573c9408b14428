"""Five backgrounds of PolyDigits: two photographs that scikit-learn ships and three procedural textures.

Inverting the colours of a mid-grey pixel changes nothing, so a background must keep its channels away from the middle.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from multiebm.data.recipe import NAMES, Pixels

Field = NDArray[np.float64]

WINDOW = 48  # pixels of a photograph that a crop shows on each side, enough for its structure to be seen
HIGH, WIDE = 8, 12  # extent of a procedural texture, in crops
CELLS = 5  # a crop


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
