"""Tables of whole runs: every cell (row, seed) is trained and evaluated as a user would, and kept.

    python scripts/run_table.py TABLE [--rows ROW ...] [--seeds 0 1 2] [--runs DIR] [--set KEY=VALUE ...]

TABLE is one of polydigits, polymnist16. Cells are stored under results/TABLE/cells and not made again while their
configuration stays the same; a run that was killed continues from its last checkpoint. Each call writes
results/TABLE/README.md from the cells there are; results/TABLE/NOTES.md is appended as it is. Threads: those of
OMP_NUM_THREADS, noted in the cell with the seconds; what two runs at a time cost each other shows there.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from cells import is_made, notes_of, processor, spread, write_cell

from multiebm.experiments.build import build_dataset
from multiebm.experiments.folder import METRICS
from multiebm.experiments.load import load_experiment
from multiebm.experiments.measure import measure_model
from multiebm.experiments.run import run_experiment
from multiebm.experiments.schema import Experiment
from multiebm.models.model import MultimodalModel

RESULTS = Path(__file__).parents[1] / "results"
LINES = {  # what the table says -> the metric
    "joint coherence, Gen": "gen/joint_coherence",
    "joint coherence, EBM": "ebm/joint_coherence",
    "label entropy, Gen": "gen/label_entropy",
    "label entropy, EBM": "ebm/label_entropy",
    "fcd, Gen": "gen/fcd",
    "fcd, EBM": "ebm/fcd",
    "variety, Gen": "gen/variety",
    "variety, EBM": "ebm/variety",
    "conditional coherence, 1 part seen": "cond/size1",
    "2 parts": "cond/size2",
    "3 parts": "cond/size3",
    "4 parts": "cond/size4",
    "the same refined by the latent chain, 1 part": "cond_refined/size1",
    "refined, 4 parts": "cond_refined/size4",
    "1 part, completed by the energy": "cond_ebm/size1",
    "latent classification": "latent_classification",
    "joint coherence, Gen, at temperature 1": "itself/gen/joint_coherence",
    "joint coherence, EBM, the same": "itself/ebm/joint_coherence",
    "fcd, Gen, the same": "itself/gen/fcd",
    "fcd, EBM, the same": "itself/ebm/fcd",
    "variety, Gen, the same": "itself/gen/variety",
    "real test tuples, joint coherence (ceiling)": "real/joint_coherence",
}


class Row(NamedTuple):
    """A line of the table: what it is called and the command that makes it."""

    title: str
    preset: str
    overrides: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)


DATA = {"polymnist16": ["data.settings.mnist_folder=MNIST", "data.settings.backgrounds_folder=BACKGROUNDS"]}
NO_COOPERATIVE_STEP = ("training.phases.energy.steps=0", "training.phases.cooperative.steps=0", "model.energy=null")
TABLES = {
    "polydigits": {
        "demo": Row("demo", "polydigits"),
        "warmup": Row("MMVAE+, equal time", "polydigits-warmup"),
        "long": Row("long run", "polydigits-long", seeds=(0,)),
        "priors": Row("same warm-up and priors, no cooperative step", "polydigits", NO_COOPERATIVE_STEP),
        "priors-plain": Row(
            "the same, base not widened",
            "polydigits",
            (*NO_COOPERATIVE_STEP, "training.phases.settle.widen_base=1"),
            seeds=(0,),
        ),
    },
    "polymnist16": {
        "cooperative": Row("cooperative, energy prior", "polymnist16", seeds=(0,)),
        "literal": Row("the paper's equations, the predecessor's constants", "polymnist16-predecessor", seeds=(0,)),
        "warmup": Row("MMVAE+, equal time", "polymnist16-warmup", seeds=(0,)),
    },
}


def make_cell(table: str, key: str, seed: int, runs: Path, extra: Sequence[str]) -> None:
    """Train, or go on training, and evaluate one cell, unless it is there."""
    row = TABLES[table][key]
    experiment = load_experiment(row.preset, [*row.overrides, *extra, f"seed={seed}"])
    path = RESULTS / table / "cells" / f"{key}-{seed}.json"
    if is_made(path, experiment):
        return
    folder = runs / f"{table}-{key}-{seed}"
    began = time.perf_counter()
    result = run_experiment(experiment, folder, resume=(folder / "checkpoints").is_dir(), preset=row.preset)
    if result.fit.reason not in ("finished", "budget"):
        raise SystemExit(result.fit.message())
    measured = measure(result.model, experiment, seed)
    write_cell(path, key, seed, experiment, {"measured": measured, **training_of(folder)})
    print(f"{time.strftime('%H:%M:%S')} {key} seed {seed}: {time.perf_counter() - began:.0f} s", flush=True)


def measure(model: MultimodalModel, experiment: Experiment, seed: int) -> dict[str, Any]:
    """Return every metric as `multiebm evaluate` does, and those of samples at temperature 1 as "itself/..."."""
    dataset, settings = build_dataset(experiment.data), experiment.evaluation
    results = again = measure_model(model, dataset, settings, seed).results
    if model.generator.temperature != 1:
        joint = replace(settings, items=0, temperature=1.0)
        again = measure_model(model, dataset, joint, seed).results
    results = results | {f"itself/{name}": found for name, found in again.items() if name[:4] in ("gen/", "ebm/")}
    return {name: found._asdict() for name, found in results.items()}


def training_of(folder: Path) -> dict[str, Any]:
    """Return steps, seconds, threads and the range of the energy gap of a finished run."""
    session = json.loads((folder / "run.json").read_text())["sessions"][-1]
    lines = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    gaps = [line["energy/gap"] for line in lines if "energy/gap" in line]
    training = {"steps": session["to_step"], "seconds": session["seconds"], "threads": torch.get_num_threads()}
    return {"training": training | ({"gap": [min(gaps), max(gaps)]} if gaps else {})}


def write_table(table: str) -> None:
    """Write README.md from the stored cells."""
    out = RESULTS / table
    stored = [json.loads(path.read_text()) for path in sorted((out / "cells").glob("*.json"))]
    cells = {key: [cell for cell in stored if cell["row"] == key] for key in TABLES[table]}
    rows = {key: made for key, made in cells.items() if made}
    heads = [
        f"{TABLES[table][key].title} (seeds {', '.join(str(c['seed']) for c in made)})" for key, made in rows.items()
    ]
    lines = [f"# {table}", "", f"| metric | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name, metric in LINES.items():
        values = [[c["measured"][metric]["value"] for c in made if metric in c["measured"]] for made in rows.values()]
        if any(values):
            digits = 1 if metric.endswith("fcd") else 3
            lines.append(f"| {name} | {' | '.join(spread(found, digits) if found else '—' for found in values)} |")
    training = {key: [c["training"] for c in made] for key, made in rows.items()}
    lines.append(
        f"| training steps | {' | '.join(', '.join(str(t['steps']) for t in found) for found in training.values())} |"
    )
    seconds = [spread([t["seconds"] for t in found], 0) for found in training.values()]
    lines.append(f"| seconds of training | {' | '.join(seconds)} |")
    threads = [", ".join(str(t["threads"]) for t in found) for found in training.values()]
    lines.append(f"| threads | {' | '.join(threads)} |")
    gaps = [[g for t in found for g in t.get("gap", [])] for found in training.values()]
    lines.append(
        f"| energy gap, means of 20 steps | {' | '.join(f'{min(g):.1f} to {max(g):.1f}' if g else '—' for g in gaps)} |"
    )
    lines += [
        "",
        "± is the standard deviation over seeds. Variety is the variance of a pixel over samples, as a share of its",
        "variance over real test pictures (1 = as varied). A second `multiebm evaluate RUN`, with",
        "`evaluation.temperature=1`, gives the figures at temperature 1.",
        f"`python scripts/run_table.py {table}` runs the commands below and `multiebm evaluate RUN` for every row and",
        "seed:",
        "",
    ]
    lines += [
        f"    multiebm train {' '.join([r.preset, *r.overrides, *DATA.get(table, [])])} seed=SEED --out RUN"
        for k, r in TABLES[table].items()
        if k in rows
    ]
    lines += [
        "",
        f"Machine: {processor()}; torch {torch.__version__}.",
        *notes_of(out),
    ]
    (out / "README.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    """Make what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=list(TABLES))
    parser.add_argument("--rows", nargs="*")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders are kept")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="where the data lies, for example")
    given = parser.parse_args()
    for seed in given.seeds:
        for key in given.rows or TABLES[given.table]:
            if seed in TABLES[given.table][key].seeds:
                make_cell(given.table, key, seed, given.runs, given.set)
                write_table(given.table)
    write_table(given.table)


if __name__ == "__main__":
    main()
