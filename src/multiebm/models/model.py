"""The model a user holds: inference, generator and (optionally) an energy over all modalities, with their two chains.

`sample`, `impute`, `encode`, `score`, `match` and `log_likelihood` speak raw values with users. They compute in
evaluation mode, in float32 and without gradients whatever the caller has set, a bounded number of items at a time, and
leave the model as it was. The other methods work on states (pictures in [-1, 1]) and are what training, evaluation and
reports are made of.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from multiebm.core.batch import Batch, mask_views
from multiebm.core.errors import ConfigError, ModalityError, whole_number
from multiebm.core.handed import SHOWN
from multiebm.core.names import Views
from multiebm.core.random import ItemGenerators, Randomness, check_seed, item_generators, make_generator
from multiebm.core.tree import plain
from multiebm.mcmc.annealing import LogNormalizer
from multiebm.mcmc.langevin import displaced_langevin, langevin
from multiebm.mcmc.run import ChainInfo, run_chain
from multiebm.modalities import Modality
from multiebm.models import use
from multiebm.models.chains import DataChain, Displaced, LatentChain
from multiebm.models.energy import EnergyNetwork
from multiebm.models.generator import Generator
from multiebm.models.inference import SHARED, InferenceModel, Latents
from multiebm.models.likelihood import importance_log_likelihood
from multiebm.models.saving import write_model
from multiebm.nn.spectral import frozen

SCORE_SAMPLES = 64  # importance samples of a score where there is no energy


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
        self.displacement: Tensor  # rms length of a displaced step, per coordinate; training steers it
        self.energy_steps: Tensor  # updates of the energy; until the first it is random
        self.register_buffer("displacement", torch.tensor(0.004, dtype=torch.float32))
        self.register_buffer("energy_steps", torch.tensor(0))

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return next(self.parameters()).device

    @property
    def energy_learned(self) -> bool:
        """Whether there is an energy and training has moved it at all; an energy without a step says nothing."""
        return self.energy is not None and int(self.energy_steps) > 0

    def log_density_unnorm(self, views: Views) -> Tensor:
        """Return -E(X) of views [B, ...]: [B], the log of eq. (1) up to the constant log Z, at temperature 1.

        Differentiable in the views. Computed in evaluation mode: nothing of the model changes or gets a gradient.
        """
        with frozen(energy := self._an_energy()):
            return -energy(views)

    def _an_energy(self) -> EnergyNetwork:
        if self.energy is None:
            raise ConfigError("model.energy: got a model without an energy, expected one; train with model.energy set")
        return self.energy

    def refine_data(
        self, views: Views, rng: Randomness, steps: int | None = None, clamp: Tensor | None = None, record: bool = False
    ) -> tuple[Views, ChainInfo]:
        """Run `steps` of the data chain (None: as in training) on views [B, ...]: Langevin, eq. (3), or displaced.

        Displaced steps have one length along the normalised gradient: scaling the energy changes nothing, and the chain
        seeks modes; it does not sample exp(-E / T). Observed parts, where `clamp` (bool [B, M]), are held fixed:
        Langevin steps then target the conditional pi(x_absent | x_observed), displaced ones seek its modes.
        """
        energy, chain = self._an_energy(), self.data_chain
        held = {name: plain(view.detach()) for name, view in views.items()}
        clamp = None if clamp is None else plain(clamp)

        def hold(moved: Views) -> Views:
            return moved if clamp is None else mask_views(held, clamp, moved)

        def settled(moved: Views) -> Views:
            return hold({name: self.modalities[name].settle(view) for name, view in moved.items()})

        def logdensity(moved: Views) -> Tensor:
            return -energy(hold(moved))

        if isinstance(chain, Displaced):
            length = self.displacement
            if clamp is not None:  # rescaled by item, so that the free coordinates alone move by it
                sizes = torch.tensor(
                    [m.size for m in self.modalities.values()], dtype=torch.float32, device=clamp.device
                )
                length = length * ((~clamp).float() @ sizes / sizes.sum()).sqrt()
            kernel = displaced_langevin(logdensity, length, chain.noise_scale)
        else:
            kernel = langevin(logdensity, chain.step_size, chain.noise_scale)
        start = {name: self.modalities[name].relax(view) for name, view in held.items()}
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
        """Return the views [B, ...] with the means of `latents` ([B, D], [B, P]) where a part is absent."""
        return mask_views(batch.views, batch.present, self.decode(latents, ~batch.present))

    def with_private_of_absent(self, latents: Latents, batch: Batch, rng: Randomness) -> Latents:
        """Return the latents with the private ones [B, P] of absent parts drawn from their prior."""
        prior = self.generator.sample_private(len(batch.present), rng)
        return latents | mask_views({name: latents[name] for name in prior}, batch.present, prior)

    def infer_latents(self, batch: Batch, rng: Randomness, latent_steps: int = 0) -> Latents:
        """Draw latents given the present parts: from q(z | x_S), then `latent_steps` of the latent chain.

        {"shared": [B, D], modality: [B, P]}, eqs. (5) and (17). Private latents of absent parts come from their prior;
        an item with nothing present gets the prior altogether, at the model's temperature.
        """
        with torch.no_grad():
            latents = self.with_private_of_absent(self.inference.given(batch).sample(rng)[0], batch, rng)
            nothing = ~batch.present.any(1)
            if nothing.any():
                # only the items concerned draw, or their presence would move the noise of the others
                own = rng.select(nothing) if isinstance(rng, ItemGenerators) else rng
                n, temperature = int(nothing.sum()), self.generator.temperature
                latents[SHARED][nothing] = self.generator.prior.sample(n, own, temperature)
        if latent_steps:
            latents, _ = self.refine_latents(latents, batch, rng, latent_steps)
        return latents

    def sample(self, n: int, data_steps: int | None = 0, seed: int = 0, temperature: float | None = None) -> Views:
        """Return n joint samples of all modalities, raw values: pictures float [n, C, H, W] in [0, 1], vectors [n, D].

        `data_steps` of the energy's chain: 0 gives decoder means ("Gen"), None as many as in training ("EBM"). Item i
        depends on (`seed`, i) alone, not on n. `temperature` T in (0, 1] draws z from p(z)^(1/T); None: that of the
        model.
        """
        most = use.LARGEST // (4 * sum(m.size for m in self.modalities.values()))
        n = whole_number("n", n, 1, most, "a number of samples", f" ({use.LARGEST >> 30} GiB); draw fewer a seed")
        seed, temperature = check_seed(seed), use.check_temperature(temperature)
        data_steps = use.check_data_steps(data_steps, self.energy is not None, self.energy_learned)

        def some(first: int, rows: int) -> Views:
            rng = item_generators(seed, rows, first)
            views = self.decode(self.sample_latents(rows, rng, temperature))  # "Gen"
            if data_steps != 0:
                views, _ = self.refine_data(views, rng, data_steps)  # "EBM"
            return self._raw(views, list(self.modalities))

        return use.over_items(self, self.modalities, some, n)

    def impute(
        self,
        parts: Views,
        want: list[str] | None = None,
        latent_steps: int = 0,
        data_steps: int | None = 0,
        seed: int = 0,
        present: Tensor | None = None,
    ) -> Views:
        """Return the modalities in `want` (all by default) given raw `parts` [B, ...], any subset of the modalities.

        Observed entries come back exactly as given (bytes v as v / 255); the others are decoded from the subset
        posterior, refined by `latent_steps` of the latent chain (eq. 17) and `data_steps` of the data chain with
        observed parts held fixed (None = as in training). `present` [B, M] hides single entries of `parts`.
        """
        names, seed = use.check_names(self.modalities, want, "want"), check_seed(seed)
        latent_steps = use.check_steps("latent_steps", latent_steps) or 0
        data_steps = use.check_data_steps(data_steps, self.energy is not None, self.energy_learned)

        def some(batch: Batch, first: int) -> Views:
            rng = item_generators(seed, len(batch.present), first)
            views = self.fill(batch, self.infer_latents(batch, rng, latent_steps))
            if data_steps != 0:
                views, _ = self.refine_data(views, rng, data_steps, clamp=batch.present)
            return self._raw(views, names)

        handed = use.check_parts(self.modalities, parts, present)
        with use.in_use(self):
            return handed.observed(self.modalities, use.over_parts(self, self.modalities, some, handed))

    def encode(self, parts: Views, present: Tensor | None = None) -> Tensor:
        """Return the mean of q(z | parts) [B, D] for raw `parts` [B, ...], any subset of the modalities."""

        given = use.check_parts(self.modalities, parts, present)
        return use.over_parts(self, self.modalities, lambda batch, _: self.inference.given(batch).shared.mean, given)

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
        samples, seed = whole_number("samples", samples, 1, use.MOST), check_seed(seed)
        handed = use.check_parts(self.modalities, parts, present)
        names = [] if given is None else use.check_given(self.modalities, given, handed.parts)
        known = None if given is None else torch.tensor([n in names for n in self.modalities], device=self.device)
        constant = self.log_normalizer().value if log_z is None else use.check_log_z(log_z)

        def some(batch: Batch, first: int) -> Tensor:
            def log_prob(of: Batch, own_seed: int) -> Tensor:
                draws = item_generators(own_seed, len(of.present), first)
                found = importance_log_likelihood(self, of, samples, draws)
                return torch.where(of.present.any(1), found - constant, 0.0)

            total = log_prob(batch, seed)
            if known is None:
                return total
            here = batch.present & known  # the difference of two estimates, each of draws of its own
            rest = total - log_prob(Batch(mask_views(batch.views, here), here), seed + 1)
            return torch.where((here == batch.present).all(1), 0.0, rest)

        return use.over_parts(self, self.modalities, some, handed)

    def log_normalizer(self, samples: int = 1000, stages: int = 500, seed: int = 0) -> LogNormalizer:
        """Return log Z of the prior over z in nats and its standard error, by annealing `samples` draws of the base.

        In expectation below log Z, the closer the more `stages`; exactly 0 for priors that are normalised.
        """
        seed, prior = check_seed(seed), self.generator.prior
        samples, stages = whole_number("samples", samples, 0, use.MOST), whole_number("stages", stages, 0, use.MOST)
        with use.in_use(self):
            return prior.estimate_log_normalizer(samples, stages, make_generator(seed, self.device))

    def match(self, parts: Views, present: Tensor | None = None) -> Tensor:
        """Return how well raw `parts` [B, ...] belong together, [B]: 0 at best, lower = less.

        Minus the squared distance between the codes that two parts have alone, E_q_m[z] in R^D, mean over all pairs an
        item has. Needs no energy; NaN where an item has one part or none, of which nothing can be said.
        """

        def some(batch: Batch, first: int) -> Tensor:
            loc, here = self.inference.given(batch).experts.loc, batch.present.T  # [M, B, D], [M, B]
            both = here[:, None] & here & ~torch.eye(len(loc), dtype=torch.bool, device=loc.device)[..., None]
            apart = (loc[:, None] - loc).square().sum(-1)  # [M, M, B]
            return -torch.where(both, apart, 0.0).sum((0, 1)) / both.sum((0, 1))  # 0 / 0 is NaN

        return use.over_parts(self, self.modalities, some, use.check_parts(self.modalities, parts, present))

    def score(self, parts: Views, present: Tensor | None = None) -> Tensor:
        """Return log pi(X) up to a constant, [B], of raw `parts` [B, ...]: higher = more like data than like samples.

        What is like neither was never shown to the energy (docs/findings.md). A model without an energy scores by its
        log-likelihood up to the constant log Z of its prior: by SCORE_SAMPLES importance samples from the same noise
        for every item, so that a score depends on its item alone. Needs every part: ModalityError where one is missing
        or hidden by `present` [B, M]. ConfigError where the energy has never been trained.
        """
        handed = use.check_parts(self.modalities, parts, present)
        if rows := (~handed.present.all(1)).nonzero()[:, 0].tolist():
            missing = [name for name, i in zip(self.modalities, handed.present.all(0).tolist(), strict=True) if not i]
            raise ModalityError(
                f"score: got items with parts missing ({', '.join(missing)}; {len(rows)} rows, first: {rows[:SHOWN]}), "
                "expected every modality of every item; complete them with impute(parts) first"
            )
        if (energy := self.energy) is not None and not self.energy_learned:
            raise ConfigError(
                "score: got an energy that has made no step of training, expected one that has; train with "
                "training.phases.cooperative.steps above 0, or with model.energy=null, to score by the likelihood"
            )

        def some(batch: Batch, first: int) -> Tensor:
            if energy is not None:
                return -energy(batch.views)
            noise = ItemGenerators([0] * len(batch.present))
            return importance_log_likelihood(self, batch, SCORE_SAMPLES, noise)

        return use.over_parts(self, self.modalities, some, handed)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights and description into `folder`, which is new, empty or holds a model; else OutputError."""
        blueprint = self.blueprint
        if blueprint:  # the one plain value that may be set after building
            blueprint = blueprint | {"temperature": self.generator.temperature}
        write_model(self, self.modalities, blueprint, Path(folder))

    def _raw(self, views: Views, names: list[str]) -> Views:
        return {name: self.modalities[name].to_raw(views[name]) for name in names}
