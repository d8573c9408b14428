"""How large the tilt of an energy prior has to be: units D, layers L and chain steps S of MVEBM on PolyDigits.

    python scripts/prior_ablation.py [--budget 180] [--seeds 1] [--out results/prior-ablation]

The grid of the paper's ablation (ECCV 2024) at reduced size: every cell trains the row mvebm
for the same time, so that larger tilts make fewer steps; the first line has no tilt. Cells are made once.
"""

import argparse
from pathlib import Path

from cells import processor

from multiebm.experiments.compare import Column, compare, entry, summary

GRID = {  # D, L, S
    "no tilt": ("model.prior.kind=laplace",),
    **{
        f"D {d}, L {layers}, S {s}": (
            f"model.prior.width={d}",
            f"model.prior.layers={layers}",
            f"model.prior.steps={s}",
        )
        for d, layers, s in ((200, 4, 50), (200, 6, 50), (400, 4, 30), (400, 4, 50))
    },
}
PUBLISHED = {  # joint and cross coherence on PolyMNIST at 28 pixels, for comparison of the order
    "no tilt": (0.232, 0.844),
    "D 200, L 4, S 50": (0.574, 0.842),
    "D 200, L 6, S 50": (0.645, 0.832),
    "D 400, L 4, S 30": (0.683, 0.845),
    "D 400, L 4, S 50": (0.746, 0.853),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=float, default=180.0, help="seconds of training a cell")
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0 to N - 1")
    parser.add_argument("--data", default="polydigits", help="preset that names the data")
    parser.add_argument("--out", type=Path, default=Path("results/prior-ablation"))
    args = parser.parse_args()
    lines: list[str] = []
    for name, changes in GRID.items():
        folder = args.out / name.replace(", ", "-").replace(" ", "")
        cells = compare(["mvebm"], args.data, args.budget, args.seeds, folder, changes)
        columns, rows = summary(cells)
        lines = lines or _head(columns)
        values = [entry(v, c.digits) for v, c in zip(rows["mvebm"], columns, strict=True)]
        lines.append(f"| {name} | {' | '.join(values)} | {PUBLISHED[name][0]} / {PUBLISHED[name][1]} |")
        text = ["# Units, layers and steps of the tilt", "", " ".join(__doc__.split("\n\n")[2].split()), "", *lines, ""]
        text += [f"{args.budget:.0f} s of training each, {args.seeds} seed(s); {processor()}.", ""]
        (args.out / "README.md").write_text("\n".join(text))


def _head(columns: list[Column]) -> list[str]:
    titles = " | ".join(column.title for column in columns)
    return [f"| tilt | {titles} | published, joint / cross |", "|---" * (len(columns) + 2) + "|"]


if __name__ == "__main__":
    main()
