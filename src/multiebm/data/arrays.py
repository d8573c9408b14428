"""The user's own data: arrays by modality, from Python or from an .npz file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from multiebm.core.errors import ConfigError, DataError, ModalityError
from multiebm.core.handed import read_arrays, read_presence, unpack
from multiebm.core.names import BESIDE, MASK, TEST, name_problem
from multiebm.core.random import check_seed
from multiebm.data.dataset import MultimodalDataset, Split, content_fingerprint
from multiebm.data.npz import expanded, read_npz
from multiebm.modalities import MODALITIES, Modality

# name -> {"kind": "picture", "layout": "chw" | "hwc", "range": [low, high] (optional)} or {"kind": "vector"}
Declared = Mapping[str, Mapping[str, Any]]
UNKNOWN = -1  # the code of a label that is not known
Class = int | str


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
    numbers of any type with "range": [low, high]) or {"kind": "vector"} (standardised by the present training entries);
    packages add kinds. Entries that `present` marks absent may hold anything. `labels` are whole numbers or texts; the
    classes are their distinct values. Without `test`, a share `test_fraction` of the rows, drawn by `seed`, is the test
    split.
    `docs/data.md` lists what may be handed over. Raises ConfigError for declarations, ModalityError for names, and
    DataError for values that do not fit.
    """
    check_declarations(modalities)
    if test is None:
        if not isinstance(test_fraction, Real) or not 0 < test_fraction < 1:
            raise ConfigError(
                f"{name}.test_fraction: got {test_fraction!r}, expected a share between 0 and 1, such as 0.2"
            )
        check_seed(seed)
    elif (labels is None) != (test.labels is None):
        has, lacks = ("test", "train") if labels is None else ("train", "test")
        raise DataError(f"{name}, labels: got them for {has} only, expected them for {lacks} too; supply or drop them")
    rows = {name: Rows(views, labels, present)}
    if test is not None:
        rows = {f"{name} (train)": rows[name], f"{name} (test)": test}
    kinds: dict[str, Modality] = {}
    splits = [_checked(r, modalities, kinds, what) for what, r in rows.items()]
    read = [read_labels(r.labels, len(split), what) for split, (what, r) in zip(splits, rows.items(), strict=True)]
    codes, classes = code_labels(read)
    splits = [replace(split, labels=of) for split, of in zip(splits, codes, strict=True)]
    train, held_out = splits[0], splits[-1]
    if test is None:
        if (n := len(train)) < 2:
            fix = "supply test arrays"
            raise DataError(f"{name}: got {n} row, expected at least 2 to split into training and test; {fix}")
        order, cut = np.random.default_rng(seed).permutation(n), min(max(round(n * test_fraction), 1), n - 1)
        train, held_out = (splits[0].select(torch.from_numpy(rows)) for rows in (order[cut:], order[:cut]))
    parts = {
        key: m.fit(train.of(key), [split.of(key) for split in splits], f"{name}, modality {key!r}")
        for key, m in kinds.items()
    }
    for split, what in zip(splits, rows, strict=True):
        for key, m in parts.items():
            m.check(*split.of(key), f"{what}, modality {key!r}")
    n_classes, fingerprint = len(classes) if classes else None, content_fingerprint(parts, train, held_out)
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
    wrong = [repr(key) for key in content if not isinstance(key, str)] if isinstance(content, Mapping) else []
    if wrong or not isinstance(content, Mapping):
        got = f"the key {wrong[0]}" if wrong else type(content).__name__
        raise DataError(
            f"arrays: got {got}, expected a dict of arrays by the names of their modalities; quote the names"
        )
    held_out = {key.removeprefix(TEST): array for key, array in content.items() if key.startswith(TEST)}
    train = rows_of({key: array for key, array in content.items() if not key.startswith(TEST)}, what)
    test = rows_of(held_out, f"{what} (test)") if held_out else None
    return from_arrays(train.views, modalities, train.labels, train.present, test_fraction, test, seed, what)


def rows_of(arrays: Mapping[str, Any], what: str) -> Rows:
    """Return arrays [N, ...] of one split by what their keys say: a modality, `labels`, `present` or `present_<name>`;
    DataError where both forms of masks are given.
    """
    masks = {key.removeprefix(MASK): array for key, array in arrays.items() if key.startswith(MASK)}
    if masks and "present" in arrays:
        raise DataError(f"{what}: got both present and {MASK}{next(iter(masks))}, expected one form; drop one of them")
    views = {key: array for key, array in arrays.items() if key not in BESIDE and not key.startswith(MASK)}
    return Rows(views, arrays.get("labels"), masks or arrays.get("present"))


def check_declarations(modalities: Declared) -> None:
    """Raise ConfigError with every problem of the declared modalities."""
    if not isinstance(modalities, Mapping):
        got = type(modalities).__name__
        raise ConfigError(f"arrays.modalities: got {got}, expected declarations by name, as {{name: {{kind: vector}}}}")
    problems = [] if modalities else ["arrays.modalities: got none, expected at least one; declare name: {kind: ...}"]
    for name, declared in modalities.items():
        where = f"arrays.modalities.{name}"
        if problem := name_problem(name):
            problems.append(f"{where}: {problem}")
        if not isinstance(declared, Mapping):
            problems.append(f"{where}: got {declared!r}, expected a declaration such as {{kind: vector}}; correct it")
        elif (kind := declared.get("kind")) not in list(MODALITIES):
            problems.append(f"{where}.kind: got {kind!r}, expected {' or '.join(MODALITIES)}; declare it")
        else:
            problems += MODALITIES[kind].declaration_problems(where, declared)
    if problems:
        raise ConfigError(problems)


def _checked(rows: Rows, modalities: Declared, kinds: dict[str, Modality], what: str) -> Split:
    """Return one split of checked arrays [N, ...] without labels, copied. Modalities new to `kinds` are put there."""
    given = read_arrays(rows.views, list(modalities), what, rows.present, rows.labels)
    if missing := [name for name in modalities if name not in given]:
        raise ModalityError(
            f"{what}: got no array for modality {missing[0]!r}, expected one for each of {', '.join(modalities)}; "
            f"supply it (entries that are missing are marked in `present`)"
        )
    there = read_presence(given, rows.present, list(modalities), what)
    views = {}
    for i, (name, declared) in enumerate(modalities.items()):
        where = f"{what}, modality {name!r}"
        if name not in kinds:
            kinds[name] = MODALITIES[declared["kind"]].declare(name, declared, given[name], where)
        views[name] = kinds[name].read(given[name], there[:, i], where)
    return Split(views, torch.from_numpy(there))


def read_labels(labels: Any, n: int, what: str) -> list[Class | None] | None:
    """Return the n labels as whole numbers or texts, None where one is unknown (-1, NaN, None, masked)."""
    if labels is None:
        return None
    where = f"{what}, labels"
    if isinstance(labels, list | tuple) and not any(np.ndim(label) for label in labels):
        labels = np.array([*labels, None], dtype=object)[:-1]  # or NumPy makes texts of None and NaN among texts
    found = unpack(labels, where)
    values = found.values
    if values.dtype.kind in "cMmV":
        raise DataError(f"{where}: got dtype {values.dtype}, expected whole numbers or texts; convert them")
    if values.shape not in ((n,), (n, 1)):
        one_hot = values.ndim == 2 and values.dtype.kind in "biuf" and bool((np.sort(values)[:, :-1] == 0).all())
        fix = "of one-hot rows pass labels.argmax(1)" if one_hot and len(values) == n else "supply them all"
        raise DataError(f"{where}: got shape {values.shape}, expected ({n},), one for each row; {fix}")
    pairs = zip(values.reshape(n).tolist(), found.hidden.reshape(n), strict=True)
    read = [None if hidden else _label(value, i, where) for i, (value, hidden) in enumerate(pairs)]
    if len({type(label) for label in read if label is not None}) > 1:
        raise DataError(f"{where}: got both texts and numbers, expected one of them; convert them, labels.astype(str)")
    return read


def code_labels(splits: Sequence[list[Class | None] | None]) -> tuple[list[Tensor | None], tuple[Class, ...] | None]:
    """Return labels of splits as codes, int64 [N] each (their place among the distinct values of all splits, UNKNOWN
    where they are unknown), and those values in order. None for both where there is no label that is known.
    """
    known = {label for split in splits for label in split or () if label is not None}
    if not known:
        return [None] * len(splits), None
    classes = tuple(sorted(known))  # all are texts or all are numbers
    code = {label: i for i, label in enumerate(classes)} | {None: UNKNOWN}
    return [None if split is None else torch.tensor([code[label] for label in split]) for split in splits], classes


def _label(value: Any, row: int, where: str) -> Class | None:
    value = value.item() if isinstance(value, Tensor | np.generic) and not value.ndim else value
    value = value.decode() if isinstance(value, bytes) else value
    if value is None or isinstance(value, str):
        return value
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, Real):
        number = float(value)
        if number != number or number == UNKNOWN:
            return None
        if isinstance(value, Integral) or number.is_integer():
            return int(value)  # type: ignore[call-overload]
    raise DataError(
        f"{where}: got {value!r} in row {row}, expected whole numbers or texts, and -1, None or NaN where one is "
        "unknown; name the classes"
    )
