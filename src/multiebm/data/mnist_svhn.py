"""MNIST-SVHN: pairs of a handwritten digit and a house number of the same class (Shi et al. 2019, arXiv 1911.03393).

Of each class c the first n_c = min(MNIST, SVHN, 10,000) pictures of both are matched at random, `pairings` times over.
Pictures are stored once; pairs are numbers of them. SVHN's files are MATLAB's (Netzer et al. 2011), and call 0 10.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from multiebm.core.errors import ConfigError, DataError
from multiebm.core.files import file_sha256
from multiebm.data.cache import cached_arrays
from multiebm.data.dataset import MultimodalDataset, Split, content_fingerprint, everything_present, too_few
from multiebm.data.downloads import Download, Needed, readable
from multiebm.data.npz import BROKEN, expanded
from multiebm.data.polymnist import SPLITS, mnist_files, read_mnist, round_order
from multiebm.data.recipe import Pixels
from multiebm.modalities import Modality, Picture

SEED = 42  # of the matchings
MOST = 10_000  # pictures of a class that are matched
N_CLASSES = 10
SHAPES = {"mnist": (1, 28, 28), "svhn": (3, 32, 32)}
SVHN_FILES = {"train": "train_32x32.mat", "test": "test_32x32.mat"}
CITATION = (
    "Y. Shi, N. Siddharth, B. Paige, P. Torr, Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep "
    "Generative Models (2019), arXiv 1911.03393; Y. LeCun et al. (1998), 10.1109/5.726791; Y. Netzer et al. (2011)."
)
DOWNLOADS = (
    Download(
        title="MNIST",
        link="https://ossci-datasets.s3.amazonaws.com/mnist/ (four files, first at yann.lecun.com/exdb/mnist)",
        size="12 MB",
        licence="usually given as CC BY-SA 3.0",
        citation="Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Gradient-based learning applied to document recognition "
        "(1998), 10.1109/5.726791.",
        files=tuple(
            Needed((f"mnist/{name}.gz", f"mnist/{name}", f"{name}.gz", name))
            for split in ("train", "t10k")
            for name in (f"{split}-images-idx3-ubyte", f"{split}-labels-idx1-ubyte")
        ),
    ),
    Download(
        title="SVHN, cropped digits",
        link="http://ufldl.stanford.edu/housenumbers/ (Format 2)",
        size="246 MB",
        licence="non-commercial use only",
        citation="Y. Netzer, T. Wang, A. Coates, A. Bissacco, B. Wu, A. Ng, Reading Digits in Natural Images with "
        "Unsupervised Feature Learning (2011).",
        files=tuple(Needed((f"svhn/{name}", name)) for name in SVHN_FILES.values()),
    ),
)
Pairs = dict[str, NDArray[np.int64]]


def load_mnist_svhn(
    folder: str | Path,
    pairings: int = 30,
    limit: int | None = None,
    held_out: float | None = None,
    cache_folder: str | Path | None = None,
) -> MultimodalDataset:
    """Return `mnist` uint8 [N, 1, 28, 28] and `svhn` uint8 [N, 3, 32, 32] of one class; with 30 `pairings` 1,682,040
    pairs to train and 300,000 to test.

    `folder` has the four idx files of MNIST and the two .mat files of SVHN, or sub-folders mnist and svhn with them.
    Pairs are in rounds of the ten digits; `limit` keeps the first of each split. `held_out`: where there is no test
    file of SVHN, the share of the pictures of each class in its training file that is held out, the last ones; no
    picture is in both splits. ConfigError for bad settings; DataError names a missing or damaged file.
    """
    problems = too_few("mnist_svhn", {"pairings": pairings, "limit": limit})
    if held_out is not None and not 0 < held_out < 1:
        problems.append(f"mnist_svhn.held_out: got {held_out}, expected a share between 0 and 1; correct it")
    if problems:
        raise ConfigError(problems)
    root = expanded(folder)
    digits, numbers = mnist_files(_within(root, "mnist"), "folder"), svhn_files(_within(root, "svhn"), held_out)
    with readable("mnist_svhn"):
        sources = {path.name: file_sha256(path) for path in (*digits.values(), *numbers.values())}

    def build() -> Iterator[tuple[str, NDArray[Any]]]:
        for split in SPLITS:
            images, labels = read_mnist(digits, split)
            yield f"{split}-mnist", images[:, None]
            yield f"{split}-mnist-labels", labels.astype(np.int64)
        read = {split: read_svhn(path) for split, path in numbers.items()}
        for split, (pictures, classes) in (read if held_out is None else divided(*read["train"], held_out)).items():
            yield f"{split}-svhn", pictures
            yield f"{split}-svhn-labels", classes

    want = [f"{split}-{part}{kind}" for split in SPLITS for part in SHAPES for kind in ("", "-labels")]
    identity = {"layout": 1, "held_out": held_out, "sources": sources}
    arrays, _ = cached_arrays(cache_folder, "mnist-svhn", identity, build, want)
    train, test = (_split(arrays, split, pairings, limit) for split in SPLITS)
    parts: dict[str, Modality] = {name: Picture(name, shape) for name, shape in SHAPES.items()}
    fingerprint = content_fingerprint(parts, train, test)
    return MultimodalDataset("mnist_svhn", parts, train, test, N_CLASSES, CITATION, fingerprint)


def _within(folder: Path, name: str) -> Path:
    return folder / name if (folder / name).is_dir() else folder


def _split(arrays: dict[str, NDArray[Any]], split: str, pairings: int, limit: int | None) -> Split:
    labels = {name: arrays[f"{split}-{name}-labels"] for name in SHAPES}
    found = pairs(labels["mnist"], labels["svhn"], pairings, np.random.default_rng([SEED, SPLITS.index(split)]))
    at = {name: torch.from_numpy(rows[:limit]) for name, rows in found.items()}
    classes = torch.from_numpy(labels["mnist"])[at["mnist"]]
    if not len(classes):
        raise DataError(
            f"mnist_svhn, {split}: got no class that MNIST and SVHN both have, expected pictures of the same digits; "
            "download the files again"
        )
    views = {name: torch.from_numpy(arrays[f"{split}-{name}"]) for name in SHAPES}
    return Split(views, everything_present(at), classes, at=at)


def pairs(mnist: NDArray[np.int64], svhn: NDArray[np.int64], pairings: int, rng: np.random.Generator) -> Pairs:
    """Return rows int64 [N] of pictures that are pairs, by part, from the classes [K] of the pictures of each.

    N = pairings * sum_c n_c. Within a class each matching is a permutation of both lists; classes come in rounds.
    """
    found: dict[str, list[NDArray[np.int64]]] = {"mnist": [], "svhn": []}
    for digit in range(N_CLASSES):
        both = {"mnist": np.flatnonzero(mnist == digit), "svhn": np.flatnonzero(svhn == digit)}
        n = min(*map(len, both.values()), MOST)
        for _ in range(pairings):
            for name, rows in both.items():
                found[name].append(rng.permutation(rows[:n]))
    every = {name: np.concatenate(rows) for name, rows in found.items()}
    order = round_order(mnist[every["mnist"]].astype(np.uint8), rng=None)
    return {name: rows[order] for name, rows in every.items()}


def svhn_files(folder: Path, held_out: float | None) -> dict[str, Path]:
    """Return the files of SVHN by split, the one for training alone where rows of it are `held_out`; DataError names a
    missing one, ConfigError a share to hold out where there is a test file.
    """
    files = {split: folder / name for split, name in SVHN_FILES.items()}
    if not files["train"].is_file():
        raise DataError(
            f"SVHN: got no file {files['train']}, expected the official train_32x32.mat and test_32x32.mat; put them "
            "there, or set folder to the folder that holds them"
        )
    if held_out is None and not files["test"].is_file():
        raise DataError(
            f"SVHN: got no file {files['test']}, expected the official test_32x32.mat; put it there, or set "
            "held_out=0.2 to hold out a fifth of the pictures of train_32x32.mat"
        )
    if held_out is not None and files["test"].is_file():
        raise ConfigError(
            f"mnist_svhn.held_out: got {held_out}, expected none where there is {files['test']}; leave the setting out"
        )
    return files if held_out is None else {"train": files["train"]}


def divided(pictures: Pixels, labels: NDArray[np.int64], share: float) -> dict[str, tuple[Pixels, NDArray[np.int64]]]:
    """Return pictures [K, ...] and labels [K] by split: the last ones of each class are held out, at least 1, not all.

    A class of one picture stays in training.
    """
    test = np.zeros(len(labels), bool)
    for digit in range(N_CLASSES):
        members = np.flatnonzero(labels == digit)
        n = min(max(round(len(members) * share), 1), len(members) - 1)
        test[members[len(members) - n :]] = n > 0
    return {name: (pictures[rows], labels[rows]) for name, rows in (("train", ~test), ("test", test))}


def read_svhn(path: Path) -> tuple[Pixels, NDArray[np.int64]]:
    """Return pictures uint8 [N, 3, 32, 32] and classes int64 [N], 0 to 9, of a .mat file; DataError names it."""
    import scipy.io  # late: few need it

    try:
        content = scipy.io.loadmat(path, variable_names=("X", "y"))
        pictures, labels = content["X"], content["y"].ravel().astype(np.int64)
    except (OSError, scipy.io.matlab.MatReadError, *BROKEN) as error:
        raise DataError(
            f"{path}: got {str(error) or type(error).__name__}, expected MATLAB's X and y; download it again"
        ) from error
    is_right = pictures.dtype == np.uint8 and pictures.shape == (32, 32, 3, len(labels))
    if not is_right or not len(labels) or labels.min() < 1 or labels.max() > N_CLASSES:
        raise DataError(
            f"{path}: got X {pictures.dtype} of shape {pictures.shape} and {len(labels)} labels y, expected uint8 "
            "(32, 32, 3, N) and N labels 1 to 10; download it again"
        )
    return np.ascontiguousarray(pictures.transpose(3, 2, 0, 1)), labels % N_CLASSES
