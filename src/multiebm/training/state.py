"""Everything a training run must remember, as named tensors and plain numbers, so that it continues bit-exactly."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from multiebm.core.batch import Batch
from multiebm.core.errors import CheckpointError
from multiebm.core.store import describe, misfits
from multiebm.data import BatchStream

ModelT = TypeVar("ModelT", bound=nn.Module)
_GOOD = "good."  # before the names of the tensors of the good state


class Snapshot(NamedTuple):
    """Copies of all tensors and numbers of a state at one moment, in memory."""

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]


@dataclass
class TrainState(Generic[ModelT]):
    """A model, its optimisers by name, one source of random numbers, the data stream, and how far they are.

    `step` counts completed steps and is advanced by the loop, not by a step function. `numbers` holds the adaptive
    scalars (floats) of steps, guard and hooks. `average` holds the moving average of the parameters, or nothing;
    `good` the earlier state that the guard would return to, where that is another one.
    """

    model: ModelT
    optimisers: dict[str, Optimizer]
    rng: torch.Generator
    stream: BatchStream
    step: int = 0
    numbers: dict[str, float] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)
    good: Snapshot | None = None
    drawn_at: dict[str, int] = field(default_factory=dict)  # the stream's position before `draw`

    def draw(self) -> Batch:
        """Return the stream's next batch, and note in `drawn_at` where it was."""
        self.drawn_at = self.stream.state_dict()
        return next(self.stream)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors, not copied: `model.*`, `optimiser.<name>.<index>.<key>`, `average.*`, `generator`, and
        the same of the good state, `good.*`.
        """
        found = {f"model.{name}": tensor.detach() for name, tensor in self.model.state_dict().items()}
        for name, optimiser in self.optimisers.items():
            for index, moments in optimiser.state_dict()["state"].items():
                found |= {f"optimiser.{name}.{index}.{key}": v for key, v in moments.items() if isinstance(v, Tensor)}
        found |= {f"average.{name}": tensor for name, tensor in self.average.items()}
        found["generator"] = self.rng.get_state()
        return found | ({f"{_GOOD}{k}": v for k, v in self.good.tensors.items()} if self.good else {})

    def numbers_json(self) -> dict[str, Any]:
        """Return the rest as JSON: step, numbers, rates, place in the stream; `good`, those of the good state."""
        groups = {name: [_settings(group) for group in o.param_groups] for name, o in self.optimisers.items()}
        numbers = {name: float(value) for name, value in self.numbers.items()}
        found = {"step": self.step, "numbers": numbers, "optimisers": groups, "stream": self.stream.state_dict()}
        return found | ({"good": self.good.numbers} if self.good else {})

    def load(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Restore in place from `tensors()` and `numbers_json()`.

        Raises CheckpointError, with nothing changed, when names, shapes or types do not fit this state.
        """
        good = Snapshot(_below(tensors, _GOOD), numbers["good"]) if "good" in numbers else None
        own = Snapshot({name: t for name, t in tensors.items() if not name.startswith(_GOOD)}, numbers)
        for saved in (own, *([good] if good else [])):
            self._check(saved)
        self.restore(own)
        self.good = good

    def snapshot(self) -> Snapshot:
        """Copy everything `restore` restores, that is, all but `good`; on the devices where it lies."""
        tensors = {name: tensor.clone() for name, tensor in self.tensors().items() if not name.startswith(_GOOD)}
        return Snapshot(tensors, deepcopy({key: v for key, v in self.numbers_json().items() if key != "good"}))

    def restore(self, snapshot: Snapshot) -> None:
        """Return to a snapshot of this state, exactly; the snapshot stays usable."""
        tensors, numbers = snapshot
        with torch.no_grad():
            for name, own in self.model.state_dict().items():
                own.copy_(tensors[f"model.{name}"])
        for name, optimiser in self.optimisers.items():
            plain, parameters = optimiser.state_dict(), _parameters(optimiser)
            plain["state"] = {}
            for key, tensor in _below(tensors, f"optimiser.{name}.").items():
                index, moment = key.split(".", 1)
                moments = plain["state"].setdefault(int(index), {})
                moments[moment] = _laid_out_like(parameters[int(index)], tensor)
            for group, saved in zip(plain["param_groups"], numbers["optimisers"][name], strict=True):
                group.update({key: tuple(value) if isinstance(value, list) else value for key, value in saved.items()})
            optimiser.load_state_dict(plain)
        named = dict(self.model.named_parameters())
        self.average.clear()
        saved_average = _below(tensors, "average.").items()
        self.average.update({n: torch.empty_like(named[n].detach()).copy_(t) for n, t in saved_average})
        self.rng.set_state(tensors["generator"].cpu())
        self.stream.load_state_dict(dict(numbers["stream"]))
        self.numbers.clear()
        self.numbers.update(numbers["numbers"])
        self.step = int(numbers["step"])

    def _check(self, saved: Snapshot) -> None:
        expected = {f"model.{name}": describe(tensor) for name, tensor in self.model.state_dict().items()}
        expected["generator"] = describe(self.rng.get_state())
        # moments and averages exist only once a run has made them, so they are checked where the file has them
        shapes = {f"average.{name}": p.shape for name, p in self.model.named_parameters()}
        for name, optimiser in self.optimisers.items():
            shapes |= {f"optimiser.{name}.{index}": p.shape for index, p in enumerate(_parameters(optimiser))}

        def fits(name: str, tensor: Tensor) -> bool:
            owner = shapes.get(name.rpartition(".")[0])  # of a moment
            return shapes.get(name, owner) == tensor.shape or (owner is not None and tensor.dim() == 0)

        problems = misfits({n: describe(t) for n, t in saved.tensors.items() if not fits(n, t)}, expected)
        found = {name: len(groups) for name, groups in saved.numbers["optimisers"].items()}
        own = {name: len(optimiser.param_groups) for name, optimiser in self.optimisers.items()}
        if found != own:
            problems.append(f"optimisers and their parameter groups: got {found}, expected {own}")
        if problems:
            raise CheckpointError(
                "the checkpoint is of another architecture or device:\n  "
                + "\n  ".join(problems)
                + "\nBuild the model from the config saved beside the checkpoint, on the same kind of device."
            )


Step = Callable[[TrainState, Batch], dict[str, float]]


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers of a parameter group (lr, betas, ...); flags such as `fused` belong to the machine."""
    each = {key: value if isinstance(value, tuple) else (value,) for key, value in group.items() if key != "params"}
    return {key: group[key] for key, values in each.items() if all(type(value) in (int, float) for value in values)}


def _parameters(optimiser: Optimizer) -> list[Tensor]:
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]


def _laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    """Copy `value` in the memory layout of its parameter: another layout may take another rounding path."""
    if value.dim() == 0 or value.shape != parameter.shape:
        return value.clone()
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def update(state: TrainState, loss: Tensor, *names: str) -> dict[str, float]:
    """Backward and one optimiser step for the named parts; return their gradient norms."""
    for name in names:
        state.optimisers[name].zero_grad(set_to_none=True)
    loss.backward()
    metrics = {}
    for name in names:
        grads = [p.grad for p in _parameters(state.optimisers[name]) if p.grad is not None]
        metrics[f"grad_norm/{name}"] = torch.nn.utils.get_total_norm(grads).item() if grads else 0.0
        state.optimisers[name].step()
    return metrics


@torch.no_grad()
def move_average(average: dict[str, Tensor], model: nn.Module, decay: float, moving: str = "") -> None:
    """Move `average` in place: a <- decay a + (1 - decay) p for the parameters whose names begin with `moving`.

    What has none yet starts as a copy.
    """
    for name, parameter in model.named_parameters():
        if name not in average:
            average[name] = parameter.detach().clone()
        elif name.startswith(moving):
            average[name].lerp_(parameter, 1 - decay)


@torch.no_grad()
def assign(model: nn.Module, values: dict[str, Tensor]) -> None:
    """Give the parameters of `model` that `values` name these values, bit for bit."""
    for name, parameter in model.named_parameters():
        if name in values:
            parameter.copy_(values[name])


@contextmanager
def averaged(model: nn.Module, average: dict[str, Tensor]) -> Iterator[None]:
    """Give `model` the averaged weights inside the block and its own, bit for bit, after it; no-op when empty.

    Buffers (spectral-norm vectors, mixtures) are not averaged: they are those of the trained weights.
    """
    own = {name: p.detach().clone() for name, p in model.named_parameters() if name in average}
    try:
        assign(model, average)
        yield
    finally:
        assign(model, own)
