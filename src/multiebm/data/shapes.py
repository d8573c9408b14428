"""shapes: drawn scenes of one shape each, and English captions of them. What either shows is read off exactly.

A picture is the nearest of all noise-free renderings, a caption what its parser finds (`data.wordings`).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from itertools import product
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from multiebm.core.errors import ConfigError
from multiebm.core.names import Views
from multiebm.core.random import check_seed, make_generator
from multiebm.data.dataset import MultimodalDataset, Split, content_fingerprint, everything_present, too_few
from multiebm.data.wordings import ATTRIBUTES, COLOURS, PLACES, SHAPES, SIZES, VOCABULARY, WORDINGS, parse, say
from multiebm.modalities import Modality, Picture, Text

SMALLEST, LARGEST = 16, 64  # pixels a side
NOISE = 8  # standard deviation of each channel of a pixel, of 255
PALETTE = torch.tensor(
    [[230, 40, 40], [40, 180, 60], [50, 80, 230], [240, 220, 50], [250, 250, 250], [10, 10, 10]], dtype=torch.uint8
)  # by COLOURS
RADII = {"small": 0.16, "large": 0.26}  # of a picture's side
CENTRES = {"left": (0.3, 0.5), "right": (0.7, 0.5), "top": (0.5, 0.3), "bottom": (0.5, 0.7), "centre": (0.5, 0.5)}
N_CLASSES = len(COLOURS) * len(SHAPES)
LENGTH = 14  # tokens of a caption, its end included
CITATION = "Synthetic; shapes that are drawn, and captions in eight wordings."
CAPTION = Text("caption", VOCABULARY, LENGTH)
_AT_A_TIME = 500  # pictures that are read at a time
_PAIRS = torch.tensor([(c, b) for c, b in product(range(len(COLOURS)), repeat=2) if c != b])  # [30, 2]


def load_shapes(
    size: int = 32,
    train_items: int = 10_000,
    test_items: int = 2_000,
    seed: int = 0,
    text_mode: Literal["langevin", "frozen"] = "frozen",
) -> MultimodalDataset:
    """Return `picture`, uint8 [N, 3, size, size], and `caption`, tokens int64 [N, T], in 24 classes: colour and shape.

    A scene is a shape, its colour, size and place, and a background of another colour. It is drawn up to size // 32
    pixels off its place, with noise. Its caption names colour and shape, and some of the rest. Classes are balanced.
    `text_mode`: what a chain in data space does with captions; of moved ones a third were no wording any more.
    ConfigError lists every bad value.
    """
    problems = too_few("shapes", {"train_items": train_items, "test_items": test_items})
    if not SMALLEST <= size <= LARGEST:
        problems.insert(0, f"shapes.size: got {size}, expected {SMALLEST} to {LARGEST} pixels; use one of them")
    if problems:
        raise ConfigError(problems)
    rng = make_generator(check_seed(seed))
    parts: dict[str, Modality] = {
        "picture": Picture("picture", (3, size, size)),
        "caption": replace(CAPTION, text_mode=text_mode),
    }
    train, test = (_draw(n, size, rng) for n in (train_items, test_items))
    fingerprint = content_fingerprint(parts, train, test)
    exact = ShapesReader(test)
    return MultimodalDataset("shapes", parts, train, test, N_CLASSES, CITATION, fingerprint, exact=exact)


def _draw(n: int, size: int, rng: torch.Generator) -> Split:
    labels = (torch.arange(n) % N_CLASSES)[torch.randperm(n, generator=rng)]
    colour, shape = labels // len(SHAPES), labels % len(SHAPES)
    background = torch.randint(len(COLOURS) - 1, (n,), generator=rng)
    background += background >= colour  # any colour but the shape's
    large, place = (torch.randint(len(values), (n,), generator=rng) for values in (SIZES, PLACES))
    off = torch.randint(len(_shifts(size)), (n,), generator=rng)
    scenes = torch.stack([colour, shape, large, place, background], 1)
    clean = render(scenes, size, off)
    noisy = clean + NOISE * torch.randn(clean.shape, generator=rng)
    wordings = torch.randint(len(WORDINGS), (n,), generator=rng).tolist()
    captions = [say(named(scene), i) for scene, i in zip(scenes.tolist(), wordings, strict=True)]
    tokens = torch.zeros(n, LENGTH, dtype=torch.int64)
    CAPTION.speller.read(captions, list(range(n)), tokens, "shapes")
    views = {"picture": noisy.round().clamp(0, 255).to(torch.uint8), "caption": tokens}
    return Split(views, everything_present(views), labels)


def render(scenes: Tensor, size: int, off: Tensor | None = None) -> Tensor:
    """Return scenes int64 [N, 5], numbers of values by ATTRIBUTES, without noise: uint8 [N, 3, size, size].

    `off`: int64 [N], which of the shifts, by default none.
    """
    masks, shifts = stencils(size).view(-1, len(_shifts(size)), size, size), len(_shifts(size)) // 2
    colour, shape, large, place, background = scenes.unbind(1)
    which = (shape * len(SIZES) + large) * len(PLACES) + place
    inside = masks[which, torch.full_like(which, shifts) if off is None else off][:, None]
    return torch.where(inside, PALETTE[colour][..., None, None], PALETTE[background][..., None, None])


def named(scene: Sequence[int]) -> dict[str, str]:
    """Return the five numbers of a scene as words, by ATTRIBUTES."""
    return {name: values[i] for (name, values), i in zip(ATTRIBUTES.items(), scene, strict=True)}


def _shifts(size: int) -> list[tuple[int, int]]:
    """Return pixels (right, down) that a shape may be off its place; the middle one is none."""
    step = size // 32
    steps = (-step, 0, step) if step else (0,)
    return [(right, down) for right in steps for down in steps]


@lru_cache(maxsize=4)
def stencils(size: int) -> Tensor:
    """Return where a shape is, bool [K, size, size], by shape, size, place and shift, the last one fastest."""
    y, x = (torch.from_numpy(grid) for grid in np.mgrid[:size, :size] + 0.5)
    found = []
    for shape, large, place, (right, down) in product(SHAPES, SIZES, PLACES, _shifts(size)):
        across, along = CENTRES[place]
        r = RADII[large] * size
        found.append(_inside(shape, (x - across * size - right) / r, (y - along * size - down) / r))
    return torch.stack(found)


def _inside(shape: str, x: Tensor, y: Tensor) -> Tensor:
    """Return where points (x, y), in radii from the centre, y downwards, belong to a shape."""
    if shape == "circle":
        return x.square() + y.square() <= 1
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) <= 0.9
    if shape == "triangle":  # its tip at the top
        return (y.abs() <= 1) & (x.abs() <= (y + 1) / 2)
    return (torch.minimum(x.abs(), y.abs()) <= 0.3) & (torch.maximum(x.abs(), y.abs()) <= 1)


def shapes_scenes(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Return what states [B, 3, S, S] show: scenes int64 [B, 5], numbers of values by ATTRIBUTES, of the nearest
    rendering, and how far it is [B], the root mean square over its numbers, in states.
    """
    read = [_nearest(chunk) for chunk in pictures.split(_AT_A_TIME)]
    return torch.cat([scenes for scenes, _ in read]), torch.cat([far for _, far in read])


def _nearest(pictures: Tensor) -> tuple[Tensor, Tensor]:
    size = pictures.shape[-1]
    x = pictures.flatten(2).double()  # [B, 3, P]
    masks = stencils(size).flatten(1).to(x)  # [K, P]
    palette = PALETTE.to(x) / 127.5 - 1  # [6, 3]
    inside = x @ masks.T  # [B, 3, K], sums of each channel where the shape is
    outside, area = x.sum(2, keepdim=True) - inside, masks.sum(1)
    norm = palette.square().sum(1)
    # |x - c|^2 summed over a region, without |x|^2: n |c|^2 - 2 c sum(x)
    on = area[:, None] * norm - 2 * torch.einsum("bck,pc->bkp", inside, palette)
    around = (size * size - area)[:, None] * norm - 2 * torch.einsum("bck,pc->bkp", outside, palette)
    pairs = _PAIRS.to(x.device)
    total = (on[..., pairs[:, 0]] + around[..., pairs[:, 1]]).flatten(1)  # [B, K * 30]
    least, at = total.min(1)
    colours, mask = pairs[at % len(pairs)], at // len(pairs) // len(_shifts(size))
    shape, large, place = mask // (len(SIZES) * len(PLACES)), mask // len(PLACES) % len(SIZES), mask % len(PLACES)
    far = ((least + x.square().sum((1, 2))).clamp_min(0) / x[0].numel()).sqrt()
    return torch.stack([colours[:, 0], shape, large, place, colours[:, 1]], 1), far.float()


def caption_scenes(captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return what captions name, int64 [B, 5] by ATTRIBUTES, -1 where it is left out, and whether they are one of the
    wordings, bool [B]; others name nothing.
    """
    read = [parse(caption) for caption in captions]
    scenes = [
        [values.index(said[name]) if said and name in said else -1 for name, values in ATTRIBUTES.items()]
        for said in read
    ]
    return torch.tensor(scenes).view(-1, len(ATTRIBUTES)), torch.tensor([said is not None for said in read])


def agreement(pictures: Tensor, captions: Sequence[str]) -> Tensor:
    """Return whether captions are a wording and say nothing that states [B, 3, S, S] do not show, bool [B]."""
    shown = shapes_scenes(pictures)[0].cpu()
    said, grammatical = caption_scenes(captions)
    return ((said == shown) | (said < 0)).all(1) & grammatical


class ShapesReader:
    """Reads the class, colour and shape, of the states of either part exactly: in place of judges that are trained.

    A caption that is none of the wordings has the class N_CLASSES, which no picture has.
    """

    def __init__(self, test: Split) -> None:
        self.test = test

    @cached_property
    def accuracy(self) -> dict[str, float]:
        """Shares of test items that are read correctly, by part."""
        pictures, tokens = self.test.views["picture"], self.test.views["caption"]
        assert self.test.labels is not None
        read = self.predict({"picture": pictures / 127.5 - 1, "caption": CAPTION.to_state(tokens)})
        return {name: float((of == self.test.labels).double().mean()) for name, of in read.items()}

    def scenes(self, views: Views) -> dict[str, Tensor]:
        """Return what states [B, *shape] show, int64 [B, 5] by part: numbers of values by ATTRIBUTES, -1 if unsaid."""
        return {
            name: shapes_scenes(view)[0]
            if name == "picture"
            else caption_scenes(CAPTION.show(CAPTION.to_raw(view.cpu())))[0].to(view.device)
            for name, view in views.items()
        }

    def predict(self, views: Views) -> dict[str, Tensor]:
        """Return classes int64 [B] of states [B, *shape], by part."""
        return {
            name: torch.where(of[:, 0] < 0, N_CLASSES, of[:, 0] * len(SHAPES) + of[:, 1])
            for name, of in self.scenes(views).items()
        }

    def features(self, views: Views) -> dict[str, Tensor]:
        """Return float32 [B, 23] by part: 1 at the value that each attribute has, 0 elsewhere."""
        sizes = [len(values) for values in ATTRIBUTES.values()]
        return {
            name: torch.cat([one_hot(of[:, i] + 1, n + 1)[:, 1:] for i, n in enumerate(sizes)], 1).float()
            for name, of in self.scenes(views).items()
        }
