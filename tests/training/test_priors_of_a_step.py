"""Which prior a step's bound sees, what its weight does, and what teaches a prior that the bound does not."""

from dataclasses import replace

import pytest
import torch

import multiebm.training.phases.bound as bound_module
import multiebm.training.phases.cooperative as module
from multiebm.core.random import make_generator
from multiebm.training.phases.bound import Bound
from multiebm.training.phases.cooperative import Cooperative
from multiebm.training.state import TrainState, update
from small_models import LITERAL, energy_prior, make_state, random_views, small_model, take_step, vectors, whole

MIXTURES = [{"kind": "mixture", "components": 2}, energy_prior(components=2)]
LEARNED = [
    {"kind": "normal", "learned_scale": True},
    {"kind": "laplace", "learned_scale": True},
    {"kind": "clusters", "components": 3},
    energy_prior(learned_scale=True),
]
STEPS = {
    "bound": lambda state, batch: take_step(state, batch, Bound()),
    "anchor": lambda state, batch: take_step(state, batch, replace(LITERAL, anchor=1.0)),
}


def setup(prior) -> tuple:
    model = small_model(vectors(a=2, b=3), prior=prior)
    return model, make_state(model), whole(random_views(model.modalities, 8))


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("prior", MIXTURES, ids=["mixture", "tilted mixture"])
def test_a_bound_sees_the_standard_density_and_not_the_mixture_fitted_to_the_codes(prior, step, monkeypatch):
    """Or encoders would drift: the mixture follows the codes, and the codes would follow the mixture."""
    model, state, batch = setup(prior)
    getattr(model.generator.prior, "base", model.generator.prior).fit(
        torch.randn(50, 3, generator=make_generator(3)) + 4.0, 0.0
    )
    seen = []
    for place, name in ((module, "draw"), (bound_module, "vae_loss")):
        function = getattr(place, name)
        monkeypatch.setattr(place, name, lambda m, p, *rest, f=function: seen.append(p) or f(m, p, *rest))
    step(state, batch)
    z = torch.randn(5, 3, generator=make_generator(4))
    (of_bound,) = seen
    torch.testing.assert_close(of_bound.log_prob(z), torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1))


def test_beta_weighs_the_divergence_of_the_bound():
    """Twice the weight adds the divergence once more."""
    losses = []
    for beta in (0.0, 1.0, 2.0):
        _, state, batch = setup({"kind": "normal"})
        losses.append(take_step(state, batch, Bound(beta=beta))["loss/elbo"])
    assert abs(losses[1] - losses[0]) > 0.1
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-3)


def test_an_update_has_the_gradient_of_its_own_loss_alone():
    """The slope 3, then 1 alone: what an earlier loss left behind does not count."""
    p = torch.nn.Parameter(torch.ones(1))
    state = TrainState(torch.nn.Linear(1, 1), {"a": torch.optim.SGD([p], lr=0.5)}, make_generator(0), None)
    assert update(state, 3 * p.sum(), "a") == {"grad_norm/a": 3.0}
    assert update(state, p.sum(), "a") == {"grad_norm/a": 1.0}
    assert p.item() == 1 - 0.5 * 3 - 0.5


@pytest.mark.parametrize("prior", LEARNED, ids=["normal", "laplace", "clusters", "tilted"])
def test_a_learned_prior_learns_from_revised_codes_where_the_anchor_does_not_teach_it(prior, monkeypatch):
    """The gradient is that of -log p(z~), mean over items; of a normal one 1 - z~^2 in the logarithm of its scales."""
    model, state, batch = setup(prior)
    codes, revise = [], module.refine_codes
    monkeypatch.setattr(module, "refine_codes", lambda *args: codes.append(revise(*args)) or codes[-1])
    own = model.generator.prior
    learned = list((own.base if prior["kind"] == "energy" else own).parameters())
    before = [p.detach().clone() for p in learned]
    density = own.base if prior["kind"] == "energy" else own
    z = None
    expected: list = []

    def grads(draws):
        return torch.autograd.grad(-density.log_prob(draws).mean(), learned)

    original = Cooperative._generator_and_inference

    def watch(*args):
        nonlocal z
        z = codes[-1].latents["shared"]
        expected.extend(grads(z))
        return original(*args)

    monkeypatch.setattr(Cooperative, "_generator_and_inference", watch)
    take_step(state, batch, LITERAL)
    for p, gradient, old in zip(learned, expected, before, strict=True):
        torch.testing.assert_close(p.grad, gradient)
        assert not torch.equal(p, old)
    if prior["kind"] == "normal":
        torch.testing.assert_close(learned[0].grad, 1 - z.square().mean(0))


def test_where_the_anchor_teaches_a_learned_prior_nothing_else_does():
    _, state, batch = setup(LEARNED[0])
    assert "loss/prior" not in take_step(state, batch, replace(LITERAL, anchor=1.0))
    _, state, batch = setup({"kind": "normal"})
    assert "loss/prior" not in take_step(state, batch, LITERAL)
