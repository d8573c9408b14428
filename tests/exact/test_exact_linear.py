"""The linear half alone is factor analysis: its posteriors, completions, likelihoods and intervals are exact."""

import pytest
import torch
from torch.distributions import MultivariateNormal

import multiebm
from multiebm.core.batch import Batch
from multiebm.core.names import SHARED
from multiebm.core.random import make_generator
from multiebm.distributions.factors import factor_analysis
from multiebm.distributions.gaussian import kl_to_standard
from multiebm.experiments.build import begin_linear, build_model
from multiebm.experiments.load import load_experiment
from multiebm.objectives.vae import BoundSettings, vae_loss
from multiebm.training.phases.bound import with_more_gaps

SIZES = {"a": 3, "b": 2, "c": 4}
ALMOST = 2e-3  # networks add softplus(-8) = 0.0003 to precisions of about 1


@pytest.fixture(scope="module")
def known():
    """A model at the start of training on 500 rows with gaps, its covariance of states, and its mean."""
    draws = torch.Generator().manual_seed(0)
    z = torch.randn(500, 2, generator=draws)
    x = z @ torch.randn(2, 9, generator=draws) * 2 + 0.8 * torch.randn(500, 9, generator=draws) + 5
    x[torch.rand(x.shape, generator=draws) < 0.15] = torch.nan
    parts = dict(zip(SIZES, (of.numpy() for of in x.split(list(SIZES.values()), 1)), strict=True))
    data = multiebm.read_data(parts, missing="nan")
    experiment = load_experiment("own", ["model.shared=3", "model.networks.vector.width=8"])
    model = build_model(experiment.model, data.modalities, 0).eval()
    begin_linear(model, data, 0)
    decoders = [model.generator.decoders[name].net for name in SIZES]
    w = torch.cat([decoder.line.weight for decoder in decoders]).detach()
    scales = torch.cat([model.generator.likelihoods[name].now.scale for name in SIZES]).detach()
    loc = torch.cat([decoder.line.bias for decoder in decoders]).detach()
    return model, data, w @ w.T + scales.square().diag(), loc


def states(data, rows):
    batch = data.batch("test", torch.arange(rows))
    return batch, torch.cat(list(batch.views.values()), 1)


def conditional(covariance, loc, row, there):
    """Mean and covariance of the cells of a row that are not `there`, given those that are."""
    gone = ~there
    gain = torch.linalg.solve(covariance[there][:, there], covariance[there][:, gone]).T
    mean = loc[gone] + gain @ (row[there] - loc[there])
    return mean, covariance[gone][:, gone] - gain @ covariance[there][:, gone]


def test_it_begins_at_the_factor_analysis_of_the_training_rows(known):
    model, data, covariance, loc = known
    x = torch.cat(list(data.batch("train", torch.arange(len(data.train))).views.values()), 1)
    found = factor_analysis(x, 3, shrink=1.0)
    expected = found.loadings @ found.loadings.T + found.noise.diag()
    torch.testing.assert_close(covariance.double(), expected, atol=0.02, rtol=0.02)  # a scale is at least 0.02
    torch.testing.assert_close(loc.double(), found.loc, atol=1e-5, rtol=0)


@pytest.mark.parametrize("given", [("a",), ("b", "c"), ("a", "b", "c")])
def test_the_posterior_given_any_parts_and_cells_is_exact(known, given):
    model, data, covariance, loc = known
    batch, x = states(data, 12)
    present = batch.present & torch.tensor([name in given for name in SIZES])
    q = model.inference.given(Batch(batch.views, present)).shared
    w = torch.cat([model.generator.decoders[name].net.line.weight for name in SIZES]).detach()
    columns = torch.cat([torch.full((n,), name in given) for name, n in SIZES.items()])
    for i, row in enumerate(x):
        there = ~row.isnan() & columns
        gain = torch.linalg.solve(covariance[there][:, there], w[there]).T
        torch.testing.assert_close(q.mean[i], gain @ (row[there] - loc[there]), atol=ALMOST, rtol=ALMOST)
        root = q.root[0, i]
        exact = torch.eye(3) - gain @ w[there]
        torch.testing.assert_close(torch.cholesky_inverse(root), exact, atol=ALMOST, rtol=ALMOST)


def test_the_mean_of_completions_is_the_conditional_mean_and_their_spread_that_of_means(known):
    """Five standard errors of 4,000 draws."""
    model, data, covariance, loc = known
    batch, x = states(data, 6)
    n, rng = 4000, make_generator(0)
    item = torch.arange(6).repeat_interleave(n)
    seen = Batch({name: view[item] for name, view in batch.views.items()}, batch.present[item])
    drawn = torch.cat(list(model.fill(seen, model.infer_latents(seen, rng)).values()), 1).view(6, n, -1)
    noisy = drawn.clone()
    for i, row in enumerate(x):
        there = ~row.isnan()
        if there.all():
            continue
        mean, spread = conditional(covariance, loc, row, there)
        error = (spread.diagonal() / n).sqrt()
        assert ((drawn[i].mean(0)[~there] - mean).abs() < 5 * error + ALMOST).all()
        torch.testing.assert_close(noisy[i][:, there], row[there].expand(n, -1))


def test_its_likelihood_has_no_variance_and_is_the_evidence(known):
    """Every importance weight is p(x_S): q is the posterior, but for what networks add to it."""
    model, data, covariance, loc = known
    batch, x = states(data, 12)
    raw = {name: data.modalities[name].to_raw(view) for name, view in batch.views.items()}
    found = model.log_likelihood_with_error(raw, samples=10, progress=False)
    exact = []
    for row in x:
        there = ~row.isnan()
        exact.append(MultivariateNormal(loc[there], covariance[there][:, there]).log_prob(row[there]))
    torch.testing.assert_close(found.value, torch.stack(exact), atol=0.02, rtol=0)
    assert found.error.max() < 0.02


def test_a_component_of_the_bound_is_tight_at_the_start(known):
    """The bound given all parts is the evidence itself: E_q[log p(x | z)] - KL(q || p) = log p(x)."""
    model, data, covariance, loc = known
    batch, x = states(data, 12)
    q = model.inference.given(batch).shared
    n = 4000
    z = q.component(torch.zeros(12, dtype=torch.long)).loc.expand(n, -1, -1).reshape(-1, 3)
    noise = torch.randn(n, 12, 3, generator=torch.Generator().manual_seed(0))
    z = z + torch.linalg.solve_triangular(q.root[0].mT, noise[..., None], upper=True)[..., 0].reshape(-1, 3)
    log_px = model.generator.log_likelihood_where(batch.views, {SHARED: z}, batch.present.repeat(n, 1)).sum(1)
    bound = log_px.view(n, 12).mean(0) - kl_to_standard(q.loc[0], q.root[0])
    exact = torch.stack(
        [MultivariateNormal(loc[t], covariance[t][:, t]).log_prob(r[t]) for r in x for t in [~r.isnan()]]
    )
    spread = log_px.view(n, 12).std(0) / n**0.5
    assert ((bound - exact).abs() < 5 * spread + 0.02).all()


@pytest.mark.parametrize("components", ["all", "one"])
def test_the_predictive_bound_is_the_evidence_whatever_parts_and_cells_are_seen(known, components):
    """ELBO of what is seen + log E_q[p(the rest | z)] = log p(x_seen) + log p(rest | seen), q being exact: the ELBO of
    MoPoE, which wants all of x explained by every code of a subset, is nats below, and so pulls a model away from it.

    Ten means of 400 draws; 4 standard errors, and the bias of a log of a mean, which is what halving draws costs.
    """
    model, data, covariance, loc = known
    batch, x = states(data, 12)
    exact = torch.stack(
        [MultivariateNormal(loc[t], covariance[t][:, t]).log_prob(r[t]) for r in x for t in [~r.isnan()]]
    ).mean()
    prior, found = model.generator.prior, {}
    for kind, samples in (("predictive", 400), ("predictive", 200), ("elbo", 1)):
        s = BoundSettings(kind, samples, components, "analytic")
        means = []
        for seed in range(10 if samples > 1 else 400):
            rng = make_generator(seed)
            shown = with_more_gaps(model, batch, rng, 0.5)
            assert any(not torch.equal(shown.views[name].isnan(), batch.views[name].isnan()) for name in SIZES)
            with torch.no_grad():
                q = model.inference(shown)
                means.append(-vae_loss(model.generator, prior, q, batch, rng, s, shown=shown.views)[0])
        found[kind, samples] = torch.stack(means)
    most, fewer = found["predictive", 400], found["predictive", 200]
    bias = abs(float(most.mean() - fewer.mean()))
    assert float(most.mean()) == pytest.approx(float(exact), abs=4 * float(most.std()) / 10**0.5 + bias + 0.02)
    assert bias < 0.2
    assert float(found["elbo", 1].mean()) < exact - 2


def test_value_by_value_it_is_the_evidence_of_what_is_seen_and_the_density_of_each_value_that_is_not(known):
    """log p(x_seen) + sum_d log p(x_d | x_seen), q being exact, the mean over components; what an encoder is not shown
    of a part that it sees is told, too. Ten means of 400 draws; 4 standard errors and the bias of a log of a mean.
    """
    model, data, covariance, loc = known
    batch, x = states(data, 12)
    shown = with_more_gaps(model, batch, make_generator(1), 0.5)
    found = {}
    with torch.no_grad():
        q = model.inference(shown)
        for n in (400, 200):
            s = BoundSettings("predictive_values", n, "all", "analytic")
            given = model.generator, model.generator.prior, q, batch
            losses = [vae_loss(*given, make_generator(seed), s, shown=shown.views)[0] for seed in range(10)]
            found[n] = -torch.stack(losses)
    part_of = torch.repeat_interleave(torch.arange(3), torch.tensor(list(SIZES.values())))
    visible = ~torch.cat(list(shown.views.values()), 1).isnan()
    weights, exact = q.shared.log_weight.exp(), []
    for k, members in enumerate(q.shared.members[:, None].expand(-1, 12, -1) & batch.present):
        for row, (r, mine) in enumerate(zip(x, members, strict=True)):
            seen, there = visible[row] & mine[part_of], ~r.isnan()
            total = torch.zeros(())
            if seen.any():
                total = MultivariateNormal(loc[seen], covariance[seen][:, seen]).log_prob(r[seen])
            mean, spread = conditional(covariance, loc, r, seen)
            told = torch.distributions.Normal(mean, spread.diag().sqrt()).log_prob(r[~seen].nan_to_num())
            exact.append(weights[k, row] * (total + told[there[~seen]].sum()))
    exact, most, fewer = torch.stack(exact).sum() / 12, found[400], found[200]
    bias = abs(float(most.mean() - fewer.mean()))
    assert bias < 0.02
    assert float(most.mean()) == pytest.approx(float(exact), abs=4 * float(most.std()) / 10**0.5 + bias + 0.02)


def test_with_one_draw_or_nothing_unseen_the_predictive_bound_is_the_elbo(known):
    """Bit for bit but for the order of sums."""
    model, data, *_ = known
    batch, _ = states(data, 12)
    losses = {}
    for kind in ("predictive", "predictive_values", "elbo"):
        for samples, components in ((1, "all"), (1, "one"), (5, "all")):
            posterior = model.inference(batch)
            if samples > 1:  # the component of all parts alone
                only = posterior.shared._replace(log_weight=torch.full_like(posterior.shared.log_weight, -torch.inf))
                only.log_weight[-1] = 0
                posterior = posterior._replace(shared=only)
            s = BoundSettings(kind, samples, components, "analytic")
            loss = vae_loss(model.generator, model.generator.prior, posterior, batch, make_generator(3), s)[0]
            losses[kind, samples, components] = loss.detach()
    for kind in ("predictive", "predictive_values"):
        for how in ((1, "all"), (1, "one"), (5, "all")):
            torch.testing.assert_close(losses[kind, *how], losses["elbo", *how])


def test_one_component_an_item_is_that_of_the_mixture_and_each_comes_as_often_as_it_weighs(known):
    """Which it is is told by its members; a batch of 700 draws, five standard errors."""
    model, data, *_ = known
    batch, _ = states(data, 12)
    batch = batch.select(torch.arange(12).repeat(100))
    batch.present[::3, 1] = False
    every, one = model.inference(batch).shared, model.inference(batch, make_generator(0)).shared
    assert (len(every.loc), len(one.loc)) == (7, 1)
    same = (every.members[:, None] == one.members).all(2)  # [K, B]
    assert (same.sum(0) == 1).all()
    index = same.float().argmax(0)
    for found, expected in zip(one.component(torch.zeros_like(index)), every.component(index), strict=True):
        if isinstance(found, torch.Tensor):
            torch.testing.assert_close(found, expected)
    share, weight = same.float().mean(1), every.log_weight.exp().mean(1)
    assert ((share - weight).abs() < 5 * (weight / same.shape[1]).sqrt()).all()
    assert (every.log_weight.gather(0, index[None]) > -torch.inf).all()


def test_match_is_how_much_likelier_parts_are_together_than_apart(known):
    """log p(x_S) - sum_m log p(x_m) of the Gaussian; NaN for an item of one part."""
    model, data, covariance, loc = known
    batch, x = states(data, 12)
    raw = {name: data.modalities[name].to_raw(view) for name, view in batch.views.items()}
    present = torch.ones(12, 3, dtype=torch.bool)
    present[0, 1:], present[1, 2] = False, False
    found = model.match(raw, present=present)
    ends = torch.tensor([0, 3, 5, 9])
    exact = []
    for i, row in enumerate(x):
        here = torch.cat([torch.full((n,), bool(present[i, m])) for m, n in enumerate(SIZES.values())])
        there = ~row.isnan() & here

        def log_p(cells, row=row):
            return (
                MultivariateNormal(loc[cells], covariance[cells][:, cells]).log_prob(row[cells]) if cells.any() else 0
            )

        alone = [there & (torch.arange(9) >= a) & (torch.arange(9) < b) for a, b in zip(ends, ends[1:], strict=False)]
        exact.append(log_p(there) - sum(log_p(cells) for cells in alone))
    assert found[0].isnan()
    torch.testing.assert_close(found[1:], torch.stack(exact[1:]), atol=0.01, rtol=0.01)
