"""Pages of little data, of parts that are absent, and of pictures of any shape: what cannot be shown is said."""

import pytest
import torch
from report_standin import PICTURES, VECTORS, data_uris, inside, make_dataset, make_evaluation, make_scene, pixels

from multiebm.core.tiles import tile_size
from multiebm.data.dataset import MultimodalDataset, Split
from multiebm.modalities import Picture
from multiebm.report.chains import real_energies
from multiebm.report.page import render
from multiebm.report.scene import PADDING, pick_items, turns

MIXED = PICTURES | VECTORS
ONE_OF_EACH = {"up": PICTURES["up"], "left": VECTORS["left"]}  # a page of few charts


def scene_of(modalities, dataset: MultimodalDataset, **changes):
    return make_scene(modalities, **changes)._replace(dataset=dataset)


def absent(dataset: MultimodalDataset, *cells: tuple[int | slice, str]) -> MultimodalDataset:
    """The data set without some parts of its test items."""
    present = dataset.test.present.clone()
    for row, name in cells:
        present[row, list(dataset.modalities).index(name)] = False
    test = Split(dataset.test.views, present, dataset.test.labels)
    values = (dataset.name, dataset.modalities, dataset.train, test, dataset.n_classes, "Somebody", "f" * 64)
    return MultimodalDataset(*values)


@pytest.mark.parametrize("classes", [None, 1, 2])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_one_two_or_three_rows_and_one_class_give_a_whole_page(rows: int, classes: int | None):
    dataset = make_dataset(ONE_OF_EACH, rows, classes)
    page = render(scene_of(ONE_OF_EACH, dataset, evaluation=make_evaluation(())))
    real = data_uris(inside(page, "samples"))[2]  # after those of the two stages
    assert pixels(real).shape[1] == rows * (64 + 2 * PADDING)
    assert "reconstruction, item 1" in page
    assert ("reconstruction, item 2" in page) == (rows > 1)


def test_a_part_that_no_test_item_has_is_said_and_not_shown():
    dataset = absent(make_dataset(MIXED), (slice(None), "up"), (slice(None), "left"))
    scene = scene_of(MIXED, dataset, evaluation=make_evaluation(()))
    page = render(scene)
    samples, cross = inside(page, "samples"), inside(page, "cross")
    for name in ("up", "left"):
        assert f"{name} has no real items to show: it is in none of the test items." in samples
        assert f"Left out: {name} as what is given; no test item has it." in cross
        assert f'<th scope="row">{name}</th>' not in cross
        assert f"down to {name}" in cross
    real = pixels(data_uris(samples)[2 * len(PICTURES)])
    assert (real[..., 3] == 0).all()  # absent pictures are blank, not grey
    assert not len(real_energies(scene))


def test_absent_parts_of_single_items_are_blank_and_given_ones_are_there():
    dataset = absent(make_dataset(PICTURES, 6, None), (0, "up"), (1, "up"), (2, "down"), (3, "down"))
    page = render(scene_of(PICTURES, dataset))
    up = pixels(data_uris(inside(page, "samples"))[2 * len(PICTURES)])
    shown = [bool((up[:, 66 * i : 66 * (i + 1), 3] == 255).any()) for i in range(6)]
    assert shown == [False, False, True, True, True, True]
    assert "Blank: an item lacks the part." in page
    for uri in data_uris(inside(page, "cross"))[:1]:
        assert (pixels(uri)[1:65, 1:65, 3] == 255).all()


def test_items_shown_have_a_part_and_the_given_one():
    present = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]], dtype=torch.bool)
    split = Split({}, present)
    assert pick_items(split, 3).tolist() == [1, 2, 3]
    assert pick_items(split, 3, column=1).tolist() == [2, 3]
    unlabelled = Split({}, present, torch.tensor([-1, -1, 0, -1]))
    assert sorted(pick_items(unlabelled, 3).tolist()) == [1, 2, 3]
    assert pick_items(Split({}, ~present.any(1, keepdim=True), torch.zeros(4, dtype=torch.int64)), 3, 0).tolist() == [0]


def test_items_that_share_a_picture_come_after_items_of_other_pictures():
    assert turns(torch.tensor([5, 3, 5, 5, 3])).tolist() == [0, 0, 1, 2, 1]
    at = {"picture": torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])}
    views = {"picture": torch.zeros(3, 1), "caption": torch.zeros(9, 1)}
    split = Split(views, torch.ones(9, 2, dtype=torch.bool), at=at)
    assert pick_items(split, 3).tolist() == [0, 3, 6]
    assert pick_items(split, 5).tolist() == [0, 3, 6, 1, 4]
    labelled = Split(split.views, split.present, torch.tensor([0, 0, 0, 1, 1, 1, 0, 0, 0]), at=at)
    assert pick_items(labelled, 4).tolist() == [0, 3, 6, 4]


def test_a_test_split_with_no_part_at_all_still_gives_a_page():
    dataset = absent(make_dataset(MIXED), *[(slice(None), name) for name in MIXED])
    page = render(scene_of(MIXED, dataset))
    assert "Left out: no test item has a part." in inside(page, "chains")
    assert inside(page, "samples").count("has no real items to show") == len(MIXED)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 8, 8), (4, 16, 8), (5, 1, 9), (13, 3, 3), (3, 100, 100)], ids=str)
def test_pictures_of_any_shape_are_shown_whole(shape: tuple[int, int, int]):
    modalities = {"p": Picture("p", shape), "v": VECTORS["left"]}
    page = render(scene_of(modalities, make_dataset(modalities, 10)))
    height, width = (side + 2 * PADDING for side in tile_size(shape))
    assert pixels(data_uris(inside(page, "samples"))[0]).shape == (height, 8 * width, 4)
    said = f"p has {shape[0]} channels: each is shown as a grey picture of its own" in page
    assert said == (shape[0] not in (1, 3))


def test_an_energy_without_a_step_of_training_is_left_out():
    scene = make_scene()
    scene.model.energy_steps.zero_()
    page = render(scene)
    for name in ("samples", "chains"):
        assert "the energy has not had a step of training" in inside(page, name)
    assert "EBM, Gen after the chains," not in inside(
        render(scene._replace(record=make_scene(evaluation=make_evaluation()).record)), "headline"
    )


class OneJudge:
    """Reads a class in one part alone."""

    accuracy = {"up": 0.99}  # noqa: RUF012

    def predict(self, views):
        assert list(views) == ["up"]
        assert views["up"].min() >= -1
        assert views["up"].max() <= 1
        return {"up": (views["up"].flatten(1).mean(1) > 0).long()}


def test_judges_of_some_parts_read_those_alone_within_their_range():
    page = render(make_scene()._replace(judges=OneJudge()))
    assert "The judges read another class for" in page
    assert "Joint coherence along the prior chain" not in page
