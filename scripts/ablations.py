"""Three ablations of cooperative learning on PolyDigits beside the whole method, at equal numbers of steps.

    python scripts/ablations.py [--rows ROW ...] [--seeds 0] [--steps 1000] [--out results] [--runs runs] [--quick]

Every cell (row, seed) is one run of `multiebm train` with a shipped preset and the settings of ROWS; its log has a line
for each step. Cells are kept under OUT/ablations and not made again; each call writes OUT/ablations.md and
OUT/ablations/curves.png from the cells there are. --quick makes a few steps on few items, without judges, into a folder
that is thrown away. One process; with one thread its CPU seconds are its cost.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from cells import is_made, notes_of, processor, spread, write_cell

from multiebm.core.errors import DivergenceError
from multiebm.core.keys import METRICS
from multiebm.evaluation.learning import WINDOW, fluctuation
from multiebm.evaluation.metrics import quick_look
from multiebm.experiments.build import build_dataset
from multiebm.experiments.load import load_experiment
from multiebm.experiments.measure import judges_of
from multiebm.experiments.run import run_experiment
from multiebm.experiments.schema import Experiment

matplotlib.use("agg")
STEPS, POINTS = 1000, 5  # steps of every row; places along it at which its loss is printed
QUICK = ("data.settings.train_tuples=64", "data.settings.test_tuples=20", "training.batch_size=4")


class Row(NamedTuple):
    """A title, the preset, the phase that has the steps, and settings beside them."""

    title: str
    preset: str
    phase: str = "cooperative"
    overrides: tuple[str, ...] = ()


NOISE, ENERGY, LATENT = "polydigits-mle-noise", "model.data_chain.steps", "model.latent_chain.steps"
ROWS = {
    "full": Row("the whole method", "polydigits-plain"),
    "mle-noise-30": Row("energy alone, from noise, 30 steps", NOISE, "energy", (f"{ENERGY}=30",)),
    "mle-noise-60": Row("energy alone, from noise, 60 steps", NOISE, "energy", (f"{ENERGY}=60",)),
    "mle-noise-100": Row("energy alone, from noise, 100 steps", NOISE, "energy", (f"{ENERGY}=100",)),
    "mle-noise-fixed": Row(
        "energy alone, from noise, 60 fixed steps", NOISE, "energy", ("model.data_chain.step_size=5",)
    ),
    "indep-gen": Row("independent generators", "polydigits-indep-gen"),
    "indep-gen-30": Row("independent generators, 30 data steps", "polydigits-indep-gen", overrides=(f"{ENERGY}=30",)),
    "indep-inf": Row("independent inference", "polydigits-indep-inf"),
    "indep-inf-30": Row("independent inference, 30 latent steps", "polydigits-indep-inf", overrides=(f"{LATENT}=30",)),
}
COLUMNS = {
    "joint coherence, Gen": ("gen/joint_coherence", 3),
    "EBM": ("ebm/joint_coherence", 3),
    "fcd, Gen": ("gen/fcd", 1),
    "fcd, EBM": ("ebm/fcd", 1),
    "conditional": ("cond/size1", 3),
}


def configure(row: Row, seed: int, steps: int = STEPS, more: Sequence[str] = ()) -> Experiment:
    """Return the experiment of one cell."""
    length = [f"training.phases.{row.phase}.steps={steps}", "training.log_every=1", f"seed={seed}"]
    return load_experiment(row.preset, [*row.overrides, *length, *more])


def run_cell(row: Row, experiment: Experiment, folder: Path, judged: bool = True) -> dict[str, Any]:
    """Train and measure one cell: metrics of its samples, its losses step by step, and what they say."""
    dataset, measured, diverged = build_dataset(experiment.data), dict[str, float](), ""
    began = time.process_time()
    try:
        result = run_experiment(experiment, folder, dataset, preset=row.preset, device="cpu")
        if result.fit.reason != "finished":  # a signal ends a run in order: half a run is not a cell
            raise SystemExit(result.fit.message())
        seconds = time.process_time() - began
        judges = judges_of(dataset, "cpu") if judged else None
        looked = quick_look(result.model, dataset, judges, experiment.seed).results
        measured = {name: found.value for name, found in looked.items()}
    except DivergenceError as error:
        seconds, diverged = time.process_time() - began, str(error).splitlines()[0]
    lines = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    return {"measured": measured, "diverged": diverged, "cpu_seconds": seconds} | losses(lines)


def losses(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the losses of a log with a line for each step, and how much that of the energy fluctuates."""
    found = {
        name: [line[key] for line in lines if line.get(key) is not None]
        for name, key in (("energy", "loss/energy"), ("generator", "loss/generator"), ("std", "energy/data_std"))
    }
    scale = statistics.mean(found.pop("std"))
    return {"losses": found, "fluctuation": fluctuation(found["energy"], scale), "data_std": scale}


def along(loss: Sequence[float]) -> str:
    """Return the means of a loss over equal stretches of training, in a line; a dash for none."""
    return ", ".join(f"{part.mean():.0f}" for part in np.array_split(loss, POINTS)) if len(loss) >= POINTS else "—"


def write_table(out: Path) -> None:
    """Write ablations.md and curves.png from the stored cells."""
    stored = [json.loads(path.read_text()) for path in sorted((out / "ablations").glob("*.json"))]
    rows = {key: made for key in ROWS if (made := [cell for cell in stored if cell["row"] == key])}
    heads = ["row", "seeds", *COLUMNS, "fluctuation of the energy's loss", f"generator's loss, {POINTS} stretches"]
    lines = [f"| {' | '.join([*heads, 'CPU s a step'])} |", "|---" * (len(heads) + 1) + "|"]
    for key, made in rows.items():
        entries = [ROWS[key].title, ", ".join(str(cell["seed"]) for cell in made)]
        for metric, digits in COLUMNS.values():
            entries.append(spread([c["measured"][metric] for c in made if metric in c["measured"]], digits))
        entries += [spread([c["fluctuation"] for c in made]), along(made[0]["losses"]["generator"])]
        entries.append(spread([c["cpu_seconds"] / max(1, len(c["losses"]["energy"])) for c in made], 2))
        lines.append(f"| {' | '.join(entries)} |")
    diverged = [f"{c['row']}, seed {c['seed']}: {c['diverged']}" for c in stored if c["diverged"]]
    text = [
        "# Ablations of cooperative learning on PolyDigits",
        "",
        "Each row is one preset with the settings of `scripts/ablations.py`, and all rows have equal numbers of steps.",
        "[What the ablations are](../docs/methods/ablations.md).",
        "",
        *lines,
        "",
        f"Fluctuation is the standard deviation of the energy's loss around its running median over {WINDOW} steps, in",
        "units of the mean standard deviation of E over data. The generator's loss is eq. (11) in nats an item, of the",
        "first seed, as means over equal stretches of training; the energy alone has none. In rows of the energy alone",
        "Gen samples and completions are those of a generator and an inference model that have learned nothing.",
        "Measured on 1,000 samples. ± is the standard deviation over seeds.",
        *(["", "Diverged:", *(f"- {line}" for line in diverged)] if diverged else []),
        "",
        "![losses](ablations/curves.png)",
        "",
        f"Machine: {processor()}.",
        *notes_of(out / "ablations"),
    ]
    (out / "ablations.md").write_text("\n".join(text) + "\n")
    draw(rows, out / "ablations" / "curves.png")


def draw(rows: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw both losses of the first seed of each row against steps, the energy's in units of the deviation of E."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for (key, made), colour in zip(rows.items(), matplotlib.colormaps["tab10"].colors, strict=False):
        for axis, name, unit in zip(axes, ("energy", "generator"), (made[0]["data_std"], 1.0), strict=True):
            if loss := made[0]["losses"][name]:
                axis.plot(np.array(loss) / unit, color=colour, linewidth=0.7, label=ROWS[key].title)
    axes[0].set(title="energy's loss / std of E over data", xlabel="step", yscale="symlog")
    axes[1].set(title="generator's loss, nats an item", xlabel="step", yscale="symlog")
    axes[0].legend(fontsize=6)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def make(given: argparse.Namespace, out: Path, runs: Path) -> None:
    """Make the cells that are missing, and write the table after each."""
    for seed in given.seeds:
        for key in given.rows or ROWS:
            row, path = ROWS[key], out / "ablations" / f"{key}-{seed}.json"
            experiment = configure(row, seed, given.steps, QUICK if given.quick else ())
            if not is_made(path, experiment):
                folder = Path(tempfile.mkdtemp(prefix=f"{key}-{seed}-", dir=runs)) / "run"
                content = run_cell(row, experiment, folder, judged=not given.quick)
                write_cell(path, key, seed, experiment, content)
                print(f"{time.strftime('%H:%M:%S')} {key} seed {seed}: {content['cpu_seconds']:.0f} CPU s", flush=True)
            write_table(out)


def main() -> None:
    """Make what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", choices=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--steps", type=int, help=f"of every row; {STEPS} unless given, 6 with --quick")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders are kept")
    parser.add_argument("--quick", action="store_true", help="a dry run of every row")
    given = parser.parse_args()
    given.steps = given.steps or (6 if given.quick else STEPS)
    if given.quick:
        with tempfile.TemporaryDirectory() as folder:
            make(given, Path(folder), Path(folder))
            print((Path(folder) / "ablations.md").read_text())
    else:
        given.runs.mkdir(parents=True, exist_ok=True)
        make(given, given.out, given.runs)


if __name__ == "__main__":
    main()
