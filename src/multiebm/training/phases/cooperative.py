"""Cooperative learning of an energy, a generator and an inference model by two chains (arXiv 2605.00644)."""

from dataclasses import dataclass, fields
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from multiebm.core.batch import Batch
from multiebm.core.names import Views
from multiebm.models.inference import SHARED, Posterior
from multiebm.models.model import MultimodalModel
from multiebm.objectives.cooperative import balanced_weight, generator_loss, inference_loss, squared_residuals
from multiebm.objectives.vae import BoundSettings, Draw, bound_loss, draw
from multiebm.priors.prior import Prior
from multiebm.training.codes import (
    PositivePhase,
    RefinedCodes,
    RefinedSamples,
    complete_items,
    follow_codes,
    latent_chain_metrics,
    log_q,
    observed,
    prior_step,
    refine_codes,
    refine_samples,
)
from multiebm.training.phases.energy import energy_step
from multiebm.training.phases.phase import Chosen, Phase, encoder_metrics, log_likelihood_metrics
from multiebm.training.rates import half_cosine
from multiebm.training.state import TrainState, update

STRATIFIED = BoundSettings()  # the anchor's bound
RESIDUAL_DECAY = 0.99  # running means of the two residuals that lambda_s = balance compares
NonNegative = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class Cooperative(Phase):
    """The three losses of the cooperative step. The paper's: anchor 0, reconstruction 1, refresh, codes from prior."""

    kind: Literal["cooperative"] = "cooperative"
    steps: Annotated[int, Field(ge=0, description="training steps; 0 = the phase is left out")] = 300
    rate: Annotated[float, Field(gt=0, description="factor on the rates of generator and inference model")] = 0.3
    final: Annotated[float, Field(gt=0, description="that factor at the end, along half a cosine")] = 1.0
    beta1: Annotated[float, Field(ge=0, lt=1, description="first moment decay of all but the prior")] = 0.5
    anchor: Annotated[NonNegative, Field(description="weight of the stratified ELBO beside the losses")] = 1.0
    reconstruction: Annotated[NonNegative, Field(description="weight of -log p(X | z~, W~), eq. (11)")] = 0.2
    synthetic: Annotated[
        Literal["balance"] | NonNegative,
        Field(description="lambda_s, weight of -log p(X~ | z), eq. (11); balance: by the ratio of residuals"),
    ] = 1.0
    inference: Annotated[
        NonNegative, Field(description="weight of -log q(z~ | X), eq. (12); 0: inference learns from the anchor")
    ] = 1.0
    inference_synthetic: Annotated[NonNegative, Field(description="lambda_I, weight of -log q(z | X~), eq. (12)")] = 0.1
    positive_phase: Annotated[
        PositivePhase,
        Field(
            description="latent chains start from a code of one expert an item, or of each that it has; own_part: each "
            "then sees its own part alone, and its decoder and encoder learn from it"
        ),
    ] = "random_expert"
    incomplete: Annotated[
        Literal["fill", "skip"],
        Field(description="items with gaps in the energy's positive phase: absent parts are drawn, or left out"),
    ] = "fill"
    negatives: Annotated[
        Literal["refresh", "reuse"],
        Field(description="the energy learns from a data chain after the generator's update, or from the one before"),
    ] = "reuse"
    prior_codes: Annotated[
        Literal["refined", "drawn"],
        Field(
            description="codes that an energy prior learns from: after the latent chain, or as the experts draw them"
        ),
    ] = "refined"

    def step(self, state: TrainState[MultimodalModel], batch: Batch, done: int) -> dict[str, float]:
        """One step on data X [B, ...]; without an energy it is the latent chain's half alone.

        Every forward pass is made once and used wherever it is needed.
        """
        model, rng, prior = state.model, state.rng, state.model.generator.prior
        # q(z, W | X), with its graph to phi: where the latent chain starts, and what the anchor and L_phi need
        posterior = model.inference(batch)
        samples: RefinedSamples | None = None
        metrics: dict[str, float] = {}
        if model.energy is not None:
            # z, W ~ p(z) p(W);  X~: data chain from G(z, W) towards exp(-E)                                   eq. (3)
            samples, metrics = refine_samples(state, len(batch.present))
        # z0, W0 ~ q(z, W | X);  z~, W~: latent chain from z0, W0 towards p(z, W | X)                         eq. (8)
        codes = refine_codes(state, posterior, batch, self.positive_phase)
        if len(codes.item):  # of each expert an item has there are none where nobody has a part
            # omega <- L_omega(X, z~, W~; X~, z, W), phi <- L_phi(z~, W~, X; z, W, X~)                  eqs. (11), (12)
            metrics |= self._generator_and_inference(state, batch, posterior, codes, samples)
        # p(z) follows the codes; its own parameters learn from z~, or from codes as drawn, against draws of the prior
        alone, after_chain = bool(prior.own_parameters()), self.prior_codes == "refined"
        drawn_codes = follow_codes(state, posterior, batch, alone and not after_chain)
        if alone:
            refined_codes = codes.latents[SHARED][codes.batch.present.any(1)]
            positive = refined_codes if after_chain else observed(model, drawn_codes, batch, SHARED)
            z = samples.latents[SHARED] if samples is not None and model.generator.temperature == 1 else None
            metrics |= prior_step(state, positive, prior.sample(len(batch.present), rng) if z is None else z)
        if samples is None:
            return metrics
        refined = samples.refined
        if self.negatives == "refresh":
            # X~ once more: data chain from G(z, W), the same z, W and the updated generator
            refined, _ = model.refine_data(model.decode(samples.moved), rng)
        # X of the positive phase: gaps are filled by both chains
        data = complete_items(state, posterior, batch, codes, self.incomplete)
        # theta <- L_theta(X, X~)                                                                           eq. (10)
        return metrics | energy_step(state, data, refined)

    def _generator_and_inference(
        self,
        state: TrainState[MultimodalModel],
        batch: Batch,
        posterior: Posterior,
        codes: RefinedCodes,
        samples: RefinedSamples | None,
    ) -> dict[str, float]:
        """Make one backward pass of L_omega (11), L_phi (12) and the anchor, whose graph alone joins the two."""
        model, generator = state.model, state.model.generator
        # the anchor's z, W ~ q(z, W | X) are decoded in one pass with z~, W~
        prior = generator.prior.for_bound(learns=True)
        anchored = draw(generator, prior, posterior, batch, state.rng, STRATIFIED) if self.anchor else None
        means, crossed = self._decode(model, codes, anchored, batch.present)
        # L_omega = -log p(X | z~, W~) - lambda_s log p(X~ | z, W)                                            eq. (11)
        log_px, log_ps, weight = generator.log_likelihood(codes.batch.views, means), None, 0.0
        if samples is not None:
            weight = self._lambda_s(state, codes.batch, means, samples)
            log_ps = generator.log_likelihood(samples.refined, samples.means)
        loss = generator_loss(log_px, codes.batch.present, self.reconstruction * codes.share, log_ps, weight)
        metrics = {"loss/generator": loss.item()} | ({} if samples is None else {"weight/synthetic": weight})
        if self.inference or (self.inference_synthetic and samples is not None):
            # L_phi = -log q(z~, W~ | X) - lambda_I log q(z, W | X~)                                          eq. (12)
            log_qs = None
            if self.inference_synthetic and samples is not None:
                made = Batch(samples.refined, samples.present)
                log_qs = log_q(model.inference(made), samples.latents, made.present, codes.apart)
            phi_loss = inference_loss(codes.log_q(), self.inference * codes.share, log_qs, self.inference_synthetic)
            loss = loss + phi_loss
            metrics["loss/inference"] = phi_loss.item()
        base = generator.prior.for_bound(learns=False)
        if not self.anchor and isinstance(base, Prior) and next(base.parameters(), None) is not None:
            # what eq. (11) says of learned scales and clusters, -log p(z~), where no anchor teaches these; of the
            # prior's own draws the same term has no gradient in the mean, and is left out
            there = codes.batch.present.any(1)
            log_pz = torch.where(there, base.log_prob(codes.latents[SHARED]), 0.0)
            prior_loss = -log_pz.sum() / there.sum().clamp_min(1)
            loss = loss + prior_loss
            metrics["loss/prior"] = prior_loss.item()
        if anchored is not None:
            # the stratified ELBO of the data, which keeps all of it in place
            log_crossed = torch.where(batch.present, generator.log_likelihood(batch.views, crossed), 0.0)
            anchor = bound_loss(log_crossed[None, None], anchored, prior, posterior, batch.present, STRATIFIED, 1.0)
            loss = loss + self.anchor * anchor
            metrics["loss/anchor"] = anchor.item()
        metrics |= update(state, loss, "generator", "inference")
        metrics |= log_likelihood_metrics(model, log_px, codes.batch.present)
        return metrics | encoder_metrics(posterior, batch) | latent_chain_metrics(model, codes)

    def _decode(
        self, model: MultimodalModel, codes: RefinedCodes, anchored: Draw | None, present: Tensor
    ) -> tuple[Views, Views]:
        """Return the means [N, ...] of refined codes and [B, ...] of the anchor's draw, those of present parts.

        One pass for both, unless one of them needs no gradient.
        """
        latents, own = codes.latents, codes.batch.present
        if anchored is None:
            return (model.generator(latents, own) if self.reconstruction else model.decode(latents, own)), {}
        others = {key: value[0, 0] for key, value in anchored.latents.items()}
        if not self.reconstruction:
            return model.decode(latents, own), model.generator(others, present)
        n = len(own)
        both = {key: torch.cat([latents[key], others[key]]) for key in latents}
        means = model.generator(both, torch.cat([own, present]))
        return {name: mean[:n] for name, mean in means.items()}, {name: mean[n:] for name, mean in means.items()}

    def _lambda_s(self, state: TrainState, batch: Batch, means: Views, samples: RefinedSamples) -> float:
        """Return lambda_s: the number set, or the ratio of running residuals less the chain's noise floor."""
        if self.synthetic != "balance":
            return float(self.synthetic)
        real, made = (batch.views, means, batch.present), (samples.refined, samples.means, samples.present)
        for key, values in (("residual/reconstruction", real), ("residual/synthetic", made)):
            with torch.no_grad():
                now = squared_residuals(*values).sum().item()
            state.numbers[key] = RESIDUAL_DECAY * state.numbers.get(key, now) + (1 - RESIDUAL_DECAY) * now
        chain = state.model.data_chain
        floor = sum(m.size for m in state.model.modalities.values()) * chain.steps * chain.noise_scale**2
        return balanced_weight(state.numbers["residual/reconstruction"], state.numbers["residual/synthetic"], floor)

    def factor(self, done: int) -> float:
        """Half a cosine from `rate` to `final`."""
        return half_cosine(self.rate, self.final, done / max(self.steps, 1))

    @property
    def momentum(self) -> float:
        """beta1 of the cooperative steps."""
        return self.beta1

    def problems(self, chosen: Chosen) -> list[str]:
        """Return a line for every pair of choices that cannot both be meant, with the way out."""
        at, problems = "training.phases.cooperative", []
        needs_energy = [name for name in ("synthetic", "inference_synthetic") if getattr(self, name) != 0]
        if not chosen.energy and needs_energy:
            names = ", ".join(f"{at}.{name}" for name in needs_energy)
            problems.append(
                f"model.energy: got null with {at}.steps {self.steps} and {names} above 0, expected an energy; set "
                f"{at}.steps=0 (the bound only), or these to 0 (the latent chain alone)"
            )
        if not (self.anchor or self.reconstruction or self.synthetic):
            problems.append(
                f"{at}.anchor: got 0 with reconstruction and synthetic 0, expected something that teaches the "
                f"generator; set {at}.reconstruction=1, or {at}.anchor=1"
            )
        if not (self.inference or self.inference_synthetic or self.anchor):
            problems.append(
                f"{at}.inference: got 0 with inference_synthetic and anchor 0, expected something from which the "
                f"inference model learns; set {at}.inference=1, or {at}.anchor=1"
            )
        if chosen.from_noise:
            problems.append(
                f"model.data_chain.kind: got short_run with {at}.steps {self.steps}, expected a chain that starts from "
                f"the generator: only then have its ends codes; set {at}.steps=0, or model.data_chain.kind=langevin"
            )
        bounds = [phase for phase in chosen.phases if isinstance(phase, BoundSettings) and phase.steps]
        other = any(getattr(phase, f.name) != f.default for phase in bounds for f in fields(BoundSettings))
        if chosen.subsets != "single" or other:
            problems.append(
                f"{at}.steps: got {self.steps} with inference or a bound of another method, expected 0 or single "
                f"experts and the default bound; set {at}.steps=0"
            )
        return problems
