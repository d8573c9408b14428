"""The model a user holds: what may be asked of it, in raw values.

`sample`, `impute`, `encode`, `score`, `match` and `log_likelihood` compute in evaluation mode, in float32 and without
gradients whatever the caller has set, a bounded number of items at a time, and leave the model as it was.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

import torch
from torch import Tensor

from multiebm.core.bars import showing
from multiebm.core.batch import Batch
from multiebm.core.errors import ConfigError, whole_number
from multiebm.core.names import SHARED, Views
from multiebm.core.progress import track
from multiebm.core.random import Randomness, check_seed, item_generators
from multiebm.mcmc.annealing import LogNormalizer
from multiebm.models import use
from multiebm.models.choosing import best_fill, joint_samples
from multiebm.models.diffusion import drawing
from multiebm.models.likelihood import LogLikelihood, conditional_log_likelihood, normalizer_of
from multiebm.models.saving import write_model
from multiebm.models.states import StateModel
from multiebm.models.use import Completion

if TYPE_CHECKING:
    from pandas import DataFrame

PATHS, STAGES = 1000, 500  # of annealing, by which log Z is estimated unless asked otherwise


class MultimodalModel(StateModel):
    """A `StateModel` that answers in the user's words and units."""

    kept: tuple[str, LogNormalizer] | None = None  # the last log Z of the prior, and of which weights it is
    reads: use.Reader | None = None  # what finds parts at a path, as its builder says

    def sample(
        self,
        n: int,
        data_steps: int | None = 0,
        seed: int = 0,
        temperature: float | None = None,
        noise: bool = False,
        latent_steps: int | None = None,
        diffusion_steps: int | None = 0,
    ) -> Views:
        """Return n joint samples of all modalities, raw values: pictures float [n, C, H, W] in [0, 1], vectors [n, D].

        `data_steps` of the energy's chain: 0 gives decoder means ("Gen"), None as many as in training ("EBM"). Item i
        depends on (`seed`, i) alone, not on n. `temperature` T in (0, 1] draws z from p(z)^(1/T); None: that of the
        model. `noise`: with the observation noise that the model assumes around the means. `latent_steps` of a chain
        move latents before that towards samples whose parts belong together, by an energy of interaction that learned;
        None: as many as `model.interaction.latent_steps` says where the data chain runs, else none. At the end pictures
        are drawn anew by `diffusion_steps` of a diffusion refiner (None: as it was fitted). Captions are an array [n].
        """
        views = self.raw_samples(n, data_steps, seed, temperature, noise, latent_steps, diffusion_steps)
        return {name: self.modalities[name].give(view) for name, view in views.items()}

    def raw_samples(
        self,
        n: int,
        data_steps: int | None = 0,
        seed: int = 0,
        temperature: float | None = None,
        noise: bool = False,
        latent_steps: int | None = None,
        diffusion_steps: int | None = 0,
    ) -> Views:
        """Return what `sample` does as raw values [n, *raw_shape] of all modalities, tensors that these can show."""
        most = use.LARGEST // (4 * sum(m.size for m in self.modalities.values()))
        n = whole_number("n", n, 1, most, "a number of samples", f" ({use.LARGEST >> 30} GiB); draw fewer a seed")
        seed, temperature = check_seed(seed), use.check_temperature(temperature)
        data_steps = use.check_data_steps(data_steps, self.energy is not None, self.energy_learned)
        diffuse = drawing(self.diffusion, diffusion_steps)
        use.check_noise(noise, data_steps, diffusion_steps)
        if latent_steps := use.check_steps("latent_steps", latent_steps):
            use.check_interaction(f"latent_steps: got {latent_steps}", self.interaction_learned)

        def some(first: int, rows: int) -> Views:
            rng = item_generators(seed, rows, first)
            latents = self.sample_latents(rows, rng, temperature)
            if data_steps == 0:
                moved = self.refine_sampled(latents, rng, latent_steps, temperature)[0] if latent_steps else latents
                views = self.decode(moved)  # "Gen"
            else:
                views = self.refined_samples(latents, rng, data_steps, latent_steps, temperature)  # "EBM"
            views = diffuse(views, rng)  # "Diffusion"
            return self._raw(views, list(self.modalities), rng if noise else None)

        return use.over_items(self, self.modalities, some, n)

    @overload
    def impute(
        self,
        parts: Views,
        want: list[str] | None = None,
        latent_steps: int = 0,
        data_steps: int | None = 0,
        seed: int | Sequence[int] = 0,
        present: Tensor | None = None,
        draws: None = None,
        noise: bool = False,
        best_of: int | None = None,
        diffusion_steps: int | None = 0,
    ) -> Views: ...

    @overload
    def impute(
        self,
        parts: Views,
        want: list[str] | None = None,
        latent_steps: int = 0,
        data_steps: int | None = 0,
        seed: int | Sequence[int] = 0,
        present: Tensor | None = None,
        *,
        draws: int,
        noise: bool = False,
        best_of: int | None = None,
        diffusion_steps: int | None = 0,
    ) -> Completion: ...

    def impute(
        self,
        parts: Views,
        want: list[str] | None = None,
        latent_steps: int = 0,
        data_steps: int | None = 0,
        seed: int | Sequence[int] = 0,
        present: Tensor | None = None,
        draws: int | None = None,
        noise: bool = False,
        best_of: int | None = None,
        diffusion_steps: int | None = 0,
    ) -> Views | Completion:
        """Return the modalities in `want` (None: all) by name, given raw `parts` [B, ...] of any, a table, or a path.

        Observed entries come back exactly as given (bytes v as v / 255); the others are decoded from the subset
        posterior, refined by `latent_steps` of the latent chain (eq. 17) and `data_steps` of the data chain with
        observed parts held fixed (None = as in training). `present` [B, M] hides entries. Captions are strings [B].

        With `draws` several times, as a `Completion`: draw k is what `seed` + k gives. `noise`: with the observation
        noise that the model assumes around the means. Item i depends on (`seed`, i) alone; of seeds [B], one for each
        item, on its own alone, wherever it stands. `best_of` K: of K completions that whose parts belong together best,
        by an energy of interaction that learned; after the 16th they are joint samples. None: one, or as it is set.
        `diffusion_steps` are as in `sample`; observed parts are held fixed.
        """
        names = use.check_names(self.modalities, want, "want")
        latent_steps = use.check_steps("latent_steps", latent_steps) or 0
        data_steps = use.check_data_steps(data_steps, self.energy is not None, self.energy_learned)
        diffuse = drawing(self.diffusion, diffusion_steps)
        use.check_noise(noise, data_steps, diffusion_steps)
        most = use.check_best_of(best_of, self.interaction_learned) or (self.chooses.best_of if data_steps != 0 else 1)
        handed = use.check_parts(self.modalities, parts, present, self.reads)
        seeds = use.check_seeds(seed, len(handed.present))

        if draws is not None:
            size = 8 * len(handed.present) * sum(self.modalities[name].size for name in names)
            draws = whole_number("draws", draws, 2, max(2, use.LARGEST // size), "a number of draws")

        def some(batch: Batch, first: int) -> Views:
            posterior, each = self.inference.given(batch), list[Views]()  # encoded once for all draws
            for draw in [0] if draws is None else track(range(draws), "draws"):
                own = seeds + draw if isinstance(seeds, int) else [seed + draw for seed in seeds]
                rng = item_generators(own, len(batch.present), first)
                views = best_fill(self, batch, rng, latent_steps, most, posterior, pool)
                if data_steps != 0:
                    views, _ = self.refine_data(views, rng, data_steps, clamp=batch.there())
                views = diffuse(views, rng, batch.there())
                each.append(self._raw(views, names, rng if noise else None))
            return {name: torch.stack([views[name] for views in each], 1) for name in names}  # [B, K, ...]

        with use.in_use(self):
            pool = joint_samples(self, most)  # once for all chunks
            found = use.over_parts(self, self.modalities, some, handed)
            each = [{name: of[:, k] for name, of in found.items()} for k in range(draws or 1)]
            each = [handed.observed(self.modalities, views) for views in each]
            if draws is None:
                return handed.given(self.modalities, each[0])
            return handed.completion(self.modalities, {name: torch.stack([of[name] for of in each]) for name in names})

    @overload
    def encode(self, parts: Views, present: Tensor | None = None, private: Literal[False] = False) -> Tensor: ...

    @overload
    def encode(self, parts: Views, present: Tensor | None = None, *, private: Literal[True]) -> Views: ...

    def encode(self, parts: Views, present: Tensor | None = None, private: bool = False) -> Tensor | Views:
        """Return the mean of q(z | parts) [B, D] for raw `parts` [B, ...], any subset of the modalities.

        `private`: all by name, {"shared": [B, D], modality: [B, P]}, NaN of absent parts; ConfigError if D = 0 without.
        """
        use.check_codes(self.generator.prior.dim, private)

        def some(batch: Batch, first: int) -> Tensor | Views:
            q = self.inference.given(batch)
            if not private:
                return q.shared.mean
            here = dict(zip(self.modalities, batch.present.T, strict=True))
            own = {name: torch.where(here[name][:, None], of.loc, torch.nan) for name, of in q.private.items()}
            return {SHARED: q.shared.mean} | own

        return use.over_parts(self, self.modalities, some, use.check_parts(self.modalities, parts, present, self.reads))

    def frame(self, values: Tensor | Mapping[str, Tensor] | Completion) -> "DataFrame":
        """Return codes of `encode` ([B, D], or by name), or parts of `impute` and `sample` [B, D], as a data frame.

        Its columns are `shared_0` and so on, for parts those that training had, with the part in front where two have
        the name, and _std for deviations of a `Completion`. DataError for other parts; ConfigError without pandas.
        """
        return use.to_frame(self.modalities, values)

    def log_likelihood(
        self,
        parts: Views,
        given: list[str] | None = None,
        samples: int = 1000,
        seed: int = 0,
        present: Tensor | None = None,
        log_z: float | None = None,
        progress: bool = True,
    ) -> Tensor:
        """Return log p(parts) [B] in nats of raw `parts` [B, ...], or log p(the others | the parts in `given`).

        Of densities over states (pictures in [-1, 1]), estimated by `samples` draws from q(z | parts), in expectation
        from below; the conditional is the difference of two. `log_z`: that of an energy prior, else the one that
        `log_normalizer` keeps (in expectation below log Z, hence from above). An item with nothing present, or nothing
        left to predict, has log p = 0. With many latents it takes many samples: watch it grow. `progress` shows how far
        it is, as in `train`; `log_likelihood_with_error` says how far off it may be.
        """
        found = self.log_likelihood_with_error(parts, given, samples, seed, present, log_z, progress)
        use.warn_of_errors(found.error, samples)
        return found.value

    def log_likelihood_with_error(
        self,
        parts: Views,
        given: list[str] | None = None,
        samples: int = 1000,
        seed: int = 0,
        present: Tensor | None = None,
        log_z: float | None = None,
        progress: bool = True,
    ) -> LogLikelihood:
        """Return `log_likelihood` and its standard errors [B] in nats: those of the draws and, unless `log_z` is given,
        that of log Z. The delta method: too small where few draws carry the weight.
        """
        samples, seed = whole_number("samples", samples, 1, use.MOST), check_seed(seed)
        handed = use.check_parts(self.modalities, parts, present, self.reads)
        names = [] if given is None else use.check_given(self.modalities, given, handed.parts)
        known = None if given is None else torch.tensor([n in names for n in self.modalities], device=self.device)
        with showing(progress):
            constant = self.log_normalizer() if log_z is None else LogNormalizer(use.check_log_z(log_z), 0.0)

            def some(batch: Batch, first: int) -> Views:
                draws = [item_generators(s, len(batch.present), first) for s in (seed, seed + 1)]  # of two estimates
                return conditional_log_likelihood(self, batch, known, samples, draws, constant)._asdict()

            return LogLikelihood(**use.over_parts(self, self.modalities, some, handed))

    def log_normalizer(
        self, samples: int | None = None, stages: int | None = None, seed: int = 0, progress: bool = True
    ) -> LogNormalizer:
        """Return log Z of the prior over z in nats and its standard error, by annealing `samples` draws of the base.

        In expectation below log Z, the closer the more `stages`; exactly 0 for priors that are normalised. The last
        estimate is kept until the prior changes, and saved with the model: without `samples` and `stages` it is
        returned, and where there is none, made of PATHS and STAGES.
        """
        seed = check_seed(seed)
        asked = (samples, stages, seed) != (None, None, 0)
        samples = PATHS if samples is None else whole_number("samples", samples, 0, use.MOST)
        stages = STAGES if stages is None else whole_number("stages", stages, 0, use.MOST)
        with use.in_use(self), showing(progress):
            return normalizer_of(self, samples, stages, seed, anew=asked)

    def match(self, parts: Views, present: Tensor | None = None) -> Tensor:
        """Return how well raw `parts` [B, ...] belong together, [B]: higher = better.

        Of a model whose energy of interaction has learned f(x_S): log p(x_S) - sum_m log p(x_m) in nats, up to a
        constant for each set S of parts. Of others with a linear half the same number without a constant, as its codes
        say it: above 0 they are likelier together than by chance. Of the rest minus the squared distance of what two
        parts say alone, E_q_m[z] in R^D, mean over an item's pairs, always 0 if D = 0. NaN of one part or none.
        """
        handed = use.check_parts(self.modalities, parts, present, self.reads)
        return use.over_parts(self, self.modalities, lambda batch, first: self.match_states(batch), handed)

    def score_parts(self, parts: Views, present: Tensor | None = None) -> Views:
        """Return how well each of raw `parts` [B, ...] belongs to the others of its item, by name [B]: higher = better.

        f(X) - f(X without the part) in nats, by an energy of interaction that learned: log p(x_m | x_-m) / p(x_m) up to
        a constant for each part. NaN where the part is absent or the only one of its item. ConfigError without one.
        """
        use.check_interaction("score_parts: got a model", self.interaction_learned)
        handed = use.check_parts(self.modalities, parts, present, self.reads)

        def some(batch: Batch, first: int) -> Views:
            assert self.interaction is not None
            return dict(zip(self.modalities, self.interaction.by_part(*batch[:2]).unbind(1), strict=True))

        return use.over_parts(self, self.modalities, some, handed)

    def threshold(
        self, parts: Views, rate: float = 0.05, of: str = "match", present: Tensor | None = None
    ) -> float | dict[str, float]:
        """Return the value of "match", "score", or by name of "score_parts", at or below which an item is suspect.

        Of new items like the held-out `parts` [B, ...] a share `rate` at most is, by false alarm; all lack no part.
        """
        use.check_threshold(of, rate)
        found = {of: values} if isinstance(values := getattr(self, of)(parts, present), Tensor) else values
        ends = {name: use.threshold(values, rate, name) for name, values in found.items()}
        return ends.get(of, ends)

    def score(self, parts: Views, present: Tensor | None = None) -> Tensor:
        """Return log pi(X) up to a constant, [B], of raw `parts` [B, ...]: higher = more like data than like samples.

        That is -E(X) + louder weight f(X), with the energy of interaction f where there is one that has learned, and f
        alone where E has not; `louder` is above 1 where the chains' weight tells too little. What is like neither data
        nor samples was never shown to E; f learns from corrupted parts (docs/methods/belonging.md). A model without
        energies scores by its log-likelihood up to the constant log Z of its prior: by SCORE_SAMPLES importance samples
        from the same noise for every item, so that a score depends on its item alone. Needs every part: ModalityError
        where one is missing or hidden by `present` [B, M]. ConfigError where an energy never learned.
        """
        handed = use.check_parts(self.modalities, parts, present, self.reads)
        handed.check_complete(self.modalities, "score")
        if self.energy is not None and not (self.energy_learned or self.interaction_learned):
            raise ConfigError(
                "score: got an energy that has made no step of training, expected one that has; train with "
                "training.phases.cooperative.steps above 0, or with model.energy=null, to score by the likelihood"
            )

        return use.over_parts(self, self.modalities, lambda batch, first: self.score_states(batch), handed)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights and description into `folder`, which is new, empty or holds a model; else OutputError."""
        if blueprint := self.blueprint:  # the one plain value that may be set after building
            blueprint = blueprint | {"temperature": self.generator.temperature}
        refiner = None if self.diffusion is None else self.diffusion.settings
        write_model(self, self.modalities, blueprint, Path(folder), self.kept, refiner)

    def _raw(self, views: Views, names: list[str], noise: Randomness | None) -> Views:
        states = self.likeliest(views) if noise is None else self.with_noise(views, noise)
        raw = {name: self.modalities[name].to_raw(states[name]) for name in names}
        return raw if noise is None else {name: self.modalities[name].drawn(of) for name, of in raw.items()}
