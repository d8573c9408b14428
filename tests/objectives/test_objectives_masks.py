"""Masking a modality is dropping it: the losses of a masked batch are those of the model without the modality."""

import torch

from multiebm.core.batch import Batch, mask_views
from multiebm.core.random import make_generator
from multiebm.objectives.cooperative import inference_loss
from small_models import cross_draw, elbo_loss, random_views, small_model, vectors, whole, without

PRESENT = torch.tensor([[True, False, True]] * 6)


def setup():
    """A model of a, b, c with b masked, and the same parts of it without b; no private codes, so draws agree."""
    model = small_model(vectors(a=2, b=3, c=2), private=0, energy=None)
    views = random_views(model.modalities, 6)
    masked = Batch(mask_views(views, PRESENT), PRESENT)
    inference, generator = without(model, "b")
    return model, masked, inference, generator, whole({n: views[n] for n in ("a", "c")})


def gradients(loss, *modules):
    return torch.autograd.grad(loss, [p for module in modules for p in module.parameters()], allow_unused=True)


def test_the_bound_and_its_gradients():
    model, masked, inference, generator, dropped = setup()
    results = []
    for q, g, batch in ((model.inference, model.generator, masked), (inference, generator, dropped)):
        draw = cross_draw(g, g.prior, q(batch), batch, make_generator(0))
        loss = elbo_loss(g.log_likelihood(batch.views, g(draw.latents)), draw, batch.present, 1.3)
        results.append((loss, gradients(loss, inference, generator)))
    torch.testing.assert_close(results[0][0], results[1][0])
    for left, right in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


def test_reconstruction_and_inference_losses_on_given_codes():
    model, masked, inference, generator, dropped = setup()
    z = {"shared": torch.randn(6, 3, generator=make_generator(0))}
    results = []
    for q, g, batch in ((model.inference, model.generator, masked), (inference, generator, dropped)):
        posterior = q(batch)
        phi = inference_loss(posterior.log_prob(z, batch.present), 1.0, None, 0.0)
        results.append((torch.where(batch.present, g.log_likelihood(batch.views, g(z)), 0.0).sum(1).mean(), phi))
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right)
