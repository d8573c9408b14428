"""A small model that needs all a checkpoint must hold: noise, spectral-norm vectors, moments, averages, data order."""

import json
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from multiebm.core.batch import Batch
from multiebm.core.keys import ELAPSED
from multiebm.core.random import make_generator
from multiebm.training.checkpoint import CheckpointStore
from multiebm.training.hooks import CheckpointEvery, MetricsLog
from multiebm.training.state import TrainState, move_average

ITEMS, BATCH = 40, 8


class Standin(nn.Module):
    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        energy = nn.Linear(width, width)
        self.generator = nn.Conv2d(1, 2, 3, padding=1).to(memory_format=torch.channels_last)
        with torch.no_grad():
            for p in [*energy.parameters(), *self.generator.parameters()]:
                p.copy_(torch.randn(p.shape, generator=make_generator(seed)) / width**0.5)
        self.energy = nn.utils.parametrizations.spectral_norm(energy)
        for name in ("_u", "_v"):  # their start is drawn from the global generator otherwise
            vector = self.energy.parametrizations.weight[0].get_buffer(name)
            vector.copy_(torch.nn.functional.normalize(torch.ones_like(vector), dim=0))


class Shuffled:
    """Items 0..ITEMS-1 in an order drawn from (seed, epoch); `seen` tells a test what was drawn."""

    def __init__(self, width: int, seed: int) -> None:
        self.data = torch.randn(ITEMS, width, generator=make_generator(seed))
        self.seed, self.position, self.seen = seed, 0, []

    def __next__(self) -> Batch:
        epoch, start = divmod(self.position * BATCH, ITEMS)
        order = torch.randperm(ITEMS, generator=make_generator(self.seed * 1000 + epoch))[start : start + BATCH]
        self.position += 1
        self.seen.append(order.tolist())
        return Batch({"a": self.data[order]}, torch.ones(BATCH, 1, dtype=torch.bool), order)

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


def make_state(width: int = 9, seed: int = 0) -> TrainState[Standin]:
    model = Standin(width, seed)
    optimisers: dict[str, torch.optim.Optimizer] = {
        "energy": torch.optim.Adam(model.energy.parameters(), lr=1e-2, betas=(0.5, 0.9)),
        "generator": torch.optim.Adam(model.generator.parameters(), lr=1e-3),
    }
    return TrainState(model, optimisers, make_generator(seed + 1), Shuffled(width, seed + 2))


def step(state: TrainState[Standin], batch: Batch) -> dict[str, float]:
    model, x = state.model, batch.views["a"]
    x = x + 0.1 * torch.randn(x.shape, generator=state.rng)
    gap = model.energy(x).square().mean() - model.energy(torch.zeros_like(x)).mean()
    picture = x.reshape(BATCH, 1, 3, -1).to(memory_format=torch.channels_last)
    loss = gap + (model.generator(picture) - 1).square().mean()
    for optimiser in state.optimisers.values():
        optimiser.zero_grad()
    loss.backward()
    for optimiser in state.optimisers.values():
        optimiser.step()
    move_average(state.average, model, 0.9)
    state.numbers["running"] = 0.9 * state.numbers.get("running", 0.0) + 0.1 * loss.item()
    # an "adaptive" rate, so that the optimisers' settings change from step to step
    state.optimisers["generator"].param_groups[0]["lr"] *= 0.99
    first = float(batch.labels[0]) if batch.labels is not None else math.nan
    return {"loss": loss.item(), "energy/gap": gap.item(), "first_item": first}


def hooks(folder: Path, every: int = 5, log_every: int = 3) -> list[MetricsLog | CheckpointEvery]:
    store = CheckpointStore(folder / "checkpoints")
    return [CheckpointEvery(store, every), MetricsLog(folder / "metrics.jsonl", log_every)]


def log_lines(folder: Path) -> list[dict]:
    """The log, but for the times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def assert_same_state(a: TrainState, b: TrainState, leaving_out: tuple[str, ...] = ()) -> None:
    """Bit for bit: every tensor with its memory layout, every number but the seconds."""
    left, right = a.tensors(), b.tensors()
    assert left.keys() == right.keys()
    for name in left.keys() - set(leaving_out):
        assert identical(left[name], right[name]), name
        assert left[name].stride() == right[name].stride(), name
    a_numbers, b_numbers = a.numbers_json(), b.numbers_json()
    for numbers in (a_numbers, b_numbers):
        for each in (numbers, numbers.get("good", {"numbers": {}})):
            each["numbers"] = {key: value for key, value in each["numbers"].items() if key != ELAPSED}
    assert a_numbers == b_numbers


def identical(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
