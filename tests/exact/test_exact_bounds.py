"""The bounds of multimodal VAEs: below the evidence and in order, and what changes their cost changes nothing else."""

from itertools import product
from math import log

import pytest
import torch
from given_noise import (
    BETA,
    HOLES,
    ITEMS,
    SAMPLES,
    assert_same,
    batch_of,
    give_noise,
    gradients,
    in_double,
    loss_of,
    plainly,
    row_model,
)
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from multiebm.core.batch import Batch, mask_views
from multiebm.core.random import make_generator
from multiebm.distributions.mixture import Mixture
from multiebm.models.aggregation import Aggregation
from multiebm.models.inference import InferenceModel, Posterior
from multiebm.models.model import MultimodalModel
from multiebm.objectives.vae import BoundSettings, vae_loss
from small_models import linear_model, random_views

SIGMA = 0.7
EXACT = 1e-9  # float64 sums in another order
ROUNDED = 1e-6  # the library's weights 1 / K are float32


@pytest.fixture
def given(monkeypatch):
    give_noise(monkeypatch)


class PartEncoder(nn.Module):
    """x -> p(x | z) as a density of z, for a linear decoder with orthogonal columns: N(A+ (x - c), sigma^2 / |a|^2)."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, x: Tensor):
        matrix = self.decoder.matrix.detach()
        square = matrix.square().sum(0)
        loc = (x - self.decoder.offset.detach()) @ matrix / square
        empty = x.new_zeros(len(x), 0)
        return (loc, (SIGMA / square.sqrt()).expand_as(loc)), (empty, empty)


def linear_gaussian() -> MultimodalModel:
    """Two linear parts whose experts, multiplied with the prior, are the exact posterior of whatever is present."""
    model = in_double(linear_model({"a": 4, "b": 3}, shared=2, scale=SIGMA, energy=None))
    for i, (name, size) in enumerate({"a": 4, "b": 3}.items()):
        columns = torch.linalg.qr(torch.randn(size, 2, generator=make_generator(i)).double())[0]
        model.generator.decoders[name].matrix.data = columns * torch.tensor([0.9 + i, 0.6]).double()
    encoders = {name: PartEncoder(decoder) for name, decoder in model.generator.decoders.items()}
    joined = Aggregation(2, "normal", "full", prior_expert="full")
    model.inference = InferenceModel(encoders, "normal", joined)  # type: ignore[arg-type]
    return model


def evidence(model: MultimodalModel, batch: Batch) -> Tensor:
    """log p(x_S) [B] = log N(c, A A^T + sigma^2 I) of the rows present."""
    decoders = model.generator.decoders.values()
    matrix, offset = torch.cat([d.matrix for d in decoders]), torch.cat([d.offset for d in decoders])
    here = torch.cat([batch.present[:, [i]].expand(-1, v.shape[1]) for i, v in enumerate(batch.views.values())], 1)
    x, values = torch.cat(list(batch.views.values()), 1), []
    for row, known in zip(x, here, strict=True):
        a = matrix[known]
        covariance = a @ a.T + SIGMA**2 * torch.eye(len(a)).double()
        values.append(MultivariateNormal(offset[known], covariance).log_prob(row[known]))
    return torch.stack(values).detach()


def linear_batch(model: MultimodalModel, present: list[list[int]], copies: int = 1) -> Batch:
    mask = torch.tensor(present).bool()
    views = {n: v.double() for n, v in random_views(model.modalities, len(mask), seed=2).items()}
    views = {name: view.repeat_interleave(copies, 0) for name, view in views.items()}
    mask = mask.repeat_interleave(copies, 0)
    return Batch(mask_views(views, mask), mask)


@pytest.mark.parametrize("kind", ["elbo", "iwae", "iwae_inside", "dreg"])
@pytest.mark.parametrize("present", [[1, 1], [1, 0], [0, 1]])
def test_with_the_exact_posterior_every_bound_is_the_evidence_at_every_draw(kind, present):
    """p(x, z) / q(z) = p(x) whatever z, here with q a product of experts and prior; some parts hidden."""
    model = linear_gaussian()
    s = BoundSettings(estimator=kind, samples=4, components="all")
    for seed in range(3):
        batch = linear_batch(model, [present] * 5)
        loss, _ = vae_loss(
            model.generator, model.generator.prior, model.inference(batch), batch, make_generator(seed), s
        )
        assert -loss.item() == pytest.approx(evidence(model, batch).mean().item(), rel=EXACT)


def test_in_expectation_bounds_of_more_samples_are_closer_to_the_evidence_and_stay_below():
    """ELBO <= IWAE(5) <= IWAE(50) <= log p (Burda et al. 2016); the first gap is KL(q || posterior), in closed form.

    q = N(m + 0.8 s, 1.4 s): 2 (-log 1.4 + (1.4^2 + 0.8^2 - 1) / 2) nats. 40 means of 60 items each, 4 standard errors.
    """
    model = linear_gaussian()
    batch = linear_batch(model, [[1, 1]], copies=60)
    exact = model.inference(batch)
    q = exact.shared._replace(loc=exact.shared.loc + 0.8 * exact.shared.scale, scale=1.4 * exact.shared.scale)
    truth = evidence(model, linear_batch(model, [[1, 1]])).item()
    found = {}
    for samples in (1, 5, 50):
        s = BoundSettings(estimator="iwae" if samples > 1 else "elbo", samples=samples, components="all")
        found[samples] = values_of(model, exact._replace(shared=q), batch, s)
    divergence = 2 * (-log(1.4) + (1.4**2 + 0.8**2 - 1) / 2)
    assert mean(found[1]) == pytest.approx(truth - divergence, abs=4 * error(found[1]))
    assert mean(found[1]) + 4 * error(found[1] - found[5]) < mean(found[5])
    assert mean(found[5]) + 4 * error(found[5] - found[50]) < mean(found[50])
    assert mean(found[50]) < truth + 4 * error(found[50])


def values_of(model: MultimodalModel, posterior: Posterior, batch: Batch, s: BoundSettings, n: int = 40) -> Tensor:
    """n independent estimates of the bound, each a mean over the batch."""
    prior = model.generator.prior
    with torch.no_grad():
        losses = [vae_loss(model.generator, prior, posterior, batch, make_generator(i), s)[0] for i in range(n)]
    return -torch.stack(losses)


def mean(values: Tensor) -> float:
    return values.mean().item()


def error(values: Tensor) -> float:
    """The standard error of their mean."""
    return values.std().item() / len(values) ** 0.5


def two_components(model: MultimodalModel, batch: Batch) -> Posterior:
    """A mixture with weights 0.7 and 0.3 around the exact posterior."""
    exact = model.inference(batch)
    loc, scale = exact.shared.loc, exact.shared.scale
    weight = torch.tensor([[0.7], [0.3]]).double().log().expand(2, len(batch.present))
    members = torch.ones(2, 2, dtype=torch.bool)
    shared = Mixture(
        torch.cat([loc - scale, loc + scale]), scale.expand(2, -1, -1), weight, members, exact.experts.family
    )
    return exact._replace(shared=shared)


def test_joining_components_inside_the_logarithm_is_tighter_draw_by_draw_and_still_a_bound():
    """log sum_c pi_c W_c >= sum_c pi_c log W_c (Jensen), W_c the mean weight of its five draws; pi unequal."""
    model = linear_gaussian()
    copies = linear_batch(model, [[1, 1]], copies=40)
    one = linear_batch(model, [[1, 1]])
    truth = evidence(model, one).item()
    settings = {k: BoundSettings(estimator=k, samples=5, components="all") for k in ("elbo", "iwae", "iwae_inside")}
    by_draw = {k: values_of(model, two_components(model, one), one, s) for k, s in settings.items()}
    assert (by_draw["iwae_inside"] > by_draw["iwae"]).all()
    assert (by_draw["iwae"] > by_draw["elbo"]).all()
    means = {k: values_of(model, two_components(model, copies), copies, s) for k, s in settings.items()}
    assert mean(means["elbo"]) + 4 * error(means["elbo"] - means["iwae"]) < mean(means["iwae"])
    assert mean(means["iwae"]) + 4 * error(means["iwae"] - means["iwae_inside"]) < mean(means["iwae_inside"])
    assert mean(means["iwae_inside"]) < truth + 4 * error(means["iwae_inside"])


def test_the_weight_joined_inside_averages_to_the_evidence_itself():
    """E sum_c pi_c p(x, z_c) / q(z_c) = p(x): unbiased before the logarithm; 1,000 draws of one item, 4 sigma."""
    model = linear_gaussian()
    batch = linear_batch(model, [[1, 1]])
    s = BoundSettings(estimator="iwae_inside", samples=1, components="all")
    weights = values_of(model, two_components(model, batch), batch, s, n=1000).exp()
    assert mean(weights) == pytest.approx(evidence(model, batch).exp().item(), abs=4 * error(weights))
    assert error(weights) < 0.05 * mean(weights)


@pytest.mark.parametrize("beta", [0.4, 2.5])
def test_the_doubly_reparameterised_gradient_has_the_mean_of_the_bounds_at_any_beta(beta):
    """Location and scale of q = N(m + 0.3 t, 0.9 t) beside the posterior N(m, t); 40,000 items, K = 3, 4 sigma.

    With shares squared, whatever beta, the means are tens of standard errors apart.
    """
    model, n = linear_gaussian(), 40_000
    batch = linear_batch(model, [[1, 1]], copies=n)
    exact = model.inference(batch)
    found = {}
    for kind in ("iwae", "dreg"):
        loc = (exact.shared.loc + 0.3 * exact.shared.scale).detach().requires_grad_()
        scale = (0.9 * exact.shared.scale).detach().requires_grad_()
        posterior = exact._replace(shared=exact.shared._replace(loc=loc, scale=scale))
        s = BoundSettings(estimator=kind, samples=3, components="all")
        loss, _ = vae_loss(model.generator, model.generator.prior, posterior, batch, make_generator(7), s, beta)
        slopes = torch.autograd.grad(loss, (loc, scale))
        found[kind] = torch.cat([n * slope[0] for slope in slopes], 1)  # [n, 4]
    for iwae, dreg in zip(found["iwae"].T, found["dreg"].T, strict=True):
        assert mean(iwae) == pytest.approx(mean(dreg), abs=4 * (error(iwae) + error(dreg)))


def slopes_beside_the_posterior(beta):
    """Slopes [n, 2] in loc of minus the bound (K = 8) in units of 1 / t at q = N(m + 0.3 t, t): of IWAE and of DReG."""
    model, n = linear_gaussian(), 4000
    batch = linear_batch(model, [[1, 1]], copies=n)
    exact = model.inference(batch)
    scale = exact.shared.scale.detach()
    for kind in ("iwae", "dreg"):
        loc = (exact.shared.loc.detach() + 0.3 * scale).requires_grad_()
        posterior = exact._replace(shared=exact.shared._replace(loc=loc, scale=scale))
        s = BoundSettings(estimator=kind, samples=8, components="all")
        loss, _ = vae_loss(model.generator, model.generator.prior, posterior, batch, make_generator(3), s, beta)
        yield n * torch.autograd.grad(loss, loc)[0][0] * scale[0]


def test_at_the_published_beta_the_doubly_reparameterised_gradient_varies_no_less():
    """The posterior is no stationary point of the bound at beta 2.5, so paths do not vanish there: no gain is left."""
    iwae, dreg = slopes_beside_the_posterior(beta=2.5)
    assert (dreg.var(0) > 0.9 * iwae.var(0)).all()


def test_the_doubly_reparameterised_gradient_of_an_encoder_has_the_same_mean_and_less_variance():
    """q = N(m + d t, t) beside the posterior N(m, t): log-weights are const - d eps, and with K = 8 shares s_k the
    slopes of minus the bound in loc are

        IWAE: sum_k s_k (d + eps_k) / t      DReG: d sum_k s_k^2 / t

    For d = 0.3 in both coordinates E sum_k s_k^2 is near e^{2 d^2} / K = 0.15: about the variance of the former, times
    t^2; of the latter not even the second moment, d^2 0.15^2, is more than a 74th of that. Asserted: 1/50.
    """
    iwae, dreg = slopes_beside_the_posterior(beta=1.0)
    for d in range(2):
        assert mean(iwae[:, d]) == pytest.approx(mean(dreg[:, d]), abs=4 * (error(iwae[:, d]) + error(dreg[:, d])))
        assert mean(dreg[:, d]) == pytest.approx(0.3 * 0.15, rel=0.1)
        assert iwae[:, d].var().item() == pytest.approx(0.15, rel=0.2)
        assert dreg[:, d].var() < iwae[:, d].var() / 50


@pytest.mark.parametrize("row", ["mmvae", "mmvae-iwae", "mmvaeplus-dreg"])
def test_decoding_samples_in_checkpoints_changes_neither_loss_nor_gradients(monkeypatch, row):
    """Bit for bit: the second forward pass does the arithmetic of the first. One checkpoint a sample."""
    model, bound = row_model(row)
    batch, results, calls = batch_of(present=HOLES), [], []

    def counted(*arguments, **settings):
        calls.append(arguments)
        return plainly(*arguments, **settings)

    for checkpointed in (True, False):
        if not checkpointed:
            monkeypatch.setattr("multiebm.objectives.vae.checkpoint", counted)
        posterior, draws = model.inference(batch), make_generator(4)
        loss, log_px = vae_loss(model.generator, model.generator.prior, posterior, batch, draws, bound, BETA)
        results.append((loss, log_px, gradients(loss, model)))
    (loss, log_px, found), (plain, plain_px, expected) = results
    assert len(calls) == SAMPLES
    assert torch.equal(loss, plain)
    assert torch.equal(log_px, plain_px)
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


def losses_of_assignments(monkeypatch, model: MultimodalModel, bound: BoundSettings, batch: Batch, rows: list[Tensor]):
    """The loss at every assignment [B] of components to items."""
    found = []
    for chosen in rows:
        monkeypatch.setattr(Mixture, "assign", lambda self, generator, chosen=chosen: chosen)
        found.append(loss_of(model, bound, batch))
    return found


@pytest.mark.parametrize(
    "row", ["mmvae-star", "mmvaeplus", "mmvaeplus-factorised", "cmvae", "mopoe", "mwbvae", "mohelvae", "mvae", "dmvae"]
)
def test_one_component_an_item_averages_to_all_components_over_balanced_assignments(given, monkeypatch, row):
    """Item i takes component i + s modulo their number: over all shifts s every pair of item and component comes once.

    Loss and gradients, of sums of bounds (MVAE, DMVAE) too.
    """
    model, one = row_model(row, bound={"components": "one"})
    _, everything = row_model(row, bound={"components": "all"})
    batch, k = batch_of(), len(model.inference.aggregation.members)
    shifts = [(torch.arange(ITEMS) + shift) % k for shift in range(k)]
    losses = losses_of_assignments(monkeypatch, model, one, batch, shifts)
    expected = loss_of(model, everything, batch)
    assert_same(torch.stack(losses).mean(), expected, model, ROUNDED)
    assert torch.stack(losses).std() > 1e-3 * expected.abs()


def test_one_component_an_item_teaches_learned_weights_without_bias(given, monkeypatch):
    """Averaged over components with their weights pi, loss and gradients are those of all components; logits included.

    A component is drawn with pi, so its bound counts once, and d log pi brings the logits their gradient.
    """
    model, one = row_model("codevae", bound={"alpha": 0.0})
    _, everything = row_model("codevae", bound={"alpha": 0.0, "components": "all"})
    batch, pi = batch_of(), model.inference.aggregation.logits.detach().softmax(0)
    assert one.components == "one"
    assert pi.max() > 2 * pi.min()
    constant = [torch.full((ITEMS,), k) for k in range(7)]
    losses = losses_of_assignments(monkeypatch, model, one, batch, constant)
    mixed = sum(weight * loss for weight, loss in zip(pi, losses, strict=True))
    assert_same(mixed, loss_of(model, everything, batch), model, EXACT)
    uniform = gradients(torch.stack(losses).mean(), model)["inference.aggregation.logits"]
    assert (uniform - gradients(mixed, model)["inference.aggregation.logits"]).abs().max() > 1e-2


def test_with_learned_weights_any_assignment_of_items_counts_with_the_product_of_its_weights(given, monkeypatch):
    """Two items, 49 assignments: the mean over independent draws of a component for each item."""
    model, one = row_model("codevae", bound={"alpha": 0.7})
    _, everything = row_model("codevae", bound={"alpha": 0.7, "components": "all"})
    batch, pi = batch_of(items=2), model.inference.aggregation.logits.detach().softmax(0)
    pairs = [torch.tensor(pair) for pair in product(range(7), repeat=2)]
    losses = losses_of_assignments(monkeypatch, model, one, batch, pairs)
    mixed = sum(pi[pair].prod() * loss for pair, loss in zip(pairs, losses, strict=True))
    assert_same(mixed, loss_of(model, everything, batch), model, EXACT)
