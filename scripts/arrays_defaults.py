"""How the defaults of the preset `arrays` are chosen: candidates on small data of vectors and pictures, by validation.

    python scripts/arrays_defaults.py [--candidates NAME ...] [--data NAME ...] [--out results/arrays]

Each part is filled in from the others on validation rows, a fifth of the rows; the test rows are another fifth, read
once for the candidate that was chosen (`--final`). The error is the root mean square in standard deviations of the
training rows, for the mean of 16 draws. Beside it stand ridge regression and ten nearest neighbours on the same rows.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cells import processor
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import RidgeCV
from sklearn.neighbors import KNeighborsRegressor

import multiebm
from multiebm.data.arrays import Rows

Array = NDArray[Any]
Parts = dict[str, Array]
DRAWS = 16  # completions that are averaged
VECTOR: dict[str, Any] = {"kind": "vector"}
PICTURE: dict[str, Any] = {"kind": "picture", "layout": "chw"}
BOUND, COOPERATIVE, SETTLE = (f"training.phases.{kind}" for kind in ("bound", "cooperative", "settle"))
CANDIDATES: dict[str, list[str]] = {
    "demo": [],  # the settings that the preset had from the digits
    "plain prior": ["model.temperature=1", f"{SETTLE}.widen_base=1"],
}


def cancer() -> tuple[Parts, dict[str, Any]]:
    """Breast cancer: 569 rows, thirty numbers in two views of fifteen."""
    x = load_breast_cancer().data
    return {"one": x[:, :15], "other": x[:, 15:]}, {"one": VECTOR, "other": VECTOR}


def sensors() -> tuple[Parts, dict[str, Any]]:
    """Three hidden numbers behind three sensors of 6, 4 and 3 readings, nonlinear and noisy: 2,000 rows."""
    draws = np.random.default_rng(0)
    hidden = draws.standard_normal((2000, 3))
    parts = {}
    for name, n in (("temperature", 6), ("pressure", 4), ("flow", 3)):
        mixed = hidden @ draws.standard_normal((3, n))
        parts[name] = mixed + 0.5 * np.sin(2 * mixed) + 0.3 * draws.standard_normal(mixed.shape)
    return parts, dict.fromkeys(parts, VECTOR)


def digits(kind: str) -> tuple[Parts, dict[str, Any]]:
    """Upper and lower halves of scikit-learn's digits, as vectors or as pictures of 4 x 8 pixels: 1,797 rows."""
    x = load_digits().images
    if kind == "vector":
        return {"upper": x[:, :4].reshape(-1, 32), "lower": x[:, 4:].reshape(-1, 32)}, {
            "upper": VECTOR,
            "lower": VECTOR,
        }
    halves = {"upper": x[:, None, :4] / 16, "lower": x[:, None, 4:] / 16}
    return {name: half.astype(np.float32) for name, half in halves.items()}, {"upper": PICTURE, "lower": PICTURE}


def mixed() -> tuple[Parts, dict[str, Any]]:
    """A digit's picture, 8 x 8, and a vector of the ten class scores of a linear map of it, noisy: 1,797 rows."""
    found = load_digits()
    scores = np.eye(10)[found.target] + 0.3 * np.random.default_rng(0).standard_normal((len(found.target), 10))
    return {"photo": (found.images[:, None] / 16).astype(np.float32), "scores": scores}, {
        "photo": PICTURE,
        "scores": VECTOR,
    }


DATA = {
    "cancer": cancer,
    "sensors": sensors,
    "digits, vectors": lambda: digits("vector"),
    "digits, pictures": lambda: digits("picture"),
    "picture and vector": mixed,
}


def split(n: int) -> tuple[Array, Array, Array]:
    """Return the rows of training, validation and test: three, one and one fifth."""
    order = np.random.default_rng(1).permutation(n)
    return order[: 3 * n // 5], order[3 * n // 5 : 4 * n // 5], order[4 * n // 5 :]


def errors(fill: Any, parts: Parts, train: Array, rows: Array) -> dict[str, float]:
    """Return the error of every part, filled in from the others by `fill(name, given)`, in standard deviations."""
    found = {}
    for name, values in parts.items():
        given = {other: value[rows] for other, value in parts.items() if other != name}
        at, spread = values[train].mean(0), values[train].std(0)
        off = (fill(name, given) - values[rows]) / np.where(spread > 1e-6, spread, 1)
        found[name] = float(np.sqrt(np.mean(off[:, spread > 1e-6] ** 2)))
        assert at.shape == spread.shape
    return found


def by_regression(make: Any, parts: Parts, train: Array) -> Any:
    """Return the filler of a regression of each part on all numbers of the others, standardised."""

    def flat(of: Parts) -> Array:
        return np.concatenate([value.reshape(len(value), -1) for value in of.values()], 1)

    def fill(name: str, given: Parts) -> Array:
        x = flat({other: parts[other][train] for other in given})
        at, spread = x.mean(0), x.std(0) + 1e-9
        y = parts[name][train].reshape(len(train), -1)
        y_at, y_spread = y.mean(0), y.std(0) + 1e-9
        model = make().fit((x - at) / spread, (y - y_at) / y_spread)
        return (model.predict((flat(given) - at) / spread) * y_spread + y_at).reshape(-1, *parts[name].shape[1:])

    return fill


def by_model(model: Any) -> Any:
    """Return the filler of a model: the mean of DRAWS completions."""

    def fill(name: str, given: Parts) -> Array:
        draws = [model.impute(given, want=[name], seed=seed)[name] for seed in range(DRAWS)]
        return torch.stack(draws).mean(0).numpy()

    return fill


def measured(data: str, candidate: str, final: bool) -> dict[str, Any]:
    """Train one candidate on one set of data and return its errors and seconds; `final`: on the test rows."""
    parts, declared = DATA[data]()
    train, validation, test = split(len(next(iter(parts.values()))))
    rows = test if final else validation
    cut = {name: value[train] for name, value in parts.items()}
    held = {name: value[rows] for name, value in parts.items()}
    dataset = multiebm.from_arrays(cut, declared, test=Rows(held))
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        overrides = ["training.precision=fp32", *CANDIDATES[candidate]]
        model = multiebm.train("arrays", Path(folder) / "run", overrides, dataset=dataset, progress=False)
    seconds = time.perf_counter() - began
    cell = {
        "data": data,
        "candidate": candidate,
        "rows": "test" if final else "validation",
        "seconds": round(seconds, 1),
    }
    return cell | {"rmse": errors(by_model(model), parts, train, rows)}


def beside(data: str, final: bool) -> list[dict[str, Any]]:
    """Return the errors of ridge regression and of nearest neighbours on the same rows."""
    parts, _ = DATA[data]()
    train, validation, test = split(len(next(iter(parts.values()))))
    rows = test if final else validation
    each = {"ridge": lambda: RidgeCV(np.logspace(-2, 4, 13)), "10 neighbours": lambda: KNeighborsRegressor(10)}
    return [
        {"data": data, "candidate": name, "rows": "test" if final else "validation", "seconds": 0.0}
        | {"rmse": errors(by_regression(make, parts, train), parts, train, rows)}
        for name, make in each.items()
    ]


def table(cells: list[dict[str, Any]]) -> list[str]:
    """Return the lines of a table: a row a candidate, a column a set of data, the mean error over its parts."""
    data = [name for name in DATA if any(cell["data"] == name for cell in cells)]
    lines = [f"| | {' | '.join(data)} | seconds |", "|---" * (len(data) + 2) + "|"]
    for candidate in dict.fromkeys(cell["candidate"] for cell in cells):
        own = {cell["data"]: cell for cell in cells if cell["candidate"] == candidate}
        shown = [f"{np.mean(list(own[name]['rmse'].values())):.3f}" if name in own else "—" for name in data]
        lines.append(f"| {candidate} | {' | '.join(shown)} | {sum(cell['seconds'] for cell in own.values()):.0f} |")
    return lines


def main() -> None:
    """Measure what is asked for and not there yet; write cells.json and table.md into the folder `--out`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", nargs="*", default=list(CANDIDATES))
    parser.add_argument("--data", nargs="*", default=list(DATA), choices=list(DATA))
    parser.add_argument("--final", action="store_true", help="on the test rows: for the candidate that was chosen")
    parser.add_argument("--out", type=Path, default=Path("results/arrays"))
    given = parser.parse_args()
    file = given.out / "cells.json"
    cells = json.loads(file.read_text()) if file.exists() else []
    given.out.mkdir(parents=True, exist_ok=True)
    rows = "test" if given.final else "validation"
    for data in given.data:
        for candidate in ("beside", *given.candidates):
            if any((c["data"], c["candidate"], c["rows"]) == (data, candidate, rows) for c in cells):
                continue
            if candidate == "beside":
                known = [c for c in cells if (c["data"], c["rows"]) == (data, rows)]
                cells += [] if any(c["candidate"] == "ridge" for c in known) else beside(data, given.final)
            else:
                cells.append(measured(data, candidate, given.final))
                print(data, candidate, cells[-1]["rmse"], cells[-1]["seconds"], flush=True)
            file.write_text(json.dumps(cells, indent=1) + "\n")
    lines = table([cell for cell in cells if cell["rows"] == rows])
    (given.out / f"{rows}.md").write_text("\n".join([f"# {rows} rows", "", *lines, "", processor()]) + "\n")


if __name__ == "__main__":
    main()
