"""Self-contained HTML pages, which fetch nothing: of a run (pictures, chains, curves, numbers) and of a comparison."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from multiebm.core.bars import showing
from multiebm.core.errors import ConfigError, DataError, instance_of
from multiebm.core.files import try_output, write_output
from multiebm.core.keys import DATA
from multiebm.core.progress import track
from multiebm.data import MultimodalDataset
from multiebm.data.npz import expanded
from multiebm.evaluation.measurement import JudgesLike
from multiebm.evaluation.metrics import evaluation_mode
from multiebm.experiments.api import READ
from multiebm.experiments.build import build_dataset
from multiebm.experiments.compare import RIVALS, Cell, entry, summary
from multiebm.experiments.folder import REPORT, check_same_data
from multiebm.experiments.measure import judges_of
from multiebm.experiments.saved import from_pretrained
from multiebm.models.own import Maker
from multiebm.report.chains import chains_section
from multiebm.report.content import Part, Section, Table, Text, to_page
from multiebm.report.curves import curves_section
from multiebm.report.figures import draw_points
from multiebm.report.gallery import cross_section, interpolation_section, joint_section
from multiebm.report.record import read_record
from multiebm.report.scene import Scene
from multiebm.report.summary import FEW_CLASSES, headline_section, metrics_section, origin_section

_log = logging.getLogger(__name__)
SECTIONS = [
    headline_section,
    joint_section,
    cross_section,
    chains_section,
    interpolation_section,
    curves_section,
    metrics_section,
    origin_section,
]
LEFT_OUT = (
    "Left out, as their label entropy is below {:g}: {}. Parts that draw few classes agree easily, and their joint "
    "coherence says nothing."
)
TITLED = 4  # parts in a title
AXES = ("Frechet distance on judges' features (lower is better)", "joint coherence (higher is better)")


def write_report(
    run_folder: Path,
    judges: JudgesLike | None = None,
    dataset: MultimodalDataset | None = None,
    out: Path | None = None,
    progress: bool = True,
    encoders: Mapping[str, Maker] | None = None,
    decoders: Mapping[str, Maker] | None = None,
) -> Path:
    """Write `report.html` into a run folder, or the file `out`, and return its path; it is written whole or not at all.

    `dataset` replaces the configuration's, and is needed where a run was trained on data of Python; without it the page
    leaves out what needs data, and says why. `judges` (by default those of the evaluation, if the run has one) add how
    often the data chain changes a class. `encoders` and `decoders` are as in `from_pretrained`. `progress` shows
    how far it is, as in `train`. OutputError or CheckpointError name what the folder lacks; ConfigError where `dataset`
    is not what the run was trained on.
    """
    folder = expanded(run_folder)
    if dataset is not None:
        instance_of("dataset", dataset, MultimodalDataset, READ)
    record = read_record(folder)
    file = folder / REPORT if out is None else Path(out)
    way_out = "free space, or give another file with --out (in Python out=)"
    try_output(file, way_out)
    model = from_pretrained(folder, "cpu", encoders, decoders)
    missing = ""
    try:
        data = build_dataset(record.experiment.data, folder) if dataset is None else dataset
        if record.origin:
            check_same_data(record.origin, data, folder)
    except (ConfigError, DataError) as error:
        if dataset is not None:
            raise
        _log.warning("%s: the report leaves out what needs the run's data: %s", folder, error)
        data = None
        missing = f"{error} A run trained on data of Python gets its whole page by write_report(folder, dataset=...)."
    with showing(progress):
        if judges is None and data is not None and record.evaluation is not None and record.evaluation.accuracy:
            judges = judges_of(data, "cpu")
        page = render(Scene(record, model, data, judges, missing))
    write_output(file, page.encode(), way_out)
    return file


def render(scene: Scene) -> str:
    """Return the whole page; the same scene gives the same page."""
    with evaluation_mode(scene.model):
        sections = [make(scene) for make in track(SECTIONS, "report")]
    data = scene.record.origin.get("data", {})
    name, citation = data.get("name", "a run"), data.get("citation", "not known")
    if scene.dataset is not None:
        name, citation = scene.dataset.name, scene.dataset.citation
    parts = list(scene.modalities)
    listed = f"{', '.join(parts[:TITLED])}{', ...' if len(parts) > TITLED else ''}"
    run, unnamed = scene.record.name, name in ("arrays", DATA, scene.record.name)  # data of Python have no name
    return to_page(f"{run}: {listed}" if unnamed else f"{name}: {run}", sections, f"Data: {citation}")


def write_comparison(cells: Sequence[Cell], folder: Path, data: str) -> Path:
    """Write `comparison.html` into `folder` and return its path; the file is replaced whole or not at all."""
    columns, rows = summary(cells)
    body = [[row, *map(entry, values, (c.digits for c in columns))] for row, values in rows.items()]
    seconds = max(c.seconds for c in cells)
    lead = f"Values are mean ± standard deviation over seeds; each run had at most {seconds:.0f} s of training, alone."
    if rows.keys() & RIVALS.values():
        lead += " Errors are those of held-out parts filled in from all others, less is better; the last rows are what "
        lead += "the same rows say without a model."
    parts: list[Part] = [Table("numbers", ["row", *(c.title for c in columns)], body)]
    parts += [Text(c.message(), "note") for c in cells if c.diverged]
    sections = [Section("table", "Table", lead, parts)]
    if drawn := [c for c in cells if "gen/fcd" in c.measured]:
        few = [c for c in drawn if c.measured.get("gen/label_entropy", 1.0) < FEW_CLASSES]
        points: dict[str, list[tuple[float, float]]] = {}
        for c in (c for c in drawn if c not in few):
            points.setdefault(c.row, []).append((c.measured["gen/fcd"], c.measured["gen/joint_coherence"]))
        parts = [draw_points("Joint coherence against Frechet distance", points, *AXES)] if points else []
        if few:
            parts.append(Text(LEFT_OUT.format(FEW_CLASSES, ", ".join(f"{c.row} (seed {c.seed})" for c in few)), "note"))
        lead = "A mark is a run; the upper left is best."
        sections.append(Section("scatter", "Coherence and quality", lead, parts))
    file = folder / "comparison.html"
    write_output(file, to_page(f"Comparison on {data}", sections, f"Data: {data}").encode())
    return file
