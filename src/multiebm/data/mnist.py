"""MNIST's idx files (LeCun et al. 1998, https://doi.org/10.1109/5.726791), plain or gzipped, read into arrays."""

import gzip
import zlib
from itertools import product
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multiebm.core.errors import DataError

_LARGEST = 1 << 28  # bytes that are read of a file; MNIST's largest has 47 million
Bytes = NDArray[np.uint8]


def mnist_files(folder: Path) -> dict[str, Path]:
    """Return the files of an MNIST folder by "<split>-images" and "<split>-labels"; DataError names a missing one."""
    found = {}
    for (split, stem), (part, kind) in product((("train",) * 2, ("test", "t10k")), (("images", 3), ("labels", 1))):
        plain = folder / f"{stem}-{part}-idx{kind}-ubyte"
        packed = plain.with_name(plain.name + ".gz")
        if not plain.exists() and not packed.exists():
            raise DataError(
                f"MNIST: got no file {packed} (nor without .gz), expected the four official idx files; put them there, "
                "or set mnist_folder to the folder that holds them"
            )
        found[f"{split}-{part}"] = plain if plain.exists() else packed
    return found


def read_mnist(files: dict[str, Path], split: str) -> tuple[Bytes, Bytes]:
    """Return pictures uint8 [N, 28, 28] and labels uint8 [N] of a split; DataError when the two do not match."""
    images, labels = read_idx(files[f"{split}-images"]), read_idx(files[f"{split}-labels"])
    if images.ndim != 3 or images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
        raise DataError(
            f"MNIST {split}: got pictures of shape {images.shape} and labels of shape {labels.shape}, "
            f"expected (N, 28, 28) and (N,); download {files[f'{split}-images'].name} and its labels again"
        )
    return images, labels


def read_idx(path: Path) -> Bytes:
    """Return the array of one idx file of unsigned bytes: magic 00 00 08 n, shape in n big-endian uint32, values."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            content = stream.read(_LARGEST)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: got a damaged gzip file ({error}), expected an idx .gz; download it again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); make it a readable file") from error
    if content[:3] != b"\x00\x00\x08" or content[3:4] not in (b"\1", b"\2", b"\3"):
        raise DataError(
            f"{path}: got first bytes {content[:4].hex()}, expected 000008xx of an idx file; download again"
        )
    start = 4 + 4 * content[3]
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4))
    if (whole := start + prod(shape)) != len(content):
        raise DataError(
            f"{path}: got {len(content)} bytes, expected {whole} for shape {shape}; the file is truncated or damaged, "
            "download it again"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)
