"""A batch of multimodal items with an explicit presence mask; absence is never inferred from values."""

from typing import NamedTuple

import torch
from torch import Tensor

from multiebm.core.names import Views
from multiebm.core.tree import per_item


class Batch(NamedTuple):
    """`views`: state tensors [B, ...] by modality, zero where absent. `present`: bool [B, M], columns in the order of
    `views`. `labels`: int64 [B] or None. A cell of a present part may be missing as well: NaN in its view.
    """

    views: Views
    present: Tensor
    labels: Tensor | None = None

    def to(self, device: str | torch.device) -> "Batch":
        """Return the batch on `device`, views [B, ...] and `present` [B, M]."""
        views = {name: view.to(device) for name, view in self.views.items()}
        return Batch(views, self.present.to(device), None if self.labels is None else self.labels.to(device))

    def there(self) -> Views:
        """Return what is there, cell by cell: bool [B, ...] by modality."""
        return {
            name: per_item(self.present[:, i], view) & ~view.isnan()
            for i, (name, view) in enumerate(self.views.items())
        }

    def filled(self, instead: Views) -> Views:
        """Return the views [B, ...] with what stands `instead` where a part, or a cell, is absent."""
        return {name: torch.where(there, self.views[name], instead[name]) for name, there in self.there().items()}

    def complete(self) -> Tensor:
        """Return the items that lack no part and no cell of one, bool [B]."""
        whole = self.present.all(1)
        for view in self.views.values():
            whole = whole & ~view.flatten(1).isnan().any(1)
        return whole

    def select(self, rows: Tensor) -> "Batch":
        """Return the items in `rows` (int64 [N], any may come again): views [N, ...], `present` [N, M]."""
        views = {name: view[rows] for name, view in self.views.items()}
        return Batch(views, self.present[rows], None if self.labels is None else self.labels[rows])


def mask_views(views: Views, present: Tensor, instead: Views | None = None) -> Views:
    """Return the views [B, ...] with zeros, or what stands `instead`, where `present` [B, M] is false.

    NaN behind the mask disappears here, once.
    """
    others = instead or {name: torch.zeros((), dtype=view.dtype, device=view.device) for name, view in views.items()}
    return {
        name: torch.where(per_item(present[:, i], view), view, others[name])
        for i, (name, view) in enumerate(views.items())
    }
