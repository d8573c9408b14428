"""What training, evaluation and reports are made of: inference, generator and (optionally) an energy over all
modalities and one of interaction, with their chains, on states (pictures in [-1, 1]).
"""

from typing import Any

import torch
from torch import Tensor, nn

from multiebm.core.batch import Batch, mask_views
from multiebm.core.errors import ConfigError
from multiebm.core.names import Views
from multiebm.core.random import ItemGenerators, Randomness
from multiebm.core.tree import per_item, plain
from multiebm.distributions.gaussian import log_mass
from multiebm.mcmc.langevin import displaced_langevin, langevin
from multiebm.mcmc.run import ChainInfo, run_chain
from multiebm.modalities import Modality
from multiebm.models.chains import DataChain, Displaced, LatentChain, starts_from_noise, steers_step_size
from multiebm.models.choosing import best_fill, redrawn
from multiebm.models.diffusion import DiffusionRefiner
from multiebm.models.energy import EnergyNetwork
from multiebm.models.generator import Generator
from multiebm.models.inference import SHARED, InferenceModel, Latents, Posterior
from multiebm.models.interaction import LATENT_STEP, Interaction, InteractionNetwork
from multiebm.models.likelihood import importance_log_likelihood
from multiebm.models.own import Own
from multiebm.models.ratio import RatioNetwork
from multiebm.nn.spectral import frozen

SCORE_SAMPLES = 64  # importance samples of a score where there is no energy


class StateModel(nn.Module):
    """Energy pi(X), generator p(X, z, W), inference q(z, W | X) over named modalities (arXiv 2605.00644), on states."""

    def __init__(
        self,
        modalities: dict[str, Modality],
        inference: InferenceModel,
        generator: Generator,
        energy: EnergyNetwork | None,
        data_chain: DataChain,
        latent_chain: LatentChain,
        interaction: InteractionNetwork | None = None,
        ratio: RatioNetwork | None = None,
    ) -> None:
        super().__init__()
        self.modalities = modalities
        self.inference, self.generator, self.energy = inference, generator, energy
        self.interaction, self.ratio = interaction, ratio
        self.diffusion: DiffusionRefiner | None = None  # of a finished model, as fit_refiner makes it
        self.data_chain, self.latent_chain = data_chain, latent_chain
        self.blueprint: dict[str, Any] = {}  # plain values its builder made it from; save_pretrained writes them
        self.own = Own()  # and code of the user's own, whose names are among them
        self.displacement: Tensor  # rms length of a displaced step, per coordinate; training steers it
        self.energy_steps: Tensor  # updates of the energy; until the first it is random
        self.register_buffer("displacement", torch.tensor(0.004, dtype=torch.float32))
        self.register_buffer("energy_steps", torch.tensor(0))
        self.step_size: Tensor  # s of a data chain whose steps are steered; others have none
        if steers_step_size(data_chain):
            self.register_buffer("step_size", torch.tensor(0.5, dtype=torch.float32))

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return next(self.parameters()).device

    @property
    def energy_learned(self) -> bool:
        """Whether there is an energy and training has moved it at all; an energy without a step says nothing."""
        return self.energy is not None and int(self.energy_steps) > 0

    @property
    def data_step_size(self) -> float | None:
        """Step size s of the data chain, eq. (3), in state units; None where steps are displaced and have none."""
        chain = self.data_chain
        if isinstance(chain, Displaced):
            return None
        return float(self.step_size) if chain.step_size == "steered" else chain.step_size

    @property
    def data_temperature(self) -> float | None:
        """Temperature T = (n / s)^2 of the data chain: it targets exp(-E / T). None where steps are displaced."""
        s = self.data_step_size
        return None if s is None else (self.data_chain.noise_scale / s) ** 2

    @property
    def interaction_learned(self) -> bool:
        """Whether there is an energy of interaction and training has moved it at all."""
        return self.interaction is not None and self.interaction.learned

    @property
    def chooses(self) -> Interaction:
        """What the energy of interaction chooses before the data chain runs; nothing before it has its weight."""
        nothing = Interaction()
        return self.interaction.settings if self.interaction is not None and self.interaction.weight else nothing

    @property
    def compares(self) -> bool:
        """Whether draws of the prior are compared with the codes of items: a ratio has learned and is asked for."""
        return self.ratio is not None and self.ratio.learned and self.chooses.compares

    @torch.no_grad()
    def likeness(self, latents: Latents) -> Tensor:
        """Return d(G(z, W)) [B] in nats: how much likelier latents [B, .] are codes than draws, seen where decoded.

        0 where no ratio has learned.
        """
        if not self.compares:
            return torch.zeros(len(next(iter(latents.values()))), device=self.device)
        assert self.ratio is not None
        return self.ratio(self.likeliest(self.decode(latents)))

    def log_density_unnorm(self, views: Views) -> Tensor:
        """Return -E(X) + weight f(X) of views [B, ...]: [B], log pi(X) up to the constant log Z, at temperature 1.

        Without an energy of interaction f, or before it has its weight, that is -E(X), eq. (1). Differentiable in the
        views. Computed in evaluation mode: nothing of the model changes or gets a gradient.
        """
        energies: list[nn.Module] = [self._an_energy(), *([self.interaction] if self.interaction else [])]
        with frozen(*energies):
            return self._log_density(views)

    def _log_density(self, views: Views, louder: Tensor | float = 1.0) -> Tensor:
        """Return `log_density_unnorm` of views [B, ...], f `louder` times, in the mode the networks are in: [B]."""
        found = -self._an_energy()(views)
        if self.interaction is None or not self.interaction.weight:
            return found
        return found + louder * self.interaction.weight * self.interaction(views)

    def _an_energy(self) -> EnergyNetwork:
        if self.energy is None:
            raise ConfigError("model.energy: got a model without an energy, expected one; train with model.energy set")
        return self.energy

    def refine_data(
        self,
        views: Views,
        rng: Randomness,
        steps: int | None = None,
        clamp: Tensor | Views | None = None,
        record: bool = False,
    ) -> tuple[Views, ChainInfo]:
        """Run `steps` of the data chain (None: as in training) on views [B, ...]: Langevin, eq. (3), or displaced.

        Displaced steps have one length along the normalised gradient: scaling the energy changes nothing, and the chain
        seeks modes; it does not sample exp(-E / T). What is observed, where `clamp` (of parts bool [B, M],
        of cells [B, ...]), is held fixed: Langevin steps then target the conditional pi(x_absent | x_observed),
        displaced ones seek its modes. A short-run chain starts from noise: of the views it takes what is held, and
        the shapes of the rest.
        """
        chain, _ = self.data_chain, self._an_energy()
        held = {name: plain(view.detach()) for name, view in views.items()}
        cells: Views = {}
        if isinstance(clamp, Tensor):
            cells = {n: per_item(plain(clamp)[:, i], v).expand_as(v) for i, (n, v) in enumerate(held.items())}
        elif clamp is not None:
            cells = {name: plain(where) for name, where in clamp.items()}

        def hold(moved: Views) -> Views:
            return {n: torch.where(cells[n], held[n], v) for n, v in moved.items()} if cells else moved

        def settled(moved: Views) -> Views:
            return hold({name: self.modalities[name].settle(view) for name, view in moved.items()})

        def logdensity(moved: Views) -> Tensor:
            return self._log_density(hold(moved))

        if isinstance(chain, Displaced):
            length = self.displacement
            if cells:  # rescaled by item, so that the free coordinates alone move by it
                free = torch.stack([(~where).flatten(1).sum(1) for where in cells.values()]).sum(0)
                length = length * (free.float() / sum(m.size for m in self.modalities.values())).sqrt()
            kernel = displaced_langevin(logdensity, length, chain.noise_scale)
        else:
            assert (s := self.data_step_size) is not None
            kernel = langevin(logdensity, s, chain.noise_scale, tempered=True)
        if starts_from_noise(chain):
            held = {name: self.modalities[name].relax(view) for name, view in held.items()}
            start = hold({name: self.modalities[name].noise(view, rng) for name, view in held.items()})
        else:
            start = {name: self.modalities[name].relax(view) for name, view in self.likeliest(held).items()}
        with frozen(self):
            end, info = run_chain(kernel, start, chain.steps if steps is None else steps, rng, record)
        positions = None if info.positions is None else [settled(p) for p in info.positions]
        return settled(end), info._replace(positions=positions)

    def refine_latents(
        self, latents: Latents, batch: Batch, rng: Randomness, steps: int | None = None, record: bool = False
    ) -> tuple[Latents, ChainInfo]:
        """Run the latent chain towards the subset posterior of the present parts, eqs. (8), (17).

        Latents {"shared": [B, D], modality: [B, P]}. Private ones of absent parts get no evidence and stay as they are.
        """
        chain, joint = self.latent_chain, self.generator.log_joint
        kernel = langevin(lambda at: joint(batch.views, at, batch.present), chain.step_size, diagnose=True)
        with frozen(self):
            end, info = run_chain(kernel, latents, chain.steps if steps is None else steps, rng, record)
        start = {name: latents[name].detach() for name in self.modalities if name in latents}
        return end | mask_views({name: end[name] for name in start}, batch.present, start), info

    def refine_sampled(
        self, latents: Latents, rng: Randomness, steps: int, temperature: float | None = None
    ) -> tuple[Latents, ChainInfo]:
        """Run `steps` of a chain on latents of samples, {"shared": [B, D], modality: [B, P]}, towards what belongs.

        Langevin steps on log p(z) / T + sum_m log p(w_m) + f(G(z, W)): the prior, at the `temperature` T that it was
        drawn with, times how much likelier together than apart its decoder means are.
        """
        assert self.interaction is not None
        prior = self.generator.priors()
        temperature = self.generator.temperature if temperature is None else temperature
        divided = {key: temperature if key == SHARED else 1.0 for key in prior}

        def logdensity(at: Latents) -> Tensor:
            assert self.interaction is not None
            drawn = torch.stack([prior[key].log_prob(at[key]) / divided[key] for key in at]).sum(0)
            return drawn + self.interaction(self.generator(at))

        with frozen(self):
            return run_chain(langevin(logdensity, LATENT_STEP), latents, steps, rng)

    def refined_samples(
        self,
        latents: Latents,
        rng: Randomness,
        data_steps: int | None = None,
        latent_steps: int | None = None,
        temperature: float | None = None,
    ) -> Views:
        """Return EBM samples [B, ...] of latents drawn from the prior, {"shared": [B, D], modality: [B, P]}.

        They are drawn anew (`redrawn`), `latent_steps` of `refine_sampled` (None: as `model.interaction` says) move
        them, then `data_steps` of the data chain what they decode to.
        """
        latents = redrawn(self, latents, rng, temperature)
        if latent_steps := self.chooses.latent_steps if latent_steps is None else latent_steps:
            latents, _ = self.refine_sampled(latents, rng, latent_steps, temperature)
        return self.refine_data(self.decode(latents), rng, data_steps)[0]

    def refined_fill(
        self,
        batch: Batch,
        rng: Randomness,
        data_steps: int | None = None,
        latent_steps: int = 0,
        best_of: int | None = None,
        posterior: Posterior | None = None,
    ) -> Views:
        """Return EBM completions [B, ...]: `best_fill` (`best_of` None: as `model.interaction` says), then the data
        chain, which holds what is there.
        """
        best_of = self.chooses.best_of if best_of is None else best_of
        filled = best_fill(self, batch, rng, latent_steps, best_of, posterior)
        return self.refine_data(filled, rng, data_steps, clamp=batch.there())[0]

    def sample_latents(self, n: int, rng: Randomness, temperature: float | None = None) -> Latents:
        """Draw latents from the prior: {"shared": [n, D], modality: [n, P]}."""
        with torch.no_grad():
            return self.generator.sample_latents(n, rng, temperature)

    def decode(self, latents: Latents, wanted: Tensor | None = None) -> Views:
        """Return decoder means [B, *shape] of all modalities (no observation noise); `latents` [B, D] and [B, P].

        With `wanted` (bool [B, M]) only those are decoded, and the others are 0.
        """
        with torch.no_grad():
            return self.generator(latents, wanted)

    def fill(self, batch: Batch, latents: Latents) -> Views:
        """Return the views [B, ...] with the means of `latents` ([B, D], [B, P]) where a part, or a cell, is absent."""
        there = batch.there()
        whole = torch.stack([cells.flatten(1).all(1) for cells in there.values()], 1)
        means = self.decode(latents, ~whole)
        return batch.filled(means)

    def with_noise(self, means: Views, rng: Randomness) -> Views:
        """Return draws [B, ...] of what is observed around the `means` of all modalities: p(x_m | z, w_m)."""
        return {name: self.generator.likelihoods[name].sample(mean, rng) for name, mean in means.items()}

    def likeliest(self, means: Views) -> Views:
        """Return states [B, ...] for `means` [B, ...] of parts: the mode of a likelihood that has one, else the mean.

        Captions have one where a word depends on those before it.
        """
        modes = {name: getattr(self.generator.likelihoods[name], "mode", None) for name in means}
        return {name: mean if (mode := modes[name]) is None else mode(mean) for name, mean in means.items()}

    def with_private_of_absent(self, latents: Latents, batch: Batch, rng: Randomness) -> Latents:
        """Return the latents with the private ones [B, P] of absent parts drawn from their prior."""
        prior = self.generator.sample_private(len(batch.present), rng)
        return latents | mask_views({name: latents[name] for name in prior}, batch.present, prior)

    def infer_latents(
        self, batch: Batch, rng: Randomness, latent_steps: int = 0, posterior: Posterior | None = None
    ) -> Latents:
        """Draw latents given the present parts: from q(z | x_S), then `latent_steps` of the latent chain.

        {"shared": [B, D], modality: [B, P]}, eqs. (5) and (17). Private latents of absent parts come from their prior;
        an item with nothing present gets the prior altogether, at the model's temperature. `posterior`: q(z, W | x_S),
        where it is known.
        """
        with torch.no_grad():
            posterior = self.inference.given(batch) if posterior is None else posterior
            latents = self.with_private_of_absent(posterior.sample(rng)[0], batch, rng)
            nothing = ~batch.present.any(1)
            if nothing.any():
                # only the items concerned draw, or their presence would move the noise of the others
                own = rng.select(nothing) if isinstance(rng, ItemGenerators) else rng
                n, temperature = int(nothing.sum()), self.generator.temperature
                latents[SHARED][nothing] = self.generator.prior.sample(n, own, temperature)
        if latent_steps:
            latents, _ = self.refine_latents(latents, batch, rng, latent_steps)
        return latents

    def match_states(self, batch: Batch) -> Tensor:
        """Return what `match` does of states: [B]."""
        here = batch.present.T  # [M, B]
        if self.interaction is not None and self.interaction_learned:
            return torch.where(here.sum(0) > 1, self.interaction(batch.views, batch.present), torch.nan)
        q = self.inference.given(batch, alone=True)
        loc = q.experts.loc  # [M, B, D]
        if q.experts.root is not None and q.shared.root is not None:
            # every density has the factor p(x_m | z) of its parts; what is left is the integral over z, 1 where absent
            together, alone = log_mass(q.shared.loc[0], q.shared.root[0]), log_mass(loc, q.experts.root).sum(0)
            return torch.where(here.sum(0) > 1, together - alone, torch.nan)
        both = here[:, None] & here & ~torch.eye(len(loc), dtype=torch.bool, device=loc.device)[..., None]
        apart = (loc[:, None] - loc).square().sum(-1)  # [M, M, B]
        return -torch.where(both, apart, 0.0).sum((0, 1)) / both.sum((0, 1))  # 0 / 0 is NaN

    def score_states(self, batch: Batch) -> Tensor:
        """Return what `score` does of complete items in state space: [B]."""
        if self.interaction is not None and self.interaction_learned and not self.energy_learned:
            return self.interaction(batch.views)
        if self.energy is not None:
            return self._log_density(batch.views, 1.0 if self.interaction is None else self.interaction.louder)
        noise = ItemGenerators([0] * len(batch.present))
        return importance_log_likelihood(self, batch, SCORE_SAMPLES, noise).value
