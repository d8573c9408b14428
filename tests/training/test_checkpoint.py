import errno
import json
import logging
import os
import re
import resource
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from torch import nn
from training_standin import assert_same_state, make_state, step

from multiebm.core.errors import CheckpointError, OutputError
from multiebm.core.files import sealed
from multiebm.core.random import make_generator
from multiebm.training.checkpoint import CheckpointStore, read_checkpoint
from multiebm.training.state import TrainState


def trained(steps: int, width: int = 9) -> TrainState:
    state = make_state(width)
    for _ in range(steps):
        advance(state)
    return state


def advance(state: TrainState) -> None:
    step(state, next(state.stream))
    state.step += 1


def names(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def rewrite_header(folder: Path, **changes: object) -> None:
    header = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(header | changes))


# --- round trips


def test_a_state_comes_back_bit_for_bit_into_one_built_from_another_seed(tmp_path: Path):
    state, store = trained(4), CheckpointStore(tmp_path)
    path = store.save(state)
    fresh = make_state(seed=5)
    store.load(fresh, path)
    assert_same_state(fresh, state)
    assert torch.equal(torch.rand(9, generator=fresh.rng), torch.rand(9, generator=state.rng))


def test_a_state_that_has_not_stepped_takes_back_even_the_absence_of_moments(tmp_path: Path):
    store, moved = CheckpointStore(tmp_path), trained(2)
    path = store.save(make_state())
    store.load(moved, path)
    assert_same_state(moved, make_state())
    assert not moved.optimisers["energy"].state
    assert moved.average == {}


def test_a_snapshot_is_a_copy_and_can_be_restored_twice():
    state = trained(3)
    snapshot, expected = state.snapshot(), trained(3)
    for _ in range(2):
        advance(state)
        state.restore(snapshot)
        assert_same_state(state, expected)


def test_tied_weights_and_numbers_that_are_not_finite_survive(tmp_path: Path):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    state = TrainState(
        model, {}, make_generator(0), make_state().stream, numbers={"worst": float("inf"), "third": 1 / 3}
    )
    CheckpointStore(tmp_path).save(state)
    weight = model[0].weight.detach().clone()
    nn.init.zeros_(model[0].weight)
    CheckpointStore(tmp_path).resume(state)
    assert torch.equal(model[1].weight, weight)
    assert state.numbers == {"worst": float("inf"), "third": 1 / 3}


# --- what is kept


def test_the_last_two_and_the_best_are_kept(tmp_path: Path):
    store, state = CheckpointStore(tmp_path, keep_last=2), make_state()
    for metric in (3.0, 1.0, None, 2.0, float("nan"), 5.0):
        advance(state)
        store.save(state, metric)
    assert names(store) == ["step-000000002", "step-000000005", "step-000000006"]
    assert store.latest() == store.path(6)
    assert store.best() == store.path(2)


def test_without_metrics_there_is_no_best_and_without_checkpoints_no_latest(tmp_path: Path):
    store = CheckpointStore(tmp_path / "none")
    assert store.latest() is None
    assert store.best() is None
    assert store.resume(make_state()) is None
    store.save(make_state())
    assert store.best() is None


def test_saving_after_a_roll_back_replaces_the_same_step_and_drops_later_ones(tmp_path: Path):
    store, state = CheckpointStore(tmp_path, keep_last=3), trained(1)
    store.save(state)
    snapshot = state.snapshot()
    for _ in range(2):
        advance(state)
        store.save(state, metric=0.0)
    state.restore(snapshot)
    state.numbers["retried"] = 1.0
    advance(state)
    store.save(state)
    assert names(store) == ["step-000000001", "step-000000002"]
    assert read_checkpoint(store.path(2)).numbers["numbers"]["retried"] == 1.0


def test_folders_left_by_a_killed_save_are_ignored_and_then_removed(tmp_path: Path):
    store, state = CheckpointStore(tmp_path), trained(1)
    store.save(state)
    shutil.copytree(store.path(1), tmp_path / ".aside-step-000000009")
    (tmp_path / ".aside-step-000000009" / "state.json").unlink()
    assert store.latest() == store.path(1)
    advance(state)
    store.save(state)
    assert names(store) == ["step-000000001", "step-000000002"]


def test_a_replacement_killed_between_its_two_renames_is_undone(tmp_path: Path):
    store, state = CheckpointStore(tmp_path, keep_last=1), trained(2)
    store.save(state)
    store.path(2).rename(tmp_path / ".aside-old-step-000000002")
    fresh = make_state()
    assert store.resume(fresh) == store.path(2)
    assert_same_state(fresh, state)


# --- stopped at any point


class KilledError(BaseException):
    """Not an Exception, as a kill is none: nothing in the save may catch it."""


CALLS = [(os, "fsync"), (os, "replace"), (shutil, "rmtree"), (Path, "mkdir"), (os, "open")]


def save_killed_at(monkeypatch: pytest.MonkeyPatch, store: CheckpointStore, state: TrainState, call: int) -> bool:
    """Save, but die just before the given file-system call; False when the save needed fewer."""
    made = 0

    def dying(original):
        def wrapper(*args, **kwargs):
            nonlocal made
            made += 1
            if made > call:
                raise KilledError
            return original(*args, **kwargs)

        return wrapper

    with monkeypatch.context() as patch:
        for module, name in CALLS:
            patch.setattr(module, name, dying(getattr(module, name)))
        try:
            store.save(state)
        except KilledError:
            return True
    return False


@pytest.mark.parametrize("again", [False, True])  # again: the step is already there, as after a roll-back
def test_a_save_that_dies_at_any_call_leaves_the_one_before_or_the_new_one(tmp_path: Path, monkeypatch, again: bool):
    call, died = 0, True
    while died:
        store, state = CheckpointStore(tmp_path / str(call), keep_last=1), trained(1)
        store.save(state)
        advance(state)
        if again:
            store.save(state)
        died = save_killed_at(monkeypatch, store, state, call)
        found = make_state(seed=1)
        assert store.resume(found) in (store.path(1), store.path(2))
        assert_same_state(found, trained(found.step))
        assert found.step == 2 or not again
        store.save(state)
        assert names(store) == ["step-000000002"]
        call += 1
    assert call > 8  # the calls of a save: mkdir, three syncs, renames, removal


# --- damage


@pytest.fixture
def two(tmp_path: Path) -> CheckpointStore:
    store, state = CheckpointStore(tmp_path), trained(1)
    for _ in range(2):
        store.save(state)
        advance(state)
    return store


def truncate(path: Path) -> None:
    os.truncate(path / "tensors.safetensors", 1000)


def flip_a_bit(path: Path) -> None:
    data = bytearray((path / "tensors.safetensors").read_bytes())
    data[-5] ^= 1
    (path / "tensors.safetensors").write_bytes(data)


def drop_tensors(path: Path) -> None:
    (path / "tensors.safetensors").unlink()


def cut_json(path: Path) -> None:
    os.truncate(path / "state.json", 100)


def edit_json(path: Path) -> None:
    rewrite_header(path, step=77)


def another_format(path: Path) -> None:
    rewrite_header(path, format="zip")


DAMAGES = [
    (truncate, r"step-000000002/tensors.safetensors: truncated: got 1000 bytes, expected \d+"),
    (flip_a_bit, r"step-000000002/tensors.safetensors: damaged: got sha256 \w{16}, expected \w{16}; use an older"),
    (drop_tensors, r"step-000000002/tensors.safetensors: cannot be read \(No such file or directory\)"),
    (cut_json, r"step-000000002/state.json: not readable as JSON \(.*column"),
    (edit_json, r"step-000000002/state.json: damaged: its values do not match its sha256"),
    (another_format, r"step-000000002/state.json: got format 'zip', expected 'multiebm-checkpoint'"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_a_damaged_checkpoint_is_refused_by_name_and_resume_takes_the_one_before(two, damage, message, caplog):
    damage(two.path(2))
    state = trained(5)
    with pytest.raises(CheckpointError, match=message):
        two.load(state, two.path(2))
    assert_same_state(state, trained(5))
    with caplog.at_level(logging.WARNING):
        assert two.resume(state) == two.path(1)
    assert_same_state(state, trained(1))
    assert "step-000000002" in caplog.text
    assert "trying the checkpoint before it" in caplog.text


def test_when_all_are_damaged_resume_says_what_is_wrong_with_the_newest(two):
    truncate(two.path(1))
    cut_json(two.path(2))
    said = r"no undamaged checkpoint; the newest: .*step-000000002/state.json.*begin the run anew with --overwrite"
    with pytest.raises(CheckpointError, match=said):
        two.resume(make_state())


def sealed_again(path: Path, **changes: object) -> None:
    """A header with a right checksum, as somebody may make by hand."""
    header = json.loads((path / "state.json").read_text()) | changes
    header.pop("sha256")
    (path / "state.json").write_bytes(sealed(header))


@pytest.mark.parametrize(
    "changes",
    [
        {"files": "a text"},
        {"files": []},
        {"files": [{"name": "tensors.safetensors", "bytes": "1", "sha256": "0"}]},
        {"files": [{"name": "../step-000000001/tensors.safetensors", "bytes": 1, "sha256": "0" * 64}]},
        {"step": "two"},
        {"metric": [1]},
        {"state": []},
        {"state": {}},
        {"state": {"optimisers": 3, "numbers": [], "stream": None, "step": "x"}},
    ],
)
def test_values_of_other_types_are_refused_by_name(two, changes):
    sealed_again(two.path(2), **changes)
    with pytest.raises(CheckpointError, match="step-000000002.*use an older"):
        two.load(make_state(), two.path(2))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '{"step": ' + "9" * 5000 + "}", "\xff"])
def test_json_that_no_parser_takes_is_refused_and_the_one_before_taken(two, text):
    (two.path(2) / "state.json").write_bytes(text.encode("latin-1"))
    assert two.resume(make_state()) == two.path(1)
    assert two.best() is None


def test_folders_that_are_no_checkpoints_are_not_read(two):
    for name in ("step-\u00b2", "step-", "step-x", "step-3", "step-" + "9" * 200, "step--1", "step-\u0663"):
        (two.folder / name).mkdir()
    (two.folder / "step-000000009").write_text("a file")
    assert two.steps() == [1, 2, int("9" * 200)]
    assert two.resume(make_state()) == two.path(2)


def test_another_version_is_named_with_the_version_expected(two):
    rewrite_header(two.path(2), version=9)
    said = rf"got checkpoint version 9, expected 2; .*that wrote it \({re.escape(version('multiebm'))}\)"
    with pytest.raises(CheckpointError, match=said):
        two.load(make_state(), two.path(2))


# --- another architecture


def test_another_width_names_tensor_got_and_expected_and_changes_nothing(two):
    wide = make_state(width=12)
    with pytest.raises(CheckpointError) as caught:
        two.resume(wide)
    message = str(caught.value)
    assert "step-000000002: the checkpoint is of another architecture" in message
    assert "model.energy.bias: got float32 [9], expected float32 [12]" in message
    assert_same_state(wide, make_state(width=12))


def test_missing_and_unexpected_tensors_are_listed_and_long_lists_are_counted(two):
    state = make_state()
    state.model.energy = nn.Sequential(*[nn.Linear(2, 2) for _ in range(6)])
    with pytest.raises(CheckpointError) as caught:
        two.resume(state)
    message = str(caught.value)
    assert "model.energy.0.weight: missing, expected float32 [2, 2]" in message
    assert "model.energy.bias: unexpected, got float32 [9]" in message
    assert "... and 4 more like it" in message  # twelve are missing, eight shown


def test_other_optimisers_are_named(two):
    state = make_state()
    del state.optimisers["generator"]
    with pytest.raises(CheckpointError, match=r"got {'energy': 1, 'generator': 1}, expected {'energy': 1}"):
        two.resume(state)


def test_another_kind_of_random_generator_is_told_by_its_size(two):
    content = read_checkpoint(two.path(2))
    with pytest.raises(CheckpointError, match=r"generator: got uint8 \[16\], expected uint8 \[5056\]"):
        make_state().load(content.tensors | {"generator": torch.zeros(16, dtype=torch.uint8)}, content.numbers)


# --- a disk that does not take it


def test_a_disk_that_fills_halfway_leaves_the_previous_checkpoint_and_no_rubbish(two, monkeypatch):
    synced = os.fsync

    def full(handle: int) -> None:
        if os.fstat(handle).st_size > 5000:
            raise OSError(errno.ENOSPC, "No space left on device")
        synced(handle)

    state = trained(3)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError) as caught:
        two.save(state)
    monkeypatch.undo()
    message = str(caught.value)
    assert message.startswith(f"{two.folder}: the disk is full while saving the checkpoint of step 3")
    assert "The previous checkpoint, step 2, is intact" in message
    assert "--resume" in message
    assert names(two) == ["step-000000001", "step-000000002"]
    assert two.resume(state) == two.path(2)
    assert_same_state(state, trained(2))


def test_a_file_size_limit_of_the_system_reads_as_a_full_disk(tmp_path: Path):
    """The kernel itself refuses the write here (RLIMIT_FSIZE), in the middle of the tensors."""
    store, state = CheckpointStore(tmp_path), trained(1, width=300)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(OutputError, match=r"the disk is full .* step 1\. There is no earlier checkpoint\."):
            store.save(state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(store) == []
    assert store.save(state) == store.path(1)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/checkpoints: cannot be written \(Not a directory\)"):
        CheckpointStore(tmp_path / "file" / "checkpoints").save(make_state())
