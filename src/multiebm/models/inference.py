"""The joint inference model: an encoder per modality, mixed over what is present (arXiv 2605.00644, eqs. (5), (16))."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from multiebm.core.batch import Batch
from multiebm.core.modality import Modality
from multiebm.core.random import Randomness
from multiebm.core.tree import per_item
from multiebm.distributions.families import FAMILIES
from multiebm.distributions.mixture import Diagonal, Mixture
from multiebm.nn.blocks import mlp
from multiebm.nn.pictures import PictureEncoder
from multiebm.nn.precision import Mixed

SHARED = "shared"  # key of the shared latent in a `Latents`; the other keys are modality names (private latents)
Latents = dict[str, Tensor]
LOG_SCALE_RANGE = (
    -4.0,
    2.0,
)  # log-variance in [-8, 4]: an encoder trained by maximum likelihood must be able to be sharp


class Posterior(NamedTuple):
    """`shared`: mixture over the experts of the present modalities. `private`: one density per modality, [B, P]."""

    shared: Mixture
    private: dict[str, Diagonal]

    def sample(self, generator: Randomness) -> tuple[Latents, Tensor]:
        """Draw {"shared": [B, D], modality: [B, P]} (differentiable), and the expert [B] of each item's z."""
        expert = self.shared.assign(generator)
        latents = {SHARED: self.shared.component(expert).rsample(generator)}
        return latents | {name: q.rsample(generator) for name, q in self.private.items()}, expert

    def log_prob(self, latents: Latents, present: Tensor) -> Tensor:
        """Return log q(z, W | X) [B] in nats, eq. (16): the mixture over z plus the private terms of what is `present`.

        Latents {"shared": [B, D], modality: [B, P]}, `present` bool [B, M].
        """
        total = self.shared.log_prob(latents[SHARED])
        for i, (name, q) in enumerate(self.private.items()):
            total = total + torch.where(present[:, i], q.log_prob(latents[name]), 0.0)
        return total


class Encoder(nn.Module):
    """One modality [B, ...] -> (loc, scale) of the shared latent [B, D] and of its private latent [B, P].

    `separate` gives the private latent a trunk of its own, as MMVAE+ does (Palumbo et al. 2023); else both share one.
    """

    def __init__(
        self,
        modality: Modality,
        shared: int,
        private: int,
        width: int,
        patch: int = 1,
        residual: float = 0.1,
        separate: bool = False,
    ) -> None:
        super().__init__()
        self.sizes = (shared, private)
        outputs = [2 * (shared + private)] if not separate or not private else [2 * shared, 2 * private]
        self.branches = nn.ModuleList(Mixed(_trunk(modality, n, width, patch, residual)) for n in outputs)

    def forward(self, x: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return ((loc, scale) shared, (loc, scale) private), each [B, D] or [B, P]."""
        out = torch.cat([branch(x) for branch in self.branches], 1)
        shared, private = out.split([2 * size for size in self.sizes], 1)
        return _loc_scale(shared), _loc_scale(private)


def _loc_scale(out: Tensor) -> tuple[Tensor, Tensor]:
    loc, log_scale = out.chunk(2, 1)
    return loc, log_scale.clamp(*LOG_SCALE_RANGE).exp()


def _trunk(modality: Modality, n_out: int, width: int, patch: int, residual: float) -> nn.Module:
    if modality.kind == "vector":
        return mlp([modality.size, width, width, n_out], nn.ReLU())
    trunk = PictureEncoder(modality.shape, width, patch, residual)
    return nn.Sequential(trunk, nn.LeakyReLU(0.2), nn.Linear(trunk.n_features, n_out))


class InferenceModel(nn.Module):
    """Batch -> Posterior: q(z, W | X) = [1/|S| sum_{m in S} q_m(z | x_m)] prod_{m in S} q_m(w_m | x_m), S = present."""

    def __init__(self, encoders: dict[str, Encoder], family: str) -> None:
        super().__init__()
        self.encoders, self.family = nn.ModuleDict(encoders), FAMILIES[family]

    def forward(self, batch: Batch) -> Posterior:
        """Encode views [B, ...] to M experts [M, B, D]. An absent one has weight zero; with nothing present every
        expert is the base density.
        """
        shared, private, family = [], {}, self.family
        for i, (name, encoder) in enumerate(self.encoders.items()):
            (loc, scale), (w_loc, w_scale) = encoder(batch.views[name])
            here = per_item(batch.present[:, i], loc)
            shared.append((torch.where(here, loc, 0.0), torch.where(here, scale, 1.0)))
            if w_loc.shape[1]:
                private[name] = Diagonal(torch.where(here, w_loc, 0.0), torch.where(here, w_scale, 1.0), family)
        weight = batch.present.T.float()
        weight = torch.where(weight.sum(0) > 0, weight, 1.0)
        log_weight = (weight / weight.sum(0)).log()
        members = torch.eye(len(self.encoders), dtype=torch.bool, device=log_weight.device)
        loc, scale = torch.stack([s[0] for s in shared]), torch.stack([s[1] for s in shared])
        return Posterior(Mixture(loc, scale, log_weight, members, family), private)
