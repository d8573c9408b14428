"""The ratio d(X): how much likelier the decoder makes X from the codes of items than from draws of the prior, in nats.

A prior over codes is never quite where the codes are, and decoders make nothing of what lies between. d is learned on
what they make, log q(G) / p(G) (`objectives/ratio.py`), and joint samples are drawn from

    p*(z, W) = p(z) prod_m p(w_m) exp d(G(z, W)) / Z

by sampling importance resampling: of K draws of the prior one is kept, with probability in proportion to exp d. Without
bound K -> infinity and at the best d what is decoded is distributed as what the codes of items are decoded to. As the
contrastive prior of NCP-VAE (arXiv 2010.02917, eq. (5)), with a d that sees through the decoder, as a discriminator
does that rejects samples of a generator (arXiv 1810.06758).
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from multiebm.modalities import Modality
from multiebm.models.inference import Latents
from multiebm.models.interaction import FEATURES, PartsNetwork


class Pool(NamedTuple):
    """Joint samples from which completions are chosen: their latents [n, .], and what f reads of them [n, M, F]."""

    latents: Latents
    features: Tensor


class RatioNetwork(PartsNetwork):
    """Decoded views -> d [B] in nats; high = they look like what the codes of items are decoded to. By an MLP head.

    A finished model keeps `n` joint samples here, whose latents have these `sizes`, {"shared": D, modality: P}.
    """

    steps: Tensor
    pool_temperature: Tensor  # of the prior that they were drawn at; 0: it keeps none
    pool_latents: Tensor
    pool_features: Tensor

    def __init__(self, modalities: dict[str, Modality], sizes: Mapping[str, int], n: int) -> None:
        super().__init__(modalities, "mlp")
        self.sizes = dict(sizes)
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("pool_temperature", torch.tensor(0.0, dtype=torch.float32))
        self.register_buffer("pool_latents", torch.zeros(n, sum(sizes.values())))
        self.register_buffer("pool_features", torch.zeros(n, len(modalities), FEATURES))

    def keep(self, pool: Pool, temperature: float) -> None:
        """Keep these n joint samples, drawn at this `temperature` of the prior."""
        self.pool_latents.copy_(torch.cat([pool.latents[key] for key in self.sizes], 1))
        self.pool_features.copy_(pool.features)
        self.pool_temperature.fill_(temperature)

    def pool(self, temperature: float) -> Pool | None:
        """Return the n joint samples that it keeps, if any of this `temperature`."""
        if float(self.pool_temperature) != float(torch.tensor(temperature, dtype=torch.float32)):
            return None
        each = self.pool_latents.split(list(self.sizes.values()), 1)
        return Pool(dict(zip(self.sizes, each, strict=True)), self.pool_features)
