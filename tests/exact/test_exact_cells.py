"""Missing cells of a vector: the likelihood, its gradient and completions are those of the exact marginal."""

from dataclasses import replace

import torch

from multiebm.core.batch import Batch
from multiebm.core.names import SHARED
from small_models import linear_model, random_views, vectors

SIGMA, SAMPLES = 1.0, 80_000
NAN = float("nan")


def model_with_gaps():
    parts = {name: replace(m, missing="nan") for name, m in vectors(a=2, b=3).items()}
    return linear_model({"a": 2, "b": 3}, shared=1, private=0, scale=SIGMA, energy=None, modalities=parts)


def views_with_gaps(model):
    views = random_views(model.modalities, 4)
    views["b"][0, 1] = views["b"][1, 0] = views["b"][1, 2] = views["a"][2, 0] = NAN
    return views


def evidence(model, views):
    """log N(x_S; c_S, A_S A_S^T + sigma^2 I) over the cells S that an item has."""
    matrix = torch.cat([model.generator.decoders[name].matrix for name in views])
    loc = torch.cat([model.generator.decoders[name].offset for name in views])
    found = []
    for x in torch.cat(list(views.values()), 1):
        there = ~x.isnan()
        a = matrix[there]
        covariance = a @ a.T + SIGMA**2 * torch.eye(len(a))
        found.append(torch.distributions.MultivariateNormal(loc[there], covariance).log_prob(x[there]))
    return torch.stack(found).detach()


def test_the_likelihood_of_what_is_there_is_the_evidence_of_the_marginal():
    """Tolerance as in test_exact_likelihood: four standard deviations of the worst item at 80,000 draws."""
    model = model_with_gaps()
    views = views_with_gaps(model)
    torch.testing.assert_close(model.log_likelihood(views, samples=SAMPLES), evidence(model, views), atol=0.05, rtol=0)


def test_the_latent_chain_follows_the_posterior_given_the_cells_that_are_there():
    """The gradient of log p(x_S, z) is A_S^T (x_S - A_S z - c_S) / sigma^2 - z."""
    model = model_with_gaps()
    views, z = views_with_gaps(model), torch.randn(4, 1, generator=torch.Generator().manual_seed(1)).requires_grad_()
    there = Batch(views, torch.ones(4, 2, dtype=torch.bool))
    model.generator.log_joint(views, {SHARED: z}, there.present).sum().backward()
    matrix = torch.cat([model.generator.decoders[name].matrix for name in views]).detach()
    loc = torch.cat([model.generator.decoders[name].offset for name in views]).detach()
    residual = (torch.cat(list(views.values()), 1) - z.detach() @ matrix.T - loc).nan_to_num(0.0)
    torch.testing.assert_close(z.grad, residual @ matrix / SIGMA**2 - z.detach())


def test_a_cell_that_is_missing_teaches_nothing_and_one_that_is_there_comes_back_as_it_was():
    model = model_with_gaps()
    views = views_with_gaps(model)
    filled = model.impute(views)
    for name, view in views.items():
        assert torch.equal(filled[name][~view.isnan()], view[~view.isnan()].double())
        assert filled[name].isfinite().all()
    loss = -model.generator.log_likelihood(views, model.generator({SHARED: torch.zeros(4, 1)})).sum()
    loss.backward()
    offset = model.generator.decoders["b"].offset
    expected = -(views["b"] - offset.detach()).nan_to_num(0.0).sum(0) / SIGMA**2
    torch.testing.assert_close(offset.grad, expected)
