"""Every shipped metric does what a metric has to do, judges what judges have to; and so does one of a package."""

import sys
from dataclasses import replace
from functools import cache
from importlib import invalidate_caches

import torch

from multiebm.data import load_dataset
from multiebm.evaluation.contract import mirrored, misread
from multiebm.evaluation.judges import JudgeSettings, train_judges
from multiebm.evaluation.metrics import METRICS
from multiebm.evaluation.result import COND_DIFFUSION, FOUND, PART
from multiebm.modalities import Vector
from multiebm.modalities.category import Category
from multiebm.modalities.counts import Counts
from multiebm.modalities.text import Text
from multiebm.nn.pictures import ssim
from multiebm.testing import JudgesContract, MetricContract


class OfAnyKind(Vector):
    """A vector of six that is judged as a picture of 2 x 3 pixels, as one of four classes, as a word, and as counts."""

    def errors(self, true, predicted, spread):
        found = super().errors(true, predicted, spread)
        pictures = (of.view(-1, 1, 2, 3) for of in (true, predicted))
        found["ssim"] = ssim(*pictures, 2.0)[:, None]
        classes = (torch.nn.functional.one_hot(of[:, :4].argmax(1), 4).float() for of in (true, predicted))
        counts = (of.abs() for of in (true, predicted))
        words = (torch.nn.functional.one_hot(of[:, :2].argmax(1) + 1, 4)[:, None].float() for of in (true, predicted))
        captions = (torch.nn.functional.pad(word, (0, 0, 0, 1)) for word in words)  # of one word each
        found["exact"] = Text("m", ("x", "y"), 2).errors(*captions, spread)["exact"]
        found |= Category("m", (tuple("abcd"),)).errors(*classes, spread)
        return found | Counts("m", (6,)).errors(*counts, spread)


def of_any_kind(n, wrong=0.0):
    """What is measured of vectors, as of other kinds."""
    found = mirrored(n, wrong)
    found.dataset.modalities.update({name: OfAnyKind(**vars(m)) for name, m in found.dataset.modalities.items()})
    return found


def untaught(n, wrong=0.0):
    """The same before training rows whose parts have nothing in common, so that regression learns nothing."""
    found = mirrored(n, wrong)
    train = found.dataset.train
    mixed = replace(
        train,
        views=train.views | {"b": train.views["b"][torch.randperm(n, generator=torch.Generator().manual_seed(0))]},
    )
    return replace(found, dataset=replace(found.dataset, train=mixed))


class Remembering:
    """The term of a part is minus its distance from the part of the batch before, a share of which it misremembers: of
    a batch and the same with a foreign part, which are shown in turn.
    """

    def __init__(self, wrong):
        self.wrong, self.known = wrong, None

    def by_part(self, views, present):
        del present
        known, self.known = (views, views) if self.known is None else (self.known, None)
        return torch.stack([-(v - misread(known[n], self.wrong)).square().sum(1) for n, v in views.items()], 1)


def taught(n, wrong=0.0):
    """The same with an energy of interaction that has learned."""
    found = mirrored(n, wrong)
    found.model.interaction_learned, found.model.interaction = True, Remembering(wrong)
    return found


class Still:
    """A refiner that leaves views as they are."""

    def refine(self, views, rng, steps=None, clamp=None):
        return views


def refined(n, wrong=0.0):
    """The same with a diffusion refiner."""
    found = mirrored(n, wrong)
    found.model.diffusion = Still()
    return found


class Spoken(Vector):
    """A vector of six that is said in two words."""

    speaks = True

    def show(self, raw):
        return [f"class {int(row[:4].argmax())}" for row in raw]


def captioned(n, wrong=0.0):
    """The same with parts that are captions of the others."""
    found = mirrored(n, wrong)
    found.dataset.modalities["b"] = Spoken(**vars(found.dataset.modalities["b"]))
    return found


class OfClasses:
    """Compares the class of a picture with the one that its caption says."""

    picture, caption = "a", "b"

    def pictures(self, features):
        return torch.nn.functional.one_hot(features[:, :4].argmax(1), 4).float()

    def captions(self, captions):
        return torch.nn.functional.one_hot(torch.tensor([int(words[1]) for words in captions]), 4).float()


def compared(n, wrong=0.0):
    """The same with a judge of pairs."""
    return replace(captioned(n, wrong), pairs=OfClasses())


MEASUREMENTS = {f"fill/{name}": of_any_kind for name in ("ssim", "log_loss", "accuracy", "exact", "deviance")}
MEASUREMENTS |= dict.fromkeys((PART, FOUND), taught) | {COND_DIFFUSION: refined}
MEASUREMENTS |= {f"fill/over_{name}": untaught for name in ("regression", "neighbours")}
MEASUREMENTS |= {name: captioned for name in METRICS if name.startswith(("fluency", "completed"))}
MEASUREMENTS |= {name: compared for name in METRICS if "pair_" in name or "retrieval" in name}
for metric in METRICS:
    title = f"Test{metric.title().replace('_', '').replace('/', '').replace('-', '')}"
    own = {"measurement": staticmethod(MEASUREMENTS.get(metric, mirrored))}
    globals()[title] = type(title, (MetricContract,), {"name": metric, "__module__": __name__, **own})

OUTSIDE = """
from multiebm.evaluation.measurement import Metric
from multiebm.evaluation.result import proportion
from multiebm.evaluation.samples import LABEL, of


def same_class(m, name):
    drawn, real = of(m, name.split("/")[0], LABEL), of(m, "real", LABEL)
    return {name: proportion(drawn["b"] == real["b"])}


METRIC = Metric(same_class, "same class", "samples show what the data do", 1, needs=("judges",), sources=("ebm",))
"""


def test_a_package_adds_a_metric_that_is_measured_by_name_and_proves_itself(tmp_path, monkeypatch):
    (tmp_path / "outside_metric.py").write_text(OUTSIDE)
    info = tmp_path / "outside_metric-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-metric\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[multiebm.metrics]\nsame_class = outside_metric:METRIC\n")
    assert "same_class" not in METRICS
    monkeypatch.delitem(vars(METRICS), "_entries")  # looked up once a process
    monkeypatch.syspath_prepend(str(tmp_path))
    invalidate_caches()
    outside = type("TestOutside", (MetricContract,), {"name": "same_class"})()
    assert outside.results(8)["ebm/same_class"] == (1.0, 0.0, 8)
    for method in dir(outside):
        if method.startswith("test_"):
            getattr(outside, method)()
    sys.modules.pop("outside_metric")


@cache
def toy():
    data = load_dataset("toy2d", {"train_items": 200, "test_items": 90})
    return data, train_judges(data, 0, JudgeSettings(width=4, batch_size=32, cycles=((20, 1.0),)))


class TestTrainedJudges(JudgesContract):
    def dataset(self):
        return toy()[0]

    def judges(self):
        return toy()[1]
