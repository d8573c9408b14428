"""How priors learn: mixtures follow the codes, a tilt is contrasted with its own chain, and both settle at the end."""

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from multiebm.core.batch import Batch
from multiebm.core.errors import DivergenceError
from multiebm.core.progress import track
from multiebm.core.random import make_generator, rand
from multiebm.distributions.mixture import Diagonal
from multiebm.models.inference import SHARED, Latents, Posterior
from multiebm.models.model import MultimodalModel
from multiebm.priors.clusters import ClusterPrior
from multiebm.priors.energy import EnergyPrior
from multiebm.priors.mixture import MixturePrior
from multiebm.training.guard import BASE_DRAWS, PRIOR_DRAWS, PRIOR_GAP, find_problem
from multiebm.training.state import TrainState, update

logger = logging.getLogger(__name__)

MIXTURE_DECAY = 0.98  # of the sums of fitted mixtures; a longer memory adds the drift of codes to their variance
REFIT_DRAWS = 2  # codes an item that a mixture is fitted anew to: one full covariance a component needs many
SETTLE_BATCH = 64  # codes and samples of a step in which a tilt settles
CHECKED = 1000  # codes and samples by which it is judged when it has
PRIOR_BETAS = (0.5, 0.999)  # of the tilt's Adam
TILT_STD = "prior/tilt_std"  # metric and number: of the tilt over codes, samples and draws of the base, nats
DEAD = 0.01  # of it, nats
_ADVICE = (
    "use fewer steps (training.phases.settle.steps; --steps of fit-prior), a lower rate (training.optimiser.prior; "
    "--rate) or a larger model.prior.penalty"
)
_CODES_ADVICE = (
    "Train again with lower rates of the generator and the inference model (training.optimiser.generator, "
    "training.optimiser.inference), or for fewer steps."
)


def follow_codes(state: TrainState, posterior: Posterior, batch: Batch, wanted: bool) -> Latents:
    """Draw detached codes of this batch, move every fitted mixture towards them and return them.

    Without a mixture nothing is drawn unless the codes are `wanted`. DivergenceError, which the guard answers, where a
    mixture cannot be fitted to them.
    """
    mixtures = state.model.generator.mixtures()
    if not mixtures and not wanted:
        return {}
    with torch.no_grad():
        codes, _ = posterior.sample(state.generator)
    for key, mixture in mixtures.items():
        seen = observed(state.model, codes, batch, key)
        if len(seen) and seen.isfinite().all():  # what is not finite shows in the losses, where the guard sees it
            mixture.fit(seen, MIXTURE_DECAY)
    return codes


def prior_step(state: TrainState, prior: EnergyPrior, positive: Tensor, negative: Tensor) -> dict[str, float]:
    """One update of an energy prior from codes [N, D] and chain samples [N', D]; what `diagnose` says of them."""
    if not len(positive):  # nobody in the batch has a part
        return {}
    metrics = update(state, prior.loss(positive, negative), "prior")
    metrics |= diagnose(prior, positive, negative, state.step)
    state.numbers[TILT_STD] = metrics[TILT_STD]
    return metrics


def diagnose(prior: EnergyPrior, positive: Tensor, negative: Tensor, seed: int) -> dict[str, float]:
    """Return how codes [N, D], chain samples [N', D] and draws of the base differ, in f (nats), moments and reach.

    `prior/escape`: how many times farther out the chain ends than codes and base reach (a tilt that grows faster than
    the base falls); `prior/gap` without bound: a chain that cannot follow; `prior/tilt_std` near 0: a dead tilt;
    `prior/grad_norm`: of the log density where the chain ends.
    """
    end = negative.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(prior.log_prob(end).sum(), end)
    with torch.no_grad():
        # draws of their own, so that those of training do not depend on what is logged
        base = prior.base.sample(len(negative), make_generator(seed, negative.device))
        tilts = [prior.tilt(z) for z in (positive, negative, base)]
    up, down, still = (f.mean().item() for f in tilts)
    reach = [z.abs().max().item() for z in (positive, negative, base)]
    return {
        "prior/gap": up - down,
        "prior/positive": up,
        "prior/negative": down,
        "prior/base": still,
        TILT_STD: torch.cat(tilts).std(correction=0).item(),
        "prior/positive_mean": positive.mean().item(),
        "prior/negative_mean": negative.mean().item(),
        "prior/positive_square": positive.square().mean().item(),
        "prior/negative_square": negative.square().mean().item(),
        "prior/positive_max": reach[0],
        PRIOR_DRAWS: reach[1],
        BASE_DRAWS: reach[2],
        "prior/escape": reach[1] / max(reach[0], reach[2]),
        "prior/grad_norm": gradient.norm(dim=1).mean().item(),
    }


def warn_if_dead(std: float | None, warn: Callable[..., None] = logger.warning) -> None:
    """Warn, in the log by default, where a tilt's `prior/tilt_std` is next to nothing: the prior is then its base."""
    if std is not None and std < DEAD:
        warn(
            "the tilt of the prior has a standard deviation of %.2g nats over codes and samples, so the prior is its "
            "base; raise training.optimiser.prior or model.prior.step_size, or let it learn longer",
            std,
        )


def settle_priors(
    model: MultimodalModel,
    batches: Iterable[Batch],
    generator: torch.Generator,
    steps: int = 0,
    spread: float = 1.0,
    rate: float = 1e-3,
    prune: float = 0.0,
    warn: Callable[..., None] = logger.warning,
) -> None:
    """Fit every fitted mixture anew to the codes of these batches, then let an energy prior's tilt settle on them.

    Learned clusters are pruned instead, where `prune` > 0. DivergenceError where the codes are so far out that no
    mixture can be fitted to them.
    """
    prior = model.generator.prior
    if isinstance(prior, ClusterPrior) and prune:
        with torch.no_grad():
            prune_clusters(prior, [(model.inference.given(batch).experts, batch.present) for batch in batches], prune)
        return
    tilted = isinstance(prior, EnergyPrior) and steps > 0
    codes = codes_of(model, batches, generator, {*model.generator.mixtures(), *([SHARED] if tilted else [])})
    if astray := [key for key, found in codes.items() if not found.isfinite().all()]:
        raise DivergenceError(f"priors cannot settle: codes of {', '.join(astray)} are not finite. {_CODES_ADVICE}")
    for key, mixture in model.generator.mixtures().items():
        try:
            mixture.refit(codes[key])
        except DivergenceError as error:
            raise DivergenceError(f"priors cannot settle: {key}: {error}. {_CODES_ADVICE}") from error
    if isinstance(prior, EnergyPrior) and tilted and len(codes[SHARED]):
        problem = settle_tilt(prior, codes[SHARED], generator, steps, spread, rate, warn=warn)
        if problem:
            warn("the tilt of the prior diverged while it settled and is as before: %s", problem)


def prune_clusters(prior: ClusterPrior, experts: Sequence[tuple[Diagonal, Tensor]], beta: float) -> None:
    """Keep as many clusters as minimise beta mean H[p(c | z)] / log C - mean log p(z) / D (CMVAE, Palumbo et al. 2024).

    The lightest cluster is dropped again and again, by the codes' mean responsibility. Codes are the locations of every
    present part's expert: pairs of experts [M, B, D] and `present` [B, M].
    """
    codes = torch.cat([q.loc[present.T] for q, present in experts])  # [N, D]
    if not len(codes):
        return
    tried = []
    prior.kept.fill_(True)
    for count in range(prior.clusters, 0, -1):
        joint = prior.cluster_log_prob(codes)
        share = joint.softmax(-1)
        entropy = torch.special.entr(share).sum(-1).mean() / (math.log(count) if count > 1 else 1.0)
        score = beta * entropy - joint.logsumexp(-1).mean() / prior.dim
        tried.append((score.item(), prior.kept.clone()))
        mass = torch.where(prior.kept, share.mean(0), torch.inf)
        prior.kept[mass.argmin()] = False
    prior.kept.copy_(min(tried, key=lambda pair: pair[0])[1])


def settle_tilt(
    prior: EnergyPrior,
    codes: Tensor,
    generator: torch.Generator,
    steps: int,
    spread: float,
    rate: float,
    tell: Callable[[str], None] = logger.debug,
    warn: Callable[..., None] = logger.warning,
) -> str:
    """Let the tilt learn on for `steps` steps of Adam at `rate`, on batches of SETTLE_BATCH of the codes [N, D], N > 0.

    Its chain then has the fitted base, widened by `spread`: the tilt learns the ratio of the codes to something wider,
    and on the base as it is counts them twice within a mode, so the prior is sharper than the codes. At spread 1 this
    is maximum likelihood, eq. (10) of MVEBM, up to the penalty and the shortness of the chain. `tell` hears of every
    tenth of the way. Where the tilt diverges (limits as in training) it is put back, and what was wrong is returned.
    """
    before = {name: value.clone() for name, value in prior.net.state_dict().items()}
    optimiser = torch.optim.Adam(prior.net.parameters(), rate, betas=PRIOR_BETAS)
    with prior.base.widened(spread) if isinstance(prior.base, MixturePrior) else nullcontext():
        for step in track(range(1, steps + 1), "the prior settles"):
            rows = rand(generator, (SETTLE_BATCH,), codes).mul(len(codes)).long()
            samples = prior.sample(SETTLE_BATCH, generator)
            optimiser.zero_grad(set_to_none=True)
            prior.loss(codes[rows], samples).backward()
            optimiser.step()
            if step % -(-steps // 10) == 0:
                found = diagnose(prior, codes[rows], samples, step)
                if not math.isfinite(found[PRIOR_GAP]):
                    break
                tell(f"step {step} of {steps}: f(codes) - f(samples) is {found['prior/gap']:.2f} nats")
    some = codes[:CHECKED]
    found = diagnose(prior, some, prior.sample(len(some), generator), steps)
    if problem := find_problem(found):
        prior.net.load_state_dict(before)
        return f"{problem}; {_ADVICE}" + (", or training.phases.settle.widen_base=1" if spread > 1 else "")
    warn_if_dead(found[TILT_STD], warn)
    return ""


def codes_of(model: MultimodalModel, batches: Iterable[Batch], generator: torch.Generator, keys: set[str]) -> Latents:
    """Draw REFIT_DRAWS codes an item under every key: [N, D], the first draw of all items before the second.

    So components, which start at the first codes, start at those of different items.
    """
    seen: dict[str, list[list[Tensor]]] = {key: [[] for _ in range(REFIT_DRAWS)] for key in keys}
    with torch.no_grad():
        for batch in track(batches if keys else (), "codes are drawn"):
            posterior = model.inference(batch)
            for draw in range(REFIT_DRAWS):
                codes, _ = posterior.sample(generator)
                for key, found in seen.items():
                    found[draw].append(observed(model, codes, batch, key))
    return {key: torch.cat([part for draw in found for part in draw]) for key, found in seen.items()}


def observed(model: MultimodalModel, codes: Latents, batch: Batch, key: str) -> Tensor:
    """Return the codes [N, D] under `key` that rest on something: of items with a part, or with that very part."""
    here = batch.present.any(1) if key == SHARED else batch.present[:, list(model.modalities).index(key)]
    return codes[key][here]
