"""The reference table of toy2d: six settings and one control, three seeds, measured exactly by nearest centroid.

    python scripts/toy2d_table.py [--out results/toy2d] [--seeds 0 1 2] [--rows lambda-1 no-energy] [--steps N]

Every cell (row, seed) is one run of `multiebm train` with a shipped preset; it is stored under OUT/cells and not made
again while its configuration stays the same, so the script can be stopped and called again. Each call writes
OUT/README.md and OUT/table.csv from the cells there are. One process, one thread.
"""

import argparse
import csv
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from cells import is_made, notes_of, processor, spread, write_cell

from multiebm.core.batch import Batch
from multiebm.core.names import Views
from multiebm.core.random import make_generator
from multiebm.data import load_dataset
from multiebm.data.toy import toy2d_classes, toy2d_distances
from multiebm.experiments.load import load_experiment
from multiebm.experiments.run import run_experiment
from multiebm.experiments.schema import Experiment
from multiebm.models.inference import SHARED
from multiebm.models.model import MultimodalModel
from multiebm.training.state import TrainState

SAMPLES = 4096  # prior draws a cell is measured on
WINDOW = 100  # steps over which training metrics are averaged
MEASURE_SEED = 12_345
SYNTHETIC = "training.phases.cooperative.synthetic"

Cells = dict[str, list[dict[str, float]]]  # row -> measured numbers, one dict per seed


class Row(NamedTuple):
    """A setting, and its reference values: coherence Gen, EBM; distance Gen, EBM; conditional coherence."""

    title: str
    preset: str
    overrides: tuple[str, ...] = ()
    reference: tuple[float | None, ...] = (None,) * 5


ROWS = {
    "lambda-1": Row("lambda_s = 1", "toy2d", (), (0.980, 0.991, 0.207, 0.153, 0.976)),
    "no-chains": Row("no EBM, no latent chain", "toy2d-no-chains", (), (0.964, None, 0.336, None, 0.985)),
    "no-energy": Row("no EBM (K_x = 0)", "toy2d-no-energy", (), (0.973, None, 0.237, None, 0.993)),
    "additive": Row("additive energy, lambda_s = 1", "toy2d-additive", (), (0.936, 0.930, 0.268, 0.265, 0.988)),
    "lambda-50": Row("lambda_s = 50", "toy2d", (f"{SYNTHETIC}=50",), (0.960, 0.981, 0.292, 0.191, 0.945)),
    "lambda-10": Row("lambda_s = 10", "toy2d", (f"{SYNTHETIC}=10",), (0.957, 0.982, 0.269, 0.179, 0.944)),
}
TABLE = ("lambda-1", "lambda-10", "lambda-50", "additive", "no-energy", "no-chains")
COLUMNS = {"joint coh. Gen": "coherence_gen", "EBM": "coherence_ebm"}
COLUMNS |= {"distance Gen": "distance_gen", "distance EBM": "distance_ebm", "cond. coh.": "conditional"}
DIAGNOSTICS = {"largest class": "largest_class", "resp. min": "responsibility_min"}
DIAGNOSTICS |= {"resp. min in training": "responsibility_window_min"}
DIAGNOSTICS |= {"E(X)": "energy_data", "E(X~)": "energy_revised", "E(X0)": "energy_generated"}
DIAGNOSTICS |= {"encoder std": "encoder_std", "CPU s": "cpu_seconds"}


class Watch:
    """Hook that keeps the smallest mean responsibility of every step."""

    def __init__(self) -> None:
        self.smallest: list[float] = []

    def on_step(self, state: TrainState, metrics: dict[str, float]) -> None:
        self.smallest.append(metrics["responsibility/min"])

    def on_end(self, state: TrainState) -> None:
        pass

    def window_min(self) -> float:
        """Return the lowest mean over a window of steps: below about 0.4 an expert has stopped learning."""
        starts = range(0, len(self.smallest), WINDOW)
        return min(statistics.mean(self.smallest[start : start + WINDOW]) for start in starts)


def configure(row: Row, seed: int, steps: int | None = None) -> Experiment:
    """Return the experiment of one cell."""
    shorter = [] if steps is None else [f"training.phases.cooperative.steps={steps}"]
    return load_experiment(row.preset, [*row.overrides, *shorter, f"seed={seed}"])


def run_cell(experiment: Experiment) -> dict[str, float]:
    """Train and measure one cell."""
    dataset = load_dataset("toy2d", experiment.data.settings)
    watch = Watch()
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        result = run_experiment(experiment, Path(folder) / "run", dataset, live=watch, device="cpu")
    if result.fit.reason != "finished":  # a signal ends a run in order: half a run is not a cell
        raise SystemExit(result.fit.message())
    seconds = time.process_time() - began
    everything = dataset.batch("test", torch.arange(len(dataset.test)))
    measured = measure(result.model, everything)
    return measured | {"responsibility_window_min": watch.window_min(), "cpu_seconds": seconds}


def measure(model: MultimodalModel, data: Batch) -> dict[str, float]:
    """Return the numbers of the table for a trained model, on prior samples and on the items of `data`."""
    generator = make_generator(MEASURE_SEED)
    gen = model.decode(model.sample_latents(SAMPLES, generator))
    ebm, chain = model.refine_data(gen, generator)
    with torch.no_grad():
        posterior = model.inference(data)
        start, _ = posterior.sample(generator)
        energy = -model.log_density_unnorm(data.views).mean().item()
    codes, _ = model.refine_latents(start, data, generator)
    responsibility = posterior.shared.responsibilities(codes[SHARED]).mean(1)
    shares = [torch.bincount(c, minlength=4) / SAMPLES for c in toy2d_classes(gen).values()]
    return {
        "coherence_gen": coherence(gen),
        "coherence_ebm": coherence(ebm),
        "distance_gen": distance(gen),
        "distance_ebm": distance(ebm),
        "conditional": conditional_coherence(model, data, make_generator(MEASURE_SEED + 1)),
        "largest_class": statistics.mean(share.max().item() for share in shares),
        "responsibility_min": responsibility.min().item(),
        "responsibility_max": responsibility.max().item(),
        "energy_data": energy,
        "energy_generated": -chain.logdensity[0].mean().item(),
        "energy_revised": -chain.logdensity[-1].mean().item(),
        "encoder_std": posterior.shared.scale.mean().item(),
    }


def coherence(views: Views) -> float:
    """Return the share of items whose modalities are of one class."""
    a, b = toy2d_classes(views).values()
    return (a == b).float().mean().item()


def distance(views: Views) -> float:
    """Return the mean distance to the nearest centroid, over items and modalities."""
    return torch.stack(list(toy2d_distances(views).values())).mean().item()


def conditional_coherence(model: MultimodalModel, data: Batch, generator: torch.Generator) -> float:
    """Return the share of test items whose other modality, decoded from z ~ q(z | x_m), has their class; m averaged.

    Amortised, as in the reference: no refinement.
    """
    right = []
    names = list(model.modalities)
    for i, source in enumerate(names):
        present = torch.zeros_like(data.present)
        present[:, i] = True
        views = {n: v if n == source else torch.zeros_like(v) for n, v in data.views.items()}
        means = model.decode(model.infer_latents(Batch(views, present), generator))
        classes = toy2d_classes(means)
        right += [(classes[n] == data.arrays).float().mean().item() for n in names if n != source]
    return statistics.mean(right)


def make_cells(out: Path, rows: Sequence[str], seeds: Sequence[int], steps: int | None) -> None:
    """Make the cells that are missing, seed by seed, and write the table after each."""
    for seed in seeds:
        for key in rows:
            experiment = configure(ROWS[key], seed, steps)
            path = out / "cells" / f"{key}-{seed}.json"
            if is_made(path, experiment, evaluation=False):
                continue
            measured = run_cell(experiment)
            write_cell(path, key, seed, experiment, {"measured": measured})
            said = ", ".join(f"{name} {value:.3f}" for name, value in measured.items())
            print(f"{time.strftime('%H:%M:%S')} {key} seed {seed}: {said}", flush=True)
            write_table(out)


def read_cells(out: Path) -> tuple[Cells, list[dict]]:
    """Return measured numbers by row, and the cells as stored."""
    stored = [json.loads(path.read_text()) for path in sorted((out / "cells").glob("*.json"))]
    return {key: [cell["measured"] for cell in stored if cell["row"] == key] for key in TABLE}, stored


def main_table(cells: Cells) -> list[str]:
    """Return the lines of the table beside its reference."""
    lines = [f"| setting | seeds | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 2) + "|"]
    for key in TABLE:
        row, done = ROWS[key], cells[key]
        entries = []
        for name, reference in zip(COLUMNS.values(), row.reference, strict=True):
            idle = name.endswith("_ebm") and "no-" in key
            found = "n/a" if idle else spread([cell[name] for cell in done]) if done else "not run"
            entries.append(found if reference is None else f"{found} ({reference:.3f})")
        lines.append(f"| {row.title} | {len(done)} | {' | '.join(entries)} |")
    return lines


def diagnostics_table(cells: Cells) -> list[str]:
    """Return the lines of the second table: what the reference says in prose."""
    lines = [f"| setting | {' | '.join(DIAGNOSTICS)} |", "|---" * (len(DIAGNOSTICS) + 1) + "|"]
    for key in TABLE:
        if cells[key]:
            entries = [spread([cell[name] for cell in cells[key]]) for name in DIAGNOSTICS.values()]
            lines.append(f"| {ROWS[key].title} | {' | '.join(entries)} |")
    return lines


def claims(cells: Cells) -> list[tuple[str, bool, str]]:
    """Return what a correct implementation must reproduce: the statement, whether it holds here, the numbers."""
    joint = [cell for row in TABLE[:3] for cell in cells[row]]
    noisy = [cell for row in TABLE[:-1] for cell in cells[row]]
    per_cell = {
        "the EBM chain raises joint coherence": [c["coherence_ebm"] > c["coherence_gen"] for c in joint],
        "the EBM chain lowers the distance to the centroids": [c["distance_ebm"] < c["distance_gen"] for c in joint],
        "E(X) < E(X~) < E(X0)": [c["energy_data"] < c["energy_revised"] < c["energy_generated"] for c in joint],
        "mean responsibilities stay in 0.42 to 0.58": [c["responsibility_window_min"] >= 0.42 for c in noisy],
    }
    found = [(text, all(held), f"{sum(held)} of {len(held)} cells") for text, held in per_cell.items() if held]
    return found + [claim for needs, make in COMPARISONS if all(cells[row] for row in needs) for claim in make(cells)]


def mean(cells: Cells, row: str, name: str) -> float:
    """Return the mean over the seeds of a row."""
    return statistics.mean(cell[name] for cell in cells[row])


def additive_claim(cells: Cells) -> list[tuple[str, bool, str]]:
    """Modalities are independent under an additive energy, so its chain cannot make them agree."""
    gain = mean(cells, "additive", "coherence_ebm") - mean(cells, "additive", "coherence_gen")
    closer = mean(cells, "additive", "distance_ebm") / mean(cells, "additive", "distance_gen") - 1
    text = "an additive energy changes neither coherence nor distance"
    return [(text, gain < 0.003 and abs(closer) < 0.1, f"coherence {gain:+.3f}, distance {closer:+.0%}")]


def chain_claims(cells: Cells) -> list[tuple[str, bool, str]]:
    """The latent chain matches codes to the prior."""
    share, usual = (mean(cells, row, "largest_class") for row in ("no-chains", "no-energy"))
    farther = mean(cells, "no-chains", "distance_gen") / mean(cells, "no-energy", "distance_gen") - 1
    text = "without the latent chain the largest class has about 0.4 of the prior samples instead of 0.25"
    said = f"{share:.2f}, with the chain {usual:.2f}"
    return [
        (text, share > 0.32, said),
        ("and the distance is larger (the reference: by about 40 %)", farther > 0.15, f"{farther:+.0%}"),
    ]


COMPARISONS = [
    (("additive",), additive_claim),
    (("no-chains", "no-energy"), chain_claims),
]


INTRODUCTION = """# toy2d: the reference table

The data are two 2-D vectors with four classes. The cooperative algorithm as printed trains from scratch (1500
iterations, batch 128, K_x = K_z = 20). The nearest centroid is the class, so both coherences are exact. Each entry is
mean ± standard deviation over seeds. The reference implementation stands in brackets (3 seeds; 2 for lambda_s = 10 and
the additive energy).
The mean distance of the data to their centroids is 0.063.
"""


def write_table(out: Path) -> None:
    """Write README.md and table.csv from the cells in `out`; notes in `out`/NOTES.md are appended as they are."""
    cells, stored = read_cells(out)
    seeds = sorted({cell["seed"] for cell in stored})
    seconds = sum(cell["measured"]["cpu_seconds"] for cell in stored)
    lines = [
        INTRODUCTION,
        *main_table(cells),
        "",
        "| statement | holds | measured |\n|---|---|---|",
        *[f"| {text} | {'yes' if holds else 'NO'} | {numbers} |" for text, holds, numbers in claims(cells)],
        "",
        *diagnostics_table(cells),
        "",
        f"Command: `python scripts/toy2d_table.py`; seeds {', '.join(map(str, seeds))}; {SAMPLES} prior samples and "
        f"2000 test items a cell. Machine: {processor()}, one thread, shared with other work; torch "
        f"{torch.__version__}; {seconds:.0f} s of processor time in all.",
        *notes_of(out),
    ]
    (out / "README.md").write_text("\n".join(lines) + "\n")
    names = [*COLUMNS.values(), *DIAGNOSTICS.values(), "responsibility_max"]
    with (out / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["row", "seed", *names])
        for cell in stored:
            writer.writerow([cell["row"], cell["seed"], *(f"{cell['measured'][n]:.5f}" for n in names)])


def main(arguments: Sequence[str] | None = None) -> None:
    """Make what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "toy2d")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="*", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--steps", type=int, help="cooperative steps instead of the preset's: for a try, not a result")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    make_cells(given.out, given.rows, given.seeds, given.steps)
    write_table(given.out)
    print((given.out / "README.md").read_text())


if __name__ == "__main__":
    main()
