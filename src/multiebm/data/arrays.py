"""The user's own data: arrays by modality, from Python or from an .npz file."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from multiebm.core.cells import odd_cells
from multiebm.core.errors import ConfigError, DataError, ModalityError, instance_of
from multiebm.core.frames import check_order
from multiebm.core.handed import NOT_NUMBERS, check_lengths, read_arrays, unpack
from multiebm.core.names import BESIDE, MASK, TEST, name_problem
from multiebm.core.presence import read_presence, read_present
from multiebm.core.random import check_seed
from multiebm.core.rows import rows_at
from multiebm.core.table import nearest
from multiebm.data.caption_files import Captioned
from multiebm.data.columns import Columns
from multiebm.data.dataset import Kept, MultimodalDataset, Split, content_fingerprint
from multiebm.data.labels import code_labels, read_labels
from multiebm.data.npz import expanded
from multiebm.data.sources import read_path, read_source
from multiebm.modalities import MODALITIES, Modality

# name -> {"kind": "picture", "layout": "chw" | "hwc" | "hw", "range": [low, high] (optional)}, {"kind": "vector"},
# "standardise": "robust" (optional), {"kind": "category"} or {"kind": "counts", "library": true (optional)}; "missing":
# "nan" (optional) in all; a kind by its name alone, or none: inferred from the values
Declared = Mapping[str, str | Mapping[str, Any] | None]


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
    modalities: Declared | None = None,
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
    packages add kinds. Without `modalities` kinds are inferred. With "missing": "nan" NaN says that a row of that part,
    or of a vector a single cell, is missing. Entries that `present` marks absent may hold anything. `labels` are whole
    numbers or texts; the classes are their distinct values. Without `test`, a share `test_fraction` of the rows, drawn
    by `seed`, is the test split. `docs/data.md` lists what may be handed over. Raises ConfigError for declarations,
    ModalityError for names, and DataError for values that do not fit.
    """
    if not isinstance(views, Mapping):
        raise DataError(
            f"{name}: got {type(views).__name__}, expected a dict of arrays by modality, {{'name': values}}; of a "
            "table or a file use multiebm.read_data(table, parts={'name': [columns]})"
        )
    modalities = declarations(views, modalities, name)
    if test is not None:
        instance_of(f"{name}, test", test, Rows, "a split; wrap its arrays, test=multiebm.Rows({'name': values})")
    if test is None:
        _check_drawn(test_fraction, seed, name)
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
            fix = "supply test arrays, or more rows"
            raise DataError(f"{name}: got {n} row, expected at least 2 to split into training and test; {fix}")
        order, cut = np.random.default_rng(seed).permutation(n), min(max(round(n * test_fraction), 1), n - 1)
        train, held_out = (splits[0].select(torch.from_numpy(chosen)) for chosen in (order[cut:], order[:cut]))
    if not train.present.any():
        raise DataError(
            f"{name}: got {len(train)} rows to train on and nothing present in any of them, expected values to learn "
            "from; true in `present` says what is there, false what is missing"
        )
    parts = {
        key: m.fit(train.of(key), [split.of(key) for split in splits], f"{name}, modality {key!r}")
        for key, m in kinds.items()
    }
    for split, what in zip(splits, rows, strict=True):
        for key, m in parts.items():
            m.check(*split.of(key), f"{what}, modality {key!r}")
    n_classes, fingerprint = len(classes) if classes else None, content_fingerprint(parts, train, held_out)
    settings: dict[str, Any] = {"modalities": {key: dict(modalities[key] or {}) for key in modalities}}
    settings |= {} if test is not None else {"test_fraction": float(test_fraction), "seed": int(seed)}
    kept = _kept(list(rows.values()), parts, settings)
    return MultimodalDataset(
        name, parts, train, held_out, n_classes, "The user's own arrays.", fingerprint, classes, kept
    )


def _check_drawn(test_fraction: Any, seed: Any, name: str) -> None:
    if not isinstance(test_fraction, Real) or not 0 < float(test_fraction) < 1:
        raise ConfigError(f"{name}.test_fraction: got {test_fraction!r}, expected a share between 0 and 1, such as 0.2")
    check_seed(seed)


def _kept(splits: list[Rows], parts: Mapping[str, Modality], settings: dict[str, Any]) -> Kept | None:
    """Return what `load_arrays` makes the same data set of; None where a file of arrays cannot hold it."""
    arrays: dict[str, Any] = {}
    for prefix, rows in zip(("", TEST), splits, strict=False):
        masks = dict[str, Any]()
        for name, m in parts.items():
            part, declared = m.hide(unpack(rows.views[name], name)), settings["modalities"][name]
            if part.columns:
                declared.setdefault("columns", list(part.columns))
            if part.hidden.any():
                declared["missing"] = "nan"
            if part.hidden.any() and not m.by_cell and part.values.dtype.kind in "biu":  # which have no NaN
                masks[name] = ~part.hidden.reshape(len(part.values), -1).all(1)
                part = part._replace(masked=None)
            arrays[prefix + name] = m.keep(part)
        if rows.labels is not None:
            arrays[f"{prefix}labels"] = unpack(rows.labels, "labels").values
        if rows.present is not None or masks:
            there = read_present(rows.present, list(parts), len(arrays[prefix + name]), "")
            whole = np.ones(len(there), bool)
            arrays[f"{prefix}present"] = there & np.stack([masks.get(of, whole) for of in parts], 1)
    texts = {key: np.asarray(values.tolist()) for key, values in arrays.items() if values.dtype == object}
    return None if any(values.dtype == object for values in texts.values()) else Kept(arrays | texts, settings)


def load_arrays(
    modalities: dict[str, str | dict[str, Any]] | None = None,
    path: str | Path | None = None,
    arrays: Mapping[str, Any] | None = None,
    kinds: dict[str, str | dict[str, Any]] | None = None,
    parts: dict[str, str | list[str]] | None = None,
    missing: Literal["nan"] | None = None,
    labels: str | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> MultimodalDataset:
    """Return the data set of a file or folder at `path` (`sources.read_path`), or of `arrays`, a dict.

    Keys of a dict or an .npz: one per modality, and optionally `labels` [N] and `present` bool [N, M], or one
    `present_<modality>` [N] each. The same keys with the prefix `test_` are the test split; without them it is drawn as
    in `from_arrays`. `parts` says which columns of a table form which part, `labels` which column has the classes.
    `modalities` declares each part; else kinds are inferred but for those that `kinds` names, which may be declarations
    too, of all kinds the same keys: {x: {standardise: robust}}. `missing` = nan: NaN means missing in all of them.
    """
    if (path is None) == (arrays is None):
        given = "neither" if path is None else "both"
        raise ConfigError(
            f"arrays: got {given} of path and arrays, expected exactly one; set path to a table, an .npz or a folder"
        )
    what = "arrays" if path is None else expanded(path).name
    if modalities is not None:
        check_declarations(modalities)
    content: Any = arrays if path is None else read_path(path, parts, labels, missing, modalities or kinds)
    wrong = [repr(key) for key in content if not isinstance(key, str)] if isinstance(content, Mapping) else []
    if wrong or not isinstance(content, Mapping):
        got = f"the key {wrong[0]}" if wrong else type(content).__name__
        raise DataError(
            f"arrays: got {got}, expected a dict of arrays by the names of their modalities; quote the names"
        )
    held_out = {key.removeprefix(TEST): array for key, array in content.items() if key.startswith(TEST)}
    train = rows_of({key: array for key, array in content.items() if not key.startswith(TEST)}, what)
    test = rows_of(held_out, f"{what} (test)") if held_out else None
    if kinds is not None:
        instance_of(f"{what}, kinds", kinds, dict, "a dict by part; write kinds={'name': 'counts'}")
    if modalities is None and (unknown := [name for name in kinds or {} if name not in train.views]):
        raise ModalityError(
            f"{what}: got a kind of {unknown[0]!r}, expected one of {', '.join(train.views)}."
            f"{nearest(unknown[0], list(train.views))} Correct it"
        )
    of_source = content.kinds if isinstance(content, Captioned) else {}
    inferred: Declared = {name: _both(of_source.get(name), (kinds or {}).get(name)) for name in train.views}
    declared = declarations(train.views, modalities or inferred, what, missing)
    if isinstance(content, Captioned) and content.repeated:  # no picture is in both splits
        _check_drawn(test_fraction, seed, what)
        held = content.held_out(float(test_fraction), seed)
        _check_rows(train, len(held), what)
        train, test = (_some(train, np.flatnonzero(chosen)) for chosen in (~held, held))
    return from_arrays(train.views, declared, train.labels, train.present, test_fraction, test, seed, what)


def read_data(
    data: Any,
    parts: Columns | None = None,
    kinds: dict[str, str | dict[str, Any]] | None = None,
    missing: Literal["nan"] | None = None,
    labels: Any = None,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> MultimodalDataset:
    """Return the data set of whatever `sources.read_source` reads: a dict of arrays [N, ...], a data frame, a path.

    `parts` says which columns of a table form which part, `labels` the column of classes, or the classes [N]
    themselves; `kinds` and `missing` as in `load_arrays`. What was inferred is said by its `describe()`. A test split
    of your own: parts called test_NAME in a dict or an .npz, or `from_arrays(..., test=Rows({...}))`.
    """
    column = labels if isinstance(labels, str) else None
    content = read_source(data, parts, column, missing, kinds)
    if labels is not None and column is None:
        content["labels"] = labels
        if isinstance(data, Mapping) and any(
            content.get(key) is not of for key, of in data.items()
        ):  # indices are gone
            check_order({key: of for key, of in data.items() if not key.startswith(TEST)}, None, labels, "data")
    return load_arrays(None, None, content, kinds, None, missing, None, test_fraction, seed)


def _both(of_source: Any, declared: Any) -> Any:
    """Return what a source and a user say of a part; where both do, the user's word counts."""
    if isinstance(of_source, Mapping) and isinstance(declared, str | Mapping):
        declared = {"kind": declared} if isinstance(declared, str) else declared
        return declared if declared.get("kind", "picture") != "picture" else {**of_source, **declared}
    return of_source if declared is None else declared


def rows_of(arrays: Mapping[str, Any], what: str) -> Rows:
    """Return arrays [N, ...] of one split by what their keys say: a modality, `labels`, `present` or `present_<name>`;
    DataError where both forms of masks are given.
    """
    masks = {key.removeprefix(MASK): array for key, array in arrays.items() if key.startswith(MASK)}
    if masks and "present" in arrays:
        raise DataError(f"{what}: got both present and {MASK}{next(iter(masks))}, expected one form; drop one of them")
    views = {key: array for key, array in arrays.items() if key not in BESIDE and not key.startswith(MASK)}
    return Rows(views, arrays.get("labels"), masks or arrays.get("present"))


def _check_rows(rows: Rows, n: int, what: str) -> None:
    """Raise DataError unless all arrays have N rows, in one order: before some of them are taken."""
    known = {"labels": rows.labels} if rows.labels is not None else {}
    known |= rows.present if isinstance(rows.present, Mapping) else {"present": rows.present}
    given = {name: of for name, of in {**rows.views, **known}.items() if of is not None}
    lengths = {name: range(of.shape[0] if hasattr(of, "shape") else len(of)) for name, of in given.items()}
    check_lengths({**lengths, "pictures": range(n)}, what)
    check_order(rows.views, rows.present, rows.labels, what)


def _some(rows: Rows, chosen: NDArray[np.intp]) -> Rows:
    """Return some rows of arrays [N, ...] in their order; masks are by name."""
    views = {name: rows_at(of, chosen) for name, of in rows.views.items()}
    of = rows.labels
    labels = None if of is None else rows_at(of if hasattr(of, "iloc") else list(of), chosen)
    masks = rows.present
    if isinstance(masks, Mapping):
        return Rows(views, labels, {name: rows_at(of, chosen) for name, of in masks.items()})
    return Rows(views, labels, None if masks is None else rows_at(masks, chosen))


def declarations(
    views: Mapping[str, Any], modalities: Declared | None, what: str, missing: Literal["nan"] | None = None
) -> dict[str, dict[str, Any]]:
    """Return a declaration with a kind for each of `modalities` (None: for each part of `views`), inferred from the
    values [N, ...] where none is declared. ConfigError says what is wrong with a declaration, DataError of which part
    no kind can be told.
    """
    check_declarations(dict.fromkeys(views) if modalities is None and isinstance(views, Mapping) else modalities)
    found = {}
    for name, of in ({} if modalities is None else modalities).items() or ((name, None) for name in views):
        declared = {"kind": of} if isinstance(of, str) else dict(of or {})
        if "kind" not in declared and name in views:
            declared["kind"] = _inferred(views[name], f"{what}, modality {name!r}")
        found[name] = declared | ({"missing": missing} if missing and "missing" not in declared else {})
    check_declarations(found)
    return found


def _inferred(values: Any, where: str) -> str:
    part = unpack(values, where)
    if part.was != "categories" and (wrong := odd_cells(part.values, part.hidden, part.columns)):
        raise DataError(f"{where}{wrong}")
    for kind in MODALITIES:
        if MODALITIES[kind].infer(part) is not None:
            return kind
    array = part.values
    if array.ndim == 0 and array.dtype != object:
        raise DataError(f"{where}: got a single value, {array!s:.20}, expected one a row; leave it out, or repeat it")
    if array.ndim == 0:
        raise DataError(
            f"{where}: got {type(values).__name__}, which has no rows, expected an array, one row an item; pass "
            "numpy.asarray(list(values))"
        )
    if array.dtype.kind in NOT_NUMBERS:
        got, fix = NOT_NUMBERS[array.dtype.kind]
        raise DataError(f"{where}: got dtype {array.dtype}, {got}, expected numbers or classes; {fix}")
    numeric = array.dtype.kind in "iuf" and array.size > 0
    least, most = (np.nanmin(array), np.nanmax(array)) if numeric else (0, 1)
    span = f" (they lie in [{least:g}, {most:g}])" if numeric else ""
    black, white = (0, 255) if least >= 0 and 1 < most <= 255 else (least, most)
    shown = {
        3: f"of pictures {{kind: picture, layout: hw, range: [{black:g}, {white:g}]}}",
        4: f"of pictures {{kind: picture, layout: hwc, range: [{black:g}, {white:g}]}}, where channels are the second "
        "axis with layout: chw",
    }.get(array.ndim, f"{{kind: {' or '.join(MODALITIES)}}}")
    flat = "; numbers that are no pictures are a vector once flat, array.reshape(len(array), -1)"
    raise DataError(
        f"{where}: got shape {array.shape} of {array.dtype}, expected values whose kind can be told{span}; declare it: "
        f"{shown}{flat if array.ndim > 2 else ''}"
    )


def check_declarations(modalities: Any) -> None:
    """Raise ConfigError with every problem of the declared modalities."""
    if not isinstance(modalities, Mapping):
        got = type(modalities).__name__
        raise ConfigError(f"arrays.modalities: got {got}, expected declarations by name, as {{name: {{kind: vector}}}}")
    problems = [] if modalities else ["arrays.modalities: got none, expected at least one; declare name: {kind: ...}"]
    for name, declared in modalities.items():
        where = f"arrays.modalities.{name}"
        if problem := name_problem(name):
            problems.append(f"{where}: {problem}")
        of = {"kind": declared} if isinstance(declared, str) else {} if declared is None else declared
        if not isinstance(of, Mapping):
            problems.append(f"{where}: got {declared!r}, expected a declaration such as {{kind: vector}}; correct it")
        elif (kind := of.get("kind")) not in [None, *MODALITIES]:
            problems.append(f"{where}.kind: got {kind!r}, expected {' or '.join(MODALITIES)}; declare it")
        elif kind:
            problems += MODALITIES[of["kind"]].declaration_problems(where, of)
    if problems:
        raise ConfigError(problems)


def _checked(rows: Rows, modalities: Mapping[str, Mapping[str, Any]], kinds: dict[str, Modality], what: str) -> Split:
    """Return one split of checked arrays [N, ...] without labels, copied. Modalities new to `kinds` are put there."""
    # of what has not been handed over no kind is known
    numbers = {name: "kind" in of and MODALITIES[of["kind"]].numbers for name, of in modalities.items()}
    gaps = [name for name, of in modalities.items() if of.get("missing")]
    given = read_arrays(rows.views, numbers, what, rows.present, rows.labels, gaps=gaps)
    if missing := [name for name in modalities if name not in given]:
        raise ModalityError(
            f"{what}: got no array for modality {missing[0]!r}, expected one for each of {', '.join(modalities)}; "
            f"supply it (entries that are missing are marked in `present`)"
        )
    for name, declared in modalities.items():
        if name not in kinds:
            kind = MODALITIES[declared["kind"]]
            part, shown = given[name], read_present(rows.present, list(modalities), len(given[name].values), what)
            if rows.present is not None:  # what is hidden may be anything, and is no class
                hidden = ~shown[:, list(modalities).index(name)].reshape(-1, *[1] * (part.values.ndim - 1))
                part = part._replace(masked=part.hidden | hidden)
            kinds[name] = kind.declare(name, declared, part, f"{what}, modality {name!r}")
        given[name] = kinds[name].hide(given[name])
    there = read_presence(given, rows.present, {name: m.lacks_cells for name, m in kinds.items()}, what)
    views = {}
    for i, name in enumerate(modalities):
        where = f"{what}, modality {name!r}"
        views[name] = kinds[name].read(given[name], there[:, i], where)
    return Split(views, torch.from_numpy(there), rows=torch.arange(len(there)))
