"""The energy over all modalities: a trunk for each, or for those of a kind together, and one number per item.

`early`: modalities of one kind share a trunk (pictures of one size, stacked on channels; vectors side by side). `late`:
a trunk per modality, and an MLP over all features. `additive`: late with a linear head, E = sum_m E_m(x_m), under which
modalities are independent: a control, never a model.
"""

import torch
from torch import Tensor, nn

from multiebm.core.errors import ConfigError
from multiebm.core.names import Views, module_key
from multiebm.modalities import MODALITIES, Modality
from multiebm.nn.blocks import mlp
from multiebm.nn.precision import Mixed


class EnergyNetwork(nn.Module):
    """Views -> energy [B]; low = likely (arXiv 2605.00644, eq. (1)).

    In training, `penalty` weighs mean E^2, and the energy rests while E(refined) - E(data) exceeds `gate` (0: never).
    """

    def __init__(
        self, modalities: dict[str, Modality], width: int, fusion: str, penalty: float = 0, gate: float = 0
    ) -> None:
        super().__init__()
        self.penalty, self.gate = penalty, gate
        self.groups = {name: [name] for name in modalities}  # who shares a trunk
        if fusion == "early":
            kinds = {m.kind for m in modalities.values()}
            order = [*(kind for kind in MODALITIES if kind in kinds), *sorted(kinds - set(MODALITIES))]
            self.groups = {kind: [m.name for m in modalities.values() if m.kind == kind] for kind in order}
        elif fusion not in ("late", "additive"):
            raise ConfigError(f"energy.fusion: got {fusion!r}, expected early, late or additive")
        self.trunks = nn.ModuleDict()
        for group, names in self.groups.items():
            members = [modalities[name] for name in names]
            self.trunks[module_key(group)] = Mixed(members[0].energy_trunk(members, width))
        n_features = width * len(self.trunks)
        # One trunk has mixed all modalities already; several need a nonlinear head, or the energy would be a sum.
        sizes = [n_features, 1] if fusion == "additive" or len(self.trunks) == 1 else [n_features, width, 1]
        self.head = mlp(sizes, nn.ReLU(), spectral=True, last_bias=False)

    def forward(self, views: Views) -> Tensor:
        """Return the energy [B] of views [B, ...], in float32 whatever the trunks compute in."""
        features = [self.trunks[module_key(g)](*[views[name] for name in names]) for g, names in self.groups.items()]
        return self.head(torch.cat(features, 1))[:, 0]  # [B, width * trunks] -> [B]
