"""How large the tilt of an energy prior has to be: units D, layers L and chain steps S of MVEBM on PolyDigits.

    python scripts/prior_ablation.py [--budget 180] [--seeds 1] [--inside] [--out results/prior-ablation]

The grid of the paper's ablation (ECCV 2024) at reduced size: every cell trains the row mvebm for the same time, so that
larger tilts make fewer steps; the first line has no tilt.

The lines after the grid (`--inside`) have D 200, L 4, S 50 with the tilt inside the bound, as the paper has it:
encoders get its gradient from the step on from which it learns; the last has it outside as the grid does, with normal
experts and base.

Cells are made once; NOTES.md in the folder is appended.
"""

import argparse
import re
from pathlib import Path

from cells import notes_of, processor

from multiebm.experiments.compare import Cell, compare, entry, summary

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
_INSIDE = ("model.prior.in_bound=true", "training.optimiser.prior=5e-4")
_NORMAL = ("model.family=normal", "model.scale_map=log_variance")
VARIANTS = {
    "inside": _INSIDE,
    "inside, f within 10": (_INSIDE[0], "model.prior.bound=10"),
    "inside, penalty 0.03": (_INSIDE[0], "model.prior.penalty=0.03", "training.optimiser.prior=1e-3"),
    "inside, normal base": (*_INSIDE, *_NORMAL),
    "outside, normal base": _NORMAL,
}
PUBLISHED = {  # joint and cross coherence on PolyMNIST at 28 pixels, for comparison of the order
    "no tilt": "0.232 / 0.844",
    "D 200, L 4, S 50": "0.574 / 0.842",
    "D 200, L 6, S 50": "0.645 / 0.832",
    "D 400, L 4, S 30": "0.683 / 0.845",
    "D 400, L 4, S 50": "0.746 / 0.853",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=float, default=180.0, help="seconds of training a cell")
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0 to N - 1")
    parser.add_argument("--data", default="polydigits", help="preset that names the data")
    parser.add_argument("--inside", action="store_true", help="after the grid, tilts inside the bound")
    parser.add_argument("--out", type=Path, default=Path("results/prior-ablation"))
    args = parser.parse_args()
    found: list[Cell] = []
    for name, changes in (GRID | (VARIANTS if args.inside else {})).items():
        folder = args.out / re.sub(r"\W+", "-", name)
        cells = compare(["mvebm"], args.data, args.budget, args.seeds, folder, changes)
        found += [cell._replace(row=name) for cell in cells]
        write(found, args)


def write(found: list[Cell], args: argparse.Namespace) -> None:
    """Write README.md from the cells, whose rows are the names of tilts; runs that diverged are named beneath."""
    columns, rows = summary(found)
    titles = ["tilt", *(column.title for column in columns), "published, joint / cross"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name, values in rows.items():
        shown = [entry(v, column.digits) for v, column in zip(values, columns, strict=True)]
        lines.append(f"| {' | '.join([name, *shown, PUBLISHED.get(name, '—')])} |")
    inside = " --inside" if args.inside else ""
    command = f"    python scripts/prior_ablation.py --budget {args.budget:g} --seeds {args.seeds}{inside} --out FOLDER"
    about = [" ".join(p.split()) for p in __doc__.split("\n\n")[2 : 4 if args.inside else 3]]
    text = ["# Units, layers and steps of the tilt", "", command, "", *about, "", *lines, ""]
    text += [line for cell in found if cell.diverged for line in (cell.message(), "")]
    text += [f"A budget of {args.budget:.0f} s of training each, {args.seeds} seed(s); {processor()}."]
    text += [*notes_of(args.out), ""]
    (args.out / "README.md").write_text("\n".join(text))


if __name__ == "__main__":
    main()
