"""The energy alone learns, to tell data from what the generator and a chain make; so does a prior, from codes."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field

from multiebm.core.batch import Batch
from multiebm.core.metrics import GAP
from multiebm.core.names import Views
from multiebm.core.random import SEEDS, STREAM, randn
from multiebm.models.chains import is_steered, starts_from_noise
from multiebm.models.inference import SHARED
from multiebm.models.model import MultimodalModel
from multiebm.objectives.cooperative import energy_loss
from multiebm.training.codes import (
    complete_items,
    follow_codes,
    observed,
    prior_step,
    refine_samples,
    refine_views,
)
from multiebm.training.phases.phase import Chosen, Phase
from multiebm.training.state import TrainState, update
from multiebm.training.weights import weigh_interaction

WEIGHED_EVERY = 20  # steps of the energy between settings of the weight of an energy of interaction that learned before
STEER_RATE = 0.02  # log change of the displacement per step
DATA_NOISE = 0.03  # deviation of the noise that data get where chains start from noise, state units (arXiv 1904.09770)
DISPLACEMENT_MIN = 0.001  # to which steering may lower it, rms per coordinate and chain step, state units


@dataclass(frozen=True)
class Energy(Phase):
    """The energy learns alone, before generator and inference model follow it.

    Where its chain starts from noise (`model.data_chain.kind: short_run`) neither of these two is asked: it is maximum
    likelihood of the energy, and the others learn nothing.
    """

    kind: Literal["energy"] = "energy"
    steps: Annotated[int, Field(ge=0, description="training steps; 0 = the phase is left out")] = 50

    def step(self, state: TrainState[MultimodalModel], batch: Batch, done: int) -> dict[str, float]:
        """One step of the energy on data [B, ...] against refined samples, and of a prior on codes as drawn."""
        model, prior = state.model, state.model.generator.prior
        if starts_from_noise(model.data_chain):
            refined, metrics = refine_views(state, batch.views)  # which give their shapes alone
            data = complete_items(state, None, batch, None)
            noisy = {name: view + DATA_NOISE * randn(state.rng, view.shape, view) for name, view in data.items()}
            return metrics | energy_step(state, noisy, refined)
        posterior = model.inference(batch)
        samples, metrics = refine_samples(state, len(batch.present))
        alone = bool(prior.own_parameters())
        codes = follow_codes(state, posterior, batch, alone)
        if alone:
            # draws of the prior itself, unless these were made at another temperature
            again = model.generator.temperature != 1
            negative = prior.sample(len(batch.present), state.rng) if again else samples.latents[SHARED]
            metrics |= prior_step(state, observed(model, codes, batch, SHARED), negative)
        return metrics | energy_step(state, complete_items(state, posterior, batch, None), samples.refined)

    def problems(self, chosen: Chosen) -> list[str]:
        """Return a line where there is no energy that could learn."""
        if chosen.energy:
            return []
        return [
            f"model.energy: got null with training.phases.energy.steps {self.steps}, expected an energy; set "
            "training.phases.energy.steps=0"
        ]


def energy_step(state: TrainState[MultimodalModel], data: Views, refined: Views) -> dict[str, float]:
    """Lower the energy of data [N, ...], raise that of refined samples [N', ...], one forward pass; steer the chain."""
    model = state.model
    assert model.energy is not None
    n, n_refined = (len(next(iter(views.values()))) for views in (data, refined))
    if not n:
        return {}
    energies = model.energy({name: torch.cat([data[name], refined[name]]) for name in data})
    real, fake = energies.split([n, n_refined])
    loss = energy_loss(real, fake, model.energy.penalty)
    # data already this much below refined samples: the chain cannot follow yet, so the energy waits for it
    rests = 0 < model.energy.gate < -loss.gap.item()
    metrics = {} if rests else update(state, loss.total, "energy")
    model.energy_steps += not rests
    if model.interaction_learned and not state.step % WEIGHED_EVERY:
        weigh_interaction(model, (state.rng.initial_seed() + STREAM * (state.step + 1)) % SEEDS)
    if is_steered(model.data_chain):
        # the chain is too short while refined samples are less likely than data, too long once they are more likely
        factor = torch.exp(torch.tensor(STEER_RATE if loss.gap < 0 else -STEER_RATE))
        model.displacement.copy_(
            (model.displacement * factor).clamp(DISPLACEMENT_MIN, model.data_chain.displacement_max)
        )
    if temperature := model.data_temperature:
        metrics["energy/data_std_over_T"] = real.std(correction=0).item() / temperature
    return metrics | {
        "loss/energy": loss.total.item(),
        "energy/data": loss.data.item(),
        GAP: loss.gap.item(),
        "energy/rests": float(rests),
        "energy/data_std": real.std(correction=0).item(),
        "energy/revised_std": fake.std(correction=0).item(),
    }
