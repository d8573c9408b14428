"""What a run of a kernel reports, and what `frozen` promises about networks inside a chain."""

import pytest
import torch
from torch import nn

from multiebm.core.random import make_generator
from multiebm.mcmc.langevin import displaced_langevin, langevin
from multiebm.mcmc.run import run_chain
from multiebm.nn.spectral import Spectral, frozen


def bowl(u):
    return -0.5 * u.square().sum(1)


def start() -> torch.Tensor:
    return torch.randn(5, 3, generator=make_generator(0))


def test_zero_steps_return_the_position_itself_and_its_density():
    u = start()
    end, info = run_chain(langevin(bowl, 0.5), u, 0, make_generator(0))
    assert torch.equal(end, u)
    torch.testing.assert_close(info.logdensity, bowl(u)[None])
    assert info.grad_norm.shape == info.acceptance.shape == (0, 5)
    assert info.displacement.tolist() == [0.0] * 5


def test_a_record_holds_every_position_with_its_density_and_gradient_norm():
    end, info = run_chain(langevin(bowl, 0.5), start(), 4, make_generator(0), record=True)
    assert info.positions is not None
    assert len(info.positions) == 5
    torch.testing.assert_close(info.logdensity, torch.stack([bowl(u) for u in info.positions]))
    torch.testing.assert_close(info.grad_norm, torch.stack([u.norm(dim=1) for u in info.positions[:-1]]))
    assert torch.equal(info.positions[-1], end)
    assert torch.equal(info.positions[0], start())
    torch.testing.assert_close(info.displacement, (end - start()).norm(dim=1))


def test_a_record_changes_nothing_and_is_off_by_default():
    recorded, _ = run_chain(langevin(bowl, 0.5), start(), 4, make_generator(0), record=True)
    plain, info = run_chain(langevin(bowl, 0.5), start(), 4, make_generator(0))
    assert torch.equal(recorded, plain)
    assert info.positions is None


def test_a_chain_in_two_halves_is_the_chain():
    g = make_generator(0)
    half, _ = run_chain(langevin(bowl, 0.5), start(), 3, g)
    second, _ = run_chain(langevin(bowl, 0.5), half, 4, g)
    assert torch.equal(second, run_chain(langevin(bowl, 0.5), start(), 7, make_generator(0))[0])


@pytest.mark.parametrize("make", [lambda f: langevin(f, 0.5), lambda f: displaced_langevin(f, 0.1, 0.1)])
def test_the_last_step_is_a_step_without_the_gradient_that_nobody_needs(make):
    kernel = make(bowl)
    state = kernel.init(start())
    (full, info), (short, short_info) = (f(make_generator(0), state) for f in (kernel.step, kernel.last))
    assert torch.equal(full.position, short.position)
    assert torch.equal(full.logdensity, short.logdensity)
    assert all(torch.equal(a, b) for a, b in zip(info, short_info, strict=True))
    assert short.grad.numel() == 0
    with pytest.raises((RuntimeError, IndexError)):
        kernel.step(make_generator(0), short)


def test_a_chain_of_t_steps_takes_t_gradients_and_t_plus_1_values():
    asked = []

    def counted(u):
        asked.append(u.requires_grad)
        return bowl(u)

    run_chain(langevin(counted, 0.5), start(), 4, make_generator(0))
    assert asked == [True] * 4 + [False]


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(Spectral(nn.Linear(3, 8)), nn.ReLU(), Spectral(nn.Linear(8, 1)), nn.Dropout(0.5))


def test_inside_frozen_nothing_asks_for_a_gradient_and_everything_is_in_evaluation_mode():
    net = network()
    with frozen(net):
        assert not any(p.requires_grad for p in net.parameters())
        assert not any(part.training for part in net.modules())


def test_frozen_restores_every_flag_of_every_part_even_after_an_error():
    net = network()
    net[0].eval()
    net[2].bias.requires_grad_(False)
    asking = [p.requires_grad for p in net.parameters()]
    modes = [part.training for part in net.modules()]
    with pytest.raises(ZeroDivisionError), frozen(net):
        raise ZeroDivisionError
    assert [p.requires_grad for p in net.parameters()] == asking
    assert [part.training for part in net.modules()] == modes


def test_frozen_blocks_nest():
    net, other = network(), nn.Linear(2, 2)
    with frozen(net):
        with frozen(net, other):
            assert not other.weight.requires_grad
        assert other.weight.requires_grad
        assert not any(p.requires_grad for p in net.parameters())
    assert all(p.requires_grad for p in net.parameters())


def test_a_chain_computes_each_normalised_weight_once_and_leaves_the_power_iteration_alone():
    net = network()
    norms = [net[i].parametrizations.weight[0] for i in (0, 2)]
    calls = [0, 0]
    for i, norm in enumerate(norms):
        norm.register_forward_hook(lambda *_, i=i: calls.__setitem__(i, calls[i] + 1))
    vectors = {name: v.clone() for name, v in net.named_buffers()}
    with frozen(net):
        run_chain(langevin(lambda u: net(u)[:, 0], 0.3), start(), 10, make_generator(0))
    assert calls == [1, 1]
    assert all(torch.equal(v, vectors[name]) for name, v in net.named_buffers())
    assert len(vectors) == 4


def test_no_parameter_gets_a_gradient_from_a_chain():
    net = network()
    with frozen(net):
        run_chain(langevin(lambda u: net(u)[:, 0], 0.3), start(), 3, make_generator(0))
    assert all(p.grad is None for p in net.parameters())


def test_weights_cached_in_one_frozen_block_are_not_used_in_the_next():
    net = network()
    with frozen(net), torch.no_grad():
        before = net(start())
    with torch.no_grad():
        net[2].parametrizations.weight.original.add_(torch.linspace(-1, 1, 8))
    with frozen(net), torch.no_grad():
        after = net(start())
    with torch.no_grad():
        expected = net.eval()(start())
    assert torch.equal(after, expected)
    assert not torch.equal(after, before)
