"""Every shipped metric does what a metric has to do, judges what judges have to; and so does one of a package."""

import sys
from functools import cache
from importlib import invalidate_caches

from multiebm.data import load_dataset
from multiebm.evaluation.judges import JudgeSettings, train_judges
from multiebm.evaluation.metrics import METRICS
from multiebm.testing import JudgesContract, MetricContract

for metric in METRICS:
    title = f"Test{metric.title().replace('_', '').replace('/', '')}"
    globals()[title] = type(title, (MetricContract,), {"name": metric, "__module__": __name__})

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
