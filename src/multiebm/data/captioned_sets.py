"""What published data sets of pictures with captions have in common: pictures of any size are read once into a cache,
each caption is an item, and the words are those of training.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from multiebm.core.errors import ConfigError, DataError
from multiebm.core.files import sha256_of_json
from multiebm.core.progress import track
from multiebm.core.spelling import learn
from multiebm.data.cache import cached_arrays
from multiebm.data.caption_files import CAPTION
from multiebm.data.dataset import MultimodalDataset, Split, content_fingerprint, everything_present, too_few
from multiebm.data.downloads import readable
from multiebm.data.npz import check_bytes, expanded
from multiebm.data.picture_files import Cut, box_inside, centre_square, read_scaled
from multiebm.data.picture_folders import PICTURE
from multiebm.modalities import Modality, Picture, Text
from multiebm.modalities.picture_sizes import SIDE
from multiebm.modalities.text import LARGEST_STATE, MOST_TOKENS

T = TypeVar("T")


class Described(NamedTuple):
    """A picture file with its captions, its class where it has one, and the box of it (left, upper, right, lower)."""

    file: Path
    captions: Sequence[str]
    label: int | None = None
    box: Sequence[float] | None = None


@dataclass(frozen=True)
class Reading:
    """Settings that such data sets share; `crop` takes the box of a picture, or where there is none its middle."""

    dataset: str
    folder: str | Path
    size: int
    crop: bool
    captions_per_picture: int
    limit: int | None
    min_count: int
    length: int
    vocabulary: int
    cache_folder: str | Path | None

    def check(self, most_captions: int) -> None:
        """Raise ConfigError with every bad value."""
        problems = [
            f"{self.dataset}.{key}: got {n}, expected {low} to {high:,}; correct it"
            for key, n, low, high in (
                ("size", self.size, 1, SIDE),
                ("captions_per_picture", self.captions_per_picture, 1, most_captions),
                ("length", self.length, 2, LARGEST_STATE),
                ("vocabulary", self.vocabulary, 1, MOST_TOKENS),
            )
            if not low <= n <= high
        ]
        problems += too_few(self.dataset, {"min_count": self.min_count, "limit": self.limit})
        if self.length * self.vocabulary > LARGEST_STATE:
            problems.append(
                f"{self.dataset}: got a length of {self.length:,} and a vocabulary of {self.vocabulary:,}, expected a "
                f"product of at most {LARGEST_STATE:,}; lower one"
            )
        if problems:
            raise ConfigError(problems)

    def thinned(self, items: Sequence[T]) -> list[T]:
        """Return `limit` of the items at equal distances, so that what is sorted by class stays balanced; or all."""
        if self.limit is None or self.limit >= len(items):
            return list(items)
        return [items[i * len(items) // self.limit] for i in range(self.limit)]


def captioned_set(
    reading: Reading,
    items: Mapping[str, Sequence[Described]],
    citation: str,
    classes: tuple[int | str, ...] | None = None,
) -> MultimodalDataset:
    """Return a data set of `picture`, uint8 [N, 3, size, size], and `caption`, tokens int64 [N, T], of items by split.

    Rows are captions, those of a picture one after the other; pictures are stored once. DataError names pictures that
    are absent or cannot be read.
    """
    name, size = reading.dataset, reading.size
    pictures = _pictures(reading, items)
    caption, tokens = spelled(
        reading, {split: [text for item in of for text in item.captions] for split, of in items.items()}
    )
    parts: dict[str, Modality] = {PICTURE: Picture(PICTURE, (3, size, size)), CAPTION: caption}
    splits = {}
    for split, of in items.items():
        at = torch.repeat_interleave(torch.arange(len(of)), torch.tensor([len(item.captions) for item in of]))
        labels = None if classes is None else torch.tensor([item.label for item in of])[at]
        views = {PICTURE: pictures[split], CAPTION: tokens[split]}
        present = everything_present({PICTURE: at, CAPTION: tokens[split]})
        splits[split] = Split(views, present, labels, at={PICTURE: at})
    train, test = splits["train"], splits["test"]
    n_classes, fingerprint = None if classes is None else len(classes), content_fingerprint(parts, train, test)
    return MultimodalDataset(name, parts, train, test, n_classes, citation, fingerprint, classes)


def spelled(reading: Reading, texts: Mapping[str, Sequence[str]]) -> tuple[Text, dict[str, torch.Tensor]]:
    """Return the part of captions, whose words are those of training, and tokens int64 [N, T] of `texts` by split."""
    name, read = reading.dataset, dict[str, torch.Tensor]()
    words, _ = learn(texts["train"], False, reading.vocabulary, reading.min_count, f"{name}, training captions")
    caption = Text(CAPTION, words, reading.length)
    for split, of in texts.items():
        read[split] = torch.zeros(len(of), reading.length, dtype=torch.int64)
        caption.speller.read(of, range(len(of)), read[split], f"{name}, {split}")
    return caption, read


def _pictures(reading: Reading, items: Mapping[str, Sequence[Described]]) -> dict[str, torch.Tensor]:
    """Return pictures uint8 [K, 3, size, size] by split, from the cache; it goes by names, sizes and boxes of files."""
    name, size, folder = reading.dataset, reading.size, expanded(reading.folder)
    check_bytes(folder, sum(map(len, items.values())) * 3 * size**2)
    if empty := [split for split, of in items.items() if not of]:
        raise DataError(f"{folder}: got no pictures to {' or to '.join(empty)}, expected some; unpack the rest")
    if absent := [item.file for of in items.values() for item in of if not item.file.is_file()]:
        raise DataError(
            f"{name}: got no picture {absent[0]} ({len(absent):,} such files), expected every one that the lists name; "
            f"unpack the pictures again; `multiebm data {name} --root {shlex.quote(str(folder))}` says what is missing"
        )
    with readable(name):
        files = {
            split: [[str(item.file.relative_to(folder)), *size_and_time(item.file), item.box] for item in of]
            for split, of in items.items()
        }

    def build() -> Iterator[tuple[str, NDArray[Any]]]:
        for split, of in items.items():
            read = (read_scaled(item.file, size, _cut(reading, item)) for item in track(of, f"pictures to {split}"))
            yield split, np.fromiter(read, np.dtype((np.uint8, (3, size, size))), len(of))

    identity = {"layout": 1, "files": sha256_of_json(files), "size": size, "crop": reading.crop}
    arrays, _ = cached_arrays(reading.cache_folder, name, identity, build, list(items))
    return {split: torch.from_numpy(array) for split, array in arrays.items()}


def size_and_time(file: Path) -> tuple[int, int]:
    """Return the bytes of a file and when it was written, in nanoseconds: a picture put in its place is another."""
    found = file.stat()
    return found.st_size, found.st_mtime_ns


def _cut(reading: Reading, item: Described) -> Cut | None:
    if item.box is not None:
        return partial(box_inside, item.box, item.file)
    return centre_square if reading.crop else None
