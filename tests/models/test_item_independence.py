"""A sample with its own seed does not depend on the batch it sits in: bit-equal noise, networks equal to rounding."""

import pytest
import torch

from multiebm.core.batch import Batch, mask_views
from multiebm.core.random import item_generators
from small_models import energy_prior, mixed, random_views, small_model, whole

# Sums over a few hundred float32 terms are regrouped with the batch size; a few steps amplify that a little.
ROUNDING = {"rtol": 1e-4, "atol": 1e-5}


def model_of(**sections):
    chain = {"steps": 5, "kind": "langevin", "step_size": 0.3, "noise_scale": 0.1}
    return small_model(mixed(), **({"data_chain": chain, "latent_chain": {"steps": 5, "step_size": 0.1}} | sections))


def rows(tree: dict[str, torch.Tensor], item: int) -> dict[str, torch.Tensor]:
    return {name: leaf[item : item + 1] for name, leaf in tree.items()}


def assert_item(batch, alone, item: int):
    for name, leaf in rows(batch, item).items():
        torch.testing.assert_close(leaf, alone[name], **ROUNDING)


@pytest.mark.parametrize("prior", [{"kind": "normal"}, {"kind": "laplace"}, energy_prior(steps=10)])
def test_prior_latents(prior):
    model = model_of(prior=prior)
    batch = model.sample_latents(7, item_generators(0, 7))
    for item in (0, 3, 6):
        assert_item(batch, model.sample_latents(1, item_generators(0, 1, first=item)), item)


@pytest.mark.parametrize("kind", [{"kind": "langevin", "step_size": 0.3}, {"kind": "displaced"}])
def test_refined_data(kind):
    chain = kind | {"steps": 5, "noise_scale": 0.05}
    model = model_of(data_chain=chain)
    views = random_views(model.modalities, 7)
    clamp = torch.tensor([[True, False, False], [False, False, False]] * 3 + [[False, True, True]])
    batch, info = model.refine_data(views, item_generators(0, 7), clamp=clamp)
    for item in (0, 3, 6):
        generator = item_generators(0, 1, first=item)
        alone, own = model.refine_data(rows(views, item), generator, clamp=clamp[item : item + 1])
        assert_item(batch, alone, item)
        torch.testing.assert_close(info.logdensity[:, item : item + 1], own.logdensity, **ROUNDING)


@pytest.mark.parametrize("steps", [0, 5])
@pytest.mark.parametrize("prior", [{"kind": "normal"}, energy_prior(steps=10)])
def test_inferred_and_refined_latents_whatever_is_missing_elsewhere_in_the_batch(prior, steps):
    """An empty row draws from the prior; it must not cost the other rows a draw."""
    model = model_of(prior=prior)
    present = torch.tensor([[True, True, True], [False, False, False], [True, False, True], [False, True, False]])
    batch = Batch(mask_views(random_views(model.modalities, 4), present), present)
    together = model.infer_latents(batch, item_generators(0, 4), steps)
    for item in range(4):
        single = Batch(rows(batch.views, item), present[item : item + 1])
        generator = item_generators(0, 1, first=item)
        assert_item(together, model.infer_latents(single, generator, steps), item)
        # and what follows sees the same stream
        after = model.sample_latents(1, generator)["shared"]
        again = item_generators(0, 1, first=item)
        model.infer_latents(single, again, steps)
        assert torch.equal(after, model.sample_latents(1, again)["shared"])


def test_the_stream_of_an_item_is_as_far_after_a_batch_as_after_it_alone():
    model = model_of()
    present = torch.tensor([[True, True, True], [False, False, False]])
    batch = Batch(mask_views(random_views(model.modalities, 2), present), present)
    together, alone = item_generators(0, 2), item_generators(0, 1)
    model.infer_latents(batch, together)
    model.infer_latents(Batch(rows(batch.views, 0), present[:1]), alone)
    assert torch.equal(together.draw(torch.randn, (2, 3))[0], alone.draw(torch.randn, (1, 3))[0])


def test_sample_gives_item_i_of_a_seed_whatever_n():
    model = model_of(prior=energy_prior(steps=10))
    for steps in (0, None, 3):
        many, few = model.sample(9, steps, seed=4), model.sample(2, steps, seed=4)
        for name in many:
            torch.testing.assert_close(many[name][:2], few[name], **ROUNDING)
            assert not torch.allclose(many[name], model.sample(9, steps, seed=5)[name])


def test_impute_gives_a_row_the_same_completion_alone_and_beside_an_empty_one():
    model = model_of()
    views = random_views(model.modalities, 3)
    parts = {name: model.modalities[name].to_raw(view) for name, view in views.items()}
    present = torch.tensor([[True, False, True], [False, False, False], [False, True, False]])
    together = model.impute(parts, latent_steps=4, data_steps=3, present=present)
    alone = model.impute(rows(parts, 0), latent_steps=4, data_steps=3, present=present[:1])
    for name in together:
        torch.testing.assert_close(together[name][:1], alone[name], **ROUNDING)


def test_refined_latents_replay_bit_for_bit_under_the_same_seeds():
    model = model_of()
    batch = whole(random_views(model.modalities, 4))
    first, second = (model.infer_latents(batch, item_generators(1, 4), 5) for _ in range(2))
    assert all(torch.equal(first[k], second[k]) for k in first)
