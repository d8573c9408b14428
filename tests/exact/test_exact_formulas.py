"""The bounds of multimodal VAEs equal the formulas of their papers, and doubly reparameterised gradients theirs.

Written out item by item with torch.distributions, some parts hidden; noise is given, see `given_noise`.
"""

from math import log

import pytest
import torch
from given_noise import (
    BETA,
    HOLES,
    ITEMS,
    SAMPLES,
    SIZES,
    Given,
    assert_same,
    batch_of,
    give_noise,
    gradients,
    likelihood,
    loss_of,
    row_model,
    sample,
)
from torch import Tensor
from torch.distributions import Categorical, Laplace, Normal, kl_divergence

from multiebm.core.batch import Batch
from multiebm.core.random import make_generator
from multiebm.distributions.families import FAMILIES
from multiebm.distributions.mixture import Diagonal
from multiebm.models.model import MultimodalModel
from multiebm.objectives.vae import draw, vae_loss

EXACT = 1e-9  # float64 sums in another order
ROUNDED = 1e-6  # the library's weights 1 / K are float32
STANDARD = Normal(torch.zeros(()).double(), torch.ones(()).double())


@pytest.fixture
def given(monkeypatch):
    give_noise(monkeypatch)


def experts_of(model: MultimodalModel, batch: Batch, density: type = Normal):
    """The experts of z and of the private latents, by part."""
    found = {name: encoder(batch.views[name]) for name, encoder in model.inference.encoders.items()}
    return {n: density(*f[0]) for n, f in found.items()}, {n: density(*f[1]) for n, f in found.items()}


def subset_of(experts: dict, names: list[str], item: int, prior: bool = False) -> Normal:
    """The product of an item's experts named, and of N(0, 1): locations and scales [1, D]."""
    chosen = [(experts[n].loc[item : item + 1], experts[n].scale[item : item + 1]) for n in names]
    precision = sum(scale**-2 for _, scale in chosen) + prior
    return Normal(sum(loc * scale**-2 for loc, scale in chosen) / precision, precision**-0.5)


def drawn_at(q: Normal, item: int) -> Tensor:
    """The given draw of an item from its own density [1, D]."""
    return sample(Normal(q.loc.expand(ITEMS, -1), q.scale.expand(ITEMS, -1)))[item : item + 1]


def one_of(batch: Batch, item: int) -> tuple[Batch, list[str]]:
    """An item as a batch, and the names of its parts."""
    here = [name for name, p in zip(batch.views, batch.present[item].tolist(), strict=True) if p]
    return Batch({n: v[item : item + 1] for n, v in batch.views.items()}, batch.present[item : item + 1]), here


def test_mvtcae_is_its_conditional_information_bottleneck(given):
    """(n - a)/n E sum log p - beta [(1 - a) KL(q || p) + a/n sum_m KL(q || q_m)], n parts (Hwang et al. 2021)."""
    model, bound = row_model("mvtcae")
    batch, alpha, values = batch_of(present=HOLES), 5 / 6, []
    experts, _ = experts_of(model, batch)
    for i in range(ITEMS):
        own, here = one_of(batch, i)
        q, n = subset_of(experts, here, i), len(here)
        z = drawn_at(q, i)
        log_px = sum(likelihood(model, name, own, z) for name in here)
        to_each = sum(kl_divergence(q, subset_of(experts, [name], i)).sum() for name in here)
        divergence = (1 - alpha) * kl_divergence(q, STANDARD).sum() + alpha / n * to_each
        values.append((n - alpha) / n * log_px - BETA * divergence)
    assert bound.alpha == alpha
    assert_same(loss_of(model, bound, batch), -torch.cat(values).mean(), model, ROUNDED)


def test_mmjsd_is_its_jensen_shannon_bound_with_a_dynamic_prior(given):
    """E sum log p(x_n | z) - beta sum_j KL(q_j || p_f) / (n + 1), j over parts and prior (Sutter et al. 2020).

    The gradient flows through p_f, the geometric mean of all n + 1, too.
    """
    model, bound = row_model("mmjsd")
    batch, values = batch_of(present=HOLES), []
    experts, _ = experts_of(model, batch)
    for i in range(ITEMS):
        own, here = one_of(batch, i)
        n = len(here)
        all_of_them = subset_of(experts, here, i, prior=True)
        dynamic = Normal(all_of_them.loc, all_of_them.scale * (n + 1) ** 0.5)
        z = drawn_at(subset_of(experts, [here[i % n]], i), i)
        each = [kl_divergence(subset_of(experts, [name], i), dynamic).sum() for name in here]
        each.append(kl_divergence(Normal(torch.zeros_like(z), torch.ones_like(z)), dynamic).sum())
        values.append(sum(likelihood(model, name, own, z) for name in here) - BETA * sum(each) / (n + 1))
    assert_same(loss_of(model, bound, batch), -torch.cat(values).mean(), model, ROUNDED)


def test_jmvae_is_the_bound_of_its_joint_encoder_less_the_divergences_to_single_ones(given):
    """JMVAE-kl of Suzuki et al. 2016: alpha sum_m KL(q(z | X) || q_m(z | x_m)), not weighed by beta."""
    model, bound = row_model("jmvae")
    batch = batch_of()
    experts, _ = experts_of(model, batch)
    q = Normal(*model.inference.joint(batch.views))
    log_px = sum(likelihood(model, name, batch, sample(q)) for name in SIZES)
    to_each = sum(kl_divergence(q, expert).sum(1) for expert in experts.values())
    values = log_px - BETA * kl_divergence(q, STANDARD).sum(1) - 0.1 * to_each
    assert bound.alpha == 0.1
    assert_same(loss_of(model, bound, batch), -values.mean(), model, ROUNDED)


def consensus(experts: dict, names: list[str], item: int, rho: float) -> Normal:
    """Estimates with covariance rho s_i s_j: weights Sigma^-1 1 / 1' Sigma^-1 1, by inverting Sigma."""
    loc = torch.stack([experts[n].loc[item] for n in names], 1)  # [D, n]
    scale = torch.stack([experts[n].scale[item] for n in names], 1)
    correlation = rho + (1 - rho) * torch.eye(len(names)).double()
    precision = torch.linalg.inv(scale[:, :, None] * scale[:, None] * correlation)
    total = precision.sum((1, 2))
    return Normal(((precision.sum(1) * loc).sum(1) / total)[None], total.rsqrt()[None])


def test_codevae_is_its_sum_over_subsets_with_learned_weights_and_their_entropy(given):
    """sum_S pi_S { E_{q_S} sum_n log p(x_n | z) - beta KL(q_S || p) } + lambda H(pi) (Mancisidor et al. 2025)."""
    model, bound = row_model("codevae", bound={"components": "all"})
    batch, values = batch_of(present=HOLES), []
    experts, _ = experts_of(model, batch)
    aggregation = model.inference.aggregation
    subsets = [[n for n, inside in zip(SIZES, row, strict=True) if inside] for row in aggregation.members.tolist()]
    assert len(subsets) == 7
    for i in range(ITEMS):
        own, here = one_of(batch, i)
        chosen = [k for k, subset in enumerate(subsets) if set(subset) <= set(here)]
        pi, total = aggregation.logits[chosen].softmax(0), 0.0
        for weight, k in zip(pi, chosen, strict=True):
            q = consensus(experts, subsets[k], i, rho=0.5)
            log_px = sum(likelihood(model, name, own, drawn_at(q, i)) for name in here)
            total = total + weight * (log_px - BETA * kl_divergence(q, STANDARD).sum())
        values.append(total + 0.7 * Categorical(pi).entropy())
    assert (bound.alpha, aggregation.correlation) == (0.7, 0.5)
    assert_same(loss_of(model, bound, batch), -torch.cat(values).mean(), model, ROUNDED)


def test_mvae_adds_up_joint_and_single_bounds_each_of_its_own_parts(given):
    """ELBO(X) + sum_m ELBO(x_m), N(0, 1) an expert in every one (Wu & Goodman 2018)."""
    model, bound = row_model("mvae")
    batch, values = batch_of(present=HOLES), []
    experts, _ = experts_of(model, batch)
    for i in range(ITEMS):
        own, here = one_of(batch, i)
        total = 0.0
        for subset in [here, *([name] for name in here)]:
            q = subset_of(experts, subset, i, prior=True)
            log_px = sum(likelihood(model, name, own, drawn_at(q, i)) for name in subset)
            total = total + log_px - BETA * kl_divergence(q, STANDARD).sum()
        values.append(total)
    assert_same(loss_of(model, bound, batch), -torch.cat(values).mean(), model, ROUNDED)


def test_in_mvae_a_single_bound_reconstructs_no_other_part(given):
    model, bound = row_model("mvae")
    batch = batch_of()
    posterior, noise = model.inference(batch), Given(list(range(ITEMS)), list(SIZES))
    log_px = vae_loss(model.generator, model.generator.prior, posterior, batch, noise, bound)[1]
    assert log_px.shape == (1, 4, ITEMS, 3)
    experts, _ = experts_of(model, batch)
    expected = torch.zeros(4, ITEMS, 3).double()
    for c, subset in enumerate([list(SIZES), *([name] for name in SIZES)]):
        for i in range(ITEMS):
            z = drawn_at(subset_of(experts, subset, i, prior=True), i)
            for name in subset:
                expected[c, i, list(SIZES).index(name)] = likelihood(model, name, one_of(batch, i)[0], z)[0].detach()
    torch.testing.assert_close(log_px[0].detach(), expected, rtol=ROUNDED, atol=0)


def test_dmvae_adds_up_joint_and_crossed_bounds_with_private_latents(given):
    """All parts are reconstructed from q and from every q_m, each with its inferred private latent.

    Lee & Pavlovic 2021. The prior is an expert in the product of all parts an item has.
    """
    model, bound = row_model("dmvae")
    batch, values = batch_of(present=HOLES), []
    experts, private = experts_of(model, batch)
    for i in range(ITEMS):
        own, here = one_of(batch, i)
        total = 0.0
        for subset in [here, *([name] for name in here)]:
            q = subset_of(experts, subset, i, prior=subset == here)
            z, total = drawn_at(q, i), total - BETA * kl_divergence(q, STANDARD).sum()
            for name in here:
                q_w = Normal(private[name].loc[[i]], private[name].scale[[i]])
                w = drawn_at(q_w, i)
                ratio = (STANDARD.log_prob(w) - q_w.log_prob(w)).sum()
                total = total + likelihood(model, name, own, z, w) + BETA * ratio
        values.append(total)
    assert_same(loss_of(model, bound, batch), -torch.cat(values).mean(), model, ROUNDED)


def test_auxiliary_crossing_draws_private_latents_from_the_learned_scale():
    """Component 0 is all parts, 1 to 3 are single ones: far encoders show which latents are inferred.

    12,000 values a part: the mean of N(0, 1) within 4 / sqrt(12,000), its variance within 4 sqrt(2 / 12,000).
    """
    model, bound = row_model("dmvae", bound={"unseen": "auxiliary"})
    for log_scale in model.generator.auxiliary_log_scale.values():
        log_scale.data.zero_()
    n, names = 3000, list(SIZES)
    far = Diagonal(torch.full((n, 2), 50.0), torch.full((n, 2), 0.1), FAMILIES["normal"])
    batch = batch_of(items=n)
    posterior = model.inference(batch)._replace(private=dict.fromkeys(names, far))
    drawn = draw(model.generator, model.generator.prior, posterior, batch, make_generator(0), bound)
    for i, name in enumerate(names):
        w, seen = drawn.latents[name][0], torch.tensor([c in (0, i + 1) for c in range(4)])
        assert torch.equal(drawn.seen[..., i], seen[:, None].expand(4, n))
        assert ((w[seen] - 50).abs() < 1).all()
        crossed = w[~seen]
        assert crossed.mean().abs().item() < 4 / crossed.numel() ** 0.5
        assert crossed.var().item() == pytest.approx(1, abs=4 * (2 / crossed.numel()) ** 0.5)


def log_weights(model: MultimodalModel, batch: Batch, own: str, z: Tensor, w: Tensor, fixed: bool) -> Tensor:
    """l [B] of a sample from the expert of part `own` under the whole mixture, MMVAE or MMVAE+; q held if `fixed`."""
    experts, private = experts_of(model, batch, Laplace)
    hold = (lambda q: Laplace(q.loc.detach(), q.scale.detach())) if fixed else (lambda q: q)
    here = batch.present.T
    log_q = torch.stack([hold(q).log_prob(z).sum(1) for q in experts.values()])
    log_q = torch.where(here, log_q, -torch.inf).logsumexp(0) - here.sum(0).double().log()
    learned = model.generator.prior.log_scale
    prior = Laplace(torch.zeros(3).double(), torch.ones(3).double() if learned is None else learned.exp())
    standard = Laplace(torch.zeros_like(w), torch.ones_like(w))
    ratio = (prior.log_prob(z).sum(1) - log_q) + (standard.log_prob(w) - hold(private[own]).log_prob(w)).sum(1)
    log_px = torch.zeros(ITEMS).double()
    for i, name in enumerate(SIZES):
        crossed = w
        if name != own and model.generator.private:
            scale = model.generator.auxiliary_log_scale[name].exp()
            crossed = sample(Laplace(torch.zeros_like(w), scale.expand_as(w)))  # one draw for all samples
        log_px = log_px + torch.where(here[i], likelihood(model, name, batch, z, crossed), 0.0)
    return log_px + BETA * ratio


@pytest.mark.parametrize("row", ["mmvae-iwae", "mmvae", "mmvaeplus-dreg"])
def test_the_value_of_an_importance_weighted_bound_is_the_mean_over_experts_of_their_log_mean_weights(given, row):
    """1/n sum_m [ LSE_k l_mk - log K ] over the n parts present (Shi et al. 2019); the value of DReG is the same."""
    model, bound = row_model(row)
    batch = batch_of(present=HOLES)
    experts, private = experts_of(model, batch, Laplace)
    each = []
    for own in SIZES:
        latents = [(sample(experts[own], k), sample(private[own], k)) for k in range(SAMPLES)]
        values = [log_weights(model, batch, own, z, w, False) for z, w in latents]
        each.append(torch.stack(values).logsumexp(0) - log(SAMPLES))
    value = torch.where(batch.present.T, torch.stack(each), 0.0).sum(0) / batch.present.sum(1)
    loss = loss_of(model, bound, batch)
    assert bound.samples == SAMPLES > 1
    torch.testing.assert_close(loss, -value.mean(), rtol=ROUNDED, atol=0)
    if bound.estimator == "iwae":
        assert_same(loss, -value.mean(), model, ROUNDED)


@pytest.mark.parametrize("row", ["mmvae", "mmvaeplus-dreg"])
@pytest.mark.parametrize("stop_gradient", [True, False])
def test_the_doubly_reparameterised_gradient_is_as_stated(given, row, stop_gradient):
    """Encoders: sum_k [(1 - beta) s_k + beta s_k^2] dl/dz dz/dphi, s the softmax of l, likewise for w; decoders, prior:
    sum_k s_k dl/domega.

    Tucker et al. 2019, arXiv 1810.04152, who have beta = 1. Without the stop-gradient, as in public code, encoders get
    the path at s_k and the score sum_k s_k dl/dphi at fixed z: the gradient of IWAE. Written out by automatic
    differentiation at leaves.
    """
    model, bound = row_model(row, bound={"estimator": "dreg" if stop_gradient else "dreg_as_coded"})
    batch = batch_of(present=HOLES)
    experts, private = experts_of(model, batch, Laplace)
    path, explicit = torch.zeros(()).double(), torch.zeros(()).double()
    share_of_expert = batch.present.double() / batch.present.sum(1, keepdim=True) / ITEMS
    for i, own in enumerate(SIZES):
        live = [(sample(experts[own], k), sample(private[own], k)) for k in range(SAMPLES)]
        leaves = [tuple(value.detach().requires_grad_() for value in pair) for pair in live]
        log_l = torch.stack([log_weights(model, batch, own, *pair, stop_gradient) for pair in leaves])
        share = log_l.detach().softmax(0)
        explicit = explicit - (share_of_expert[:, i] * share * log_l).sum()
        for k, (pair, leaf) in enumerate(zip(live, leaves, strict=True)):
            for value, at in zip(pair, leaf, strict=True):
                slope = torch.autograd.grad(log_l[k].sum(), at, retain_graph=True, allow_unused=True)[0]
                if slope is not None and slope.numel():
                    once = share[k] * (1 - BETA * (1 - share[k])) if stop_gradient else share[k]
                    reach = share_of_expert[:, i] * once
                    path = path - (reach[:, None] * slope * value).sum()
    found, written = gradients(loss_of(model, bound, batch), model), gradients(path + explicit, model)
    largest = max(value.abs().max().item() for value in written.values())
    for name, value in found.items():
        torch.testing.assert_close(value, written[name], rtol=ROUNDED, atol=ROUNDED * largest, msg=name)
    score = max(v.abs().max().item() for n, v in gradients(explicit, model).items() if n.startswith("inference"))
    assert (score == 0) == stop_gradient
    if not stop_gradient:
        _, iwae = row_model(row, bound={"estimator": "iwae"})
        assert_same(loss_of(model, bound, batch), loss_of(model, iwae, batch), model, EXACT)
