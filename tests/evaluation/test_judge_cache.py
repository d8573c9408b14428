import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from test_judges import QUICK, stripes

from multiebm.core.errors import CheckpointError
from multiebm.evaluation import stored_judges as module
from multiebm.evaluation.judges import RobustSettings, train_judges
from multiebm.evaluation.stored_judges import cache_key, load_judges, load_sets, read_judges, write_judges

DATASET = stripes()


@pytest.fixture(scope="module")
def judges():
    return train_judges(DATASET, 0, QUICK)


@pytest.fixture
def cache(tmp_path, judges, monkeypatch):
    """A folder that holds one entry, and a list that grows with every training."""
    trainings = []

    def train(dataset, wanted, device):
        trainings.append(wanted)
        return [judges for _ in wanted]

    monkeypatch.setattr(module, "train_sets", train)
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


def test_of_several_sets_those_that_are_not_there_are_trained_at_once(cache):
    folder, trainings = cache
    robust = RobustSettings(4, 32, cycles=((30, 1.0),))
    wanted = [(0, QUICK), (1, QUICK), (0, robust)]
    assert len(load_sets(DATASET, folder, wanted)) == 3
    assert trainings[1:] == [[(1, QUICK), (0, robust)]]
    assert len(load_sets(DATASET, folder, wanted)) == 3
    assert len(trainings) == 2
    assert load_sets(DATASET, folder, []) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: entry(folder, ".safetensors").write_bytes(b"half"),
        lambda folder: entry(folder, ".safetensors").unlink(),
        lambda folder: entry(folder, ".json").write_text('{"accuracy": {'),
        lambda folder: entry(folder, ".json").write_text("[]"),
        lambda folder: entry(folder, ".json").write_text(json.dumps({"accuracy": {"picture": 1.0}, "sha256": "0"})),
        lambda folder: flip_one_bit(entry(folder, ".safetensors")),
        lambda folder: better(entry(folder, ".json")),
        lambda folder: entry(folder, ".json").write_text("[" * 100_000),
    ],
    ids=[
        "truncated",
        "weights missing",
        "JSON cut",
        "JSON of another kind",
        "JSON of other weights",
        "one bit",
        "accuracy",
        "deep JSON",
    ],
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


def better(file):
    record = json.loads(file.read_text())
    record["accuracy"] = {name: value - 0.001 for name, value in record["accuracy"].items()}
    file.write_text(json.dumps(record))


@pytest.mark.parametrize("place", ["a file", "below a file", "read-only"])
def test_a_folder_that_cannot_be_written_is_reported_and_judges_are_had_all_the_same(
    place, tmp_path, judges, monkeypatch, caplog
):
    (tmp_path / "file").write_text("mine")
    folder = {"a file": tmp_path / "file", "below a file": tmp_path / "file" / "judges", "read-only": tmp_path}[place]
    if place == "read-only":  # permissions do not bind those who run tests as root

        def refused(*arguments):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(module, "replace_file", refused)
    monkeypatch.setattr(module, "train_sets", lambda *arguments: [judges])
    assert same_weights(load_judges(DATASET, folder, 0, QUICK), judges)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert str(folder) in record.getMessage()
    assert "set MULTIEBM_CACHE" in record.getMessage()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_read_only_folder_is_read(cache, judges, monkeypatch, caplog):
    folder, trainings = cache

    def refused(*arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module, "replace_file", refused)
    assert same_weights(load_judges(DATASET, folder, 0, QUICK), judges)
    assert len(trainings) == 1
    assert not caplog.records


def test_what_killed_writers_left_is_removed_once_it_is_old(cache):
    folder, _ = cache
    before = sorted(path.name for path in folder.iterdir())
    for name in ("judges-0123.safetensors.4711.tmp", ".aside-judges-0123.json", "mine.tmp"):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (0, 0))
    (folder / ".aside-judges-4567.json").write_bytes(b"half, but young")
    load_judges(DATASET, folder, 0, QUICK)
    assert sorted(path.name for path in folder.iterdir()) == sorted([*before, "mine.tmp", ".aside-judges-4567.json"])


def test_two_that_train_at_once_both_have_judges_and_leave_a_whole_entry(tmp_path, judges, monkeypatch):
    both = threading.Barrier(2)

    def train(*arguments):
        both.wait(timeout=60)
        return [judges]

    monkeypatch.setattr(module, "train_sets", train)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: load_judges(DATASET, tmp_path, 0, QUICK), range(2)))
    assert all(same_weights(each, judges) for each in found)
    monkeypatch.setattr(module, "train_sets", None)
    assert same_weights(load_judges(DATASET, tmp_path, 0, QUICK), judges)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]


def test_an_entry_without_its_json_is_not_complete(cache):
    folder, trainings = cache
    entry(folder, ".json").unlink()
    load_judges(DATASET, folder, 0, QUICK)
    assert len(trainings) == 2


def test_other_data_settings_seeds_or_precisions_have_other_entries(monkeypatch):
    monkeypatch.setattr(module, "fastest_precision", lambda device: "bf16" if device == "cuda" else "fp32")
    keys = {
        cache_key(DATASET, 0, QUICK, "cuda"),
        cache_key(DATASET, 0, QUICK),
        cache_key(DATASET, 1, QUICK),
        cache_key(DATASET, 0, replace(QUICK, width=5)),
        cache_key(replace(DATASET, fingerprint="other"), 0, QUICK),
    }
    assert len(keys) == 5


def test_weights_of_another_network_are_refused_by_name(tmp_path, judges):
    write_judges(tmp_path / "judges-x", judges)
    with pytest.raises(CheckpointError, match="judges-x"):
        read_judges(tmp_path / "judges-x", DATASET, replace(QUICK, width=6), "cpu")
