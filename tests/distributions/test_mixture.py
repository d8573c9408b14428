"""The mixture over experts: density, eq. (12'), and the balanced assignment of experts to items."""

from itertools import permutations

import pytest
import torch

import multiebm.distributions.mixture as module
from multiebm.core.random import item_generators, make_generator
from multiebm.distributions.families import FAMILIES
from multiebm.distributions.mixture import Diagonal, Mixture

NAMES = pytest.mark.parametrize("name", ["normal", "laplace"])


def mixture(present: torch.Tensor, dim: int = 2, name: str = "normal", dtype: torch.dtype = torch.float64) -> Mixture:
    """Random components, equal weights over what is `present` [B, K]."""
    b, k = present.shape
    g = make_generator(5)
    loc, scale = (
        torch.randn(k, b, dim, generator=g, dtype=dtype),
        torch.randn(k, b, dim, generator=g, dtype=dtype).exp(),
    )
    weight = present.T.to(dtype)
    return Mixture(loc, scale, (weight / weight.sum(0)).log(), torch.eye(k, dtype=torch.bool), FAMILIES[name])


def everything(b: int, k: int) -> torch.Tensor:
    return torch.ones(b, k, dtype=torch.bool)


@NAMES
def test_the_density_is_the_mean_of_the_component_densities(name):
    q = mixture(everything(6, 3), name=name)
    z = torch.randn(6, 2, generator=make_generator(0), dtype=torch.float64)
    reference = {"normal": torch.distributions.Normal, "laplace": torch.distributions.Laplace}[name]
    expected = reference(q.loc, q.scale).log_prob(z).sum(-1).exp().mean(0).log()
    torch.testing.assert_close(q.log_prob(z), expected, rtol=1e-12, atol=1e-12)


@NAMES
def test_the_density_integrates_to_1(name):
    q = mixture(everything(1, 3), dim=1, name=name)
    grid = torch.linspace(-200, 200, 400_001, dtype=torch.float64)
    wide = q._replace(loc=q.loc.expand(-1, len(grid), -1), scale=q.scale.expand(-1, len(grid), -1))
    total = torch.trapezoid(wide.log_prob(grid[:, None]).exp(), grid).item()
    assert total == pytest.approx(1, abs=1e-6)


@NAMES
def test_the_gradient_of_log_q_is_the_responsibility_weighted_sum_of_the_experts_gradients(name):
    """Eq. (12'), to rounding in float64."""
    q = mixture(everything(6, 3), name=name)
    loc, scale = q.loc.clone().requires_grad_(), q.scale.clone().requires_grad_()
    q = q._replace(loc=loc, scale=scale)
    z = torch.randn(6, 2, generator=make_generator(0), dtype=torch.float64)
    whole = torch.autograd.grad(q.log_prob(z).sum(), [loc, scale])
    parts = torch.autograd.grad(q.component_log_prob(z).sum(), [loc, scale])
    r = q.component_log_prob(z).softmax(0).detach()[..., None]
    torch.testing.assert_close(q.responsibilities(z).detach(), r[..., 0], rtol=1e-12, atol=0)
    for got, part in zip(whole, parts, strict=True):
        torch.testing.assert_close(got, r * part, rtol=1e-10, atol=1e-14)


def test_an_absent_expert_has_no_part_in_density_gradient_or_responsibility():
    present = torch.tensor([[True, False, True]] * 4)
    q = mixture(present)
    loc = q.loc.clone().requires_grad_()
    z = torch.randn(4, 2, generator=make_generator(0), dtype=torch.float64)
    value = q._replace(loc=loc).log_prob(z)
    kept = Mixture(q.loc[[0, 2]], q.scale[[0, 2]], q.log_weight[[0, 2]], q.members[[0, 2]], q.family)
    torch.testing.assert_close(value.detach(), kept.log_prob(z), rtol=1e-13, atol=0)
    assert torch.autograd.grad(value.sum(), loc)[0][1].abs().max() == 0
    assert q.responsibilities(z)[1].abs().max() == 0
    assert q.log_weight[0].exp().tolist() == [0.5] * 4


@pytest.mark.parametrize(("b", "k"), [(6, 3), (64, 4), (100, 5), (7, 7)])
def test_every_expert_gets_exactly_its_share_of_a_batch_that_divides(b, k):
    for seed in range(50):
        counts = mixture(everything(b, k), dtype=torch.float32).assign(make_generator(seed)).bincount(minlength=k)
        assert counts.tolist() == [b // k] * k


def test_where_the_batch_does_not_divide_no_expert_is_favoured():
    """64 items, 5 experts: 12 or 13 each, and on average 12.8 each. A count is 12 or 13, so its sd is at most 0.5 and
    that of a mean over 500 draws at most 0.022; 4.5 sigma: false alarm < 5 * 7e-6."""
    q, g = mixture(everything(64, 5), dtype=torch.float32), make_generator(0)
    counts = torch.stack([q.assign(g).bincount(minlength=5) for _ in range(500)]).double()
    assert counts.min() == 12
    assert counts.max() == 13
    assert (counts.mean(0) - 12.8).abs().max() < 4.5 * 0.5 / 500**0.5


def test_assignments_of_different_items_form_every_permutation():
    """3 items, 3 experts: each of the 6 orders has probability 1/6; 1,500 draws, sd 14; 4.5 sigma."""
    q, g = mixture(everything(3, 3), dtype=torch.float32), make_generator(1)
    seen = [tuple(q.assign(g).tolist()) for _ in range(1500)]
    for order in permutations(range(3)):
        assert abs(seen.count(order) - 250) < 4.5 * (1500 / 6 * 5 / 6) ** 0.5


@pytest.mark.parametrize("per_item", [False, True])
def test_an_absent_expert_is_never_drawn(per_item):
    present = torch.tensor([[a, b, c, d] for a in (0, 1) for b in (0, 1) for c in (0, 1) for d in (0, 1)][1:]).bool()
    present = present.repeat(20, 1)
    q = mixture(present, dtype=torch.float32)
    for seed in range(20):
        generator = item_generators(seed, len(present)) if per_item else make_generator(seed)
        index = q.assign(generator)
        assert present[torch.arange(len(present)), index].all()


def test_rounding_of_the_last_edge_never_picks_an_absent_expert(monkeypatch):
    """The largest float32 below 1 lies above the summed weights for some numbers of experts."""
    largest = 1 - 2.0**-24
    monkeypatch.setattr(module, "rand", lambda generator, shape, like: torch.full(tuple(shape), largest))
    below = 0
    for k in range(2, 40):
        q = mixture(torch.arange(k)[None] < k - 1, dtype=torch.float32)  # the last one is absent
        below += int(q.log_weight.exp().sum() < largest)
        assert q.assign(item_generators(0, 1)).tolist() == [k - 2]
    assert below > 0


def test_with_unequal_presence_each_item_draws_each_of_its_experts_alike():
    """Half of the items have experts {0, 2}, half {0, 1, 2}. Per item, frequencies over 1,500 draws: sd < 0.013."""
    present = torch.tensor([[True, False, True], [True, True, True]]).repeat(3, 1)
    q, g = mixture(present, dtype=torch.float32), make_generator(2)
    drawn = torch.nn.functional.one_hot(torch.stack([q.assign(g) for _ in range(1500)]), 3).double().mean(0)
    assert (drawn - present / present.sum(1, keepdim=True)).abs().max() < 4.5 * (0.25 / 1500) ** 0.5


def test_per_item_draws_are_uniform_over_the_experts_and_independent_of_the_batch():
    """5,000 items, 4 experts: count sd sqrt(5000 * 3) / 4 = 31; 4.5 sigma."""
    q = mixture(everything(5000, 4), dtype=torch.float32)
    index = q.assign(item_generators(0, 5000))
    assert (index.bincount(minlength=4) - 1250).abs().max() < 4.5 * (5000 * 3) ** 0.5 / 4
    few = mixture(everything(3, 4), dtype=torch.float32)
    assert torch.equal(few.assign(item_generators(0, 3, first=70)), index[70:73])


def test_the_component_of_an_assignment_is_taken_item_by_item():
    q = mixture(everything(4, 3))
    index = torch.tensor([2, 0, 1, 2])
    chosen = q.component(index)
    assert isinstance(chosen, Diagonal)
    for item, k in enumerate(index.tolist()):
        assert torch.equal(chosen.loc[item], q.loc[k, item])
        assert torch.equal(chosen.scale[item], q.scale[k, item])
