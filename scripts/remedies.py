"""What fails with the predecessor's constants on PolyDigits, and what repairs it: rows, seeds, curves.

    python scripts/remedies.py [--rows ROW ...] [--seeds 0 1 2] [--out results/remedies]

All rows of a seed start from the same generator and inference model, which one warm-up with the preset polydigits
trained. After it the rows differ in the named settings alone. Cells are kept under OUT/cells and are not made again.
Each cell is measured every EVERY steps on 1,000 samples; the last point is the row's entry in the table. One process
makes all rows.
"""

import argparse
import hashlib
import json
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import torch
from cells import is_made, notes_of, processor, settings_of, spread, write_cell

from multiebm.data import load_dataset
from multiebm.evaluation.judges import Judges
from multiebm.evaluation.metrics import quick_look
from multiebm.experiments.load import load_experiment
from multiebm.experiments.measure import judges_of, settled
from multiebm.experiments.run import fresh_state
from multiebm.experiments.schema import Experiment
from multiebm.models.model import MultimodalModel
from multiebm.training.checkpoint import CheckpointStore
from multiebm.training.loop import fit
from multiebm.training.state import TrainState
from multiebm.training.steps import TrainingStep

matplotlib.use("agg")
STEPS, EVERY = 160, 40  # cooperative steps of a row, and between two measurements
GAP_END = 1e4  # |E(data) - E(refined)| at which a row has diverged and is not continued
LITERAL = (
    "model.prior={kind: normal}",
    "model.temperature=1",
    "training.phases.settle.steps=0",
    "model.private_components=0",
    "model.energy.fusion=early",
    "model.data_chain={kind: langevin, step_size: 0.5}",
    "model.latent_chain.step_size=0.05",
    "training.phases.cooperative.anchor=0",
    "training.phases.cooperative.reconstruction=1",
    "model.energy.penalty=0",
    "model.energy.gate=0",
    "training.phases.cooperative.negatives=refresh",
    "training.phases.energy.steps=0",
    "training.phases.cooperative.prior_codes=refined",
    "training.phases.cooperative.synthetic=1",
    "training.phases.cooperative.rate=0.1",
    "training.phases.cooperative.final=0.1",
)
NOT_KEPT = ("slow",)  # tried, and left out of the rows below
STAGES = (  # each row keeps what the rows above it repaired
    ("literal", "the paper's step, the predecessor's constants", ()),
    (
        "anchor",
        "+ ELBO anchor",
        ("training.phases.cooperative.anchor=1", "training.phases.cooperative.reconstruction=0.2"),
    ),
    (
        "steered",
        "+ displacement steered by the gap",
        ("model.data_chain={kind: displaced, displacement_max: 0.012}",),
    ),
    (
        "prior",
        "+ fitted priors start the data chain",
        (
            "model.prior={kind: energy, components: 60, layers: 3, steps: 20, step_size: 0.1, penalty: 3.0e-3}",
            "model.private_components=8",
            "training.phases.cooperative.prior_codes=drawn",
        ),
    ),
    ("late", "+ late-fusion energy", ("model.energy.fusion=late",)),
    ("penalty", "+ penalty on E^2", ("model.energy.penalty=0.003",)),
    (
        "gate",
        "+ gate on the gap",
        ("model.energy.gate=5", "training.phases.energy.steps=40", f"training.phases.cooperative.steps={STEPS - 40}"),
    ),
    (
        "reuse",
        "+ no reconstruction of revised codes",
        ("training.phases.cooperative.reconstruction=0", "training.phases.cooperative.negatives=reuse"),
    ),
    (
        "slow",
        "+ a generator that follows more slowly (not kept)",
        (
            "training.phases.cooperative.synthetic=0.5",
            "training.phases.cooperative.rate=0.03",
            "training.phases.cooperative.final=0.03",
        ),
    ),
    ("latent", "+ shorter steps of the latent chain", ("model.latent_chain.step_size=0.02",)),
    ("temperature", "+ prior sampled at temperature 0.5", ("model.temperature=0.5",)),
)
SETTLED = {  # measured on the last row's state: what acts when training is over
    "its priors settled, spread 1": ("training.phases.settle.steps=500", "training.phases.settle.widen_base=1"),
    "settled, spread 2": ("training.phases.settle.steps=500", "training.phases.settle.widen_base=2"),
    "settled, spread 4 (the demo)": ("training.phases.settle.steps=500", "training.phases.settle.widen_base=4"),
}
SHOWN = {
    "JC Gen": "gen/joint_coherence",
    "JC EBM": "ebm/joint_coherence",
    "CC": "cond/size1",
    "fcd Gen": "gen/fcd",
    "fcd EBM": "ebm/fcd",
    "entropy": "gen/label_entropy",
    "variety Gen": "gen/variety",
}


STAGE_KEYS = [key for key, _, _ in STAGES]


class Point(NamedTuple):
    """One measurement along a row."""

    step: int
    values: dict[str, float]


def experiments(seed: int) -> dict[str, Experiment]:
    """Return the configuration of every row, each with the changes of those above it, and of SETTLED."""
    changes = [*LITERAL, f"training.phases.cooperative.steps={STEPS}", f"seed={seed}"]
    found = {}
    for key, _, more in STAGES:
        found[key] = load_experiment("polydigits", [*changes, *more])
        changes = changes if key in NOT_KEPT else [*changes, *more]
    return found | {title: load_experiment("polydigits", [*changes, *more]) for title, more in SETTLED.items()}


def warm_up(seed: int, folder: Path) -> TrainState[MultimodalModel]:
    """Return the state at the end of the preset's warm-up, made once and kept in `folder`."""
    experiment = load_experiment("polydigits", [f"seed={seed}"])
    state = fresh_state(experiment, load_dataset("polydigits", experiment.data.settings), torch.device("cpu"))
    name = hashlib.sha256(json.dumps(settings_of(experiment)).encode()).hexdigest()[:8]
    store = CheckpointStore(folder / f"warmup-{seed}-{name}", keep_last=1)
    store.resume(state)
    ended = fit(
        state,
        TrainingStep(experiment.training.phases, experiment.training.optimiser),
        experiment.training.phase("bound").steps,
    )
    store.save(state)
    if ended.reason != "finished":
        raise SystemExit(ended.message())
    return state


def transplant(warm: TrainState[MultimodalModel], state: TrainState[MultimodalModel]) -> None:
    """Give `state` the generator, inference model and (where both have one) energy prior of the warm-up."""
    own = state.model.state_dict()
    taken = {
        name: value
        for name, value in warm.model.state_dict().items()
        if not name.startswith("energy.") and name in own and own[name].shape == value.shape
    }
    state.model.load_state_dict(own | taken)
    state.average.update({name: value.clone() for name, value in warm.average.items() if name in taken})
    state.average.update({n: p.detach().clone() for n, p in state.model.named_parameters() if n not in state.average})
    state.step = warm.step


def measure(
    state: TrainState[MultimodalModel], judges: Judges, experiment: Experiment, dataset: Any
) -> dict[str, float]:
    """Return the numbers of the table for the averaged weights."""
    with settled(state, dataset, experiment):
        results = quick_look(state.model, dataset, judges, experiment.seed).results
    return {name: results[metric].value for name, metric in SHOWN.items() if metric in results}


class Gaps:
    """Hook that keeps the energy gap of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_step(self, state: TrainState, metrics: dict[str, float]) -> None:
        """Keep the gap."""
        self.values.append(metrics.get("energy/gap", float("nan")))

    def on_end(self, state: TrainState) -> None:
        """Nothing is left to do."""


def run_row(
    warm: TrainState[MultimodalModel], experiment: Experiment, settling: dict[str, Experiment]
) -> dict[str, Any]:
    """Train one row from the warm-up and return its points and gaps, and its end measured as `settling` says."""
    dataset = load_dataset("polydigits", experiment.data.settings)
    judges = judges_of(dataset, "cpu")
    state = fresh_state(experiment, dataset, torch.device("cpu"))
    transplant(warm, state)
    step, gaps, first = TrainingStep(experiment.training.phases, experiment.training.optimiser), Gaps(), state.step
    points = [Point(0, measure(state, judges, experiment, dataset))]
    for done in range(EVERY, STEPS + 1, EVERY):
        ended = fit(
            state,
            step,
            first + done,
            [gaps],
            should_stop=lambda: bool(gaps.values) and not abs(gaps.values[-1]) < GAP_END,
        )
        if ended.reason == "interrupted":  # half a row is not a cell
            raise SystemExit(ended.message())
        points.append(Point(state.step - first, measure(state, judges, experiment, dataset)))
        if state.step < first + done:
            break
    after = {title: measure(state, judges, settings, dataset) for title, settings in settling.items()}
    return {"points": [point._asdict() for point in points], "gaps": gaps.values, "settled": after}


def write_table(out: Path) -> None:
    """Write README.md and curves.png from the stored cells."""
    cells = [json.loads(path.read_text()) for path in sorted((out / "cells").glob("*.json"))]
    rows = {key: [cell for cell in cells if cell["row"] == key] for key, _, _ in STAGES}
    lines = [f"| row | seeds | {' | '.join(SHOWN)} | gap, last 40 steps | steps |", "|---" * (len(SHOWN) + 4) + "|"]
    starts = {"N(0, I)": rows["literal"], "energy prior": rows["prior"]}
    for title, made in starts.items():
        if made:
            lines.append(_line(f"warm-up alone, {title}", [c["points"][0] for c in made], ["—"]))
    for key, title, _ in STAGES:
        if made := rows[key]:
            gaps = [f"{statistics.mean(cell['gaps'][-40:]):.1f}" for cell in made]
            lines.append(_line(title, [cell["points"][-1] for cell in made], gaps))
    for title in SETTLED:
        if made := [{"step": STEPS, "values": c["settled"][title]} for c in rows[STAGES[-1][0]]]:
            lines.append(_line(title, made, ["the same"]))
    text = [
        "# What fails with the predecessor's constants, and what repairs it",
        "",
        __doc__.split("\n\n")[2].replace("EVERY", str(EVERY)).strip(),
        f"A row has {STEPS} steps and keeps the changes of the rows above it, unless it says otherwise.",
        "",
        *lines,
        "",
        "± is the standard deviation over seeds. JC and CC are joint and conditional coherence. The gap is",
        "E(data) - E(refined), seed by seed.",
        "",
        "![curves](curves.png)",
        "",
        f"Machine: {processor()}; torch {torch.__version__}.",
        *notes_of(out),
    ]
    (out / "README.md").write_text("\n".join(text) + "\n")
    draw(rows, out / "curves.png")


def _line(title: str, points: list[dict[str, Any]], gaps: list[str]) -> str:
    entries = []
    for name in SHOWN:
        values = [point["values"][name] for point in points if name in point["values"]]
        entries.append(spread(values, 1 if "fcd" in name else 3) if values else "—")
    steps = ", ".join(str(step) for step in sorted({point["step"] for point in points}))
    return f"| {title} | {len(points)} | {' | '.join(entries)} | {', '.join(gaps)} | {steps} |"


def draw(rows: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw joint coherence, Frechet distance and gap against steps, mean over seeds."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 4, figsize=(15, 3.6), layout="constrained")
    for (key, title, _), colour in zip(
        STAGES, matplotlib.colormaps["viridis"].resampled(len(STAGES)).colors, strict=True
    ):
        if not (made := rows[key]):
            continue
        for axis, name in zip(axes, ("JC Gen", "JC EBM", "fcd EBM"), strict=False):
            length = min(len(cell["points"]) for cell in made)
            steps = [point["step"] for point in made[0]["points"][:length]]
            means = [statistics.mean(c["points"][i]["values"][name] for c in made) for i in range(length)]
            axis.plot(steps, means, color=colour, label=title)
            axis.set_title(name)
        for cell in made:
            axes[3].plot(cell["gaps"], color=colour, linewidth=0.8)
    axes[3].set_title("energy gap, every seed")
    axes[3].set_yscale("symlog")
    for axis in axes:
        axis.set_xlabel("cooperative steps")
    axes[0].legend(fontsize=6)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    """Make what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", choices=STAGE_KEYS)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "remedies")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where warm-ups are kept")
    given = parser.parse_args()
    for seed in given.seeds:
        rows = experiments(seed)
        wanted = [
            key
            for key in given.rows or STAGE_KEYS
            if not is_made(given.out / "cells" / f"{key}-{seed}.json", rows[key])
        ]
        warm = warm_up(seed, given.runs) if wanted else None
        for key in wanted:
            began = time.perf_counter()
            settling = {title: rows[title] for title in SETTLED} if key == STAGES[-1][0] else {}
            content = run_row(warm, rows[key], settling)
            write_cell(given.out / "cells" / f"{key}-{seed}.json", key, seed, rows[key], content)
            said = f"{content['points'][-1]}, {time.perf_counter() - began:.0f} s"
            print(f"{time.strftime('%H:%M:%S')} {key} seed {seed}: {said}", flush=True)
            write_table(given.out)
    write_table(given.out)


if __name__ == "__main__":
    main()
