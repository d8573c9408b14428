"""The ratio d(X): how much likelier the decoder makes X from the codes of items than from draws of the prior, in nats.

A prior over codes is never quite where the codes are, and decoders make nothing of what lies between. d is learned on
what they make, log q(G) / p(G) (`objectives/ratio.py`), and joint samples are drawn from

    p*(z, W) = p(z) prod_m p(w_m) exp d(G(z, W)) / Z

by sampling importance resampling: of K draws of the prior one is kept, with probability in proportion to exp d. Without
bound K -> infinity and at the best d what is decoded is distributed as what the codes of items are decoded to. As the
contrastive prior of NCP-VAE (arXiv 2010.02917, eq. (5)), with a d that sees through the decoder, as a discriminator
does that rejects samples of a generator (arXiv 1810.06758).
"""

import torch

from multiebm.modalities import Modality
from multiebm.models.interaction import PartsNetwork


class RatioNetwork(PartsNetwork):
    """Decoded views -> d [B] in nats; high = they look like what the codes of items are decoded to. By an MLP head."""

    def __init__(self, modalities: dict[str, Modality]) -> None:
        super().__init__(modalities, "mlp")
        self.register_buffer("steps", torch.tensor(0))
