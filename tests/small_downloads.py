"""Published data sets in their official layouts, a few items each, with pixels and captions that say what they are."""

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.io.wavfile
from PIL import Image

REAL = Path(__file__).resolve().parents[2] / "shared" / "data"  # real samples, read in place
BIRDS = ("001.Red_Bird", "002.Blue_Bird", "003.Green_Bird")  # the last is held out
COLOURS = ((200, 10, 10), (10, 10, 200), (10, 200, 10))
SIZE = (40, 30)  # width and height of pictures
TONES = {"bird": 3000, "frog": 300}  # hertz of the sounds of stamps


def real(name: str) -> str:
    """The folder of a real sample; the test is skipped where there is none."""
    if not (REAL / name).is_dir():
        pytest.skip(f"no real sample at {REAL / name}")
    return str(REAL / name)


def write_idx(path: Path, values: np.ndarray) -> None:
    header = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes(), 1))


def write_svhn(path: Path, labels: list[int]) -> None:
    """Pictures whose red, green and blue are 10, 20 and 30; their first pixel is their place in the file."""
    pictures = np.zeros((32, 32, 3, len(labels)), np.uint8) + np.array([10, 20, 30], np.uint8)[:, None]
    pictures[0, 0] = np.arange(len(labels))
    scipy.io.savemat(path, {"X": pictures, "y": np.array(labels, np.uint8)[:, None]})


def write_mnist_svhn(folder: Path, digits: list[int], numbers: list[int], test: bool = True) -> Path:
    """MNIST's four files of `digits`, the first pixel their place, and SVHN's two of `numbers`, 10 for 0."""
    for name in ("mnist", "svhn"):
        (folder / name).mkdir(parents=True)
    images = np.zeros((len(digits), 28, 28))
    images[:, 0, 0] = np.arange(len(digits))
    for stem in ("train", "t10k"):
        write_idx(folder / "mnist" / f"{stem}-images-idx3-ubyte.gz", images)
        write_idx(folder / "mnist" / f"{stem}-labels-idx1-ubyte.gz", np.array(digits))
    for split in ("train", "test") if test else ("train",):
        write_svhn(folder / "svhn" / f"{split}_32x32.mat", numbers)
    return folder


def write_cub(folder: Path, each: int = 3) -> Path:
    """`each` pictures of one colour of each of BIRDS; ten captions, "a COLOUR bird seen K times by pN"."""
    top = folder / "CUB_200_2011"
    lists: dict[str, list[str]] = {name: [] for name in ("images", "image_class_labels", "train_test_split")}
    boxes = []
    for c, name in enumerate(BIRDS):
        (top / "images" / name).mkdir(parents=True)
        (folder / "text" / name).mkdir(parents=True)
        for i in range(each):
            key = c * each + i + 1
            Image.new("RGB", SIZE, COLOURS[c]).save(top / "images" / name / f"bird_{i}.jpg", quality=95)
            colour = name[4:].partition("_")[0].lower()
            said = [f"a {colour} bird seen {k} times by p{key}" for k in range(10)]
            (folder / "text" / name / f"bird_{i}.txt").write_text("\n".join(said) + "\n")
            lists["images"].append(f"{key} {name}/bird_{i}.jpg")
            lists["image_class_labels"].append(f"{key} {c + 1}")
            lists["train_test_split"].append(f"{key} {int(i > 0)}")
            boxes.append(f"{key} 10.0 5.0 20.0 20.0")
    lists |= {"bounding_boxes": boxes, "classes": [f"{c + 1} {name}" for c, name in enumerate(BIRDS)]}
    for name, lines in lists.items():
        (top / f"{name}.txt").write_text("\n".join(lines) + "\n")
    (folder / "reed_class_split.json").write_text(json.dumps({"train": BIRDS[:2], "test": BIRDS[2:]}))
    return folder


def write_coco(folder: Path, n: int = 6, year: int = 2017) -> Path:
    """`n` pictures a split, of three colours in turn, with six captions each, those of all pictures in turn."""
    (folder / "annotations").mkdir(parents=True)
    for part in ("train", "val"):
        (folder / f"{part}{year}").mkdir()
        images = [{"id": 100 + i, "file_name": f"{part}_{i:012}.jpg"} for i in range(n)]
        for i, image in enumerate(images):
            Image.new("RGB", SIZE, COLOURS[i % 3]).save(folder / f"{part}{year}" / str(image["file_name"]))
        said = [{"image_id": 100 + i, "caption": f"Photo {k} of {part} {i}. "} for k in range(6) for i in range(n)]
        content = json.dumps({"images": images, "annotations": said})
        (folder / "annotations" / f"captions_{part}{year}.json").write_text(content)
    return folder


def write_wav(path: Path, hertz: float, seconds: float = 0.5, rate: int = 8000) -> None:
    """A tone from the start."""
    samples = np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    scipy.io.wavfile.write(path, rate, (samples * 20_000).astype(np.int16))


def write_tuxpaint(folder: Path, each: int = 6) -> Path:
    """`each` birds and frogs: all have captions, in English and French. The first of either is drawn as SVG alone, the
    others are red or blue in the middle of nothing; every second one makes a sound, and all but the last are spoken of
    in French. A mirrored picture belongs to the second bird, and a spoken text to nothing.
    """
    for kind, place, colour, french in (("bird", "animals/birds", 0, "oiseau"), ("frog", "animals", 1, "grenouille")):
        (folder / place).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            stem = folder / place / f"{kind}_{i}"
            lines = [f"A {kind} called {i}.", f"fr.utf8=Voici {french} {i}.", "de.utf8="]
            stem.with_suffix(".txt").write_text("\n".join(lines) + "\n")
            if not i:
                stem.with_suffix(".svg").write_text("<svg/>")
            else:
                stamp = Image.new("RGBA", SIZE, (0, 0, 0, 0))
                stamp.paste((*COLOURS[colour], 255), (10, 5, 30, 25))
                stamp.save(stem.with_suffix(".png"))
            if i % 2:
                write_wav(stem.with_suffix(".wav"), TONES[kind])
            if i < each - 1:
                write_wav(stem.with_name(f"{stem.name}_desc_fr.wav"), 1000)
    Image.new("LA", SIZE).save(folder / "animals" / "birds" / "bird_1_mirror.png")
    write_wav(folder / "animals" / "wallaby_desc_fr.wav", 1000)
    return folder
