"""The diffusion refiner: both forward processes by hand, the way back in closed form, and what it must not touch."""

import math
import sys
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from multiebm.core.errors import CheckpointError, ConfigError
from multiebm.core.random import item_generators, make_generator
from multiebm.experiments.saved import from_pretrained, start_from
from multiebm.modalities import Picture
from multiebm.models.diffusion import Diffusion, DiffusionRefiner, check_diffusers, drawing
from small_models import mixed, random_views, small_model, vectors

needs_diffusers = pytest.mark.skipif(find_spec("diffusers") is None, reason="the extra diffusion is not installed")
FACE = {"face": Picture("face", (1, 8, 8))}


def kept_signal() -> torch.Tensor:
    """a_t, t = 0 .. 999: the product of 1 - beta of the schedule of DDPM, in float64."""
    return torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)


def refiner(formulation: int = 1, steps: int = 50, parts=FACE, seed: int = 0) -> DiffusionRefiner:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DiffusionRefiner(Diffusion(formulation, 8, steps), parts).eval()


def small_refined(formulation: int = 2, seed: int = 0):
    """A model of a picture and two vectors, with a refiner that has learned nothing."""
    model = small_model(mixed())
    model.diffusion = refiner(formulation, 20, model.modalities, seed)
    return model


class Known(nn.Module):
    """The noise that is to be expected in x_t where x ~ N(mean, variance) in every cell: a line, by hand.

    cov(eps, y_t) / var(y_t) = sqrt(1 - a) / (a v + 1 - a), around E[y_t] = sqrt(a) m; y_t = x_t - shift g.
    """

    def __init__(self, mean: float, variance: float, shift: float) -> None:
        super().__init__()
        self.mean, self.variance, self.shift, self.kept = mean, variance, shift, kept_signal().float()

    def forward(self, x, guess, t):
        a = self.kept[t].view(-1, 1, 1, 1)
        y = x - self.shift * guess
        return (1 - a).sqrt() * (y - a.sqrt() * self.mean) / (a * self.variance + 1 - a)


# --- the way there


@needs_diffusers
@pytest.mark.parametrize("formulation", [1, 2])
def test_the_marginal_of_the_forward_process_is_the_one_by_hand(formulation):
    """x_t ~ N(sqrt(a_t) x + (formulation 2) g, (1 - a_t) I): exactly in x and g, the variance by 60,000 draws."""
    r, n = refiner(formulation), 60_000
    x, g = torch.full((n, 1, 1, 1), 0.7), torch.full((n, 1, 1, 1), -0.4)
    for t in (0, 37, 500, 999):
        a = float(kept_signal()[t])
        noise = torch.randn(n, 1, 1, 1, generator=make_generator(t))
        found = r.noised(x, g, noise, torch.full((n,), t))
        assert r.noised(x, g, torch.zeros_like(x), torch.full((n,), t))[0].item() == pytest.approx(
            math.sqrt(a) * 0.7 + (-0.4 if formulation == 2 else 0), abs=1e-6
        )
        assert found.var().item() == pytest.approx(1 - a, rel=4 * math.sqrt(2 / n))
        expected = x * math.sqrt(a) + (g if formulation == 2 else 0) + math.sqrt(1 - a) * noise
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)  # 1000 factors in float32: a_t is off by 6e-5


@needs_diffusers
def test_the_marginal_of_formulation_2_is_what_its_steps_add_up_to():
    """x_1 = sqrt(1 - beta_1) x + g + ..., and then x_t - g shrinks towards g: x_t = sqrt(1 - b) (x_t-1 - g) + g."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    mean, variance, x, g = 0.7, 0.0, 0.7, -0.4
    for t, beta in enumerate(betas[:501].tolist()):
        mean = math.sqrt(1 - beta) * (mean - (g if t else 0)) + g
        variance = (1 - beta) * variance + beta
    r, at = refiner(2), torch.tensor([500])
    one = torch.ones(1, 1, 1, 1)
    found = r.noised(x * one, g * one, 0 * one, at).item()
    assert found == pytest.approx(mean, abs=1e-6)
    assert (r.noised(x * one, g * one, one, at).item() - found) ** 2 == pytest.approx(variance, rel=1e-5)


@needs_diffusers
def test_formulation_2_around_a_guess_of_zero_is_the_plain_diffusion():
    x = torch.randn(3, 1, 8, 8, generator=make_generator(0)).tanh()
    noise, t = torch.randn(3, 1, 8, 8, generator=make_generator(1)), torch.tensor([3, 400, 999])
    one, two = refiner(1), refiner(2)
    nothing = {"face": torch.zeros_like(x)}
    assert torch.equal(one.noised(x, 0 * x, noise, t), two.noised(x, 0 * x, noise, t))
    drawn = [r.refine(nothing, item_generators(5, 3))["face"] for r in (one, two)]
    assert torch.equal(*drawn)
    assert drawn[0].std() > 0.1


@needs_diffusers
def test_formulation_2_is_formulation_1_of_a_network_that_takes_the_guess_off():
    """The same draws of the same noise, whatever the network: the shift is a change of the network's input."""

    class Shifted(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x, guess, t):
            return self.net(x - guess, guess, t)

    one, two = refiner(1), refiner(2)
    two.networks["face"] = Shifted(one.networks["face"])
    guess = {"face": torch.randn(4, 1, 8, 8, generator=make_generator(0)).tanh()}
    drawn = [r.refine(guess, item_generators(5, 4))["face"] for r in (one, two)]
    torch.testing.assert_close(*drawn, atol=2e-4, rtol=0)


# --- the way back


@needs_diffusers
@pytest.mark.parametrize("formulation", [1, 2])
def test_a_step_back_is_the_posterior_of_the_forward_process(formulation):
    """The mean of q(x_t' | x_t, x) has the three weights of DDPM and of DiffuseVAE's code, on times 20 apart."""
    r, a = refiner(formulation), kept_signal()
    x, g, noise = (torch.randn(2, 1, 8, 8, generator=make_generator(i)).tanh() for i in range(3))
    shift, seen = g if formulation == 2 else 0 * g, list[torch.Tensor]()

    class Cheating(nn.Module):
        """Knows x: the noise that is in x_t."""

        def forward(self, x_t, guess, t):
            seen.append(x_t)
            return (x_t - shift - a[t].sqrt().float().view(-1, 1, 1, 1) * x) / (1 - a[t]).sqrt().float().view(
                -1, 1, 1, 1
            )

    r.networks["face"] = Cheating()
    end = r.refine({"face": g}, make_generator(7), steps=50)["face"]
    torch.testing.assert_close(end, x, atol=1e-4, rtol=0)  # and x_0 is y_0, without g
    draws = make_generator(7)
    start = torch.randn(2, 1, 8, 8, generator=draws)
    torch.testing.assert_close(seen[0], start + shift, atol=1e-6, rtol=0)
    for i, (t, later) in enumerate([(999, 979), (979, 959)]):
        kept = a[t] / a[later]
        of_x = a[later].sqrt() * (1 - kept) / (1 - a[t])
        of_x_t = kept.sqrt() * (1 - a[later]) / (1 - a[t])
        spread = ((1 - a[later]) / (1 - a[t]) * (1 - kept)).sqrt()
        mean = of_x * x + of_x_t * seen[i] + (1 - of_x_t) * shift
        step = spread * torch.randn(2, 1, 8, 8, generator=draws)
        torch.testing.assert_close(seen[i + 1], (mean + step).float(), atol=2e-5, rtol=0)


def end_of_the_way_back(m: float, v: float, steps: int) -> tuple[float, float]:
    """Mean and deviation of a cell after the way back from N(0, 1), where the noise that is to be expected in y_t of
    x ~ N(m, v) is known. Each step is a line in y_t, so both follow by hand.
    """
    a, mean, variance, apart = kept_signal(), 0.0, 1.0, 1000 // steps
    for t in range(999, -1, -apart):
        now, later = float(a[t]), float(a[t - apart]) if t >= apart else 1.0
        slope = math.sqrt(1 - now) / (now * v + 1 - now)  # eps = slope (y - sqrt(a) m)
        x_of_y = (1 - math.sqrt(1 - now) * slope) / math.sqrt(now)  # x = x_of_y y + sqrt(1 - a) slope m
        kept = now / later
        of_x, of_y = math.sqrt(later) * (1 - kept) / (1 - now), math.sqrt(kept) * (1 - later) / (1 - now)
        mean = (of_x * x_of_y + of_y) * mean + of_x * math.sqrt(1 - now) * slope * m
        variance = (of_x * x_of_y + of_y) ** 2 * variance + (1 - later) / (1 - now) * (1 - kept)
    return mean, math.sqrt(variance)


@needs_diffusers
@pytest.mark.parametrize(("formulation", "steps"), [(1, 250), (2, 250), (2, 50)])
def test_the_way_back_ends_where_it_does_by_hand_if_the_noise_is_known(formulation, steps):
    """x ~ N(0.2, 0.1^2), 40,000 cells; x is hardly ever clipped. False alarm < 1e-4."""
    r = refiner(formulation, steps)
    r.networks["face"] = Known(0.2, 0.01, float(formulation == 2))
    drawn = r.refine({"face": torch.full((625, 1, 8, 8), 0.6)}, make_generator(3))["face"]
    (mean, std), n = end_of_the_way_back(0.2, 0.01, steps), drawn.numel()
    assert drawn.mean().item() == pytest.approx(mean, abs=4 * std / math.sqrt(n))
    assert drawn.std().item() == pytest.approx(std, rel=4 / math.sqrt(2 * n))


def test_the_way_back_comes_closer_to_the_data_the_more_steps_it_has():
    """The variance of a step is that of known x, the smaller of DDPM's two: what comes out varies too little."""
    ends = [end_of_the_way_back(0.2, 0.01, steps) for steps in (50, 250, 1000)]
    assert [mean for mean, _ in ends] == pytest.approx([0.2] * 3, abs=1e-6)
    assert [std for _, std in ends] == pytest.approx([0.0683, 0.0889, 0.0963], abs=1e-4)  # 0.1 is right


@needs_diffusers
def test_an_item_depends_on_its_own_noise_alone():
    views = random_views(mixed(), 5)
    model = small_refined()
    together = model.diffusion.refine(views, item_generators(1, 5), 10)["face"]
    alone = model.diffusion.refine({n: v[3:4] for n, v in views.items()}, item_generators(1, 1, 3), 10)["face"]
    torch.testing.assert_close(together[3:4], alone, atol=1e-5, rtol=0)
    assert (together[:3] - together[2:]).abs().max() > 0.1


# --- what it leaves alone


@needs_diffusers
def test_given_parts_and_cells_and_parts_that_are_no_pictures_stay_as_they_are():
    model = small_refined()
    views = random_views(mixed(), 6)
    held = {name: torch.zeros_like(view, dtype=torch.bool) for name, view in views.items()}
    held["face"][:2] = True
    held["face"][2, :, :4] = True
    found = model.diffusion.refine(views, item_generators(0, 6), 5, held)
    assert torch.equal(found["left"], views["left"])
    assert torch.equal(found["right"], views["right"])
    assert torch.equal(found["face"][held["face"]], views["face"][held["face"]])
    assert (found["face"] != views["face"])[~held["face"]].float().mean() > 0.99
    assert model.diffusion.refine(views, item_generators(0, 6), 5, {"face": held["face"] | True}) == views


@needs_diffusers
def test_an_item_draws_the_same_noise_whichever_parts_of_others_are_given():
    parts = {"face": Picture("face", (1, 8, 8)), "hand": Picture("hand", (1, 8, 8))}
    r, views = refiner(1, 5, parts), random_views(parts, 2)
    nothing = {name: torch.zeros_like(view, dtype=torch.bool) for name, view in views.items()}
    free = r.refine(views, item_generators(0, 2), 5, nothing)
    given = r.refine(views, item_generators(0, 2), 5, nothing | {"face": nothing["face"] | True})
    assert torch.equal(free["hand"], given["hand"])


@needs_diffusers
def test_samples_and_completions_go_through_the_refiner_and_keep_what_was_given():
    model = small_refined()
    plain, drawn = model.sample(4), model.sample(4, diffusion_steps=None)
    assert torch.equal(plain["left"], drawn["left"])
    latents = model.sample_latents(4, rng := item_generators(0, 4))
    with torch.no_grad():
        expected = model.diffusion.refine(model.decode(latents), rng, 20)["face"]
    torch.testing.assert_close(drawn["face"], model.modalities["face"].to_raw(expected), atol=1e-5, rtol=0)
    assert not torch.equal(drawn["face"], model.sample(4, diffusion_steps=10)["face"])
    raw = {"face": plain["face"][:2], "left": plain["left"][:2]}
    present = torch.tensor([[True, True, False], [False, True, False]])
    before, after = (model.impute(raw, present=present, diffusion_steps=steps) for steps in (0, 20))
    assert torch.equal(after["face"][0], raw["face"][0])
    assert not torch.equal(after["face"][1], before["face"][1])
    assert torch.equal(after["right"], before["right"])


# --- keeping it, and what is refused


@needs_diffusers
def test_a_saved_model_has_its_refiner_and_draws_the_same(tmp_path):
    model = small_refined(formulation=2)
    model.save_pretrained(tmp_path / "model")
    again = from_pretrained(tmp_path / "model")
    assert again.diffusion.settings == Diffusion(2, 8, 20)
    for name, view in model.sample(3, diffusion_steps=None).items():
        assert torch.equal(again.sample(3, diffusion_steps=None)[name], view)
    small_model(mixed()).save_pretrained(tmp_path / "plain")
    assert from_pretrained(tmp_path / "plain").diffusion is None


@needs_diffusers
def test_training_goes_on_from_a_refined_model_without_its_refiner(tmp_path):
    model, fresh = small_refined(), small_model(mixed(), seed=3)
    model.save_pretrained(tmp_path / "model")
    start_from(fresh, tmp_path / "model")
    assert fresh.diffusion is None
    saved = model.state_dict()
    assert all(torch.equal(saved[name], own) for name, own in fresh.state_dict().items())


@needs_diffusers
def test_a_description_with_a_refiner_that_cannot_be_is_refused(tmp_path, monkeypatch):
    model = small_refined()
    object.__setattr__(model.diffusion.settings, "steps", 30)
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"diffusion\.steps: got 30, expected: 1, 2, 4"):
        from_pretrained(tmp_path / "model")
    object.__setattr__(model.diffusion.settings, "steps", 20)
    object.__setattr__(model.diffusion.settings, "width", 1024)
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(CheckpointError, match="larger than they are"):
        from_pretrained(tmp_path / "model")


def test_settings_that_make_no_refiner_are_told_together():
    with pytest.raises(ConfigError) as told:
        Diffusion(3, 10, 30)  # type: ignore[arg-type]
    assert [line.split(",")[0] for line in told.value.problems] == [
        "formulation: got 3",
        "width: got 10",
        "steps: got 30",
    ]
    assert "1000 is a whole multiple: 1, 2, 4, 5, 8" in str(told.value)


def test_steps_without_a_refiner_are_refused_with_the_way_to_one():
    model = small_model(vectors(a=2))
    for steps in (None, 250):
        with pytest.raises(ConfigError, match=f"diffusion_steps: got {steps}.*no diffusion refiner.*fit-refiner RUN"):
            model.sample(2, diffusion_steps=steps)
    views = {"a": torch.ones(2, 2)}
    assert drawing(None, 0)(views, None) is views


@needs_diffusers
def test_steps_that_do_not_divide_the_times_are_refused_and_noise_beside_them():
    model = small_refined()
    for steps in (30, -1, 2000, "250", 2.5):
        with pytest.raises(ConfigError, match=f"diffusion_steps: got {steps!r}, expected 0 or a number of which 1000"):
            model.sample(2, diffusion_steps=steps)
    with pytest.raises(ConfigError, match="got true with diffusion_steps=20, .*the diffusion is a density of data"):
        model.sample(2, diffusion_steps=20, noise=True)


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(
        ConfigError, match=r'fit-refiner: got no package diffusers.*pip install "multiebm\[diffusion\]"'
    ):
        check_diffusers("fit-refiner")
