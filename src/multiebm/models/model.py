"""The model a user holds: inference, generator and (optionally) an energy over all modalities, with their two chains.

`sample`, `impute`, `encode` and `score` speak raw values with users; the other methods work on states (pictures in
[-1, 1]) and are what training, evaluation and reports are made of.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from multiebm.core.batch import Batch, mask_views
from multiebm.core.errors import ConfigError, ModalityError
from multiebm.core.modality import Modality, Views
from multiebm.core.random import ItemGenerators, Randomness, item_generators, make_generator
from multiebm.core.tree import per_item
from multiebm.mcmc.annealing import LogNormalizer
from multiebm.mcmc.langevin import displaced_langevin, langevin
from multiebm.mcmc.run import ChainInfo, run_chain
from multiebm.models.checks import check_names, check_parts, check_steps, make_batch
from multiebm.models.energy_prior import EnergyPrior
from multiebm.models.generator import Generator
from multiebm.models.inference import SHARED, InferenceModel, Latents
from multiebm.models.likelihood import importance_log_likelihood
from multiebm.models.pretrained import write_pretrained
from multiebm.nn.energies import EnergyNetwork
from multiebm.nn.spectral import frozen

SCORE_SAMPLES = 64  # importance samples of a score where there is no energy


@dataclass(frozen=True)
class DataChain:
    """Langevin steps on the energy. `displaced` moves every item by `model.displacement` per coordinate and step along
    the gradient (steered in training); otherwise the step is s^2/2 times the gradient with s = `step_size`, eq. (3).
    """

    steps: int = 10
    displaced: bool = True
    step_size: float = 0.5
    noise_scale: float = 0.001


@dataclass(frozen=True)
class LatentChain:
    """Langevin steps on log p(X, z, W), eq. (8); `noise_scale` None = `step_size`, which samples the posterior."""

    steps: int = 5
    step_size: float = 0.05
    noise_scale: float | None = None


class MultimodalModel(nn.Module):
    """Energy pi(X), generator p(X, z, W), inference q(z, W | X) over named modalities (arXiv 2605.00644)."""

    def __init__(
        self,
        modalities: dict[str, Modality],
        inference: InferenceModel,
        generator: Generator,
        energy: EnergyNetwork | None,
        data_chain: DataChain,
        latent_chain: LatentChain,
    ) -> None:
        super().__init__()
        self.modalities = modalities
        self.inference, self.generator, self.energy = inference, generator, energy
        self.data_chain, self.latent_chain = data_chain, latent_chain
        self.blueprint: dict[str, Any] = {}  # plain values its builder made it from; save_pretrained writes them
        self.displacement: Tensor
        self.register_buffer("displacement", torch.tensor(0.004))
        self.energy_steps: Tensor
        self.register_buffer("energy_steps", torch.tensor(0))  # updates of the energy; until the first it is random

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return next(self.parameters()).device

    @property
    def energy_learned(self) -> bool:
        """Whether there is an energy and training has moved it at all; an energy without a step says nothing."""
        return self.energy is not None and int(self.energy_steps) > 0

    def log_density_unnorm(self, views: Views) -> Tensor:
        """Return -E(X) of views [B, ...]: [B], the log of eq. (1) up to the constant log Z, at temperature 1."""
        if self.energy is None:
            raise ConfigError(
                "model.energy: got a model without an energy, expected one with; train with model.energy set"
            )
        return -self.energy(views)

    def refine_data(
        self,
        views: Views,
        generator: Randomness,
        steps: int | None = None,
        clamp: Tensor | None = None,
        record: bool = False,
    ) -> tuple[Views, ChainInfo]:
        """Run the data chain, eq. (3) or its displaced form, from `views`; `clamp` [B, M] holds observed parts fixed,
        which targets the conditional pi(x_absent | x_observed) without a normaliser. `steps` None = as in training.
        """
        start = {name: view.detach() for name, view in views.items()}

        def hold(moved: Views) -> Views:
            if clamp is None:
                return moved
            return {n: torch.where(per_item(clamp[:, i], v), start[n], v) for i, (n, v) in enumerate(moved.items())}

        chain = self.data_chain

        def logdensity(moved: Views) -> Tensor:
            return self.log_density_unnorm(hold(moved))

        if chain.displaced:
            kernel = displaced_langevin(logdensity, self._free_displacement(clamp), chain.noise_scale)
        else:
            kernel = langevin(logdensity, chain.step_size, chain.noise_scale)
        with frozen(self):
            end, info = run_chain(kernel, start, chain.steps if steps is None else steps, generator, record)
        held = None if info.positions is None else [hold(p) for p in info.positions]
        return hold(end), info._replace(positions=held)

    def _free_displacement(self, clamp: Tensor | None) -> Tensor:
        """Return the displacement, rescaled per item so that the free coordinates alone move by it."""
        if clamp is None:
            return self.displacement
        sizes = torch.tensor([m.size for m in self.modalities.values()], dtype=torch.float32, device=clamp.device)
        return self.displacement * ((~clamp).float() @ sizes / sizes.sum()).sqrt()

    def refine_latents(
        self, latents: Latents, batch: Batch, generator: Randomness, steps: int | None = None, record: bool = False
    ) -> tuple[Latents, ChainInfo]:
        """Run the latent chain towards the subset posterior of the present parts, eqs. (8), (17).

        Latents {"shared": [B, D], modality: [B, P]}. Private ones of absent parts get no evidence and stay as they are.
        """
        chain = self.latent_chain

        def logdensity(position: Latents) -> Tensor:
            return self.generator.log_joint(batch.views, position, batch.present)

        kernel = langevin(logdensity, chain.step_size, chain.noise_scale, diagnose=True)
        with frozen(self):
            end, info = run_chain(kernel, latents, chain.steps if steps is None else steps, generator, record)
        kept = dict(end)
        for i, name in enumerate(self.modalities):
            if name in kept:
                start = latents[name].detach()
                kept[name] = torch.where(per_item(batch.present[:, i], start), kept[name], start)
        return kept, info

    def sample_latents(self, n: int, generator: Randomness, temperature: float | None = None) -> Latents:
        """Draw latents from the prior: {"shared": [n, D], modality: [n, P]}."""
        with torch.no_grad():
            return self.generator.sample_latents(n, generator, temperature)

    def decode(self, latents: Latents, wanted: Tensor | None = None) -> Views:
        """Return decoder means [B, *shape] of all modalities (no observation noise); `latents` [B, D] and [B, P].

        With `wanted` (bool [B, M]) only those are decoded, and the others are 0.
        """
        with torch.no_grad():
            return self.generator(latents, wanted)

    def fill(self, batch: Batch, latents: Latents) -> Views:
        """Return the views [B, ...] with the means of `latents` ([B, D], [B, P]) where a part is absent."""
        return {
            name: torch.where(per_item(batch.present[:, i], mean), batch.views[name], mean)
            for i, (name, mean) in enumerate(self.decode(latents, ~batch.present).items())
        }

    def with_private_of_absent(self, latents: Latents, batch: Batch, generator: Randomness) -> Latents:
        """Return the latents with the private ones [B, P] of absent parts drawn from their prior."""
        prior, own = self.generator.sample_private(len(batch.present), generator), dict(latents)
        for i, name in enumerate(self.modalities):
            if name in prior:
                own[name] = torch.where(per_item(batch.present[:, i], prior[name]), latents[name], prior[name])
        return own

    def infer_latents(self, batch: Batch, generator: Randomness, refine_steps: int = 0) -> Latents:
        """Draw latents given the present parts: from q(z | x_S), then `refine_steps` of the latent chain.

        {"shared": [B, D], modality: [B, P]}, from the mixture of eq. (5), then eq. (17).
        Private latents of absent parts come from their prior; an item with nothing present gets the prior altogether,
        at the model's temperature.
        """
        with torch.no_grad():
            latents = self.with_private_of_absent(self.inference.given(batch).sample(generator)[0], batch, generator)
            nothing = ~batch.present.any(1)
            if nothing.any():
                # only the items concerned draw, or their presence would move the noise of the others
                own = generator.select(nothing) if isinstance(generator, ItemGenerators) else generator
                n, temperature = int(nothing.sum()), self.generator.temperature
                latents[SHARED][nothing] = self.generator.prior.sample(n, own, temperature)
        if refine_steps:
            latents, _ = self.refine_latents(latents, batch, generator, refine_steps)
        return latents

    def sample(self, n: int, refine_steps: int | None = 0, seed: int = 0, temperature: float | None = None) -> Views:
        """Return n joint samples of all modalities, raw values: pictures float [n, C, H, W] in [0, 1], vectors [n, D].

        `refine_steps` 0: decoder means ("Gen"); None: the training chain of the energy ("EBM"). Item i depends on
        (`seed`, i) alone, not on n. `temperature` T in (0, 1] draws z from p(z)^(1/T); None: `model.prior.temperature`.
        """
        if n < 1:
            raise ConfigError(f"n: got {n}, expected at least 1 sample")
        if temperature is not None and not 0 < temperature <= 1:
            raise ConfigError(f"temperature: got {temperature:g}, expected 0 < T <= 1 (1 = the prior itself)")
        check_steps("refine_steps", refine_steps, self.energy is not None)
        generator = item_generators(seed, n)
        views = self.decode(self.sample_latents(n, generator, temperature))
        if refine_steps != 0:
            views, _ = self.refine_data(views, generator, refine_steps)
        return self._raw(views, list(self.modalities))

    def impute(
        self,
        parts: Views,
        want: list[str] | None = None,
        refine_steps: int = 0,
        data_steps: int | None = 0,
        seed: int = 0,
        present: Tensor | None = None,
    ) -> Views:
        """Return the modalities in `want` (all by default) given raw `parts` [B, ...], any subset of the modalities.

        Observed entries come back exactly as given (bytes v as v / 255); the others are decoded from the subset
        posterior, refined by `refine_steps` of the latent chain (eq. 17) and `data_steps` of the data chain with
        observed parts held fixed (None = as in training). `present` [B, M] hides single entries of `parts`.
        """
        names = check_names(self.modalities, want, "want")
        check_steps("refine_steps", refine_steps)
        check_steps("data_steps", data_steps, self.energy is not None)
        given = check_parts(self.modalities, parts, present)
        batch = given.batch(self.modalities, device=self.device)
        generator: ItemGenerators = item_generators(seed, len(batch.present))
        views = self.fill(batch, self.infer_latents(batch, generator, refine_steps))
        if data_steps != 0:
            views, _ = self.refine_data(views, generator, data_steps, clamp=batch.present)
        return given.observed(self.modalities, self._raw(views, names))

    def encode(self, parts: Views, present: Tensor | None = None) -> Tensor:
        """Return the mean of q(z | parts) [B, D] for raw `parts` [B, ...], any subset of the modalities."""
        batch = make_batch(self.modalities, parts, present, self.device)
        with torch.no_grad():
            q = self.inference.given(batch).shared
        return (q.log_weight.exp()[..., None] * q.loc).sum(0)

    def log_likelihood(
        self,
        parts: Views,
        given: list[str] | None = None,
        samples: int = 1000,
        seed: int = 0,
        present: Tensor | None = None,
        log_z: float | None = None,
    ) -> Tensor:
        """Return log p(parts) [B] in nats of raw `parts` [B, ...], or log p(the others | the parts in `given`).

        Of densities over states (pictures in [-1, 1]), estimated by `samples` draws from q(z | parts), in expectation
        from below; the conditional is the difference of two. `log_z`: that of an energy prior, estimated by
        `log_normalizer` unless given (seconds; in expectation below log Z, hence from above). An item with nothing
        present, or nothing left to predict, has log p = 0. With many latents it takes many samples: watch it grow.
        """
        batch = make_batch(self.modalities, parts, present, self.device)
        constant = self.log_normalizer().value if log_z is None else log_z

        def log_prob(of: Batch, seed: int) -> Tensor:
            found = importance_log_likelihood(self.inference, self.generator, of, samples, seed)
            return torch.where(of.present.any(1), found - constant, 0.0)

        with frozen(self):
            total = log_prob(batch, seed)
            if given is None:
                return total
            names = check_names(self.modalities, given, "given")
            if absent := [name for name in names if name not in parts]:
                raise ModalityError(
                    f"given: got {', '.join(absent)}, which parts has not (it has {', '.join(parts)}), expected parts "
                    "that are there; hand them over too"
                )
            known = batch.present & torch.tensor([name in names for name in self.modalities], device=self.device)
            rest = total - log_prob(Batch(mask_views(batch.views, known), known), seed + 1)
            return torch.where((known == batch.present).all(1), 0.0, rest)

    def log_normalizer(self, samples: int = 1000, stages: int = 500, seed: int = 0) -> LogNormalizer:
        """Return log Z of the prior over z in nats and its standard error, by annealing `samples` draws of the base.

        In expectation below log Z, the closer the more `stages`; exactly 0 for priors that are normalised.
        """
        prior = self.generator.prior
        if not isinstance(prior, EnergyPrior):
            return LogNormalizer(0.0, 0.0)
        return prior.estimate_log_normalizer(samples, stages, make_generator(seed, self.device))

    def match(self, parts: Views, present: Tensor | None = None) -> Tensor:
        """Return how well raw `parts` [B, ...] belong together, [B]: 0 at best, lower = less.

        Minus the squared distance between the codes that two parts have alone, E_q_m[z] in R^D, mean over all pairs an
        item has. Needs no energy; 0 where an item has one part or none.
        """
        batch = make_batch(self.modalities, parts, present, self.device)
        with torch.no_grad(), frozen(self):
            loc = self.inference.given(batch).experts.loc  # [M, B, D]
        both = (
            batch.present.T[:, None]
            & batch.present.T
            & ~torch.eye(len(loc), dtype=torch.bool)[..., None].to(loc.device)
        )
        apart = (loc[:, None] - loc).square().sum(-1)
        return -torch.where(both, apart, 0.0).sum((0, 1)) / both.sum((0, 1)).clamp_min(1)

    def score(self, parts: Views, present: Tensor | None = None) -> Tensor:
        """Return log pi(X) up to a constant, [B], of raw `parts` [B, ...]: higher = more like data than like samples.

        What is like neither was never shown to the energy (docs/findings.md). A model without an energy scores by its
        log-likelihood (SCORE_SAMPLES importance samples) up to the constant log Z of its prior. Needs every part:
        ModalityError where one is missing or hidden by `present` [B, M].
        """
        batch = make_batch(self.modalities, parts, present, self.device)
        missing = [name for i, name in enumerate(self.modalities) if not batch.present[:, i].all()]
        if missing:
            rows = (~batch.present.all(1)).nonzero()[:, 0].tolist()
            raise ModalityError(
                f"score: got items with parts missing ({', '.join(missing)}; {len(rows)} rows, first: {rows[:5]}), "
                "expected every modality of every item; complete them with impute(parts) first"
            )
        with torch.no_grad(), frozen(self):
            if self.energy is None:
                return importance_log_likelihood(self.inference, self.generator, batch, SCORE_SAMPLES, 0)
            return self.log_density_unnorm(batch.views)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights and description into `folder`, which is new, empty or holds a model; else OutputError."""
        blueprint = self.blueprint
        if blueprint:  # the one plain value that may be set after building
            blueprint = blueprint | {"prior": blueprint["prior"] | {"temperature": self.generator.temperature}}
        write_pretrained(self, self.modalities, blueprint, Path(folder))

    def _raw(self, views: Views, names: list[str]) -> Views:
        return {name: self.modalities[name].to_raw(views[name]) for name in names}
