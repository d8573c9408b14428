"""CUB with captions: photographs of birds of 200 species (Wah et al. 2011), ten captions each (Reed et al. 2016, arXiv
1605.05395). Pair k is picture k // 10 with its caption k % 10. The class-disjoint split is that of zero-shot learning.
"""

from collections.abc import Mapping
from math import inf, isfinite
from pathlib import Path
from typing import Literal

from multiebm.core.errors import DataError
from multiebm.core.files import read_json
from multiebm.data.captioned_sets import Described, Reading, captioned_set
from multiebm.data.dataset import MultimodalDataset
from multiebm.data.downloads import Download, Needed
from multiebm.data.npz import expanded
from multiebm.data.table_files import text_lines

CAPTIONS = 10  # of a picture
LISTS = "CUB_200_2011"
TEXTS = ("text", "text_c10", "cvpr2016_cub/text_c10")
CLASS_LISTS = {"train": "trainvalclasses.txt", "test": "testclasses.txt"}
SPLIT_FILE = "reed_class_split.json"
_CELLS = {
    "images.txt": 2,
    "image_class_labels.txt": 2,
    "classes.txt": 2,
    "train_test_split.txt": 2,
    "bounding_boxes.txt": 5,
}
Lists = Mapping[str, Mapping[str, list[str]]]  # cells by list and the number that begins their line
CITATION = (
    "C. Wah, S. Branson, P. Welinder, P. Perona, S. Belongie, The Caltech-UCSD Birds-200-2011 Dataset (2011), "
    "CNS-TR-2011-001; S. Reed, Z. Akata, H. Lee, B. Schiele, Learning Deep Representations of Fine-Grained Visual "
    "Descriptions (2016), arXiv 1605.05395."
)
DOWNLOADS = (
    Download(
        title="CUB-200-2011",
        link="https://www.vision.caltech.edu/datasets/cub_200_2011/ (CUB_200_2011.tgz)",
        size="1.1 GB",
        licence="non-commercial research and education; photographs belong to their authors",
        citation=CITATION.partition("; ")[0] + ".",
        files=(*(Needed((f"{LISTS}/{name}",)) for name in _CELLS), Needed((f"{LISTS}/images/*/*.jpg",), 11_788)),
    ),
    Download(
        title="Captions and classes of both splits",
        link="https://github.com/reedscot/cvpr2016 (cvpr2016_cub.tar.gz)",
        size="11,788 small texts",
        licence="research",
        citation=CITATION.partition("; ")[2],
        files=(
            Needed(tuple(f"{place}/*/*.txt" for place in TEXTS), 11_788),
            Needed((SPLIT_FILE, CLASS_LISTS["train"], f"cvpr2016_cub/{CLASS_LISTS['train']}")),
        ),
    ),
)


def load_cub(
    folder: str | Path,
    size: int = 64,
    split: Literal["reed", "official"] = "reed",
    crop: bool = False,
    captions_per_picture: int = CAPTIONS,
    limit: int | None = None,
    min_count: int = 4,
    length: int = 32,
    vocabulary: int = 5000,
    cache_folder: str | Path | None = None,
) -> MultimodalDataset:
    """Return `picture`, uint8 [N, 3, size, size], and `caption`, tokens int64 [N, length], in the classes of birds.

    `folder` has CUB_200_2011 with images and lists, and text (or text_c10) with captions. `split` reed is 150 classes
    to train and 50 others to test, as reed_class_split.json, or trainvalclasses.txt and testclasses.txt, say: 88,550
    and 29,330 pairs; official is train_test_split.txt. `crop` takes the box of the bird, of the original pictures. Of
    each picture the first `captions_per_picture` are taken; `limit` is how many pictures of each split. Words are those
    that occur `min_count` times in training captions, at most `vocabulary`; `length` is in tokens, the end included.
    ConfigError for bad settings; DataError names a missing or damaged file.
    """
    shared = size, crop, captions_per_picture, limit, min_count, length, vocabulary, cache_folder
    reading = Reading("cub", folder, *shared)
    reading.check(CAPTIONS)
    root = expanded(folder)
    lists = read_lists(root / LISTS, crop)
    classes = {key: cells[0] for key, cells in lists["classes.txt"].items()}
    in_training = _official(lists) if split == "official" else _reed(root, lists, classes)
    texts = next((root / place for place in TEXTS if (root / place).is_dir()), root / TEXTS[0])
    number = {key: i for i, key in enumerate(classes)}
    items = {}
    for part in ("train", "test"):
        rows = reading.thinned([key for key in lists["images.txt"] if in_training[key] == (part == "train")])
        items[part] = [
            Described(
                root / LISTS / "images" / (name := lists["images.txt"][key][0]),
                _captions(texts / Path(name).with_suffix(".txt"), captions_per_picture),
                number[lists["image_class_labels.txt"][key][0]],
                _box(lists["bounding_boxes.txt"][key], root / LISTS / "bounding_boxes.txt") if crop else None,
            )
            for key in rows
        ]
    return captioned_set(reading, items, CITATION, tuple(classes.values()))


def read_lists(folder: Path, boxes: bool) -> Lists:
    """Return the lists of CUB_200_2011, with `boxes` those too; DataError where one lacks a picture or a class."""
    lists = {name: _table(folder / name, cells) for name, cells in _CELLS.items() if boxes or cells == 2}
    for (name,) in lists["images.txt"].values():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise DataError(
                f"{folder / 'images.txt'}: got {name}, expected a picture below images; unpack the archive again"
            )
    classes = {cells[0] for cells in lists["image_class_labels.txt"].values()}
    for name, rows in lists.items():
        needed = sorted(classes if name == "classes.txt" else lists["images.txt"])
        if lost := [key for key in needed if key not in rows]:
            raise DataError(
                f"{folder / name}: got no line that begins with {lost[0]} ({len(lost):,} such lines), expected one as "
                "the other lists have it; unpack the archive again"
            )
    return lists


def _table(file: Path, cells: int) -> dict[str, list[str]]:
    """Return what stands behind the number of each row of a list, by that number; DataError names file and line."""
    if not file.is_file():
        raise DataError(
            f"{file}: got no such file, expected the lists of CUB_200_2011 below the setting folder; unpack "
            "CUB_200_2011.tgz there"
        )
    rows = {}
    for i, line in enumerate(text_lines(file), 1):
        key, *found = line.split()
        if len(found) != cells - 1:
            raise DataError(f"{file}, line {i}: got {line!r}, expected {cells} cells; unpack the archive again")
        if key in rows:
            raise DataError(
                f"{file}, line {i}: got the number {key} again, expected each once; unpack the archive again"
            )
        rows[key] = found
    return rows


def _official(lists: Lists) -> dict[str, bool]:
    for key, (flag,) in lists["train_test_split.txt"].items():
        if flag not in ("0", "1"):
            raise DataError(
                f"train_test_split.txt: got {flag!r} for picture {key}, expected 1 (training) or 0; unpack the archive "
                "again"
            )
    return {key: row[0] == "1" for key, row in lists["train_test_split.txt"].items()}


def _reed(root: Path, lists: Lists, classes: Mapping[str, str]) -> dict[str, bool]:
    """Return whether a picture is in training, by its number; DataError where splits share a class or lack one."""
    said, where = class_split(root)
    train, test = (frozenset(said[part]) for part in ("train", "test"))
    if both := sorted(train & test):
        raise DataError(f"{where}: got class {both[0]!r} in train and in test, expected it in one; correct the file")
    of = {key: classes[row[0]] for key, row in lists["image_class_labels.txt"].items()}
    if lost := sorted({*of.values()} - train - test):
        raise DataError(f"{where}: got no class {lost[0]!r}, expected it in train or in test; download the file again")
    return {key: name in train for key, name in of.items()}


def class_split(root: Path) -> tuple[dict[str, list[str]], Path]:
    """Return names of classes by split, train and test, and the file that says so; DataError where none does."""
    if (file := root / SPLIT_FILE).is_file():
        try:
            said = read_json(file)
            return {part: [str(name) for name in said[part]] for part in ("train", "test")}, file
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{file}: got {type(error).__name__}: {error}, expected JSON with names of classes, train and test; "
                "download it again"
            ) from error
    for place in (root, root / "cvpr2016_cub"):
        if all((place / name).is_file() for name in CLASS_LISTS.values()):
            lines = {part: text_lines(place / name) for part, name in CLASS_LISTS.items()}
            return {part: [line.strip() for line in of if line.strip()] for part, of in lines.items()}, place
    raise DataError(
        f"{root}: got no {SPLIT_FILE} and no {' and '.join(CLASS_LISTS.values())}, expected one of them for the "
        "class-disjoint split; put it there, or set split=official"
    )


def _captions(file: Path, n: int) -> list[str]:
    """Return the first n lines of a file of captions; DataError names it."""
    if not file.is_file():
        raise DataError(
            f"{file}: got no such file, expected the captions of a picture, one a line; unpack the captions so that "
            "the setting folder has text/CLASS/PICTURE.txt"
        )
    lines = [line.strip() for line in text_lines(file)]
    if len(said := [line for line in lines if line]) < n:
        raise DataError(
            f"{file}: got {len(said)} captions, expected at least {n}; unpack the captions again, or set "
            f"captions_per_picture={max(len(said), 1)}"
        )
    return said[:n]


def _box(cells: list[str], where: Path) -> tuple[float, ...]:
    """Return left, upper, right, lower of a box given by its corner and its size; DataError where it is none."""
    try:
        x, y, width, height = map(float, cells)
    except ValueError as error:
        raise DataError(f"{where}: got {' '.join(cells)}, expected four numbers; unpack the archive again") from error
    if not (isfinite(x) and isfinite(y) and 0 < width < inf and 0 < height < inf):
        raise DataError(
            f"{where}: got {' '.join(cells)}, expected a corner and a size above 0; unpack the archive again"
        )
    return x, y, x + width, y + height
