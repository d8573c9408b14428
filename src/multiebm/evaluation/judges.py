"""Judges: one small classifier per modality, trained on real data, that reads what a generated part shows.

The published PolyMNIST judge (two strided convolutions of 10 and 20 channels, three dropouts) reads unseen handwriting
of 16-pixel PolyDigits with accuracy 0.92 to 0.93 after 300 steps and 0.98 after 2,000. This one keeps the 128
penultimate units and reaches 0.99 in 300 (nn/pictures.py).

Sets of them, of other seeds and settings, are trained side by side, once per data set (`stored_judges.py`).
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from threading import Event, RLock
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from multiebm.core.errors import ConfigError, DataError, ModalityError
from multiebm.core.names import Views
from multiebm.core.progress import track
from multiebm.core.random import ItemGenerators, make_generator
from multiebm.data.dataset import MultimodalDataset, Split
from multiebm.evaluation.measurement import complete_items, labelled_items
from multiebm.evaluation.result import stream_seed
from multiebm.modalities import Modality
from multiebm.nn.precision import fastest_precision

N_FEATURES = 128
_SHORTEST_CYCLE = 10  # steps; a fifth of a cycle raises the learning rate
_READ_ITEMS = 1000  # items at a time when reading whole splits
_FORWARD_ITEMS = 100  # items a forward pass on a CPU, whose caches hold no more: 500 take 1.5 to 2 times as long each
_GLOBAL = RLock()  # held by who seeds the global generators


@dataclass(frozen=True)
class JudgeSettings:
    """How judges are trained. `cycles`: (steps, run if the accuracy so far is below), each a one-cycle learning-rate
    schedule (Smith & Topin 2017, arXiv 1708.07120), one after the other, so that an easy modality costs one short cycle
    and a hard one gets more.
    """

    width: int = 16  # channels after the stem, before signs are split
    batch_size: int = 128
    learning_rate: float = 1e-2  # peak of each cycle, AdamW
    label_smoothing: float = 0.1
    cycles: tuple[tuple[int, float], ...] = ((300, 1.0), (700, 0.975), (1500, 0.95))
    reads: ClassVar[int] = 0  # of a part under noise and blur, to the mean of which a judge answers; 0 = as it is

    def __post_init__(self) -> None:
        if not self.cycles or min(steps for steps, _ in self.cycles) < _SHORTEST_CYCLE:
            raise ConfigError(
                f"judges.cycles: got {self.cycles}, expected one or more (steps, bound), at least "
                f"{_SHORTEST_CYCLE} steps each; lengthen them"
            )


@dataclass(frozen=True)
class RobustSettings(JudgeSettings):
    """How robust judges are trained and read: under noise and blur (`Modality.disturb`)."""

    cycles: tuple[tuple[int, float], ...] = ((300, 1.0), (700, 0.95))
    reads: int = 4  # type: ignore[misc]


T = TypeVar("T")
Wanted = Sequence[tuple[int, JudgeSettings]]  # sets of judges, each by its seed and how it is trained


class Judge(nn.Module):
    """An untrained judge of a modality: `body` [B, *shape] -> features [B, 128], `head` -> logits [B, n_classes].

    A robust one reads each part `reads` times under noise and blur, every item under the same draws.
    """

    def __init__(self, modality: Modality, n_classes: int, width: int, reads: int = 0) -> None:
        super().__init__()
        self.reads, self.disturb = reads, modality.disturb
        self.body = modality.judge_trunk(width, N_FEATURES)
        self.head = nn.Linear(N_FEATURES, n_classes)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    def features(self, x: Tensor) -> Tensor:
        """Return features [B, 128] of states [B, *shape] on any device."""
        x = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x  # the fastest for convolutions
        return self.body(x.to(self.device))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, n_classes] of states [B, *shape] on any device."""
        return self.head(self.features(x))

    def read(self, x: Tensor) -> Tensor:
        """Return what says the class of states [B, *shape]: logits [B, n_classes], of a robust judge probabilities."""
        if not self.reads:
            return self(x)
        draws = [ItemGenerators([k], alike=len(x)) for k in range(self.reads)]
        return torch.stack([self(self.disturb(x, rng)).softmax(1) for rng in draws]).mean(0)


@dataclass(frozen=True, eq=False)
class Judges:
    """Trained judges and their accuracy on real test items, both by modality."""

    networks: dict[str, Judge]
    accuracy: dict[str, float]

    def predict(self, views: Views) -> dict[str, Tensor]:
        """Return labels int64 [B] of states [B, *shape], by modality."""
        return {name: read.argmax(1) for name, read in self._read("read", views).items()}

    def features(self, views: Views) -> dict[str, Tensor]:
        """Return penultimate activations float32 [B, 128] of states [B, *shape], by modality."""
        return self._read("features", views)

    def _read(self, how: str, views: Views) -> dict[str, Tensor]:
        """Return what this method of the networks gives for states [B, *shape], by modality."""
        if unknown := [name for name in views if name not in self.networks]:
            raise ModalityError(f"judges: got modality {unknown[0]!r}, expected one of {', '.join(self.networks)}")
        jobs = {name: _jobs(getattr(self.networks[name], how), view) for name, view in views.items()}
        done = iter(_side_by_side([job for own in jobs.values() for job in own]))
        return {name: torch.cat([next(done) for _ in own]) for name, own in jobs.items()}


def _jobs(read: Callable[[Tensor], Tensor], x: Tensor) -> list[Callable[[], Tensor]]:
    """Return what has to be done for read(x) of states [N, *shape], without gradients: on a CPU few items at a time."""
    size = _FORWARD_ITEMS if x.device.type == "cpu" else max(len(x), 1)
    return [partial(torch.no_grad()(read), some) for some in x.split(size)]


def _side_by_side(jobs: Sequence[Callable[[], T]], stopped: Event | None = None) -> list[T]:
    """Return what jobs give that take one thread each: as many at once as torch has threads.

    So sums are of the same order however many threads there are, and threads need not wait for each other in every
    layer, which on a busy machine takes far longer than the layer. Once one fails `stopped` tells the others.
    """
    if (threads := torch.get_num_threads()) == 1:
        return [job() for job in jobs]
    torch.set_num_threads(1)  # those of the pool have one, too
    pool = ThreadPoolExecutor(threads)
    try:
        futures = [pool.submit(copy_context().run, job) for job in jobs]
        for future in wait(futures, return_when=FIRST_EXCEPTION).done:
            future.result()  # raises what went wrong, while others are at work
        return [future.result() for future in futures]
    finally:
        if stopped is not None:
            stopped.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


class _Dropout(nn.Module):
    """Dropout as torch's on a CPU, number by number, but by a generator of its own, so that threads do not mix."""

    def __init__(self, p: float, rng: torch.Generator) -> None:
        super().__init__()
        self.p, self.rng = p, rng

    def forward(self, x: Tensor) -> Tensor:
        """Return x [B, ...], in training with a share p of its entries 0 and the others 1 / (1 - p) times as large."""
        if not self.training:
            return x
        return x * torch.empty_like(x).bernoulli_(1 - self.p, generator=self.rng).div_(1 - self.p)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, the global generators begin at `seed`, in one thread at a time; then they are as they were."""
    with _GLOBAL, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def train_judges(
    dataset: MultimodalDataset, seed: int = 0, settings: JudgeSettings | None = None, device: str = "cpu"
) -> Judges:
    """Train one judge per `readable` modality on the training split; DataError where there is none.

    One thread trains each, so that the same seed gives the same weights: judges of other sums read the coherence of
    blurred pictures 0.02 to 0.03 apart (docs/findings.md). Test accuracy also decides when to stop, in three looks.
    """
    return train_sets(dataset, [(seed, settings or JudgeSettings())], device)[0]


def train_sets(dataset: MultimodalDataset, wanted: Wanted, device: str = "cpu") -> list[Judges]:
    """Train the sets `wanted` as `train_judges` does: on a CPU as many judges at once as torch has threads."""
    if not (names := readable(dataset)):
        raise DataError(
            f"judges: data set {dataset.name!r} {_reasons(dataset)}, expected labels of two classes or more; "
            "supply them, or evaluate with judges=None, which leaves out what needs a judge"
        )
    on, stopped = torch.device(device), Event()
    jobs = [
        partial(_train_judge, dataset, name, stream_seed(seed, name), how, on, stopped)
        for seed, how in wanted
        for name in names
    ]
    trained = iter(_side_by_side(jobs, stopped))
    made = []
    for _ in wanted:
        networks, accuracy = zip(*[next(trained) for _ in names], strict=True)
        made.append(Judges(dict(zip(names, networks, strict=True)), dict(zip(names, accuracy, strict=True))))
    return made


def _train_judge(
    dataset: MultimodalDataset, name: str, seed: int, settings: JudgeSettings, device: torch.device, stopped: Event
) -> tuple[Judge, float]:
    """Return a trained judge and its accuracy; neither means anything once the work is `stopped`."""
    assert dataset.n_classes is not None
    with nullcontext() if device.type == "cpu" else _seeded(seed, device):  # where dropout draws from the global one
        with _seeded(seed, device):  # initial weights
            network = Judge(dataset.modalities[name], dataset.n_classes, settings.width, settings.reads).to(device)
            drops = torch.Generator()
            drops.set_state(torch.random.get_rng_state())
        for module in list(network.modules()) if device.type == "cpu" else ():
            for key, child in list(module.named_children()):
                if isinstance(child, nn.Dropout):
                    setattr(module, key, _Dropout(child.p, drops))
        accuracy = _learn(network, dataset, name, seed, settings, stopped)
    return network.eval().requires_grad_(False), accuracy


def _learn(
    network: Judge, dataset: MultimodalDataset, name: str, seed: int, settings: JudgeSettings, stopped: Event
) -> float:
    """Train a judge of one modality in place, cycle by cycle; return its accuracy on real test items."""
    train, modality, size = dataset.train, dataset.modalities[name], settings.batch_size
    assert train.labels is not None
    rows, rng, peak, device = present_rows(train, name), make_generator(seed), settings.learning_rate, network.device
    optimiser = torch.optim.AdamW(network.parameters(), peak, weight_decay=1e-2)
    half, accuracy = fastest_precision(str(device)) == "bf16", 0.0
    for steps, run_below in settings.cycles:
        if accuracy >= run_below:
            continue
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, peak, total_steps=steps, pct_start=0.2)
        order = rows[:0]
        network.train()
        for _ in track(range(steps), f"judges: {name}"):
            if stopped.is_set():
                return accuracy
            if len(order) < size:  # a new order once all were seen
                order = rows[torch.randperm(len(rows), generator=rng)]
            batch, order = order[:size], order[size:]
            state = modality.jitter(modality.to_state(train.take(name, batch).to(device)), rng)
            state = modality.disturb(state, rng) if settings.reads else state
            with torch.autocast(device.type, torch.bfloat16, half):
                logits = network(state)
            labels = train.labels[batch].to(device)
            loss = cross_entropy(logits.float(), labels, label_smoothing=settings.label_smoothing)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        accuracy = real_accuracy(network.eval(), dataset, modality)
    return accuracy


def unread(dataset: MultimodalDataset) -> dict[str, str]:
    """Return the modalities that no judge can learn or be tested on, with the reason; all where labels say nothing."""
    train, test = dataset.train, dataset.test
    if dataset.n_classes is None or train.labels is None or test.labels is None:
        return dict.fromkeys(dataset.modalities, "has no labels in both splits")
    found = {}
    for name in dataset.modalities:
        seen, tested = (complete_items(split, labelled_items(split), (name,)) for split in (train, test))
        if not len(seen) or not len(tested):
            counts = f"{len(seen)} of {len(train)} training and {len(tested)} of {len(test)} test rows"
            found[name] = f"has {name!r} with a known label in {counts}"
        elif not torch.isin(test.labels[tested], train.labels[seen]).any():
            found[name] = "has no class that is in both splits"
        elif len(train.labels[seen].unique()) < 2:
            found[name] = f"has one class only where {name!r} is present in training, so there is nothing to tell apart"
    return found


def no_judges(dataset: MultimodalDataset) -> str:
    """Say that there are no judges of a data set, and where none can be trained, why."""
    return f"no judges of data set {dataset.name!r}" + (f", which {why}" if (why := _reasons(dataset)) else "")


def _reasons(dataset: MultimodalDataset) -> str:
    return "; ".join(dict.fromkeys(unread(dataset).values()))


def readable(dataset: MultimodalDataset) -> list[str]:
    """Return the modalities that a judge can be trained for and tested on, in the order of the data set."""
    without = unread(dataset)
    return [name for name in dataset.modalities if name not in without]


def present_rows(split: Split, name: str) -> Tensor:
    """Return the rows int64 [N] with modality `name` and a known class; DataError where there are none."""
    rows = complete_items(split, labelled_items(split), (name,))
    if not len(rows):
        raise DataError(
            f"judges: modality {name!r} is present in 0 of {len(split)} rows of a split that have a label, "
            "expected at least 1"
        )
    return rows


def real_accuracy(network: Judge, dataset: MultimodalDataset, modality: Modality) -> float:
    """Return the share of real test items of one modality that `network`, in evaluation mode, reads correctly."""
    rows, device = present_rows(dataset.test, modality.name), network.device
    test, labels = dataset.test, dataset.test.labels
    assert labels is not None
    read = [
        job().argmax(1).cpu()
        for chunk in rows.split(_READ_ITEMS)
        for job in _jobs(network.read, modality.to_state(test.take(modality.name, chunk).to(device)))
    ]
    return float((torch.cat(read) == labels[rows]).double().mean())
