"""Five backgrounds of PolyDigits: two photographs that scikit-learn ships and three procedural textures.

Inverting the colours of a mid-grey pixel changes nothing, so a background must keep its channels away from the middle;
`away_from_grey` is the stretch that does it, applied to a background as a whole.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from multiebm.data.recipe import Pixels

Field = NDArray[np.float64]

PHOTO_PIXELS_PER_CROP = 48  # a crop shows a 48x48 window of the photograph, enough for its structure to be seen
CROPS_HIGH, CROPS_WIDE = 8, 12  # extent of a procedural texture, in crops
CELLS_PER_CROP = 5


def photograph(file_name: str, size: int, saturation: float, floor: float) -> Pixels:
    """Return scikit-learn's "china.jpg" or "flower.jpg", uint8, shape [3, H, W], shrunk so that a crop of `size` pixels
    covers 48 of the original's; colours times `saturation`, lightened to [floor, 1], stretched away from grey by 0.7.
    """
    from sklearn.datasets import load_sample_image  # here, because scikit-learn takes a second to import

    picture = ImageEnhance.Color(Image.fromarray(load_sample_image(file_name))).enhance(saturation)
    factor = size / PHOTO_PIXELS_PER_CROP
    small = picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.Resampling.BOX)
    values = np.asarray(small, dtype=np.float64).transpose(2, 0, 1) / 255
    return _pixels(away_from_grey(floor + (1 - floor) * values, power=0.7))


def waves(size: int, rng: np.random.Generator) -> Pixels:
    """Return warped navy to turquoise stripes, uint8 of shape [3, H, W]; red is low, so inverted digits are reddish."""
    y, x = np.mgrid[: CROPS_HIGH * size, : CROPS_WIDE * size] / size
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

    n = CELLS_PER_CROP * CROPS_HIGH * CROPS_WIDE
    centres = rng.uniform((0, 0), (CROPS_HIGH * size, CROPS_WIDE * size), (n, 2))
    colours = rng.uniform((0.80, 0.40, 0.00), (1.00, 0.95, 0.20), (n, 3))
    places = np.mgrid[: CROPS_HIGH * size, : CROPS_WIDE * size].reshape(2, -1).T
    nearest = KDTree(centres).query(places, return_distance=False)[:, 0]
    return _pixels(colours[nearest].T.reshape(3, CROPS_HIGH * size, CROPS_WIDE * size))


def away_from_grey(values: Field, power: float) -> Field:
    """Stretch values in [0, 1], any shape, away from 1/2, each alone: 1/2 + sign(v) |v|^power / 2, v = 2 values - 1."""
    centred = 2 * values - 1
    return 0.5 + 0.5 * np.sign(centred) * np.abs(centred) ** power


def smooth_noise(size: int, channels: int, width: float, rng: np.random.Generator) -> Field:
    """Return periodic Gaussian noise, shape [channels, H, W], of unit variance, blurred over `width` crops (standard
    deviation of the blur is width / 4), H and W being those of a texture.
    """
    shape = (CROPS_HIGH * size, CROPS_WIDE * size)
    down, across = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])
    blur = np.exp(-2 * (np.pi * size * width / 4) ** 2 * (down**2 + across**2))
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((channels, *shape))) * blur, shape)
    return noise / noise.std(axis=(1, 2), keepdims=True)


def _pixels(values: Field) -> Pixels:
    return np.round(values.clip(0, 1) * 255).astype(np.uint8)
