"""Tux Paint stamps: a picture, a caption, a sound and the caption spoken, each where the collection has it.

A stamp is NAME.txt with its captions; NAME.png, NAME.ogg and NAME_desc.ogg may lie beside it. So gaps are natural ones.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from multiebm.core.errors import ConfigError, DataError
from multiebm.core.files import sha256_of_json
from multiebm.core.progress import track
from multiebm.core.table import nearest
from multiebm.data.cache import cached_arrays
from multiebm.data.caption_files import CAPTION
from multiebm.data.captioned_sets import Reading, size_and_time, spelled
from multiebm.data.dataset import MultimodalDataset, Split, content_fingerprint
from multiebm.data.downloads import Download, Needed, readable
from multiebm.data.npz import check_bytes, expanded
from multiebm.data.picture_files import read_on_white
from multiebm.data.picture_folders import PICTURE
from multiebm.data.sound_files import ENDINGS, read_sound, spectrogram
from multiebm.data.table_files import text_lines
from multiebm.modalities import Modality, Picture

SEED = 42  # of the stamps that are held out
HELD_OUT = 5  # one of so many is
SOUND, SPEECH = "sound", "speech"
CHANNELS = {PICTURE: 3, SOUND: 1, SPEECH: 1}
ENGLISH = "en"  # the language of first lines
CITATION = "B. Kendrick and contributors, Tux Paint stamps 2022.06.04, https://tuxpaint.org/stamps."
DOWNLOADS = (
    Download(
        title="Tux Paint stamps, the package tuxpaint-stamps-default of Debian 12",
        link="https://packages.debian.org/bookworm/tuxpaint-stamps-default "
        "(apt-get install --no-install-recommends tuxpaint-stamps-default)",
        size="161 MB, 230 MB unpacked",
        licence="GPL-2",
        citation=CITATION,
        files=(Needed(("**/*.txt",), 952), Needed(("**/*.png",), 796), Needed(("**/*.ogg",), 7_858)),
    ),
)


class Stamp(NamedTuple):
    """The captions of a stamp by language, and its files by part, of those that are there."""

    captions: Mapping[str, str]
    files: Mapping[str, Path]


def load_tuxpaint(
    folder: str | Path = "/usr/share/tuxpaint/stamps",
    size: int = 64,
    language: str = ENGLISH,
    sounds: bool = True,
    limit: int | None = None,
    min_count: int = 2,
    length: int = 16,
    vocabulary: int = 5000,
    cache_folder: str | Path | None = None,
) -> MultimodalDataset:
    """Return `picture`, uint8 [N, 3, size, size], `caption`, tokens int64 [N, length], and with `sounds` `sound` and
    `speech`, spectrograms uint8 [N, 1, size, size]; parts are missing where stamps have no file.

    `folder` has stamps, in sub-folders of any depth; the default is where Debian puts them. Pictures are PNG: of stamps
    that are drawn as SVG alone they are missing. `language` is that of caption and speech, such as fr; a part of which
    no stamp has a file is left out. Every fifth stamp, drawn once, is held out; `limit` is how many stamps of both
    splits. Words are those that occur `min_count` times in training captions, at most `vocabulary`; `length` is in
    tokens, the end included. ConfigError for bad settings; DataError names a missing or damaged file, and the package
    that reads sounds where it is not here.
    """
    reading = Reading("tuxpaint", folder, size, False, 1, limit, min_count, length, vocabulary, cache_folder)
    reading.check(1)
    root = expanded(folder)
    stamps = reading.thinned(find_stamps(root, language, sounds))
    if len(stamps) < 2:
        raise DataError(
            f"{root}: got {len(stamps)} stamps, files NAME.txt with captions, expected at least 2; install "
            "tuxpaint-stamps-default, or set data.settings.folder to the folder called stamps"
        )
    order = np.random.default_rng(SEED).permutation(len(stamps))
    n = max(len(stamps) // HELD_OUT, 1)
    rows = {"train": np.sort(order[n:]), "test": np.sort(order[:n])}
    said = [stamp.captions.get(language) for stamp in stamps]
    caption, tokens = spelled(reading, {split: [said[i] or "" for i in of] for split, of in rows.items()})
    shown = read_files(reading, stamps)
    parts: dict[str, Modality] = {PICTURE: Picture(PICTURE, (3, size, size)), CAPTION: caption}
    parts |= {part: Picture(part, (CHANNELS[part], size, size)) for part in shown if part not in parts}
    there = {part: torch.tensor([part in stamp.files for stamp in stamps]) for part in shown}
    there[CAPTION] = torch.tensor([text is not None for text in said])
    splits = {}
    for split, of in rows.items():
        at = torch.from_numpy(of)
        views = {part: tokens[split] if part == CAPTION else shown[part][at] for part in parts}
        splits[split] = Split(views, torch.stack([there[part][at] for part in parts], 1))
    train, test = splits["train"], splits["test"]
    return MultimodalDataset("tuxpaint", parts, train, test, None, CITATION, content_fingerprint(parts, train, test))


def find_stamps(root: Path, language: str, sounds: bool) -> list[Stamp]:
    """Return the stamps below a folder that have anything in a language, or at all, in the order of their names.

    ConfigError for a language of which there is no caption; DataError names a file that cannot be read.
    """
    spoken = "_desc" if language == ENGLISH else f"_desc_{language}"
    ways = {PICTURE: ("", (".png",))} | ({SOUND: ("", ENDINGS), SPEECH: (spoken, ENDINGS)} if sounds else {})
    stamps = []
    with readable("tuxpaint"):
        for text in sorted(root.rglob("*.txt")):
            tried = {
                part: [text.with_name(f"{text.stem}{more}{ending}") for ending in endings]
                for part, (more, endings) in ways.items()
            }
            files = {part: next((file for file in of if file.is_file()), None) for part, of in tried.items()}
            captions = read_captions(text)
            found = {part: file for part, file in files.items() if file is not None}
            if found or language in captions:
                stamps.append(Stamp(captions, found))
    known = sorted({key for stamp in stamps for key in stamp.captions})
    if stamps and language not in known:
        raise ConfigError(
            f"tuxpaint.language: got {language!r}, expected one of which there are captions: {', '.join(known)}."
            f"{nearest(language, known)} Correct it"
        )
    return stamps


def read_captions(file: Path) -> dict[str, str]:
    """Return captions by language: the first line is English, and others begin with a language, as `fr.utf8=`."""
    first, *others = (line.strip() for line in text_lines(file) or [""])
    pairs = (line.partition("=") for line in others)
    captions = {key.removesuffix(".utf8"): said for key, _, said in pairs}
    return {key: said.strip() for key, said in (captions | {ENGLISH: first}).items() if said.strip()}


def read_files(reading: Reading, stamps: list[Stamp]) -> dict[str, torch.Tensor]:
    """Return uint8 [N, C, size, size] by part of which some stamp has a file, 0 where one has none, from the cache."""
    root, size = expanded(reading.folder), reading.size
    parts = [part for part in CHANNELS if part == PICTURE or any(part in stamp.files for stamp in stamps)]
    check_bytes(root, len(stamps) * sum(CHANNELS[part] for part in parts) * size**2)
    with readable("tuxpaint"):
        files = [
            [[part, str(file.relative_to(root)), *size_and_time(file)] for part, file in stamp.files.items()]
            for stamp in stamps
        ]
    read: dict[str, Callable[[Path], NDArray[np.uint8]]] = {
        PICTURE: lambda file: read_on_white(file, size),
        SOUND: lambda file: spectrogram(*read_sound(file), size),
        SPEECH: lambda file: spectrogram(*read_sound(file), size),
    }

    def build() -> Iterator[tuple[str, NDArray[Any]]]:
        for part in reversed(parts):  # sounds first, whose package may not be here
            values = np.zeros((len(stamps), CHANNELS[part], size, size), np.uint8)
            for i, stamp in enumerate(track(stamps, f"files of {part}")):
                if part in stamp.files:
                    values[i] = read[part](stamp.files[part])
            yield part, values

    identity = {"layout": 1, "files": sha256_of_json(files), "size": size}
    arrays, _ = cached_arrays(reading.cache_folder, "tuxpaint", identity, build, parts)
    return {part: torch.from_numpy(array) for part, array in arrays.items()}
