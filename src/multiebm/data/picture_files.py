"""Files of pictures, which anybody may have made: the values of a file as a modality has them."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil, floor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from multiebm.core.errors import DataError
from multiebm.core.handed import Array
from multiebm.core.names import PICTURES
from multiebm.data.npz import BROKEN
from multiebm.modalities import Modality

ENDINGS = PICTURES  # in small letters; a file's may be in capitals
OR_MISSING = ", or train with --missing nan, which leaves it out (missing='nan')"
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")  # nothing else is tried: some readers start other programs
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # how a picture file holds so many channels
_EIGHT_BITS = ("1", "L", "P", "LA", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_INSIDE = 0.75  # share of a box that lies in its picture, at least; boxes of other pictures hardly do

Box = tuple[int, int, int, int]  # left, upper, right, lower, in pixels
Cut = Callable[[int, int], Box]


@contextmanager
def opened_picture(file: Path, fix: str) -> Iterator[Image.Image]:
    """Give a picture of which only the header is read yet; DataError with `fix` for all that goes wrong inside."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd notes inside a file
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=_FORMATS) as picture:
                yield picture
    except (OSError, Image.DecompressionBombWarning, Image.DecompressionBombError, *BROKEN) as error:
        raise DataError(f"{file}: got {str(error) or type(error).__name__}, {fix}") from error


def read_pictures(files: Sequence[Path], modality: Modality, broken: dict[Path, str] | None = None) -> Array:
    """Return the pictures of `files` as [N, C, H, W]: uint8, or floats in [0, 1] where one has more than 8 bits.

    With `broken` those that cannot be read are black, and put there with the reason.

    Where the modality declares the range of its values, grey pictures are the numbers in the file, and bits 0 and 1.
    Colours become grey, and grey colours, as the modality has it. DataError names the file that is no picture, has
    another size, or is transparent for a modality without a channel for that.
    """
    shape = modality.raw_shape
    if modality.shows != "pictures" or len(shape) != 3 or shape[0] not in _MODES:
        raise DataError(
            f"{files[0]}: got a picture for modality {modality.name!r}, a {modality.kind} of shape {shape}; "
            "pass an .npz instead"
        )
    as_stored = modality.range is not None
    pictures = list[Array]()
    for file in files:
        try:
            pictures.append(_read(file, modality, as_stored))
        except DataError as error:
            if broken is None:
                raise
            broken[file] = str(error)
            pictures.append(np.zeros(shape, np.uint8))
    if not as_stored and any(picture.dtype != np.uint8 for picture in pictures):
        pictures = [p.astype(np.float32) / 255 if p.dtype == np.uint8 else p for p in pictures]
    return np.stack(pictures)


def read_shape(
    files: Sequence[Path], part: str, size: tuple[int, int] | None, broken: dict[Path, str] | None
) -> tuple[int, int, int]:
    """Return (C, H, W) of pictures in files that are to be one part: RGB where one has colours, RGBA where all have an
    alpha channel; DataError names the first that has another size than most, unless all become of `size`.

    Those that cannot be read are put into `broken`; else DataError names the first.
    """
    sizes, modes, read = [], [], []
    for file in files:
        try:
            with opened_picture(
                file, f"expected a readable picture; save it again, or remove it{OR_MISSING}"
            ) as picture:
                turned = picture.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
                sizes.append(picture.size[::-1] if turned else picture.size)
                modes.append(picture.mode)
                read.append(file)
        except DataError as error:
            if broken is None or len(broken) + 1 == len(files):
                raise
            broken[file] = str(error)
    usual, n = Counter(sizes).most_common(1)[0]
    if n < len(sizes) and size is None:
        odd = next(i for i, of in enumerate(sizes) if of != usual)
        raise DataError(
            f"{read[odd]}: got {sizes[odd][0]}x{sizes[odd][1]} pixels, expected {usual[0]}x{usual[1]} (width x "
            f"height) as {n} of {len(sizes)} in this folder have; resize {len(sizes) - n} of them, or remove them, or "
            f"have all of them cut to one shape and scaled, --kind {part}=picture,size={min(usual[0], 64)} (in Python "
            f"kinds={{{part!r}: {{'kind': 'picture', 'size': {min(usual[0], 64)}}}}})"
        )
    coloured = any(mode not in ("1", "L", "LA", "F", "I") and not mode.startswith("I;16") for mode in modes)
    channels = (3 if coloured else 1) + all(mode in ("LA", "PA", "RGBA") for mode in modes)
    return channels, *(size or (usual[1], usual[0]))


def read_scaled(file: Path, size: int, cut: Cut | None = None) -> NDArray[np.uint8]:
    """Return the picture of a file, whatever its size, as 8-bit RGB [3, size, size]: its sides are scaled apart.

    `cut` says which box of it (left, upper, right, lower) to take, in pixels, given its width and height. Grey, CMYK,
    16-bit and turned pictures are read as `read_pictures` reads them; DataError names the file that cannot be.
    """
    with opened_picture(file, "expected a readable picture; download it again, or unpack it again") as picture:
        _turn(picture)
        values = _values(picture, 3, as_stored=False)
    if values.dtype != np.uint8:
        values = np.rint(values.clip(0, 1) * 255).astype(np.uint8)
    whole = Image.fromarray(np.ascontiguousarray(values.transpose(1, 2, 0)))
    if cut is not None:
        whole = whole.crop(cut(*whole.size))
    return np.asarray(whole.resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)


def read_on_white(file: Path, size: int) -> NDArray[np.uint8]:
    """Return the whole picture of a file as 8-bit RGB [3, size, size]: in the middle of a white square, as large as its
    longer side, that shows wherever it is transparent. DataError names the file that cannot be read.
    """
    with opened_picture(file, "expected a readable picture; install or unpack it again") as picture:
        _turn(picture)
        colours = picture.convert("RGBA")
        side = max(colours.size)
        square = Image.new("RGBA", (side, side), "white")
        square.alpha_composite(colours, ((side - colours.width) // 2, (side - colours.height) // 2))
        small = square.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(small).transpose(2, 0, 1)


def centre_square(width: int, height: int) -> Box:
    """Return the box of the largest square in the middle of a picture."""
    side = min(width, height)
    left, upper = (width - side) // 2, (height - side) // 2
    return left, upper, left + side, upper + side


def box_inside(box: Sequence[float], file: Path, width: int, height: int) -> Box:
    """Return the pixels of a box (left, upper, right, lower) that lie in a picture of that size; DataError where much
    of it does not.
    """
    left, upper, right, lower = max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)
    inside = max(right - left, 0) * max(lower - upper, 0)
    if inside < _INSIDE * (box[2] - box[0]) * (box[3] - box[1]) or not inside:
        raise DataError(
            f"{file}: got a picture of {width}x{height} pixels and a box to {box[2]:g}, {box[3]:g}, expected the box "
            "inside: the picture is cut or scaled already; set crop=false, or unpack the original pictures"
        )
    return floor(left), floor(upper), ceil(right), ceil(lower)


def _read(file: Path, modality: Modality, as_stored: bool) -> Array:
    """Return values [C, H, W]: uint8, or floats, in [0, 1] unless they are `as_stored`."""
    channels, height, width = modality.raw_shape
    with opened_picture(file, "expected a readable picture; save it again, or remove it") as picture:
        if modality.scaled or sorted(picture.size) == sorted(
            (width, height)
        ):  # from the header: nothing is decoded yet
            _turn(picture)
        if modality.scaled:
            return fitted(_values(picture, channels, as_stored), (height, width))
        if picture.size != (width, height):
            raise DataError(
                f"{file}: got {picture.width}x{picture.height} pixels, expected {width}x{height} (width x height) as "
                f"modality {modality.name!r} has; resize it"
            )
        return _values(picture, channels, as_stored)


def _turn(picture: Image.Image) -> None:
    """Turn a picture as its camera noted, which viewers do."""
    raw_tiff = picture.format == "TIFF" and picture.info.get("compression") == "raw"
    if raw_tiff and picture.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8):  # Pillow mixes them up
        raise ValueError("an uncompressed TIFF that is turned sideways")
    ImageOps.exif_transpose(picture, in_place=True)


def _values(picture: Image.Image, channels: int, as_stored: bool) -> Array:
    """Return values [C, H, W]: uint8, or floats, in [0, 1] unless they are `as_stored`."""
    if getattr(picture, "n_frames", 1) > 1:
        raise ValueError("several pictures in one file")
    mode = picture.mode
    if mode.startswith("I;16") or mode == "F" or (mode == "I" and picture.format == "PNG"):
        if channels not in (1, 3):
            raise ValueError(f"grey without transparency, for {channels} channels")
        values = np.asarray(picture).astype(np.float32)
        grey = values if mode == "F" or as_stored else values / 65535
        return np.repeat(grey[None], channels, axis=0)
    if as_stored and mode == "1" and channels == 1:
        return np.asarray(picture).astype(np.uint8)[None]
    if mode not in _EIGHT_BITS:
        raise ValueError(f"pixels of mode {mode}")
    has_alpha = mode in ("LA", "PA", "RGBA") or "transparency" in picture.info
    if has_alpha:
        picture = picture.convert("RGBA")
    if channels in (2, 4) and not has_alpha:
        raise ValueError(f"no transparency, for {channels} channels; pass an .npz instead")
    if channels in (1, 3) and has_alpha and picture.getchannel("A").getextrema() != (255, 255):
        raise ValueError(f"transparent pixels, for {channels} channels; lay it on a background")
    values = np.array(picture.convert(_MODES[channels]))  # of one channel [H, W]
    return values.reshape(picture.height, picture.width, channels).transpose(2, 0, 1)


def fitted(picture: Array, size: Sequence[int]) -> Array:
    """Return a picture [C, h, w] as [C, *size]: the middle of it, of the proportions of `size`, scaled."""
    (_, h, w), (height, width) = picture.shape, size
    scale = min(h / height, w / width)
    left, upper = (w - width * scale) / 2, (h - height * scale) / 2
    left, upper = max(left, 0.0), max(upper, 0.0)  # not below by rounding
    box = (left, upper, min(left + width * scale, w), min(upper + height * scale, h))
    resized = [Image.fromarray(of).resize((width, height), Image.Resampling.BILINEAR, box) for of in picture]
    return np.stack([np.asarray(of) for of in resized])
