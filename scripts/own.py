"""The suite `own`: how well the default for own data fills in parts, beside regression and neighbours.

    python scripts/own.py [--sets NAME ...] [--seeds 0 1 2] [--method own] [--set KEY=VALUE ...] [--validation]

A fifth of the rows, drawn by the seed, is for testing, a fifth for validation, and the rest is trained on, with the
rows for validation unless they are what is measured (`--validation`: this is how defaults were chosen). Each part is
filled in from all others by the mean of DRAWS completions; errors are root mean squares in standard deviations of
training, of categories those of probabilities. Cells are kept in results/own/METHOD.json, and results/own.md is written
of them.
"""

import json
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cells import Kept, parser_of, processor
from own_sets import NUMBERS, SETS, length, rows_of

import multiebm
from multiebm.data import Rows
from multiebm.evaluation import belonging, filling, regressions
from multiebm.evaluation.measurement import Measurement
from multiebm.evaluation.result import MATCH, SCORE, EvaluationSettings
from multiebm.modalities.base import Modality

DRAWS = 100
WORSE = 1.03  # times the error of the better of regression and neighbours that is no worse than these


def dataset_of(name: str, seed: int, validation: bool) -> Any:
    """Return a set's rows, split by the seed."""
    parts, declared = SETS[name]()
    n = length(parts)
    order = np.random.default_rng(seed).permutation(n)
    train, held, test = order[: 3 * n // 5], order[3 * n // 5 : 4 * n // 5], order[4 * n // 5 :]
    if not validation:
        train, held = np.concatenate([train, held]), test
    kinds = {part: declared.get(part, NUMBERS) for part in parts}
    return multiebm.from_arrays(rows_of(parts, train), kinds, test=Rows(rows_of(parts, held)), name=name)


def filled(m: Measurement, part: str) -> dict[str, float]:
    """Return the errors of one part, filled in from all others, by the model, regression, neighbours and the mean."""
    modality = m.dataset.modalities[part]
    others = tuple(name for name in m.dataset.modalities if name != part)
    items = filling.rows_with(m, "test", part, others)
    whole = m.dataset.batch("test", items)
    true = modality.judged(whole.views[part])
    hidden = whole._replace(present=whole.present & torch.tensor([name in others for name in whole.views]))
    beside, spread = regressions.predictions(m, part, others, hidden)
    own = filling.completions(m, "test", part, others, items)

    def error(predicted: Any) -> float:
        return float(Modality.errors(modality, true, predicted, spread)["rmse"].nanmean().sqrt())

    found = {"model": error(own["predicted"]), **{name: error(of) for name, of in beside.items()}}
    return found | {name: float(own[name].nanmean()) for name in filling.INSIDE if name in own}


def cell(name: str, seed: int, method: str, overrides: list[str], validation: bool) -> dict[str, Any]:
    """Train one model and return what was measured."""
    data = dataset_of(name, seed, validation)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        settings = [f"seed={seed}", *overrides]
        model = multiebm.train(method, Path(folder) / "run", settings, dataset=data, progress=False, device="cpu")
    seconds = time.perf_counter() - began
    m = Measurement(model, data, None, EvaluationSettings(items=1000), seed)
    ratings = {kind: belonging.belonging(m, kind).get(kind) for kind in (MATCH, SCORE)}
    return {
        "set": name,
        "seed": seed,
        "rows": len(data.train),
        "seconds": round(seconds, 1),
        "parts": {part: filled(m, part) for part in data.modalities},
        **{kind: None if found is None else found.value for kind, found in ratings.items()},
    }


def ratio(of: dict[str, Any]) -> float:
    """Return the model's error over that of the better of regression and neighbours, the mean over parts."""
    parts = of["parts"].values()
    return float(np.mean([part["model"] / min(part["regression"], part["neighbours"]) for part in parts]))


def lines(cells: list[dict[str, Any]], method: str) -> list[str]:
    """Return the page."""
    head = ["set", "rows", "ratio", "model", "regression", "neighbours", "inside 90 %", "match", "score", "seconds"]
    found = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    ratios = {}
    for name in dict.fromkeys(of["set"] for of in cells):
        own = [of for of in cells if of["set"] == name]
        parts = [part for of in own for part in of["parts"].values()]
        ratios[name] = float(np.mean([ratio(of) for of in own]))
        errors = [f"{np.mean([part[key] for part in parts]):.3f}" for key in ("model", "regression", "neighbours")]
        inside = [part["coverage90"] for part in parts if "coverage90" in part]
        ratings = [[of[kind] for of in own if of[kind] is not None] for kind in (MATCH, SCORE)]
        shown = [f"{np.mean(of):.2f}" if of else "" for of in (inside, *ratings)]
        seconds = f"{np.mean([of['seconds'] for of in own]):.0f}"
        found.append(f"| {' | '.join([name, str(own[0]['rows']), f'{ratios[name]:.3f}', *errors, *shown, seconds])} |")
    every = [part["coverage90"] for of in cells for part in of["parts"].values() if "coverage90" in part]
    ratings = [f"{np.mean([of[kind] for of in cells if of[kind] is not None]):.3f}" for kind in (MATCH, SCORE)]
    beyond = [f"{name} ({value:.2f})" for name, value in ratios.items() if value > WORSE]
    return [
        *found,
        "",
        f"`{method}`: the mean ratio over {len(ratios)} sets is {np.mean(list(ratios.values())):.3f}; above {WORSE} "
        f"are {', '.join(beyond) or 'none'}. 90 % intervals hold {np.mean(every):.3f} of values. The area under the "
        f"curve of mismatched rows is {ratings[0]} by `match` and {ratings[1]} by `score`.",
    ]


def main() -> None:
    """Measure what is asked for and not there yet; write the cells and the page."""
    parser = parser_of(__doc__, SETS, SETS)
    parser.add_argument("--method", default="own")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--validation", action="store_true", help="measure the rows for validation, into no page")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    filling.DRAWS = DRAWS
    cells = Kept(None if given.validation else given.out / "own" / f"{given.method}.json")
    for name in given.sets:
        for seed in given.seeds:
            if not cells.has(set=name, seed=seed):
                cells.add(cell(name, seed, given.method, given.overrides, given.validation))
    print("\n".join(lines(cells, given.method)))
    if not given.validation:
        write_page(given.out)


def write_page(folder: Path) -> None:
    """Write own.md of all methods there are cells of, the default first."""
    text = (__doc__ or "").split("\n\n")
    page = ["# The suite of own data", "", *text[2].splitlines(), "", f"`{text[1].strip()}`", ""]
    for kept in sorted((folder / "own").glob("*.json"), key=lambda path: (path.stem != "own", path.stem)):
        page += [f"## {kept.stem}", "", *lines(json.loads(kept.read_text()), kept.stem), ""]
    notes = folder / "own" / "NOTES.md"
    page += [notes.read_text().rstrip(), ""] if notes.exists() else []
    (folder / "own.md").write_text("\n".join([*page, f"One thread of {processor()}."]) + "\n")


if __name__ == "__main__":
    main()
