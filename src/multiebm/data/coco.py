"""COCO captions (Lin et al. 2014, arXiv 1405.0312; Chen et al. 2015, arXiv 1504.00325): photographs with about five
captions each, in the published JSON. Training is train20YY, testing val20YY. There are no classes.
"""

from pathlib import Path
from typing import Any, Literal

from multiebm.core.errors import DataError
from multiebm.core.files import read_json
from multiebm.data.captioned_sets import Described, Reading, captioned_set
from multiebm.data.dataset import MultimodalDataset
from multiebm.data.downloads import Download, Needed
from multiebm.data.npz import expanded

CAPTIONS = 5  # of a picture that are taken at most
PARTS = {"train": "train", "test": "val"}  # by split
LARGEST = 1 << 29  # bytes of a file of captions; that of train2017 has 92 million
CITATION = (
    "T.-Y. Lin et al., Microsoft COCO: Common Objects in Context (2014), arXiv 1405.0312; X. Chen et al., Microsoft "
    "COCO Captions: Data Collection and Evaluation Server (2015), arXiv 1504.00325."
)
DOWNLOADS = (
    Download(
        title="COCO 2017",
        link="https://cocodataset.org/#download (2017 Train images, 2017 Val images, 2017 Train/Val annotations)",
        size="18 GB, 1 GB and 241 MB",
        licence="captions CC BY 4.0; photographs by the field license of each, under the terms of Flickr",
        citation=CITATION,
        files=(
            *(Needed((f"annotations/captions_{part}2017.json",)) for part in PARTS.values()),
            Needed(("train2017/*.jpg",), 118_287),
            Needed(("val2017/*.jpg",), 5_000),
        ),
    ),
)


def load_coco(
    folder: str | Path,
    size: int = 64,
    crop: bool = False,
    year: Literal[2014, 2017] = 2017,
    captions_per_picture: int = CAPTIONS,
    limit: int | None = None,
    min_count: int = 4,
    length: int = 32,
    vocabulary: int = 5000,
    cache_folder: str | Path | None = None,
) -> MultimodalDataset:
    """Return `picture`, uint8 [N, 3, size, size], and `caption`, tokens int64 [N, length].

    `folder` has annotations/captions_train2017.json and captions_val2017.json, and pictures in train2017 and val2017;
    `year` 2014 likewise. `crop` takes the square in the middle; else the sides are scaled apart. Of each picture the
    first captions are taken, at most `captions_per_picture`; `limit` is how many pictures of each split. Words are
    those that occur `min_count` times in training captions, at most `vocabulary`; `length` is in tokens, the end
    included. ConfigError for bad settings; DataError names a missing or damaged file.
    """
    shared = size, crop, captions_per_picture, limit, min_count, length, vocabulary, cache_folder
    reading = Reading("coco", folder, *shared)
    reading.check(CAPTIONS)
    root = expanded(folder)
    return captioned_set(
        reading,
        {
            split: [
                Described(root / f"{part}{year}" / name, said[:captions_per_picture])
                for name, said in reading.thinned(read_captions(root / "annotations" / f"captions_{part}{year}.json"))
            ]
            for split, part in PARTS.items()
        },
        CITATION,
    )


def read_captions(file: Path) -> list[tuple[str, list[str]]]:
    """Return names of pictures and the captions of each, in the order of a published file; DataError names it."""
    if not file.is_file():
        raise DataError(
            f"{file}: got no such file, expected the published captions; unpack annotations_trainval into the setting "
            "folder, or set year"
        )
    try:
        content = read_json(file, LARGEST)
        said: dict[Any, tuple[str, list[str]]] = {of["id"]: (of["file_name"], []) for of in content["images"]}
        for one in content["annotations"]:
            said[one["image_id"]][1].append(one["caption"].strip())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{file}: got {type(error).__name__}: {error}, expected JSON with images (id, file_name) and annotations "
            "(image_id, caption), as captions_*.json has and instances_*.json has not; download it again"
        ) from error
    for name, captions in said.values():
        if not captions or not isinstance(name, str) or Path(name).name != name:
            what = "no caption" if not captions else "a name that leaves its folder"
            raise DataError(f"{file}: got {what} for picture {name!r}, expected both; download it again")
    return list(said.values())
