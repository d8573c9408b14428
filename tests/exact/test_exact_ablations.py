"""The three ablations of cooperative learning, where the answer can be written down."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from multiebm.core.batch import Batch, mask_views
from multiebm.core.errors import DataError
from multiebm.core.random import ItemGenerators, make_generator
from multiebm.evaluation.learning import fluctuation
from multiebm.models.inference import SHARED
from multiebm.training.codes import complete_items, refine_codes
from multiebm.training.phases.energy import DATA_NOISE, Energy
from small_models import (
    LITERAL,
    linear_model,
    make_state,
    mixed,
    parameters_with_gradient,
    random_views,
    small_model,
    take_step,
    vectors,
    whole,
)

SIGMAS = 4.5  # of a two-sided test on a Gaussian statistic: false alarm 7e-6
SIZES = {"a": 2, "b": 3}
HALVES = replace(LITERAL, synthetic=0.0, inference_synthetic=0.0)  # the losses' halves on data
PRESENT = torch.tensor([[1, 1], [1, 0], [0, 1], [1, 1], [0, 0], [1, 1]]).bool()


class Quadratic(nn.Module):
    """E = k / 2 |x - 2|^2, summed over parts."""

    def __init__(self, k: float) -> None:
        super().__init__()
        self.k = k

    def forward(self, views):
        return sum(self.k / 2 * (x - 2).square().flatten(1).sum(1) for x in views.values())


class Noted(nn.Module):
    """A linear energy that notes what it is asked in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.penalty, self.gate, self.seen = nn.Parameter(torch.ones(())), 0.0, 0.0, []

    def forward(self, views):
        if self.training:
            self.seen.append({name: view.detach().clone() for name, view in views.items()})
        return self.weight * sum(x.flatten(1).sum(1) for x in views.values())


def from_noise(**settings):
    return small_model(mixed(), data_chain={"kind": "short_run"} | settings)


# mle_noise


def test_chains_from_noise_start_uniform_for_pictures_and_normal_for_vectors():
    model = from_noise(steps=0)
    start, _ = model.refine_data(random_views(mixed(), 400), make_generator(3))
    n = start["face"].numel()
    assert start["face"].abs().max() <= 1
    assert abs(start["face"].mean()) < SIGMAS * (1 / 3 / n) ** 0.5
    assert abs(start["face"].var() - 1 / 3) < SIGMAS * (4 / 45 / n) ** 0.5  # Var[x^2] = 1/5 - 1/9
    for name in ("left", "right"):
        n = start[name].numel()
        assert abs(start[name].mean()) < SIGMAS * n**-0.5
        assert abs(start[name].var() - 1) < SIGMAS * (2 / n) ** 0.5


def test_what_is_held_stays_and_the_rest_starts_from_noise_whatever_it_was():
    model, views = from_noise(steps=3), random_views(mixed(), 5)
    spoilt = views | {"face": torch.full_like(views["face"], torch.nan)}
    held = torch.tensor([[False, True, True]]).expand(5, 3)
    one, _ = model.refine_data(views, make_generator(3), clamp=held)
    other, _ = model.refine_data(spoilt, make_generator(3), clamp=held)
    assert torch.equal(one["left"], views["left"])
    assert torch.equal(one["right"], views["right"])
    assert torch.equal(one["face"], other["face"])
    assert one["face"].isfinite().all()


@pytest.mark.parametrize("steps", [1, 7])
def test_on_a_quadratic_energy_mean_and_variance_move_as_langevin_says(steps):
    """x' = x - s^2/2 k (x - 2) + n eps: the mean nears 2 by 1 - s^2 k / 2 a step, and the variance follows."""
    n, k, s, noise = 6000, 0.8, 2**0.5, 0.3
    model = small_model(vectors(a=1, b=1), data_chain={"kind": "short_run", "steps": steps, "noise_scale": noise})
    model.energy = Quadratic(k)
    start = {name: torch.full((n, 1), 50.0) for name in ("a", "b")}
    end, _ = model.refine_data(start, make_generator(1))
    keep, variance = 1 - s**2 / 2 * k, 1.0
    for _ in range(steps):
        variance = keep**2 * variance + noise**2
    for x in end.values():
        assert abs(x.mean() - (2 - 2 * keep**steps)) < SIGMAS * (variance / n) ** 0.5
        assert abs(x.var() / variance - 1) < SIGMAS * (2 / n) ** 0.5


def refuse(*arguments):
    raise AssertionError("a network was asked that maximum likelihood of the energy does not use")


def test_maximum_likelihood_of_the_energy_asks_and_teaches_no_other_network():
    model = from_noise(steps=2)
    state, before = make_state(model), {name: p.clone() for name, p in model.named_parameters()}
    for part in (*model.generator.decoders.values(), *model.inference.encoders.values()):
        part.register_forward_pre_hook(refuse)
    metrics = take_step(state, whole(random_views(mixed(), 8)), Energy(steps=3))
    energies = {name for name in before if name.startswith("energy.")}
    assert parameters_with_gradient(model) == energies
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert energies - moved <= {"energy.head.0.bias"}  # where data and samples pull at it alike
    assert moved <= energies
    assert metrics["loss/energy"] == pytest.approx(metrics["energy/gap"])


def test_data_get_noise_of_their_own_and_absent_parts_start_from_noise():
    model = from_noise(steps=0)
    model.energy = Noted()
    views = random_views(mixed(), 300)
    present = torch.ones(300, 3, dtype=torch.bool)
    present[:100, 0] = False
    state = make_state(model)
    take_step(state, Batch(mask_views(views, present), present), Energy(steps=3))
    seen = model.energy.seen[0]  # whole items, those with a gap, and the ends of chains
    assert [len(view) for view in seen.values()] == [600] * 3
    for name, rows in (("face", slice(100, 300)), ("left", slice(100, 300)), ("right", slice(100, 300))):
        off = seen[name][:200] - views[name][rows]
        assert off.std().item() == pytest.approx(DATA_NOISE, rel=0.1)
        assert abs(off.mean()) < SIGMAS * DATA_NOISE * off.numel() ** -0.5
    filled = seen["face"][200:300]
    assert filled.var().item() == pytest.approx(1 / 3 + DATA_NOISE**2, rel=0.05)
    off = seen["left"][200:300] - views["left"][:100]
    assert off.std().item() == pytest.approx(DATA_NOISE, rel=0.2)


def test_an_item_alone_has_the_noise_it_has_among_others():
    model = from_noise(steps=0)
    views = random_views(mixed(), 3)
    three, _ = model.refine_data(views, ItemGenerators([5, 6, 7]))
    one, _ = model.refine_data({name: view[2:] for name, view in views.items()}, ItemGenerators([7]))
    assert all(torch.equal(three[name][2:], one[name]) for name in views)


# indep_gen


def test_without_a_shared_latent_parts_have_the_covariance_of_independent_ones():
    """x_m = A_m w_m + c_m with w_m ~ N(0, I): Cov[x_m] = A_m A_m^T, and between parts 0."""
    model, n = linear_model(SIZES, 0, private=4), 40_000
    means = model.decode(model.sample_latents(n, make_generator(2)))
    x = torch.cat([means[name] for name in SIZES], 1).double()
    matrices = [model.generator.decoders[name].matrix.detach().double() for name in SIZES]
    expected = torch.block_diag(*(matrix @ matrix.T for matrix in matrices))
    variance = expected.diagonal()
    error = ((expected**2 + variance[:, None] * variance) / n).sqrt()  # of a sample covariance of Gaussians
    assert (expected[:2, 2:] == 0).all()
    assert ((x.T.cov() - expected).abs() < SIGMAS * error).all()


def test_without_a_shared_latent_a_parts_loss_reaches_its_own_networks_alone():
    model = small_model(vectors(**SIZES), shared=0, private=3)
    state, batch = make_state(model), whole(random_views(vectors(**SIZES), 6))
    codes = refine_codes(state, model.inference(batch), batch, "random_expert")
    for i, name in enumerate(SIZES):
        model.zero_grad()
        log_px = model.generator.log_likelihood(batch.views, model.generator(codes.latents))[:, i]
        log_q = model.inference(batch).private[name].log_prob(codes.latents[name])
        (log_px.sum() + log_q.sum()).backward()
        reached = {key for key, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        assert reached == {
            key
            for key, _ in model.named_parameters()
            if key.startswith((f"generator.decoders.{name}.", f"inference.encoders.{name}."))
        }


def test_without_a_shared_latent_the_latent_chain_is_one_of_each_part():
    """grad log p(X, W) by w_m = A_m^T (x_m - A_m w_m - c_m) / sigma^2 - w_m."""
    model = linear_model(SIZES, 0, private=2, scale=0.5)
    batch, draws = whole(random_views(vectors(**SIZES), 6)), make_generator(4)
    at = {SHARED: torch.zeros(6, 0), **{name: torch.randn(6, 2, generator=draws).requires_grad_() for name in SIZES}}
    model.generator.log_joint(batch.views, at, batch.present).sum().backward()
    for name in SIZES:
        decoder = model.generator.decoders[name]
        off = batch.views[name] - decoder(at[name])
        torch.testing.assert_close(at[name].grad, (off @ decoder.matrix / 0.25 - at[name]).detach())


# indep_inf


def own_part(sizes=None, steps=3, **sections):
    sizes = sizes or SIZES
    model = linear_model(sizes, 3, scale=0.5, energy=None, latent_chain={"steps": steps, "step_size": 0.1}, **sections)
    views = random_views(vectors(**sizes), len(PRESENT))
    return model, make_state(model), Batch(mask_views(views, PRESENT), PRESENT)


def test_a_chain_of_the_own_part_targets_the_prior_times_that_part_alone():
    """grad = A_m^T (x_m - A_m z - c_m) / sigma^2 - z, each started from the part's own expert."""
    model, state, batch = own_part(steps=0)
    posterior = model.inference(batch)
    codes = refine_codes(state, posterior, batch, "own_part")
    part, item = PRESENT.T.nonzero(as_tuple=True)
    assert torch.equal(codes.item, item)
    assert torch.equal(codes.batch.present, nn.functional.one_hot(part, 2).bool())
    standard = (codes.latents[SHARED] - posterior.experts.loc[part, item]) / posterior.experts.scale[part, item]
    assert standard.abs().max() < 5
    z = codes.latents[SHARED].clone().requires_grad_()
    model.generator.log_joint(codes.batch.views, {SHARED: z}, codes.batch.present).sum().backward()
    for i, name in enumerate(SIZES):
        decoder, rows = model.generator.decoders[name], part == i
        off = batch.views[name][item[rows]] - decoder(z[rows])
        torch.testing.assert_close(z.grad[rows], (off @ decoder.matrix / 0.25 - z[rows]).detach())


def test_a_long_chain_of_the_own_part_ends_in_that_parts_posterior():
    """Mean S A^T (x - c) / sigma^2 with S = (I + A^T A / sigma^2)^-1, over many chains of one item."""
    n = 4000
    model = linear_model({"a": 2, "b": 3}, 2, scale=0.7, energy=None, latent_chain={"steps": 400, "step_size": 0.1})
    views = {name: view.expand(n, -1).clone() for name, view in random_views(vectors(**SIZES), 1).items()}
    state, batch = make_state(model), whole(views)
    codes = refine_codes(state, model.inference(batch), batch, "own_part")
    for i, name in enumerate(SIZES):
        decoder, z = model.generator.decoders[name], codes.latents[SHARED][codes.batch.present[:, i]]
        matrix = decoder.matrix.detach()
        covariance = torch.linalg.inv(torch.eye(2) + matrix.T @ matrix / 0.49)
        mean = covariance @ matrix.T @ (views[name][0] - decoder.offset.detach()) / 0.49
        assert ((z.mean(0) - mean).abs() < 0.02 + SIGMAS * (covariance.diagonal() / n).sqrt()).all()


@pytest.mark.parametrize("private", [0, 2])
def test_losses_of_independent_inference_are_sums_of_own_terms(private):
    """-sum_m log p(x_m | z~_m, w~_m) and -sum_m log q_m(z~_m, w~_m | x_m) over present parts, mean over items."""
    model = small_model(vectors(**SIZES), private=private, energy=None)
    views = random_views(vectors(**SIZES), len(PRESENT))
    state, batch = make_state(model), Batch(mask_views(views, PRESENT), PRESENT)
    position = state.rng.get_state()
    posterior = model.inference(batch)
    codes = refine_codes(state, posterior, batch, "own_part")
    log_p = log_q = 0.0
    for row, item in enumerate(codes.item.tolist()):
        (i,) = codes.batch.present[row].nonzero()[0].tolist()
        name = [*SIZES][i]
        latents = {key: value[row : row + 1] for key, value in codes.latents.items()}
        x = views[name][item : item + 1]
        log_p += model.generator.likelihoods[name].log_prob(x, model.generator.decode(latents, name)).item()
        expert = torch.distributions.Normal(posterior.experts.loc[i, item], posterior.experts.scale[i, item])
        log_q += expert.log_prob(latents[SHARED]).sum().item()
        if private:
            own = posterior.private[name]
            log_q += torch.distributions.Normal(own.loc[item], own.scale[item]).log_prob(latents[name]).sum().item()
    state.rng.set_state(position)
    metrics = take_step(state, batch, replace(HALVES, positive_phase="own_part"))
    assert metrics["loss/generator"] == pytest.approx(-log_p / len(PRESENT), rel=1e-5)
    assert metrics["loss/inference"] == pytest.approx(-log_q / len(PRESENT), rel=1e-5)


def test_refined_samples_teach_each_expert_of_independent_inference_by_itself():
    """The half on samples: -sum_m log q_m(z | x~_m), where eq. (12) has the mixture of the experts."""
    model = small_model(vectors(**SIZES), private=0, data_chain={"steps": 0})
    state, batch = make_state(model), whole(random_views(vectors(**SIZES), 6))
    position = state.rng.get_state()
    z = model.sample_latents(6, state.rng)
    model.refine_data(model.decode(z), state.rng)
    experts = model.inference(whole(model.decode(z))).experts
    expected = -torch.distributions.Normal(experts.loc, experts.scale).log_prob(z[SHARED]).sum((0, 2)).mean().item()
    state.rng.set_state(position)
    settings = replace(HALVES, inference=0.0, inference_synthetic=1.0, positive_phase="own_part")
    metrics = take_step(state, batch, settings)
    assert metrics["loss/inference"] == pytest.approx(expected, rel=1e-5)


def test_gaps_are_filled_from_one_of_an_items_own_codes():
    model, state, batch = own_part()
    model.energy = Noted()
    posterior = model.inference(batch)
    codes = refine_codes(state, posterior, batch, "own_part")
    model.data_chain = replace(model.data_chain, steps=0)
    views = complete_items(state, posterior, batch, codes)
    order = [0, 3, 5, 1, 2]  # whole items, then those with a gap; nothing is known of item 4
    assert torch.equal(views["a"][:4], batch.views["a"][order[:4]])
    assert torch.equal(views["b"][[0, 1, 2, 4]], batch.views["b"][[0, 3, 5, 2]])
    (row,) = ((codes.item == 1) & codes.batch.present[:, 0]).nonzero()[0].tolist()
    torch.testing.assert_close(views["b"][3], model.generator.decoders["b"](codes.latents[SHARED][row]).detach())


# how much a loss fluctuates


def test_fluctuation_is_the_deviation_around_a_running_median():
    assert fluctuation([0, 0, 6, 0, 0], scale=2.0, window=3) == pytest.approx(1.2)  # sqrt(36 * 4 / 25) / 2
    assert fluctuation([5.0] * 300, scale=1.0) == 0
    step = [0.0] * 200 + [7.0] * 200  # a median follows a step to the bit
    assert fluctuation(step, scale=1.0, window=41) == 0
    noise = torch.randn(5000, generator=make_generator(0)).tolist()
    trend = [0.01 * t + 0.5 * x for t, x in enumerate(noise)]
    assert fluctuation(trend, scale=0.25, window=201) == pytest.approx(2.0, rel=0.05)
    assert fluctuation([3 * x for x in noise], 3.0) == pytest.approx(fluctuation(noise, 1.0))


@pytest.mark.parametrize(("loss", "scale"), [([1.0], 1.0), ([1.0, 2.0], 0.0), ([1.0, float("nan")], 1.0)])
def test_fluctuation_of_what_is_no_log_is_refused(loss, scale):
    with pytest.raises(DataError, match=r"fluctuation: got .* expected two finite values"):
        fluctuation(loss, scale)


def test_without_a_shared_latent_parts_that_are_absent_are_no_evidence():
    """What the latent chain climbs where a part is given to nobody: priors of both, and the likelihood of the other."""
    model = small_model(mixed(), shared=0, private=2)
    batch = Batch(random_views(model.modalities, 4), torch.tensor([[True, False, False]]).expand(4, 3))
    latents = model.infer_latents(batch, make_generator(0), latent_steps=2)
    found = model.generator.log_joint(batch.views, latents, batch.present)
    priors = sum(prior.log_prob(latents[key]) for key, prior in model.generator.priors().items())
    seen = model.generator.likelihoods["face"].log_prob(batch.views["face"], model.decode(latents)["face"])
    torch.testing.assert_close(found, priors + seen)
