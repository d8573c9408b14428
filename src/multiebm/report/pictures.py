"""Sections that show what the model draws: joint samples, cross-generation, interpolation."""

from math import ceil

import torch
from torch import Tensor

from multiebm.core.batch import Batch, mask_views
from multiebm.core.modality import Modality, Views
from multiebm.core.tiles import is_colour
from multiebm.core.tree import per_item
from multiebm.evaluation.result import Result
from multiebm.models.inference import SHARED, Latents
from multiebm.report.figures import DATA, EBM, GEN, Cloud, draw_clouds
from multiebm.report.grids import picture_cell, picture_rows
from multiebm.report.markup import block, cell, columns, disclosure, join, paragraph, row_head, section, table
from multiebm.report.record import pair_tables
from multiebm.report.scene import NEEDS_DATA, POINTS, SHOWN, Scene, cloud_charts, to_points

PER_CELL, PER_ROW = 4, 2  # pictures in a cell of the cross-generation table
MOST = 8  # rows and columns of that table
POSITIONS = 8  # points of an interpolation
PATHS, FINE = 6, 40  # interpolations of vectors, and points of each
NO_ENERGY = "EBM samples are left out: {reason}."
AMPLIFY_TO = 0.5  # the change that fills half the range of a picture


def joint_section(scene: Scene) -> str:
    """Joint samples before and after the data chain from the same latents, beside real test items."""
    n = SHOWN if all(m.kind == "picture" for m in scene.modalities.values()) else POINTS
    seed = scene.record.experiment.seed
    gen = scene.seen(scene.model.sample(n, refine_steps=0, seed=seed))
    ebm = None if scene.no_energy else scene.seen(scene.model.sample(n, refine_steps=None, seed=seed))
    lead = _joint_lead(scene)
    blocks = [block("Gen", _rows(scene, gen, "joint samples, Gen"), "Decoder means of latents from the prior.")]
    if ebm is not None:
        steps = scene.model.data_chain.steps
        note = f"The same, after {steps} Langevin steps on the energy."
        blocks.append(block("EBM", _rows(scene, ebm, "joint samples, EBM"), note))
    clouds = [("Gen", gen, GEN)] + ([("EBM", ebm, EBM)] if ebm is not None else [])
    if scene.dataset is not None:
        batch = scene.test_batch(n)
        real = scene.real(batch)
        note = "Never seen in training." + ("" if batch.present[:SHOWN].all() else " Blank: an item lacks the part.")
        blocks.append(block("Real test items", _rows(scene, real, "real test items"), note))
        clouds.insert(0, ("Real test items", real, DATA))
    if ebm is not None:
        change, factor = amplified_change(*({k: v[:SHOWN] for k, v in views.items()} for views in (gen, ebm)))
        note = f"EBM minus Gen, {factor} times as strong, around grey: where the energy disagrees with the decoder."
        blocks.append(block("Change", _rows(scene, change, "change by the data chain"), note))
    charts = [block(name, chart) for name, chart in cloud_charts(scene, "real and generated", clouds).items()]
    told = [NO_ENERGY.format(reason=scene.no_energy)] if ebm is None else []
    told += _left_out(scene)
    channels = "".join(paragraph(words, "note") for words in _channel_notes(scene))
    body = [channels, columns(blocks, "two") if scene.has_pictures else "", columns(charts, "two")]
    return section("samples", "Joint samples", lead, join([*body, *(paragraph(words, "omitted") for words in told)]))


def _left_out(scene: Scene) -> list[str]:
    """Say which real parts cannot be shown."""
    if scene.dataset is None:
        return [f"Real test items are left out: {NEEDS_DATA}."]
    columns_ = zip(scene.modalities, scene.dataset.test.present.T, strict=True)
    return [
        f"{name} has no real items to show: it is in none of the test items." for name, c in columns_ if not c.any()
    ]


def _channel_notes(scene: Scene) -> list[str]:
    pictures = [m for m in scene.modalities.values() if m.kind == "picture" and not is_colour(m.shape)]
    return [
        f"{m.name} has {m.shape[0]} channels: each is shown as a grey picture of its own, from the top left on."
        for m in pictures
    ]


def _joint_lead(scene: Scene) -> str:
    if not scene.has_pictures:
        return "Values drawn by the model, over real test items in grey: they should lie where the real ones do."
    if scene.no_energy:
        return (
            "Every column is one draw of all modalities together: its pictures should show the same thing in many ways."
        )
    return (
        "Every column is one draw of all modalities together, Gen straight from the decoder and EBM after the data "
        "chain from the same latents. In a good model columns agree in content, and EBM looks more like real items."
    )


def amplified_change(before: Views, after: Views) -> tuple[Views, int]:
    """Return 0.5 + k (after - before) of raw pictures [N, C, H, W], and the whole factor k that lets nearly all fit."""
    changes = {name: after[name] - before[name] for name in before if before[name].dim() == 4}
    if not changes:
        return {}, 1
    sizes = torch.cat([c.abs().flatten() for c in changes.values()]).nan_to_num(0.0)
    largest = float(sizes.kthvalue(ceil(0.99 * len(sizes))).values)  # torch's quantile takes 16 million values at most
    factor = max(1, int(AMPLIFY_TO / largest)) if largest > 0 else 1
    return {name: 0.5 + factor * change for name, change in changes.items()}, factor


def cross_section(scene: Scene) -> str:
    """Generated pictures for every ordered pair of modalities, amortised and (folded) after the data chain."""
    if scene.dataset is None:
        return section("cross", "Cross-generation", "", paragraph(f"Left out: {NEEDS_DATA}.", "omitted"))
    lead = (
        "Each row is given the pictures of one modality alone and generates every modality from them: content should "
        "carry over place by place, style should not; the diagonal is a reconstruction."
    )
    if not scene.has_pictures:
        lead = (
            "Each row is given the values of one modality alone and generates every modality from them (grey: real "
            "test values, colours: class of the given item): each colour should land on its own class."
        )
    wanted = PER_CELL if scene.has_pictures else POINTS
    batches = {name: scene.test_batch(wanted, name) for name in list(scene.modalities)[:MOST]}
    absent = [name for name, batch in batches.items() if not len(batch.present)]
    batches = {name: batch for name, batch in batches.items() if name not in absent}
    pairs = pair_tables(scene.record.evaluation)
    caption = pairs.get("cond", {})
    body = _cross_table(scene, batches, False, caption)
    body += join(paragraph(f"Left out: {name} as what is given; no test item has it.", "omitted") for name in absent)
    if caption:
        n = max(result.n for result in caption.values())
        body += paragraph(f"Below each cell: conditional coherence of the pair, measured on {n:,} test items.", "note")
    elif scene.record.evaluation is None:
        body += paragraph("Run `multiebm evaluate` on this run for the conditional coherence of every pair.", "note")
    if not scene.no_energy:
        table_ = _cross_table(scene, batches, True, pairs.get("cond_ebm", {}))
        body += disclosure("The same after the data chain, the given modality held fixed", table_)
    return section("cross", "Cross-generation", lead, body)


def _cross(scene: Scene, batch: Batch, source: str, refine: bool) -> Views:
    """Return all modalities [N, ...], raw, generated from `source` alone."""
    alone = batch.present & torch.tensor([name == source for name in batch.views], device=batch.present.device)
    given = Batch(mask_views(batch.views, alone), alone)
    generators = scene.generators(f"cross/{source}", len(given.present))
    views = scene.model.decode(scene.model.infer_latents(given, generators))
    if refine:
        held = {
            name: torch.where(per_item(given.present[:, i], v), given.views[name], v)
            for i, (name, v) in enumerate(views.items())
        }
        views, _ = scene.model.refine_data(held, generators, clamp=given.present)
    return scene.raw(views)


def _cross_table(scene: Scene, batches: dict[str, Batch], refine: bool, caption: dict[tuple[str, str], Result]) -> str:
    names, rows = list(scene.modalities)[:MOST], []
    for source, batch in batches.items():
        real, generated = scene.real(batch), _cross(scene, batch, source, refine)
        given = _show(scene.modalities[source], real[source], real[source], batch.labels, f"given: {source}")
        row = [row_head(source), cell(given, "given")]
        for target in names:
            shown = _show(
                scene.modalities[target], generated[target], real[target], batch.labels, f"{source} to {target}"
            )
            result = caption.get((source, target))
            row.append(cell(shown + ("" if result is None else paragraph(f"{result.value:.2f}", "figure"))))
        rows.append(row)
    return table(["from", "given", *[f"to {name}" for name in names]], rows, "cross")


def _show(modality: Modality, values: Tensor, real: Tensor, labels: Tensor | None, what: str) -> str:
    """Return the content of one cell: pictures, or points coloured by class over the real ones."""
    if modality.kind == "picture":
        return picture_cell(modality, values[:PER_CELL], PER_ROW, what)
    classes = None if labels is None else labels.cpu().numpy()
    return draw_clouds(what, [Cloud("", to_points(values), GEN, classes)], to_points(real))


def interpolation_section(scene: Scene) -> str:
    """Straight lines between two prior draws, decoded in all modalities."""
    lead = (
        "The straight line between two draws of the shared latent, private latents fixed: all modalities should "
        "change together, and pass through recognisable content."
    )
    heads = [f"{i / (POSITIONS - 1):.2f}" for i in range(POSITIONS)]
    blocks = []
    for pair in ("first", "second") if scene.has_pictures else ():
        path = interpolate(scene.model.sample_latents(2, scene.generators(f"interpolation/{pair}", 2)), POSITIONS)
        rows = picture_rows(scene.modalities, scene.raw(scene.model.decode(path)), f"interpolation, {pair} pair", heads)
        blocks.append(block(f"{pair.capitalize()} pair of draws", rows))
    note = f"A colour for each of {PATHS} pairs of draws."
    blocks += [block(name, chart, note) for name, chart in _path_charts(scene).items()]
    return section("interpolation", "Interpolation", lead, columns(blocks, "two"))


def _path_charts(scene: Scene) -> dict[str, str]:
    """Return a chart for every vector modality: finely drawn paths between pairs of draws, a colour each."""
    if all(m.kind == "picture" for m in scene.modalities.values()):
        return {}
    ends = scene.model.sample_latents(2 * PATHS, scene.generators("interpolation/paths", 2 * PATHS))
    pairs = [{name: value[2 * i : 2 * i + 2] for name, value in ends.items()} for i in range(PATHS)]
    decoded = [scene.raw(scene.model.decode(interpolate(pair, FINE))) for pair in pairs]
    path = {name: torch.cat([views[name] for views in decoded]) for name in scene.modalities}
    return cloud_charts(scene, "interpolation", [("", path, GEN)], torch.arange(PATHS).repeat_interleave(FINE))


def interpolate(ends: Latents, n: int) -> Latents:
    """Return latents [n, ...] from the first to the second item of `ends` [2, ...]: z moves evenly, w_m stay."""
    share = torch.linspace(0, 1, n, device=ends[SHARED].device)[:, None]
    path = {name: value[:1].expand(n, -1) for name, value in ends.items()}
    return path | {SHARED: (1 - share) * ends[SHARED][0] + share * ends[SHARED][1]}


def _rows(scene: Scene, views: Views, what: str) -> str:
    return picture_rows(scene.modalities, {name: view[:SHOWN] for name, view in views.items()}, what)
