"""Can a trained model tell parts that belong together from parts that do not? Areas under the curve.

    python scripts/matching.py RUN

Test items of the run's data against the same items with parts moved between them: all of them, or one alone, and of
the latter those whose new part shows another class. `score` is minus the energy (or the likelihood), `match` the
agreement of the parts' codes. 0.5 is chance, 1 is perfect.
"""

import argparse
from pathlib import Path

import torch

import multiebm
from multiebm.experiments.build import build_dataset
from multiebm.experiments.load import load_experiment

ITEMS = 1000


def auc(high: torch.Tensor, low: torch.Tensor) -> float:
    """Return the share of pairs in which the first is higher."""
    return (high[:, None] > low).float().mean().item()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    test = build_dataset(load_experiment(run).data).test
    model = multiebm.from_pretrained(run)
    parts = {name: view[:ITEMS] for name, view in test.views.items()}
    moved = {name: view.roll(i, 0) for i, (name, view) in enumerate(parts.items())}
    print("| | all parts moved | one part moved | one, of another class |")
    print("|---|---|---|---|")
    for what, rate in (("score", model.score), ("match", model.match)):
        real, found = rate(parts), [auc(rate(parts), rate(moved))]
        ones = [rate(parts | {name: view.roll(1, 0)}) for name, view in parts.items()]
        found.append(sum(auc(real, one) for one in ones) / len(ones))
        if test.labels is not None:
            other = (test.labels != test.labels.roll(1))[:ITEMS]
            other[0] = test.labels[0] != test.labels[ITEMS - 1]
            found.append(sum(auc(real, one[other]) for one in ones) / len(ones))
        print(f"| {what} | {' | '.join(f'{value:.3f}' for value in found)} |")


if __name__ == "__main__":
    main()
