"""The generator p(X, z, W) = p(z) prod_m p(w_m) p(x_m | z, w_m) of eqs. (4) and (16), arXiv 2605.00644."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from multiebm.core.names import Views, keyed, module_key, name_of_key
from multiebm.core.random import Randomness
from multiebm.core.tree import rows_of, rows_present, spread
from multiebm.distributions.families import FAMILIES
from multiebm.distributions.likelihoods import Observation
from multiebm.models.inference import SHARED, Latents
from multiebm.priors.mixture import MixturePrior
from multiebm.priors.prior import RIDGE, Prior
from multiebm.priors.standard import StandardPrior


class Generator(nn.Module):
    """Prior over the shared latent, decoders and likelihoods by modality; `private` is the private latents' size P.

    r_m(w_m), a density of learned scale, stands in for a private latent in cross-reconstruction (MMVAE+, Palumbo et al.
    2023).
    `private_components` > 0: p(w_m) is a mixture fitted to the codes. The bounds of training keep the standard one.
    """

    def __init__(
        self,
        prior: Prior,
        decoders: dict[str, nn.Module],
        likelihoods: dict[str, Observation],
        private: int,
        family: str,
        private_components: int = 0,
        private_ridge: float = RIDGE,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.prior, self.decoders, self.likelihoods = prior, nn.ModuleDict(keyed(decoders)), likelihoods
        self.private, self.temperature = private, temperature
        self.private_base = StandardPrior(family, private)
        k = private_components
        names = decoders if private else ()
        own = {name: MixturePrior(private, k, private_ridge, family) if k else self.private_base for name in names}
        self.private_priors: Mapping[str, Prior] = nn.ModuleDict(keyed(own))  # type: ignore[assignment]
        self.family = FAMILIES[family]
        scales = {name: nn.Parameter(torch.zeros(private)) for name in names}
        self.auxiliary_log_scale = nn.ParameterDict(keyed(scales))
        learned = {name: like for name, like in likelihoods.items() if isinstance(like, nn.Module)}
        self.learned_likelihoods = nn.ModuleDict(keyed(learned))  # the same ones: what they learn is the generator's
        self.balanced: tuple[str, ...] = ()  # parts whose weight training sets
        self.balance: Tensor  # factor on the weight of each part [M], 1 of all others; where there are balanced ones

    def balance_parts(self, names: Sequence[str]) -> None:
        """Let training set the weights of the parts of these names; until it does they are 1."""
        self.balanced = tuple(names)
        if names:
            self.register_buffer("balance", torch.ones(len(self.likelihoods)))

    def weights(self) -> dict[str, float]:
        """Return lambda_m by part: what the bound multiplies its log-likelihood by."""
        found = self.balance.tolist() if self.balanced else [1.0] * len(self.likelihoods)
        return {name: like.weight * of for (name, like), of in zip(self.likelihoods.items(), found, strict=True)}

    def _weighed(self, values: Tensor) -> Tensor:
        """Return values [..., M] of parts, which have the weights that are set, with those that training has found."""
        return values * self.balance if self.balanced else values

    def priors(self) -> dict[str, Prior]:
        """Return the priors by the latent they are over: that of z, and those of w_m."""
        return {SHARED: self.prior, **{name_of_key(key): prior for key, prior in self.private_priors.items()}}

    def sample_latents(self, n: int, rng: Randomness, temperature: float | None = None) -> Latents:
        """Draw z ~ p(z), at the model's temperature unless one is given, and w_m ~ p(w_m).

        Shapes: {"shared": [n, D], modality: [n, P]}.
        """
        temperature = self.temperature if temperature is None else temperature
        return {SHARED: self.prior.sample(n, rng, temperature)} | self.sample_private(n, rng)

    def sample_private(self, n: int, rng: Randomness) -> Latents:
        """Draw w_m ~ p(w_m) for every modality, [n, P] each; empty if the model has none."""
        return {name_of_key(key): prior.sample(n, rng) for key, prior in self.private_priors.items()}

    def sample_auxiliary(self, n: int, rng: Randomness) -> Latents:
        """Draw w_m ~ r_m, differentiable in its learned scale: [n, P] each; empty if there are no private latents."""
        found = {}
        for key, log_scale in self.auxiliary_log_scale.items():
            loc = torch.zeros_like(log_scale).expand(n, -1)
            found[name_of_key(key)] = self.family.rsample(rng, loc, log_scale.exp())
        return found

    def decode(self, latents: Latents, modality: str, rows: Tensor | None = None) -> Tensor:
        """Return the decoder mean of one modality, [B, *shape], or of these `rows` alone (int64 [N]): [N, *shape]."""
        z = torch.cat([latents[SHARED], latents[modality]], 1) if self.private else latents[SHARED]  # [B, D + P]
        return self.decoders[module_key(modality)](rows_of(z, rows))

    def forward(self, latents: Latents, wanted: Tensor | None = None) -> Views:
        """Return the decoder means [B, *shape] of all modalities: latents {"shared": [B, D], modality: [B, P]}.

        With `wanted` (bool [B, M]) only those are decoded, and the others are 0.
        """
        n = len(latents[SHARED])
        every: list[Tensor | None] = [None] * len(self.decoders)
        chosen = zip(map(name_of_key, self.decoders), every if wanted is None else rows_present(wanted), strict=True)
        return {name: spread(self.decode(latents, name, rows), rows, n) for name, rows in chosen}

    def log_likelihood(self, views: Views, means: Views) -> Tensor:
        """Return lambda_m log p(x_m | mean_m), the factors of eq. (4), for every item and modality: [B, M] in nats."""
        each = [self.likelihoods[name].log_prob(views[name], mean) for name, mean in means.items()]
        return self._weighed(torch.stack(each, 1))

    def log_likelihood_where(self, views: Views, latents: Latents, wanted: Tensor) -> Tensor:
        """Return lambda_m log p(x_m | z, w_m) [N, M] in nats where `wanted` (bool [N, M]); elsewhere 0, not decoded.

        Row i of the latents [N, .] has item i mod B of the views [B, ...].
        """
        return self.log_likelihoods_where([views], latents, wanted)[0]

    def log_likelihoods_where(self, looks: Sequence[Views], latents: Latents, wanted: Tensor) -> Tensor:
        """Return `log_likelihood_where` of several looks at the same items, which may lack other cells: [L, N, M]."""
        each = self._where(looks, latents, wanted, lambda of, x, mean: of.log_prob(x, mean))
        return self._weighed(torch.stack(each, 2))

    def cells_where(self, looks: Sequence[Views], latents: Latents, wanted: Tensor) -> tuple[Tensor, ...]:
        """Return the values of which `log_likelihoods_where` has the sums: of each part [L, N, K], K 1 if nobody's."""
        found = self._where(looks, latents, wanted, lambda of, x, mean: of.weight * of.cells(x, mean))
        each = (of if of.dim() > 2 else of[..., None] for of in found)
        return tuple(of * self.balance[i] if self.balanced else of for i, of in enumerate(each))

    def _where(
        self,
        looks: Sequence[Views],
        latents: Latents,
        wanted: Tensor,
        asked: Callable[[Observation, Tensor, Tensor], Tensor],
    ) -> list[Tensor]:
        """Return what is asked of each part's likelihood, state and mean, [L, N, ...]; 0 where not `wanted` [N, M]."""
        n, found = len(wanted), []
        for name, rows in zip(self.likelihoods, rows_present(wanted), strict=True):
            if rows is not None and not len(rows):  # nobody wants it: no network runs
                found.append(latents[SHARED].new_zeros(len(looks), n))
                continue
            item = torch.arange(n, device=wanted.device) if rows is None else rows
            mean, each = self.decode(latents, name, rows), []
            for view in (look[name] for look in looks):
                x = view if rows is None and len(view) == n else view[item % len(view)]
                each.append(spread(asked(self.likelihoods[name], x, mean), rows, n))
            found.append(torch.stack(each))
        return found

    def log_joint(self, views: Views, latents: Latents, present: Tensor) -> Tensor:
        """Return log p(X_S, z, W) [B] in nats with S = `present` [B, M]; only the items that have a part decode it.

        Its gradient is that of the subset posterior, eq. (17). The private latent of an absent part meets its prior.
        """
        total = self.prior.log_prob(latents[SHARED])
        log_px = self.log_likelihood_where(views, latents, present)  # [B, M]
        for i, name in enumerate(self.likelihoods):
            if self.private:
                total = total + self.private_priors[module_key(name)].log_prob(latents[name])
            total = total + log_px[:, i]
        return total
