"""Section on the chains: energy along the data chain, likelihood along the latent one, density along the prior's."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from multiebm.core.batch import Batch
from multiebm.core.modality import Views
from multiebm.evaluation.result import Result
from multiebm.evaluation.samples import joint_coherence
from multiebm.models.inference import SHARED, Latents
from multiebm.nn.spectral import frozen
from multiebm.priors.energy import EnergyPrior
from multiebm.report.figures import DATA, EBM, GEN, Cloud, Level, Mark, Panel, Series, draw_clouds, draw_panel
from multiebm.report.grids import picture_rows
from multiebm.report.markup import block, columns, join, paragraph, section
from multiebm.report.scene import NEEDS_DATA, POINTS, Scene, cloud_charts

ITEMS = 64  # chains whose mean and quantiles are drawn
FOLLOWED = 2  # chains whose pictures are shown
LONGER = 4  # times the training length, to see what the training length hides
BAND = (0.1, 0.9)  # quantiles of the shaded band
PRIOR_PICTURES = 8
COHERENCE_ITEMS = 500  # draws of the prior whose coherence is read along its chain


class Trace(NamedTuple):
    """`values` [T+1, B] along a chain, and the raw `views` of the followed items at the steps `at`, in that order."""

    values: Tensor
    at: list[int]
    views: list[Views]


def chains_section(scene: Scene) -> str:
    """All three chains, each with its curve and pictures; what the model does not have is said."""
    lead = (
        "What the Markov chains do, at the length used in training (dotted line) and four times longer. A chain that "
        "works lowers the energy or raises the likelihood, and what it makes stays good beyond that line; whether "
        "these do is measured below each chart."
    )
    parts = [data_chain_part(scene), latent_chain_part(scene), prior_chain_part(scene)]
    return section("chains", "Chains", lead, join(parts))


def data_chain_part(scene: Scene) -> str:
    """Energy along the data chain from generated items, with the pictures it passes through."""
    title = "Data chain: energy of generated items"
    length = scene.model.data_chain.steps
    if scene.no_energy or length == 0:
        return _omitted(title, f"Left out: {scene.no_energy or 'the data chain has no steps'}.")
    trace, start, ends = trace_data_chain(scene)
    levels = [] if (level := real_energy(scene)) is None else [Level(level, "mean of real test items", DATA)]
    panel = chain_panel(title, "energy", trace.values, length, GEN, levels)
    fell = float((trace.values[length] < trace.values[0]).float().mean())
    words = (
        f"Mean energy {_ends(trace.values, length)}; {fell:.0%} of the items are lower after {length} steps."
    ) + _flips(scene, start, ends)
    return _part(scene, title, panel, words, trace, "data chain")


def real_energy(scene: Scene) -> float | None:
    """Return the mean energy of complete test items; None where there are none, or no data."""
    if scene.dataset is None:
        return None
    real = scene.test_batch(ITEMS)
    complete = {name: view[real.present.all(1)] for name, view in real.views.items()}
    if not len(next(iter(complete.values()))):
        return None
    with torch.no_grad(), frozen(scene.model):
        return -float(scene.model.log_density_unnorm(complete).mean())


def trace_data_chain(scene: Scene) -> tuple[Trace, Views, list[Views]]:
    """Run the data chain (energies of shape [T+1, B]) at `LONGER` times its length; also return its start and where it
    is after 1x and `LONGER`x.
    """
    generators = scene.generators("data chain", ITEMS)
    start = scene.model.decode(scene.model.sample_latents(ITEMS, generators))
    length = scene.model.data_chain.steps
    _, info = scene.model.refine_data(start, generators, steps=LONGER * length, record=True)
    assert info.positions is not None
    at = sorted({0, length // 2, length, 2 * length, 3 * length, LONGER * length})
    views = [_as_views(info.positions[t]) for t in at]
    trace = Trace(-info.logdensity.cpu(), at, [scene.raw(view) for view in views])
    return trace, start, [_as_views(info.positions[length]), _as_views(info.positions[-1])]


def latent_chain_part(scene: Scene) -> str:
    """Log-likelihood along the latent chain on real test items, with the reconstructions it passes through."""
    title = "Latent chain: log-likelihood of real items"
    length = scene.model.latent_chain.steps
    if length == 0:
        return _omitted(title, "Left out: the latent chain has no steps.")
    if scene.dataset is None:
        return _omitted(title, f"Left out: {NEEDS_DATA}.")
    batch = scene.test_batch(ITEMS)
    if not batch.present.any():
        return _omitted(title, "Left out: no test item has a part.")
    trace = trace_latent_chain(scene, batch)
    panel = chain_panel(title, "log p(X | z, W), nats per item", trace.values, length, EBM)
    rose = float((trace.values[length] > trace.values[0]).float().mean())
    words = (
        f"Mean log-likelihood {_ends(trace.values, length)}; {rose:.0%} of the items are higher after {length} steps."
    )
    return _part(scene, title, panel, words, trace, "reconstruction", scene.real(batch))


def trace_latent_chain(scene: Scene, batch: Batch) -> Trace:
    """Run the latent chain from an inference model's draw; values (shape [T+1, B]): log p(X_S | z, W), S present."""
    generators = scene.generators("latent chain", len(batch.present))
    length = scene.model.latent_chain.steps
    start = scene.model.infer_latents(batch, generators)
    _, info = scene.model.refine_latents(start, batch, generators, steps=LONGER * length, record=True)
    assert info.positions is not None
    at = sorted({0, length // 2, length, 2 * length, LONGER * length})
    values, views = [], []
    for t, position in enumerate(info.positions):
        means = scene.model.decode(_as_views(position))
        log_px = scene.model.generator.log_likelihood(batch.views, means)
        values.append(torch.where(batch.present, log_px, 0.0).sum(1))
        if t in at:
            views.append(scene.raw(means))
    return Trace(torch.stack(values).cpu(), at, views)


def prior_chain_part(scene: Scene) -> str:
    """Log density along the chain of an energy prior, with the decoded pictures, private latents fixed."""
    title = "Prior chain: density of the shared latent"
    prior = scene.model.generator.prior
    if not isinstance(prior, EnergyPrior):
        return _omitted(title, "Left out: the prior is not an energy prior, so draws from it need no chain.")
    trace = trace_prior_chain(scene, prior)
    panel = chain_panel(title, "log p(z) + constant, nats", trace.values, prior.steps, GEN)
    first, last = trace.values[0].mean().item(), trace.values[-1].mean().item()
    words = (
        f"Mean log density {_say(first)} at the base and {_say(last)} after {prior.steps} steps; there is no longer "
        "version, because the learned prior is the short chain itself."
    )
    blocks = [] if scene.dataset is None else [_codes_block(scene, prior)]
    blocks += [_coherence_block(scene, prior)] if scene.judges and len(scene.judges.accuracy) > 1 else []
    return join([_part(scene, title, panel, words, trace, "prior chain"), columns(blocks, "two")])


def _codes_block(scene: Scene, prior: EnergyPrior) -> str:
    """Draw base and prior over the codes of test items, on the codes' two first principal axes."""
    codes, draws = prior_clouds(scene, prior)
    clouds = [Cloud(name, points, colour) for (name, points), colour in zip(draws.items(), (GEN, EBM), strict=True)]
    words = (
        "Grey: codes of test items, on their two first principal axes. The tilt has to bring the base's draws to them."
    )
    return block("Codes and the prior", draw_clouds("Codes, draws of the base and of the prior", clouds, codes), words)


def prior_clouds(
    scene: Scene, prior: EnergyPrior
) -> tuple[npt.NDArray[np.floating], dict[str, npt.NDArray[np.floating]]]:
    """Return codes [N, 2] of test items and draws of base and prior [N, 2], all on the principal axes of the codes."""
    batch = scene.test_batch(POINTS)
    n = len(batch.present)
    codes = scene.model.infer_latents(batch, scene.generators("codes", n))[SHARED]
    generators = scene.generators("prior chain", n)
    with torch.no_grad():
        end, info = prior.chain(n, generators, scene.model.generator.temperature, record=True)
    assert info.positions is not None
    centre = codes.mean(0)
    axes = torch.linalg.svd(codes - centre, full_matrices=False).Vh[:2]

    def project(z: Tensor) -> npt.NDArray[np.floating]:
        points: npt.NDArray[np.floating] = ((z - centre) @ axes.T).cpu().numpy()
        return points

    return project(codes), {"base": project(info.positions[0]), "prior": project(end)}


def _coherence_block(scene: Scene, prior: EnergyPrior) -> str:
    """Draw the joint coherence of what is decoded along the prior's chain: what the tilt is for."""
    title = "Joint coherence along the prior chain"
    at, values = prior_chain_coherence(scene, prior)
    low, high = zip(*((v.value - 2 * v.standard_error, v.value + 2 * v.standard_error) for v in values), strict=True)
    line = Series("two standard errors", at, [v.value for v in values], GEN, low, high)
    words = (
        f"{values[0].value:.3f} at the base, {values[-1].value:.3f} after {at[-1]} steps (standard error "
        f"{values[-1].standard_error:.3f}, {values[-1].n} draws). "
        + ", ".join(f"step {t}: {v.value:.3f}" for t, v in zip(at, values, strict=True))
    )
    return block(title, draw_panel(Panel(title, "chain step", "joint coherence", [line])), words)


def prior_chain_coherence(scene: Scene, prior: EnergyPrior) -> tuple[list[int], list[Result]]:
    """Return the steps shown and the joint coherence of COHERENCE_ITEMS draws decoded at each, private ones fixed."""
    trace = trace_prior_chain(scene, prior, COHERENCE_ITEMS)
    shown = {n: replace(m, range=None) for n, m in scene.modalities.items()}
    states = [{n: shown[n].to_state(v) for n, v in views.items()} for views in trace.views]
    return trace.at, [joint_coherence(scene.read(state)) for state in states]


def trace_prior_chain(scene: Scene, prior: EnergyPrior, n: int = ITEMS) -> Trace:
    """Run the prior's own chain from its base; values: f(z) + log p0(z), shape [T+1, n]. Draws as `sample_latents`."""
    generators = scene.generators("prior chain", n)
    with torch.no_grad():
        _, info = prior.chain(n, generators, scene.model.generator.temperature, record=True)
    assert info.positions is not None
    private: Latents = scene.model.generator.sample_private(n, generators)
    at = sorted({round(i * prior.steps / (PRIOR_PICTURES - 1)) for i in range(PRIOR_PICTURES)})
    views = []
    for t in at:
        z = info.positions[t]
        assert isinstance(z, Tensor)
        views.append(scene.raw(scene.model.decode({SHARED: z} | private)))
    return Trace(info.logdensity.cpu(), at, views)


def chain_panel(
    title: str, y_label: str, values: Tensor, length: int, colour: int, levels: Sequence[Level] = ()
) -> Panel:
    """Return the chart of `values`, shape [T+1, B]: mean over items, band between quantiles, a mark at `length`."""
    low, high = values.quantile(torch.tensor(BAND), dim=1)
    steps = list(range(len(values)))
    label = f"mean, band {BAND[0]:.0%} to {BAND[1]:.0%}"
    mean = Series(label, steps, values.mean(1).numpy(), colour, low.numpy(), high.numpy())
    marks = [Mark(length, "training")] if length < len(values) - 1 else []
    return Panel(title, "chain step", y_label, [mean], marks, levels)


def _part(
    scene: Scene, title: str, panel: Panel, words: str, trace: Trace, what: str, given: Views | None = None
) -> str:
    """Lay out the chart beside the pictures of the followed items, given ones first."""
    blocks = [block(title, draw_panel(panel), words)]
    heads = (["given"] if given else []) + [str(t) for t in trace.at]
    if scene.has_pictures:
        for item in range(min(FOLLOWED, trace.values.shape[1])):
            stages = ([given] if given else []) + trace.views
            rows = {name: torch.stack([stage[name][item] for stage in stages]) for name in scene.modalities}
            pictures = picture_rows(scene.modalities, rows, f"{what}, item {item + 1}", heads)
            blocks.append(block(f"Item {item + 1} at these steps", pictures))
    ends = sorted({0, trace.at[-1] // LONGER, trace.at[-1]} & set(trace.at))
    titled = [(f"step {t}", trace.views[trace.at.index(t)], GEN) for t in ends]
    charts = cloud_charts(scene, what, titled)
    if charts:
        stacked = join(join([paragraph(name, "note"), chart]) for name, chart in charts.items())
        blocks.append(block("All items at these steps", stacked))
    return columns(blocks, "two" if charts else "chain")


def _ends(values: Tensor, length: int) -> str:
    mean = values.mean(1).tolist()
    first, then, last = _say(mean[0]), _say(mean[length]), _say(mean[-1])
    return f"{first} at the start, {then} after {length} steps, {last} after {len(mean) - 1}"


def _say(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:#.3g}"


def _flips(scene: Scene, start: Views, ends: Sequence[Views]) -> str:
    """Say how often the judges read another class after the chain; nothing without judges."""
    if not scene.judges or not scene.judges.accuracy:
        return ""
    before = scene.read(start)
    shares = []
    for end in ends:
        after = scene.read(end)
        shares.append(torch.stack([after[name] != before[name] for name in before]).float().mean().item())
    return f" The judges read another class for {shares[0]:.1%} of the parts by then, and {shares[1]:.1%} at the end."


def _as_views(position: object) -> Views:
    assert isinstance(position, dict)
    return position


def _omitted(title: str, reason: str) -> str:
    return columns([block(title, paragraph(reason, "omitted"))])
