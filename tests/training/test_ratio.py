"""The ratio of decoded codes to decoded draws of the prior: its loss, what it learns, and when it does."""

from itertools import repeat
from math import log

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, Normal

import multiebm.training.phases.settle as settle_module
from multiebm.core.random import make_generator, randn
from multiebm.models.choosing import redrawn
from multiebm.models.inference import SHARED
from multiebm.models.ratio import RatioNetwork
from multiebm.objectives.ratio import ratio_loss
from multiebm.training.phases.belonging import Belonging
from multiebm.training.phases.phase import Settling
from multiebm.training.phases.settle import take_average
from multiebm.training.ratio import decoded, learn_ratio
from multiebm.training.state import TrainState
from multiebm.training.steps import OptimiserSettings, make_optimisers
from multiebm.training.weights import FEWEST
from small_models import Again, mixed, random_views, small_model, vectors, whole

CODES = MixtureSameFamily(Categorical(torch.ones(2)), Normal(torch.tensor([-2.0, 2.0]), torch.tensor([0.6, 0.6])))
PRIOR = Normal(0.0, 2.0)  # has mass between the codes, where nothing is


class Line:
    """A model of one number, which is decoded to itself; its codes and draws have known densities."""

    compares = True

    def __init__(self) -> None:
        self.modalities = vectors(x=1)
        self.ratio = RatioNetwork(self.modalities, {SHARED: 1}, 4)

    def infer_latents(self, batch, rng):
        side = torch.rand(len(batch.present), 1, generator=rng) < 0.5
        return {SHARED: torch.where(side, -2.0, 2.0) + 0.6 * randn(rng, side.shape, torch.zeros(1))}

    def sample_latents(self, n, rng, temperature=None):
        return {SHARED: 2 * randn(rng, (n, 1), torch.zeros(1))}

    def decode(self, latents):
        return {"x": latents[SHARED]}

    def likeliest(self, means):
        return means

    @torch.no_grad()
    def likeness(self, latents):
        return self.ratio(self.decode(latents))


def test_the_least_loss_is_at_the_log_ratio_of_the_two_densities():
    """Over three symbols, each as often as its probability says; there the loss is 2 log 2 - 2 JS(q, p)."""
    q, p = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.1, 0.3, 0.6])
    rows = [torch.repeat_interleave(torch.arange(3), (of * 10).round().long()) for of in (q, p)]
    d = (q / p).log().requires_grad_()
    loss = ratio_loss(d[rows[0]], d[rows[1]])
    (gradient,) = torch.autograd.grad(loss, d)
    torch.testing.assert_close(gradient, torch.zeros(3), atol=1e-7, rtol=0)
    m = (q + p) / 2
    js = 0.5 * (q * (q / m).log()).sum() + 0.5 * (p * (p / m).log()).sum()
    assert loss.item() == pytest.approx(2 * log(2) - 2 * js.item(), abs=1e-6)
    moved = (d.detach() + torch.tensor([0.1, -0.1, 0.05]))[torch.stack(rows)]
    assert ratio_loss(*moved) > loss


def test_what_is_learned_is_the_log_ratio_and_draws_by_it_are_where_the_codes_are():
    torch.manual_seed(0)
    model, batch = Line(), whole({"x": torch.zeros(64, 1)})
    learn_ratio(model, repeat(batch), make_generator(0), 1500)
    at = torch.tensor([-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0])[:, None]
    expected = (CODES.log_prob(at) - PRIOR.log_prob(at))[:, 0]
    torch.testing.assert_close(model.likeness({SHARED: at}), expected, atol=0.7, rtol=0.2)
    assert int(model.ratio.steps) == 1500
    assert not model.ratio.training
    rng = make_generator(1)
    first = model.sample_latents(4000, rng)
    shares = [(of[SHARED].abs() < 0.7).float().mean().item() for of in (first, redrawn(model, first, rng))]
    inside = (CODES.cdf(torch.tensor(0.7)) - CODES.cdf(torch.tensor(-0.7))).item()
    assert shares[0] == pytest.approx(0.27, abs=0.03)
    assert shares[1] == pytest.approx(inside, abs=0.03)
    assert inside < 0.02


def test_codes_and_draws_are_decoded_with_latents_of_the_model_in_use():
    model, batch = (
        small_model(mixed(), interaction={"kind": "pair", "best_of": 20}).eval(),
        whole(random_views(mixed(), 8)),
    )
    views = decoded(model, batch, make_generator(3))
    rng = make_generator(3)
    both = (model.infer_latents(batch, rng), model.sample_latents(8, rng))
    for i, latents in enumerate(both):
        for name, view in model.decode(latents).items():
            torch.testing.assert_close(views[name][8 * i : 8 * i + 8], view)


def test_it_learns_when_priors_have_settled_and_only_beside_an_energy_of_interaction_that_learned(monkeypatch):
    monkeypatch.setattr(settle_module, "STEPS", 10)
    order = []
    plain = settle_module.settle_priors
    monkeypatch.setattr(settle_module, "settle_priors", lambda *given: order.append("priors") or plain(*given))
    learn = settle_module.learn_ratio
    monkeypatch.setattr(settle_module, "learn_ratio", lambda *given: order.append("ratio") or learn(*given))
    model = small_model(mixed(), interaction={"kind": "pair", "best_of": 20})
    optimisers = make_optimisers(model, OptimiserSettings(), [Belonging(steps=FEWEST)])
    state = TrainState(model, optimisers, make_generator(1), Again(whole(random_views(mixed(), 8))))
    take_average(state, Settling())
    assert order == ["priors"]
    assert not model.ratio.learned
    model.interaction.steps.fill_(FEWEST)
    take_average(state, Settling(), share=0.5)
    assert order == ["priors", "priors", "ratio"]
    assert int(model.ratio.steps) == 5
    assert model.compares
    assert (
        len(model.ratio.pool(model.generator.temperature).features) == 4
    )  # made by the settled model, for all who will use it
    learn_ratio(model, repeat(whole(random_views(mixed(), 8))), make_generator(0), 1)
    assert model.ratio.pool(model.generator.temperature) is None
