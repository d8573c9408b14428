"""A diffusion refiner that is fitted after training: what it learns, and that nothing else changes."""

import sys
from importlib.util import find_spec
from itertools import count

import pytest
import torch
from torch.nn.functional import avg_pool2d, pad

from multiebm.core.errors import ConfigError, DataError, DivergenceError
from multiebm.core.random import item_generators, make_generator
from multiebm.data import from_arrays
from multiebm.experiments.fit_prior import fit_prior
from multiebm.experiments.fit_refiner import Learning, fit_refiner, guesses, learn
from multiebm.modalities import Picture
from multiebm.models.diffusion import Diffusion, DiffusionRefiner
from multiebm.priors.energy import Energy
from multiebm.priors.prior import Settling
from small_models import mixed, small_model, vectors

needs_diffusers = pytest.mark.skipif(find_spec("diffusers") is None, reason="the extra diffusion is not installed")


def bars(n: int, side: int, seed: int) -> torch.Tensor:
    """States [n, 1, side, side]: one bright bar, a pixel wide, lying or standing, on black."""
    rng = make_generator(seed)
    at, lying = torch.randint(side, (n,), generator=rng), torch.rand(n, generator=rng) < 0.5
    standing = (torch.arange(side) == at[:, None])[:, None, :].expand(n, side, side)
    return torch.where(lying[:, None, None], standing.transpose(1, 2), standing)[:, None].float() * 2 - 1


def blurred(x: torch.Tensor) -> torch.Tensor:
    """The mean of the 3 x 3 pixels around each, as a decoder that knows too little gives it."""
    return avg_pool2d(pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)


def deblurred(settings: Diffusion, side: int, how: Learning, steps: int) -> tuple[float, float]:
    """Mean squared errors of 200 blurred bars and of what a refiner, which learned on others, makes of them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        refiner = DiffusionRefiner(settings, {"bar": Picture("bar", (1, side, side))})

        def pairs():
            for i in count():
                x = bars(how.batch, side, i)
                yield {"bar": (x, blurred(x), torch.ones_like(x, dtype=torch.bool))}

        learn(refiner, pairs(), how, make_generator(1), lambda said: None)
    x = bars(200, side, 10**7)
    found = refiner.refine({"bar": blurred(x)}, item_generators(0, 200), steps)["bar"]
    return (blurred(x) - x).square().mean().item(), (found - x).square().mean().item()


@needs_diffusers
@pytest.mark.parametrize("formulation", [1, 2])
def test_a_refiner_takes_most_of_a_known_blur_away(formulation):
    blur, left = deblurred(Diffusion(formulation, 8), 4, Learning(steps=150, rate=5e-3, batch=64), 10)
    assert left < blur / 2.5


@needs_diffusers
@pytest.mark.slow
@pytest.mark.parametrize("formulation", [1, 2])
def test_a_refiner_that_learns_longer_takes_a_known_blur_of_larger_pictures_away(formulation):
    blur, left = deblurred(Diffusion(formulation, 16), 8, Learning(steps=1500, rate=2e-3, batch=64), 50)
    assert left < blur / 10


def data(n: int = 40):
    faces = torch.rand(n, 3, 8, 8, generator=make_generator(0)).numpy()
    values = {size: torch.randn(n, i, generator=make_generator(i)).numpy() for i, size in ((2, "left"), (3, "right"))}
    kinds = {"face": {"kind": "picture"}, "left": {"kind": "vector"}, "right": {"kind": "vector"}}
    return from_arrays({"face": faces} | values, kinds)


TINY, FEW = Diffusion(1, 4, 5), Learning(steps=3, batch=8)


@needs_diffusers
def test_the_model_stays_as_it_was_and_the_same_seed_gives_the_same_refiner():
    model, heard = small_model(mixed()), []
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = fit_refiner(model, data(), TINY, FEW, tell=heard.append)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(6)
    second = fit_refiner(model, data(), TINY, FEW)
    assert model.diffusion is None
    assert not model.training or all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for name, value in first.state_dict().items():
        assert torch.equal(value, before[name] if name in before else second.state_dict()[name]), name
    assert [said.split(":")[0] for said in heard] == [f"step {i} of 3" for i in (1, 2, 3)]
    other = fit_refiner(model, data(), TINY, FEW, seed=1)
    assert not torch.equal(first.sample(2, diffusion_steps=5)["face"], other.sample(2, diffusion_steps=5)["face"])


def test_it_learns_from_reconstructions_of_what_is_there():
    model, dataset = small_model(mixed()).eval(), data(8)
    dataset.train.present[0, 0] = False

    class Once(list):
        """A stream of the training rows."""

    batch = dataset.batch("train", torch.arange(len(dataset.train)))
    with torch.no_grad():
        pair = next(guesses(model, Once([batch]), rng := make_generator(0)))
        expected = model.decode(model.infer_latents(batch, make_generator(0)))["face"]
    assert list(pair) == ["face"]
    real, guess, there = pair["face"]
    assert torch.equal(guess, expected)
    assert torch.equal(there.flatten(1).all(1), batch.present[:, 0])
    assert torch.equal(real[batch.present[:, 0]], batch.views["face"][batch.present[:, 0]])
    assert torch.equal(real[~batch.present[:, 0]], guess[~batch.present[:, 0]])
    del rng


@needs_diffusers
def test_what_is_not_there_does_not_count_in_the_loss():
    refiner = DiffusionRefiner(TINY, mixed()).eval()
    x, guess = torch.zeros(4, 3, 8, 8), torch.zeros(4, 3, 8, 8)
    there = torch.zeros_like(x, dtype=torch.bool)
    assert refiner.loss("face", x, guess, there, make_generator(0)).item() == 0
    there[1:3] = True
    found = refiner.loss("face", x, guess, there, make_generator(0)).item()
    t = torch.randint(1000, (4,), generator=(rng := make_generator(0)))
    noise = torch.randn(4, 3, 8, 8, generator=rng)
    off = refiner.denoise("face", refiner.noised(x, guess, noise, t), guess, t) - noise
    assert found == pytest.approx(off[1:3].square().mean().item(), rel=1e-5)


@needs_diffusers
def test_a_prior_that_is_fitted_later_leaves_the_refiner_as_it_is():
    model = fit_refiner(small_model(mixed(), prior={"kind": "normal"}), data(64), TINY, FEW)
    prior = Energy(width=8, layers=1, steps=2, step_size=0.4)
    fitted = fit_prior(model, data(80), prior, Settling(steps=1))
    for name, value in model.diffusion.state_dict().items():
        assert torch.equal(fitted.diffusion.state_dict()[name], value), name


@needs_diffusers
def test_a_loss_that_is_not_finite_ends_the_fit():
    with pytest.raises(DivergenceError, match="step 3 of the refiner: its loss is not finite"):
        fit_refiner(small_model(mixed()), data(), TINY, Learning(steps=30, rate=1e30, batch=8))


def test_what_cannot_be_fitted_is_refused_before_work_starts(monkeypatch):
    model = small_model(mixed())
    for how, said in (
        (Learning(steps=0), "steps: got 0, expected at least 1"),
        (Learning(batch=0), "batch: got 0, expected at least 1"),
        (Learning(rate=0.0), "rate: got 0.0, expected a number above 0"),
    ):
        with pytest.raises(ConfigError, match=said):
            fit_refiner(model, data(), TINY, how)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "diffusers", None)
        with pytest.raises(ConfigError, match=r'fit-refiner: got no package diffusers.*"multiebm\[diffusion\]"'):
            fit_refiner(model, data(), TINY, FEW)


@needs_diffusers
def test_a_model_or_data_without_pictures_are_refused():
    with pytest.raises(ConfigError, match="got a model of a, b, none of them pictures"):
        fit_refiner(small_model(vectors(a=2, b=2)), data(), TINY, FEW)
    faceless = data()
    faceless.train.present[:, 0] = False
    with pytest.raises(DataError, match="no training item has face"):
        fit_refiner(small_model(mixed()), faceless, TINY, FEW)
