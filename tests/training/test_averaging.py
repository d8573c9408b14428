import torch
from torch import nn
from training_standin import make_state, step

from multiebm.training.state import averaged, move_average


def test_the_average_of_three_updates_is_the_closed_form():
    """a3 = d^2 p1 + d (1 - d) p2 + (1 - d) p3: the first update copies."""
    model, average, d = nn.Linear(1, 1, bias=False), {}, 0.75
    for value in (1.0, 2.0, 4.0):
        nn.init.constant_(model.weight, value)
        move_average(average, model, d)
    assert average["weight"].item() == d * d * 1 + d * (1 - d) * 2 + (1 - d) * 4


def test_the_average_is_no_alias_of_the_parameters():
    model, average = nn.Linear(2, 2), {}
    move_average(average, model, 0.5)
    before = {name: tensor.clone() for name, tensor in average.items()}
    nn.init.zeros_(model.weight)
    assert all(torch.equal(average[name], before[name]) for name in before)
    assert not any(tensor.requires_grad for tensor in average.values())


def test_averaged_swaps_the_weights_in_and_back_exactly_also_after_an_error():
    state = make_state()
    for _ in range(3):
        step(state, next(state.stream))
    own = {name: p.detach().clone() for name, p in state.model.named_parameters()}
    try:
        with averaged(state.model, state.average):
            for name, p in state.model.named_parameters():
                assert torch.equal(p, state.average[name])
                assert not torch.equal(p, own[name])
            raise InterruptedError
    except InterruptedError:
        pass
    assert all(torch.equal(p, own[name]) for name, p in state.model.named_parameters())


def test_an_empty_average_leaves_the_model_as_it_is():
    model = nn.Linear(2, 2)
    weight = model.weight.detach().clone()
    with averaged(model, {}):
        assert torch.equal(model.weight, weight)
