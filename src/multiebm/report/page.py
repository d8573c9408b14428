"""One self-contained HTML page about a run: pictures, chains, curves, numbers. Nothing is fetched from anywhere."""

from pathlib import Path
from string import Template

from multiebm.core.files import try_output, write_output
from multiebm.data import MultimodalDataset
from multiebm.evaluation.base import JudgesLike, evaluation_mode
from multiebm.experiments.data import build_dataset
from multiebm.experiments.folder import REPORT, check_same_data
from multiebm.experiments.pretrained import from_pretrained
from multiebm.report.chains import chains_section
from multiebm.report.curves import curves_section
from multiebm.report.markup import join, text
from multiebm.report.pictures import cross_section, interpolation_section, joint_section
from multiebm.report.record import read_record
from multiebm.report.scene import Scene
from multiebm.report.summary import headline_section, metrics_section, origin_section

TEMPLATE = Path(__file__).with_name("page.html")
_LINKS = {
    "samples": "Joint samples",
    "cross": "Cross-generation",
    "chains": "Chains",
    "interpolation": "Interpolation",
    "curves": "Training curves",
    "metrics": "Metrics",
    "configuration": "Configuration",
}


def write_report(
    run_folder: Path,
    judges: JudgesLike | None = None,
    dataset: MultimodalDataset | None = None,
    out: Path | None = None,
) -> Path:
    """Write `report.html` into a run folder, or the file `out`, and return its path; it is written whole or not at all.

    Reads config.yaml and model/, and run.json, metrics.jsonl and evaluation.json where they exist. `judges` add how
    often the data chain changes a class; `dataset` replaces the configuration's. OutputError or CheckpointError name
    what the folder lacks; ConfigError where the data is not what the run was trained on. That the file can be written
    is tried first.
    """
    folder = Path(run_folder)
    record = read_record(folder)
    file = folder / REPORT if out is None else Path(out)
    way_out = "free space, or give another file with --out (in Python out=)"
    try_output(file, way_out)
    data = build_dataset(record.experiment.data) if dataset is None else dataset
    if record.origin:
        check_same_data(record.origin, data, folder)
    scene = Scene(record, from_pretrained(folder), data, judges)
    write_output(file, render(scene).encode(), way_out)
    return file


def render(scene: Scene) -> str:
    """Return the whole page; the same scene gives the same page."""
    with evaluation_mode(scene.model):
        body = join(
            [
                headline_section(scene),
                joint_section(scene),
                cross_section(scene),
                chains_section(scene),
                interpolation_section(scene),
                curves_section(scene.record),
                metrics_section(scene.record),
                origin_section(scene.record),
            ]
        )
    links = join(f'<a href="#{name}">{text(title)}</a>' for name, title in _LINKS.items())
    title = text(f"{scene.dataset.name}: {scene.record.name}")
    foot = f"Data: {text(scene.dataset.citation)}"
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(title=title, links=links, body=body, foot=foot)
