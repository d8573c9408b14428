"""Judges: one small classifier per modality, trained on real data, that reads what a generated part shows.

The published PolyMNIST judge (two strided convolutions of 10 and 20 channels, three dropouts) reads unseen handwriting
of 16-pixel PolyDigits with accuracy 0.92 to 0.93 after 300 steps and 0.98 after 2,000. This one keeps the 128
penultimate units and reaches 0.99 in 300 (nn/pictures.py).

They are trained once per data set, and kept. Where nothing can be written, a warning says so, and they are trained
whenever they are asked for.
"""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from multiebm.core.errors import CheckpointError, ConfigError, DataError, ModalityError
from multiebm.core.files import ASIDE, reading, remove_stale, replace_file, sha256_of_json, why_not_written
from multiebm.core.names import Views
from multiebm.core.progress import track
from multiebm.core.random import ItemGenerators, make_generator
from multiebm.core.store import Header, Store
from multiebm.data.cache import CHOOSE
from multiebm.data.dataset import MultimodalDataset, Split
from multiebm.evaluation.measurement import complete_items, labelled_items
from multiebm.evaluation.result import stream_seed
from multiebm.modalities import Modality
from multiebm.nn.precision import fastest_precision

N_FEATURES = 128
_SHORTEST_CYCLE = 10  # steps; a fifth of a cycle raises the learning rate
_READ_ITEMS = 1000  # items a forward pass when reading whole splits
_LEFTOVERS = (f"{ASIDE}judges-*", "judges-*.tmp")  # of writers that were killed, now and in releases before
_log = logging.getLogger(__name__)


class _JudgesHeader(Header):
    accuracy: dict[str, Annotated[float, Field(ge=0, le=1)]]


# raise the version when the networks, their training or the files change
_STORE = Store(_JudgesHeader, "multiebm-judges", 4, "set of judges", "it is replaced")


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


class Judge(nn.Module):
    """An untrained judge of a modality: `body` [B, *shape] -> features [B, 128], `head` -> logits [B, n_classes].

    A robust one reads each part `reads` times under noise and blur, every item under the same draws.
    """

    def __init__(self, modality: Modality, n_classes: int, width: int, reads: int = 0) -> None:
        super().__init__()
        self.reads, self.disturb = reads, modality.disturb
        self.body = modality.judge_trunk(width, N_FEATURES)
        self.head = nn.Linear(N_FEATURES, n_classes)

    def features(self, x: Tensor) -> Tensor:
        """Return features [B, 128] of states [B, *shape] on any device."""
        x = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x  # the fastest for convolutions
        return self.body(x.to(self.head.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, n_classes] of states [B, *shape] on any device."""
        return self.head(self.features(x))

    def read(self, x: Tensor) -> Tensor:
        """Return what says the class of states [B, *shape]: logits [B, n_classes], of a robust judge probabilities."""
        if not self.reads:
            return self(x)
        draws = [ItemGenerators([k] * len(x)) for k in range(self.reads)]
        return torch.stack([self(self.disturb(x, rng)).softmax(1) for rng in draws]).mean(0)


@dataclass(frozen=True, eq=False)
class Judges:
    """Trained judges and their accuracy on real test items, both by modality."""

    networks: dict[str, Judge]
    accuracy: dict[str, float]

    def predict(self, views: Views) -> dict[str, Tensor]:
        """Return labels int64 [B] of states [B, *shape], by modality."""
        self._check(views)
        with torch.no_grad():
            return {name: self.networks[name].read(view).argmax(1) for name, view in views.items()}

    def features(self, views: Views) -> dict[str, Tensor]:
        """Return penultimate activations float32 [B, 128] of states [B, *shape], by modality."""
        self._check(views)
        with torch.no_grad():
            return {name: self.networks[name].features(view) for name, view in views.items()}

    def _check(self, views: Views) -> None:
        if unknown := [name for name in views if name not in self.networks]:
            raise ModalityError(f"judges: got modality {unknown[0]!r}, expected one of {', '.join(self.networks)}")


def train_judges(
    dataset: MultimodalDataset, seed: int = 0, settings: JudgeSettings | None = None, device: str = "cpu"
) -> Judges:
    """Train one judge per `readable` modality on the training split; DataError where there is none.

    One thread trains them, so that the same seed gives the same weights: judges of other sums read the coherence of
    blurred pictures 0.02 to 0.03 apart (docs/findings.md). Test accuracy also decides when to stop, in three looks.
    """
    if not (names := readable(dataset)):
        raise DataError(
            f"judges: data set {dataset.name!r} {_reasons(dataset)}, expected labels of two classes or more; "
            "supply them, or evaluate with judges=None, which leaves out what needs a judge"
        )
    networks, accuracy, threads = {}, {}, torch.get_num_threads()
    torch.set_num_threads(1)  # sums of floating-point numbers are of the same order
    try:
        for name in names:
            own = stream_seed(seed, name)
            networks[name], accuracy[name] = _train_judge(dataset, name, own, settings or JudgeSettings(), device)
    finally:
        torch.set_num_threads(threads)
    return Judges(networks, accuracy)


def _train_judge(
    dataset: MultimodalDataset, name: str, seed: int, settings: JudgeSettings, device: str
) -> tuple[Judge, float]:
    train, modality, size = dataset.train, dataset.modalities[name], settings.batch_size
    assert dataset.n_classes is not None
    assert train.labels is not None
    rows, rng, peak = present_rows(train, name), make_generator(seed), settings.learning_rate
    forked = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=forked):  # initial weights and dropout draw from the global generator
        torch.manual_seed(seed)
        network = Judge(modality, dataset.n_classes, settings.width, settings.reads).to(device)
        optimiser = torch.optim.AdamW(network.parameters(), peak, weight_decay=1e-2)
        accuracy = 0.0
        for steps, run_below in settings.cycles:
            if accuracy >= run_below:
                continue
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, peak, total_steps=steps, pct_start=0.2)
            order = rows[:0]
            network.train()
            for _ in track(range(steps), f"judges: {name}"):
                if len(order) < size:  # a new order once all were seen
                    order = rows[torch.randperm(len(rows), generator=rng)]
                batch, order = order[:size], order[size:]
                state = modality.jitter(modality.to_state(train.take(name, batch).to(device)), rng)
                state = modality.disturb(state, rng) if settings.reads else state
                with torch.autocast(state.device.type, torch.bfloat16, fastest_precision(device) == "bf16"):
                    logits = network(state)
                labels = train.labels[batch].to(device)
                loss = cross_entropy(logits.float(), labels, label_smoothing=settings.label_smoothing)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
            accuracy = real_accuracy(network.eval(), dataset, modality)
    return network.eval().requires_grad_(False), accuracy


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
    rows, device = present_rows(dataset.test, modality.name), network.head.weight.device
    test, labels = dataset.test, dataset.test.labels
    assert labels is not None
    with torch.no_grad():
        chunks = rows.split(_READ_ITEMS)
        read = [
            network.read(modality.to_state(test.take(modality.name, chunk).to(device))).argmax(1).cpu()
            for chunk in chunks
        ]
    return float((torch.cat(read) == labels[rows]).double().mean())


def load_judges(
    dataset: MultimodalDataset,
    cache_folder: Path,
    seed: int = 0,
    settings: JudgeSettings | None = None,
    device: str = "cpu",
) -> Judges:
    """Return the judges of `dataset` from `cache_folder`, or train them and store them there.

    A damaged or half-written entry is reported in the log and replaced; so is a folder that cannot be written.
    """
    settings = settings or JudgeSettings()
    stem = cache_folder / f"judges-{cache_key(dataset, seed, settings, device)}"
    try:
        remove_stale(path for pattern in _LEFTOVERS for path in cache_folder.glob(pattern))
        if stem.with_suffix(".json").exists():
            return read_judges(stem, dataset, settings, device)
    except (CheckpointError, OSError) as error:
        _log.warning("judges are trained again: %s", error)
    judges = train_judges(dataset, seed, settings, device)
    try:
        write_judges(stem, judges)
    except OSError as error:
        problem = why_not_written(error)
        _log.warning("judges are not kept: %s: %s; free space, or %s", cache_folder, problem, CHOOSE)
    return judges


def cache_key(dataset: MultimodalDataset, seed: int, settings: JudgeSettings, device: str = "cpu") -> str:
    """Return 24 hexadecimal digits that name the version, data, settings, seed and precision of training."""
    return sha256_of_json([_STORE.version, dataset.fingerprint, asdict(settings), seed, fastest_precision(device)])[:24]


def write_judges(stem: Path, judges: Judges) -> None:
    """Write `stem`.safetensors, then `stem`.json, which makes the entry complete."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    networks = enumerate(judges.networks.values())
    tensors = {f"{i}.{key}": value for i, network in networks for key, value in network.state_dict().items()}
    files = _STORE.pack(f"{stem.name}.json", {"accuracy": judges.accuracy}, f"{stem.name}.safetensors", tensors)
    for name, data in files.items():
        replace_file(stem.with_name(name), data)


def read_judges(stem: Path, dataset: MultimodalDataset, settings: JudgeSettings, device: str) -> Judges:
    """Read what `write_judges` wrote; CheckpointError naming the file where anything does not fit."""
    file = stem.with_suffix(".json")
    header = _STORE.read(file)
    tensors = _STORE.tensors(stem.parent, header.files[0])
    networks = {}
    with reading(file, CheckpointError, _STORE.way_out):
        if list(header.accuracy) != (names := readable(dataset)):
            raise ValueError(f"got judges of {', '.join(header.accuracy)}, expected of {', '.join(names)}")
        assert dataset.n_classes is not None
        for i, name in enumerate(names):
            network = Judge(dataset.modalities[name], dataset.n_classes, settings.width, settings.reads)
            own = {key.removeprefix(f"{i}."): t for key, t in tensors.items() if key.startswith(f"{i}.")}
            try:
                network.load_state_dict(own)
            except RuntimeError as error:
                raise ValueError(f"got weights of another network of {name!r} ({error})") from error
            networks[name] = network.eval().requires_grad_(False).to(device)
    return Judges(networks, header.accuracy)
