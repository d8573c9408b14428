"""The bound of a multimodal VAE alone; a latent energy prior learns beside it from detached codes."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from multiebm.core.batch import Batch
from multiebm.core.random import rand
from multiebm.models.inference import SHARED
from multiebm.models.model import MultimodalModel
from multiebm.objectives.vae import ESTIMATORS, BoundSettings, vae_loss
from multiebm.training.codes import follow_codes, observed, prior_step
from multiebm.training.phases.phase import Chosen, Phase, encoder_metrics, log_likelihood_metrics
from multiebm.training.rates import half_cosine
from multiebm.training.state import TrainState, update
from multiebm.training.weights import balance

FALL = 0.5  # share of the steps over which rates fall


@dataclass(frozen=True)
class Bound(BoundSettings, Phase):
    """Generator and inference model learn from a bound of a multimodal VAE."""

    kind: Literal["bound"] = "bound"
    planned: ClassVar[tuple[str, ...]] = ("steps", "prior_from")
    steps: Annotated[int, Field(ge=0, description="training steps; 0 = the phase is left out")] = 1000
    beta: Annotated[float, Field(ge=0, description="weight of the divergence")] = 1.0
    final: Annotated[float, Field(gt=0, description="factor on rates at the end; they fall over the second half")] = 0.3
    hidden: Annotated[
        float, Field(ge=0, lt=1, description="share of an item's cells that encoders are not shown, at most")
    ] = 0.0
    prior_from: Annotated[int, Field(ge=0, description="step of the phase from which an energy prior learns")] = 200

    def step(self, state: TrainState[MultimodalModel], batch: Batch, done: int) -> dict[str, float]:
        """One step on the bound; a prior's own parameters learn beside it from detached codes, one an item [B, D]."""
        model, rng, prior = state.model, state.rng, state.model.generator.prior
        weights = balance(state, batch, done, self.steps)
        alone = bool(prior.own_parameters())
        learns = alone and done >= self.prior_from  # before it learns a tilt is a random function
        shown = with_more_gaps(model, batch, rng, self.hidden) if self.hidden else batch
        posterior = model.inference(shown, rng if self.components == "one" and self.divergence != "mixture" else None)
        codes = follow_codes(state, posterior, batch, alone)
        given = posterior, batch, rng, self, self.beta, shown.views
        loss, log_px = vae_loss(model.generator, prior.for_bound(learns), *given)
        update(state, loss, "generator", "inference")
        metrics = {"loss/elbo": loss.item(), **encoder_metrics(posterior, batch), **weights}
        each = log_px.sum((0, 1)) / (log_px != 0).sum((0, 1)).clamp_min(1)  # of the components that decode the part
        metrics |= log_likelihood_metrics(model, each, batch.present)
        if learns:
            seen = observed(model, codes, batch, SHARED)
            metrics |= prior_step(state, seen, prior.sample(len(seen), rng))
        return metrics

    def factor(self, done: int) -> float:
        """1, then over the last share FALL of the steps half a cosine down to `final`."""
        return half_cosine(1.0, self.final, 1 + (done - self.steps) / max(self.steps * FALL, 1.0))

    def marks(self) -> tuple[int, ...]:
        """The step at which the prior begins to learn."""
        return (self.prior_from,)

    def problems(self, chosen: Chosen) -> list[str]:
        """Return a line for every pair of choices that cannot both be meant, with the way out."""
        at, prior, problems = "training.phases.bound", chosen.prior, []
        predicts = ESTIMATORS[self.estimator].predicts != "not"
        if self.components == "one" and not predicts and (self.estimator != "elbo" or self.samples > 1):
            problems.append(
                f"{at}.components: got one with estimator {self.estimator} and {self.samples} sample(s), expected all, "
                f"or the ELBO of one sample; set {at}.components=all"
            )
        joins = self.estimator != "elbo" and not predicts
        if self.divergence == "analytic" and (joins or prior.kind != chosen.family):
            problems.append(
                f"{at}.divergence: got analytic with estimator {self.estimator} and a prior of kind {prior.kind}, "
                f"expected the ELBO with a prior of the experts' family; set {at}.divergence=component"
            )
        if self.estimator == "iwae_inside" and (self.penalty != "none" or self.components == "sum"):
            problems.append(
                f"{at}.estimator: got iwae_inside with penalty {self.penalty} and components {self.components}, "
                "expected none and all: a penalty is of each component's bound, and here components are joined in one "
                f"estimate; set {at}.penalty=none and {at}.components=all"
            )
        in_bound = getattr(prior, "in_bound", False)
        if self.penalty == "jensen_shannon" and (prior.taught or in_bound):
            problems.append(
                f"{at}.penalty: got jensen_shannon with a prior that the bound has to teach or see, expected a fixed "
                "one: its dynamic prior has N(0, I) in it; set model.prior.kind=normal and "
                "model.prior.learned_scale=false"
            )
        needs = {
            "jensen_shannon": ("single", "normal"),
            "total_correlation": ("full", chosen.family),
            "joint": ("full", chosen.family),
        }
        got = ("full" if chosen.subsets == "joint" else chosen.subsets, chosen.family)  # one component of all parts
        subsets, family = needs.get(self.penalty, got)
        if got != (subsets, family):
            problems.append(
                f"{at}.penalty: got {self.penalty} with subsets {chosen.subsets} of family {chosen.family}, expected "
                f"subsets {subsets} of family {family}; set model.inference.subsets={subsets} and model.family={family}"
            )
        if self.penalty in ("jensen_shannon", "total_correlation") and chosen.private:
            problems.append(
                f"{at}.penalty: got {self.penalty} with private latents of size {chosen.private}, expected none: it "
                "weighs the divergence of all latents; set model.private=0"
            )
        return problems


def with_more_gaps(model: MultimodalModel, batch: Batch, rng: torch.Generator, most: float) -> Batch:
    """Return the batch with more of its cells missing, in parts of which cells may be: views [B, ...].

    Of an item a share of its cells, uniform up to `most`, but for one. Encoders are shown this and decoders taught
    all there is, so the bound is one given any cells, as that of MoPoE is given any parts.
    """
    views = dict(batch.views)
    for name, modality in model.modalities.items():
        if not modality.lacks_cells:
            continue
        view, blocks = views[name], torch.tensor(modality.blocks, device=views[name].device)
        first = blocks.cumsum(0) - blocks  # a column's first coordinate is missing where the column is
        share = most * rand(rng, (len(view), 1), view)
        lots = rand(rng, (len(view), len(blocks)), view).masked_fill(view.flatten(1)[:, first].isnan(), -1)
        hidden = (lots < share).scatter(1, lots.argmax(1, keepdim=True), False)
        views[name] = view.masked_fill(hidden.repeat_interleave(blocks, 1).view_as(view), torch.nan)
    return batch._replace(views=views)
