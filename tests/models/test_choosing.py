"""Joint samples that are drawn by how much they look like decoded codes, and completions that are chosen so, too."""

from math import comb, log, pi

import numpy as np
import pytest
import torch

import multiebm
from multiebm.core.batch import Batch
from multiebm.core.random import gumbel, item_generators, make_generator, rand
from multiebm.models import choosing
from multiebm.models.choosing import (
    DRAWN,
    MARGIN,
    SURPLUS,
    best_fill,
    best_sample,
    joint_samples,
    keep_pool,
    redrawn,
)
from multiebm.models.inference import SHARED
from multiebm.models.interaction import FROM_POSTERIOR, Interaction
from small_models import mixed, random_views, small_model

GOOD = log(3)  # d of one of two values that the prior draws equally often; of the other it is 0


class Coin:
    """A prior over {0, 1} whose ratio is known: d(1) = log 3 and d(0) = 0."""

    compares = True

    def sample_latents(self, n, rng, temperature=None):
        return {SHARED: (rand(rng, (n, 1), torch.zeros(1)) < 0.5).float()}

    def likeness(self, latents):
        return GOOD * latents[SHARED][:, 0]


def comparing(best_of=FROM_POSTERIOR + 1, **sections):
    """A small model whose ratio and energy of interaction count as learned."""
    model = small_model(mixed(), interaction={"kind": "pair", "best_of": best_of}, **sections)
    with torch.no_grad():
        for network in (model.interaction, model.ratio):
            for p in network.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=make_generator(5)))
            network.train()(random_views(model.modalities, 32, seed=9))
            network.steps.fill_(1)
    model.interaction.weight.fill_(0.3)
    return model.eval()


@pytest.mark.parametrize("k", [2, 5, DRAWN])
def test_one_of_k_draws_is_kept_with_probability_in_proportion_to_exp_d(k, monkeypatch):
    """Of k fair draws j are 1: the kept one is with 3 j / (3 j + k - j); for many draws 3 in 4 are, as exp d says."""
    monkeypatch.setattr(choosing, "DRAWN", k)
    n, model = 40_000, Coin()
    rng = make_generator(0)
    kept = redrawn(model, model.sample_latents(n, rng), rng)[SHARED].mean()
    expected = sum(comb(k, j) / 2**k * 3 * j / (3 * j + k - j) for j in range(k + 1))
    assert abs(kept - expected) < 4 * (expected * (1 - expected) / n) ** 0.5
    assert k != 2 or expected == pytest.approx(1 / 4 + 1 / 2 * 3 / 4)


def test_the_largest_of_log_weights_with_gumbel_noise_are_draws_of_which_none_comes_twice():
    """Two of the weights 1, 2, 3: {2, 3} with 1/3 * 3/4 + 1/2 * 2/3, and so on; and the moments of the noise."""
    n, weights = 60_000, torch.tensor([1.0, 2.0, 3.0])
    noise = gumbel(make_generator(0), (n, 3), weights)
    assert float(noise.mean()) == pytest.approx(np.euler_gamma, abs=0.012)
    assert float(noise.var()) == pytest.approx(pi**2 / 6, abs=0.03)
    left_out = (weights.log() + noise).argmin(1).bincount() / n
    p = weights / 6
    expected = [sum(p[a] * p[b] / (1 - p[a]) for a, b in ((i, j), (j, i))) for i, j in ((1, 2), (0, 2), (0, 1))]
    torch.testing.assert_close(left_out, torch.stack(expected), atol=0.008, rtol=0)
    assert torch.isfinite(gumbel(make_generator(1), (10**6,), weights)).all()


def test_draws_are_left_alone_where_nothing_compares_them():
    """No network, no step of it, or one completion to choose from; and no random number is used up."""
    for spoil in (
        lambda model: setattr(model, "ratio", None),
        lambda model: model.ratio.steps.fill_(0),
        lambda model: model.interaction.weight.fill_(0.0),
    ):
        model, rng = comparing(), make_generator(1)
        latents = model.sample_latents(4, rng)
        assert redrawn(model, latents, make_generator(3)) is not latents
        spoil(model)
        before = rng.get_state()
        assert redrawn(model, latents, rng) is latents
        assert torch.equal(rng.get_state(), before)
        assert not model.compares
        assert model.likeness(latents).tolist() == [0.0] * 4
    few = small_model(mixed(), interaction={"kind": "pair", "best_of": FROM_POSTERIOR})
    assert few.ratio is None
    assert not Interaction(best_of=FROM_POSTERIOR).compares


def test_each_item_draws_for_itself_and_samples_called_ebm_are_of_what_was_kept():
    model = comparing()
    rng = item_generators(3, 5)
    kept = redrawn(model, model.sample_latents(5, rng), rng)
    few = item_generators(3, 2)
    again = redrawn(model, model.sample_latents(2, few), few)
    for key, of in again.items():
        torch.testing.assert_close(kept[key][:2], of)
    decoded = model.refine_data(model.decode(kept), rng, 2)[0]
    drawn = model.sample(5, data_steps=2, latent_steps=0, seed=3)
    for name, view in drawn.items():
        torch.testing.assert_close(view, model._raw({name: decoded[name]}, [name], None)[name])
    plain = comparing()
    plain.ratio = None
    assert not torch.equal(plain.sample(5, data_steps=2, seed=3)["face"], drawn["face"])
    assert torch.equal(plain.sample(5, seed=3)["face"], model.sample(5, seed=3)["face"])  # "Gen" draws once


def test_likeness_is_what_the_ratio_says_of_decoded_latents():
    model = comparing()
    latents = model.sample_latents(6, make_generator(0))
    torch.testing.assert_close(model.likeness(latents), model.ratio(model.decode(latents)))


def test_joint_samples_to_choose_from_are_of_more_draws_none_twice():
    model, n = comparing(), 10
    pool = joint_samples(model, FROM_POSTERIOR + n)
    rng = make_generator(0)
    drawn = model.sample_latents(n * SURPLUS, rng)
    looks = model.likeness(drawn)
    kept = (looks + gumbel(rng, looks.shape, looks)).topk(n).indices
    assert torch.equal(pool.latents[SHARED], drawn[SHARED][kept])
    assert len(set(kept.tolist())) == n
    features = model.interaction.features(model.decode(pool.latents), torch.ones(n, 3, dtype=torch.bool))
    torch.testing.assert_close(pool.features, features)


def test_a_finished_model_keeps_the_joint_samples_that_it_chooses_from(tmp_path, monkeypatch):
    """Kept ones are those that would be made; a saved model has them; of another number they are made anew."""
    model, n = comparing(private=2, best_of=FROM_POSTERIOR + 12), 12
    made = joint_samples(model, FROM_POSTERIOR + n)
    assert model.ratio.pool(model.generator.temperature) is None
    keep_pool(model)
    model.save_pretrained(tmp_path / "model")
    for one in (model, multiebm.from_pretrained(tmp_path / "model")):
        assert len(joint_samples(one, FROM_POSTERIOR + n - 2).features) == n - 2
        monkeypatch.setattr(type(one), "sample_latents", None)  # nobody draws
        kept = joint_samples(one, FROM_POSTERIOR + n)
        monkeypatch.undo()
        assert kept.latents.keys() == made.latents.keys() == {SHARED, "face", "left", "right"}
        assert all(torch.equal(kept.latents[key], of) for key, of in made.latents.items())
        assert torch.equal(kept.features, made.features)
    model.generator.temperature = 0.5  # others are drawn then
    assert not torch.equal(joint_samples(model, FROM_POSTERIOR + n).features, made.features)


def test_older_saves_keep_no_joint_samples_and_load(tmp_path):
    model, older = comparing(best_of=10_000), comparing(best_of=10_000)  # of more numbers than all weights
    for name in [name for name in older.ratio._buffers if name.startswith("pool_")]:
        del older.ratio._buffers[name]
    older.save_pretrained(tmp_path / "model")
    loaded = multiebm.from_pretrained(tmp_path / "model")
    assert loaded.ratio.pool(loaded.generator.temperature) is None
    made = [joint_samples(one, FROM_POSTERIOR + 1) for one in (model, loaded)]
    assert torch.equal(made[0].features, made[1].features)


def test_a_completion_is_chosen_by_f_and_by_how_its_own_latents_are_decoded():
    """Of three from the posterior by f + d; a joint sample has to have the larger f - f(absent) + d, by a margin."""
    model = comparing()
    batch = Batch(random_views(model.modalities, 8, seed=1), torch.tensor([[False, True, False]]).expand(8, 3))
    rng = item_generators(2, 8)
    with torch.no_grad():
        latents = [model.infer_latents(batch, rng) for _ in range(3)]
        filled = [model.fill(batch, of) for of in latents]
        looks = torch.stack([model.likeness(of) for of in latents])
        both = torch.stack([model.interaction(of) for of in filled]) + looks
        best = best_fill(model, batch, item_generators(2, 8), best_of=3)
    picked = both.argmax(0)
    assert picked.tolist() != (both - looks).argmax(0).tolist()
    for name, view in best.items():
        torch.testing.assert_close(view, torch.stack([filled[k][name][i] for i, k in enumerate(picked.tolist())]))


def test_a_joint_sample_is_taken_where_f_and_d_together_are_larger_by_the_margin():
    model = comparing()
    model.interaction.head.log_scale.data.add_(3.0)
    batch = Batch(random_views(model.modalities, 8, seed=1), torch.tensor([[False, True, False]]).expand(8, 3))
    with torch.no_grad():
        rng = item_generators(2, 8)
        every = [model.infer_latents(batch, rng) for _ in range(FROM_POSTERIOR)]
        both = torch.stack([model.interaction(model.fill(batch, of)) + model.likeness(of) for of in every])
        best = {key: torch.stack([of[key] for of in every])[both.argmax(0), torch.arange(8)] for key in every[0]}
        pool = joint_samples(model, FROM_POSTERIOR + 30)
        other = best_sample(model.interaction, pool, batch, rng)
        weights = [
            model.interaction(model.fill(batch, of))
            - model.interaction(model.fill(batch, of), ~batch.present)
            + model.likeness(of)
            for of in (other, best)
        ]
        taken = weights[0] > weights[1] + MARGIN
        found = best_fill(model, batch, item_generators(2, 8), best_of=FROM_POSTERIOR + 30)
        expected = model.fill(batch, {key: torch.where(taken[:, None], other[key], best[key]) for key in best})
    assert 0 < int(taken.sum()) < 8
    for name, view in found.items():
        torch.testing.assert_close(view, expected[name])
