"""What building a model refuses, and that its weights are a function of the seed alone."""

import threading

import pytest
import torch

from multiebm.core.errors import ConfigError
from multiebm.core.random import make_generator
from multiebm.experiments.build import _Drawing, build_model
from multiebm.experiments.schema import ModelSection
from multiebm.modalities import Picture, Vector


@pytest.mark.parametrize(("name", "said"), [("shared", "got a reserved name"), ("a.b", "got the name 'a.b'")])
def test_a_modality_cannot_take_a_name_of_the_model_or_one_outside_the_alphabet(name: str, said: str):
    with pytest.raises(ConfigError, match=f"modality: {said}.*rename the modality"):
        build_model(ModelSection(), {name: Vector(name, (2,))}, seed=0)


def test_names_that_torchs_containers_use_themselves_are_names_like_others():
    names = ["type", "values", "training", "keys"]
    section = ModelSection.model_validate(
        {"networks": {"vector": {"width": 8}}, "energy": {"width": 8, "fusion": "late"}}
    )
    model = build_model(section, {name: Vector(name, (2,)) for name in names}, seed=0)
    plain = build_model(section, {name: Vector(name, (2,)) for name in "abcd"}, seed=0)
    for ours, theirs in zip(model.sample(2).values(), plain.sample(2).values(), strict=True):
        assert torch.equal(ours, theirs)
    assert list(model.sample(2)) == names


PAIR = {"a": Picture("a", (3, 8, 8)), "b": Vector("b", (3,))}
SECTION = ModelSection.model_validate(
    {
        "networks": {"picture": {"width": 4}, "vector": {"width": 16}},
        "energy": {"width": 8, "fusion": "late"},
        "prior": {"kind": "clusters"},
    }
)


def test_twelve_threads_build_twelve_equal_models_and_draw_nothing_from_the_global_generator():
    expected = build_model(SECTION, PAIR, seed=3).state_dict()
    torch.manual_seed(11)
    before, found, barrier = torch.get_rng_state(), [], threading.Barrier(12)

    def work() -> None:
        barrier.wait()
        found.append(build_model(SECTION, PAIR, seed=3).state_dict())

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    assert all(torch.equal(state[name], value) for state in found for name, value in expected.items())
    assert torch.equal(torch.get_rng_state(), before)
    other = build_model(SECTION, PAIR, seed=4).state_dict()
    weights = [name for name, value in expected.items() if name.endswith("weight") and value.dim() > 1]
    assert len(weights) > 10
    assert not any(torch.equal(other[name], expected[name]) for name in weights)


def test_weights_are_those_of_torchs_initialisers_after_the_seed():
    """A linear layer alone, as torch draws it from its global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        layer = torch.nn.Linear(5, 4)
    with _Drawing(make_generator(3)):
        ours = torch.nn.Linear(5, 4)
    assert torch.equal(layer.weight, ours.weight)
    assert torch.equal(layer.bias, ours.bias)
