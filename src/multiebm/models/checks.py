"""From what a user passes to a batch: every mistake is named with modality, what was given, expected, and the fix."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from multiebm.core.batch import Batch, mask_views
from multiebm.core.errors import ConfigError, ModalityError, whole_number
from multiebm.core.handed import SHOWN, read_arrays, read_presence
from multiebm.core.names import Views
from multiebm.core.table import nearest
from multiebm.core.tree import per_item
from multiebm.modalities import Modality


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

    def observed(self, modalities: dict[str, Modality], views: Views) -> Views:
        """Return raw `views` [B, ...] with what was handed over in its place, exactly as it was."""
        kept = dict(views)
        for i, (name, m) in enumerate(modalities.items()):
            if name in self.parts and name in views:
                there = per_item(self.present[:, i], views[name]).to(views[name].device)
                kept[name] = torch.where(there, m.as_given(self.parts[name]).to(views[name].device), views[name])
        return kept


def make_batch(
    modalities: dict[str, Modality], parts: Any, present: Any = None, device: torch.device | None = None
) -> Batch:
    """Return the state-space batch of raw `parts` [B, ...]; a modality not in `parts` is absent from every row.

    `present` [B, M] (columns in the order of `modalities`, or by name) hides single entries; what is hidden may be NaN.
    """
    return check_parts(modalities, parts, present).batch(modalities, device=device)


def check_parts(modalities: dict[str, Modality], parts: Any, present: Any = None) -> Given:
    """Return `parts` and `present` as `make_batch` takes them, every row of them checked, all of it copied."""
    known = list(modalities)
    handed = read_arrays(parts, known, "parts", present)
    there = read_presence(handed, present, known, "parts")
    views = {}
    for i, (name, m) in enumerate(modalities.items()):
        if name in handed:
            where = f"parts, modality {name!r}"
            views[name] = m.read(handed[name], there[:, i], where)
            m.check(views[name], torch.from_numpy(there[:, i]), where)
    return Given(views, torch.from_numpy(there))


def check_names(modalities: dict[str, Modality], names: Any, what: str) -> list[str]:
    """Return `names`, one or several, or those of all modalities if None; ModalityError says what is unknown in the
    argument `what`.
    """
    known = list(modalities)
    if names is None:
        return known
    if not isinstance(names, Iterable):
        raise ModalityError(f"{what}: got {names!r}, expected a list of names, some of {', '.join(known)}")
    several = [names] if isinstance(names, str) else list(names)
    for name in several:
        if not isinstance(name, str) or name not in modalities:
            near = nearest(str(name), known)
            raise ModalityError(f"{what}: got {name!r}, expected some of {', '.join(known)}.{near}")
    return [str(name) for name in several]


def check_whole(given: Given, names: list[str], what: str) -> None:
    """Refuse items without a part; ModalityError names parts and rows."""
    if given.present.all():
        return
    missing = [name for name, here in zip(names, given.present.all(0).tolist(), strict=True) if not here]
    rows = (~given.present.all(1)).nonzero()[:, 0].tolist()
    raise ModalityError(
        f"{what}: got items with parts missing ({', '.join(missing)}; {len(rows)} rows, first: {rows[:SHOWN]}), "
        "expected every modality of every item; complete them with impute(parts) first"
    )


def check_given(modalities: dict[str, Modality], given: Any, parts: Mapping[str, Any]) -> list[str]:
    """Return `given`, names of modalities to condition on; ModalityError for one that `parts` does not have."""
    names = check_names(modalities, given, "given")
    if absent := [name for name in names if name not in parts]:
        raise ModalityError(
            f"given: got {', '.join(absent)}, which parts has not (it has {', '.join(parts)}), expected parts that are "
            "there; hand them over too"
        )
    return names


def check_steps(what: str, steps: Any) -> int | None:
    """Return a number of chain steps in 0..10,000 as an int, or None."""
    return None if steps is None else whole_number(what, steps, 0, 10_000, "a number of chain steps")


def check_data_steps(what: str, steps: Any, has_energy: bool, learned: bool) -> int | None:
    """Return the steps of a data chain as `check_steps`; without an energy, or by one that never learned, none."""
    steps = check_steps(what, steps)
    if steps != 0 and not has_energy:
        raise ConfigError(
            f"{what}: got {steps}, but this model has no energy; use {what}=0 or train one with model.energy"
        )
    if steps != 0 and not learned:
        raise ConfigError(
            f"{what}: got {steps}, but the energy of this model has made no step of training and would lead away from "
            f"the data; use {what}=0, or train with training.phases.cooperative.steps above 0"
        )
    return steps


def check_temperature(temperature: Any) -> float | None:
    """Return a temperature in (0, 1] as a float, or None."""
    if temperature is None:
        return None
    numeric = isinstance(temperature, int | float | np.number) and not isinstance(temperature, bool)
    if not numeric or not 0 < temperature <= 1:
        got = f"{temperature:g}" if isinstance(temperature, float) else repr(temperature)
        raise ConfigError(f"temperature: got {got}, expected 0 < T <= 1 (1 = the prior itself)")
    return float(temperature)


def check_log_z(log_z: Any) -> float:
    """Return the log Z of a prior, a finite number of Python, NumPy or torch, as a float."""
    try:
        value = math.nan if isinstance(log_z, str | bytes | bool) else float(log_z)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(
            f"log_z: got {log_z!r}, expected a finite number of nats; use log_normalizer().value, or None"
        )
    return value
