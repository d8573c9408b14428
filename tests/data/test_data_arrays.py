"""The user's own arrays: what is kept exactly, what a mask hides, and what every mistake is answered with."""

import logging

import numpy as np
import pytest
import torch

from multiebm.core.errors import ConfigError, DataError, ModalityError
from multiebm.data import Rows, from_arrays, load_dataset
from multiebm.data.arrays import load_arrays

PARTS = {"photo": {"kind": "picture", "layout": "chw"}, "table": {"kind": "vector"}}
N = 20


def make_views(n=N, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "photo": rng.integers(0, 256, (n, 3, 6, 7), dtype=np.uint8),
        "table": rng.normal(5.0, 3.0, (n, 2)).astype(np.float32),
    }


def order_of(n=N, seed=0):
    order = np.random.default_rng(seed).permutation(n)
    return order[round(n * 0.2) :], order[: round(n * 0.2)]


def test_rows_stay_together_and_the_split_is_a_permutation_by_seed():
    views, labels = make_views(), np.arange(N) % 3
    dataset = from_arrays(views, PARTS, labels)
    for split, order in zip((dataset.train, dataset.test), order_of(), strict=True):
        assert np.array_equal(split.views["photo"].numpy(), views["photo"][order])
        assert np.array_equal(split.views["table"].numpy(), views["table"][order])
        assert split.labels.tolist() == labels[order].tolist()
        assert bool(split.present.all())
    assert (len(dataset.train), len(dataset.test), dataset.n_classes) == (16, 4, 3)
    assert from_arrays(views, PARTS, labels, seed=1).fingerprint != dataset.fingerprint
    assert from_arrays(views, PARTS, labels).fingerprint == dataset.fingerprint


def test_given_test_arrays_are_the_test_split():
    views, held_out = make_views(), make_views(5, seed=1)
    dataset = from_arrays(views, PARTS, np.zeros(N, int), test=Rows(held_out, np.full(5, 3)))
    assert np.array_equal(dataset.train.views["photo"].numpy(), views["photo"])
    assert np.array_equal(dataset.test.views["table"].numpy(), held_out["table"])
    assert (dataset.n_classes, dataset.classes) == (2, (0, 3))


def test_without_labels_there_are_no_classes():
    dataset = from_arrays(make_views(), PARTS)
    assert dataset.n_classes is None
    assert dataset.batch("train", torch.arange(2)).labels is None


def test_declared_layouts_give_the_same_pictures():
    views = make_views()
    swapped = {**views, "photo": views["photo"].transpose(0, 2, 3, 1)}
    hwc = {**PARTS, "photo": {"kind": "picture", "layout": "hwc"}}
    chw_set, hwc_set = from_arrays(views, PARTS), from_arrays(swapped, hwc)
    assert torch.equal(chw_set.train.views["photo"], hwc_set.train.views["photo"])
    assert hwc_set.modalities["photo"].shape == (3, 6, 7)
    assert hwc_set.fingerprint == chw_set.fingerprint


def test_float_pictures_keep_every_digit_of_float32():
    views = make_views()
    photo = np.random.default_rng(3).random(views["photo"].shape)
    kept = from_arrays({**views, "photo": photo}, PARTS).train.views["photo"]
    assert kept.dtype == torch.float32
    assert np.array_equal(kept.numpy(), photo[order_of()[0]].astype(np.float32))


def test_vectors_are_standardised_by_the_training_rows():
    views = make_views()
    views["table"] = np.c_[views["table"], np.full(N, 4.0)]  # a constant column is only centred
    dataset = from_arrays(views, PARTS)
    train = views["table"][order_of()[0]].astype(np.float64)
    table = dataset.modalities["table"]
    np.testing.assert_allclose(table.loc, train.mean(0), rtol=1e-6)
    np.testing.assert_allclose(table.scale, [*train.std(0)[:2], 1.0], rtol=1e-6)
    state = dataset.batch("train", torch.arange(16)).views["table"]
    torch.testing.assert_close(state.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(state.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -1e6])
def test_what_the_mask_hides_changes_nothing(garbage):
    views = make_views()
    views["photo"] = views["photo"] / 255.0
    present = np.random.default_rng(2).random((N, 2)) < 0.7
    present[:, 0] |= ~present[:, 1]
    clean = from_arrays(views, PARTS, present=present)
    views["photo"][~present[:, 0]] = garbage
    views["table"][~present[:, 1]] = garbage
    dirty = from_arrays(views, PARTS, present=present)
    assert dirty.modalities == clean.modalities
    assert dirty.fingerprint == clean.fingerprint
    for n, split in ((16, "train"), (4, "test")):
        a, b = (data.batch(split, torch.arange(n)) for data in (clean, dirty))
        assert torch.equal(a.present, b.present)
        assert all(torch.equal(a.views[name], b.views[name]) for name in PARTS)
        assert bool((b.views["table"][~b.present[:, 1]] == 0).all())
        assert all(bool(view.isfinite().all()) for view in b.views.values())


def test_a_mask_by_name_is_the_mask_by_column():
    views, hidden = make_views(), np.arange(N) % 4 == 0
    columns = np.stack([np.ones(N, bool), ~hidden], axis=1)
    by_name = from_arrays(views, PARTS, present={"table": ~hidden})
    assert by_name.fingerprint == from_arrays(views, PARTS, present=columns).fingerprint
    assert not bool(by_name.train.present.all())


def test_vectors_are_standardised_by_the_training_rows_that_have_them():
    """Values 3 and 5 where the part is there; rows without it count for neither mean nor spread."""
    table = np.where(np.arange(N) % 2 == 0, 3.0, 5.0)[:, None] * [1.0, 10.0]
    hidden = np.arange(N) % 4 == 3
    modality = from_arrays(make_views() | {"table": table}, PARTS, present={"table": ~hidden}).modalities["table"]
    train = table[order_of()[0]][~hidden[order_of()[0]]]
    assert 0 < len(train) < len(order_of()[0])
    np.testing.assert_allclose(modality.loc, train.mean(0), rtol=1e-6)
    np.testing.assert_allclose(modality.scale, train.std(0), rtol=1e-6)


def test_a_modality_that_is_never_present_is_not_standardised():
    dataset = from_arrays(make_views(), PARTS, present={"table": np.zeros(N, bool)})
    assert dataset.modalities["table"].loc == (0.0, 0.0)
    assert dataset.modalities["table"].scale == (1.0, 1.0)


def test_rows_with_nothing_present_are_allowed_and_logged(caplog):
    present = np.ones((N, 2), bool)
    present[[3, 11]] = False
    with caplog.at_level(logging.WARNING):
        dataset = from_arrays(make_views(), PARTS, present=present)
    assert "arrays: 2 rows have nothing present and get the prior: rows [3, 11]" in caplog.text
    assert int((~dataset.train.present.any(1)).sum() + (~dataset.test.present.any(1)).sum()) == 2


# .npz files


def test_rows_to_train_on_with_nothing_present_are_refused():
    with pytest.raises(
        DataError, match="arrays: got 16 rows to train on and nothing present .* `present` says what is"
    ):
        from_arrays(make_views(), PARTS, present=np.zeros((N, 2), bool))


def test_a_part_that_no_row_to_train_on_has_is_named():
    said = from_arrays(make_views(), PARTS, present={"table": np.zeros(N, bool)}).describe().splitlines()
    assert said[-1] == "no row to train on has table, so nothing is learned of it; is `present` inverted?"
    assert len(from_arrays(make_views(), PARTS).describe().splitlines()) == 1


def test_an_npz_gives_what_the_arrays_give(tmp_path):
    views, labels, present = make_views(), np.arange(N) % 3, np.ones((N, 2), bool)
    present[0, 1] = False
    held_out = make_views(5, seed=1)
    content = {**views, "labels": labels, "present": present}
    content |= {f"test_{name}": view for name, view in held_out.items()} | {"test_labels": np.arange(5) % 3}
    np.savez(tmp_path / "mine.npz", **content)
    from_file = load_dataset("arrays", {"path": str(tmp_path / "mine.npz"), "modalities": PARTS})
    from_dict = load_dataset("arrays", {"arrays": content, "modalities": PARTS})
    direct = from_arrays(views, PARTS, labels, present, test=Rows(held_out, np.arange(5) % 3))
    assert from_file.fingerprint == from_dict.fingerprint == direct.fingerprint
    assert from_file.name == "mine.npz"


def test_masks_of_single_modalities_can_be_stored_in_an_npz(tmp_path):
    hidden = np.arange(N) % 4 == 0
    np.savez(tmp_path / "mine.npz", **make_views(), present_table=~hidden)
    dataset = load_dataset("arrays", {"path": str(tmp_path / "mine.npz"), "modalities": PARTS})
    assert dataset.fingerprint == from_arrays(make_views(), PARTS, present={"table": ~hidden}).fingerprint


def test_files_that_cannot_be_read_are_named(tmp_path):
    def load(path):
        return load_dataset("arrays", {"path": str(path), "modalities": PARTS})

    with pytest.raises(DataError, match="none.npz: got no such file, expected an .npz; correct the path"):
        load(tmp_path / "none.npz")
    path = tmp_path / "mine.npz"
    np.savez(path, **make_views())
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(
        DataError, match="got a file that cannot be read .*, expected an .npz of plain arrays; write it"
    ):
        load(path)
    np.savez(path, photo=np.array([{}, None], dtype=object))
    with pytest.raises(DataError, match="cannot be read .*expected an .npz of plain arrays"):
        load(path)
    np.save(tmp_path / "bare.npy", np.zeros(3))
    with pytest.raises(DataError, match="one bare array without names"):
        load(tmp_path / "bare.npy")
    with pytest.raises(ConfigError, match="got neither of path and arrays, expected exactly one; set path"):
        load_dataset("arrays", {"modalities": PARTS})
    content = {**make_views(), "present": np.ones((N, 2), bool), "present_photo": np.ones(N, bool)}
    with pytest.raises(DataError, match="got both present and present_photo, expected one form; drop one"):
        load_dataset("arrays", {"arrays": content, "modalities": PARTS})


# Mistakes


def changed(**changes):
    return {**make_views(), **changes}


VIEW_MISTAKES = {
    "hwc for chw": (
        {"photo": np.zeros((N, 6, 7, 3), np.uint8)},
        r"modality 'photo': got shape \(20, 6, 7, 3\), expected \(N, C, H, W\) as declared by layout chw; this "
        r"looks like HWC, so declare layout: hwc",
    ),
    "no channel axis": (
        {"photo": np.zeros((N, 6, 7), np.uint8)},
        r"modality 'photo': got shape \(20, 6, 7\), expected 4 axes, .* add a channel axis, array\[:, None\]",
    ),
    "empty axis": (
        {"photo": np.zeros((N, 3, 0, 7), np.uint8)},
        r"modality 'photo': got shape \(20, 3, 0, 7\), expected no axis of length 0; check",
    ),
    "floats up to 255": (
        {"photo": np.full((N, 3, 6, 7), 255.0)},
        r"modality 'photo': got floats in \[255, 255\], expected \[0, 1\]; divide by 255, or pass uint8",
    ),
    "floats from -1": (
        {"photo": np.linspace(-1, 1, N * 126).reshape(N, 3, 6, 7)},
        r"modality 'photo': got floats in \[-1, 1\], expected \[0, 1\]; map it to \[0, 1\], for example \(x \+ 1\) / 2",
    ),
    "whole numbers": (
        {"photo": np.zeros((N, 3, 6, 7), np.int64)},
        r"modality 'photo': got dtype int64 in \[0, 0\], expected uint8 or floats in \[0, 1\]; declare range",
    ),
    "empty vector": (
        {"table": np.zeros((N, 0))},
        r"modality 'table': got shape \(20, 0\), expected a vector's \(N, D\) with D at least 1, or \(N,\) for one",
    ),
    "folded vector": (
        {"table": np.zeros((N, 2, 2))},
        r"modality 'table': got shape \(20, 2, 2\), expected a vector's \(N, D\).*flatten it",
    ),
    "text": (
        {"table": np.full((N, 2), "a")},
        r"modality 'table': got dtype <U1, text, expected real numbers; convert it",
    ),
    "different lengths": (
        {"table": np.zeros((N - 1, 2))},
        r"got different lengths \(photo 20, table 19\), expected one; row i of every array must be the same item",
    ),
}


@pytest.mark.parametrize("mistake", VIEW_MISTAKES)
def test_arrays_that_do_not_fit_are_answered_with_got_expected_and_fix(mistake):
    changes, message = VIEW_MISTAKES[mistake]
    with pytest.raises(DataError, match=message):
        from_arrays(changed(**changes), PARTS)


def test_chw_given_where_hwc_was_declared_is_recognised():
    hwc = {**PARTS, "photo": {"kind": "picture", "layout": "hwc"}}
    with pytest.raises(DataError, match="expected .N, H, W, C. as declared by layout hwc; this looks like CHW"):
        from_arrays(make_views(), hwc)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite_are_reported_with_modality_and_first_rows(value):
    table = np.zeros((N, 2))
    table[[2, 7, 8, 9, 12, 19], 1] = value
    got, way = (
        ("NaN or infinite values", "say that NaN means missing")
        if np.isnan(value)
        else ("too large or infinite values", "make NaN of them and say that NaN means missing")
    )
    with pytest.raises(
        DataError,
        match=rf"modality 'table': got {got} in 6 rows, first \[2, 7, 8, 9, 12\], expected finite numbers below "
        rf"1e\+37; repair them, mark them absent in `present`, or {way} .--missing nan",
    ):
        from_arrays(changed(table=table), PARTS)
    photo = np.zeros((N, 3, 6, 7))
    photo[4, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match=r"modality 'photo': got NaN or infinite values in 1 rows, first \[4\]"):
        from_arrays(changed(photo=photo), PARTS)


def test_no_rows_at_all_are_refused():
    with pytest.raises(DataError, match="got 0 rows, expected at least 1; the arrays are empty"):
        from_arrays(make_views(0), PARTS)
    with pytest.raises(DataError, match="got 1 row, expected at least 2 to split into training and test; supply test"):
        from_arrays(make_views(1), PARTS)


def test_unknown_and_missing_modalities_are_named():
    views = make_views()
    with pytest.raises(
        ModalityError, match="unknown modality 'tabel', expected some of photo, table. Did you mean 'table'?"
    ):
        from_arrays({"photo": views["photo"], "tabel": views["table"]}, PARTS)
    with pytest.raises(
        ModalityError, match="got no array for modality 'table', expected one for each of photo, table; supply"
    ):
        from_arrays({"photo": views["photo"]}, PARTS)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(N - 2, int), r"labels: got shape \(18,\), expected \(20,\), one for each row; supply them all"),
        (np.eye(3, dtype=int)[np.arange(N) % 3], r"labels: got shape \(20, 3\), .*of one-hot rows pass labels.argmax"),
        (np.full(N, 0.5), r"labels: got 0.5 in row 0, expected whole numbers or texts, and -1, None or NaN where"),
        (np.zeros(N, complex), r"labels: got dtype complex128, expected whole numbers or texts; convert them"),
        (["cat", 1] * (N // 2), r"labels: got both texts and numbers, expected one of them"),
    ],
)
def test_labels_that_do_not_fit_are_answered_with_got_expected_and_fix(labels, message):
    with pytest.raises(DataError, match=message):
        from_arrays(make_views(), PARTS, labels)


@pytest.mark.parametrize(
    ("present", "error", "message"),
    [
        (np.ones((N, 3), bool), DataError, r"columns photo, table, present: got shape \(20, 3\), expected \(20, 2\)"),
        (np.ones((N, 2)), DataError, r"present: got dtype float64, expected bool; use mask.astype\(bool\)"),
        ({"table": np.ones(3, bool)}, DataError, r"table, present: got shape \(3,\), expected \(20,\)"),
        ({"tables": np.ones(N, bool)}, ModalityError, "unknown modality 'tables'.*Did you mean 'table'"),
    ],
)
def test_masks_that_do_not_fit_are_answered_with_got_expected_and_fix(present, error, message):
    with pytest.raises(error, match=message):
        from_arrays(make_views(), PARTS, present=present)


def test_test_arrays_that_differ_in_kind_are_refused():
    held_out = make_views(5)
    wider = {**held_out, "table": np.zeros((5, 3))}
    with pytest.raises(DataError, match=r"\(test\), modality 'table': got shape \(5, 3\), expected \(rows, 2\)"):
        from_arrays(make_views(), PARTS, test=Rows(wider))
    with pytest.raises(DataError, match="labels: got them for test only, expected them for train too; supply or drop"):
        from_arrays(make_views(), PARTS, test=Rows(held_out, np.zeros(5, int)))


@pytest.mark.parametrize("share", [0.0, 1.0, 7.0])
def test_a_test_share_out_of_range_is_refused(share):
    with pytest.raises(ConfigError, match=f"test_fraction: got {share}, expected a share between 0 and 1, such as 0.2"):
        from_arrays(make_views(), PARTS, test_fraction=share)


def test_every_problem_of_the_declarations_is_reported_at_once():
    declared = {
        "photo": {"kind": "picture", "layout": "whc"},
        "table": {"kind": "tabular"},
        "labels": {"kind": "vector"},
        "sound": {"kind": "vector", "layuot": "chw"},
    }
    with pytest.raises(ConfigError) as caught:
        from_arrays(make_views(), declared)
    layout, kind, reserved, key = caught.value.problems
    assert layout == "arrays.modalities.photo.layout: got 'whc', expected chw, hwc or hw (no axis of channels)"
    known = "picture or text or category or counts or vector"
    assert kind == f"arrays.modalities.table.kind: got 'tabular', expected {known}; declare it"
    assert reserved.startswith("arrays.modalities.labels: got a reserved name, expected none of labels, present")
    assert key.startswith(
        "arrays.modalities.sound: got unknown key 'layuot', expected kind, missing, columns, standardise."
    )
    with pytest.raises(ConfigError, match="arrays.modalities: got none, expected at least one; declare name"):
        from_arrays({}, {})


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"path": 3}, DataError, "path: got int, expected text or a pathlib.Path"),
        ({"arrays": [1]}, DataError, "arrays: got list, expected a dict of arrays"),
        ({"arrays": {1: np.ones((4, 2))}}, DataError, "arrays: got the key 1, expected a dict of arrays by the names"),
        ({"test_fraction": "a"}, ConfigError, "test_fraction: got 'a', expected a share between 0 and 1"),
        ({"test_fraction": None}, ConfigError, "test_fraction: got None, expected a share between 0 and 1"),
        ({"seed": -1}, ConfigError, "seed: got -1, expected a whole number from 0"),
        ({"seed": "a"}, ConfigError, r"seed: got 'a' \(str\), expected a whole number from 0"),
    ],
)
def test_what_is_no_path_no_dict_no_share_and_no_seed_is_said(given, error, said):
    usual = {} if "path" in given else {"arrays": {"v": np.ones((4, 2))}}
    with pytest.raises(error, match=said):
        load_arrays({"v": {"kind": "vector"}}, **{**usual, **given})


@pytest.mark.parametrize(
    ("span", "said"),
    [
        ([0, 10**400], "expected .low, high., two numbers"),
        ([0, 1e300], r"got \[0, 1e\+300\], expected numbers of at most 1e\+37; scale the values down"),
        ([1e9, 1e9 + 1], "too narrow so far from 0 for float32, .*subtract low from the values"),
    ],
)
def test_a_range_in_which_float32_cannot_tell_values_apart_is_refused(span, said):
    declared = {"p": {"kind": "picture", "layout": "chw", "range": span}}
    with pytest.raises(ConfigError, match=said):
        from_arrays({"p": np.full((4, 1, 4, 4), 1e9)}, declared)


def test_a_range_may_be_of_numpys_numbers_and_far_from_0():
    kelvin = np.random.default_rng(0).uniform(273, 274, (8, 1, 4, 4))
    data = from_arrays(
        {"p": kelvin}, {"p": {"kind": "picture", "layout": "chw", "range": [np.int64(273), np.float32(274)]}}
    )
    assert data.modalities["p"].range == (273.0, 274.0)
    state = data.batch("train", torch.arange(len(data.train))).views["p"]
    back = data.modalities["p"].to_raw(state)
    torch.testing.assert_close(back, data.train.views["p"], rtol=0, atol=1e-4)
