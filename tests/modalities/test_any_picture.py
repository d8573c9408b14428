"""Pictures of any sides, channels and types: trained on, sampled, completed, measured, reported; or refused."""

import numpy as np
import pytest
import torch
from PIL import Image

import multiebm
from multiebm.core.errors import DataError
from multiebm.evaluation.result import EvaluationSettings
from multiebm.modalities import Picture
from multiebm.report.scene import shrunk
from multiebm.training.phases import settle

TYPES = {
    "uint8": (lambda share: (share * 255).astype(np.uint8), {}, (0, 1)),
    "uint16": (lambda share: (share * 4000).astype(np.uint16), {}, (0, 4095)),
    "bool": (lambda share: share > 0.5, {}, (0, 1)),
    "floats": (lambda share: 300 * share - 100, {"range": [-100, 200]}, (-100, 200)),
}
STEPS = {"bound": 2, "energy": 1, "cooperative": 1, "settle": 1}
SMALL = [f"training.phases.{kind}.steps={steps}" for kind, steps in STEPS.items()] + ["training.batch_size=4"]
SMALL += ["model.networks.picture.width=2", "model.energy.width=4", "model.data_chain.steps=1", "model.prior.steps=2"]


def arrays(shape: tuple[int, int, int], kind: str = "uint8"):
    draws = np.random.default_rng(0)
    make, declared, _ = TYPES[kind]
    views = {"photo": make(draws.random((16, *shape))), "class": draws.integers(2, size=(16, 1))}
    return multiebm.from_arrays(views, {"photo": {"kind": "picture", "layout": "chw"} | declared, "class": "category"})


@pytest.mark.parametrize(
    ("shape", "kind"),
    [((1, 1, 1), "uint8"), ((2, 1, 7), "bool"), ((4, 13, 17), "uint16"), ((3, 100, 3), "floats")],
    ids=str,
)
def test_a_model_of_any_picture_trains_samples_completes_is_measured_and_reported(shape, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(settle, "REFIT_BATCHES", 16)  # of 4 items each, on which priors settle
    data, (low, high) = arrays(shape, kind), TYPES[kind][2]
    model = multiebm.train(data, tmp_path / "run", SMALL, method="arrays", progress=False)
    drawn = model.sample(3, data_steps=None)["photo"]
    completed = model.impute({"class": np.ones((2, 1), int)}, latent_steps=1)["photo"]
    assert (drawn.shape, completed.shape) == ((3, *shape), (2, *shape))
    for values in (drawn, completed):
        assert low <= values.min() < values.max() <= high or shape == (1, 1, 1)
    given = data.test.views["photo"][:2]
    kept = model.impute({"photo": given})["photo"]
    assert np.array_equal(kept, data.modalities["photo"].as_given(given))
    found = multiebm.evaluate(model, data, EvaluationSettings(samples=4, items=2), progress=False)
    assert "fill/rmse/photo" in found.results, list(found.results)
    assert all(np.isfinite(result.value) for result in found.results.values())
    if kind == "uint16":
        page = multiebm.write_report(tmp_path / "run", dataset=data, progress=False).read_text()
        assert "photo has 4 channels: each is shown as a grey picture of its own" in page


@pytest.mark.parametrize("shape", [(3, 513, 4), (1, 8, 600), (17, 20, 20)])
def test_larger_pictures_are_refused_when_they_are_loaded_with_the_part_and_what_is_allowed(shape):
    said = rf"modality 'photo': got {shape[1]}x{shape[2]} pixels \(height x width\) in {shape[0]} channels, expected 1 "
    with pytest.raises(DataError, match=said + r"to 512 pixels a side in 1 to 16 channels; resize .* kind: vector"):
        arrays(shape)


def test_pictures_without_pixels_are_refused():
    with pytest.raises(DataError, match=r"modality 'photo': got shape \(16, 3, 0, 5\), expected no axis of length 0"):
        arrays((3, 0, 5))


def test_the_largest_pictures_and_the_smallest_are_taken():
    for shape in ((1, 512, 2), (16, 2, 512), (1, 1, 1)):
        assert arrays(shape).modalities["photo"] == Picture("photo", shape)


def test_a_page_shows_large_pictures_at_a_whole_fraction_of_their_size_and_small_ones_as_they_are():
    rows = torch.arange(300.0)[:, None].expand(1, 2, 300, 3)
    assert torch.equal(shrunk(rows)[0, 1], torch.arange(1.0, 300, 3)[:, None])
    assert shrunk(rows[:, :, :128]).shape == (1, 2, 128, 3)


def test_a_folder_of_larger_pictures_is_refused_before_they_are_read(tmp_path, monkeypatch):
    (tmp_path / "photo").mkdir()
    Image.new("RGB", (600, 4)).save(tmp_path / "photo" / "a.png")
    monkeypatch.setattr("multiebm.data.picture_folders.read_pictures", lambda *_: pytest.fail("read"))
    with pytest.raises(DataError, match=r"modality 'photo': got 4x600 pixels \(height x width\) in 3 channels"):
        multiebm.read_data(tmp_path)


@pytest.mark.parametrize(
    ("shape", "read", "said", "other"),
    [
        ((1, 1, 3), (1, 1, 3), "grey pictures of 1x3 pixels (layout: chw); if the axis of length 3", "hwc"),
        ((1, 9, 3), (1, 9, 3), "grey pictures of 9x3 pixels (layout: chw); if the axis of length 3", "hwc"),
        ((3, 9, 1), (1, 3, 9), "grey pictures of 3x9 pixels (layout: hwc); if the axis of length 3", "chw"),
        ((1, 9, 4), (1, 9, 4), "grey pictures of 9x4 pixels (layout: chw); if the axis of length 4", "hwc"),
    ],
)
def test_grey_pictures_that_may_as_well_be_colours_are_said_with_the_layout_to_declare(
    shape, read, said, other, caplog
):
    pictures = np.random.default_rng(0).integers(0, 256, (20, *shape), dtype=np.uint8)
    assert multiebm.read_data({"a": pictures}).modalities["a"].shape == read
    assert caplog.messages == [
        f"arrays, modality 'a': got shape {(20, *shape)}, read as {said} has colours, declare layout: {other} (--kind "
        f"a=picture,layout={other}, in Python kinds={{'a': {{'kind': 'picture', 'layout': '{other}'}}}})"
    ]
    caplog.clear()
    declared = multiebm.read_data({"a": pictures}, kinds={"a": {"kind": "picture", "layout": other}}).modalities["a"]
    assert declared.shape == ((shape[2], *shape[:2]) if other == "hwc" else shape)
    assert caplog.text == ""


def test_grey_pictures_that_are_no_colours_are_read_without_a_word(caplog):
    multiebm.read_data({"a": np.random.default_rng(0).integers(0, 256, (20, 1, 8, 8), dtype=np.uint8)})
    assert caplog.text == ""
