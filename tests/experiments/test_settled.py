"""A measurement during training sees the model as it would be saved, and leaves it as it was."""

import pytest
import torch

from multiebm.data import from_arrays
from multiebm.experiments.build import build_model, build_state
from multiebm.experiments.measure import settled
from multiebm.experiments.schema import Experiment

SETTLE = {"kind": "settle", "steps": 4, "widen_base": 4}


STEERED = {"kind": "langevin", "step_size": "steered", "steps": 2}


@pytest.mark.parametrize(("average", "chain"), [(0.0, {}), (0.9, {}), (0.9, STEERED)])
def test_settled_priors_and_a_steered_step_size_come_back_bit_for_bit(average, chain):
    data = {name: torch.randn(60, 2, generator=torch.Generator().manual_seed(i)).numpy() for i, name in enumerate("ab")}
    dataset = from_arrays(data, {name: {"kind": "vector"} for name in data})
    prior = {"kind": "energy", "components": 2, "width": 8, "layers": 1, "steps": 3}
    model = {"shared": 3, "private": 2, "private_components": 2, "networks": {"vector": {"width": 8}}, "prior": prior}
    model |= {"data_chain": {"kind": "displaced"} | chain}
    training = {"precision": "fp32", "optimiser": {"average": average}, "phases": [SETTLE]}
    experiment = Experiment.model_validate({"model": model, "training": training})
    state = build_state(experiment, build_model(experiment.model, dataset.modalities, 0), None)
    state.model.energy_steps.fill_(1)
    if average:
        state.average.update({name: p.detach() * 0.5 for name, p in state.model.named_parameters()})
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    draws = state.rng.get_state()
    with settled(state, dataset, experiment):
        inside = state.model.state_dict()
        changed = {name for name, value in inside.items() if not torch.equal(value, before[name])}
        assert any(name.startswith("generator.prior.net") for name in changed)
        assert "generator.prior.base.mean" in changed
        assert "generator.private_priors.a.mean" in changed
        assert ("step_size" in changed) == bool(chain)
    after = state.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert torch.equal(state.rng.get_state(), draws)
