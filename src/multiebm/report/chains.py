"""Section on the chains: energy along the data chain, likelihood along the latent one, density along the prior's."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from multiebm.core.batch import Batch
from multiebm.core.names import Views
from multiebm.core.tokens import share_changed
from multiebm.evaluation.result import Result
from multiebm.evaluation.samples import joint_coherence
from multiebm.models.inference import SHARED
from multiebm.nn.spectral import frozen
from multiebm.priors.prior import Prior
from multiebm.report.content import Block, Section, Text
from multiebm.report.figures import DATA, EBM, GEN, Cloud, Level, Mark, Panel, Series, draw_clouds, draw_panel
from multiebm.report.scene import NEEDS_DATA, POINTS, Scene, Stage, other_views, shown_pictures, strips
from multiebm.report.summary import use_of_energy

ITEMS = 64  # chains whose mean and quantiles are drawn
FOLLOWED = 2  # chains whose pictures are shown
LONGER = 4  # times the training length, to see what the training length hides
BAND = (0.1, 0.9)  # quantiles of the shaded band
PRIOR_PICTURES = 8
COHERENCE_ITEMS = 500  # draws of the prior whose coherence is read along its chain
LATENT_LEAD = (
    "The latent chain moves codes towards what is given, as far as latent_steps of impute asks for. The chart shows it "
    "at its length (dotted line) and four times longer; one that works raises the likelihood."
)


class Trace(NamedTuple):
    """`values` [T+1, B] along a chain, and the raw `views` of its items at the steps `at`, in that order; `acceptance`:
    share of its moves that a Metropolis test would accept, where it is known.
    """

    values: Tensor
    at: list[int]
    views: list[Views]
    acceptance: float | None = None


def chains_section(scene: Scene) -> Section:
    """The chains that the model has, each with its curve and pictures."""
    lead = (
        "Charts show the Markov chains at the length used in training (dotted line) and four times longer. A chain "
        "that works lowers the energy or raises the likelihood, and what it makes stays good beyond that line."
    )
    if scene.has_energy:
        lead += (
            " Prior and generator alone reach Gen; the data chain alone makes it EBM, and what it adds or takes is the "
            "energy's."
        )
    elif not scene.model.generator.prior.by_chain:
        lead = LATENT_LEAD
    return Section("chains", "Chains", lead, [*_data_part(scene), *_latent_part(scene), *_prior_part(scene)])


def _data_part(scene: Scene) -> list[Block]:
    """Energy along the data chain from generated items, with the pictures it passes through; nothing of no energy."""
    title, length = "Data chain: energy of generated items", scene.model.data_chain.steps
    if not scene.has_energy:
        return []
    if scene.no_energy or length == 0:
        return _omitted(title, scene.no_energy or "the data chain has no steps")
    trace = trace_data_chain(scene)
    panel = chain_panel(title, "energy", trace.values, length, GEN)
    real = real_energies(scene)
    if len(real):
        panel = panel._replace(levels=[Level(float(real.mean()), "mean of real test items", DATA)])
    fell = float((trace.values[length] < trace.values[0]).float().mean())
    words = f"Mean energy {_ends(trace.values, length)}; {fell:.0%} of the items are lower after {length} steps."
    words += f" {scale_of_energy(scene, real, trace.values[[0, length]])}"
    if scene.model.data_temperature and trace.acceptance is not None:
        words += f" A Metropolis test would accept {trace.acceptance:.1%} of its moves."
    for name in [name for name, modality in scene.modalities.items() if modality.speaks]:
        start, *ends = (trace.views[trace.at.index(t)][name] for t in (0, length, LONGER * length))
        then, last = (share_changed(start, end).mean().item() for end in ends)
        words += f" Of the words of {name} {then:.1%} are others by then, and {last:.1%} at the end."
    if scene.judges and scene.judges.accuracy:
        before, *after = (scene.read(trace.views[trace.at.index(t)]) for t in (0, length, LONGER * length))
        then, last = (torch.stack([a[n] != before[n] for n in before]).float().mean().item() for a in after)
        words += f" The judges read another class for {then:.1%} of the parts by then, and {last:.1%} at the end."
    if scene.record.evaluation is not None:
        words += f" {use_of_energy(scene.record.evaluation)[1]}"
    return [_columns(scene, panel, words, trace, "data chain")]


def real_energies(scene: Scene) -> Tensor:
    """Return the energies [N] of up to ITEMS complete test items; none where there are none, or no data."""
    if scene.dataset is None:
        return torch.empty(0)
    real = scene.test_batch(ITEMS)
    complete = real.complete()
    if not complete.any():
        return torch.empty(0)
    with torch.no_grad(), frozen(scene.model):
        return -scene.model.log_density_unnorm({n: v[complete] for n, v in real.views.items()}).cpu()


def scale_of_energy(scene: Scene, real: Tensor, ends: Tensor) -> str:
    """Say by how much the energy differs between real items [N] and between generated ones at the ends [2, B] of the
    chain: of a chain with a temperature in units of that, beside draws of a Gaussian, else that this means nothing.

    E / T of N(0, V) of D dimensions is half of a chi-squared with D degrees of freedom: its deviation is sqrt(D / 2).
    """
    T = scene.model.data_temperature
    told = {"real items": real} if len(real) > 1 else {}
    told |= {"generated ones": ends[0], "those that the chain has refined": ends[1]}
    spread = {who: _say(float(of.std(correction=0)) / (T or 1)) for who, of in told.items()}
    each = ", ".join(f"{value}{' T' if T else ''} over {who}" for who, value in spread.items())
    if not T:
        steps = "Steps of one length" if T is None else "Steps without noise"
        return f"The energy has a standard deviation of {each}. {steps} target no density, so this scale has no unit."
    size = sum(m.size for m in scene.modalities.values() if not m.still)
    return (
        f"The chain targets exp(-E / T) with T = (n / s)^2 = {T:.3g}. The energy has a standard deviation of {each}; "
        f"draws of a Gaussian of as many dimensions, {size:,}, have {_say((size / 2) ** 0.5)} T."
    )


def trace_data_chain(scene: Scene) -> Trace:
    """Run the data chain from where EBM samples start at `LONGER` times its length; values: energies [T+1, B]."""
    rng, length = scene.rng("data chain", ITEMS), scene.model.data_chain.steps
    latents = scene.model.sample_latents(ITEMS, rng)
    if steps := scene.model.chooses.latent_steps:
        latents, _ = scene.model.refine_sampled(latents, rng, steps)
    start = scene.model.decode(latents)
    _, info = scene.model.refine_data(start, rng, steps=LONGER * length, record=True)
    positions = info.positions or []
    at = sorted({0, length // 2, length, 2 * length, 3 * length, LONGER * length})
    accepted = float(info.acceptance[: length - 1].mean()) if length > 1 else None
    return Trace(-info.logdensity.cpu(), at, [scene.raw(positions[t]) for t in at], accepted)


def _latent_part(scene: Scene) -> list[Block]:
    """Log-likelihood along the latent chain on real test items, with the reconstructions it passes through."""
    title, length = "Latent chain: log-likelihood of real items", scene.model.latent_chain.steps
    if length == 0 or scene.dataset is None:
        return _omitted(title, NEEDS_DATA if length else "the latent chain has no steps")
    batch = scene.test_batch(ITEMS)
    if not batch.present.any():
        return _omitted(title, "no test item has a part")
    trace = trace_latent_chain(scene, batch)
    panel = chain_panel(title, "log p(X | z, W), nats per item", trace.values, length, EBM)
    rose = float((trace.values[length] > trace.values[0]).float().mean())
    ends = _ends(trace.values, length)
    words = f"Mean log-likelihood {ends}; {rose:.0%} of the items are higher after {length} steps."
    return [_columns(scene, panel, words, trace, "reconstruction", scene.real(batch))]


def trace_latent_chain(scene: Scene, batch: Batch) -> Trace:
    """Run the latent chain from an inference model's draw; values (shape [T+1, B]): log p(X_S | z, W), S present."""
    rng, length = scene.rng("latent chain", len(batch.present)), scene.model.latent_chain.steps
    start = scene.model.infer_latents(batch, rng)
    _, info = scene.model.refine_latents(start, batch, rng, steps=LONGER * length, record=True)
    at = sorted({0, length // 2, length, 2 * length, LONGER * length})
    values, views = [], []
    for t, position in enumerate(info.positions or []):
        means = scene.model.decode(position)
        log_px = scene.model.generator.log_likelihood(batch.views, means)
        values.append(torch.where(batch.present, log_px, 0.0).sum(1))
        if t in at:
            views.append(scene.raw(scene.model.likeliest(means)))
    return Trace(torch.stack(values).cpu(), at, views)


def _prior_part(scene: Scene) -> list[Block]:
    """Log density along the chain of an energy prior, with the decoded pictures, private latents fixed; nothing of
    another prior, whose draws need no chain.
    """
    title, prior = "Prior chain: density of the shared latent", scene.model.generator.prior
    if not prior.by_chain:
        return []
    trace = trace_prior_chain(scene, prior)
    panel = chain_panel(title, "log p(z) + constant, nats", trace.values, prior.steps, GEN)
    first, last = (_say(values.mean().item()) for values in trace.values[[0, -1]])
    words = (
        f"Mean log density {first} at the base and {last} after {prior.steps} steps. There is no longer version: the "
        "learned prior is the short chain itself. Gen starts at its end, so that what it gains is Gen's."
    )
    blocks = []
    if scene.dataset is not None:
        codes, draws = prior_clouds(scene, prior)
        clouds = [Cloud(name, points, colour) for (name, points), colour in zip(draws.items(), (GEN, EBM), strict=True)]
        note = "Codes of test items are grey, on their two first principal axes. The tilt has to bring draws to them."
        chart = draw_clouds("Codes, draws of the base and of the prior", clouds, codes)
        blocks.append(Block("Codes and the prior", [chart], note))
    if scene.judges and len(scene.judges.accuracy) > 1:  # what the tilt is for
        at, found = prior_chain_coherence(scene, prior)
        values, errors = (np.array([getattr(v, key) for v in found]) for key in ("value", "standard_error"))
        line = Series("two standard errors", at, values, GEN, values - 2 * errors, values + 2 * errors)
        note = (
            f"{values[0]:.3f} at the base, {values[-1]:.3f} after {at[-1]} steps (standard error {errors[-1]:.3f}, "
            f"{found[-1].n} draws). " + ", ".join(f"step {t}: {v:.3f}" for t, v in zip(at, values, strict=True))
        )
        coherence = Panel("Joint coherence along the prior chain", "chain step", "joint coherence", [line])
        blocks.append(Block(coherence.title, [draw_panel(coherence)], note))
    return [_columns(scene, panel, words, trace, "prior chain"), Block("", blocks, kind="two")]


def trace_prior_chain(scene: Scene, prior: Prior, n: int = ITEMS) -> Trace:
    """Run the prior's own chain from its base; values: f(z) + log p0(z), shape [T+1, n]. Draws as `sample_latents`."""
    rng = scene.rng("prior chain", n)
    with torch.no_grad():
        _, info = prior.chain(n, rng, scene.model.generator.temperature, record=True)
    private, positions = scene.model.generator.sample_private(n, rng), info.positions or []
    at = sorted({round(i * prior.steps / (PRIOR_PICTURES - 1)) for i in range(PRIOR_PICTURES)})
    decoded = [scene.model.decode({SHARED: positions[t], **private}) for t in at]
    views = [scene.raw(scene.model.likeliest(means)) for means in decoded]
    return Trace(info.logdensity.cpu(), at, views)


def prior_clouds(scene: Scene, prior: Prior) -> tuple[npt.NDArray[np.floating], dict[str, npt.NDArray[np.floating]]]:
    """Return codes [N, 2] of test items and draws of base and prior [N, 2], all on the principal axes of the codes."""
    batch = scene.test_batch(POINTS)
    n = len(batch.present)
    codes = scene.model.infer_latents(batch, scene.rng("codes", n))[SHARED]
    with torch.no_grad():
        end, info = prior.chain(n, scene.rng("prior chain", n), scene.model.generator.temperature, record=True)
    centre = codes.mean(0)
    axes = torch.linalg.svd(codes - centre, full_matrices=False).Vh[:2]
    clouds = (((z - centre) @ axes.T).cpu().numpy() for z in (codes, (info.positions or [])[0], end))
    return next(clouds), dict(zip(("base", "prior"), clouds, strict=True))


def prior_chain_coherence(scene: Scene, prior: Prior) -> tuple[list[int], list[Result]]:
    """Return the steps shown and the joint coherence of COHERENCE_ITEMS draws decoded at each, private ones fixed."""
    trace = trace_prior_chain(scene, prior, COHERENCE_ITEMS)
    return trace.at, [joint_coherence(scene.read(views)) for views in trace.views]


def chain_panel(title: str, y_label: str, values: Tensor, length: int, colour: int) -> Panel:
    """Return the chart of `values`, shape [T+1, B]: mean over items, band between quantiles, a mark at `length`."""
    low, high = values.quantile(torch.tensor(BAND), dim=1).numpy()
    label = f"mean, band {BAND[0]:.0%} to {BAND[1]:.0%}"
    mean = Series(label, range(len(values)), values.mean(1).numpy(), colour, low, high)
    marks = [Mark(length, "training")] if length < len(values) - 1 else []
    return Panel(title, "chain step", y_label, [mean], marks)


def _columns(scene: Scene, panel: Panel, words: str, trace: Trace, what: str, given: Views | None = None) -> Block:
    """Lay out the chart beside the pictures of the followed items, given ones first."""
    blocks, first = [Block(panel.title, [draw_panel(panel)], words)], [] if given is None else [given]
    heads = ["given"] * len(first) + [str(t) for t in trace.at]
    stages = [shown_pictures(scene, views) for views in first + trace.views]
    for item in range(min(FOLLOWED, trace.values.shape[1]) if stages[0] else 0):
        rows = {name: torch.stack([stage[name][item] for stage in stages]) for name in stages[0]}
        blocks.append(Block(f"Item {item + 1} at these steps", strips(rows, f"{what}, item {item + 1}", heads)))
    ends = sorted({0, trace.at[-1] // LONGER, trace.at[-1]} & set(trace.at))
    others = other_views(scene, what, [Stage(f"step {t}", trace.views[trace.at.index(t)], GEN) for t in ends])
    if others:
        blocks.append(Block("All items at these steps", others))
    return Block("", blocks, kind="two" if others else "chain")


def _ends(values: Tensor, length: int) -> str:
    first, then, last = (_say(values.mean(1)[t].item()) for t in (0, length, -1))
    return f"{first} at the start, {then} after {length} steps, {last} after {len(values) - 1}"


def _say(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:#.3g}"


def _omitted(title: str, reason: str) -> list[Block]:
    return [Block(title, [Text(f"Left out: {reason}.", "omitted")])]
