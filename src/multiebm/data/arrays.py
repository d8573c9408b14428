"""The user's own data: arrays by modality, from Python or from an .npz file."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from multiebm.core.errors import ConfigError, DataError
from multiebm.core.modality import Modality, Views
from multiebm.core.table import nearest
from multiebm.data.dataset import MultimodalDataset, Split, content_fingerprint
from multiebm.data.files import RESERVED, TEST, read_npz, sorted_content
from multiebm.data.validate import (
    Array,
    check_labels,
    check_lengths,
    check_names,
    check_picture,
    check_present,
    check_vector,
)

logger = logging.getLogger(__name__)

Declared = Mapping[str, Mapping[str, str]]  # name -> {"kind": "picture", "layout": "chw" | "hwc"} or {"kind": "vector"}
_SHOWN = 5


@dataclass(frozen=True, eq=False)
class Rows:
    """Arrays of one split: `views` [N, ...] by modality, `labels` [N], `present` bool [N, M] or name -> [N]."""

    views: Mapping[str, Array]
    labels: Array | None = None
    present: Array | Mapping[str, Array] | None = None


def from_arrays(
    views: Mapping[str, Array],
    modalities: Declared,
    labels: Array | None = None,
    present: Array | Mapping[str, Array] | None = None,
    test_fraction: float = 0.2,
    test: Rows | None = None,
    seed: int = 0,
    name: str = "arrays",
) -> MultimodalDataset:
    """Return a data set of the user's arrays [N, ...]; row i of every array is the same item.

    `modalities` declares each as {"kind": "picture", "layout": "chw" or "hwc"} (uint8, or floats in [0, 1], which are
    kept in 8 bits) or {"kind": "vector"} (standardised by the present training entries). Entries that `present` marks
    absent may hold anything. Without `test`, a share `test_fraction` of the rows, drawn by `seed`, is the test split.
    Raises ConfigError for declarations, ModalityError for names, and DataError for values that do not fit.
    """
    check_declarations(modalities)
    train = check_rows(Rows(views, labels, present), modalities, name if test is None else f"{name} (train)")
    if test is None:
        train, held_out = split_rows(train, test_fraction, seed, name)
    else:
        held_out = check_rows(test, modalities, f"{name} (test)")
        _check_same_kind(train, held_out, name)
    parts = {key: _modality(key, modalities[key]["kind"], train) for key in modalities}
    classes = None
    if train.labels is not None and held_out.labels is not None:
        classes = int(max(train.labels.max(), held_out.labels.max())) + 1
    fingerprint = content_fingerprint(parts, train, held_out)
    return MultimodalDataset(name, parts, train, held_out, classes, "The user's own arrays.", fingerprint)


def load_arrays(
    modalities: dict[str, dict[str, str]],
    path: str | Path | None = None,
    arrays: Mapping[str, Any] | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> MultimodalDataset:
    """Return the data set of an .npz file at `path`, or of `arrays`, a dict with the same keys.

    Keys: one per modality, and optionally `labels` [N] and `present` bool [N, M], or one `present_<modality>` [N] each.
    The same keys with the prefix `test_` are the test split; without them it is drawn as in `from_arrays`.
    """
    if (path is None) == (arrays is None):
        given = "neither" if path is None else "both"
        raise ConfigError(f"arrays: got {given} of path and arrays, expected exactly one; set path to an .npz file")
    what = "arrays" if path is None else Path(path).name
    content = read_npz(path) if path is not None else {key: np.asarray(value) for key, value in (arrays or {}).items()}
    check_declarations(modalities)
    parts = {key: content[key] for key in content if not key.startswith(TEST)}
    held_out = {key.removeprefix(TEST): content[key] for key in content if key.startswith(TEST)}
    train = Rows(*sorted_content(parts, what))
    test = Rows(*sorted_content(held_out, f"{what} (test)")) if held_out else None
    return from_arrays(train.views, modalities, train.labels, train.present, test_fraction, test, seed, what)


def check_declarations(modalities: Declared) -> None:
    """Raise ConfigError with every problem of the declared modalities."""
    problems = [] if modalities else ["arrays.modalities: got none, expected at least one; declare name: {kind: ...}"]
    for name, declared in modalities.items():
        where, kind = f"arrays.modalities.{name}", declared.get("kind")
        if name in RESERVED or name.startswith((TEST, "present_")):
            problems.append(
                f"{where}: got a reserved name, expected none of labels, present, test_*; rename the modality"
            )
        if kind not in ("picture", "vector"):
            problems.append(f"{where}.kind: got {kind!r}, expected picture or vector; declare it")
        if kind == "picture" and declared.get("layout") not in ("chw", "hwc"):
            problems.append(f"{where}.layout: got {declared.get('layout')!r}, expected chw or hwc; it is never guessed")
        known = ["kind", "layout"] if kind == "picture" else ["kind"]
        problems += [
            f"{where}: got unknown key {key!r}, expected {', '.join(known)}.{nearest(key, known)} Remove it"
            for key in declared
            if key not in known
        ]
    if problems:
        raise ConfigError(problems)


def check_rows(rows: Rows, modalities: Declared, what: str) -> Split:
    """Return one split of checked arrays [N, ...], ordered as `modalities`; rows with nothing present are logged."""
    check_names(list(rows.views), list(modalities), what)
    given = {name: np.asarray(rows.views[name]) for name in modalities}
    n = check_lengths(given, what)
    present = check_present(rows.present, list(modalities), n, what)
    labels = check_labels(None if rows.labels is None else np.asarray(rows.labels), n, what)
    views = {}
    for i, (name, declared) in enumerate(modalities.items()):
        if declared["kind"] == "picture":
            views[name] = check_picture(name, given[name], declared["layout"], present[:, i], what)
        else:
            views[name] = check_vector(name, given[name], present[:, i], what)
    if len(empty := np.flatnonzero(~present.any(1))):
        logger.warning(
            "%s: %d rows have nothing present, first %s; they get the prior", what, len(empty), empty[:_SHOWN].tolist()
        )
    return Split(views, torch.from_numpy(present), labels)


def split_rows(rows: Split, test_fraction: float, seed: int, what: str) -> tuple[Split, Split]:
    """Return training and test rows [N, ...], a permutation by `seed` cut at `test_fraction`; each has at least one."""
    if not 0 < test_fraction < 1:
        raise ConfigError(f"{what}.test_fraction: got {test_fraction}, expected a share between 0 and 1, such as 0.2")
    n = len(rows)
    if n < 2:
        raise DataError(f"{what}: got {n} row, expected at least 2 to split into training and test; supply test arrays")
    order = torch.from_numpy(np.random.default_rng(seed).permutation(n))
    cut = min(max(round(n * test_fraction), 1), n - 1)
    return _take(rows, order[cut:]), _take(rows, order[:cut])


def _take(rows: Split, indices: Tensor) -> Split:
    views: Views = {name: view[indices] for name, view in rows.views.items()}
    return Split(views, rows.present[indices], None if rows.labels is None else rows.labels[indices])


def _modality(name: str, kind: str, train: Split) -> Modality:
    view = train.views[name]
    shape = tuple(view.shape[1:])
    if kind == "picture":
        return Modality(name, "picture", shape)
    seen = view[train.present[:, list(train.views).index(name)]].double()
    if len(seen) == 0:
        return Modality(name, "vector", shape, (0.0,) * shape[0], (1.0,) * shape[0])
    spread = seen.std(0, correction=0)
    spread[spread == 0] = 1.0  # a constant coordinate is only centred
    return Modality(name, "vector", shape, tuple(seen.mean(0).tolist()), tuple(spread.tolist()))


def _check_same_kind(train: Split, test: Split, what: str) -> None:
    for name, view in train.views.items():
        if test.views[name].shape[1:] != view.shape[1:]:
            raise DataError(
                f"{what} (test), modality {name!r}: got items of shape {tuple(test.views[name].shape[1:])}, expected "
                f"{tuple(view.shape[1:])} as in training; resize one of them"
            )
    if (train.labels is None) != (test.labels is None):
        given, missing = ("test", "train") if train.labels is None else ("train", "test")
        raise DataError(
            f"{what}, labels: got them for {given} only, expected them for {missing} too; supply or drop them"
        )
