"""Priors settle on the codes of finished encoders: closed forms in one dimension."""

import logging
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from multiebm.core.errors import ConfigError, DivergenceError
from multiebm.core.random import make_generator
from multiebm.experiments.build import settling_of
from multiebm.experiments.load import load_experiment
from multiebm.models.inference import InferenceModel
from multiebm.priors.prior import Settling
from multiebm.training.codes import prior_step
from multiebm.training.guard import PRIOR_RATE
from multiebm.training.phases.bound import Bound
from multiebm.training.phases.settle import Settle, batches_to_settle, settle_priors, settling
from small_models import energy_prior, make_state, random_views, small_model, vectors, whole

ITEMS, BATCHES = 100, 20


class Square(nn.Module):
    """f(z) = b z^2."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.zeros(()))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.b * z.square()


class NormalCodes:
    """A posterior whose codes are N(0, 1) whatever it has seen."""

    def sample(self, generator):
        return {"shared": torch.randn(ITEMS, 1, generator=generator)}, torch.zeros(ITEMS, dtype=torch.long)


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(InferenceModel, "forward", lambda self, batch: NormalCodes())
    prior = energy_prior(components=1, steps=40, step_size=0.3, penalty=0)
    made = small_model(vectors(a=2, b=3), shared=1, private=0, prior=prior)
    made.generator.prior.net = Square()
    return made


def settle(model, **settings) -> float:
    batch = whole(random_views(model.modalities, ITEMS))
    settle_priors(model, [batch] * BATCHES, make_generator(0), Settling(**settings))
    return model.generator.prior.net.b.item()


def test_without_steps_only_the_mixture_is_fitted(model):
    assert settle(model) == 0
    assert model.generator.prior.base.scale_tril.item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("spread", "expected"), [(1.0, 0.0), (4.0, -0.375)])
def test_the_tilt_is_the_log_ratio_of_the_codes_to_the_widened_base(spread, expected, model):
    """N(0, 1) to N(0, c): b = -(1 - 1 / c) / 2. The chain's bias and Adam's noise: 0.05.

    On the base as it is, the prior's variance is then 1 / (1 - 2 b): 0.57 for c = 4, sharper than the codes.
    """
    found = settle(model, steps=400, widen_base=spread, rate=0.004)
    assert found == pytest.approx(expected, abs=0.05)
    draws = model.generator.prior.sample(20_000, make_generator(1))
    variance = 1 / (1 / model.generator.prior.base.scale_tril.item() ** 2 - 2 * found)  # of base times exp(b z^2)
    chain = variance / (1 - 0.3**2 / (4 * variance))
    assert draws.var().item() == pytest.approx(chain, rel=4 * (2 / 20_000) ** 0.5)


def test_at_the_end_the_base_is_as_wide_as_the_codes_whatever_the_spread(model):
    settle(model, steps=3, widen_base=9.0)
    base = model.generator.prior.base
    expected = base.scatter[0] / base.count[0] + base.ridge
    torch.testing.assert_close(base.scale_tril[0], expected.sqrt())
    assert base.whiten.item() == pytest.approx(1 / math.sqrt(expected.item()))


@pytest.mark.parametrize("rate", [math.inf, 100.0])
def test_a_tilt_that_diverges_is_as_before_with_a_warning(rate, model, caplog):
    with caplog.at_level(logging.WARNING, "multiebm"):
        assert settle(model, steps=2, rate=rate) == 0
    assert "diverged while it settled" in caplog.text
    assert "prior/" in caplog.text
    assert "training.phases.settle.steps; --steps of fit-prior" in caplog.text
    assert "widen_base" not in caplog.text  # which is 1


def test_a_tilt_that_is_not_finite_ends_the_settling_at_the_next_look(model):
    """Looked at every tenth of the way; nothing is told of it, and every step after it would be in vain."""
    told, prior = [], model.generator.prior
    codes = torch.randn(200, 1, generator=make_generator(0))
    drawn, sample = [], prior.sample
    prior.sample = lambda *args: drawn.append(1) or sample(*args)
    said, ok = prior.settle(codes, make_generator(0), Settling(100, 2.0, rate=math.inf), told.append)
    assert not ok
    assert said.endswith("or training.phases.settle.widen_base=1")
    assert (told, len(drawn), prior.net.b.item()) == ([], 11, 0.0)  # ten steps and a last look


@pytest.mark.parametrize(
    ("rows", "batch_size", "batches"),
    [(96, 64, 16), (1200, 64, 38), (8000, 64, 128), (10_000, 128, 128), (60, 8, 128), (40, 40, 26)],
)
def test_of_few_rows_priors_settle_on_few_batches_and_of_many_on_as_many_as_ever(rows, batch_size, batches):
    stream = SimpleNamespace(state_dict=lambda: {"rows": rows, "batch_size": batch_size})
    assert batches_to_settle(SimpleNamespace(stream=stream)) == batches
    items = batches * batch_size
    assert items >= min(1024, 128 * batch_size)
    assert items <= max(1024, 2 * rows) + batch_size


class CodesFarOut(NormalCodes):
    """A posterior whose codes are so large that their squares are infinite, or infinite themselves."""

    def __init__(self, size: float) -> None:
        self.size = size

    def sample(self, generator):
        codes, components = super().sample(generator)
        return {"shared": codes["shared"] * self.size}, components


@pytest.mark.parametrize(("size", "said"), [(1e30, "shared: a mixture of 1 Gaussian"), (math.inf, "codes of shared")])
def test_codes_so_far_out_that_no_mixture_fits_end_the_settling_with_their_name_and_a_way_out(
    size, said, model, monkeypatch
):
    monkeypatch.setattr(InferenceModel, "forward", lambda self, batch: CodesFarOut(size))
    with pytest.raises(DivergenceError, match=f"^priors cannot settle: {said}") as raised:
        settle(model, steps=3)
    assert "Train again with lower rates" in str(raised.value)
    assert model.generator.prior.net.b.item() == 0


def test_a_prior_slowed_by_the_guard_settles_as_slowly():
    experiment = load_experiment("polydigits")
    rate = settling_of(experiment, {}).rate
    assert rate == experiment.training.optimiser.prior > 0
    assert settling_of(experiment, {PRIOR_RATE: 0.25}) == settling_of(experiment, {})._replace(rate=rate / 4)


def test_a_tilt_that_has_settled_flat_is_called_dead(model, caplog):
    assert settle(model, steps=2, rate=0.0) == 0
    assert "the prior is its base" in caplog.text


def tilt_of(std: float):
    """A state whose tilt is linear in the first coordinate, with this standard deviation under N(0, I)."""
    state = make_state(small_model(vectors(a=2), prior=energy_prior(steps=0)))
    layer = torch.nn.Linear(3, 1, bias=False)
    torch.nn.init.zeros_(layer.weight)
    layer.weight.data[0, 0] = std
    state.model.generator.prior.net = torch.nn.Sequential(layer)
    state.optimisers["prior"] = torch.optim.SGD(layer.parameters(), lr=1e-12)
    return state


def test_a_flat_tilt_is_called_dead_and_a_steep_one_is_not():
    said = []
    for std in (0.5, 1e-4):
        state = tilt_of(std)
        z = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
        metrics = prior_step(state, z, z + torch.tensor([2.0, 0.0, 0.0]))
        assert metrics["prior/gap"] == pytest.approx(-2 * std, rel=1e-3)
        assert metrics["prior/tilt_std"] == pytest.approx(std * (1 + 8 / 9) ** 0.5, rel=0.1)  # means 0, 2, 0
        said.append(state.model.generator.prior.warning(state.numbers))
    assert [("so the prior is its base" in text) for text in said] == [False, True]


def test_escape_is_how_far_the_chain_ends_beyond_codes_and_base():
    state = tilt_of(0.1)
    codes, samples = torch.full((4, 3), 6.0), torch.full((4, 3), 30.0)
    metrics = prior_step(state, codes, samples)
    assert metrics["prior/escape"] == pytest.approx(5.0)
    assert (metrics["prior/positive_max"], metrics["prior/negative_max"]) == (6, 30)
    assert (metrics["prior/positive_mean"], metrics["prior/negative_mean"]) == (6, 30)
    steepness = ((0.1 - 30) ** 2 + 2 * 30**2) ** 0.5  # of f + log N(0, I) at (30, 30, 30)
    assert metrics["prior/grad_norm"] == pytest.approx(steepness, rel=1e-5)
    before = state.rng.get_state()
    prior_step(state, codes, samples)
    assert torch.equal(before, state.rng.get_state())  # what is logged draws from no stream of training


def test_clusters_are_pruned_with_beta_of_the_first_bound_that_has_steps():
    phases = [Bound(steps=0, beta=9.0), Bound(steps=5, beta=2.5), Settle(steps=1)]
    assert settling(phases, 0.1, {}) == Settling(steps=1, widen_base=1.0, prune=2.5, rate=0.1)
    assert settling([*phases[:2], Settle(steps=0)], 0.1, {}).prune == 0


def test_priors_settle_once():
    """A second phase would be passed over."""
    twice = "training.phases=[{kind: bound, steps: 5}, {kind: settle, steps: 0}, {kind: settle, steps: 3}]"
    with pytest.raises(ConfigError, match=r"^training.phases: got 2 of kind settle, expected one: priors settle once"):
        load_experiment("polydigits", [twice])
    load_experiment("polydigits-cmvae", ["training.phases.settle.steps=2"])
