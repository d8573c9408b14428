"""Energy networks over all modalities: per-modality maps, an aggregator, one number per item.

`early`: pictures of one size pass a stem each, are stacked on channels and share the blocks; vectors are concatenated
into one MLP. `late`: a trunk per modality, pooled, and an MLP over all pooled features. `additive`: late with a linear
head, E = sum_m E_m(x_m), under which modalities are independent: a control, never a model.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from multiebm.core.errors import ConfigError
from multiebm.core.modality import Modality, Views, module_key
from multiebm.nn.blocks import EnergyBlock, Fold, mlp, sn_conv
from multiebm.nn.precision import Mixed


class PictureTrunk(nn.Module):
    """M pictures [B, C, H, W] -> [B, width]: stems if M > 1, block (head, down), block (down), blocks, ReLU, pool.

    With `patch` 2 the first block keeps the size: folding 2x2 pixels into channels has halved it already.
    """

    def __init__(self, channels: list[int], width: int, stem: int, patch: int, blocks: int) -> None:
        super().__init__()
        self.stems = nn.ModuleList(sn_conv(c, stem, 3, bias=True) for c in channels if len(channels) > 1)
        self.unfold = Fold(patch) if patch > 1 else nn.Identity()
        n_in = (stem * len(channels) if self.stems else channels[0]) * patch**2
        first = [EnergyBlock(n_in, width, down=patch == 1, head=True), EnergyBlock(width, width, down=True)]
        self.blocks = nn.Sequential(*first, *[EnergyBlock(width, width) for _ in range(blocks)])

    def forward(self, *pictures: Tensor) -> Tensor:
        """Map pictures [B, C, H, W] to pooled features [B, width]."""
        mapped = [stem(x) for stem, x in zip(self.stems, pictures, strict=True)] if self.stems else list(pictures)
        return F.relu(self.blocks(self.unfold(torch.cat(mapped, 1)))).mean((2, 3))


class VectorTrunk(nn.Module):
    """M vectors [B, D_m] -> [B, width]: an MLP of three layers on their concatenation, with spectral norm."""

    def __init__(self, n_in: int, width: int) -> None:
        super().__init__()
        self.net = mlp([n_in, width, width, width], nn.ReLU(), spectral=True)

    def forward(self, *vectors: Tensor) -> Tensor:
        """Map vectors [B, D_m] to features [B, width]."""
        return F.relu(self.net(torch.cat(vectors, 1)))


class EnergyNetwork(nn.Module):
    """Views -> energy [B]; low = likely (arXiv 2605.00644, eq. (1)). `gain`: a factor that the step size absorbs."""

    def __init__(
        self,
        modalities: dict[str, Modality],
        width: int,
        fusion: str,
        stem: int = 8,
        patch: int = 1,
        blocks: int = 2,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.gain = gain
        self.groups = _groups(modalities, fusion)
        self.trunks = nn.ModuleDict()
        for group, names in self.groups.items():
            members = [modalities[name] for name in names]
            if members[0].kind == "picture":
                trunk: nn.Module = PictureTrunk([m.shape[0] for m in members], width, stem, patch, blocks)
            else:
                trunk = VectorTrunk(sum(m.size for m in members), width)
            self.trunks[module_key(group)] = Mixed(trunk)
        n_features = width * len(self.trunks)
        # One trunk has mixed all modalities already; several need a nonlinear head, or the energy would be a sum.
        sizes = [n_features, 1] if fusion == "additive" or len(self.trunks) == 1 else [n_features, width, 1]
        self.head = mlp(sizes, nn.ReLU(), spectral=True, last_bias=False)

    def forward(self, views: Views) -> Tensor:
        """Return the energy [B] of views [B, ...], in float32 whatever the trunks compute in."""
        features = [self.trunks[module_key(g)](*[views[name] for name in names]) for g, names in self.groups.items()]
        return self.gain * self.head(torch.cat(features, 1))[:, 0]


def _groups(modalities: dict[str, Modality], fusion: str) -> dict[str, list[str]]:
    """Return which modalities share a trunk."""
    if fusion in ("late", "additive"):
        return {name: [name] for name in modalities}
    if fusion != "early":
        raise ConfigError(f"energy.fusion: got {fusion!r}, expected early, late or additive")
    groups = {kind: [m.name for m in modalities.values() if m.kind == kind] for kind in ("picture", "vector")}
    sizes = {modalities[name].shape[1:] for name in groups["picture"]}
    if len(sizes) > 1:
        raise ConfigError(f"energy.fusion=early needs pictures of one size, got {sorted(sizes)}; use fusion: late")
    return {kind: names for kind, names in groups.items() if names}
