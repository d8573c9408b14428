"""What stands behind the mask changes nothing in a whole step, and absence never reaches a network's weights."""

from dataclasses import replace

import pytest
import torch

from multiebm.core.batch import Batch, mask_views
from multiebm.core.random import make_generator
from multiebm.data.dataset import MultimodalDataset, Split
from multiebm.modalities import Modality
from multiebm.models.model import MultimodalModel
from multiebm.training.phases.bound import Bound
from multiebm.training.phases.cooperative import Cooperative
from multiebm.training.phases.energy import Energy
from small_models import (
    LITERAL,
    energy_prior,
    linear_model,
    make_state,
    mixed,
    random_views,
    small_model,
    take_step,
    whole,
    without,
)

# pictures as floats in [0, 1], so that they can hold NaN too
MODALITIES: dict[str, Modality] = mixed()
PRESENT = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 1], [1, 1, 0], [0, 0, 1], [1, 1, 1], [0, 1, 0], [0, 0, 0]]).bool()


def dataset_with(filling: float) -> MultimodalDataset:
    """Eight rows whose absent entries hold `filling`."""
    raw = {name: MODALITIES[name].to_raw(view) for name, view in random_views(MODALITIES, 8).items()}
    for i, name in enumerate(raw):
        raw[name][~PRESENT[:, i]] = filling
    split = Split(raw, PRESENT)
    return MultimodalDataset("masked", MODALITIES, split, split, None, "none", "0")


STEPS = {
    "warm-up": lambda state, batch: take_step(state, batch, Bound(prior_from=0)),
    "literal": lambda state, batch: take_step(state, batch, LITERAL),
    "anchored": lambda state, batch: take_step(state, batch, Cooperative()),
    "balanced": lambda state, batch: take_step(state, batch, replace(LITERAL, synthetic="balance")),
    "every expert": lambda state, batch: take_step(state, batch, replace(LITERAL, positive_phase="all_experts")),
    "energy alone": lambda state, batch: take_step(state, batch, Energy()),
    "refreshed": lambda state, batch: take_step(state, batch, replace(LITERAL, negatives="refresh")),
    "no energy": lambda state, batch: take_step(state, batch, MCMC),
    "mixtures": lambda state, batch: take_step(state, batch, Cooperative()),
}
MCMC = replace(LITERAL, inference=0.0, anchor=1.0, synthetic=0.0, inference_synthetic=0.0)
SECTIONS = {
    "no energy": {"energy": None},
    "mixtures": {"prior": energy_prior(components=2), "private_components": 2},
}


@pytest.mark.parametrize("step", STEPS)
def test_nan_infinity_or_anything_behind_the_mask_gives_the_same_step_bit_for_bit(step):
    results = []
    for filling in (0.0, torch.nan, torch.inf, 0.7):
        model = small_model(MODALITIES, **({"prior": energy_prior()} | SECTIONS.get(step, {})))
        if step == "warm-up":
            model.generator.prior.in_bound = True
        state = make_state(model)
        metrics = [STEPS[step](state, dataset_with(filling).batch("train", torch.arange(8))) for _ in range(2)]
        results.append((metrics, model.state_dict()))
    for metrics, weights in results[1:]:
        assert metrics == results[0][0]
        assert all(torch.equal(v, results[0][1][k]) for k, v in weights.items())
    assert all(torch.tensor(v).isfinite() for v in results[0][0][1].values())
    assert all(v.isfinite().all() for v in results[0][1].values())


def test_a_batch_of_the_data_set_is_zero_where_absent():
    batch = dataset_with(torch.nan).batch("train", torch.arange(8))
    for i, view in enumerate(batch.views.values()):
        assert view[~PRESENT[:, i]].abs().sum() == 0
        assert view.isfinite().all()


@pytest.mark.parametrize("step", ["warm-up", "literal"])
def test_a_modality_that_no_item_has_is_not_learnt_from(step):
    """Its encoder and, in the warm-up, its decoder stay as they are; no complete item, so the energy does too."""
    model = small_model(MODALITIES, prior=energy_prior())
    state = make_state(model)
    present = torch.tensor([[True, False, True]] * 8)
    batch = Batch(mask_views(random_views(MODALITIES, 8), present), present)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    settings = replace(LITERAL, inference_synthetic=0.0, synthetic=0.0, incomplete="skip")
    _ = take_step(state, batch, Bound()) if step == "warm-up" else take_step(state, batch, settings)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    for part in ("inference.encoders.", "generator.decoders."):
        assert not any(name.startswith(f"{part}left") for name in moved)
        assert any(name.startswith(f"{part}face") for name in moved)
        assert any(name.startswith(f"{part}right") for name in moved)
    assert not any(name.startswith("energy.") for name in moved)


def reduced_model(model: MultimodalModel, dropped: str) -> MultimodalModel:
    inference, generator = without(model, dropped)
    kept = {n: m for n, m in model.modalities.items() if n != dropped}
    return MultimodalModel(kept, inference, generator, None, model.data_chain, model.latent_chain)


def test_a_warm_up_step_on_a_masked_batch_is_the_step_of_the_model_without_the_modality():
    """Without private codes both draw the same numbers, so losses and updated weights agree."""
    results = []
    for drop in (False, True):
        model = linear_model({"a": 2, "b": 3, "c": 2}, shared=3, energy=None)
        views = random_views(model.modalities, 6)
        present = torch.tensor([[True, False, True]] * 6)
        batch = Batch(mask_views(views, present), present)
        trained, given = (
            (reduced_model(model, "b"), whole({n: views[n] for n in ("a", "c")})) if drop else (model, batch)
        )
        metrics = take_step(make_state(trained), given, Bound())
        kept = {n: p.detach() for n, p in trained.named_parameters() if ".b." not in n}
        results.append((metrics["loss/elbo"], kept))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    assert results[0][1].keys() == results[1][1].keys()
    for name, p in results[0][1].items():
        torch.testing.assert_close(p, results[1][1][name], rtol=1e-4, atol=1e-5)


def test_inferred_and_refined_latents_of_a_masked_item_are_those_of_the_model_without_the_modality():
    model = linear_model({"a": 2, "b": 3, "c": 2}, shared=3, energy=None)
    views = random_views(model.modalities, 6)
    present = torch.tensor([[True, False, True]] * 6)
    batch = Batch(mask_views(views, present), present)
    masked = model.infer_latents(batch, make_generator(0), latent_steps=5)
    dropped = reduced_model(model, "b").infer_latents(
        whole({n: views[n] for n in ("a", "c")}), make_generator(0), latent_steps=5
    )
    torch.testing.assert_close(masked["shared"], dropped["shared"], rtol=1e-4, atol=1e-5)
