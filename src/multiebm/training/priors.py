"""How priors learn in a step: mixtures follow the codes, parameters of a prior's own learn from codes and its draws."""

from collections.abc import Iterable

import torch
from torch import Tensor

from multiebm.core.batch import Batch
from multiebm.core.metrics import TILT_STD
from multiebm.core.progress import track
from multiebm.models.inference import SHARED, Latents, Posterior
from multiebm.models.model import MultimodalModel
from multiebm.training.state import TrainState, update

REFIT_DRAWS = 2  # codes an item that a mixture is fitted anew to: one full covariance a component needs many


def follow_codes(state: TrainState[MultimodalModel], posterior: Posterior, batch: Batch, wanted: bool) -> Latents:
    """Draw detached codes of this batch, {"shared": [B, D], modality: [B, P]}, move what follows them, return them.

    Where nothing does, nothing is drawn unless the codes are `wanted`. DivergenceError, which the guard answers, where
    a mixture cannot be fitted to them.
    """
    followers = {key: prior for key, prior in state.model.generator.priors().items() if prior.follows}
    if not followers and not wanted:
        return {}
    with torch.no_grad():
        codes, _ = posterior.sample(state.rng)
    for key, prior in followers.items():
        seen = observed(state.model, codes, batch, key)
        if len(seen) and seen.isfinite().all():  # what is not finite shows in the losses, where the guard sees it
            prior.follow(seen)
    return codes


def prior_step(state: TrainState[MultimodalModel], codes: Tensor, samples: Tensor) -> dict[str, float]:
    """One update of the prior's own parameters from codes [N, D] and its samples [N', D]; what it says of them."""
    if not len(codes):  # nobody in the batch has a part
        return {}
    prior = state.model.generator.prior
    metrics = update(state, prior.loss(codes, samples), "prior") | prior.diagnose(codes, samples, state.step)
    if TILT_STD in metrics:
        state.numbers[TILT_STD] = metrics[TILT_STD]
    return metrics


def codes_of(model: MultimodalModel, batches: Iterable[Batch], rng: torch.Generator, keys: set[str]) -> Latents:
    """Draw REFIT_DRAWS codes an item under every key: [N, D], the first draw of all items before the second.

    So components, which start at the first codes, start at those of different items.
    """
    seen: dict[str, list[list[Tensor]]] = {key: [[] for _ in range(REFIT_DRAWS)] for key in keys}
    with torch.no_grad():
        for batch in track(batches if keys else (), "codes are drawn"):
            posterior = model.inference(batch)
            for draw in range(REFIT_DRAWS):
                codes, _ = posterior.sample(rng)
                for key, found in seen.items():
                    found[draw].append(observed(model, codes, batch, key))
    return {key: torch.cat([part for draw in found for part in draw]) for key, found in seen.items()}


def observed(model: MultimodalModel, codes: Latents, batch: Batch, key: str) -> Tensor:
    """Return the codes [N, D] under `key` that rest on something: of items with a part, or with that very part."""
    here = batch.present.any(1) if key == SHARED else batch.present[:, list(model.modalities).index(key)]
    return codes[key][here]
