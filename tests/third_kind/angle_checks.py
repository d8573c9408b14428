"""What `test_third_kind.py` runs in a process in which the package `angle_kind` is installed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from angle_kind import Angle
from scipy.stats import vonmises

import multiebm
from multiebm.cli.main import main
from multiebm.core.random import make_generator
from multiebm.testing import ModalityContract

N = 500
DECLARED = {"dial": {"kind": "picture", "layout": "chw"}, "angle": {"kind": "angle"}}
SETTINGS = [
    "data.settings={}",
    "model.shared=6",
    "model.private=0",
    "model.private_components=0",
    "model.temperature=1",
    "model.prior={kind: normal}",
    "model.networks={picture: {kind: conv, width: 4}, angle: {width: 48}}",
    "model.likelihood.scale=0.1",
    "model.energy={width: 8, fusion: early}",
    "model.data_chain={kind: displaced, steps: 3}",
    "training.phases=[{kind: bound, steps: 400}, {kind: cooperative, steps: 10}]",
    "training.optimiser.generator=0.005",
    "training.optimiser.inference=0.005",
    "training.precision=fp32",
]


def dial(angle: np.ndarray) -> np.ndarray:
    """Pictures [N, 1, 6, 6] in [0, 1] with a spot in the direction of the angle [N, 1]."""
    y, x = np.mgrid[-1:1:6j, -1:1:6j]
    away = (x - 0.6 * np.cos(angle)[..., None]) ** 2 + (y - 0.6 * np.sin(angle)[..., None]) ** 2
    return np.exp(-6 * away)[:, None].astype(np.float32)


def apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The distances of angles, at most pi."""
    return np.abs(np.angle(np.exp(1j * (one - other))))


def angles(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-np.pi, np.pi, (n, 1))


class TestAngle(ModalityContract):
    kind, values = "angle", angles(12, 0)
    wrong = (np.full((2, 1), np.nan), np.zeros((2, 2)), np.zeros(2))

    def grid(self, mean, scale):
        around = torch.linspace(-np.pi, np.pi, 20_001, dtype=torch.float64)[:-1, None]
        return torch.cat([around.cos(), around.sin()], 1), 2 * np.pi / 20_000


@pytest.mark.parametrize("scale", [0.1, 0.5, 2.0])
def test_the_likelihood_is_scipys_von_mises(scale):
    x, mean = angles(9, 1), angles(9, 2)
    part = Angle("a")
    states = [torch.from_numpy(np.hstack([np.cos(of), np.sin(of)])) for of in (x, mean)]
    found = part.likelihood("normal", scale, 1.0).log_density(*states)
    np.testing.assert_allclose(found.numpy(), vonmises.logpdf(x[:, 0], scale**-2, loc=mean[:, 0]), rtol=1e-6)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("third") / "run"
    angle = angles(N, 3)
    data = multiebm.from_arrays({"dial": dial(angle), "angle": angle}, DECLARED, seed=0)
    multiebm.train("arrays", folder, SETTINGS, dataset=data, progress=False)
    return folder


@pytest.fixture(scope="module")
def model(run):
    return multiebm.from_pretrained(run / "model")


def test_a_saved_model_has_the_kind(model):
    assert model.modalities["angle"] == Angle("angle")
    assert model.energy_learned


def test_each_part_is_imputed_from_the_other(model):
    """Chance is a mean distance of pi / 2; blank is what a picture is when nothing is known of its angle."""
    angle = angles(100, 4)
    found = model.impute({"dial": dial(angle)}, latent_steps=2)["angle"].numpy()
    assert found.shape == (100, 1)
    assert apart(found, angle).mean() < 0.25
    pictures = model.impute({"angle": angle}, latent_steps=2)["dial"].numpy()
    blank = dial(angles(1000, 5)).mean(0)
    assert ((pictures - dial(angle)) ** 2).mean() < 0.25 * ((blank - dial(angle)) ** 2).mean()
    far = angle + 20 * np.pi  # the same place on the circle
    np.testing.assert_allclose(
        model.impute({"angle": far})["dial"].numpy(), model.impute({"angle": angle})["dial"], atol=1e-4
    )


def test_the_chain_in_data_space_moves_angles_and_leaves_them_on_the_circle(model):
    drawn = model.sample(50)["angle"]
    moved = model.sample(50, data_steps=5)["angle"]
    assert moved.shape == (50, 1)
    assert 0 < apart(moved.numpy(), drawn.numpy()).mean() < 0.5
    views = model.decode(model.sample_latents(20, make_generator(0)))
    end, _ = model.refine_data(views, make_generator(1), 5)
    torch.testing.assert_close(end["angle"].norm(dim=1), torch.ones(20))
    held = torch.tensor([[False, True]]).expand(20, 2)
    end, _ = model.refine_data(views, make_generator(1), 5, clamp=held)
    assert torch.equal(end["angle"], views["angle"])
    assert not torch.equal(end["dial"], views["dial"])


def test_scores_and_likelihoods_tell_right_pairs_from_wrong_ones(model):
    angle = angles(60, 6)
    right = {"dial": dial(angle), "angle": angle}
    wrong = {"dial": dial(angle), "angle": angle + np.pi / 2}
    assert (model.match(right) > model.match(wrong)).float().mean() > 0.9
    assert (model.log_likelihood(right, samples=20) > model.log_likelihood(wrong, samples=20)).float().mean() > 0.9


def test_the_report_shows_it_and_the_command_line_completes_it(run, tmp_path):
    page = multiebm.write_report(run).read_text()
    assert "angle: " in page
    angle = angles(5, 7)
    np.savez(tmp_path / "given.npz", dial=dial(angle))
    with pytest.raises(SystemExit) as ended:
        main(["impute", str(run), "--parts", str(tmp_path / "given.npz"), "--out", str(tmp_path / "out.npz")])
    assert not ended.value.code
    with np.load(tmp_path / "out.npz") as out:
        assert out["angle"].shape == (5, 1)
        assert apart(out["angle"], angle).mean() < 0.4
