"""The package's own model under the harness, with judges that read the sign of the first coordinate."""

from dataclasses import replace

import pytest
import torch

from multiebm.data.dataset import MultimodalDataset, Split
from multiebm.evaluation.measurement import Measurement
from multiebm.evaluation.metrics import evaluate
from multiebm.evaluation.metrics import measured as of_measurement
from multiebm.evaluation.result import EvaluationSettings
from small_models import energy_prior, mixed, random_views, small_model

SETTINGS = EvaluationSettings(60, 40, (1, 2), 2)


class Signs:
    def __init__(self, modalities):
        self.accuracy = dict.fromkeys(modalities, 1.0)

    def predict(self, views):
        return {name: (view.flatten(1)[:, 0] > 0).long() for name, view in views.items()}

    def features(self, views):
        return {name: view.flatten(1)[:, :2] for name, view in views.items()}


def small_dataset(n: int = 40) -> MultimodalDataset:
    modalities = mixed()
    states = random_views(modalities, n)
    raw = {name: modality.to_raw(states[name]) for name, modality in modalities.items()}
    present = torch.ones(n, 3, dtype=torch.bool)
    present[:7, 0] = False
    present[5:9, 1] = False
    split = Split(raw, present, (states["left"][:, 0] > 0).long())
    return MultimodalDataset("small", modalities, split, split, 2, "", "small")


@pytest.fixture(scope="module")
def measured():
    dataset = small_dataset()
    model = small_model(dataset.modalities, prior=energy_prior())
    return dataset, model, evaluate(model, dataset, Signs(dataset.modalities), SETTINGS)


def test_every_metric_is_measured_on_the_items_that_allow_it(measured):
    _, model, evaluation = measured
    assert list(evaluation.skipped) == ["fid", "fd-lite0"]
    counts = {name: result.n for name, result in evaluation.results.items()}
    assert counts["ebm/joint_coherence"] == counts["gen/fcd/face"] == 60
    assert counts["cond/size1/face->left"] == 33
    assert counts["cond/size1/left->face"] == 36
    assert counts["cond/size2/face+left->right"] == 31
    assert counts["latent_classification/right"] == counts["private_leakage/right"] == 40
    assert {"cond_refined/size2", "cond_ebm/size1", "cond_ebm/size1/face->right"} <= counts.keys()
    assert model.training


def test_joint_samples_are_drawn_at_the_temperature_asked_for(measured):
    dataset, model, before = measured
    judges = Signs(dataset.modalities)
    asked = evaluate(model, dataset, judges, replace(SETTINGS, temperature=0.25)).results
    assert model.generator.temperature == 1.0
    model.generator.temperature = 0.25
    own = evaluate(model, dataset, judges, SETTINGS).results
    model.generator.temperature = 1.0
    assert asked == own
    changed = {name.split("/")[0] for name in asked if asked[name] != before.results[name]}
    assert {"gen", "ebm"} <= changed <= {"gen", "ebm", "two_sample"}  # a share of few rows may come out the same


def test_no_number_of_a_real_model_depends_on_the_batch_size(measured):
    dataset, model, evaluation = measured
    judges = Signs(dataset.modalities)
    for name, result in of_measurement(Measurement(model, dataset, judges, SETTINGS, batch_size=7)).results.items():
        assert result == pytest.approx(tuple(evaluation.results[name]), rel=1e-4, abs=1e-7), name
