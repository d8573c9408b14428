"""Importance-weighted estimates of log p(X_S) by the model's own posterior (Burda et al. 2016, arXiv 1509.00519)."""

from math import log
from typing import Protocol

import torch
from torch import Tensor

from multiebm.core.batch import Batch
from multiebm.core.names import module_key
from multiebm.core.progress import task
from multiebm.core.random import ItemGenerators
from multiebm.modalities import Modality
from multiebm.models.generator import Generator
from multiebm.models.inference import SHARED, InferenceModel, Posterior
from multiebm.models.use import PLACES

DRAWS = 1000  # of an item at a time; a constant, or an item's noise would depend on how many items there are
LATENTS = 8192  # drawn at a time


class Model(Protocol):
    """What an estimate needs of a model."""

    inference: InferenceModel
    generator: Generator
    modalities: dict[str, Modality]


def importance_log_likelihood(model: Model, batch: Batch, samples: int, draws: ItemGenerators) -> Tensor:
    """Return log 1/N sum_n p(x_S, z_n, W_n) / q(z_n, W_n | x_S) [B] in nats; S = `present` [B, M], N = `samples`.

    In expectation below log p(x_S), and above the ELBO; log Z of a prior that is not normalised is the caller's.
    Private latents of absent parts integrate to one and are not drawn. Every item draws from its own of `draws`, so its
    estimate does not depend on the others.
    """
    with torch.no_grad():
        posterior = model.inference.given(batch)
        found = []
        some = torch.arange(len(batch.present), device=batch.present.device).split(LATENTS // min(DRAWS, samples))
        with task("importance samples", len(batch.present) * samples) as advance:
            for rows in some:
                own, items = draws.select(rows.cpu()), (posterior.select(rows), batch.select(rows))
                total = torch.full((len(rows),), -torch.inf, device=rows.device, dtype=torch.float32)  # log of a sum
                for first in range(0, samples, DRAWS):
                    copies = min(DRAWS, samples - first)
                    total = total.logaddexp(_log_weights(model, *items, own, copies).logsumexp(0))
                    advance(len(rows) * copies)
                found.append(total)
    return torch.cat(found) - log(samples)


def _log_weights(model: Model, posterior: Posterior, batch: Batch, draws: ItemGenerators, copies: int) -> Tensor:
    """Return log p(x_S, z, W) / q(z, W | x_S) of `copies` independent draws: [copies, B]."""
    generator, rows = model.generator, torch.arange(len(batch.present), device=batch.present.device).repeat(copies)
    many, present = posterior.select(rows), batch.present[rows]  # of copies * B rows
    latents, _ = many.sample(draws.repeated(copies))
    total = generator.prior.log_prob(latents[SHARED]) - many.shared.log_prob(latents[SHARED])
    for i, name in enumerate(batch.views):
        if name in many.private:
            w = latents[name]
            ratio = generator.private_priors[module_key(name)].log_prob(w) - many.private[name].log_prob(w)
            total = total + torch.where(present[:, i], ratio, 0.0)
    places = sum(m.places for m in model.modalities.values())
    found = []
    for some in torch.arange(len(rows), device=rows.device).split(max(64, PLACES // places)):
        views, own, _ = batch.select(rows[some])
        means = generator({key: value[some] for key, value in latents.items()}, own)
        each = [generator.likelihoods[name].log_density(views[name], mean) for name, mean in means.items()]
        found.append(torch.where(own, torch.stack(each, 1), 0.0).sum(1))
    return (total + torch.cat(found)).view(copies, -1)
