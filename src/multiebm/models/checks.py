"""From what a user passes to a batch: every mistake is named with modality, what was given, expected, and the fix."""

import logging
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from multiebm.core.batch import Batch, mask_views
from multiebm.core.errors import ConfigError, DataError, ModalityError
from multiebm.core.modality import Modality, Views
from multiebm.core.table import nearest

logger = logging.getLogger("multiebm")
_SHOWN = 5  # rows named in a message


class Given(NamedTuple):
    """What a user handed over, checked: raw `parts` [B, ...] of some modalities; `present` bool [B, M] says what is
    there. Its states take four times the memory of pictures of bytes, so they are made of a few rows at a time.
    """

    parts: Views
    present: Tensor

    def batch(
        self, modalities: dict[str, Modality], rows: Tensor | None = None, device: torch.device | None = None
    ) -> Batch:
        """Return the states of `rows` (int64 [N], any may come again; None: all); absent entries are zero."""
        present = self.present if rows is None else self.present[rows]
        views = {}
        for name, m in modalities.items():
            if name in self.parts:
                part = self.parts[name]
                views[name] = m.to_state(part if rows is None else part[rows.to(part.device)])
            else:
                views[name] = torch.zeros(len(present), *m.shape, dtype=torch.float32)
        batch = Batch(mask_views(views, present), present)
        return batch.to(device) if device is not None else batch


def make_batch(
    modalities: dict[str, Modality], parts: Views, present: Tensor | None = None, device: torch.device | None = None
) -> Batch:
    """Return the state-space batch of raw `parts` [B, ...]; a modality not in `parts` is absent from every row.

    `present` [B, M] (columns in the order of `modalities`) hides single entries; what is hidden may be NaN.
    """
    return check_parts(modalities, parts, present).batch(modalities, device=device)


def check_parts(modalities: dict[str, Modality], parts: Views, present: Tensor | None = None) -> Given:
    """Return `parts` and `present` as `make_batch` takes them, every row of them checked."""
    known = list(modalities)
    parts = {name: as_tensor(name, part) for name, part in parts.items()}
    for name in parts:
        if name not in modalities:
            raise ModalityError(
                f"parts: got modality {name!r}, expected some of {', '.join(known)}.{nearest(name, known)}"
            )
    if not parts:
        raise ModalityError(
            f"parts: got none, expected at least one of {', '.join(known)}; for joint samples use sample(n)"
        )
    lengths = {name: len(part) for name, part in parts.items()}
    n = next(iter(lengths.values()))
    if len(set(lengths.values())) > 1:
        raise DataError(
            f"parts: got different lengths {lengths}, expected one; row i of every part must be the same item"
        )
    if n == 0:
        raise DataError(f"parts: got 0 rows of {', '.join(parts)}, expected at least 1")
    given = torch.tensor([name in parts for name in known]).expand(n, -1).clone()
    if present is not None:
        present = as_tensor("present", present)
        if present.shape != given.shape or present.dtype != torch.bool:
            raise DataError(
                f"present: got {present.dtype} of shape {tuple(present.shape)}, expected bool of shape "
                f"{tuple(given.shape)}, columns {', '.join(known)}"
            )
        given &= present.cpu()
    parts = {n: check_view(m, parts[n], given[:, i]) for i, (n, m) in enumerate(modalities.items()) if n in parts}
    empty = (~given.any(1)).nonzero()[:, 0].tolist()
    if empty:
        logger.warning("%d rows have nothing present and get the prior: rows %s", len(empty), empty[:_SHOWN])
    return Given(parts, given)


def as_tensor(name: str, part: Any) -> Tensor:
    """Return `part` [B, ...] as a tensor: it may be one, a NumPy array, or nested lists of numbers."""
    if isinstance(part, Tensor):
        return part
    try:
        return torch.as_tensor(np.asarray(part))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{name}: got {type(part).__name__} ({error}), expected a tensor or an array of numbers"
        ) from error


def check_view(m: Modality, part: Tensor, present: Tensor) -> Tensor:
    """Return `part` [B, *shape] if it is a valid raw view of modality `m` in the rows that are present."""
    if tuple(part.shape[1:]) != m.shape:
        raise DataError(_shape_message(m, tuple(part.shape)))
    if m.kind == "picture" and part.dtype != torch.uint8 and not part.is_floating_point():
        raise DataError(
            f"modality {m.name!r}: got dtype {part.dtype}, expected uint8 in 0..255 or float in [0, 1]; convert it"
        )
    if not part.is_floating_point():
        return part
    rows = part[present]
    bad = (~rows.isfinite().flatten(1).all(1)).nonzero()[:, 0]
    if len(bad):
        where = present.nonzero()[:, 0][bad][:_SHOWN].tolist()
        raise DataError(
            f"modality {m.name!r}: got NaN or infinite values in {len(bad)} rows (first: {where}), expected finite "
            "ones; fix them, or mark those entries as absent with `present`"
        )
    if m.kind == "picture" and len(rows) and (rows.min() < 0 or rows.max() > 1):
        low, high = rows.min().item(), rows.max().item()
        fix = "divide by 255 or pass uint8" if high > 1 and low >= 0 else "rescale to [0, 1]"
        raise DataError(f"modality {m.name!r}: got float values in [{low:.4g}, {high:.4g}], expected [0, 1]; {fix}")
    return part


def _shape_message(m: Modality, got: tuple[int, ...]) -> str:
    message = f"modality {m.name!r}: got shape {got}, expected (rows, {', '.join(map(str, m.shape))})"
    if m.kind == "picture" and len(got) == 4:
        if got[1:] == (*m.shape[1:], m.shape[0]):
            return f"{message}: channels are last; pass x.permute(0, 3, 1, 2), of an array x.transpose(0, 3, 1, 2)"
        if got[1] == m.shape[0]:
            return f"{message}; resize the pictures to {m.shape[1]}x{m.shape[2]}"
    return f"{message}; reshape it"


def check_names(modalities: dict[str, Modality], names: list[str] | None, what: str) -> list[str]:
    """Return `names`, or those of all modalities if None; ModalityError says what is unknown in the argument `what`."""
    known = list(modalities)
    for name in names or []:
        if name not in modalities:
            raise ModalityError(f"{what}: got {name!r}, expected some of {', '.join(known)}.{nearest(name, known)}")
    return known if names is None else list(names)


def check_steps(what: str, steps: int | None, has_energy: bool = True) -> None:
    """Refuse step counts outside 0..10,000, and data-chain steps of a model without an energy."""
    if steps is not None and not 0 <= steps <= 10_000:
        raise ConfigError(f"{what}: got {steps}, expected a number of chain steps from 0 to 10000")
    if steps != 0 and not has_energy:
        raise ConfigError(
            f"{what}: got {steps}, but this model has no energy; use {what}=0 or train one with model.energy"
        )
