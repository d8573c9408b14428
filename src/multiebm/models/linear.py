"""The linear half of a model: Gaussian experts and lines beside the networks. Without these it is factor analysis,

    x_m = loc_m + W_m z + noise_m,    q(z | x_S) = N(L^-1 sum_m W_m' (x_m - loc_m) / v_m, L^-1),
    L = I + sum_m W_m' W_m / v_m over the parts and cells that are there,

whose posterior is exact. A model begins there: networks enter by gains that are 0 at first.
"""

import torch
from torch import Tensor, nn

from multiebm.core.batch import Batch
from multiebm.core.progress import track
from multiebm.distributions.factors import chosen_factors
from multiebm.distributions.likelihoods import LearnedScale, Observation
from multiebm.nn.blocks import Link

FAINT = -8.0  # its softplus, 0.0003, is what a network adds to the precision of a code at first


class CellExperts(nn.Module):
    """Every cell of a part an expert on z, Gaussian and linear: states [B, *shape] to natural parameters.

    NaN is a cell that is missing. With pull = W / noise and sharpness = W / sqrt(noise) they are those of
    N(x; loc + W z, noise) in z.
    """

    def __init__(self, size: int, shared: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(size))
        self.pull = nn.Parameter(torch.zeros(size, shared))
        self.sharpness = nn.Parameter(torch.zeros(size, shared))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return precision times location [B, D] and precision [B, D, D] of z."""
        flat = x.flatten(1).float()
        there = ~flat.isnan()
        off = torch.where(there, flat - self.loc, 0.0)
        if bool(there.all()):
            precision = (self.sharpness.T @ self.sharpness).expand(len(flat), -1, -1)
        else:
            precision = torch.einsum("bf,fd,fe->bde", there.to(off.dtype), self.sharpness, self.sharpness)
        return off @ self.pull, precision


class LinearDecoder(nn.Module):
    """link(W z + b + gain net(z)): [B, n_in] -> mean states [B, *shape]; `net`: a decoder that may end in a link."""

    def __init__(self, net: nn.Module, n_in: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        last = net[-1] if isinstance(net, nn.Sequential) else None
        self.link: Link | None = last if isinstance(last, Link) else None
        self.net = net[:-1] if isinstance(net, nn.Sequential) and self.link is not None else net
        self.shape = shape
        self.line = nn.Linear(n_in, torch.Size(shape).numel())
        self.gain = nn.Parameter(torch.zeros(self.line.out_features))

    def forward(self, z: Tensor) -> Tensor:
        """Map [B, n_in] to [B, *shape]."""
        with torch.autocast(z.device.type, enabled=False):  # the noise may be less than what bfloat16 rounds to
            line = self.line(z.float())
        out = line + self.gain * self.net(z).flatten(1).float()
        return (out if self.link is None else self.link(out)).view(len(z), *self.shape)


@torch.no_grad()
def begin(parts: dict[str, tuple[CellExperts, LinearDecoder, Observation]], batch: Batch, shared: int) -> None:
    """Set the linear halves of `parts` (experts, decoder and likelihood by modality) to the factor analysis of items.

    Cross-validation chooses the prior on loadings. A decoder with a link is fitted to the codes that the other parts of
    its items give.
    """
    there = batch.there()
    flat = {name: torch.where(there[name], batch.views[name], torch.nan).flatten(1).double().cpu() for name in parts}
    x = torch.cat(list(flat.values()), 1)
    owner = torch.cat([torch.full((of.shape[1],), i) for i, of in enumerate(flat.values())])
    lines = [owner == i for i, (_, decoder, _) in enumerate(parts.values()) if decoder.link is None]
    if len(parts) == 1:  # every other column from the rest
        lines = [torch.arange(x.shape[1]) % 2 == i for i in range(2)]
    lines = [own for own in lines if own.any()] or [owner == i for i in range(len(parts))]
    found = chosen_factors(x, shared, lines)
    first = 0
    for name, (experts, decoder, likelihood) in track(parts.items(), "start: lines of parts"):
        columns = slice(first, first := first + flat[name].shape[1])
        loc, loadings, noise = (of[columns] for of in found)
        experts.loc.copy_(loc)
        experts.pull.copy_(loadings / noise[:, None])
        experts.sharpness.copy_(loadings / noise.sqrt()[:, None])
        weight, bias = loadings, loc
        if decoder.link is not None:
            others = x.clone()
            others[:, columns] = torch.nan
            codes = found.posterior(others if len(parts) > 1 else x)
            weight, bias = decoder.link.begin(codes, flat[name])
        decoder.line.weight.zero_()  # private latents say nothing at first
        decoder.line.weight[:, :shared] = weight.to(decoder.line.weight)
        decoder.line.bias.copy_(bias)
        if isinstance(likelihood, LearnedScale):
            likelihood.begin(noise.sqrt())
