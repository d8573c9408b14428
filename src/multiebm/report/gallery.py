"""Sections that show what the model draws: joint samples, cross-generation, interpolation."""

from math import ceil

import torch

from multiebm.core.batch import Batch, mask_views
from multiebm.core.names import Views
from multiebm.core.tiles import is_colour
from multiebm.evaluation.result import Result
from multiebm.models.inference import SHARED, Latents
from multiebm.report.content import Block, Cell, Part, Section, Table, Text
from multiebm.report.figures import DATA, EBM, GEN
from multiebm.report.record import pair_tables
from multiebm.report.scene import (
    NEEDS_DATA,
    PER_CELL,
    POINTS,
    SHOWN,
    Scene,
    Stage,
    one_view,
    other_views,
    shown_pictures,
    strips,
)

MOST = 8  # rows and columns of that table
POSITIONS = 8  # points of an interpolation
PATHS, FINE = 6, 40  # interpolations of points, and points of each
NO_ENERGY = "EBM samples are left out: {reason}."
JOINT_LEAD = (
    "Every column is one draw of all modalities together: its parts should show one thing, and points should lie on "
    "the real ones in grey. Gen comes straight from the decoder{}."
)
CROSS_LEAD = (
    "Each row is given one modality alone and generates every modality from it. Content should carry over, style "
    "should not; the diagonal is a reconstruction. Points have the colour of the given item's class, over real ones."
)
AMPLIFY_TO = 0.5  # the change that fills half the range of a picture


def joint_section(scene: Scene) -> Section:
    """Joint samples, before and after the data chain or a diffusion refiner, of the same latents; real test items."""
    n, seed = POINTS if scene.showing("points") else SHOWN, scene.record.experiment.seed
    stages = [Stage("Gen", scene.model.raw_samples(n, 0, seed), GEN, "Decoder means of latents from the prior.")]
    told = [NO_ENERGY.format(reason=scene.no_energy)] if scene.has_energy and scene.no_energy else []
    if not scene.no_energy:
        moved, steps = scene.model.chooses.latent_steps, f"{scene.model.data_chain.steps} Langevin steps on the energy."
        first = f"{moved} steps of the latents to where parts belong together, and " if moved else ""
        note = f"The same, after {first}{steps}"
        stages.append(Stage("EBM", scene.model.raw_samples(n, None, seed), EBM, note))
    if refiner := scene.model.diffusion:
        note = f"Gen with its pictures drawn anew by the diffusion refiner, {refiner.settings.steps} steps."
        stages.append(Stage("Diffusion", scene.model.raw_samples(SHOWN, 0, seed, diffusion_steps=None), GEN, note))
    if scene.dataset is None:
        told.append(f"Real test items are left out: {NEEDS_DATA}.")
    else:
        batch = scene.test_batch(n)
        note = "Training never saw them." + ("" if batch.present[:SHOWN].all() else " Blank: an item lacks the part.")
        there = dict(zip(scene.modalities, batch.present.T, strict=True))
        stages.append(Stage("Real test items", scene.real(batch), DATA, note, there))
        nowhere = [name for name, c in zip(scene.modalities, scene.dataset.test.present.T, strict=True) if not c.any()]
        told += [f"{name} has no real items to show: it is in none of the test items." for name in nowhere]
    shown = [{name: view[:SHOWN] for name, view in shown_pictures(scene, s.views).items()} for s in stages]
    blocks = [Block(s.title, strips(p, f"{s.title}, joint"), s.note) for s, p in zip(stages, shown, strict=True)]
    if not scene.no_energy:
        change, factor = amplified_change(*shown[:2])
        where = (
            "what the chains changed" if scene.model.chooses.latent_steps else "the energy disagrees with the decoder"
        )
        note = f"EBM minus Gen, {factor} times as strong, around grey: {where} here."
        blocks.append(Block("Change", strips(change, "change by the data chain"), note))
    grey = {name: len(view[0]) for name, view in shown[0].items() if not is_colour(tuple(view.shape[1:]))}
    channels = "{} has {} channels: each is shown as a grey picture of its own, from the top left on."
    parts: list[Part] = [Text(channels.format(name, n), "note") for name, n in grey.items()]
    parts += [Block("", blocks, kind="two")] if scene.showing("pictures") else []
    parts.append(Block("", other_views(scene, "real and generated", stages), kind="two"))
    lead = JOINT_LEAD.format("; EBM is Gen after the chains" if scene.has_energy else "")
    return Section("samples", "Joint samples", lead, [*parts, *(Text(words, "omitted") for words in told)])


def amplified_change(before: Views, after: Views) -> tuple[Views, int]:
    """Return 0.5 + k (after - before) of pictures [N, C, H, W], and the whole factor k that lets nearly all fit."""
    changes = {name: after[name] - before[name] for name in before}
    if not changes:
        return {}, 1
    sizes = torch.cat([c.abs().flatten() for c in changes.values()]).nan_to_num(0.0)
    largest = float(sizes.kthvalue(ceil(0.99 * len(sizes))).values)  # torch's quantile takes 16 million values at most
    factor = max(1, int(AMPLIFY_TO / largest)) if largest > 0 else 1
    return {name: 0.5 + factor * change for name, change in changes.items()}, factor


def cross_section(scene: Scene) -> Section:
    """All modalities from each one alone, amortised and (folded) after the data chain."""
    if scene.dataset is None:
        return Section("cross", "Cross-generation", "", [Text(f"Left out: {NEEDS_DATA}.", "omitted")])
    n = PER_CELL if scene.showing("pictures") else POINTS
    batches = {name: scene.test_batch(n, name) for name in list(scene.modalities)[:MOST]}
    given = {name: batch for name, batch in batches.items() if len(batch.present)}
    pairs = pair_tables(scene.record.evaluation)
    coherence = pairs.get("cond", {})
    parts: list[Part] = [_cross_table(scene, given, False, coherence)]
    absent = "Left out: {} as what is given; no test item has it."
    parts += [Text(absent.format(name), "omitted") for name in batches if name not in given]
    if coherence:
        most = max(result.n for result in coherence.values())
        words = f"A number below a cell is the conditional coherence of the pair, measured on {most:,} test items."
        parts.append(Text(words, "note"))
    elif scene.record.evaluation is None:
        parts.append(Text("`multiebm evaluate` on this run gives the conditional coherence of every pair.", "note"))
    if not scene.no_energy:
        table = _cross_table(scene, given, True, pairs.get("cond_ebm", {}))
        parts.append(Block("The same after the data chain, the given modality held fixed", [table], kind="folded"))
    return Section("cross", "Cross-generation", CROSS_LEAD, parts)


def _cross_table(
    scene: Scene, batches: dict[str, Batch], refine: bool, coherence: dict[tuple[str, str], Result]
) -> Table:
    """Return all modalities generated from each one alone, one row a source, with what was given first."""
    names, rows = list(scene.modalities)[:MOST], list[list[str | Cell]]()
    for source, batch in batches.items():
        alone = batch.present & torch.tensor([name == source for name in batch.views], device=batch.present.device)
        given = Batch(mask_views(batch.views, alone), alone)
        rng = scene.rng(f"cross/{source}", len(alone))
        if refine:
            made = scene.model.refined_fill(given, rng)
        else:
            made = scene.model.likeliest(scene.model.decode(scene.model.infer_latents(given, rng)))
        real, made = scene.real(batch), scene.raw(made)
        first = one_view(scene, source, real[source], real[source], batch.labels, f"given: {source}")
        row: list[str | Cell] = [source, Cell(first)]
        for name in names:
            shown = one_view(scene, name, made[name], real[name], batch.labels, f"{source} to {name}")
            found = coherence.get((source, name))
            row.append(Cell(shown, "" if found is None else f"{found.value:.2f}"))
        rows.append(row)
    return Table("cross", ["from", "given", *[f"to {name}" for name in names]], rows)


def interpolation_section(scene: Scene) -> Section:
    """Straight lines between two prior draws, decoded in all modalities."""
    lead = (
        "The shared latent moves on a straight line between two draws, private latents fixed: all modalities should "
        "change together, and pass through recognisable content."
    )
    heads, blocks = [f"{i / (POSITIONS - 1):.2f}" for i in range(POSITIONS)], []
    for pair in ("first", "second") if scene.showing("pictures") else ():
        path = interpolate(scene.model.sample_latents(2, scene.rng(f"interpolation/{pair}", 2)), POSITIONS)
        pictures = shown_pictures(scene, scene.raw(scene.model.decode(path)))
        rows = strips(pictures, f"interpolation, {pair} pair", heads)
        blocks.append(Block(f"{pair.capitalize()} pair of draws", rows))
    if len(scene.showing("pictures")) < len(scene.modalities):
        ends = scene.model.sample_latents(2 * PATHS, scene.rng("interpolation/paths", 2 * PATHS))
        pairs = [{name: value[2 * i : 2 * i + 2] for name, value in ends.items()} for i in range(PATHS)]
        means = [scene.model.decode(interpolate(pair, FINE)) for pair in pairs]
        decoded = [scene.raw(scene.model.likeliest(of)) for of in means]
        path = {name: torch.cat([views[name] for views in decoded]) for name in scene.modalities}
        path |= {name: path[name][:: FINE // POSITIONS] for name in scene.showing("text")}  # those of the first pair
        colours = torch.arange(PATHS).repeat_interleave(FINE)
        others = other_views(scene, "interpolation", [Stage("", path, GEN)], colours)
        note = f"A colour for each of {PATHS} pairs of draws."
        blocks += [block if isinstance(block.parts[0], Table) else block._replace(note=note) for block in others]
    return Section("interpolation", "Interpolation", lead, [Block("", blocks, kind="two")])


def interpolate(ends: Latents, n: int) -> Latents:
    """Return latents [n, ...] from the first to the second item of `ends` [2, ...]: z moves evenly, w_m stay."""
    share = torch.linspace(0, 1, n, device=ends[SHARED].device)[:, None]
    path = {name: value[:1].expand(n, -1) for name, value in ends.items()}
    return path | {SHARED: (1 - share) * ends[SHARED][0] + share * ends[SHARED][1]}
