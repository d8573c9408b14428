"""Batches: state space, presence mask, labels; and the endless stream that reads them."""

from dataclasses import replace

import pytest
import torch

from multiebm.core.errors import DataError
from multiebm.data import BatchStream, MultimodalDataset, Split
from multiebm.data.dataset import content_fingerprint, epoch_order, everything_present
from multiebm.experiments.build import training_data
from multiebm.modalities import Picture, Vector

PARTS = {
    "picture": Picture("picture", (1, 2, 2)),
    "vector": Vector("vector", (2,), loc=(1.0, 10.0), scale=(2.0, 5.0)),
}


def make_dataset(n=10, present=None, labels=True):
    views = {
        "picture": torch.arange(4 * n, dtype=torch.uint8).reshape(n, 1, 2, 2),
        "vector": torch.arange(2 * n, dtype=torch.float32).reshape(n, 2),
    }
    rows = Split(views, everything_present(views) if present is None else present, torch.arange(n) if labels else None)
    return MultimodalDataset("tiny", PARTS, rows, rows, n if labels else None, "none", "0")


def test_a_batch_is_in_state_space_with_its_rows_labels_and_presence():
    batch = make_dataset().batch("train", torch.tensor([3, 0]))
    pixels = torch.tensor([12, 13, 14, 15]) / 255 * 2 - 1
    torch.testing.assert_close(batch.views["picture"][0].flatten(), pixels)
    assert batch.views["vector"].tolist() == [[2.5, -0.6000000238418579], [-0.5, -1.7999999523162842]]
    assert batch.labels.tolist() == [3, 0]
    assert batch.present.tolist() == [[True, True], [True, True]]
    assert batch.views["picture"].dtype == batch.views["vector"].dtype == torch.float32


def test_absent_entries_are_zero_in_state_space_even_when_they_hold_nan():
    present = torch.ones(10, 2, dtype=torch.bool)
    present[4, 1] = present[5, 0] = False
    dataset = make_dataset(present=present, labels=False)
    clean = dataset.batch("train", torch.arange(10))
    dataset.train.views["vector"][4] = float("nan")
    dataset.train.views["picture"][5] = 77
    dirty = dataset.batch("train", torch.arange(10))
    assert dirty.labels is None
    assert dirty.views["vector"][4].tolist() == [0.0, 0.0]
    assert dirty.views["picture"][5].flatten().tolist() == [0.0] * 4
    assert all(torch.equal(clean.views[name], dirty.views[name]) for name in PARTS)


def test_the_fingerprint_ignores_what_is_absent_and_sees_everything_else():
    present = torch.ones(10, 2, dtype=torch.bool)
    present[4, 1] = False
    rows, other = make_dataset(present=present).train, make_dataset(present=present).train
    before = content_fingerprint(PARTS, rows, rows)
    other.views["vector"][4] = float("nan")
    assert content_fingerprint(PARTS, other, other) == before
    other.views["vector"][5, 0] += 1
    assert content_fingerprint(PARTS, other, other) != before
    relabelled = Split(rows.views, rows.present, rows.labels.flip(0))
    assert content_fingerprint(PARTS, relabelled, relabelled) != before


def shared(present=None):
    """Pictures 0 to 2 of three, shared by four items, and the same four items each with its own copy."""
    pictures = torch.arange(12, dtype=torch.uint8).reshape(3, 1, 2, 2)
    at, vectors = torch.tensor([2, 0, 0, 1]), torch.arange(8, dtype=torch.float32).reshape(4, 2)
    there = torch.ones(4, 2, dtype=torch.bool) if present is None else present
    labels = torch.arange(4)
    return (
        Split({"picture": pictures, "vector": vectors}, there, labels, at={"picture": at}),
        Split({"picture": pictures[at], "vector": vectors}, there, labels),
    )


def test_values_that_items_share_are_those_of_copies_everywhere():
    present = torch.tensor([[True, True], [True, False], [True, True], [False, True]])
    for there in (None, present):
        one, copied = (MultimodalDataset("tiny", PARTS, rows, rows, 4, "none", "0") for rows in shared(there))
        rows = torch.tensor([3, 1, 1, 0])
        for a, b in (
            (one.batch("train", rows), copied.batch("train", rows)),
            (replace(one, train=one.train.select(rows)).batch("train", torch.tensor([2, 0])), None),
        ):
            b = b or copied.batch("train", torch.tensor([1, 3]))
            assert torch.equal(a.present, b.present)
            assert torch.equal(a.labels, b.labels)
            assert all(torch.equal(a.views[name], b.views[name]) for name in PARTS)
        assert torch.equal(one.train.of("picture")[0], copied.train.of("picture")[0])
        assert one.describe() == copied.describe()
        assert len(one.train.known("picture")) == (3 if there is None else 2)  # each once, and only those that are seen
        hidden, whole = (training_data(data, 0.5, seed=1) for data in (one, copied))
        assert torch.equal(hidden.batch("train", rows).views["picture"], whole.batch("train", rows).views["picture"])


def test_the_fingerprint_sees_which_values_items_share():
    present = torch.tensor([[True, True], [True, False], [True, True], [False, True]])
    for there in (None, present):
        rows, _ = shared(there)
        before = content_fingerprint(PARTS, rows, rows)
        other = replace(rows, at={"picture": torch.tensor([2, 0, 1, 1])})
        assert content_fingerprint(PARTS, other, other) != before


def test_an_unknown_split_is_refused_by_name():
    with pytest.raises(DataError, match="got split 'valid', expected 'train' or 'test'"):
        make_dataset().batch("valid", torch.arange(2))


def test_an_epoch_visits_every_row_once_and_drops_the_incomplete_batch():
    stream = BatchStream(make_dataset(10), "train", batch_size=3, seed=5)
    first = torch.cat([next(stream).labels for _ in range(3)])
    assert stream.epoch == 0
    assert first.tolist() == epoch_order(10, 5, 0)[:9].tolist()
    assert len(set(first.tolist())) == 9
    second = torch.cat([next(stream).labels for _ in range(3)])
    assert stream.epoch == 1
    assert second.tolist() == epoch_order(10, 5, 1)[:9].tolist()


def test_rows_stay_together_in_a_shuffled_batch():
    batch = next(BatchStream(make_dataset(10), "train", batch_size=10, seed=1))
    assert batch.labels.tolist() != list(range(10))
    raw = PARTS["vector"].to_raw(batch.views["vector"])
    torch.testing.assert_close(raw[:, 0], 2.0 * batch.labels.double())
    torch.testing.assert_close(
        PARTS["picture"].to_raw(batch.views["picture"])[:, 0, 0, 0] * 255, 4.0 * batch.labels, atol=1e-4, rtol=0
    )


def test_the_order_depends_on_seed_and_epoch_only():
    assert torch.equal(epoch_order(100, 1, 2), epoch_order(100, 1, 2))
    assert not torch.equal(epoch_order(100, 1, 2), epoch_order(100, 1, 3))
    assert not torch.equal(epoch_order(100, 1, 2), epoch_order(100, 2, 2))


@pytest.mark.parametrize("taken", [0, 1, 3, 4, 7])
def test_a_resumed_stream_gives_exactly_the_batches_that_were_to_come(taken):
    stream = BatchStream(make_dataset(10), "train", batch_size=3, seed=5)
    for _ in range(taken):
        next(stream)
    state = stream.state_dict()
    assert all(type(value) is int for value in state.values())
    resumed = BatchStream(make_dataset(10), "train", batch_size=3, seed=99)
    resumed.load_state_dict(state)
    for _ in range(5):
        expected, got = next(stream), next(resumed)
        assert torch.equal(expected.labels, got.labels)
        assert all(torch.equal(expected.views[name], got.views[name]) for name in PARTS)
    assert resumed.epoch == stream.epoch


def test_a_state_of_another_batch_size_or_data_is_refused():
    state = BatchStream(make_dataset(10), "train", 3, seed=5).state_dict()
    with pytest.raises(DataError, match="got batch_size 3 in the saved state, expected 4; resume with"):
        BatchStream(make_dataset(10), "train", 4, seed=5).load_state_dict(state)
    with pytest.raises(DataError, match="got rows 10 in the saved state, expected 9"):
        BatchStream(make_dataset(9), "train", 3, seed=5).load_state_dict(state)


@pytest.mark.parametrize("batch_size", [0, 11])
def test_a_batch_larger_than_the_split_is_refused_with_the_fix(batch_size):
    with pytest.raises(DataError, match=f"got batch_size {batch_size}, expected 1 to 10.*lower batch_size"):
        BatchStream(make_dataset(10), "train", batch_size, seed=0)


def test_a_split_prints_its_size_and_parts_not_its_tensors():
    present = torch.ones(10, 2, dtype=torch.bool)
    present[:5, 0] = False
    split = make_dataset(present=present, labels=False).train
    assert repr(split) == "Split(10 items: picture [1, 2, 2], vector [2]; 75% of parts present; no labels)"
