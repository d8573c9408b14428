"""PolyMNIST (Sutter et al. 2021, arXiv 2105.02470): read from its official folders, or built by its official recipe.

Built once into a memory-mapped cache. Rows are in rounds of the ten digits, (i, digit) with i slowest, so that the
first n tuples are balanced.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from multiebm.core.errors import ConfigError, DataError
from multiebm.core.modality import Modality
from multiebm.data.cache import Builder, cache_root, cached_arrays, combined_sha256, file_sha256
from multiebm.data.dataset import MultimodalDataset, Split, everything_present
from multiebm.data.files import expanded
from multiebm.data.mnist import mnist_files, read_mnist
from multiebm.data.parts import opened_picture
from multiebm.data.polymnist_folder import folder_identity, folder_pictures
from multiebm.data.recipe import NAMES, Pixels, invert_inside, random_crops, recipe_problems

SIDE = 28
INK = 128  # a pixel above it, on the 0..255 scale, belongs to the digit
SEED = 42  # of the reference script
KEPT = 24  # centre of the picture that the 16-pixel version shows; 0.2 % of MNIST's ink lies outside
SPLITS = ("train", "test")
CITATION = (
    "T. Sutter, I. Daunhawer, J. Vogt, Generalized Multimodal ELBO (2021), arXiv 2105.02470; Zenodo record 4899160."
)


class Source(NamedTuple):
    """Where tuples come from: `identity` is JSON naming the content, `build` yields the arrays of the cache."""

    identity: dict[str, Any]
    build: Builder


def load_polymnist(
    folder: str | Path | None = None,
    mnist_folder: str | Path | None = None,
    backgrounds_folder: str | Path | None = None,
    cache_folder: str | Path | None = None,
    size: int = SIDE,
    limit: int | None = None,
    modalities: Sequence[str] = NAMES,
) -> MultimodalDataset:
    """Return PolyMNIST, pictures uint8 [N, 3, size, size], 60,000 training and 10,000 test tuples.

    Give either `folder` with the official `{train,test}/m0..m4/{i}.{digit}.png`, or `mnist_folder` (four idx files, .gz
    or not) and `backgrounds_folder` (m0.jpg .. m4.jpg). `size` 16 is the central 24 pixels of the finished picture,
    averaged over areas. `limit` keeps the first tuples of each split. `cache_folder` None is a folder of the user's
    cache. ConfigError for bad settings; DataError names a missing or damaged file.
    """
    problems = recipe_problems("polymnist", size, modalities, {} if limit is None else {"limit": limit})
    if (folder is None) == (mnist_folder is None and backgrounds_folder is None):
        problems.append(
            f"polymnist: got folder={folder}, mnist_folder={mnist_folder}, backgrounds_folder={backgrounds_folder}; "
            f"expected either folder (the official pictures) or mnist_folder and backgrounds_folder (to build them)"
        )
    elif folder is None and (mnist_folder is None or backgrounds_folder is None):
        missing = "mnist_folder" if mnist_folder is None else "backgrounds_folder"
        problems.append(
            f"polymnist.{missing}: got nothing, expected a folder; building needs both MNIST and backgrounds"
        )
    if problems:
        raise ConfigError(problems)
    try:
        source = (
            from_folder(expanded(folder), size)
            if folder
            else from_recipe(expanded(str(mnist_folder)), expanded(str(backgrounds_folder)), size)
        )
    except OSError as error:
        raise DataError(
            f"polymnist: got {error.filename}, which cannot be read ({error.strerror}); make it readable, or correct "
            "the folder"
        ) from error
    root = cache_root() if cache_folder is None else expanded(cache_folder)
    want = [f"{split}-{part}" for split in SPLITS for part in ("labels", *modalities)]
    arrays, sums = cached_arrays(root, "polymnist", source.identity, source.build, want)
    splits = {split: _split(arrays, split, modalities, limit) for split in SPLITS}
    parts = {name: Modality(name, "picture", (3, size, size)) for name in modalities}
    fingerprint = combined_sha256({**sums, "limit": str(limit)})
    return MultimodalDataset("polymnist", parts, splits["train"], splits["test"], 10, CITATION, fingerprint)


def from_recipe(mnist_folder: Path, backgrounds_folder: Path, size: int) -> Source:
    """Return the source that builds bytes [N, 3, size, size] from MNIST and photos; DataError says what is missing."""
    files = mnist_files(mnist_folder)
    pictures = {name: backgrounds_folder / f"{name}.jpg" for name in NAMES}
    for name, path in pictures.items():
        if not path.exists():
            raise DataError(
                f"polymnist background of {name}: got no file {path}, expected a picture larger than 28x28; "
                f"put five pictures m0.jpg .. m4.jpg into backgrounds_folder"
            )
    sources = {key: file_sha256(path) for key, path in {**files, **pictures}.items()}

    def build() -> Iterator[tuple[str, NDArray[Any]]]:
        backgrounds = {name: read_background(path) for name, path in pictures.items()}
        for part, split in enumerate(SPLITS):
            images, labels = read_mnist(files, split)
            yield f"{split}-labels", labels[round_order(labels, rng=None)].astype(np.int64)
            for m, name in enumerate(NAMES):
                rng = np.random.default_rng([SEED, part, m])
                masks = images[round_order(labels, rng)] > INK
                crops = random_crops(backgrounds[name], len(masks), SIDE, rng)
                yield f"{split}-{name}", resize(invert_inside(crops, masks), size)

    return Source({"recipe": 1, "seed": SEED, "size": size, "sources": sources}, build)


def from_folder(folder: Path, size: int) -> Source:
    """Return the source that reads the official folders, bytes [N, 3, size, size]; DataError names what is missing."""
    listing = folder_identity(folder)

    def build() -> Iterator[tuple[str, NDArray[Any]]]:
        for split in SPLITS:
            for name, values in folder_pictures(folder / split, SIDE):
                yield f"{split}-{name}", values if name == "labels" else resize(values, size)

    return Source({"folder": listing, "size": size}, build)


def round_order(labels: Pixels, rng: np.random.Generator | None) -> NDArray[np.int64]:
    """Return the order (shape [N]) of MNIST pictures that puts them in rounds of the ten digits, key (i, digit). i
    counts within a permutation of each digit's pictures drawn by `rng` (their own order for None). The labels in that
    order are the same for every permutation.
    """
    order, keys = [], []
    for digit in range(10):
        members = np.flatnonzero(labels == digit)
        order.append(members if rng is None else rng.permutation(members))
        keys.append(np.arange(len(members)) * 10 + digit)
    return np.concatenate(order)[np.argsort(np.concatenate(keys))]


def resize(pictures: Pixels, size: int) -> Pixels:
    """Return finished pictures [N, 3, 28, 28] as they are, or their central 24 pixels averaged down to [N, 3, 16, 16].

    The averages weigh source pixels by the area they share with a target pixel, and are rounded.
    """
    if size == SIDE:
        return pictures
    edge = (SIDE - KEPT) // 2
    weights = area_weights(KEPT, size).astype(np.float32)
    small = np.empty((*pictures.shape[:2], size, size), dtype=np.uint8)
    for start in range(0, len(pictures), 4096):  # in blocks, to bound the float copy
        block = pictures[start : start + 4096, :, edge : SIDE - edge, edge : SIDE - edge].astype(np.float32)
        small[start : start + 4096] = np.rint(weights @ (block @ weights.T))
    return small


def area_weights(source: int, target: int) -> NDArray[np.float64]:
    """Return weights of shape [target, source], row sums 1: the share of target pixel i that source pixel j covers."""
    edges = np.arange(target + 1) * source / target
    left = np.maximum(edges[:-1, None], np.arange(source))
    right = np.minimum(edges[1:, None], np.arange(source) + 1)
    return np.maximum(right - left, 0) * target / source


def read_background(path: Path) -> Pixels:
    """Return a picture file as uint8 RGB of shape [3, H, W]; DataError when it is not a picture."""
    with opened_picture(path, "expected a picture file; replace it") as picture:
        return np.ascontiguousarray(np.asarray(picture.convert("RGB")).transpose(2, 0, 1))


def _split(arrays: dict[str, NDArray[Any]], split: str, names: Sequence[str], limit: int | None) -> Split:
    views = {name: torch.from_numpy(arrays[f"{split}-{name}"][:limit]) for name in names}
    return Split(views, everything_present(views), torch.from_numpy(arrays[f"{split}-labels"][:limit]))
