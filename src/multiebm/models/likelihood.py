"""Importance-weighted estimates of log p(X_S) by the model's own posterior (Burda et al. 2016, arXiv 1509.00519)."""

import hashlib
from collections.abc import Sequence
from math import log
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from multiebm.core.batch import Batch, mask_views
from multiebm.core.names import module_key
from multiebm.core.progress import task
from multiebm.core.random import ItemGenerators, make_generator
from multiebm.mcmc.annealing import LogNormalizer
from multiebm.models.inference import SHARED, Posterior
from multiebm.models.use import PLACES

if TYPE_CHECKING:
    from multiebm.models.model import MultimodalModel
    from multiebm.models.states import StateModel

DRAWS = 1000  # of an item at a time; a constant, or an item's noise would depend on how many items there are
LATENTS = 8192  # drawn at a time


class LogLikelihood(NamedTuple):
    """Estimates of log p [B] in nats and their standard errors [B]; `error` is NaN of a single draw."""

    value: Tensor
    error: Tensor


def normalizer_of(model: "MultimodalModel", samples: int, stages: int, seed: int, anew: bool) -> LogNormalizer:
    """Return log Z of the prior and its error, that which the model keeps unless it is to be made `anew`, or the prior
    has changed since.
    """
    prior = model.generator.prior
    if prior.normalised:
        return prior.estimate_log_normalizer(samples, stages, make_generator(seed, model.device))
    values = (t.detach().cpu().contiguous().numpy().tobytes() for t in prior.state_dict().values())
    of = hashlib.sha256(b"".join([repr(prior).encode(), *values])).hexdigest()
    if anew or model.kept is None or model.kept[0] != of:
        model.kept = of, prior.estimate_log_normalizer(samples, stages, make_generator(seed, model.device))
    return model.kept[1]


def importance_log_likelihood(model: "StateModel", batch: Batch, samples: int, draws: ItemGenerators) -> LogLikelihood:
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
                squares = total  # the same of squared weights
                for first in range(0, samples, DRAWS):
                    copies = min(DRAWS, samples - first)
                    weights = _log_weights(model, *items, own, copies)
                    total = total.logaddexp(weights.logsumexp(0))
                    squares = squares.logaddexp((2 * weights).logsumexp(0))
                    advance(len(rows) * copies)
                # of the mean weight w: variance / w^2 = (N sum w_n^2 / (sum w_n)^2 - 1) / (N - 1)
                variance = (samples * (squares - 2 * total).exp() - 1).clamp_min(0)
                error = (variance / (samples - 1)).sqrt() if samples > 1 else torch.full_like(total, torch.nan)
                found.append(torch.stack([total - log(samples), error]))
    return LogLikelihood(*torch.cat(found, 1))


def conditional_log_likelihood(
    model: "StateModel",
    batch: Batch,
    known: Tensor | None,
    samples: int,
    draws: Sequence[ItemGenerators],
    log_z: LogNormalizer,
) -> LogLikelihood:
    """Return log p(x_S) [B], or log p(the rest of x_S | the parts where `known`, bool [M]) if that is not None.

    The second is a difference of two estimates, of draws of their own, in which log Z cancels unless nothing is known.
    0 where nothing is present or nothing is left.
    """

    def log_prob(of: Batch, own: ItemGenerators) -> LogLikelihood:
        value, error = importance_log_likelihood(model, of, samples, own)
        some = of.present.any(1)
        return LogLikelihood(torch.where(some, value - log_z.value, 0.0), torch.where(some, error, 0.0))

    total, error = log_prob(batch, draws[0])
    here = batch.present & (known if known is not None else torch.zeros_like(batch.present[0]))
    cancels = here.any(1) | ~batch.present.any(1)
    error = error.square() + torch.where(cancels, 0.0, log_z.error**2)
    if known is None:
        return LogLikelihood(total, error.sqrt())
    less, its_error = log_prob(Batch(mask_views(batch.views, here), here), draws[1])
    left = (here != batch.present).any(1)
    return LogLikelihood(
        torch.where(left, total - less, 0.0), torch.where(left, (error + its_error.square()).sqrt(), 0.0)
    )


def _log_weights(model: "StateModel", posterior: Posterior, batch: Batch, draws: ItemGenerators, copies: int) -> Tensor:
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
