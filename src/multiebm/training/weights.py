"""Weights of the energy of interaction that training sets by what it measures."""

from collections.abc import Iterable

import torch
from torch import Tensor

from multiebm.core.batch import Batch
from multiebm.core.random import make_generator
from multiebm.core.tree import item_square_norm
from multiebm.mcmc.run import evaluate
from multiebm.models.model import MultimodalModel
from multiebm.nn.spectral import frozen
from multiebm.objectives.belonging import higher

WEIGHING = 64  # samples of the generator by which the weight of the energy of interaction is set
FEWEST = 50  # of its steps from which on it counts in densities and chooses before the data chain
SCORED = 512  # items by which it is set how much it counts in scores
TOLD = 0.02  # of an area under the curve, by which a score may fall behind it
LOUDEST = 2**20


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
