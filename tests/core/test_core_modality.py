"""Raw values to states and back, and the zeroing of what is absent."""

import json
import math
from importlib import invalidate_caches

import pytest
import torch

from multiebm.core.batch import Batch, mask_views
from multiebm.core.errors import ConfigError
from multiebm.core.table import Table
from multiebm.modalities import Picture, Vector, from_json, to_json

PICTURE = Picture("p", (1, 2, 2))
VECTOR = Vector("v", (2,), loc=(1.0, -2.0), scale=(2.0, 0.5))


def test_uint8_pictures_map_0_to_minus_1_and_255_to_1():
    raw = torch.tensor([0, 51, 204, 255], dtype=torch.uint8).reshape(1, 1, 2, 2)
    state = PICTURE.to_state(raw)
    torch.testing.assert_close(state.flatten(), torch.tensor([-1.0, -0.6, 0.6, 1.0]))
    torch.testing.assert_close(PICTURE.to_raw(state).flatten() * 255, raw.flatten().float())
    assert raw.dtype == torch.uint8
    assert raw.flatten().tolist() == [0, 51, 204, 255]


def test_float_pictures_map_the_unit_interval_to_minus_1_and_1_and_are_left_alone():
    raw = torch.tensor([0.0, 0.25, 0.5, 1.0]).reshape(1, 1, 2, 2)
    assert PICTURE.to_state(raw).flatten().tolist() == [-1.0, -0.5, 0.0, 1.0]
    assert raw.flatten().tolist() == [0.0, 0.25, 0.5, 1.0]


def test_states_outside_the_range_of_a_picture_are_clamped_on_the_way_out():
    assert PICTURE.to_raw(torch.tensor([-1.5, 1.5]).reshape(1, 1, 1, 2)).flatten().tolist() == [0.0, 1.0]


def test_vectors_are_standardised_and_restored():
    raw = torch.tensor([[3.0, -1.0]])
    assert VECTOR.to_state(raw).tolist() == [[1.0, 2.0]]
    assert VECTOR.to_raw(VECTOR.to_state(raw)).tolist() == raw.tolist()


def test_a_modality_survives_json_and_knows_its_size():
    for modality in (PICTURE, VECTOR):
        assert from_json(json.loads(json.dumps(to_json(modality)))) == modality
    assert PICTURE.size == 4


def test_masking_turns_nan_into_zero_where_absent_and_nothing_else():
    views = {"a": torch.tensor([[math.nan, 1.0], [2.0, 3.0]]), "b": torch.tensor([[4.0], [math.inf]])}
    masked = mask_views(views, torch.tensor([[False, True], [True, False]]))
    assert masked["a"].tolist() == [[0.0, 0.0], [2.0, 3.0]]
    assert masked["b"].tolist() == [[4.0], [0.0]]


def test_a_batch_moves_with_its_mask_and_labels():
    batch = Batch({"a": torch.ones(2, 1)}, torch.ones(2, 1, dtype=torch.bool), torch.tensor([1, 0])).to("cpu")
    assert batch.labels is not None
    assert batch.labels.tolist() == [1, 0]
    assert Batch({"a": torch.ones(2, 1)}, batch.present).to("cpu").labels is None


def test_a_table_lists_its_names_and_suggests_the_nearest():
    table = Table("family", {"normal": 1, "laplace": 2})
    assert table["normal"] == 1
    assert list(table) == ["normal", "laplace"]
    assert "gamma" not in table
    with pytest.raises(ConfigError, match=r"family: got 'lapalce'; known: normal, laplace\. Did you mean 'laplace'\?"):
        table["lapalce"]


def test_a_package_adds_a_row_that_is_loaded_when_asked_for_and_may_not_take_a_name(tmp_path, monkeypatch):
    info = tmp_path / "outside-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[multiebm.things]\npi = math:pi\nbroken = no_such_module:x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    invalidate_caches()
    table = Table("thing", {"e": 2.7}, "multiebm.things")
    assert (list(table), table["pi"], "broken" in table) == (["e", "pi", "broken"], math.pi, True)
    with pytest.raises(ConfigError, match="thing 'broken': got no_such_module:x, which cannot be imported.*install"):
        table["broken"]
    with pytest.raises(ConfigError, match="thing 'pi': got it from math:pi, expected a name that is not taken; rename"):
        list(Table("thing", {"pi": 3}, "multiebm.things"))
