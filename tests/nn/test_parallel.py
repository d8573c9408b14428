"""Networks side by side: the values and gradients of one after the other, in chains, in training, without a graph."""

import pytest
import torch
from torch import nn

from multiebm.core.random import make_generator
from multiebm.nn.blocks import mlp
from multiebm.nn.parallel import side_by_side
from multiebm.training.cooperative import cooperative_step, warmup_step
from multiebm.training.settings import CooperativeSettings, WarmupSettings
from small_models import energy_prior, make_state, mixed, random_views, small_model, whole


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def networks() -> tuple[list[nn.Module], list[tuple[torch.Tensor, ...]]]:
    torch.manual_seed(0)
    nets = [mlp([3, 8, 2], nn.ReLU()), mlp([4, 8, 5], nn.ReLU(), spectral=True), mlp([3, 1], nn.ReLU())]
    draws = make_generator(0)
    inputs = [(torch.randn(6, n, generator=draws).requires_grad_(n == 3),) for n in (3, 4, 3)]
    return nets, inputs


def gradients(outputs, nets, inputs):
    total = sum((i + 1) * output.square().sum() for i, output in enumerate(outputs))
    leaves = [x for args in inputs for x in args if x.requires_grad] + [p for net in nets for p in net.parameters()]
    return torch.autograd.grad(total, leaves)


def test_values_and_gradients_are_those_of_one_after_the_other(two_threads):
    nets, inputs = networks()
    for net in nets:
        net.eval()  # a spectral vector moves with every training pass
    together = side_by_side(nets, inputs)
    alone = [net(*args) for net, args in zip(nets, inputs, strict=True)]
    assert [output.grad_fn is not None for output in together] == [True] * 3
    for got, expected in zip(together, alone, strict=True):
        assert torch.equal(got, expected)
    for got, expected in zip(gradients(together, nets, inputs), gradients(alone, nets, inputs), strict=True):
        torch.testing.assert_close(got, expected)


def test_gradients_go_to_inputs_alone_where_parameters_are_frozen(two_threads):
    nets, inputs = networks()
    for net in nets:
        net.eval().requires_grad_(False)
    outputs = side_by_side(nets, inputs)
    found = torch.autograd.grad(sum(o.sum() for o in outputs), [inputs[0][0], inputs[2][0]], retain_graph=True)
    again = torch.autograd.grad(sum(o.sum() for o in outputs), [inputs[0][0], inputs[2][0]])
    alone = sum(net(*args).sum() for net, args in zip(nets, inputs, strict=True))
    expected = torch.autograd.grad(alone, [inputs[0][0], inputs[2][0]])
    for got, twice, want in zip(found, again, expected, strict=True):
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(twice, want)


def test_without_a_graph_there_is_none_and_errors_arrive(two_threads):
    nets, inputs = networks()
    with torch.no_grad():
        assert all(not output.requires_grad for output in side_by_side(nets, inputs))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        side_by_side(nets, [inputs[1], inputs[1], inputs[2]])


@pytest.mark.parametrize("phase", ["warm-up", "cooperative"])
def test_a_training_step_is_the_same_with_one_thread_and_with_two(phase, two_threads):
    metrics = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        model = small_model(mixed(), prior=energy_prior(), private_components=2)
        state, batch = make_state(model), whole(random_views(mixed(), 8))
        if phase == "warm-up":
            metrics.append(warmup_step(state, batch, WarmupSettings(prior_after=0)))
        else:
            metrics.append(cooperative_step(state, batch, CooperativeSettings(energy_first=0)))
    assert metrics[0].keys() == metrics[1].keys()
    for name, value in metrics[0].items():
        assert metrics[1][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
