"""What missing parts cost: methods trained on PolyDigits with each part hidden at random by chance 0, 20, 50 and 80 %.

    python scripts/missing_table.py [--budget 180] [--seeds 1] [--shares 0 0.2 0.5 0.8] [--out results/missing]

Every cell has the same time to train. The same parts are hidden for all methods of a seed. Every item keeps one part,
so a little less than the chance is hidden; the column "hidden" has the share. Measures need no incomplete items: they
read joint samples, and completions of test items from one part. Cells are made once; NOTES.md in the folder is
appended.
"""

import argparse
from pathlib import Path
from statistics import fmean

import matplotlib
from cells import notes_of, processor

from multiebm.experiments.build import build_dataset, training_data
from multiebm.experiments.compare import Cell, compare, entry
from multiebm.experiments.load import load_experiment

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
    parser.add_argument(
        "--shares", type=float, nargs="+", default=[0.0, 0.2, 0.5, 0.8], help="chance of a part to be hidden"
    )
    parser.add_argument("--rows", nargs="+", default=list(ROWS), help="methods, as `multiebm compare` takes them")
    parser.add_argument("--data", default="polydigits", help="preset that names the data")
    parser.add_argument("--out", type=Path, default=Path("results/missing"))
    args = parser.parse_args()
    found: dict[float, list[Cell]] = {}
    for share in args.shares:
        folder = args.out / f"hidden-{share:g}"
        found[share] = compare(args.rows, args.data, args.budget, args.seeds, folder, [f"data.missing={share}"])
        write(found, args)


def share_hidden(data: str, chance: float) -> float:
    """Return the share of the parts of the training split that seed 0 hides."""
    section = load_experiment(data).data
    present = training_data(build_dataset(section), chance, seed=0).train.present
    return 1 - present.float().mean().item()


def write(found: dict[float, list[Cell]], args: argparse.Namespace) -> None:
    """Write README.md and curves.png from the cells by chance of a part to be hidden; runs that diverged are named."""
    hidden = {chance: share_hidden(args.data, chance) for chance in found}
    titles = ["row", "chance", "hidden", "seconds", "steps", *SHOWN.values()]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in args.rows:
        for chance, cells in found.items():
            values = [cell.values() for cell in cells if cell.row == row]
            took = entry([cell.seconds for cell in cells if cell.row == row], 0)
            shown = [
                entry([v[m] for v in values if m in v], 0 if m == "steps" else 1 if m.endswith("fcd") else 3)
                for m in ("steps", *SHOWN)
            ]
            lines.append(f"| {row} | {chance:.0%} | {hidden[chance]:.1%} | {took} | {' | '.join(shown)} |")
    command = f"    python scripts/missing_table.py --budget {args.budget:g} --seeds {args.seeds} --out FOLDER"
    about = " ".join(__doc__.split("\n\n")[2].split())
    text = ["# Training on incomplete items", "", command, "", about, "", *lines, ""]
    text += [line for cells in found.values() for cell in cells if cell.diverged for line in (cell.message(), "")]
    text += ["![coherence against the share of hidden parts](curves.png)", ""]
    text += [f"A budget of {args.budget:.0f} s of training each, {args.seeds} seed(s); {processor()}."]
    text += [*notes_of(args.out), ""]
    (args.out / "README.md").write_text("\n".join(text))
    draw(found, hidden, args.rows, args.out / "curves.png")


def draw(found: dict[float, list[Cell]], hidden: dict[float, float], rows: list[str], path: Path) -> None:
    """Draw joint and conditional coherence against the share of hidden parts, mean over seeds."""
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for axis, metric in zip(axes, ("gen/joint_coherence", "cond/size1"), strict=True):
        for row in rows:
            own = {
                c: [cell.measured[metric] for cell in found[c] if cell.row == row and not cell.diverged] for c in found
            }
            points = [(100 * hidden[chance], fmean(values)) for chance, values in own.items() if values]
            if points:
                axis.plot(*zip(*points, strict=True), marker="o", label=row)
        axis.set(xlabel="parts hidden from training, %", ylabel=SHOWN[metric], ylim=(0, 1))
    axes[0].legend()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
