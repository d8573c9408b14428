"""The energy of interaction alone learns what belongs together, by contrast; it gets its weight when all is over."""

from dataclasses import dataclass
from math import ceil
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor
from torch.optim import AdamW, Optimizer

from multiebm.core.batch import Batch
from multiebm.core.metrics import BELONGING
from multiebm.core.random import SEEDS, STREAM, make_generator, rand
from multiebm.models.model import MultimodalModel
from multiebm.objectives.belonging import belonging_loss, draw_donors, has_contrast, with_corrupted
from multiebm.training.guard import INTERACTION_RATE
from multiebm.training.phases.phase import Chosen, Phase
from multiebm.training.rates import half_cosine
from multiebm.training.state import TrainState, update

RISE, START, END = 0.3, 0.04, 1e-4  # of one cycle: share of the steps in which the rate rises, and factors at its ends
DONORS = 16  # foreign parts beside each true one, of other items of the batch
CORRUPTED = 4  # corrupted parts beside them, on average: each candidate is one with the same probability; 0 = none
SPOILT = 0.25  # share of the items of a batch whose parts are corrupted, for the others
HIDDEN = 0.5  # share of the items that show some of their parts, two or more: f of fewer parts is needed too
WEIGHT_DECAY = 1e-2  # of AdamW


@dataclass(frozen=True)
class Belonging(Phase):
    """The energy of interaction learns to tell true items from such as have one part of another item, or a corrupted
    one: constant, noise or shuffled.

    It draws from a generator of its own, so what the other phases draw stays as it is.
    """

    kind: Literal["belonging"] = "belonging"
    averages: ClassVar[str] = "interaction"
    steps: Annotated[int, Field(ge=0, description="training steps; 0 = the phase is left out")] = 300
    rate: Annotated[PositiveFloat, Field(description="learning rate at its highest, of one cycle")] = 3e-3

    def step(self, state: TrainState[MultimodalModel], batch: Batch, done: int) -> dict[str, float]:
        """One step on true and foreign parts of a batch [B, ...]; the averaged weights are the weights themselves."""
        model, interaction = state.model, state.model.interaction
        assert interaction is not None
        rng = make_generator((state.rng.initial_seed() + STREAM * (state.step + 1)) % SEEDS)
        for group in state.optimisers["interaction"].param_groups:
            group["lr"] = self.rate * self.cycle(done) * state.numbers.get(INTERACTION_RATE, 1.0)
        present = with_fewer_parts(batch.present, HIDDEN, rng)
        present = present & (present.sum(0) > 1)  # nobody could give a part that one item has alone
        donors, metrics = draw_donors(present, DONORS + CORRUPTED, rng), dict[str, float]()
        if bool(has_contrast(present, donors).any()):
            views = {name: model.modalities[name].jitter(view, rng) for name, view in batch.views.items()}
            share, shown = CORRUPTED / (DONORS + CORRUPTED), present
            if done < RISE * self.steps:  # corrupted parts are told so easily that an MLP would learn nothing else
                share = 0.0
            if share:
                own = torch.randperm(len(present), generator=rng)[: ceil(SPOILT * len(present))].to(present.device)
                donors = with_corrupted(donors, own, present[own], share, rng)
                spoilt = {name: model.modalities[name].corrupt(view[own], rng) for name, view in views.items()}
                views = {name: torch.cat([view, spoilt[name]]) for name, view in views.items()}
                shown = torch.cat([present, present[own]])
            loss = belonging_loss(interaction.head, interaction.features(views, shown), present, donors, share)
            metrics = {BELONGING: loss.total.item()} | update(state, loss.total, "interaction")
            known = zip(model.modalities, loss.information.tolist(), strict=True)
            metrics |= {f"belonging/information/{name}": nats for name, nats in known}
            interaction.steps += 1
        for name, _ in interaction.named_parameters(prefix=self.averages):
            state.average.pop(name, None)  # the rate ends at 0: no older weights are better
        return metrics

    def cycle(self, done: int) -> float:
        """Return the factor on the rate: half a cosine up over the share RISE of the steps, then down (Smith 2018)."""
        share = (done + 0.5) / max(self.steps, 1)
        return half_cosine(START, 1.0, share / RISE) if share < RISE else half_cosine(1.0, END, (share - RISE) / 0.7)

    def marks(self) -> tuple[int, ...]:
        """The step from which candidates may be corrupted, which takes longer."""
        return (ceil(RISE * self.steps),)

    def optimisers(self, model: MultimodalModel) -> dict[str, Optimizer]:
        """Return AdamW for the energy of interaction, where there is one."""
        if model.interaction is None:
            return {}
        parameters = model.interaction.parameters()
        return {"interaction": AdamW(parameters, self.rate, weight_decay=WEIGHT_DECAY, fused=True)}

    def problems(self, chosen: Chosen) -> list[str]:
        """Return a line where nothing could learn."""
        if chosen.interaction:
            return []
        at = "training.phases.belonging"
        return [
            f"model.interaction: got null with {at}.steps {self.steps}, expected an energy of interaction; set "
            f"model.interaction.kind=pair, or {at}.steps=0"
        ]


def with_fewer_parts(present: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Return `present` [B, M] with parts hidden in a `share` of the items: of n parts they keep 2 .. n - 1, any.

    All such numbers are equally likely, and all sets of one size. An item with two parts or fewer keeps them.
    """
    if not share:
        return present
    lots, size, chosen = (rand(rng, shape, present) for shape in (present.shape, present.shape[:1], present.shape[:1]))
    n = present.sum(1)
    kept = 2 + (size * (n - 2).clamp_min(1)).long()  # of n parts 2 .. n - 1
    place = lots.masked_fill(~present, -1).argsort(1, descending=True).argsort(1)
    hides = (chosen < share) & (n > 2)
    return present & (~hides[:, None] | (place < kept[:, None]))
