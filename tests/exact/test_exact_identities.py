"""Rows of the table that have to agree do, as losses and as gradients: one part, masked parts, permuted parts, limits.

Noise is given (see `given_noise`), arithmetic is float64: both sides are the same sums in another order, so they agree
to EXACT. Formulas written out here have exact weights 1 / K where the library rounds them to float32: ROUNDED.
"""

from itertools import permutations

import pytest
import torch
from given_noise import (
    BETA,
    DENSITIES,
    HOLES,
    ITEMS,
    SIZES,
    Given,
    assert_same,
    batch_of,
    give_noise,
    gradients,
    likelihood,
    loss_of,
    loss_with,
    row_model,
    sample,
)
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    Laplace,
    MixtureSameFamily,
    Normal,
    kl_divergence,
)

from multiebm.core.batch import Batch
from multiebm.core.errors import DataError
from multiebm.experiments.baselines import ROWS
from multiebm.models.model import MultimodalModel
from multiebm.objectives.vae import BoundSettings
from multiebm.priors.clusters import ClusterPrior
from multiebm.priors.energy import EnergyPrior
from multiebm.priors.standard import StandardPrior

EXACT = 1e-9  # float64 sums of some hundred terms, cancellation included
ROUNDED = 1e-6  # ten times the rounding of float32
ALL = list(range(ITEMS))
DREG_ROWS = [row for row in ROWS if "dreg" in str(ROWS[row].cells["training"]["phases"])]
TILTED_ROWS = [row for row in ROWS if ROWS[row].cells["model"].get("prior", {}).get("kind") == "energy"]
# the full set with the prior as an expert has another q; these rows also count their one bound twice
RESCALED = {"mvae": 2, "dmvae": 2, "mopoe": 1}


@pytest.fixture(autouse=True)
def _given(monkeypatch):
    give_noise(monkeypatch)


def prior_of(model: MultimodalModel) -> Distribution:
    """The prior over z [D], or the base of a tilted one, in terms of torch.distributions."""
    prior = model.generator.prior
    prior = prior.base if isinstance(prior, EnergyPrior) else prior
    density = DENSITIES[prior.family]
    if isinstance(prior, ClusterPrior):
        clusters = Independent(density(prior.loc, torch.ones_like(prior.loc)), 1)
        return MixtureSameFamily(Categorical(logits=prior.logits), clusters)
    assert isinstance(prior, StandardPrior)
    scale = torch.ones(prior.dim, dtype=torch.float64) if prior.log_scale is None else prior.log_scale.exp()
    return Independent(density(torch.zeros_like(scale), scale), 1)


def vae_of_one_part(model: MultimodalModel, batch: Batch, bound: BoundSettings, rescaled: bool) -> Tensor:
    """The bound [B] of an ordinary VAE on the part a: its ELBO, KL in closed form or sampled, or its IWAE."""
    x = batch.views["a"]
    (loc, scale), (w_loc, w_scale) = model.inference.encoders["a"](x)
    if model.inference.joint is not None:
        loc, scale = model.inference.joint(batch.views)
    if rescaled:  # times N(0, 1)
        loc, scale = loc / (1 + scale.square()), scale / (1 + scale.square()).sqrt()
    prior = prior_of(model)
    family = DENSITIES[model.generator.family]
    q, q_w, p_w = family(loc, scale), family(w_loc, w_scale), family(torch.zeros_like(w_loc), torch.ones_like(w_loc))
    each = []
    for k in range(bound.samples):
        z, w = sample(q, k), sample(q_w, k)
        ratio = prior.log_prob(z) - q.log_prob(z).sum(1)
        if isinstance(model.generator.prior, EnergyPrior):
            ratio = ratio + model.generator.prior.net(z)[:, 0]
        if bound.divergence == "analytic":
            ratio = -kl_divergence(q, family(torch.zeros_like(loc), torch.ones_like(loc))).sum(1)
        ratio = ratio + (p_w.log_prob(w) - q_w.log_prob(w)).sum(1)
        each.append(likelihood(model, "a", batch, z, w) + BETA * ratio)
    return torch.stack(each).logsumexp(0) - torch.tensor(float(bound.samples)).double().log()


@pytest.mark.parametrize("row", [row for row in ROWS if row not in ("mmjsd", "jmvae", "mvtcae")])
def test_with_one_part_every_row_is_the_ordinary_vae_of_its_family_prior_and_samples(row):
    """A prior expert makes q narrower, and joint plus single bounds are then the same bound twice."""
    model, bound = row_model(row, "a")
    batch = batch_of("a")
    expected = -RESCALED.get(row, 1) * vae_of_one_part(model, batch, bound, row in RESCALED).mean()
    loss = loss_of(model, bound, batch)
    torch.testing.assert_close(loss, expected, rtol=ROUNDED, atol=0)
    if bound.estimator != "dreg":  # whose gradient is not that of its value
        assert_same(loss, expected, model, ROUNDED)


@pytest.mark.parametrize(("alpha", "share"), [(0.0, 1.0), (5 / 6, 1 / 6)])
def test_with_one_part_mvtcae_is_the_vae_times_one_minus_alpha(alpha, share):
    """q is the expert itself, so KL(q || q_1) = 0."""
    model, bound = row_model("mvtcae", "a", bound={"alpha": alpha})
    batch = batch_of("a")
    expected = -share * vae_of_one_part(model, batch, bound, False).mean()
    assert_same(loss_of(model, bound, batch), expected, model, ROUNDED)


def test_with_one_part_jmvae_is_the_vae_of_its_joint_encoder_and_a_divergence_to_the_other():
    model, bound = row_model("jmvae", "a")
    batch = batch_of("a")
    joint, single = (
        Normal(*model.inference.joint(batch.views)),
        Normal(*model.inference.encoders["a"](batch.views["a"])[0]),
    )
    expected = -vae_of_one_part(model, batch, bound, False) + bound.alpha * kl_divergence(joint, single).sum(1)
    assert bound.alpha > 0
    assert_same(loss_of(model, bound, batch), expected.mean(), model, ROUNDED)


def test_with_one_part_mmjsd_keeps_its_dynamic_prior():
    """1/2 KL(q || p_f) + 1/2 KL(p || p_f), p_f the geometric mean of q and p: not the KL of a VAE."""
    model, bound = row_model("mmjsd", "a")
    batch = batch_of("a")
    q = Normal(*model.inference.encoders["a"](batch.views["a"])[0])
    p = Normal(torch.zeros_like(q.loc), torch.ones_like(q.loc))
    precision = (1 + q.scale**-2) / 2
    dynamic = Normal(q.loc * q.scale**-2 / 2 / precision, precision.rsqrt())
    divergence = (kl_divergence(q, dynamic) + kl_divergence(p, dynamic)).sum(1) / 2
    assert_same(
        loss_of(model, bound, batch),
        (BETA * divergence - likelihood(model, "a", batch, sample(q, 0))).mean(),
        model,
        ROUNDED,
    )


@pytest.mark.parametrize("present", [None, HOLES])
def test_a_consensus_of_independent_experts_is_their_product_as_a_whole_loss(present):
    """CoDE-VAE (Mancisidor et al. 2025) at rho = 0, weights of subsets and entropy included."""
    batch = batch_of(present=present)
    dependent, bound = row_model("codevae")
    dependent.inference.aggregation.correlation = 0.0
    product, _ = row_model("codevae", model={"inference": {"fusion": "product"}})
    correlated, _ = row_model("codevae")
    loss = loss_of(dependent, bound, batch)
    assert_same(loss, loss_with(dependent, product, bound, batch, ALL), dependent, EXACT)
    assert loss.item() != pytest.approx(loss_with(dependent, correlated, bound, batch, ALL).item(), rel=1e-4)


def test_all_subsets_restricted_to_single_parts_are_a_mixture_of_experts_with_the_mean_of_their_divergences():
    """MoPoE's code for MMVAE: 1/M sum_m { E_{q_m} sum_n log p(x_n | z) - beta KL(q_m || p) } (arXiv 2105.02470)."""
    model, bound = row_model("mopoe", model={"inference": {"subsets": "single"}}, bound={"components": "all"})
    batch = batch_of()
    mixture, star = row_model("mmvae-star", bound={"divergence": "analytic"})
    star = BoundSettings(components="all", divergence=star.divergence)
    loss = loss_of(model, bound, batch)
    assert_same(loss, loss_with(model, mixture, star, batch, ALL), model, EXACT)
    each = []
    for name, encoder in model.inference.encoders.items():
        q = Normal(*encoder(batch.views[name])[0])
        z, standard = sample(q, 0), Normal(torch.zeros_like(q.loc), torch.ones_like(q.loc))
        each.append(sum(likelihood(model, n, batch, z) for n in SIZES) - BETA * kl_divergence(q, standard).sum(1))
    assert_same(loss, -torch.stack(each).mean(), model, ROUNDED)


def test_all_subsets_restricted_to_the_full_one_are_the_joint_bound_of_mvae():
    """Products of experts and prior (Wu & Goodman 2018): what is left of MVAE's sum when its single bounds go."""
    mopoe, bound = row_model("mopoe", model={"inference": {"subsets": "full"}})
    mvae, sums = row_model("mvae")
    batch = batch_of()
    loss = loss_of(mopoe, bound, batch)
    single, _ = row_model("mvae", model={"inference": {"subsets": "single"}})
    rest = loss_with(mopoe, single, sums, batch, ALL)
    assert_same(loss_with(mopoe, mvae, sums, batch, ALL) - rest, loss, mopoe, ROUNDED)
    assert rest.item() > 1


@pytest.mark.parametrize("components", ["one", "all"])
def test_one_cluster_at_the_origin_makes_cmvae_mmvae_plus(components):
    """Palumbo et al. 2024 and 2023."""
    clustered, bound = row_model("cmvae", model={"prior": {"components": 1}}, bound={"components": components})
    plain, same = row_model("mmvaeplus", bound={"components": components})
    assert same == bound
    batch, prior = batch_of(present=HOLES), clustered.generator.prior
    loss = loss_of(clustered, bound, batch)
    assert loss.item() != pytest.approx(loss_with(clustered, plain, bound, batch, ALL).item(), rel=1e-5)
    torch.nn.init.zeros_(prior.loc)
    expected = loss_with(clustered, plain, bound, batch, ALL)
    named = gradients(expected, clustered)
    assert named.pop("generator.prior.loc").abs().max() == 0
    loss = loss_of(clustered, bound, batch)
    torch.testing.assert_close(loss, expected, rtol=EXACT, atol=0)
    found = gradients(loss, clustered)
    assert found["generator.prior.logits"].abs().max() < EXACT  # one weight is 1 whatever its logit
    for name, gradient in named.items():
        torch.testing.assert_close(found[name], gradient, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("row", [row for row in ROWS if row not in (*TILTED_ROWS, "mmjsd", "cmvae")])
def test_an_energy_prior_without_tilt_leaves_the_row_as_it_is(row):
    """exp(f) p0 with f = 0, in any row with a standard prior of its own (mmJSD's bound has no log p(z))."""
    analytic = ROWS[row].cells["training"]["phases"].get("bound", {}).get("divergence") == "analytic"
    sampled = {"divergence": "component"} if analytic else {}
    tilt = {"kind": "energy", "width": 4, "layers": 1, "learned_scale": False}
    tilted, bound = row_model(row, model={"prior": tilt}, bound=sampled)
    plain, _ = row_model(row, model={"prior": {"learned_scale": False}}, bound=sampled)
    prior, batch = tilted.generator.prior, batch_of(present=None if row == "jmvae" else HOLES)
    assert isinstance(prior, EnergyPrior)
    expected = loss_with(tilted, plain, bound, batch, ALL)
    assert loss_of(tilted, bound, batch).item() != pytest.approx(expected.item(), rel=1e-5)
    torch.nn.init.zeros_(prior.net[-1].weight)
    loss = loss_of(tilted, bound, batch)
    for only in ("inference", "generator.decoders"):
        assert_same(loss, loss_with(tilted, plain, bound, batch, ALL), tilted, EXACT, only)


@pytest.mark.parametrize("row", ["mmvae-iwae", "mmvae-star", "mmvaeplus", "cmvae", "mmvaeplus-factorised"])
def test_an_importance_weighted_bound_of_one_sample_is_the_elbo(row):
    """Outside the mean over components (Shi et al. 2019): log of one weight is that weight's log."""
    model, bound = row_model(row, bound={"components": "all", "samples": 1, "estimator": "iwae"})
    _, elbo = row_model(row, bound={"components": "all", "samples": 1, "estimator": "elbo"})
    batch = batch_of(present=HOLES)
    assert_same(loss_of(model, bound, batch), loss_of(model, elbo, batch), model, EXACT)


def path_only(model: MultimodalModel, batch: Batch) -> Tensor:
    """Minus the MoE-ELBO of complete items at given noise, written out, with the parameters of q held in log q."""
    names, auxiliary = list(batch.views), model.generator.auxiliary_log_scale
    found = {name: encoder(batch.views[name]) for name, encoder in model.inference.encoders.items()}
    prior, total = prior_of(model), torch.zeros(())
    fixed = [Laplace(found[name][0][0].detach(), found[name][0][1].detach()) for name in names]
    for own in names:
        q, q_w = (Laplace(*pair) for pair in found[own])
        z, w = sample(q, 0), sample(q_w, 0)
        log_q = torch.stack([f.log_prob(z).sum(1) for f in fixed]).logsumexp(0) - torch.tensor(3.0).double().log()
        held = Laplace(q_w.loc.detach(), q_w.scale.detach())
        standard = Laplace(torch.zeros_like(w), torch.ones_like(w))
        ratio = prior.log_prob(z) - log_q + (standard.log_prob(w) - held.log_prob(w)).sum(1)
        log_px = torch.zeros(ITEMS).double()
        for name in names:
            crossed = w
            if name != own and name in auxiliary:
                crossed = sample(Laplace(torch.zeros_like(w), auxiliary[name].exp().expand_as(w)), 0)
            log_px = log_px + likelihood(model, name, batch, z, crossed)
        total = total - (log_px + BETA * ratio).mean() / 3
    return total


@pytest.mark.parametrize("row", DREG_ROWS)
def test_the_doubly_reparameterised_bound_of_one_sample_sticks_the_landing(row):
    """Roeder et al. 2017, arXiv 1703.09194: its encoders feel the path through the sample and not the score."""
    model, bound = row_model(row, bound={"samples": 1})
    _, elbo = row_model(row, bound={"samples": 1, "estimator": "elbo"})
    batch = batch_of()
    loss, plain, written = loss_of(model, bound, batch), loss_of(model, elbo, batch), path_only(model, batch)
    assert_same(loss, written, model, ROUNDED)
    assert_same(loss, plain, model, EXACT, only="generator")
    score = [gradients(plain, model)[name] - gradient for name, gradient in gradients(loss, model).items()]
    assert max(value.abs().max().item() for value in score) > 1e-2


@pytest.mark.parametrize("row", [row for row in ROWS if row != "jmvae"])
def test_a_part_that_is_hidden_is_a_part_that_does_not_exist(row):
    """Items with all kinds of holes in one batch against a model of its own for every set of parts there is."""
    model, bound = row_model(row)
    batch, expected = batch_of(present=HOLES), torch.zeros(()).double()
    for kept in {tuple(mask) for mask in HOLES}:
        names = [name for name, is_kept in zip(SIZES, kept, strict=True) if is_kept]
        items = [i for i, mask in enumerate(HOLES) if tuple(mask) == kept]
        alone, same = row_model(row, names)
        assert same == bound
        given = Batch({n: batch.views[n][items] for n in names}, torch.ones(len(items), len(names), dtype=torch.bool))
        expected = expected + len(items) / ITEMS * loss_with(model, alone, bound, given, items)
    assert_same(loss_of(model, bound, batch), expected, model, EXACT)


def test_a_joint_encoder_refuses_items_with_holes():
    model, bound = row_model("jmvae")
    with pytest.raises(DataError, match="6 of 8 items with parts missing, expected complete items"):
        loss_of(model, bound, batch_of(present=HOLES))


@pytest.mark.parametrize("row", ROWS)
def test_the_order_of_the_parts_does_not_matter(row):
    """All parts with their networks, columns of `present` and weights of subsets in another order."""
    model, bound = row_model(row)
    present = HOLES if row != "jmvae" else [[1, 1, 1]] * ITEMS
    loss = loss_of(model, bound, batch_of(present=present))
    for order in (("c", "a", "b"), ("b", "a", "c")):
        moved, _ = row_model(row, order)
        columns = [list(SIZES).index(name) for name in order]
        batch = batch_of(order, [[mask[i] for i in columns] for mask in present])
        assert_same(loss, loss_with(model, moved, bound, batch, ALL), model, EXACT)


def test_given_noise_is_the_same_for_every_component_and_other_for_every_item_and_sample():
    """What the tests above rest on."""
    given = Given([2, 5], ["a", "b"])
    model, _ = row_model("mmvae")
    normal = model.generator.family.rsample(given, torch.zeros(3, 7, 2, 4).double(), torch.ones(()).double())
    assert torch.equal(normal, normal[:, :1].expand_as(normal))
    rows = normal[:, 0].reshape(-1, 4)
    assert all(not torch.equal(one, other) for one, other in permutations(rows, 2))
