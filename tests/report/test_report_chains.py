import pytest
import torch
from report_standin import VECTORS, data_uris, html, make_scene

from multiebm.core.batch import Batch
from multiebm.core.tokens import share_changed
from multiebm.modalities import Text
from multiebm.models.chains import Langevin
from multiebm.priors.prior import Prior
from multiebm.report.chains import (
    COHERENCE_ITEMS,
    FOLLOWED,
    ITEMS,
    LATENT_LEAD,
    LONGER,
    chain_panel,
    chains_section,
    prior_chain_coherence,
    prior_clouds,
    real_energies,
    scale_of_energy,
    trace_data_chain,
    trace_latent_chain,
    trace_prior_chain,
)
from multiebm.report.figures import GEN


def test_the_energy_curve_is_the_chains_own_and_its_pictures_are_its_positions():
    scene = make_scene()
    length = scene.model.data_chain.steps
    trace = trace_data_chain(scene)
    generators = scene.rng("data chain", ITEMS)
    again = scene.model.decode(scene.model.sample_latents(ITEMS, generators))
    end, info = scene.model.refine_data(again, generators, steps=LONGER * length, record=True)
    assert torch.equal(trace.values, -info.logdensity)
    assert trace.at == [0, 1, 3, 6, 9, 12]
    for t, views in zip(trace.at, trace.views, strict=True):
        for name, modality in scene.modalities.items():
            assert torch.equal(views[name], modality.to_raw(info.positions[t][name]))  # type: ignore[index]
    for name, view in scene.raw(again).items():
        assert torch.equal(trace.views[0][name], view)
    for name, view in scene.raw(end).items():
        assert torch.equal(trace.views[-1][name], view)
    assert torch.equal(trace.values[0], -scene.model.log_density_unnorm(again).detach())


def test_what_a_langevin_chain_targets_is_said_with_the_share_of_moves_that_a_metropolis_test_would_accept():
    scene = make_scene()
    length = scene.model.data_chain.steps
    assert trace_data_chain(scene).acceptance == 1.0  # displaced steps are no proposals for any density
    assert scene.model.data_temperature is None
    scene.model.data_chain = Langevin(steps=length, step_size=0.5, noise_scale=0.1)
    rng = scene.rng("data chain", ITEMS)
    start = scene.model.decode(scene.model.sample_latents(ITEMS, rng))
    _, info = scene.model.refine_data(start, rng, steps=LONGER * length)
    accepted = info.acceptance[: length - 1].mean().item()
    assert 0 < accepted < 1
    assert trace_data_chain(scene).acceptance == pytest.approx(accepted)
    page = html(chains_section(scene))
    assert "The chain targets exp(-E / T) with T = (n / s)^2 = 0.04." in page
    assert f"A Metropolis test would accept {accepted:.1%} of its moves." in page


def test_the_scale_of_the_energy_is_said_in_units_of_the_chains_temperature():
    """Energies 1, 5 of real items: 2; 0, 3, 6 before the chain: sqrt 6; 2, 2, 2 after it: 0. T = (0.1 / 0.5)^2."""
    scene = make_scene()
    real, ends = torch.tensor([1.0, 5.0]), torch.tensor([[0.0, 3.0, 6.0], [2.0, 2.0, 2.0]])
    told = "{} over real items, {} over generated ones, {} over those that the chain has refined"
    assert scale_of_energy(scene, real, ends) == (
        f"The energy has a standard deviation of {told.format('2.00', '2.45', '0.00')}. Steps of one length target no "
        "density, so this scale has no unit."
    )
    assert "over real" not in scale_of_energy(scene, real[:0], ends)
    scene.model.data_chain = Langevin(steps=3, step_size=0.5, noise_scale=0.1)
    size = 4 * 8 * 8  # of three channels and one
    assert scale_of_energy(scene, real, ends) == (
        "The chain targets exp(-E / T) with T = (n / s)^2 = 0.04. The energy has a standard deviation of "
        f"{told.format('50.0 T', '61.2 T', '0.00 T')}; draws of a Gaussian of as many dimensions, {size}, have 11.3 T."
    )
    scene.model.data_chain = Langevin(steps=3, step_size=0.5, noise_scale=0.0)
    assert "Steps without noise target no density" in scale_of_energy(scene, real, ends)


def test_energies_of_draws_of_a_gaussian_have_the_deviation_that_the_report_names():
    """E / T = |x|^2 / 2 of N(0, I), D = 256: sqrt(D / 2) = 11.3. 20,000 draws know it to 0.5 %: 5 of these."""
    x = torch.randn(20_000, 256, generator=torch.Generator().manual_seed(0))
    assert float((x.square().sum(1) / 2).std()) == pytest.approx((256 / 2) ** 0.5, rel=0.026)


def test_energies_of_real_items_are_those_of_complete_ones():
    scene = make_scene()
    batch = scene.test_batch(ITEMS)
    expected = -scene.model.log_density_unnorm(batch.views).detach()
    torch.testing.assert_close(real_energies(scene), expected)
    said = f"a standard deviation of {float(expected.std(correction=0)):#.3g} over real items"
    assert said in html(chains_section(scene))


def test_of_captions_it_is_said_how_many_words_the_data_chain_changes():
    scene = make_scene({"words": Text("words", ("a", "b", "c"), 6), **VECTORS})
    scene.model.displacement.fill_(1.0)
    trace, length = trace_data_chain(scene), scene.model.data_chain.steps
    first, then, last = (trace.views[trace.at.index(t)]["words"] for t in (0, length, LONGER * length))
    shares = [share_changed(first, tokens).mean().item() for tokens in (then, last)]
    assert min(shares) > 0
    assert shares[0] != shares[1]
    with torch.no_grad():
        section = html(chains_section(scene))
    assert f"Of the words of words {shares[0]:.1%} are others by then, and {shares[1]:.1%} at the end." in section
    assert "are others by then" not in html(chains_section(make_scene()))


def test_the_likelihood_curve_is_that_of_the_present_parts_at_every_step():
    scene = make_scene()
    whole = scene.test_batch(6)
    present = whole.present.clone()
    present[:, 1] = False
    batch = Batch(
        {name: view * present[:, i, None, None, None] for i, (name, view) in enumerate(whole.views.items())}, present
    )
    trace = trace_latent_chain(scene, batch)
    generators = scene.rng("latent chain", 6)
    start = scene.model.infer_latents(batch, generators)
    end, info = scene.model.refine_latents(start, batch, generators, steps=12, record=True)
    assert trace.values.shape == (13, 6)
    for t in (0, 12):
        means = scene.model.decode(info.positions[t])  # type: ignore[index]
        expected = scene.model.generator.log_likelihood(batch.views, means)[:, 0]
        assert torch.allclose(trace.values[t], expected)
    for name, modality in scene.modalities.items():
        assert torch.equal(trace.views[-1][name], modality.to_raw(scene.model.decode(info.positions[-1])[name]))  # type: ignore[index]


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_the_prior_chain_is_the_one_that_draws_samples(temperature):
    scene = make_scene()
    scene.model.generator.temperature = temperature
    prior = scene.model.generator.prior
    trace = trace_prior_chain(scene, prior)  # type: ignore[arg-type]
    drawn = scene.model.sample_latents(ITEMS, scene.rng("prior chain", ITEMS))
    assert trace.at == [0, 1, 2, 3, 4]  # all steps of a chain shorter than eight pictures
    assert torch.equal(trace.values[-1], prior.log_prob(drawn["shared"]).detach())
    assert torch.equal(trace.views[-1]["up"], scene.raw(scene.model.decode(drawn))["up"])


def test_the_pictures_of_a_long_prior_chain_are_equally_far_apart():
    scene = make_scene()
    prior = scene.model.generator.prior
    prior.steps = 50  # type: ignore[union-attr,assignment]
    trace = trace_prior_chain(scene, prior, 2)  # type: ignore[arg-type]
    assert trace.at == [0, 7, 14, 21, 29, 36, 43, 50]
    assert len(trace.views) == len(trace.at)


def test_a_chains_chart_shows_mean_and_quantiles_and_marks_the_training_length():
    values = torch.rand(9, 50, generator=torch.Generator().manual_seed(0))
    panel = chain_panel("title", "energy", values, 2, GEN)
    (mean,) = panel.series
    assert list(mean.x) == list(range(9))
    assert torch.equal(torch.as_tensor(mean.y), values.mean(1))
    assert torch.equal(torch.as_tensor(mean.low), values.quantile(0.1, dim=1))
    assert torch.equal(torch.as_tensor(mean.high), values.quantile(0.9, dim=1))
    assert [(mark.x, mark.label) for mark in panel.marks] == [(2, "training")]
    assert not panel.settled  # nothing of a chain that runs away may be cut off
    assert chain_panel("t", "e", values, 8, GEN).marks == []


def test_each_chain_has_its_chart_and_the_pictures_of_the_followed_items():
    section = html(chains_section(make_scene()))
    assert ">mean of real test items</text>" in section.replace("> ", ">")
    assert section.count("<svg") == 4  # the prior chain has a cloud of codes too
    assert len(data_uris(section)) == 3 * FOLLOWED * 2  # chains, items, modalities


def test_of_chains_that_a_model_does_not_have_nothing_is_said():
    section = html(chains_section(make_scene(energy=False, prior="normal")))
    for word in ("energy", "EBM", "Data chain", "Prior chain", "Left out"):
        assert word not in section
    assert section.startswith("Chains" + LATENT_LEAD)
    assert section.count("<svg") == 1
    with_prior = html(chains_section(make_scene(energy=False)))
    assert "Prior chain" in with_prior
    assert "EBM" not in with_prior


class ByChain(Prior):
    """A prior of no kind of the package that draws by the chain of another one."""

    normalised, by_chain = False, True

    def __init__(self, other):
        super().__init__()
        self.other, self.dim, self.steps = other, other.dim, other.steps

    def log_prob(self, z):
        return self.other.log_prob(z)

    def sample(self, n, rng, temperature=1.0):
        return self.other.sample(n, rng, temperature)

    def chain(self, n, rng, temperature=1.0, record=False):
        return self.other.chain(n, rng, temperature, record)


def test_a_prior_of_another_package_that_draws_by_a_chain_has_its_chart():
    scene = make_scene()
    usual = html(chains_section(scene))
    scene.model.generator.prior = ByChain(scene.model.generator.prior)
    assert html(chains_section(scene)) == usual


def test_vectors_are_shown_as_points():
    section = html(chains_section(make_scene(VECTORS)))
    assert data_uris(section) == []
    assert section.count("<svg") == 4 + 3 * len(VECTORS)


class TurningJudges:
    """Read class 0 at first, 1 ever after, in one of two modalities."""

    accuracy = {"up": 1.0, "down": 1.0}

    def __init__(self) -> None:
        self.calls = 0

    def predict(self, views):
        self.calls += 1
        n = len(views["up"])
        return {"up": torch.full((n,), int(self.calls > 1)), "down": torch.zeros(n, dtype=torch.int64)}

    def features(self, views):
        return views


def test_judges_tell_how_often_the_chain_changes_a_class():
    section = html(chains_section(make_scene()._replace(judges=TurningJudges())))
    assert "The judges read another class for 50.0% of the parts by then, and 50.0% at the end." in section
    assert "judges" not in html(chains_section(make_scene()))


class BrightJudges(TurningJudges):
    """Read whether a picture is brighter than the middle of the range."""

    def predict(self, views):
        return {name: (view.flatten(1).mean(1) > 0).long() for name, view in views.items()}


def test_coherence_along_the_prior_chain_is_that_of_what_is_decoded_at_each_step():
    scene = make_scene()._replace(judges=BrightJudges())
    prior = scene.model.generator.prior
    at, values = prior_chain_coherence(scene, prior)  # type: ignore[arg-type]
    trace = trace_prior_chain(scene, prior, COHERENCE_ITEMS)  # type: ignore[arg-type]
    assert at == trace.at
    for value, views in zip(values, trace.views, strict=True):
        bright = [view.flatten(1).mean(1) > 0.5 for view in views.values()]
        assert value.n == COHERENCE_ITEMS
        assert value.value == pytest.approx((bright[0] == bright[1]).float().mean().item(), abs=2 / COHERENCE_ITEMS)
    assert f"{values[-1].value:.3f} after {at[-1]} steps" in html(chains_section(scene))


def test_the_cloud_of_codes_is_turned_onto_its_principal_axes_and_the_draws_with_it():
    scene = make_scene()
    prior = scene.model.generator.prior
    codes, draws = prior_clouds(scene, prior)  # type: ignore[arg-type]
    points = torch.from_numpy(codes)
    torch.testing.assert_close(points.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    assert points[:, 0].var() >= points[:, 1].var()
    assert abs(torch.corrcoef(points.T)[0, 1]) < 1e-3
    assert set(draws) == {"base", "prior"}
    assert all(drawn.shape == codes.shape for drawn in draws.values())
    assert not (draws["base"] == draws["prior"]).all()
