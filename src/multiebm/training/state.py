"""Everything a training run must remember, as named tensors and plain numbers, so that it continues bit-exactly."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from multiebm.core.batch import Batch
from multiebm.core.errors import CheckpointError
from multiebm.core.store import describe, misfits

ModelT = TypeVar("ModelT", bound=nn.Module)
_GOOD = "good."  # before the names of the tensors of the good state


class Stream(Protocol):
    """An endless source of batches that can say where it is and return there."""

    def __next__(self) -> Batch:
        """Return the next batch."""
        ...

    def state_dict(self) -> dict[str, int]:
        """Return the position, as plain integers."""
        ...

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to a position from `state_dict`."""
        ...


class Snapshot(NamedTuple):
    """Copies of all tensors and numbers of a state at one moment, in memory."""

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]


@dataclass
class TrainState(Generic[ModelT]):
    """A model, its optimisers by name, one random generator, the data stream, and how far they are.

    `step` counts completed steps and is advanced by the loop, not by a step function. `numbers` holds the adaptive
    scalars (floats) of steps, guard and hooks. `average` holds the moving average of the parameters, or nothing;
    `good` the earlier state that the guard would return to, where that is another one.
    """

    model: ModelT
    optimisers: dict[str, Optimizer]
    generator: torch.Generator
    stream: Stream
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
        return self._tensors() | ({f"{_GOOD}{k}": v for k, v in self.good.tensors.items()} if self.good else {})

    def _tensors(self) -> dict[str, Tensor]:
        found = {f"model.{name}": tensor.detach() for name, tensor in self.model.state_dict().items()}
        for name, optimiser in self.optimisers.items():
            for index, moments in optimiser.state_dict()["state"].items():
                found |= {f"optimiser.{name}.{index}.{key}": v for key, v in moments.items() if isinstance(v, Tensor)}
        found |= {f"average.{name}": tensor for name, tensor in self.average.items()}
        return found | {"generator": self.generator.get_state()}

    def numbers_json(self) -> dict[str, Any]:
        """Return what is not a tensor as JSON values: step, numbers, learning rates and the stream's position; `good`,
        the same of the good state.
        """
        return self._numbers() | ({"good": self.good.numbers} if self.good else {})

    def _numbers(self) -> dict[str, Any]:
        groups = {name: [_settings(group) for group in o.param_groups] for name, o in self.optimisers.items()}
        numbers = {name: float(value) for name, value in self.numbers.items()}
        return {"step": self.step, "numbers": numbers, "optimisers": groups, "stream": self.stream.state_dict()}

    def load(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Restore in place from `tensors()` and `numbers_json()`.

        Raises CheckpointError, with nothing changed, when names, shapes or types do not fit this state.
        """
        good = Snapshot(_below(tensors, _GOOD), numbers["good"]) if "good" in numbers else None
        own = Snapshot({name: t for name, t in tensors.items() if not name.startswith(_GOOD)}, numbers)
        for saved in (own, *([good] if good else [])):
            self._check(*saved)
        self.restore(own)
        self.good = good

    def snapshot(self) -> Snapshot:
        """Copy everything `restore` restores, that is, all but `good`; on the devices where it lies."""
        tensors = {name: tensor.clone() for name, tensor in self._tensors().items()}
        return Snapshot(tensors, deepcopy(self._numbers()))

    def restore(self, snapshot: Snapshot) -> None:
        """Return to a snapshot of this state, exactly; the snapshot stays usable."""
        tensors, numbers = snapshot
        with torch.no_grad():
            for name, own in self.model.state_dict().items():
                own.copy_(tensors[f"model.{name}"])
        for name, optimiser in self.optimisers.items():
            _load_optimiser(optimiser, _below(tensors, f"optimiser.{name}."), numbers["optimisers"][name])
        parameters = dict(self.model.named_parameters())
        average = _below(tensors, "average.")
        self.average.clear()
        self.average.update({n: torch.empty_like(parameters[n].detach()).copy_(t) for n, t in average.items()})
        self.generator.set_state(tensors["generator"].cpu())
        self.stream.load_state_dict(dict(numbers["stream"]))
        self.numbers.clear()
        self.numbers.update(numbers["numbers"])
        self.step = int(numbers["step"])

    def _check(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        expected = {f"model.{name}": describe(tensor) for name, tensor in self.model.state_dict().items()}
        expected["generator"] = describe(self.generator.get_state())
        # moments and averages exist only once a run has made them, so they are checked where the file has them
        owners = self._owners()
        optional = {name for name, tensor in tensors.items() if _fits(name, tensor, owners)}
        got = {name: describe(tensor) for name, tensor in tensors.items() if name not in optional}
        problems = misfits(got, expected)
        saved = {name: len(groups) for name, groups in numbers["optimisers"].items()}
        own = {name: len(optimiser.param_groups) for name, optimiser in self.optimisers.items()}
        if saved != own:
            problems.append(f"optimisers and their parameter groups: got {saved}, expected {own}")
        if problems:
            raise CheckpointError(
                "the checkpoint is of another architecture or device:\n  "
                + "\n  ".join(problems)
                + "\nBuild the model from the config saved beside the checkpoint, on the same kind of device."
            )

    def _owners(self) -> dict[str, torch.Size]:
        """Shapes of the parameters that averages and moments belong to, by the names these have (less their key)."""
        shapes = {f"average.{name}": p.shape for name, p in self.model.named_parameters()}
        for name, optimiser in self.optimisers.items():
            shapes |= {f"optimiser.{name}.{index}": p.shape for index, p in enumerate(_parameters(optimiser))}
        return shapes


Step = Callable[[TrainState, Batch], dict[str, float]]


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers of a parameter group (lr, betas, ...); flags such as `fused` belong to the machine."""

    def is_number(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    plain = {key: value for key, value in group.items() if key != "params"}
    return {k: v for k, v in plain.items() if is_number(v) or (isinstance(v, tuple) and all(map(is_number, v)))}


def _parameters(optimiser: Optimizer) -> list[Tensor]:
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]


def _load_optimiser(optimiser: Optimizer, moments: dict[str, Tensor], groups: list[dict[str, Any]]) -> None:
    plain = optimiser.state_dict()
    parameters = _parameters(optimiser)
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in moments.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = _laid_out_like(parameters[int(index)], tensor)
    plain["state"] = state
    for own, saved in zip(plain["param_groups"], groups, strict=True):
        own.update({key: tuple(value) if isinstance(value, list) else value for key, value in saved.items()})
    optimiser.load_state_dict(plain)


def _laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    """Copy `value` in the memory layout of its parameter: another layout may take another rounding path."""
    if value.dim() == 0 or value.shape != parameter.shape:
        return value.clone()
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _fits(name: str, tensor: Tensor, owners: dict[str, torch.Size]) -> bool:
    if name in owners:
        return tensor.shape == owners[name]
    owner = owners.get(name.rpartition(".")[0])
    return owner is not None and (tensor.shape == owner or tensor.dim() == 0)


def update(state: TrainState, loss: Tensor, *names: str) -> dict[str, float]:
    """Backward and one optimiser step for the named parts; return their gradient norms."""
    for name in names:
        state.optimisers[name].zero_grad(set_to_none=True)
    loss.backward()
    metrics = {}
    for name in names:
        optimiser = state.optimisers[name]
        grads = [p.grad for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
        metrics[f"grad_norm/{name}"] = torch.nn.utils.get_total_norm(grads).item() if grads else 0.0
        optimiser.step()
    return metrics
