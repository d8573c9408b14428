"""What missing parts cost: methods trained on PolyDigits with 0, 20, 50 and 80 % of parts hidden at random.

    python scripts/missing_table.py [--budget 180] [--seeds 1] [--shares 0 0.2 0.5 0.8] [--out results/missing]

Every cell has the same time to train; the same parts are hidden for all methods of a seed. What is measured is
complete: joint samples, and completions of test items from one part. Cells are made once.
"""

import argparse
from pathlib import Path

import matplotlib
from cells import processor

from multiebm.experiments.compare import Cell, compare, entry

ROWS = ("combined", "mmvaeplus", "mopoe", "mvtcae")
SHOWN = {
    "gen/joint_coherence": "joint coherence",
    "ebm/joint_coherence": "joint coherence, EBM",
    "cond/size1": "conditional coherence",
    "gen/fcd": "fcd",
    "ebm/fcd": "fcd, EBM",
    "gen/label_entropy": "label entropy",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=float, default=180.0, help="seconds of training a cell")
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0 to N - 1")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.2, 0.5, 0.8], help="parts hidden")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), help="methods, as `multiebm compare` takes them")
    parser.add_argument("--data", default="polydigits", help="preset that names the data")
    parser.add_argument("--out", type=Path, default=Path("results/missing"))
    args = parser.parse_args()
    found: dict[float, list[Cell]] = {}
    for share in args.shares:
        folder = args.out / f"hidden-{share:g}"
        found[share] = compare(args.rows, args.data, args.budget, args.seeds, folder, [f"data.missing={share}"])
        write(found, args)


def write(found: dict[float, list[Cell]], args: argparse.Namespace) -> None:
    """Write README.md and curves.png from the cells by share of hidden parts."""
    lines = [f"| row | hidden | steps | {' | '.join(SHOWN.values())} |", "|---" * (len(SHOWN) + 3) + "|"]
    for row in args.rows:
        for share, cells in found.items():
            own = [cell for cell in cells if cell.row == row]
            values = [
                entry([c.measured[m] for c in own if m in c.measured], 1 if m.endswith("fcd") else 3) for m in SHOWN
            ]
            steps = entry([float(cell.steps) for cell in own], 0)
            lines.append(f"| {row} | {share:.0%} | {steps} | {' | '.join(values)} |")
    text = ["# Training on incomplete items", "", " ".join(__doc__.split("\n\n")[2].split()), "", *lines, ""]
    text += ["![coherence against the share of hidden parts](curves.png)", ""]
    text += [f"{args.budget:.0f} s of training each, {args.seeds} seed(s); {processor()}.", ""]
    (args.out / "README.md").write_text("\n".join(text))
    draw(found, args.rows, args.out / "curves.png")


def draw(found: dict[float, list[Cell]], rows: list[str], path: Path) -> None:
    """Draw joint and conditional coherence against the share of hidden parts, mean over seeds."""
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for axis, metric in zip(axes, ("gen/joint_coherence", "cond/size1"), strict=True):
        for row in rows:
            means = []
            for cells in found.values():
                own = [cell.measured[metric] for cell in cells if cell.row == row]
                means.append(sum(own) / len(own))
            axis.plot([100 * share for share in found], means, marker="o", label=row)
        axis.set(xlabel="parts hidden from training, %", ylabel=SHOWN[metric], ylim=(0, 1))
    axes[0].legend()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
