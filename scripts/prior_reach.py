"""Does the energy prior reach the codes? toy2d with two shared latents, a plain prior and a tilt fitted afterwards.

    python scripts/prior_reach.py [--seeds 0 1 2] [--out results/prior-reach]

MMVAE* trains on toy2d with a divergence of weight 0.1. It puts its codes into four clusters, which N(0, I) does not
have. (At weight 1 the codes fill the plain prior, and there is no hole to reach into.) Then `multiebm fit-prior` fits
a tilt to the codes and leaves the rest of the model as it is. The table compares draws with the same number of codes.
The discrepancy is the maximum mean discrepancy (the mean of Gaussian kernels of a quarter, half, once and twice the
median distance of codes; 0 where the unbiased estimate of its square is below 0). Codes of other items are the floor.
The next column says how far the shares of the four classes among decoded draws are from a quarter each. The last one
has the share of draws whose two parts disagree. The target is at most a third of the plain prior's discrepancy.
"""

import argparse
import time
from pathlib import Path

import matplotlib
import torch
from cells import processor, spread
from torch import Tensor

from multiebm.core.random import make_generator
from multiebm.data import BatchStream, load_dataset
from multiebm.data.toy import toy2d_classes
from multiebm.experiments.fit_prior import fit_prior
from multiebm.experiments.load import load_experiment
from multiebm.experiments.run import run_experiment
from multiebm.models.inference import SHARED
from multiebm.models.model import MultimodalModel
from multiebm.priors.energy import Energy
from multiebm.priors.prior import Settling
from multiebm.training.codes import codes_of

CHANGES = ("model.shared=2", "model.likelihood.scale=0.1", "training.phases.bound.beta=0.1")
PRIOR = Energy(width=128, layers=3, steps=60, step_size=0.1, penalty=0.01)
STEPS, RATE, DRAWS, TARGET = 1500, 3e-4, 2000, 1 / 3
WIDTHS = (0.25, 0.5, 1.0, 2.0)  # of the kernels, in median distances


def discrepancy(a: Tensor, b: Tensor, unit: Tensor) -> float:
    """Return the maximum mean discrepancy of draws [N, D] and [N, D], by the unbiased estimate of its square."""

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        squared = torch.cdist(x, y).square() / unit.square()
        return sum(((-squared / (2 * width**2)).exp() for width in WIDTHS), torch.zeros_like(squared)) / len(WIDTHS)

    n = len(a)
    within = sum((kernel(x, x).sum() - n) / (n * (n - 1)) for x in (a, b))
    return float((within - 2 * kernel(a, b).mean()).clamp_min(0).sqrt())


def classes_of(model: MultimodalModel, z: Tensor) -> tuple[float, float]:
    """Return half the summed distance of class shares from a quarter each, and the share of items that disagree."""
    read = toy2d_classes(model.decode({SHARED: z}))
    shares = torch.bincount(read["a"], minlength=4).double() / len(z)
    return float((shares - 0.25).abs().sum() / 2), float((read["a"] != read["b"]).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("results/prior-reach"))
    parser.add_argument("--runs", type=Path, default=Path("/tmp/prior-reach"), help="where runs are kept")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    dataset, found, clouds = load_dataset("toy2d"), {}, {}
    began = time.perf_counter()
    for seed in args.seeds:
        experiment = load_experiment("toy2d-mmvae-star", [*CHANGES, f"seed={seed}"])
        model = run_experiment(experiment, args.runs / str(seed), overwrite=True).model
        fitted = fit_prior(model, dataset, PRIOR, Settling(steps=STEPS, rate=RATE), seed)
        stream, generator = BatchStream(dataset, "test", 500, seed), make_generator(seed)
        codes = codes_of(model, [next(stream) for _ in range(DRAWS // 500)], generator, {SHARED})[SHARED]
        codes, again = codes[: DRAWS // 2], codes[DRAWS // 2 : DRAWS]  # first draws, of different items
        unit = torch.pdist(codes).median()
        draws = {
            "codes of other items": again,
            "plain prior": model.generator.prior.sample(DRAWS // 2, generator),
            "energy prior": fitted.generator.prior.sample(DRAWS // 2, generator),
        }
        for name, z in draws.items():
            found.setdefault(name, []).append((discrepancy(codes, z, unit), *classes_of(model, z)))
        clouds = {"codes": codes, **draws}
    ratios = [t[0] / p[0] for t, p in zip(found["energy prior"], found["plain prior"], strict=True)]
    write(found, ratios, args, time.perf_counter() - began)
    draw(clouds, args.out / "clouds.png")


def write(
    found: dict[str, list[tuple[float, float, float]]], ratios: list[float], args: argparse.Namespace, took: float
) -> None:
    lines = ["| draws | discrepancy | class shares off by | parts disagree |", "|---|---|---|---|"]
    for name, values in found.items():
        lines.append(f"| {name} | {' | '.join(spread(column, 4) for column in map(list, zip(*values, strict=True)))} |")
    reached = "reached" if max(ratios) <= TARGET else "MISSED"
    text = ["# Does the energy prior reach the codes?", "", " ".join(__doc__.split("\n\n")[2].split()), "", *lines, ""]
    text += [
        f"Discrepancy of the energy prior as a share of the plain one's: {', '.join(f'{r:.3f}' for r in ratios)} "
        f"(seeds {', '.join(map(str, args.seeds))}); target at most a third: {reached}.",
        "",
        "![codes and draws](clouds.png)",
        "",
        f"`python scripts/prior_reach.py`: {took:.0f} s on one core of {processor()}.",
        "",
    ]
    (args.out / "README.md").write_text("\n".join(text))


def draw(clouds: dict[str, Tensor], path: Path) -> None:
    """Draw the shared latents, a panel for each kind of draw."""
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(clouds), figsize=(3 * len(clouds), 3.1), layout="constrained", sharex=True)
    for axis, (name, z) in zip(axes, clouds.items(), strict=True):
        axis.scatter(z[:, 0].numpy(), z[:, 1].numpy(), s=3)
        axis.set(title=name, xlim=(-5, 5), ylim=(-5, 5), xlabel="z 1")
    axes[0].set_ylabel("z 2")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
