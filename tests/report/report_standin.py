"""Small scenes: an untrained model, random data and a run's record, all in memory and functions of fixed seeds."""

import base64
import io
import re
from typing import Any

import numpy as np
import torch
from PIL import Image

from multiebm.data.dataset import MultimodalDataset, Split
from multiebm.evaluation.result import Evaluation, Result
from multiebm.experiments.schema import Experiment
from multiebm.modalities import Modality, Picture
from multiebm.report.content import PAGES, Part, Section
from multiebm.report.record import RunRecord
from multiebm.report.scene import Scene
from small_models import energy_prior, random_views, small_model, vectors

PICTURES = {"up": Picture("up", (3, 8, 8)), "down": Picture("down", (1, 8, 8))}
VECTORS = vectors(left=2, right=3)
WARMUP = 10


def make_dataset(modalities: dict[str, Modality], n: int = 40, classes: int | None = 4) -> MultimodalDataset:
    views = {
        name: m.to_raw(v)
        for (name, m), v in zip(modalities.items(), random_views(modalities, n, 3).values(), strict=True)
    }
    labels = None if classes is None else torch.arange(n).flip(0) % classes
    split = Split(views, torch.ones(n, len(modalities), dtype=torch.bool), labels)
    return MultimodalDataset("small", modalities, split, split, classes, "Somebody (2020)", "f" * 64)


def phases(steps: int = WARMUP) -> list[dict[str, Any]]:
    return [{"kind": "bound", "steps": steps}, {"kind": "cooperative", "steps": 300}]


def make_experiment(**changes: Any) -> Experiment:
    return Experiment.model_validate({"training": {"phases": phases()}, "seed": 3} | changes)


def make_lines() -> list[dict[str, float | None]]:
    warm = [
        {"step": s, "seconds": s / 2, "loss/elbo": 100.0 - s, "log_likelihood/up": -1.0 * s} for s in range(2, 11, 2)
    ]
    after = [{"step": s, "seconds": s / 2, "energy/data": 0.1 * s, "energy/gap": 0.01 * s} for s in range(12, 31, 2)]
    return [*warm, *after]  # type: ignore[list-item]


def make_record(**changes: Any) -> RunRecord:
    plain = RunRecord("trial", make_experiment(), "seed: 3\n", {}, make_lines(), [], None)
    return plain._replace(**changes)


def make_evaluation(names: tuple[str, ...] = ("up", "down"), accuracy: float = 0.97) -> Evaluation:
    results = {"gen/joint_coherence": Result(0.7123, 0.01, 2000), "ebm/joint_coherence": Result(0.70, 0.01, 2000)}
    results |= {"gen/label_entropy": Result(0.96, 0.004, 2000), "gen/fcd": Result(142.34, 1.0, 2000)}
    results |= {"cond/size1": Result(0.80, 0.02, 40), "cond/self": Result(0.9, 0.02, 40)}
    for i, source in enumerate(names):
        results[f"cond/self/{source}"] = Result(0.9 + 0.01 * i, 0.02, 40)
        for j, target in enumerate(names):
            if i != j:
                results[f"cond/size1/{source}->{target}"] = Result(0.3 + 0.1 * i, 0.02, 40)
    judges = dict.fromkeys(names, accuracy)
    return Evaluation(results, {"fid": "no Inception weights"}, judges, "small", 0, 1.0)


def make_scene(modalities: dict[str, Modality] = PICTURES, energy: bool = True, prior: str = "energy", **record: Any):
    sections: dict[str, Any] = {"prior": energy_prior() if prior == "energy" else {"kind": prior}}
    if not energy:
        sections["energy"] = None
    model = small_model(modalities, **sections).eval()
    model.energy_steps += 1  # as training would have
    return Scene(make_record(**record), model, make_dataset(modalities))


def html(part: Part | Section) -> str:
    """What the templates make of a part, or of the parts of a section below its title and lead."""
    if isinstance(part, Section):
        return part.title + part.lead + "".join(html(each) for each in part.parts)
    return str(PAGES.get_template("parts.html").module.part(part))  # type: ignore[attr-defined]


def data_uris(page: str) -> list[str]:
    return re.findall(r'src="(data:image/png;base64,[^"]*)"', page)


def pixels(uri: str) -> np.ndarray:
    """The RGBA bytes behind a data URI."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))))


def inside(page: str, section: str) -> str:
    """The text of one section of a page."""
    return page.split(f'<section id="{section}">', 1)[1].split("</section>", 1)[0]
