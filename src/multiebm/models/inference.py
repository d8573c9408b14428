"""The joint inference model: an encoder per modality, aggregated over what is present.

Eqs. (5) and (16) of arXiv 2605.00644, and what the multimodal VAEs have in their place.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from multiebm.core.batch import Batch
from multiebm.core.errors import DataError
from multiebm.core.names import SHARED, Views, keyed, name_of_key
from multiebm.core.random import Randomness
from multiebm.core.table import Table
from multiebm.core.tree import rows_of, rows_present, spread
from multiebm.distributions.families import FAMILIES
from multiebm.distributions.mixture import Diagonal, Mixture
from multiebm.models.aggregation import Aggregation, joined
from multiebm.models.linear import FAINT, CellExperts
from multiebm.nn.precision import Mixed

Latents = dict[str, Tensor]
LOG_SCALE_RANGE = (-4.0, 2.0)  # an encoder trained by maximum likelihood must be able to be sharp
LOG_VARIANCE_RANGE = (-10.0, 10.0)
SMALLEST_SCALE = 1e-6  # of the softplus and softmax maps


class Posterior(NamedTuple):
    """`shared`: mixture over subsets of the present modalities. `private`: one density per modality, [B, P].
    `experts`: the densities [M, B, D] that `shared` is made of.
    """

    shared: Mixture
    private: dict[str, Diagonal]
    experts: Diagonal

    def sample(self, rng: Randomness) -> tuple[Latents, Tensor]:
        """Draw {"shared": [B, D], modality: [B, P]} (differentiable), and the expert [B] of each item's z."""
        expert = self.shared.assign(rng)
        latents = {SHARED: self.shared.component(expert).rsample(rng)}
        return latents | {name: q.rsample(rng) for name, q in self.private.items()}, expert

    def select(self, rows: Tensor) -> "Posterior":
        """Return the posterior of the items in `rows` (int64 [N], any may come again): densities over [N, D]."""
        private = {name: q.select(rows) for name, q in self.private.items()}
        return Posterior(self.shared.select(rows), private, self.experts.select(rows))

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

    `make` returns a network of its states with so many outputs. `separate_trunks` gives the private latent a trunk of
    its own, as MMVAE+ does (Palumbo et al. 2023); else both share one. `linear`: what it says of z is a Gaussian expert
    (`natural`), which `cells` linear ones, if any, and the network make.
    """

    def __init__(
        self,
        make: Callable[[int], nn.Module],
        shared: int,
        private: int,
        scale_map: str = "exp",
        separate_trunks: bool = False,
        linear: bool = False,
        cells: int = 0,
    ) -> None:
        super().__init__()
        self.linear = linear
        self.cells = CellExperts(cells, shared) if cells else None
        self.gain = nn.Parameter(torch.zeros(2 * shared)) if cells else None
        self.sizes, self.scale_map = (shared, private), scale_map
        outputs = [2 * shared, 2 * private] if separate_trunks and private else [2 * (shared + private)]
        self.branches = nn.ModuleList(Mixed(make(n)) for n in outputs)

    def forward(self, x: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return ((loc, scale) shared, (loc, scale) private), each [B, D] or [B, P]."""
        shared, private = self._said(x)
        return _loc_scale(shared, self.scale_map), _loc_scale(private, self.scale_map)

    def natural(self, x: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Return precision times location [B, D] and precision [B, D, D] on the shared latent, (loc, scale) [B, P]."""
        shared, private = self._said(x)
        private_of = _loc_scale(private, self.scale_map)
        if self.cells is None or self.gain is None:
            more, raw = shared.chunk(2, 1)
            return more, torch.diag_embed(nn.functional.softplus(raw)), private_of
        pull, precision = self.cells(x)
        more, raw = (self.gain * shared).chunk(2, 1)
        own = torch.diag_embed(nn.functional.softplus(raw + FAINT))
        return pull + more, precision + own, private_of

    def _said(self, x: Tensor) -> Sequence[Tensor]:
        out = torch.cat([branch(x) for branch in self.branches], 1)  # [B, 2 D + 2 P]
        return out.split([2 * size for size in self.sizes], 1)


# what an encoder's last layer says about a scale, shape [B, D] -> [B, D]; softmax fixes the sum over dimensions, so
# that experts cannot all become sharp (MMVAE, Shi et al. 2019, arXiv 1911.03393)
SCALES: Table[Callable[[Tensor], Tensor]] = Table(
    "model.scale_map",
    {
        "exp": lambda raw: raw.clamp(*LOG_SCALE_RANGE).exp(),
        "log_variance": lambda raw: (0.5 * raw.clamp(*LOG_VARIANCE_RANGE)).exp(),
        "softplus": lambda raw: nn.functional.softplus(raw) + SMALLEST_SCALE,
        "softmax": lambda raw: raw.shape[1] * raw.softmax(1) + SMALLEST_SCALE,
    },
)


def _loc_scale(out: Tensor, scale_map: str) -> tuple[Tensor, Tensor]:
    loc, raw = out.chunk(2, 1)
    return loc, SCALES[scale_map](raw)


class JointEncoder(nn.Module):
    """All parts together -> (loc, scale) [B, D]: features of a trunk each, side by side, then one layer (JMVAE)."""

    def __init__(self, trunks: dict[str, nn.Module], features: int, shared: int, scale_map: str = "exp") -> None:
        super().__init__()
        self.trunks, self.scale_map = nn.ModuleDict(keyed(trunks)), scale_map
        self.head = nn.Linear(features * len(trunks), 2 * shared)

    def forward(self, views: Views) -> tuple[Tensor, Tensor]:
        """Encode complete items: views [B, ...] -> loc, scale [B, D]."""
        found = [nn.functional.relu(trunk(views[name_of_key(key)])) for key, trunk in self.trunks.items()]
        return _loc_scale(self.head(torch.cat(found, 1)), self.scale_map)


class InferenceModel(nn.Module):
    """Batch -> Posterior: q(z, W | X) = q(z | x_S) prod_{m in S} q_m(w_m | x_m), S = present.

    q(z | x_S) is what `aggregation` makes of the experts in training (eq. (5), the mean of single ones, if none is
    given), and in use, where `pooled` fuses all present parts into one density; `joint` reads complete items in their
    place.
    """

    def __init__(
        self,
        encoders: dict[str, Encoder],
        family: str,
        aggregation: Aggregation | None = None,
        pooled: Aggregation | None = None,
        joint: JointEncoder | None = None,
    ) -> None:
        super().__init__()
        self.encoders, self.family = nn.ModuleDict(keyed(encoders)), FAMILIES[family]
        self.aggregation = aggregation or Aggregation(len(encoders), family)
        self.pooled, self.joint = pooled, joint

    def forward(self, batch: Batch, one: Randomness | None = None) -> Posterior:
        """Encode views [B, ...] to M experts [M, B, D] and aggregate them as in training.

        Encoders see present parts alone; absent experts are the base density, and with nothing present so is every
        component. `one`: a linear half draws one component for each item, and makes no other.
        """
        if self.linear:
            return self._gaussian(batch, self.aggregation, whole=False, one=one)
        experts, private = self._experts(batch)
        if self.joint is None:
            return Posterior(self.aggregation(experts.loc, experts.scale, batch.present), private, experts)
        if not batch.present.all():
            hidden = int((~batch.present.all(1)).sum())
            raise DataError(
                f"model.inference.subsets joint: got {hidden} of {len(batch.present)} items with parts missing, "
                "expected complete items: a joint encoder reads all parts at once; train on complete items or another "
                "baseline"
            )
        return Posterior(self._joined(batch), private, experts)

    def given(self, batch: Batch, alone: bool = False) -> Posterior:
        """Return q(z, W | X_S) of views [B, ...] as generation from a subset uses it; `present` [B, M] is S.

        Experts of a linear half are exact densities of each part `alone` if asked for, which takes time, else diagonal.
        """
        aggregate = self.pooled or self.aggregation
        if self.linear:
            return self._gaussian(batch, aggregate, whole=alone)
        experts, private = self._experts(batch)
        shared = aggregate(experts.loc, experts.scale, batch.present)
        if self.joint is not None and (complete := batch.present.all(1)).any():
            joined = self._joined(batch)
            loc, scale = (torch.where(complete[:, None], a, b) for a, b in zip(joined[:2], shared[:2], strict=True))
            shared = shared._replace(loc=loc, scale=scale)
        return Posterior(shared, private, experts)

    @property
    def linear(self) -> bool:
        """Whether experts are Gaussians with dependent coordinates, linear ones and what networks add."""
        return any(getattr(encoder, "linear", False) for encoder in self.encoders.values())

    def _gaussian(self, batch: Batch, aggregate: Aggregation, whole: bool, one: Randomness | None = None) -> Posterior:
        """Experts of each part alone have dependent coordinates where `whole`, else no `root` (that takes time)."""
        found, private, n = [], dict[str, Diagonal](), len(batch.present)
        for (key, encoder), rows in zip(self.encoders.items(), rows_present(batch.present), strict=True):
            view = rows_of(batch.views[name_of_key(key)], rows)
            pull, precision, (loc, scale) = cast(Encoder, encoder).natural(view)
            found.append((spread(pull, rows, n), spread(precision, rows, n)))
            if loc.shape[1]:
                private[name_of_key(key)] = Diagonal(spread(loc, rows, n), spread(scale, rows, n, 1.0), self.family)
        pull, precision = torch.stack([of[0] for of in found]), torch.stack([of[1] for of in found])
        if whole:
            alone = torch.eye(len(found), dtype=torch.bool, device=pull.device)[:, :, None].expand(-1, -1, n)
            each = joined(pull, precision, alone, pull[..., 0], alone[..., 0])  # what a part says by itself
            experts = Diagonal(each.loc, each.scale, self.family, each.root)
        else:
            own = 1 + precision.diagonal(dim1=-2, dim2=-1)
            experts = Diagonal(pull / own, own.rsqrt(), self.family)
        return Posterior(aggregate.gaussian(pull, precision, batch.present, one), private, experts)

    def _experts(self, batch: Batch) -> tuple[Diagonal, dict[str, Diagonal]]:
        shared, private, n = [], {}, len(batch.present)
        for (key, encoder), rows in zip(self.encoders.items(), rows_present(batch.present), strict=True):
            name = name_of_key(key)
            (loc, scale), (w_loc, w_scale) = encoder(rows_of(batch.views[name], rows))
            shared.append((spread(loc, rows, n), spread(scale, rows, n, 1.0)))
            if w_loc.shape[1]:
                private[name] = Diagonal(spread(w_loc, rows, n), spread(w_scale, rows, n, 1.0), self.family)
        loc, scale = torch.stack([s[0] for s in shared]), torch.stack([s[1] for s in shared])  # [M, B, D]
        return Diagonal(loc, scale, self.family), private

    def _joined(self, batch: Batch) -> Mixture:
        assert self.joint is not None
        loc, scale = self.joint(batch.views)
        members = torch.ones(1, len(self.encoders), dtype=torch.bool, device=loc.device)  # one component, of all parts
        return Mixture(loc[None], scale[None], torch.zeros_like(loc[None, :, 0]), members, self.family)
