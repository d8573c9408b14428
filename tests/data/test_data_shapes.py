"""shapes: drawings are exact to the pixel, the parser inverts every wording, and both readers tell the truth."""

from itertools import product

import pytest
import torch

from multiebm.core.errors import ConfigError
from multiebm.data import load_dataset
from multiebm.data.shapes import (
    CAPTION,
    LENGTH,
    N_CLASSES,
    NOISE,
    ShapesReader,
    agreement,
    caption_scenes,
    named,
    render,
    shapes_scenes,
    stencils,
)
from multiebm.data.wordings import ATTRIBUTES, PLACES, SHAPES, SIZES, VOCABULARY, WORDINGS, parse, say
from multiebm.experiments.measure import judges_of
from multiebm.modalities import Text
from multiebm.testing import JudgesContract

COUNTS = {"train_items": 24, "test_items": 500}
SCENES = torch.tensor(
    [scene for scene in product(*(range(len(of)) for of in ATTRIBUTES.values())) if scene[0] != scene[4]]
)


@pytest.fixture(scope="module")
def data():
    return load_dataset("shapes", COUNTS)


@pytest.fixture(scope="module")
def pictures(data):
    return data.batch("test", torch.arange(500)).views["picture"]


@pytest.fixture(scope="module")
def captions(data):
    return CAPTION.show(data.test.views["caption"])


def test_a_small_red_cross_in_the_centre_on_white_is_exact_to_the_pixel():
    """At 16 pixels the radius is 2.56: bars of pixel centres within 0.77 of the axes, up to 2.56 from the centre 8."""
    (picture,) = render(torch.tensor([[0, 3, 0, 4, 4]]), 16)
    assert named([0, 3, 0, 4, 4]) == {
        "colour": "red", "shape": "cross", "size": "small", "place": "centre", "background": "white"
    }  # fmt: skip
    bar, all_ = range(7, 9), range(6, 10)
    far = {5, 10}
    for y, x in product(range(16), repeat=2):
        inside = (x in bar and y in {*all_, *far}) or (y in bar and x in {*all_, *far})
        assert picture[:, y, x].tolist() == ([230, 40, 40] if inside else [250, 250, 250]), (y, x)


@pytest.mark.parametrize(("size", "shifts"), [(16, 1), (31, 1), (32, 9), (64, 9)])
def test_no_two_stencils_are_the_same_and_each_is_whole(size, shifts):
    """Pixels that two differ in weigh at least 4 colours, so noise of 8 of 255 cannot confuse them."""
    masks = stencils(size)
    assert masks.shape == (len(SHAPES) * len(SIZES) * len(PLACES) * shifts, size, size)
    flat = masks.flatten(1).float()
    apart = flat.sum(1)[:, None] + flat.sum(1) - 2 * flat @ flat.T
    assert apart.fill_diagonal_(99).min() >= 4
    assert not masks[:, [0, -1]].all(2).any()


def test_the_parser_inverts_every_wording_of_every_scene():
    for scene in map(named, SCENES.tolist()):
        for i, wording in enumerate(WORDINGS):
            said = parse(say(scene, i))
            assert said == {name: value for name, value in scene.items() if f"{{{name}}}" in wording}
    assert all("{colour}" in wording and "{shape}" in wording for wording in WORDINGS)


@pytest.mark.parametrize(
    ("caption", "said"),
    [
        ("a small red circle at the left on a blue background", (0, 0, 0, 0, 2)),
        ("there is a large green square", (1, 1, 1, -1, -1)),
        ("in the centre, there is a large cross in black on white", (5, 3, 1, 4, 4)),
        ("a red", None),
        ("a red circle at the centre", None),
        ("a red circle in the centre in the centre", None),
        ("a purple circle at the left", None),
        ("", None),
    ],
)
def test_captions_name_what_they_say_and_others_nothing(caption, said):
    scenes, grammatical = caption_scenes([caption])
    assert scenes.tolist() == [[-1] * 5 if said is None else list(said)]
    assert grammatical.tolist() == [said is not None]


@pytest.mark.parametrize("size", [16, 32, 64])
def test_the_reader_of_pictures_tells_every_scene(size):
    scenes = SCENES[torch.randperm(len(SCENES), generator=torch.Generator().manual_seed(0))[:200]]
    read, far = shapes_scenes(render(scenes, size) / 127.5 - 1)
    assert torch.equal(read, scenes)
    assert far.max() < 1e-3


def test_real_items_are_read_and_agree_with_their_captions_and_no_other_scene(data, pictures, captions):
    scenes, far = shapes_scenes(pictures)
    classes = scenes[:, 0] * len(SHAPES) + scenes[:, 1]
    assert (classes == data.test.labels).double().mean() > 0.99
    assert agreement(pictures, captions).double().mean() > 0.99
    said, grammatical = caption_scenes(captions)
    assert grammatical.all()
    assert torch.equal(said[:, 0] * len(SHAPES) + said[:, 1], data.test.labels)
    assert 0.055 < far.mean() < NOISE / 127.5  # the deviation of the noise, less what is clamped at black and white
    foreign = agreement(pictures, captions[1:] + captions[:1])
    chance = (data.test.labels == data.test.labels.roll(-1)).double().mean()
    assert foreign.double().mean() <= chance < 0.1


def test_captions_are_a_part_of_text_whose_vocabulary_has_every_word(data, captions):
    part = data.modalities["caption"]
    assert isinstance(part, Text)
    assert part.shape == (LENGTH, len(VOCABULARY) + 2) == (14, 30)
    assert VOCABULARY[:6] == (",", "a", "and", "at", "background", "black")
    longest = max(
        len(part.speller.split(say(scene, i))) for scene in map(named, SCENES[:40].tolist()) for i in range(8)
    )
    assert longest == LENGTH - 1
    assert {word for caption in captions for word in part.speller.split(caption)} == set(VOCABULARY)
    assert len(set(captions)) > 300


def test_classes_are_balanced_and_every_value_occurs(data, pictures):
    assert torch.bincount(data.test.labels).tolist() == [21] * 20 + [20] * 4
    assert data.n_classes == N_CLASSES == 24
    scenes = shapes_scenes(pictures)[0]
    assert [len(scenes[:, i].unique()) for i in range(5)] == [6, 4, 2, 5, 6]
    assert (scenes[:, 0] != scenes[:, 4]).all()


def test_the_seed_decides_everything():
    small = {"train_items": 30, "test_items": 8}
    first, again, other = (load_dataset("shapes", {**small, "seed": seed}) for seed in (1, 1, 2))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert torch.equal(first.train.views["picture"], again.train.views["picture"])


def test_wrong_settings_are_named_together():
    with pytest.raises(ConfigError) as caught:
        load_dataset("shapes", {"size": 8, "train_items": 0})
    assert caught.value.problems == [
        "shapes.size: got 8, expected 16 to 64 pixels; use one of them",
        "shapes.train_items: got 0, expected at least 1; raise it",
    ]


class TestReader(JudgesContract):
    """The exact reader stands where trained judges do."""

    def dataset(self):
        return load_dataset("shapes", {"train_items": 24, "test_items": 100})

    def judges(self):
        return self.dataset().exact


def test_evaluation_reads_classes_exactly_and_trains_no_judges(data):
    assert isinstance(judges_of(data, "cpu"), ShapesReader)
    assert data.exact.accuracy == {"picture": 1.0, "caption": 1.0}


def test_a_caption_that_is_no_wording_has_a_class_of_its_own_and_no_features(data):
    tokens = data.test.views["caption"][:1].clone()
    tokens[0, 2] = tokens[0, 1]
    states = {"caption": CAPTION.to_state(tokens)}
    assert data.exact.predict(states)["caption"].tolist() == [N_CLASSES]
    assert data.exact.features(states)["caption"].tolist() == [[0.0] * 23]
