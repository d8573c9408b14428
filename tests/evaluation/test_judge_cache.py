import json
from dataclasses import replace

import pytest
import torch
from test_judges import QUICK, stripes

from multiebm.core.errors import CheckpointError
from multiebm.evaluation import judge_cache
from multiebm.evaluation.judge_cache import cache_key, load_judges, read_judges, write_judges
from multiebm.evaluation.judges import train_judges

DATASET = stripes()


@pytest.fixture(scope="module")
def judges():
    return train_judges(DATASET, 0, QUICK)


@pytest.fixture
def cache(tmp_path, judges, monkeypatch):
    """A folder that holds one entry, and a list that grows with every training."""
    trainings = []

    def train(*arguments):
        trainings.append(arguments)
        return judges

    monkeypatch.setattr(judge_cache, "train_judges", train)
    load_judges(DATASET, tmp_path / "judges", 0, QUICK)
    assert len(trainings) == 1
    return tmp_path / "judges", trainings


def entry(folder, suffix):
    (file,) = folder.glob(f"*{suffix}")
    return file


def same_weights(a, b):
    return a.accuracy == b.accuracy and all(
        torch.equal(value, b.networks[name].state_dict()[key])
        for name, network in a.networks.items()
        for key, value in network.state_dict().items()
    )


def test_the_second_call_reads_what_the_first_one_stored(cache, judges):
    folder, trainings = cache
    restored = load_judges(DATASET, folder, 0, QUICK)
    assert len(trainings) == 1
    assert same_weights(restored, judges)
    views = DATASET.batch("test", torch.arange(10)).views
    assert torch.equal(restored.features(views)["picture"], judges.features(views)["picture"])
    assert not any(network.training for network in restored.networks.values())
    assert sorted(file.suffix for file in folder.iterdir()) == [".json", ".safetensors"]  # no temporary file is left


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: entry(folder, ".safetensors").write_bytes(b"half"),
        lambda folder: entry(folder, ".safetensors").unlink(),
        lambda folder: entry(folder, ".json").write_text('{"accuracy": {'),
        lambda folder: entry(folder, ".json").write_text("[]"),
        lambda folder: entry(folder, ".json").write_text(json.dumps({"accuracy": {"picture": 1.0}, "sha256": "0"})),
        lambda folder: flip_one_bit(entry(folder, ".safetensors")),
    ],
    ids=["truncated", "weights missing", "JSON cut", "JSON of another kind", "JSON of other weights", "one bit"],
)
def test_a_damaged_entry_is_reported_trained_again_and_healed(cache, judges, damage, caplog):
    folder, trainings = cache
    damage(folder)
    assert same_weights(load_judges(DATASET, folder, 0, QUICK), judges)
    assert len(trainings) == 2
    assert "trained again" in caplog.text
    load_judges(DATASET, folder, 0, QUICK)
    assert len(trainings) == 2


def flip_one_bit(file):
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


def test_an_entry_without_its_json_is_not_complete(cache):
    folder, trainings = cache
    entry(folder, ".json").unlink()
    load_judges(DATASET, folder, 0, QUICK)
    assert len(trainings) == 2


def test_other_data_settings_or_seeds_have_other_entries():
    keys = {
        cache_key(DATASET, 0, QUICK),
        cache_key(DATASET, 1, QUICK),
        cache_key(DATASET, 0, replace(QUICK, width=5)),
        cache_key(replace(DATASET, fingerprint="other"), 0, QUICK),
    }
    assert len(keys) == 4


def test_weights_of_another_network_are_refused_by_name(tmp_path, judges):
    write_judges(tmp_path / "judges-x", judges)
    with pytest.raises(CheckpointError, match="judges-x"):
        read_judges(tmp_path / "judges-x", DATASET, replace(QUICK, width=6), "cpu")
