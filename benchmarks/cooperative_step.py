"""Time of one cooperative step: the library's against the plain loop of `reference_step.py`, in one run.

    python benchmarks/cooperative_step.py [--sizes 16 28] [--batch 64] [--repeats 9] [--threads 2] [--quality STEPS]

Networks and settings of the polydigits preset, the same weights and batches for all. Repeats alternate between the
ways, and medians are compared, so that a busy moment of the machine hits all. First the losses of one step from the
same draws are compared. Expected: at least 2.5 times as fast. `--quality` trains both and prints their mean losses.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from loading import machine
from multiebm.core.batch import Batch
from multiebm.data import BatchStream, MultimodalDataset, load_dataset
from multiebm.experiments.build import build_model, build_state
from multiebm.experiments.load import load_experiment
from multiebm.experiments.schema import Experiment
from multiebm.models.model import MultimodalModel
from multiebm.training.state import TrainState
from multiebm.training.steps import in_force, set_rates, total_steps
from reference_step import check_covered, reference_state, reference_step

TARGET = 2.5
LOSSES = ("loss/generator", "loss/inference", "loss/anchor", "loss/energy", "energy/data", "energy/generated")
WATCHED = ("loss/anchor", "loss/generator", "loss/inference", "energy/gap")
Way = Callable[[Batch], dict[str, float]]


def fresh_model(experiment: Experiment, dataset: MultimodalDataset, batch: Batch) -> MultimodalModel:
    """Return the model with converged spectral vectors: one power iteration or two then make the same energy."""
    model = build_model(experiment.model, dataset.modalities, experiment.seed)
    few = {name: view[:2] for name, view in batch.views.items()}
    with torch.no_grad():
        for _ in range(100):
            model.energy(few)
    return model


def library(experiment: Experiment, model: MultimodalModel, precision: str, negatives: str) -> Way:
    """Return the library's step on a copy of `model`, past the steps in which only the energy learns."""
    training = experiment.training.model_copy(update={"precision": precision})
    state = our_state(experiment.model_copy(update={"training": training}), copy.deepcopy(model))
    settings = replace(experiment.training.phase("cooperative"), negatives=negatives)
    return lambda batch: settings.step(state, batch, 0)


def our_state(experiment: Experiment, model: MultimodalModel) -> TrainState[MultimodalModel]:
    state = build_state(experiment, model, None)  # type: ignore[arg-type]  # batches are handed over
    phases = experiment.training.phases
    state.step = total_steps([phase for phase in phases if phase.kind in ("bound", "energy")])
    set_rates(state, experiment.training.optimiser, *in_force(phases, state.step))
    return state


def reference(experiment: Experiment, model: MultimodalModel, negatives: str) -> Way:
    """Return the plain loop on a copy of `model`."""
    state = reference_state(experiment, model)
    settings = replace(experiment.training.phase("cooperative"), negatives=negatives)
    check_covered(settings)
    return lambda batch: reference_step(state, batch, settings)


def differences(experiment: Experiment, model: MultimodalModel, batch: Batch, precision: str) -> dict[str, float]:
    """Relative differences of the losses of one step between library and reference, from the same draws."""
    ours = library(experiment, model, precision, "reuse")(batch)
    expected = reference(experiment, model, "reuse")(batch)
    scale = {name: abs(expected[name]) for name in LOSSES if name in expected}
    # the contrastive loss is a difference of two energies, so it is judged on their scale
    scale["loss/energy"] = max(scale["loss/energy"], scale["energy/data"])
    return {name: abs(ours[name] - expected[name]) / size for name, size in scale.items()}


def seconds(ways: dict[str, Way], batches: list[Batch], repeats: int) -> dict[str, float]:
    """Median seconds of a step; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, step in ways.items():
            start = time.perf_counter()
            step(batches[repeat % len(batches)])
            if repeat:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def setting(size: int, batch_size: int, preset: str) -> tuple[Experiment, BatchStream, MultimodalDataset]:
    # the plain loop knows one source of the prior's codes, so both steps use it
    covered = "training.phases.cooperative.prior_codes=refined"
    experiment = load_experiment(preset, [covered, f"data.settings.size={size}", f"training.batch_size={batch_size}"])
    dataset = load_dataset("polydigits", {"size": size})
    return experiment, BatchStream(dataset, "train", batch_size, experiment.seed), dataset


def measure(size: int, args: argparse.Namespace) -> None:
    experiment, stream, dataset = setting(size, args.batch, args.preset)
    batches = [next(stream) for _ in range(4)]
    model = fresh_model(experiment, dataset, batches[0])
    apart = {precision: differences(experiment, model, batches[0], precision) for precision in ("fp32", "bf16")}
    preset, c = experiment.training.precision, experiment.training.phase("cooperative")
    plain = "reference: fp32, NCHW, refresh"
    ways = {
        plain: reference(experiment, model, "refresh"),
        f"library: {preset}, {c.negatives} (the preset)": library(experiment, model, preset, c.negatives),
        f"library: {preset}, refresh (equal work)": library(experiment, model, preset, "refresh"),
        "library: fp32, refresh": library(experiment, model, "fp32", "refresh"),
    }
    times = seconds(ways, batches, args.repeats)
    print(f"\nPolyDigits {size}x{size}, batch {args.batch}, median of {args.repeats} steps\n")
    print("| step | ms | ratio |\n|---|---|---|")
    for name, value in times.items():
        print(f"| {name} | {1e3 * value:.0f} | {times[plain] / value:.2f} |")
    reached = times[plain] / list(times.values())[1]
    print(f"\ntarget {TARGET:g} with the preset: {'reached' if reached >= TARGET else 'MISSED'}")
    print("\n| relative difference to the reference | fp32 | bf16 |\n|---|---|---|")
    for name in apart["fp32"]:
        print(f"| {name} | {apart['fp32'][name]:.1e} | {apart['bf16'][name]:.1e} |")


def quality(size: int, args: argparse.Namespace) -> None:
    """Train both from the same start and print the mean losses of the last quarter."""
    experiment, stream, dataset = setting(size, args.batch, args.preset)
    batches = [next(stream) for _ in range(args.quality)]
    model, c = fresh_model(experiment, dataset, batches[0]), experiment.training.phase("cooperative")
    ways = {
        "reference, fp32": reference(experiment, model, c.negatives),
        f"library, {experiment.training.precision}": library(
            experiment, model, experiment.training.precision, c.negatives
        ),
    }
    print(f"\nmeans over the last quarter of {args.quality} steps, {size}x{size}\n")
    print(f"| | {' | '.join(WATCHED)} |\n|{'---|' * (len(WATCHED) + 1)}")
    for name, step in ways.items():
        history: list[dict[str, Any]] = [step(batch) for batch in batches]
        last = history[-max(1, args.quality // 4) :]
        means = [statistics.fmean(m[key] for m in last) if key in last[0] else float("nan") for key in WATCHED]
        print(f"| {name} | {' | '.join(f'{mean:.4g}' for mean in means)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 28], help="pixels a side")
    parser.add_argument("--batch", type=int, default=64, help="items a step")
    parser.add_argument("--repeats", type=int, default=9, help="timed steps of each")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch threads")
    parser.add_argument("--preset", default="polydigits", help="networks and settings")
    parser.add_argument("--quality", type=int, default=0, metavar="STEPS", help="also train both for so many steps")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(machine())
    for size in args.sizes:
        measure(size, args)
        if args.quality:
            quality(size, args)


if __name__ == "__main__":
    main()
