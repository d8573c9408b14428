"""What a user calls, in raw values: sample, impute, encode, score, and the checks in front of them."""

import logging
import math

import pytest
import torch

from multiebm.core.errors import ConfigError, DataError, ModalityError
from multiebm.core.random import item_generators
from multiebm.modalities import Vector
from small_models import make_batch, mixed, random_views, small_model

LEFT = Vector("left", (2,), loc=(10.0, 20.0), scale=(2.0, 4.0))
MODALITIES = mixed() | {"left": LEFT}


def model_and_parts(n: int = 4):
    model = small_model(MODALITIES)
    return model, {name: MODALITIES[name].to_raw(view) for name, view in random_views(MODALITIES, n).items()}


def test_sample_is_the_decoder_mean_of_prior_draws_in_raw_units():
    model, _ = model_and_parts()
    got = model.sample(3, seed=2)
    means = model.decode(model.sample_latents(3, item_generators(2, 3)))
    assert torch.equal(got["face"], (means["face"] + 1).div(2).clamp(0, 1))
    torch.testing.assert_close(
        got["left"], means["left"].double() * torch.tensor([2.0, 4.0]) + torch.tensor([10.0, 20.0])
    )


def test_a_temperature_replaces_the_models_own():
    """N(0, 1) at T = 1/4 is half of N(0, 1) with the same noise; w has no temperature."""
    model, _ = model_and_parts()
    usual, cold = (model.sample_latents(5, item_generators(2, 5), t) for t in (None, 0.25))
    torch.testing.assert_close(cold["shared"], usual["shared"] / 2)
    assert all(torch.equal(cold[name], usual[name]) for name in usual if name != "shared")
    model.generator.temperature = 0.25
    assert torch.equal(model.sample_latents(5, item_generators(2, 5))["shared"], cold["shared"])
    assert torch.equal(model.sample(5, seed=2, temperature=1.0)["left"], model_and_parts()[0].sample(5, seed=2)["left"])


def test_refined_samples_are_the_data_chain_on_the_same_draws():
    model, _ = model_and_parts()
    g = item_generators(2, 3)
    refined, _ = model.refine_data(model.decode(model.sample_latents(3, g)), g, 3)
    for steps in (3, None):  # 3 is the training chain's length
        assert torch.equal(model.sample(3, steps, seed=2)["right"], refined["right"])
    assert not torch.equal(model.sample(3, 0, seed=2)["right"], refined["right"])


def test_impute_returns_what_was_given_and_fills_in_the_rest():
    model, parts = model_and_parts()
    given = {name: parts[name] for name in ("face", "left")}
    for data_steps in (0, 3, None):
        full = model.impute(given, data_steps=data_steps)
        assert list(full) == list(MODALITIES)
        for name, part in given.items():
            assert torch.equal(full[name], part)
        assert full["right"].isfinite().all()
    assert list(model.impute(given, want=["right"])) == ["right"]


def test_imputed_parts_are_decoded_from_the_inferred_latents():
    model, parts = model_and_parts()
    batch = make_batch(MODALITIES, {"left": parts["left"]})
    latents = model.infer_latents(batch, item_generators(7, 4), 2)
    got = model.impute({"left": parts["left"]}, latent_steps=2, seed=7)
    assert torch.equal(got["right"], model.decode(latents)["right"])


def test_encode_is_the_mean_of_the_present_experts():
    model, parts = model_and_parts()
    batch = make_batch(MODALITIES, parts)
    locs = model.inference(batch).shared.loc.detach()
    torch.testing.assert_close(model.encode(parts), locs.mean(0), rtol=1e-5, atol=1e-6)
    some = torch.tensor([[True, False, True]] * 4)
    torch.testing.assert_close(model.encode(parts, some), (locs[0] + locs[2]) / 2, rtol=1e-5, atol=1e-6)


def test_score_is_minus_the_energy_and_needs_every_part():
    model, parts = model_and_parts()
    states = {name: MODALITIES[name].to_state(part) for name, part in parts.items()}
    with torch.no_grad():
        expected = -model.eval().energy(states)
    torch.testing.assert_close(model.train().score(parts), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ModalityError, match=r"parts missing \(right; 1 rows, first: \[2\]\), expected every modality"):
        model.score(parts, torch.tensor([[True] * 3, [True] * 3, [True, True, False], [True] * 3]))
    del parts["face"]
    with pytest.raises(ModalityError, match=r"parts missing \(face; 4 rows"):
        model.score(parts)


def test_hidden_entries_may_be_nan_and_change_nothing():
    model, parts = model_and_parts()
    present = torch.tensor([[True, True, False]] * 4)
    spoilt = parts | {"right": torch.full_like(parts["right"], math.nan)}
    for name, value in model.impute(parts, present=present).items():
        assert torch.equal(value, model.impute(spoilt, present=present)[name])


def test_a_row_with_nothing_gets_the_prior_with_a_notice(caplog):
    model, parts = model_and_parts()
    present = torch.ones(4, 3, dtype=torch.bool)
    present[2] = False
    with caplog.at_level(logging.WARNING, "multiebm"):
        full = model.impute(parts, present=present)
    assert "1 rows have nothing present and get the prior: rows [2]" in caplog.text
    assert all(value.isfinite().all() for value in full.values())


def test_a_row_with_nothing_gets_the_prior_at_the_models_temperature():
    """N(0, 1) at T = 1/4 is half of N(0, 1) with the same noise; rows with something do not change."""
    model, parts = model_and_parts()
    present = torch.ones(4, 3, dtype=torch.bool)
    present[2] = False
    batch = make_batch(model.modalities, parts, present)
    usual = model.infer_latents(batch, item_generators(0, 4))["shared"]
    model.generator.temperature = 0.25
    cool = model.infer_latents(batch, item_generators(0, 4))["shared"]
    torch.testing.assert_close(cool, torch.where(present.any(1)[:, None], usual, usual / 2))


def face(**changes: torch.Tensor):
    return {"face": torch.full((4, 3, 8, 8), 0.5)} | changes


WRONG = [
    (face(fcae=torch.zeros(4, 2)), ModalityError, r"got unknown modality 'fcae'.*Did you mean 'face'\?"),
    ({}, ModalityError, r"got none, expected at least one of face, left, right"),
    ({"face": torch.zeros(4, 8, 8, 3)}, DataError, r"'face': got shape \(4, 8, 8, 3\).*channels are last"),
    ({"face": torch.zeros(4, 3, 32, 32)}, DataError, r"expected \(rows, 3, 8, 8\); resize the pictures to 8x8"),
    ({"face": torch.full((4, 3, 8, 8), 200.0)}, DataError, r"floats in \[200, 200\].*divide by 255"),
    ({"face": torch.zeros(4, 3, 8, 8) - 0.5}, DataError, r"expected \[0, 1\]; map it"),
    ({"face": torch.zeros(4, 3, 8, 8, dtype=torch.int64)}, DataError, r"got dtype int64 in \[0, 0\], expected uint8"),
    (face(left=torch.zeros(3, 2)), DataError, r"different lengths .*left 3"),
    ({"left": torch.zeros(0, 2)}, DataError, r"got 0 rows"),
    ({"left": torch.tensor([[0.0, 1.0], [math.nan, 0.0]])}, DataError, r"'left': got NaN.*1 rows, first \[1\]"),
    ({"left": torch.tensor([[math.inf, 1.0]])}, DataError, r"'left': got too large or infinite"),
]


@pytest.mark.parametrize(("parts", "error", "message"), WRONG)
def test_parts_that_do_not_fit_are_named_with_the_fix(parts, error, message):
    model, _ = model_and_parts()
    with pytest.raises(error, match=message):
        model.encode(parts)


def test_step_counts_names_and_masks_out_of_range_are_refused():
    model, parts = model_and_parts()
    with pytest.raises(ConfigError, match="data_steps: got -1, expected a number of chain steps from 0 to 10000"):
        model.sample(2, -1)
    for wrong in (0.0, 1.5, math.nan):
        with pytest.raises(ConfigError, match=f"temperature: got {wrong:g}, expected 0 < T <= 1"):
            model.sample(2, temperature=wrong)
    with pytest.raises(ConfigError, match="n: got 0"):
        model.sample(0)
    with pytest.raises(ModalityError, match=r"want: got 'rihgt'.*Did you mean 'right'\?"):
        model.impute(parts, want=["rihgt"])
    with pytest.raises(ConfigError, match="latent_steps: got 10001, expected a number of chain steps from 0 to 10000"):
        model.impute(parts, latent_steps=10_001)
    for ask in (lambda: model.sample(2, refine_steps=0), lambda: model.impute(parts, refine_steps=0)):
        with pytest.raises(TypeError, match="unexpected keyword argument 'refine_steps'"):
            ask()
    with pytest.raises(ModalityError, match=r"given: got 'lefd'.*Did you mean 'left'\?"):
        small_model(MODALITIES, energy=None).log_likelihood(parts, given=["lefd"])
    with pytest.raises(DataError, match=r"present: got shape \(4, 2\), expected \(4, 3\)"):
        model.impute(parts, present=torch.ones(4, 2, dtype=torch.bool))
    with pytest.raises(ConfigError, match="this model has no energy"):
        small_model(MODALITIES, energy=None).sample(2, None)


def test_numpy_arrays_are_as_good_as_tensors():
    model, parts = model_and_parts()
    arrays = {name: part.numpy() for name, part in parts.items()}
    for name, view in model.impute(parts, seed=1).items():
        assert torch.equal(view, model.impute(arrays, seed=1)[name])
    assert torch.equal(model.score(parts), model.score(arrays))


def test_what_is_no_array_of_numbers_is_refused_by_name():
    model, parts = model_and_parts()
    name = next(iter(parts))
    with pytest.raises(DataError, match=f"'{name}': got dtype <U1, text, expected real numbers"):
        model.impute({name: ["a", "b"]})


def test_parts_match_by_the_distance_of_their_codes():
    """Three parts: the mean over three pairs; with two present, of the one pair; with one, nothing can disagree."""
    model, parts = model_and_parts()
    codes = torch.stack([model.encode({name: part}) for name, part in parts.items()])
    pairs = [(codes[i] - codes[j]).square().sum(1) for i in range(3) for j in range(i)]
    torch.testing.assert_close(model.match(parts), -torch.stack(pairs).mean(0), rtol=1e-4, atol=1e-5)
    names = list(parts)
    two = {name: parts[name] for name in names[:2]}
    torch.testing.assert_close(model.match(two), -(codes[0] - codes[1]).square().sum(1), rtol=1e-4, atol=1e-5)
    assert model.match({names[0]: parts[names[0]]}).isnan().all(), "of one part nothing can be said"


def test_a_likelihood_is_given_parts_that_are_there_and_of_something():
    model, parts = small_model(MODALITIES, energy=None), model_and_parts(3)[1]
    first, *others = parts
    with pytest.raises(ModalityError, match=f"given: got {first}, which parts has not"):
        model.log_likelihood({name: parts[name] for name in others}, given=[first])
    assert torch.equal(model.log_likelihood(parts, given=list(parts), samples=3), torch.zeros(3))
    present = torch.ones(3, len(parts), dtype=torch.bool)
    present[1, 1:] = False
    found = model.log_likelihood(parts, given=[first], samples=3, present=present)
    assert (found != 0).tolist() == [True, False, True]
