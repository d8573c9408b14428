"""The plain steps that the library's are timed against have its losses and gradients: only then a ratio is fair."""

import sys
from pathlib import Path

import pytest
import torch

from multiebm.core.batch import Batch
from multiebm.core.errors import ConfigError
from multiebm.experiments.build import build_model, build_state
from multiebm.experiments.load import load_experiment
from multiebm.experiments.schema import Experiment
from multiebm.modalities import Picture
from multiebm.models.model import MultimodalModel
from multiebm.nn.blocks import ResidualBlock
from multiebm.nn.pictures import PictureDecoder
from multiebm.nn.precision import Mixed
from multiebm.training.steps import TrainingStep
from small_models import random_views, whole

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from reference_vae import BOUNDS, plain_copy, reference_state, reference_step_of  # noqa: E402
from vae_step import TARGETS  # noqa: E402

PICTURES = {f"m{i}": Picture(f"m{i}", (3, 12, 12)) for i in range(5)}
SMALL = ["model.shared=6", "model.networks.picture.width=6"]
LEARNED = ("log_scale", "prior.logits")  # start at 0, where mistakes about them do not show
CASES = [(row, []) for row in TARGETS]
CASES += [("mmvae", ["training.phases.bound.samples=3"]), ("mopoe", ["model.networks.picture.width=5"])]


def small(row: str, *settings: str) -> tuple[Experiment, MultimodalModel]:
    own = ["model.private=3"] if row in ("mmvaeplus", "cmvae") else []
    own += ["model.prior.components=7"] if row == "cmvae" else []
    own += ["training.phases.bound.samples=1"] if row == "mmvae" else []
    preset = load_experiment(f"polymnist-{row}")
    experiment = load_experiment(preset, ["training.precision=fp32", *SMALL, *own, *settings])
    model = build_model(experiment.model, PICTURES, seed=3)
    draws = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if any(part in name for part in LEARNED):
                value.copy_(0.4 * torch.randn(value.shape, generator=draws))
    return experiment, model


def both_steps(row: str, *settings: str) -> tuple[float, float, MultimodalModel, MultimodalModel]:
    """Losses and models of one step of the library and one of the reference, from the same weights and draws."""
    experiment, model = small(row, *settings)
    reference = reference_state(experiment, row, model)
    state = build_state(experiment, model, None)
    batch = whole(random_views(PICTURES, 40))
    expected = reference_step_of(reference, batch)["loss/elbo"]
    return (
        TrainingStep(experiment.training.phases, experiment.training.optimiser)(state, batch)["loss/elbo"],
        expected,
        model,
        reference.model,
    )


@pytest.mark.parametrize(("row", "settings"), CASES)
def test_in_fp32_both_steps_have_the_same_loss_gradients_and_new_weights(row, settings):
    loss, expected, model, plain = both_steps(row, *settings)
    assert loss == pytest.approx(expected, rel=1e-6)  # most of it is the constant of the likelihood
    ours, theirs = dict(model.named_parameters()), list(plain.parameters())
    assert len(ours) == len(theirs) > 50
    for (name, p), q in zip(ours.items(), theirs, strict=True):
        assert p.grad.abs().max() > 0, name
        # float32; in DReG at beta > 1 factors of both signs cancel
        tolerance = (5e-4 if row == "mmvae" else 1e-4) * q.grad.abs().max().item()
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}")
        moved = (p - q).abs() > 1e-6  # Adam's first move is the sign of the gradient, which rounding decides near 0
        assert moved.float().mean() < 0.02, name


@pytest.mark.parametrize("row", TARGETS)
def test_in_bf16_loss_and_gradients_agree_with_the_reference(row):
    """The loss, of which the likelihood's constant is most, and the direction and length of the whole gradient."""
    loss, expected, model, plain = both_steps(row, "training.precision=bf16")
    assert loss == pytest.approx(expected, rel=2e-5)
    ours, theirs = (torch.cat([p.grad.flatten() for p in m.parameters()]) for m in (model, plain))
    assert torch.cosine_similarity(ours, theirs, 0) > 0.999
    assert ours.norm().item() == pytest.approx(theirs.norm().item(), rel=0.02)


@pytest.mark.parametrize("row", ["mmvaeplus", "mopoe"])
def test_a_plain_copy_has_the_same_weights_and_none_of_the_librarys_shortcuts(row):
    _, model = small(row)
    plain = plain_copy(model)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), plain.parameters(), strict=True))
    assert all(p.is_contiguous() for p in plain.parameters())
    assert not [m for m in plain.modules() if isinstance(m, Mixed | ResidualBlock | PictureDecoder)]
    z = torch.randn(4, model.generator.prior.dim + model.generator.private)
    with torch.no_grad():
        for name, x in random_views(PICTURES, 4).items():
            mean = plain.generator.decoders[name](z)
            assert mean.is_contiguous()
            torch.testing.assert_close(mean, model.generator.decoders[name](z))
            for got, expected in zip(plain.inference.encoders[name](x), model.inference.encoders[name](x), strict=True):
                torch.testing.assert_close(got, expected)


def test_what_the_reference_does_not_write_out_is_refused():
    assert set(TARGETS) == set(BOUNDS)
    experiment, model = small("mvae")
    with pytest.raises(ConfigError, match="got row 'dmvae', expected one of mmvaeplus"):
        reference_state(experiment, "dmvae", model)
    with pytest.raises(ConfigError, match=r"training\.phases\.bound\.components: got 'sum', expected 'one' as in"):
        reference_state(experiment, "mopoe", model)
    several, _ = small("mmvaeplus", "training.phases.bound.samples=2")
    with pytest.raises(ConfigError, match="samples: got 2 for mmvaeplus, expected 1"):
        reference_state(several, "mmvaeplus", model)
    views = random_views(PICTURES, 2)
    with pytest.raises(ConfigError, match="parts missing"):
        reference_step_of(reference_state(experiment, "mvae", model), Batch(views, torch.zeros(2, 5).bool()))
