"""Gaps of tables filled in: `multiebm.Imputer` beside scikit-learn's IterativeImputer and KNNImputer.

    python scripts/imputers.py [--sets NAME ...] [--seeds 0 1 2] [--out results]

A fifth of the cells, or of the parts of rows, is hidden from the whole table. Each imputer fits the table as it is then
and fills it in. Errors are root mean squares of hidden cells, in standard deviations of their columns. Tables are the
parts of the sets of `own_sets.py` that are numbers. All have their defaults.
"""

import time
import warnings
from typing import Any

import numpy as np
from cells import Kept, parser_of, processor
from own_sets import SETS
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

import multiebm

TABLES = [
    "cancer",
    "wine",
    "diabetes",
    "iris",
    "linnerud",
    "digit halves",
    "penguins",
    "cars",
    "crime",
    "sensors",
    "factors",
]
HIDDEN = 0.2
IMPUTERS: dict[str, Any] = {
    "multiebm": lambda places, seed: multiebm.Imputer(parts=places, random_state=seed),
    "IterativeImputer": lambda places, seed: IterativeImputer(random_state=seed),
    "KNNImputer": lambda places, seed: KNNImputer(),
    "mean": lambda places, seed: SimpleImputer(),
}


def table_of(name: str) -> tuple[np.ndarray, dict[str, list[int]]]:
    """Return the numbers of a set as a table, and the places of each part's columns."""
    parts, declared = SETS[name]()
    numbers = {
        k: np.asarray(v, float) for k, v in parts.items() if declared.get(k, {}).get("kind", "vector") == "vector"
    }
    ends = np.cumsum([0, *(of.shape[1] for of in numbers.values())])
    places = {k: list(range(a, b)) for k, a, b in zip(numbers, ends, ends[1:], strict=False)}
    return np.concatenate(list(numbers.values()), 1), places


def hidden(table: np.ndarray, places: dict[str, list[int]], what: str, seed: int) -> np.ndarray:
    """Return which cells are hidden, of those there are; a row keeps one part, or one cell."""
    draws = np.random.default_rng(seed)
    units = list(places.values()) if what == "parts" else [[j] for j in range(table.shape[1])]
    lots = draws.random((len(table), len(units)))
    lots[np.arange(len(table)), lots.argmax(1)] = 1
    found = np.zeros(table.shape, bool)
    for unit, lot in zip(units, lots.T, strict=True):
        found[np.ix_(lot < HIDDEN, unit)] = True
    return found & ~np.isnan(table)


def main() -> None:
    """Measure what is not there yet; write the cells and the page."""
    given = parser_of(__doc__, TABLES, SETS).parse_args()
    cells = Kept(given.out / "imputers" / "cells.json")
    for name in given.sets:
        table, places = table_of(name)
        spread = np.nanstd(table, 0)
        for seed in given.seeds:
            for what in ("cells", "parts"):
                if cells.has(set=name, seed=seed, hidden=what):
                    continue
                gone = hidden(table, places, what, seed)
                seen, errors, seconds = np.where(gone, np.nan, table), {}, {}
                for label, make in IMPUTERS.items():
                    began = time.perf_counter()
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        filled = make(places, seed).fit_transform(seen)
                    seconds[label] = round(time.perf_counter() - began, 1)
                    errors[label] = float(
                        np.sqrt(np.mean(((filled - table) / np.where(spread > 0, spread, 1))[gone] ** 2))
                    )
                cells.add({"set": name, "seed": seed, "hidden": what, "rmse": errors, "seconds": seconds})
    page = [
        "# Gaps of tables",
        "",
        *(__doc__ or "").strip().split("\n\n")[2].splitlines(),
        "",
        "`python scripts/imputers.py`",
    ]
    for what in ("cells", "parts"):
        page += ["", f"## A fifth of the {what} hidden", "", f"| set | {' | '.join(IMPUTERS)} | seconds of ours |"]
        page += ["|---" * (len(IMPUTERS) + 2) + "|"]
        for name in cells.sets():
            own = [of for of in cells if (of["set"], of["hidden"]) == (name, what)]
            shown = [f"{np.mean([of['rmse'][label] for of in own]):.3f}" for label in IMPUTERS]
            took = np.mean([of["seconds"]["multiebm"] for of in own])
            page.append(f"| {name} | {' | '.join(shown)} | {took:.0f} |")
        every = [of for of in cells if of["hidden"] == what]
        shown = [f"{np.mean([of['rmse'][label] for of in every]):.3f}" for label in IMPUTERS]
        page.append(f"| mean | {' | '.join(shown)} | |")
    (given.out / "imputers.md").write_text(
        "\n".join([*page, "", f"One thread of {processor()}; seeds {sorted({of['seed'] for of in cells})}."]) + "\n"
    )


if __name__ == "__main__":
    main()
