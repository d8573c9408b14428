"""Time and memory of a training step of multimodal VAEs: the library's against `reference_vae.py`, in one run.

    python benchmarks/vae_step.py [--rows mmvaeplus mvae ...] [--size 28] [--batch 64] [--samples 1] [--repeats 5]
    python benchmarks/vae_step.py --memory
    python benchmarks/vae_step.py --rows mmvaeplus mvae --quality 1500

Presets polymnist-ROW: published networks and sizes, five pictures, which are random numbers here; the same weights,
batches and draws for all. First the losses of one step are compared: a ratio between different objectives would mean
nothing. Repeats alternate between the ways, and medians are compared, so that a busy moment of the machine hits all.
Peak resident memory is that of two steps in a process of its own. mmvae, published with K = 10, is timed at
`--samples`. `--memory` measures nothing but two steps of MMVAE+ on DReG with K = 10. `--quality` trains the presets
polydigits-ROW for so many steps in float32 and in bfloat16, and measures both. Expected ratios: TARGETS.
"""

import argparse
import copy
import json
import resource
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch

from cooperative_step import Way, seconds
from loading import machine
from multiebm.core.batch import Batch
from multiebm.core.random import make_generator
from multiebm.experiments.build import build_dataset, build_model, build_state
from multiebm.experiments.folder import METRICS
from multiebm.experiments.load import load_experiment
from multiebm.experiments.measure import measure_model
from multiebm.experiments.run import run_experiment
from multiebm.experiments.schema import Experiment
from multiebm.modalities import Modality, Picture
from multiebm.models.model import MultimodalModel
from multiebm.training.steps import TrainingStep
from reference_vae import reference_state, reference_step_of

TARGETS = {"mmvaeplus": 2.5, "mvae": 3.0, "mopoe": 2.0, "mvtcae": 2.0, "mmvae": 2.0, "cmvae": 2.0}
# million parameters; MoPoE's code has 14.1, the tables of papers 16.7, which is that without the encoders' linear layer
PUBLISHED = {"resnet": 22.2, "conv": 16.7}
TOLERANCES = {"fp32": 1e-5, "bf16": 1e-5}  # relative, of the loss of one step, most of which is a constant
MEMORY_ROW, MEMORY_TARGET = "mmvaeplus-dreg", 8.0  # GB
MEMORY_STEPS = 2
QUALITY = {"joint coherence": "gen/joint_coherence", "conditional": "cond/size1", "fcd": "gen/fcd"}
PARTS = 5
REFERENCE, PRESET, EQUAL = (
    "reference: fp32, NCHW, a pass a term",
    "library: bf16 (the preset)",
    "library: fp32 (equal arithmetic)",
)


class Peak(NamedTuple):
    """Peak resident memory in GB, before the first step and after the last."""

    start: float
    end: float


def setting(row: str, args: argparse.Namespace) -> tuple[Experiment, dict[str, Modality]]:
    sizes = [f"data.settings.size={args.size}", f"training.batch_size={args.batch}"]
    samples = [f"training.phases.bound.samples={args.samples}"] if row == "mmvae" else []
    experiment = load_experiment(load_experiment(f"polymnist-{row}"), [*sizes, *samples, *args.set])
    return experiment, {f"m{i}": Picture(f"m{i}", (3, args.size, args.size)) for i in range(PARTS)}


def random_batches(modalities: dict[str, Modality], n_items: int, n: int) -> list[Batch]:
    """Complete batches of uint8 noise in state space."""
    draws = make_generator(0)

    def view(m: Modality) -> torch.Tensor:
        return m.to_state(torch.randint(0, 256, (n_items, *m.shape), generator=draws, dtype=torch.uint8))

    present = torch.ones(n_items, len(modalities), dtype=torch.bool)
    return [Batch({name: view(m) for name, m in modalities.items()}, present) for _ in range(n)]


def make_way(way: str, row: str, experiment: Experiment, model: MultimodalModel) -> Way:
    """Return the step of a way on a copy of `model`."""
    if way == REFERENCE:
        plain = reference_state(experiment, row, model)
        return lambda batch: reference_step_of(plain, batch)
    precision = "fp32" if way == EQUAL else experiment.training.precision
    training = experiment.training.model_copy(update={"precision": precision})
    experiment = experiment.model_copy(update={"training": training})
    state = build_state(experiment, copy.deepcopy(model), None)  # type: ignore[arg-type]  # batches are handed over
    step = TrainingStep(experiment.training.phases, experiment.training.optimiser)
    return lambda batch: step(state, batch)


def differences(row: str, experiment: Experiment, model: MultimodalModel, batch: Batch) -> dict[str, float]:
    """Relative differences of the first loss to the reference's, from the same draws; beyond tolerance, an exit."""
    expected = make_way(REFERENCE, row, experiment, model)(batch)["loss/elbo"]
    apart = {}
    for precision, way in (("fp32", EQUAL), (experiment.training.precision, PRESET)):
        got = make_way(way, row, experiment, model)(batch)["loss/elbo"]
        apart[precision] = abs(got - expected) / abs(expected)
        if not apart[precision] <= TOLERANCES[precision]:
            sys.exit(f"{row}: loss in {precision}: got {got:.6g}, expected {expected:.6g} as of the reference")
    return apart


def resident() -> float:
    """Peak resident memory of this process so far, GB (10^9 bytes)."""
    status = Path("/proc/self/status")
    if status.exists():  # where there is none, the number below also counts the parent process at the moment of forking
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def peak_here(way: str, row: str, args: argparse.Namespace) -> Peak:
    """Peak resident memory of this very process, which must be a fresh one."""
    torch.set_num_threads(args.threads)
    experiment, modalities = setting(row, args)
    step = make_way(way, row, experiment, build_model(experiment.model, modalities, experiment.seed))
    batches, start = random_batches(modalities, args.batch, MEMORY_STEPS), resident()
    for batch in batches:
        step(batch)
    return Peak(start, resident())


def peak(way: str, row: str, args: argparse.Namespace) -> Peak:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        return fresh.submit(peak_here, way, row, args).result()


def verdict(reached: bool) -> str:
    return "reached" if reached else "MISSED"


def describe(row: str, experiment: Experiment, args: argparse.Namespace) -> str:
    k = experiment.training.phase("bound").samples
    published = load_experiment(f"polymnist-{row}").training.phase("bound").samples
    note = "" if k == published else f" (published: {published})"
    return f"{row}: {PARTS} pictures 3x{args.size}x{args.size}, batch {args.batch}, K = {k}{note}"


def measure(row: str, args: argparse.Namespace) -> str:
    """Print the measurements of a row; return its line of the summary."""
    experiment, modalities = setting(row, args)
    peaks = {way: peak(way, row, args) for way in (REFERENCE, PRESET, EQUAL)}
    batches = random_batches(modalities, args.batch, 4)
    model = build_model(experiment.model, modalities, experiment.seed)
    apart = differences(row, experiment, model, batches[0])
    times = seconds({way: make_way(way, row, experiment, model) for way in peaks}, batches, args.repeats)
    count = sum(p.numel() for p in model.parameters()) / 1e6
    networks = experiment.model.networks.picture.kind
    print(f"\n{describe(row, experiment, args)}, median of {args.repeats} steps")
    print(f"{count:.3g}M parameters, published {networks} networks: {PUBLISHED[networks]:g}M")
    print("loss apart from the reference's: " + ", ".join(f"{x:.1e} in {name}" for name, x in apart.items()))
    print("\n| step | seconds | ratio | GB before | peak GB |\n|---|---|---|---|---|")
    for way, value in times.items():
        memory = f"{peaks[way].start:.2f} | {peaks[way].end:.2f}"
        print(f"| {way} | {value:.3f} | {times[REFERENCE] / value:.2f} | {memory} |")
    ratio, target = times[REFERENCE] / times[PRESET], TARGETS[row]
    said = verdict(ratio >= target)
    print(f"\n{row}: target {target:g} {said}", flush=True)
    return f"| {row} | {times[REFERENCE]:.3f} | {times[PRESET]:.3f} | {ratio:.2f} | {target:g} | {said} |"


def measure_memory(args: argparse.Namespace) -> None:
    experiment, _ = setting(MEMORY_ROW, args)
    found = peak(PRESET, MEMORY_ROW, args)
    print(f"\n{describe(MEMORY_ROW, experiment, args)}, {MEMORY_STEPS} steps in {experiment.training.precision}")
    print(f"peak resident memory {found.end:.2f} GB, {found.start:.2f} GB before the first step")
    print(f"target {MEMORY_TARGET:g} GB {verdict(found.end <= MEMORY_TARGET)}")


def quality(row: str, steps: int) -> None:
    """Print what a row learns in `steps` steps on PolyDigits in either precision, from the same seed."""
    print(f"\npolydigits-{row}, {steps} steps, seed 0")
    print(f"| precision | seconds | loss, last quarter | {' | '.join(QUALITY)} |\n|{'---|' * (len(QUALITY) + 3)}")
    for precision in ("fp32", "bf16"):
        changes = [f"training.precision={precision}", f"training.phases.bound.steps={steps}", "training.seconds=null"]
        experiment = load_experiment(f"polydigits-{row}", changes)
        with TemporaryDirectory() as folder:
            result = run_experiment(experiment, Path(folder) / "run")
            lines = [json.loads(line) for line in (Path(folder) / "run" / METRICS).read_text().splitlines()]
        losses = [line["loss/elbo"] for line in lines if line["step"] > 0.75 * steps]
        found = measure_model(result.model, build_dataset(experiment.data), experiment.evaluation, 0).results
        values = " | ".join(f"{found[name].value:.3f} ± {found[name].standard_error:.3f}" for name in QUALITY.values())
        print(f"| {precision} | {lines[-1]['seconds']:.0f} | {statistics.fmean(losses):.1f} | {values} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", default=list(TARGETS), choices=list(TARGETS), help="baselines to time")
    parser.add_argument("--size", type=int, default=28, help="pixels a side")
    parser.add_argument("--batch", type=int, default=64, help="items a step")
    parser.add_argument("--samples", type=int, default=1, help="K, importance samples of mmvae")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch threads")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings, to try things out small")
    parser.add_argument("--quality", type=int, default=0, metavar="STEPS", help="only what both precisions learn")
    parser.add_argument("--memory", action="store_true", help="only the peak memory of MMVAE+ on DReG")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(machine())
    if args.memory:
        measure_memory(args)
        return
    if args.quality:
        for row in args.rows:
            quality(row, args.quality)
        return
    lines = [measure(row, args) for row in args.rows]
    print("\n| row | reference, s | library, s | ratio | target | |\n|---|---|---|---|---|---|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
