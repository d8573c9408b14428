"""Importance-weighted estimates of log p(X_S) by the model's own posterior (Burda et al. 2016, arXiv 1509.00519)."""

from math import log

import torch
from torch import Tensor

from multiebm.core.batch import Batch
from multiebm.core.modality import module_key
from multiebm.core.random import make_generator
from multiebm.models.generator import Generator
from multiebm.models.inference import SHARED, InferenceModel, Posterior

ROWS = 2_000  # latents decoded at a time


def importance_log_likelihood(
    inference: InferenceModel, generator: Generator, batch: Batch, samples: int, seed: int
) -> Tensor:
    """Return log 1/N sum_n p(x_S, z_n, W_n) / q(z_n, W_n | x_S) [B] in nats; S = `present` [B, M], N = `samples`.

    In expectation below log p(x_S), and above the ELBO; log Z of a prior that is not normalised is the caller's.
    Private latents of absent parts integrate to one and are not drawn.
    """
    n = len(batch.present)
    each = max(1, min(samples, ROWS // max(n, 1)))
    draws = make_generator(seed, batch.present.device)
    found = []
    with torch.no_grad():
        posterior = inference.given(batch)
        for first in range(0, samples, each):
            copies = min(each, samples - first)
            found.append(_log_weights(posterior, generator, batch, copies, draws))
    return torch.cat(found).logsumexp(0) - log(samples)


def _log_weights(
    posterior: Posterior, generator: Generator, batch: Batch, copies: int, draws: torch.Generator
) -> Tensor:
    """Return log p(x_S, z, W) / q(z, W | x_S) of `copies` independent draws: [copies, B]."""
    rows = torch.arange(len(batch.present), device=batch.present.device).repeat(copies)
    many, (views, present, _) = posterior.select(rows), batch.select(rows)
    latents, _ = many.sample(draws)
    z = latents[SHARED]
    total = generator.prior.log_prob(z) - many.shared.log_prob(z)
    for i, (name, mean) in enumerate(generator(latents, present).items()):
        log_px = generator.likelihoods[name].log_density(views[name], mean)
        if name in many.private:
            w = latents[name]
            log_px = log_px + generator.private_priors[module_key(name)].log_prob(w) - many.private[name].log_prob(w)
        total = total + torch.where(present[:, i], log_px, 0.0)
    return total.view(copies, -1)
