"""What does a trained model know of what belongs together? Areas under the curve, and what its chains make of it.

    python scripts/matching.py RUN [--factors 0 0.5 1 2] [--chains] [--seed 0]

Test items of the run's data beside the same items changed: all parts moved between items, or one; one that is of
another class; one part, or all, blank, noise or inverted. 0.5 is chance, 1 is perfect. `match` is the agreement of the
parts, `score` the log density; of a model with an energy of interaction `score` is taken at several factors of its
weight. `--chains`: the coherence of N joint samples and of completions of the other parts from the first, as judges
read them, and their Frechet distance on judges' features.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from cells import processor
from torch import Tensor

import multiebm
from multiebm.evaluation.belonging import auroc
from multiebm.evaluation.frechet import frechet_distance, moments
from multiebm.evaluation.judges import Judges
from multiebm.evaluation.samples import joint_coherence, label_entropy
from multiebm.experiments.build import build_dataset
from multiebm.experiments.load import load_experiment
from multiebm.experiments.measure import judges_of
from multiebm.models.model import MultimodalModel

ITEMS, SAMPLES, LATENT_STEPS, BEST_OF = 1000, 500, 20, 4
Views = dict[str, Tensor]


def blank(view: Tensor, rng: torch.Generator) -> Tensor:
    """Return the least value there is, everywhere: [N, ...]."""
    return torch.full_like(view, view.min())


def noise(view: Tensor, rng: torch.Generator) -> Tensor:
    """Return uniform noise between the least and the largest value: [N, ...]."""
    low, high = float(view.min()), float(view.max())
    return (low + (high - low) * torch.rand(view.shape, generator=rng)).to(view.dtype)


def inverted(view: Tensor, rng: torch.Generator) -> Tensor:
    """Return the values mirrored between the least and the largest: [N, ...]."""
    return view.max() + view.min() - view


def changed(parts: Views, labels: Tensor | None, rng: torch.Generator) -> dict[str, tuple[Views, Tensor]]:
    """Return the changed items by what was done to them, and the rows [N] that count; one part in turn by the row."""
    n, names = len(next(iter(parts.values()))), list(parts)
    every, found = torch.arange(n), dict[str, tuple[Views, Tensor]]()
    whose = every % len(names)
    found["all parts moved"] = {name: view.roll(i, 0) for i, (name, view) in enumerate(parts.items())}, every

    def one(make: Callable[[Tensor], Tensor]) -> Views:
        at = {name: (whose == i).nonzero()[:, 0] for i, name in enumerate(names)}
        return {name: view.index_copy(0, at[name], make(view)[at[name]]) for name, view in parts.items()}

    found["one moved"] = one(lambda view: view.roll(1, 0)), every
    if labels is not None:
        found["one of another class"] = found["one moved"][0], (labels != labels.roll(1)).nonzero()[:, 0]
    for make in (blank, noise, inverted):
        found[f"one {make.__name__}"] = one(lambda view, make=make: make(view, rng)), every
        found[f"all {make.__name__}"] = {name: make(view, rng) for name, view in parts.items()}, every
    return found


def areas(model: MultimodalModel, parts: Views, labels: Tensor | None, factors: list[float], seed: int) -> list[str]:
    """Return a table of areas under the curve."""
    others = changed(parts, labels, torch.Generator().manual_seed(seed))
    lines = [f"| | {' | '.join(others)} |", "|---" * (len(others) + 1) + "|"]
    rates = [("match", model.match, None)]
    if model.interaction is None or not float(model.interaction.weight):
        rates.append(("score", model.score, None))
    else:
        rates += [(f"score, weight x {factor:g}", model.score, factor) for factor in factors]
    for what, rate, factor in rates:
        with weighed(model, factor):
            real = rate(parts)
            found = [auroc(real[rows], rate(views)[rows]).value for views, rows in others.values()]
        lines.append(f"| {what} | {' | '.join(f'{value:.3f}' for value in found)} |")
    return lines


@contextmanager
def weighed(model: MultimodalModel, factor: float | None) -> Iterator[None]:
    """Inside, the energy of interaction, if there is one, has `factor` times its weight (None: its own)."""
    weight = None if model.interaction is None or factor is None else model.interaction.weight
    own = None if weight is None else weight.clone()
    if weight is not None:
        weight.mul_(factor)
    yield
    if weight is not None and own is not None:
        weight.copy_(own)


def chains(model: MultimodalModel, judges: Judges, test: "multiebm.Rows", seed: int) -> list[str]:
    """Return a table of what chains make: joint samples, then completions from the first part."""
    names, n = list(model.modalities), SAMPLES
    real = {name: model.modalities[name].to_state(view) for name, view in test.views.items()}
    of_real = {name: moments(features) for name, features in judges.features(real).items()}
    parts, labels = {names[0]: test.views[names[0]][:n]}, torch.as_tensor(test.labels)[:n]
    ways: list[tuple[str, float | None, dict[str, int | None]]] = [
        ("no chain", None, {}),
        ("data chain on -E alone", 0.0, {"data_steps": None}),
        ("data chain", None, {"data_steps": None}),
    ]
    latent, best = {"latent_steps": LATENT_STEPS}, {"best_of": BEST_OF}
    more = {"samples": (f"{LATENT_STEPS} latent steps", latent), names[0]: (f"best of {BEST_OF}", best)}
    lines = ["| | | coherence | label entropy | fcd |", "|---|---|---|---|---|"]
    whole = judges.predict(real)
    lines.append(f"| real items | | {joint_coherence(whole).value:.3f} | | |")
    for given, (extra, asked) in more.items():
        every = [*ways, (extra, None, asked), (f"{extra}, then the data chain", None, asked | {"data_steps": None})]
        for what, factor, how in every:
            with weighed(model, factor):
                if given == "samples":
                    raw, judged = model.sample(n, seed=seed, **how), names
                else:
                    raw, judged = model.impute(parts, seed=seed, **how), names[1:]
            states = {name: model.modalities[name].to_state(view) for name, view in raw.items()}
            read, features = judges.predict(states), judges.features(states)
            read = {name: read[name] for name in judged}
            right = [float((of == labels).float().mean()) for of in read.values()]
            value = joint_coherence(read).value if given == "samples" else sum(right) / len(right)
            distances = [float(frechet_distance(of_real[name], moments(features[name]))) for name in judged]
            entropy, fcd = label_entropy(read, len(labels.unique())).value, sum(distances) / len(distances)
            lines.append(
                f"| {'from ' * (given != 'samples')}{given} | {what} | {value:.3f} | {entropy:.3f} | {fcd:.1f} |"
            )
    return lines


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--factors", nargs="*", type=float, default=[0.0, 0.5, 1.0, 2.0])
    parser.add_argument("--chains", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    data = build_dataset(load_experiment(given.run).data)
    model = multiebm.from_pretrained(given.run)
    parts = {name: view[:ITEMS] for name, view in data.test.views.items()}
    labels = None if data.test.labels is None else torch.as_tensor(data.test.labels)[:ITEMS]
    print("\n".join(areas(model, parts, labels, given.factors, given.seed)))
    if given.chains:
        print("", *chains(model, judges_of(data, "cpu"), data.test, given.seed), sep="\n")
    print(f"\n{ITEMS} items, seed {given.seed}, {torch.get_num_threads()} thread(s) of {processor()}.")


if __name__ == "__main__":
    main()
