"""Time of a warm-up step where parts are hidden, as a share of that on complete items, in one run.

    python benchmarks/missing_step.py [--widths 8 32] [--shares 0.2 0.5 0.8] [--steps 60] [--repeats 3]

Networks work on present parts alone, so that large ones take time for what they see, while small ones spend it on
overhead that stays. Repeats alternate between the shares, and medians are compared; the first repeat is not counted,
since every new number of rows prepares its convolutions once. No target: the table says what to expect.
"""

import argparse
import statistics
import time

import torch

from loading import machine
from multiebm.experiments.build import build_dataset
from multiebm.experiments.load import load_experiment
from multiebm.experiments.run import fresh_state
from multiebm.training.steps import TrainingStep

ALL_WARM = [f"training.phases.bound.{key}={10**6}" for key in ("steps", "prior_from")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="polydigits", help="preset whose warm-up step is timed")
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 32], help="channels of the networks")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.2, 0.5, 0.8], help="chances of a part to hide")
    parser.add_argument("--steps", type=int, default=60, help="steps a repeat")
    parser.add_argument("--repeats", type=int, default=3, help="counted repeats of each share")
    args = parser.parse_args()
    print(f"{machine()}\n{args.preset}, medians of {args.repeats} x {args.steps} warm-up steps\n")
    print("| channels | chance | hidden | ms a step | share of complete |\n|---|---|---|---|---|")
    for width in args.widths:
        report(args, width)


def report(args: argparse.Namespace, width: int) -> None:
    """Print a line for each share of hidden parts."""
    ways, hidden = {}, {}
    for share in (0.0, *args.shares):
        experiment = load_experiment(
            args.preset, [*ALL_WARM, f"data.missing={share}", f"model.networks.picture.width={width}"]
        )
        state = fresh_state(experiment, build_dataset(experiment.data), torch.device("cpu"))
        ways[share] = (TrainingStep(experiment.training.phases, experiment.training.optimiser), state)
        hidden[share] = 1 - state.stream.dataset.train.present.float().mean().item()
    took: dict[float, list[float]] = {share: [] for share in ways}
    for repeat in range(args.repeats + 1):
        for share, (step, state) in ways.items():
            for _ in range(args.steps):
                batch = next(state.stream)
                began = time.perf_counter()
                step(state, batch)
                if repeat:
                    took[share].append(time.perf_counter() - began)
                state.step += 1
    complete = statistics.median(took[0.0])
    for share, seconds in took.items():
        median = statistics.median(seconds)
        print(f"| {width} | {share:.0%} | {hidden[share]:.1%} | {1e3 * median:.1f} | {median / complete:.2f} |")


if __name__ == "__main__":
    main()
