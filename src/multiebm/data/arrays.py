"""The user's own data: arrays by modality, from Python or from an .npz file."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from multiebm.core.errors import ConfigError, DataError
from multiebm.core.handed import SHOWN, read_parts, read_presence
from multiebm.core.names import TEST, Views, name_problem
from multiebm.core.random import check_seed
from multiebm.data.dataset import MultimodalDataset, Split, content_fingerprint
from multiebm.data.npz import expanded, read_npz, sorted_content
from multiebm.data.validate import check_names, code_labels, read_labels
from multiebm.modalities import MODALITIES, Modality

logger = logging.getLogger(__name__)

# name -> {"kind": "picture", "layout": "chw" | "hwc", "range": [low, high] (optional)} or {"kind": "vector"}
Declared = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class Rows:
    """Arrays of one split: `views` [N, ...] by modality, `labels` [N], `present` bool [N, M] or name -> [N].

    Arrays may be whatever `docs/data.md` lists. They are copied.
    """

    views: Mapping[str, Any]
    labels: Any = None
    present: Any = None


def from_arrays(
    views: Mapping[str, Any],
    modalities: Declared,
    labels: Any = None,
    present: Any = None,
    test_fraction: float = 0.2,
    test: Rows | None = None,
    seed: int = 0,
    name: str = "arrays",
) -> MultimodalDataset:
    """Return a data set of the user's arrays [N, ...], which are copied; row i of every array is the same item.

    `modalities` declares each as {"kind": "picture", "layout": "chw" or "hwc"} (uint8, bool, or floats in [0, 1];
    numbers of any type with "range": [low, high]) or {"kind": "vector"} (standardised by the present training entries).
    Entries that `present` marks absent may hold anything. `labels` are whole numbers or texts; the classes are their
    distinct values. Without `test`, a share `test_fraction` of the rows, drawn by `seed`, is the test split.
    `docs/data.md` lists what may be handed over. Raises ConfigError for declarations, ModalityError for names, and
    DataError for values that do not fit.
    """
    check_declarations(modalities)
    if test is None:
        _check_share(test_fraction, name)
        check_seed(seed)
    rows = [Rows(views, labels, present), *([] if test is None else [test])]
    whats = [name] if test is None else [f"{name} (train)", f"{name} (test)"]
    known: dict[str, Modality] = {}
    given = [check_rows(r, modalities, what, known) for r, what in zip(rows, whats, strict=True)]
    read = [read_labels(r.labels, len(split), what) for r, split, what in zip(rows, given, whats, strict=True)]
    if test is not None:
        _check_both_labelled([one is not None for one in read], name)
    coded, classes = code_labels(read)
    labelled = [Split(split.views, split.present, codes) for split, codes in zip(given, coded, strict=True)]
    train, held_out = labelled if test is not None else split_rows(labelled[0], test_fraction, seed, name)
    parts = {
        key: m.fit(train.of(key), [split.of(key) for split in labelled], f"{name}, modality {key!r}")
        for key, m in known.items()
    }
    for split, what in zip(labelled, whats, strict=True):
        for key, modality in parts.items():
            modality.check(*split.of(key), f"{what}, modality {key!r}")
    fingerprint = content_fingerprint(parts, train, held_out)
    n_classes = None if classes is None else len(classes)
    return MultimodalDataset(name, parts, train, held_out, n_classes, "The user's own arrays.", fingerprint, classes)


def load_arrays(
    modalities: dict[str, dict[str, Any]],
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
    what = "arrays" if path is None else expanded(path).name
    check_declarations(modalities)
    content: Any = arrays if path is None else read_npz(path)
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        got = (
            next((repr(key) for key in content if not isinstance(key, str)), "") if isinstance(content, Mapping) else ""
        )
        raise DataError(
            f"arrays: got {f'the key {got}' if got else type(content).__name__}, expected a dict of arrays by the "
            "names of their modalities; quote the names"
        )
    parts = {key: content[key] for key in content if not key.startswith(TEST)}
    held_out = {key.removeprefix(TEST): content[key] for key in content if key.startswith(TEST)}
    train = Rows(*sorted_content(parts, what))
    test = Rows(*sorted_content(held_out, f"{what} (test)")) if held_out else None
    return from_arrays(train.views, modalities, train.labels, train.present, test_fraction, test, seed, what)


def check_declarations(modalities: Declared) -> None:
    """Raise ConfigError with every problem of the declared modalities."""
    if not isinstance(modalities, Mapping):
        raise ConfigError(
            f"arrays.modalities: got {type(modalities).__name__}, expected a dict of declarations by name, such as "
            "{name: {kind: vector}}"
        )
    problems = [] if modalities else ["arrays.modalities: got none, expected at least one; declare name: {kind: ...}"]
    for name, declared in modalities.items():
        where = f"arrays.modalities.{name}"
        if problem := name_problem(name):
            problems.append(f"{where}: {problem}")
        if not isinstance(declared, Mapping):
            problems.append(f"{where}: got {declared!r}, expected a declaration such as {{kind: vector}}; correct it")
            continue
        if (kind := declared.get("kind")) not in list(MODALITIES):
            problems.append(f"{where}.kind: got {kind!r}, expected {' or '.join(MODALITIES)}; declare it")
        else:
            problems += MODALITIES[kind].declaration_problems(where, declared)
    if problems:
        raise ConfigError(problems)


def check_rows(rows: Rows, modalities: Declared, what: str, known: dict[str, Modality]) -> Split:
    """Return one split of checked arrays [N, ...] without labels, ordered as `modalities`; all of it is copied.

    Modalities that are not `known` yet become so, for the splits that follow. Rows with nothing present are logged.
    """
    given = read_parts(rows.views, what, rows.present, rows.labels)
    check_names(list(given), list(modalities), what)
    present = read_presence(given, rows.present, list(modalities), what)
    views = {}
    for i, (name, declared) in enumerate(modalities.items()):
        where = f"{what}, modality {name!r}"
        if name not in known:
            known[name] = MODALITIES[declared["kind"]].declare(name, declared, given[name], where)
        views[name] = known[name].read(given[name], present[:, i], where)
    if len(empty := np.flatnonzero(~present.any(1))):
        logger.warning(
            "%s: %d rows have nothing present, first %s; they get the prior", what, len(empty), empty[:SHOWN].tolist()
        )
    return Split(views, torch.from_numpy(present))


def split_rows(rows: Split, test_fraction: float, seed: int, what: str) -> tuple[Split, Split]:
    """Return training and test rows [N, ...], a permutation by `seed` cut at `test_fraction`; each has at least one."""
    n = len(rows)
    if n < 2:
        raise DataError(f"{what}: got {n} row, expected at least 2 to split into training and test; supply test arrays")
    order = torch.from_numpy(np.random.default_rng(seed).permutation(n))
    cut = min(max(round(n * test_fraction), 1), n - 1)
    return _take(rows, order[cut:]), _take(rows, order[:cut])


def _check_share(share: Any, what: str) -> None:
    if not isinstance(share, Real) or not 0 < float(share) < 1:
        raise ConfigError(f"{what}.test_fraction: got {share!r}, expected a share between 0 and 1, such as 0.2")


def _take(rows: Split, indices: Tensor) -> Split:
    views: Views = {name: view[indices] for name, view in rows.views.items()}
    return Split(views, rows.present[indices], None if rows.labels is None else rows.labels[indices])


def _check_both_labelled(labelled: list[bool], what: str) -> None:
    if labelled[0] != labelled[1]:
        given, missing = ("train", "test") if labelled[0] else ("test", "train")
        raise DataError(
            f"{what}, labels: got them for {given} only, expected them for {missing} too; supply or drop them"
        )
