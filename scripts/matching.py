"""What do trained models know of what belongs together? Areas under the curve, and what their chains make of it.

    python scripts/matching.py RUN [RUN ...] [--factors 0 0.5 1 2] [--beside RUN ...] [--chains] [--judges 3]
        [--robust 1] [--samples 500] [--latent-steps K] [--seed 0]

Runs are seeds of one configuration: numbers are means over them, with the standard deviation where there are several.
Test items of the runs' data beside the same items changed: all parts moved between items, or one; one that is of
another class; one part, or all, blank, noise or inverted; and samples of the generator. 0.5 is chance, 1 is perfect.
`match` is the agreement of the parts, `score` the log density; of a model with an energy of interaction `score` is
taken at several factors of its weight. `--beside`: other models of the same data, whose `match` and `score`, which is
the likelihood where there is no energy, stand below; so the best of several baselines can be seen. `--chains`: the
coherence of joint samples and of completions from the first part and from all but the last, means over sets of judges
and of robust ones, and their Frechet distance.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from cells import processor, spread
from torch import Tensor

import multiebm
from multiebm.data.dataset import MultimodalDataset
from multiebm.evaluation.belonging import auroc
from multiebm.evaluation.frechet import frechet_distance, moments
from multiebm.evaluation.measurement import JudgesLike
from multiebm.evaluation.samples import joint_coherence, label_entropy
from multiebm.experiments.build import build_dataset
from multiebm.experiments.load import load_experiment
from multiebm.experiments.measure import sets_of
from multiebm.models.model import MultimodalModel

ITEMS = 1000  # test items, and samples beside them
Views = dict[str, Tensor]
Row = dict[str, float]  # numbers by the column


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


def areas(model: MultimodalModel, data: MultimodalDataset, factors: list[float], seed: int) -> dict[str, Row]:
    """Return areas under the curve, by the rating and by what was done to items."""
    parts = {name: view[:ITEMS] for name, view in data.test.views.items()}
    labels = None if data.test.labels is None else torch.as_tensor(data.test.labels)[:ITEMS]
    others = changed(parts, labels, torch.Generator().manual_seed(seed))
    others["generated"] = model.sample(n := len(next(iter(parts.values()))), seed=seed), torch.arange(n)
    rates = [("match", model.match, None)]
    if model.interaction is None or not float(model.interaction.weight):
        alone = model.energy is None and not model.interaction_learned
        rates.append(("likelihood" if alone else "score", model.score, None))
    else:
        rates += [(f"score, weight x {factor:g}", model.score, factor) for factor in factors]
    found = {}
    for what, rate, factor in rates:
        with weighed(model, factor):
            real = rate(parts)
            found[what] = {how: auroc(real[rows], rate(views)[rows]).value for how, (views, rows) in others.items()}
    return found


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


def chains(
    model: MultimodalModel,
    plain: Sequence[JudgesLike],
    robust: Sequence[JudgesLike],
    data: MultimodalDataset,
    n: int,
    seed: int,
    latent_steps: int | None = None,
) -> dict[str, Row]:
    """Return what chains make of n joint samples and completions, by how they were made."""
    names = list(model.modalities)
    real = {name: model.modalities[name].to_state(view) for name, view in data.test.views.items()}
    judges = plain[0]  # whose features have the distance
    of_real = {name: moments(features) for name, features in judges.features(real).items()}
    labels = torch.as_tensor(data.test.labels)

    def measured(raw: Views, judged: list[str], true: Tensor | None) -> Row:
        states = {name: model.modalities[name].to_state(raw[name]) for name in judged}

        def coherence(by: JudgesLike) -> float:
            read = by.predict(states)
            if true is None:
                return joint_coherence(read).value
            return sum(float((of == true).float().mean()) for of in read.values()) / len(read)

        features = judges.features(states)
        distances = [float(frechet_distance(of_real[name], moments(features[name]))) for name in judged]
        found = {"coherence": sum(map(coherence, plain)) / len(plain)}
        found |= {"by robust judges": sum(map(coherence, robust)) / len(robust)} if robust else {}
        entropy = label_entropy(judges.predict(states), len(labels.unique())).value
        return found | {"label entropy": entropy, "fcd": sum(distances) / len(distances)}

    found = {"real items": measured(data.test.views, names, None)}
    refine: dict[str, Any] = {"data_steps": None}
    plain, own = {"latent_steps": 0} | refine, {"latent_steps": latent_steps} | refine
    last = "as the model is set" if latent_steps is None else f"{latent_steps} latent steps, then the data chain"
    for temperature in dict.fromkeys((model.generator.temperature, 1.0)):
        ways = [("no chain", None, {}), ("data chain on -E alone", 0.0, plain), ("data chain", None, plain)]
        for what, factor, how in [*ways, (last, None, own)]:
            with weighed(model, factor):
                raw = model.sample(n, seed=seed, temperature=temperature, **how)
            found[f"samples, T = {temperature:g}: {what}"] = measured(raw, names, None)
    for given in (names[:1], names[:-1]):
        parts = {name: data.test.views[name][:n] for name in given}
        plain = {"best_of": 1} | refine
        ways = [("no chain", None, {}), ("data chain on -E alone", 0.0, plain), ("data chain", None, plain)]
        for what, factor, how in [*ways, ("as the model is set", None, refine)]:
            with weighed(model, factor):
                raw = model.impute(parts, seed=seed, **how)
            others = [name for name in names if name not in given]
            found[f"from {len(given)} of {len(names)}: {what}"] = measured(raw, others, labels[:n])
    return found


def beside(runs: list[Path], data: MultimodalDataset, seed: int) -> list[str]:
    """Return a line of a table for each rating of other models, by the names of their folders."""
    found = {}
    for run in runs:
        rated = areas(multiebm.from_pretrained(run), data, [1.0], seed)
        found |= {f"{run.resolve().name}: {what}": row for what, row in rated.items()}
    return table([found])[2:] if found else []


def table(runs: list[dict[str, Row]]) -> list[str]:
    """Return a table of rows by name, the mean over runs and its spread."""
    columns = list(dict.fromkeys(column for row in runs[0].values() for column in row))
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name in runs[0]:
        cells = [[run[name][column] for run in runs] for column in columns]
        texts = [spread(cell, 1 if column == "fcd" else 3) for column, cell in zip(columns, cells, strict=True)]
        lines.append(f"| {name} | {' | '.join(texts)} |")
    return lines


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--factors", nargs="*", type=float, default=[0.0, 0.5, 1.0, 2.0])
    parser.add_argument("--beside", nargs="*", type=Path, default=[], help="runs of other models of the same data")
    parser.add_argument("--chains", action="store_true")
    parser.add_argument("--judges", type=int, help="sets of judges")
    parser.add_argument("--robust", type=int, help="sets of robust judges")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--latent-steps", type=int, help="of samples; as the model is set by default")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    data = build_dataset(load_experiment(given.runs[0]).data, given.runs[0])
    models = [multiebm.from_pretrained(run) for run in given.runs]
    lines = table([areas(model, data, given.factors, given.seed) for model in models])
    print("\n".join([*lines, *beside(given.beside, data, given.seed)]), flush=True)
    if given.chains:
        judges, others, robust = sets_of(data, "cpu", given.judges, given.robust)
        if judges is None:
            parser.error("--chains: got data without labels of two classes, expected some, which judges learn")
        how = given.samples, given.seed, given.latent_steps
        made = [chains(model, [judges, *others], robust, data, *how) for model in models]
        print("", *table(made), sep="\n")
    print(f"\n{ITEMS} items, seed {given.seed}, {torch.get_num_threads()} thread(s) of {processor()}.")


if __name__ == "__main__":
    main()
