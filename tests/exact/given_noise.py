"""Rows of the table as small models in double precision, with noise that is given instead of drawn.

Noise belongs to an item, a sample and a coordinate and is the same for every component, so objectives of models with
other parts, or with the same parts in another order, meet the same draws and can be compared number by number.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Laplace, Normal

from multiebm.core.batch import Batch, mask_views
from multiebm.distributions.families import FAMILIES, Family
from multiebm.distributions.mixture import Mixture
from multiebm.experiments.baselines import ROWS, lay_row
from multiebm.experiments.schema import Experiment
from multiebm.experiments.values import merge
from multiebm.models.model import MultimodalModel
from multiebm.nn.precision import Mixed
from multiebm.objectives.vae import BoundSettings, vae_loss
from small_models import random_views, small_model, vectors

ITEMS, SAMPLES, BETA = 8, 3, 1.3
SIZES = {"a": 2, "b": 3, "c": 2}
WEIGHTS = {"b": 2.0}  # lambda_b; the others are 1
_draws = torch.Generator().manual_seed(11)
NORMAL = torch.randn(SAMPLES, ITEMS, 4, generator=_draws).double()
UNIFORM = torch.rand(SAMPLES, ITEMS, 4, generator=_draws).double()
DENSITIES: dict[Family, Any] = {FAMILIES["normal"]: Normal, FAMILIES["laplace"]: Laplace}
HOLES = [[1, 1, 1], [1, 0, 1], [1, 0, 1], [0, 1, 1], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1]]  # of a, b, c
LOGITS, HEAD = "inference.aggregation.logits", "inference.joint.head.weight"


class Given(NamedTuple):
    """In place of a generator: which items a batch holds, and the names of the parts in its order."""

    items: list[int]
    parts: list[str]


def _values(table: Tensor, given: Given, shape: Iterable[int]) -> Tensor:
    """[K, C, B, D]: sample k of every item, the same for all components; [R B, D]: sample 0, R times over."""
    first, *rest, d = shape
    own = table[:, given.items, :d]
    return own[:first, None].expand(first, *rest, d) if len(rest) == 2 else own[0].repeat(first // len(own[0]), 1)


def _assign(mixture: Mixture, given: Given) -> Tensor:
    """Item i takes number i, modulo their number, of the components it can have, sorted by the names of their parts."""
    named = [sorted(n for n, inside in zip(given.parts, row, strict=True) if inside) for row in mixture.members]
    order = sorted(range(len(named)), key=lambda k: (len(named[k]), named[k]))
    chosen = []
    for column, item in enumerate(given.items):
        possible = [k for k in order if mixture.log_weight[k, column] > -torch.inf]
        chosen.append(possible[item % len(possible)])
    return torch.tensor(chosen)


def plainly(function: Callable[..., Tensor], *values: Tensor, use_reentrant: bool) -> Tensor:
    """A call in place of a checkpoint."""
    return function(*values)


def give_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on every draw of a bound is given, and decoded but once: a checkpoint's second pass, in the backward
    pass, would decode with the weights of the model itself in place of those that `loss_with` lends it.
    """
    monkeypatch.setattr("multiebm.objectives.vae.checkpoint", plainly)
    monkeypatch.setattr(
        "multiebm.distributions.families.randn", lambda given, shape, like: _values(NORMAL, given, shape)
    )
    monkeypatch.setattr(
        "multiebm.distributions.families.rand", lambda given, shape, like: _values(UNIFORM, given, shape)
    )
    monkeypatch.setattr(Mixture, "assign", _assign)


def in_double(model: MultimodalModel) -> MultimodalModel:
    """The same model in float64, networks included."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Mixed):
                setattr(module, name, child.net)
    return model.double()


def row_model(
    row: str, parts: Iterable[str] = SIZES, model: dict[str, Any] | None = None, bound: dict[str, Any] | None = None
) -> tuple[MultimodalModel, BoundSettings]:
    """A row on vectors `parts`, its learned weights and scales away from their start; `model`, `bound`: changed cells.

    Samples are 3 where there are several, and the entropy of CoDE-VAE has weight 0.7, not to drown the rest.
    """
    names = list(parts)
    cells = lay_row({}, ROWS[row])
    small: dict[str, Any] = {"shared": 3, "networks": {"picture": {"width": 4}, "vector": {"width": 6}}, "energy": None}
    small["likelihood"] = {"scale": 0.5, "weights": {n: w for n, w in WEIGHTS.items() if n in names}}
    if cells["model"]["private"]:
        small["private"] = 2
    if cells["model"]["prior"].get("components"):
        small["prior"] = {"components": 3}
    cells = merge(cells, {"model": small})
    settings = cells["training"]["phases"][0]
    less = {"samples": min(settings.get("samples", 1), SAMPLES), "alpha": min(settings.get("alpha", 0.0), 0.7)}
    if settings.get("penalty") == "total_correlation":
        less["alpha"] = settings["alpha"]
    cells = merge(cells, {"model": model or {}, "training": {"phases": {"bound": less | (bound or {})}}})
    built = in_double(small_model(vectors(**{n: SIZES[n] for n in names}), **cells["model"]))
    draws = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for key, value in built.named_parameters():
            if key == LOGITS or "log_scale" in key or key.endswith("prior.logits"):
                value.copy_(0.4 * torch.randn(value.shape, generator=draws))
    experiment = Experiment.model_validate(cells)
    return built, experiment.training.phase("bound")


class Objective(nn.Module):
    """The loss of a model on a batch, as a function of the model's parameters."""

    def __init__(self, model: MultimodalModel, bound: BoundSettings, beta: float = BETA) -> None:
        super().__init__()
        self.model, self.bound, self.beta = model, bound, beta

    def forward(self, batch: Batch, items: list[int]) -> Tensor:
        model, given = self.model, Given(items, list(self.model.modalities))
        posterior = model.inference(batch)
        return vae_loss(model.generator, model.generator.prior, posterior, batch, given, self.bound, self.beta)[0]


def loss_of(model: MultimodalModel, bound: BoundSettings, batch: Batch, items: list[int] | None = None) -> Tensor:
    return Objective(model, bound)(batch, list(range(len(batch.present))) if items is None else items)


def loss_with(
    source: MultimodalModel, target: MultimodalModel, bound: BoundSettings, batch: Batch, items: list[int]
) -> Tensor:
    """The loss of `target` at the parameters of `source`: networks go by their part, weights of subsets by members."""
    own = dict(source.named_parameters())
    ours, theirs = _subsets(source), _subsets(target)
    order = [list(source.modalities).index(name) for name in target.modalities]
    weights = {key: own[key] for key, _ in target.named_parameters()}
    if LOGITS in weights:
        weights[LOGITS] = own[LOGITS][[ours.index(subset) for subset in theirs]]
    if HEAD in weights:
        weights[HEAD] = own[HEAD].unflatten(1, (len(source.modalities), -1))[:, order].flatten(1)
    named = {f"model.{key}": value for key, value in weights.items()}
    return torch.func.functional_call(Objective(target, bound), named, (batch, items))


def _subsets(model: MultimodalModel) -> list[set[str]]:
    members = model.inference.aggregation.members
    return [{n for n, inside in zip(model.modalities, row, strict=True) if inside} for row in members]


def gradients(loss: Tensor, model: nn.Module) -> dict[str, Tensor]:
    """The gradient of `loss` in every parameter of the model, zero where it has none."""
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
    return {n: torch.zeros_like(named[n]) if g is None else g for n, g in zip(named, found, strict=True)}


def assert_same(left: Tensor, right: Tensor, model: nn.Module, rtol: float, only: str = "") -> None:
    """Two losses and their gradients in all parameters of the model, or in those named `only`..., agree."""
    torch.testing.assert_close(left, right, rtol=rtol, atol=0)
    ours, theirs = gradients(left, model), gradients(right, model)
    ours = {name: gradient for name, gradient in ours.items() if name.startswith(only)}
    # entries that cancel to 0 are compared on the scale of the largest
    largest = max(gradient.abs().max().item() for gradient in ours.values())
    assert largest > 0
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=rtol, atol=rtol * largest, msg=name)


def batch_of(parts: Iterable[str] = SIZES, present: list[list[int]] | None = None, items: int = ITEMS) -> Batch:
    """ITEMS items of the parts named, in that order; `present` has a row of 0 and 1 an item, in the same order."""
    views = {name: view.double() for name, view in random_views(vectors(**SIZES), items, seed=3).items()}
    views = {name: views[name] for name in parts}
    mask = torch.tensor(present or [[1] * len(views)] * items).bool()
    return Batch(mask_views(views, mask), mask)


def sample(q: Distribution, k: int = 0) -> Tensor:
    """Sample k of every item of a normal or Laplace density [B, D], from the given noise."""
    d = q.loc.shape[1]
    return q.loc + q.scale * NORMAL[k, :, :d] if isinstance(q, Normal) else q.icdf(UNIFORM[k, :, :d])


def likelihood(model: MultimodalModel, name: str, batch: Batch, z: Tensor, w: Tensor | None = None) -> Tensor:
    """lambda_n log p(x_n | z, w_n) [B] of the part `name`, written out."""
    mean = model.generator.decoders[name](z if w is None else torch.cat([z, w], 1))
    return WEIGHTS.get(name, 1.0) * Normal(mean, 0.5).log_prob(batch.views[name]).sum(1)
