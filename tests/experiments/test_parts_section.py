"""Likelihood, scale and weight of single parts: `model.parts`."""

import numpy as np
import pytest
import torch

import multiebm
from multiebm.core.errors import ConfigError
from multiebm.distributions.likelihoods import LIKELIHOODS, Bernoulli, LearnedScale, Likelihood
from multiebm.experiments.load import load_experiment
from multiebm.modalities import Category, Counts, Picture, Vector
from multiebm.modalities.category import Categorical
from multiebm.modalities.counts import Counting
from multiebm.training.state import TrainState
from multiebm.training.steps import make_optimisers
from small_models import make_batch, small_model

KINDS = {
    "face": Picture("face", (1, 8, 8)),
    "table": Vector("table", (3,)),
    "genes": Counts("genes", (4,), loc=(1.0,) * 4, scale=(0.5,) * 4),
    "colour": Category("colour", (("blue", "red"), ("no", "yes"))),
}
RAW = {
    "face": np.zeros((3, 1, 8, 8), np.uint8),
    "table": np.zeros((3, 3)),
    "genes": np.arange(12).reshape(3, 4),
    "colour": [["red", "no"], ["blue", "no"], ["red", "yes"]],
}


def likelihoods(parts, **like):
    return small_model(KINDS, parts=parts, likelihood={"scale": 0.5} | like).generator.likelihoods


def test_a_part_has_the_global_likelihood_unless_its_kind_or_its_section_says_otherwise():
    found = likelihoods({}, family="laplace", weights={"table": 2.0})
    assert found["face"] == Likelihood(LIKELIHOODS["laplace"], 0.5)
    assert found["table"] == Likelihood(LIKELIHOODS["laplace"], 0.5, 2.0)
    assert isinstance(found["genes"], Counting)
    assert found["genes"].dispersion is not None
    assert found["colour"] == Categorical((2, 2))
    found = likelihoods(
        {
            "face": {"likelihood": "bernoulli", "weight": 0.1},
            "table": {"likelihood": "student_t", "scale": 0.2, "weight": 3},
            "genes": {"likelihood": "poisson"},
        },
        weights={"table": 2.0},
    )
    assert found["face"] == Bernoulli(0.1)
    assert found["table"] == Likelihood(LIKELIHOODS["student_t"], 0.2, 3)
    assert found["genes"].dispersion is None


def test_learned_scales_are_one_a_column_and_a_pixel_and_the_generators_own():
    model = small_model(KINDS, parts={"face": {"scale": "learned"}, "table": {"scale": "learned", "weight": 2}})
    like = model.generator.likelihoods
    assert isinstance(like["table"], LearnedScale)
    assert (like["face"].now.scale.shape, like["table"].now.scale.shape) == ((1, 8, 8), (3,))
    learned = {name for name, _ in model.generator.named_parameters() if name.startswith("learned_likelihoods")}
    assert learned == {
        f"learned_likelihoods.{name}" for name in ("face.log_scale", "table.log_scale", "genes.log_dispersion")
    }
    load = load_experiment("toy2d").training
    optimisers = make_optimisers(model, load.optimiser, load.phases)
    taught = {id(p) for group in optimisers["generator"].param_groups for p in group["params"]}
    assert {id(like["table"].log_scale), id(like["genes"].log_dispersion)} <= taught
    assert TrainState


def test_models_with_fixed_scales_have_the_tensors_they_had():
    model = small_model({name: KINDS[name] for name in ("face", "table")})
    assert not [name for name in model.state_dict() if "likelihood" in name]


def test_what_is_learned_is_saved_bit_for_bit(tmp_path):
    model = small_model(KINDS, parts={"table": {"scale": "learned"}, "genes": {"likelihood": "negative_binomial"}})
    with torch.no_grad():
        for name in ("table", "genes"):
            for parameter in model.generator.likelihoods[name].parameters():
                parameter.add_(torch.rand_like(parameter))
    model.save_pretrained(tmp_path / "model")
    again = multiebm.from_pretrained(tmp_path / "model")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    for one, other in zip(model.sample(4).values(), again.sample(4).values(), strict=True):
        assert torch.equal(one, other)
    batch = make_batch(KINDS, RAW)
    means = model.decode(model.sample_latents(3, torch.Generator().manual_seed(0)))
    torch.testing.assert_close(
        model.generator.log_likelihood(batch.views, means),
        again.generator.log_likelihood(batch.views, means),
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"tabel": {}}, "model.parts.tabel: got no such modality, expected some of face, table, .*mean 'table'"),
        (
            {"table": {"likelihood": "student"}},
            "model.parts.table.likelihood: got 'student', which vector does not know, expected normal, laplace, "
            "student_t. Did you mean 'student_t'",
        ),
        ({"table": {"likelihood": "poisson"}}, "got 'poisson', which vector does not know"),
        ({"genes": {"likelihood": "normal"}}, "which counts does not know, expected negative_binomial, poisson"),
        ({"colour": {"scale": 0.1}}, "model.parts.colour.scale: got 0.1, expected none: a category has no scale"),
        ({"face": {"likelihood": "bernoulli", "scale": "learned"}}, "got learned, expected none: a bernoulli has no"),
    ],
)
def test_what_a_kind_does_not_know_is_refused(parts, message):
    with pytest.raises(ConfigError, match=message):
        small_model(KINDS, parts=parts)


def test_parts_are_set_by_key_and_value_and_a_misspelt_key_is_refused():
    experiment = load_experiment("toy2d", ["model.parts.left.likelihood=student_t", "model.parts.left.scale=learned"])
    assert experiment.model.parts["left"].likelihood == "student_t"
    assert experiment.model.parts["left"].scale == "learned"
    with pytest.raises(
        ConfigError, match="model.parts.left.scael: unknown key; model.parts.left has likelihood, scale"
    ):
        load_experiment("toy2d", ["model.parts.left.scael=1"])
    with pytest.raises(ConfigError, match="model.parts.left.scale: got -1, expected a number > 0 or learned or null"):
        load_experiment("toy2d", ["model.parts.left.scale=-1"])
