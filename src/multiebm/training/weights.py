"""Weights that training sets by what it measures: of the parts in a bound, and of the energy of interaction."""

import logging
from collections.abc import Iterable, Mapping
from math import exp, fsum, log

import torch
from torch import Tensor

from multiebm.core.batch import Batch
from multiebm.core.random import make_generator
from multiebm.core.tree import item_square_norm
from multiebm.mcmc.run import evaluate
from multiebm.models.inference import SHARED
from multiebm.models.model import MultimodalModel
from multiebm.nn.spectral import frozen
from multiebm.objectives.belonging import higher
from multiebm.training.state import TrainState

WARM_UP, BATCHES = 100, 8  # steps of a bound before gradients are measured, a tenth of it at most; batches they are of
LEAST, MOST = 0.01, 100.0  # that a weight may become: a part of which a code says nothing yet has hardly a gradient
NORM, ITEMS = "balance/norm/", "balance/items/"  # numbers: sum of the norms of a part's gradients, of so many items
WEIGHING = 64  # samples of the generator by which the weight of the energy of interaction is set
FEWEST = 50  # of its steps from which on it counts in densities and chooses before the data chain
SCORED = 512  # items by which it is set how much it counts in scores
TOLD = 0.02  # of an area under the curve, by which a score may fall behind it
LOUDEST = 2**20

logger = logging.getLogger(__name__)


def balance(state: TrainState[MultimodalModel], batch: Batch, done: int, steps: int) -> dict[str, float]:
    """Set the weights of the parts that are to be balanced, when `done` of the `steps` of a bound are made; say them.

    Gradients are measured in BATCHES steps behind the warm-up. After each of these the weights are those that all
    gradients so far ask for (`weights_by_norms`), and they stay what they are after the last.
    """
    generator, numbers = state.model.generator, state.numbers
    if not generator.balanced:
        return {}
    first = min(WARM_UP, steps // 10)
    if first <= done < first + BATCHES:
        norms = gradient_norms(state.model, batch, state.rng)
        for name, of_items in norms.items():
            for key, value in ((NORM, float(of_items.double().sum())), (ITEMS, len(of_items))):
                numbers[key + name] = value + (numbers.get(key + name, 0.0) if done > first else 0.0)
        means = {name: numbers[NORM + name] / n for name in norms if (n := numbers[ITEMS + name])}
        fixed = {n: like.weight for n, like in generator.likelihoods.items() if n not in generator.balanced}
        found = weights_by_norms(means, fixed)
        generator.balance.copy_(torch.tensor([found.get(name, 1.0) for name in norms]))
        if done + 1 == min(first + BATCHES, steps):
            logger.warning("step %d: %s", state.step + 1, say_weights(generator.weights()))
    return {f"balance/{name}": weight for name, weight in generator.weights().items()}


def weights_by_norms(norms: Mapping[str, float], fixed: Mapping[str, float]) -> dict[str, float]:
    """Return the weights with which the gradients of all parts are as long as those of the parts whose weight is
    `fixed`, on geometric average; where there are none, weights whose geometric mean is 1. By name, of other parts.

    `norms`: mean lengths at weight 1. A part without a gradient gets none of it, and counts for nothing.
    """
    known = {name: log(norm) for name, norm in norms.items() if 0 < norm < float("inf")}
    asked = [known[name] + log(weight) for name, weight in fixed.items() if name in known] or list(known.values())
    return {
        name: min(max(exp(fsum(asked) / len(asked) - own), LEAST), MOST)
        for name, own in known.items()
        if name not in fixed
    }


def gradient_norms(model: MultimodalModel, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
    """Return |d log p(x_m | z, w_m) / dz| of each part, weights left out, of the items that have it [B_m], in nats a
    unit of z: at codes that are drawn from q(z, W | X).
    """
    generator, found = model.generator, dict[str, Tensor]()
    with frozen(model):
        with torch.no_grad():
            latents, _ = model.inference(batch).sample(rng)
        z = latents[SHARED].requires_grad_()
        for name, here in zip(model.modalities, batch.present.T, strict=True):
            rows = here.nonzero()[:, 0]
            if not len(rows):
                found[name] = z.new_zeros(0)
                continue
            mean = generator.decode(latents | {SHARED: z}, name, rows)
            nats = generator.likelihoods[name].log_density(batch.views[name][rows], mean).sum()
            found[name] = torch.autograd.grad(nats, z)[0][rows].norm(dim=1)
    return found


def say_weights(weights: Mapping[str, float]) -> str:
    """Return the weights of the parts, by name, in words."""
    return f"weights of the parts: {', '.join(f'{name} {weight:.3g}' for name, weight in weights.items())}"


def weigh_interaction(model: MultimodalModel, seed: int) -> None:
    """Set the weight of f with which |grad weight f| / |grad E| is `model.interaction.ratio` on samples.

    Norms are over the parts of an item that the data chain moves, means over WEIGHING samples of the generator. 0 where
    E has not learned, or f has had fewer than FEWEST steps.
    """
    if model.interaction is None:
        return
    learned = model.energy_learned and int(model.interaction.steps) >= FEWEST
    if model.energy is None or not learned:
        model.interaction.weight.zero_()
        return
    drawn = model.decode(model.sample_latents(WEIGHING, make_generator(seed, model.device)))
    views = {name: model.modalities[name].relax(view) for name, view in drawn.items()}
    with frozen(model):
        grads = []
        for of in (model.energy, model.interaction):
            assert isinstance(grad := evaluate(of, views).grad, dict)
            grads.append({name: part for name, part in grad.items() if not model.modalities[name].still})
    if not grads[0]:
        return
    of_energy, of_interaction = (float(item_square_norm(grad).sqrt().mean()) for grad in grads)
    if of_interaction:
        model.interaction.weight.fill_(model.interaction.settings.ratio * of_energy / of_interaction)


@torch.no_grad()
def weigh_score(model: MultimodalModel, batches: Iterable[Batch]) -> None:
    """Set how many times `louder` f is in scores than in chains: the least power of two with which a score tells items
    with one part of another item from true ones as well as f alone, up to TOLD of an area under the curve.

    A chain needs f as long as the gradient of E. A score needs it larger than what E says of one true item more than of
    another, which is another number. By complete items of `batches`, SCORED or as many as there are.
    """
    f, energy = model.interaction, model.energy
    if f is None or energy is None or not f.weight:
        return
    f.louder.fill_(1)
    true, foreign, n = list[Tensor](), list[Tensor](), 0
    for batch in batches:
        rows = batch.complete().nonzero()[:, 0]
        views = {name: view[rows] for name, view in batch.views.items()}
        mixed = [views | {name: view.roll(1, 0)} for name, view in views.items()]
        if len(rows) > 1:
            told = [torch.stack([-energy(of), f.weight * f(of)]) for of in (views, *mixed)]
            true, foreign, n = [*true, told[0]], [*foreign, torch.stack(told[1:], 1)], n + len(rows)
        if n >= SCORED:
            break
    if not n:
        return
    of_true, of_foreign = torch.cat(true, 1), torch.cat(foreign, 2)  # [2, N], [2, M, N]

    def told_apart(looks: float, louder: float) -> float:
        own, other = (looks * of[0] + louder * of[1] for of in (of_true, of_foreign))
        return float(higher(own, other).mean())

    asked, louder = told_apart(0, 1) - TOLD, 1
    while louder < LOUDEST and told_apart(1, louder) < asked:
        louder *= 2
    f.louder.fill_(louder)
