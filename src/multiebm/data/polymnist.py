"""PolyMNIST (Sutter et al. 2021, arXiv 2105.02470): read from its official folders, or built by its official recipe.

Built once into a memory-mapped cache. Rows are in rounds of the ten digits, (i, digit) with i slowest, so that the
first n tuples are balanced. MNIST's idx files (LeCun et al. 1998, https://doi.org/10.1109/5.726791) may be gzipped.
"""

import gzip
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from multiebm.core.errors import ConfigError, DataError
from multiebm.core.files import file_sha256, sha256_of_json
from multiebm.data.cache import Builder, cached_arrays
from multiebm.data.dataset import MultimodalDataset, Split, everything_present
from multiebm.data.downloads import Download, Needed, readable
from multiebm.data.npz import expanded
from multiebm.data.picture_files import opened_picture
from multiebm.data.recipe import NAMES, Pixels, invert_inside, random_crops, recipe_problems
from multiebm.modalities import Modality, Picture

SIDE = 28
INK = 128  # a pixel above it, on the 0..255 scale, belongs to the digit
SEED = 42  # of the reference script
KEPT = 24  # centre of the picture that the 16-pixel version shows; 0.2 % of MNIST's ink lies outside
SPLITS = ("train", "test")
_LARGEST = 1 << 28  # bytes that are read of an idx file; MNIST's largest has 47 million
CITATION = (
    "T. Sutter, I. Daunhawer, J. Vogt, Generalized Multimodal ELBO (2021), arXiv 2105.02470; Zenodo record 4899160."
)
DOWNLOADS = (
    Download(
        title="PolyMNIST",
        link="https://zenodo.org/records/4899160 (PolyMNIST.zip)",
        size="350,000 small pictures",
        licence="as its page says; made from MNIST and photographs",
        citation=CITATION,
        files=tuple(
            Needed((f"{split}/{name}/*.png",), n)
            for split, n in (("train", 60_000), ("test", 10_000))
            for name in NAMES
        ),
    ),
)
_PICTURE = np.dtype((np.uint8, (3, SIDE, SIDE)))
Arrays = Iterator[tuple[str, NDArray[Any]]]


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
    problems = recipe_problems("polymnist", size, modalities, {"limit": limit})
    if (folder is None) == (mnist_folder is None and backgrounds_folder is None):
        problems.append(
            f"polymnist: got folder={folder}, mnist_folder={mnist_folder}, backgrounds_folder={backgrounds_folder}; "
            f"expected either folder (the official pictures) or mnist_folder and backgrounds_folder (to build them)"
        )
    elif folder is None and (mnist_folder is None or backgrounds_folder is None):
        missing = "mnist_folder" if mnist_folder is None else "backgrounds_folder"
        problems.append(f"polymnist.{missing}: got nothing, expected a folder; building needs both MNIST and pictures")
    if problems:
        raise ConfigError(problems)
    with readable("polymnist"):
        if folder:
            identity, build = from_folder(expanded(folder), size)
        else:
            identity, build = from_recipe(expanded(str(mnist_folder)), expanded(str(backgrounds_folder)), size)
    want = [f"{split}-{part}" for split in SPLITS for part in ("labels", *modalities)]
    arrays, sums = cached_arrays(cache_folder, "polymnist", identity, build, want)
    kept = {key: torch.from_numpy(array[:limit]) for key, array in arrays.items()}
    views = [{name: kept[f"{split}-{name}"] for name in modalities} for split in SPLITS]
    train, test = (Split(v, everything_present(v), kept[f"{s}-labels"]) for v, s in zip(views, SPLITS, strict=True))
    parts: dict[str, Modality] = {name: Picture(name, (3, size, size)) for name in modalities}
    fingerprint = sha256_of_json({**sums, "limit": str(limit)})
    return MultimodalDataset("polymnist", parts, train, test, 10, CITATION, fingerprint)


def from_recipe(mnist_folder: Path, backgrounds_folder: Path, size: int) -> tuple[dict[str, Any], Builder]:
    """Return an identity, JSON naming the content, and what builds bytes [N, 3, size, size] from MNIST and photos.

    DataError says what is missing.
    """
    files, pictures = mnist_files(mnist_folder), {name: backgrounds_folder / f"{name}.jpg" for name in NAMES}
    for name, path in pictures.items():
        if not path.exists():
            raise DataError(
                f"polymnist background of {name}: got no file {path}, expected a picture larger than 28x28; "
                f"put five pictures m0.jpg .. m4.jpg into backgrounds_folder"
            )
    sources = {key: file_sha256(path) for key, path in {**files, **pictures}.items()}

    def build() -> Arrays:
        backgrounds = {name: read_picture(path) for name, path in pictures.items()}
        for part, split in enumerate(SPLITS):
            images, labels = read_mnist(files, split)
            yield f"{split}-labels", labels[round_order(labels, rng=None)].astype(np.int64)
            for m, name in enumerate(NAMES):
                rng = np.random.default_rng([SEED, part, m])
                masks = images[round_order(labels, rng)] > INK
                crops = random_crops(backgrounds[name], len(masks), SIDE, rng)
                yield f"{split}-{name}", resize(invert_inside(crops, masks), size)

    return {"recipe": 1, "seed": SEED, "size": size, "sources": sources}, build


def from_folder(folder: Path, size: int) -> tuple[dict[str, Any], Builder]:
    """Return an identity and what reads bytes [N, 3, size, size] of the official folders, rows sorted by (i, digit).

    The identity is made of the names and sizes of files; pictures edited in place at the same size go unnoticed.
    DataError when a modality lacks a file that m0 has (or has one more), or a file is not such a picture.
    """
    files = {split: {name: _files(folder / split / name) for name in NAMES} for split in SPLITS}
    for split, of in files.items():
        for name, rows in of.items():
            if odd := sorted(rows.keys() ^ of[NAMES[0]].keys()):
                has, lacks = (name, NAMES[0]) if odd[0] in rows else (NAMES[0], name)
                raise DataError(
                    f"{folder / split}: got no file {odd[0]} in {lacks}, expected one as in {has} ({len(odd)} such "
                    "files); unpack the archive again"
                )

    def build() -> Arrays:
        for split, of in files.items():
            yield f"{split}-labels", np.array([int(row.split(".")[1]) for row in of[NAMES[0]]], dtype=np.int64)
            for name, rows in of.items():
                read = (read_picture(folder / split / name / row, official=True) for row in rows)
                yield f"{split}-{name}", resize(np.fromiter(read, _PICTURE, len(rows)), size)

    return {"folder": sha256_of_json(files), "size": size}, build


def _files(folder: Path) -> dict[str, int]:  # bytes by name, in the order of (i, digit)
    if not folder.is_dir():
        raise DataError(
            f"polymnist: got no folder {folder}, expected {{train,test}}/m0..m4 below the setting `folder`; "
            f"unpack the official archive there, or build the data with mnist_folder and backgrounds_folder"
        )
    sizes = {entry.name: entry.stat().st_size for entry in os.scandir(folder) if entry.name.endswith(".png")}
    if not sizes:
        raise DataError(f"{folder}: got no .png file, expected pictures {{i}}.{{digit}}.png; unpack the archive again")
    if odd := [name for name in sizes if not re.fullmatch(r"\d+\.\d\.png", name)]:
        raise DataError(f"{folder}: got file {odd[0]}, expected names {{i}}.{{digit}}.png only; remove it")
    return {name: sizes[name] for name in sorted(sizes, key=lambda name: [int(n) for n in name.split(".")[:2]])}


def read_picture(path: Path, official: bool = False) -> Pixels:
    """Return a file as uint8 RGB [3, H, W]; DataError when it is no picture, or no `official` one of 28x28 pixels."""
    fix = "expected a PNG picture; unpack the archive again" if official else "expected a picture file; replace it"
    with opened_picture(path, fix) as picture:
        if official and (picture.size != (SIDE, SIDE) or picture.mode != "RGB"):
            raise DataError(
                f"{path}: got {picture.width}x{picture.height} pixels of mode {picture.mode}, expected an 8-bit RGB "
                f"picture of {SIDE}x{SIDE} pixels; point to the original PolyMNIST folder"
            )
        return np.ascontiguousarray(np.asarray(picture.convert("RGB")).transpose(2, 0, 1))


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


def mnist_files(folder: Path, setting: str = "mnist_folder") -> dict[str, Path]:
    """Return the files of an MNIST folder by "<split>-images" and "<split>-labels"; DataError names a missing one."""
    found = {}
    for (split, stem), (part, kind) in product((("train",) * 2, ("test", "t10k")), (("images", 3), ("labels", 1))):
        plain = folder / f"{stem}-{part}-idx{kind}-ubyte"
        packed = plain.with_name(plain.name + ".gz")
        if not plain.exists() and not packed.exists():
            raise DataError(
                f"MNIST: got no file {packed} (nor without .gz), expected the four official idx files; put them there, "
                f"or set {setting} to the folder that holds them"
            )
        found[f"{split}-{part}"] = plain if plain.exists() else packed
    return found


def read_mnist(files: dict[str, Path], split: str) -> tuple[Pixels, Pixels]:
    """Return pictures uint8 [N, 28, 28] and labels uint8 [N] of a split; DataError when the two do not match."""
    images, labels = read_idx(files[f"{split}-images"]), read_idx(files[f"{split}-labels"])
    if images.ndim != 3 or images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
        raise DataError(
            f"MNIST {split}: got pictures of shape {images.shape} and labels of shape {labels.shape}, "
            f"expected (N, 28, 28) and (N,); download {files[f'{split}-images'].name} and its labels again"
        )
    return images, labels


def read_idx(path: Path) -> Pixels:
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
