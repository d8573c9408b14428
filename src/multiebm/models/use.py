"""How a model computes for its users: what they pass is checked, every mistake named with modality, what was given,
expected and the fix; items are computed a bounded number at a time, and the model is afterwards as it was.
"""

import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from multiebm.core.batch import Batch, mask_views
from multiebm.core.errors import ConfigError, DataError, ModalityError, whole_number
from multiebm.core.frames import as_pandas
from multiebm.core.handed import SHOWN, Handed, check_order, read_arrays
from multiebm.core.names import SHARED, Views
from multiebm.core.presence import read_presence, read_present
from multiebm.core.random import SEEDS, check_seed
from multiebm.core.table import nearest
from multiebm.core.tree import TreeT, in_chunks, per_item
from multiebm.modalities import Modality
from multiebm.modalities.tables import as_table, split_table
from multiebm.nn.spectral import frozen

if TYPE_CHECKING:
    from pandas import DataFrame

LARGEST = 2**34  # bytes that one call returns at most
MOST = 10**7  # importance samples of an item, or paths and stages of log Z
FAR_OFF = 0.3  # nats of error, from which an estimate is said to be rough: few draws carry its weight
Reader = Callable[[Any, Mapping[str, Modality]], tuple[Any, Any]]  # of a path or parts: parts, and which are there
PLACES = 2**18  # pixels of pictures and coordinates of vectors at a time: what the memory of networks grows with


class Completion(NamedTuple):
    """Several completions of the same items, by part: `mean` and standard deviation `std` over the draws [B, ...], and
    the `draws` [K, B, ...]. What was observed has its own value in all of them, and deviation 0. Of captions `mean` is
    the one that most draws are, and `std` [B] the share of draws that are another.
    """

    mean: Views
    std: Views
    draws: Views


class Given(NamedTuple):
    """What a user handed over, checked: raw `parts` [B, ...] of some modalities; `present` bool [B, M] says what is
    there. Its states take four times the memory of pictures of bytes, so they are made of a few rows at a time.
    `handed` are the parts as they came.
    """

    parts: Views
    present: Tensor
    handed: dict[str, Handed]

    def batch(
        self, modalities: dict[str, Modality], rows: Tensor | None = None, device: torch.device | None = None
    ) -> Batch:
        """Return the states [N, ...] of `rows` (int64 [N], any may come again; None: all); absent entries are zero."""
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

    def check_complete(self, modalities: dict[str, Modality], what: str) -> None:
        """Raise ModalityError, which begins with `what` was asked, where an item lacks a part or a cell of one."""
        if rows := (~Batch(self.parts, self.present).complete()).nonzero()[:, 0].tolist():
            missing = [name for name, i in zip(modalities, self.present.all(0).tolist(), strict=True) if not i]
            raise ModalityError(
                f"{what}: got items with parts missing ({', '.join(missing) or 'single cells'}; {len(rows)} rows, "
                f"first: {rows[:SHOWN]}), expected every modality of every item; log_likelihood (multiebm likelihood) "
                "rates items with gaps; or leave these rows out"
            )

    def observed(self, modalities: dict[str, Modality], views: Views) -> Views:
        """Return raw `views` [B, ...] with what was handed over in its place, exactly as it was."""
        kept = dict(views)
        for i, (name, m) in enumerate(modalities.items()):
            if name in self.parts and name in views:
                given = m.as_given(self.parts[name]).to(views[name].device)
                there = per_item(self.present[:, i], views[name]).to(given.device) & ~given.isnan()
                kept[name] = torch.where(there, given, views[name])
        return kept

    def given(self, modalities: dict[str, Modality], views: Views) -> Views:
        """Return raw `views` [..., B, *raw_shape] as users get them."""
        there = dict(zip(modalities, self.present.T, strict=True))
        return {name: modalities[name].give(view, self.handed.get(name), there[name]) for name, view in views.items()}

    def completion(self, modalities: dict[str, Modality], draws: Views) -> Completion:
        """Return raw `draws` [K, B, *raw_shape] with what they are on average, as users get them."""
        found = {name: modalities[name].average(values) for name, values in draws.items()}
        mean = self.given(modalities, {name: mean for name, (mean, _) in found.items()})
        return Completion(mean, {name: std for name, (_, std) in found.items()}, self.given(modalities, draws))


def check_parts(modalities: dict[str, Modality], parts: Any, present: Any = None, reads: Reader | None = None) -> Given:
    """Return raw `parts` [B, ...], every row of them checked, all of it copied; a modality not in `parts` is absent.

    `present` [B, M] (columns in the order of `modalities`, or by name) hides single entries; what is hidden may be NaN.
    A table is split by the columns that training had; a row whose cells of a part are all empty has not that part. A
    path is read by `reads`, and so are files of pictures that a part names.
    """
    there: Any = None
    if reads is not None and isinstance(parts, str | os.PathLike):
        parts, there = reads(parts, modalities)
    elif (table := None if isinstance(parts, Mapping) else as_pandas(parts, "parts")) is not None:
        check_order({"the table": table}, present, None, "parts")
        parts, there = split_table(table, modalities, "parts")
    if reads is not None and isinstance(parts, Mapping):
        given = parts
        parts, shown = reads(given, modalities)
        if any(parts[name] is not of for name, of in given.items()):  # pictures have no index any more
            check_order(given, present, None, "parts")
        there = shown if there is None else there if shown is None else np.asarray(shown) & np.asarray(there)
    if there is not None:
        present = np.asarray(there) & read_present(present, list(modalities), len(there), "parts")
    numbers, gaps = {name: m.numbers for name, m in modalities.items()}, [n for n, m in modalities.items() if m.missing]
    handed = read_arrays(parts, numbers, "parts", present, gaps=gaps)
    handed = {name: modalities[name].hide(part) for name, part in handed.items()}
    there = read_presence(handed, present, {name: m.lacks_cells for name, m in modalities.items()}, "parts")
    views = {}
    for i, (name, m) in enumerate(modalities.items()):
        if name in handed:
            where = f"parts, modality {name!r}"
            views[name] = m.read(handed[name], there[:, i], where)
            m.check(views[name], torch.from_numpy(there[:, i]), where)
    return Given(views, torch.from_numpy(there), handed)


def check_names(modalities: dict[str, Modality], names: Any, what: str) -> list[str]:
    """Return `names`, one or several, or all if None; ModalityError says what is unknown in the argument `what`."""
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


def check_data_steps(steps: Any, has_energy: bool, learned: bool) -> int | None:
    """Return the steps of a data chain as `check_steps`; without an energy, or by one that never learned, none."""
    if (steps := check_steps("data_steps", steps)) == 0:
        return 0
    asked = f"{steps}{', as in training (--refine)' if steps is None else ''}"
    if not has_energy:
        raise ConfigError(
            f"data_steps: got {asked}, but this model has no energy; use data_steps=0 or train one with model.energy"
        )
    if not learned:
        raise ConfigError(
            f"data_steps: got {asked}, but the energy of this model has made no step of training and would lead away "
            "from the data; use data_steps=0, or train with training.phases.cooperative.steps above 0"
        )
    return steps


def check_interaction(asked: str, learned: bool) -> None:
    """Raise ConfigError, which begins with what was `asked`, where no energy of interaction has learned."""
    if not learned:
        raise ConfigError(
            f"{asked} without an energy of interaction that has learned, expected one: it says what belongs together; "
            "train with model.interaction.kind=pair and a phase of kind belonging, or leave it out"
        )


def check_best_of(best_of: Any, learned: bool) -> int | None:
    """Return a number of completions to choose from, 1..10,000, or None; several need an energy of interaction."""
    if best_of is None:
        return None
    best_of = whole_number("best_of", best_of, 1, 10_000, "a number of completions to choose from")
    if best_of > 1:
        check_interaction(f"best_of: got {best_of}", learned)
    return best_of


def check_codes(size: int, private: bool) -> None:
    """Raise ConfigError where codes of a shared latent of `size` 0 are asked for, and no `private` ones."""
    if not size and not private:
        raise ConfigError(
            "encode: got a model without a shared latent (model.shared 0), expected one, or private=True (--private)"
        )


def check_noise(noise: bool, data_steps: int | None, diffusion_steps: int | None = 0) -> None:
    """Raise ConfigError for observation noise beside a refiner: energy and diffusion are densities of noisy data."""
    steps = {"data_steps": (data_steps, "the energy"), "diffusion_steps": (diffusion_steps, "the diffusion")}
    for key, (n, what) in steps.items():
        if noise and n != 0:
            raise ConfigError(
                f"noise: got true with {key}={n}, expected one of them: {what} is a density of data, noise included; "
                f"use {key}=0, or noise=False"
            )


def check_seeds(seed: Any, items: int) -> int | list[int]:
    """Return a seed of all items as an int, or seeds [B] of one for each as ints; ConfigError for other numbers."""
    if not isinstance(seed, Sequence | np.ndarray | Tensor) or isinstance(seed, str) or not np.ndim(seed):
        return check_seed(seed)
    if len(seed) != items:
        some = f"a whole number from 0 to {SEEDS - 1}, or one for each of {items} items"
        raise ConfigError(f"seed: got {len(seed)} of them, expected {some}")
    return [check_seed(one) for one in seed]


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


def rows_at_a_time(modalities: dict[str, Modality]) -> int:
    """Return how many items are computed at a time: a power of two from 16 to 1024."""
    places = sum(m.places for m in modalities.values())
    return 1 << (max(16, min(1024, PLACES // places)).bit_length() - 1)


@contextmanager
def in_use(model: nn.Module) -> Iterator[None]:
    """Inside, whatever the caller has set: evaluation mode, no gradients, float32, new tensors on the CPU unless a
    device is named; afterwards all is as it was. ConfigError where the weights were turned into other numbers.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ConfigError(
                f"model: got weights in {tensor.dtype} ({name}), expected torch.float32; call model.float(), and set "
                "training.precision=bf16 for networks that compute in bfloat16"
            )
        if tensor.is_inference():
            raise ConfigError(
                f"model: got weights made in inference mode ({name}), expected usual ones, beside which chains can "
                "differentiate; build, load or move the model outside of torch.inference_mode()"
            )
    plainly = torch.autocast(next(model.parameters()).device.type, enabled=False)
    here = nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")  # which slows every call
    with torch.inference_mode(False), torch.no_grad(), plainly, here, frozen(model):
        yield


def over_items(
    model: nn.Module, modalities: dict[str, Modality], compute: Callable[[int, int], TreeT], n: int
) -> TreeT:
    """Return what `compute(first, rows)` gives for items 0 .. n - 1, leaves [n, ...], in chunks and `in_use`."""
    with in_use(model):
        return in_chunks(compute, n, rows_at_a_time(modalities))


def over_parts(
    model: nn.Module, modalities: dict[str, Modality], compute: Callable[[Batch, int], TreeT], given: Given
) -> TreeT:
    """Return what `compute(batch, first)` gives for items of `given`, in chunks from `first` on: leaves [B, ...]."""
    n, device = len(given.present), next(model.parameters()).device

    def some(first: int, rows: int) -> TreeT:
        here = None if rows == n else torch.arange(first, first + rows).clamp_max(n - 1)  # the last one fills up
        return compute(given.batch(modalities, here, device), first)

    return over_items(model, modalities, some, n)


def check_threshold(of: Any, rate: Any) -> None:
    """Raise ConfigError where a threshold of that answer, or for that rate of false alarms, makes no sense."""
    if of not in (known := ("match", "score", "score_parts")):
        raise ConfigError(f"of: got {of!r}, expected {', '.join(known[:-1])} or {known[-1]}")
    if isinstance(rate, bool) or not isinstance(rate, int | float | np.number) or not 0 < rate < 1:
        raise ConfigError(f"rate: got {rate!r}, expected a share of false alarms between 0 and 1, such as 0.05")


def threshold(values: Tensor, rate: float, what: str) -> float:
    """Return what at most a share `rate` of new items like the held-out ones of `values` [N] have or fall below.

    The k-th smallest, k = floor(rate (N + 1)): of N + 1 exchangeable values the last is among the k smallest with
    probability k / (N + 1), ties apart (conformal p-values, Bates et al. 2021, arXiv 2104.08279). NaN is left out.
    """
    known = values[~values.isnan()].sort().values
    k = math.floor(rate * (len(known) + 1) + 1e-9)
    if k < 1:
        least = math.ceil(1 / rate - 1e-9) - 1
        raise DataError(
            f"{what}: got {len(known)} held-out items of which it is known, expected at least {least} for a rate of "
            f"{rate:g}; hand over more, or raise the rate"
        )
    return float(known[k - 1])


def warn_of_errors(errors: Tensor, samples: int) -> None:
    """Say of estimates with standard errors [B] in nats how many are rough; these are too low rather than too high."""
    if rough := int((errors > FAR_OFF).sum()):
        logging.getLogger(__name__).warning(
            "log_likelihood: %d of %d rows have a standard error above %s nats with samples=%d; they may be several "
            "nats too low: take more samples and see whether they grow (log_likelihood_with_error has each error)",
            rough, len(errors), FAR_OFF, samples,
        )  # fmt: skip


def to_frame(modalities: dict[str, Modality], values: Tensor | Mapping[str, Tensor] | Completion) -> "DataFrame":
    """Return what `MultimodalModel.frame` does of codes or parts [B, D], by name, or of completions."""
    if isinstance(values, Completion):
        return as_table(modalities, values.mean).join(as_table(modalities, values.std).add_suffix("_std"))
    return as_table(modalities, {SHARED: values} if isinstance(values, Tensor) else values)
