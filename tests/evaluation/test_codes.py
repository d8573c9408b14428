from dataclasses import replace

import pytest
import torch
from evaluation_standins import StandIn, known_dataset

from multiebm.core.random import randn
from multiebm.data.dataset import Split
from multiebm.evaluation.codes import classification, linear_hits
from multiebm.evaluation.measurement import Measurement


def probed(model, dataset):
    m = Measurement(model, dataset, None, batch_size=100)
    return classification(m, "latent_classification") | classification(m, "private_leakage")


class Coder(StandIn):
    """Shared codes hold the class in a linear way, private ones only noise (or the other way round)."""

    def __init__(self, dataset, private: bool = True, leak: bool = False):
        super().__init__(dataset)
        self.private, self.leak = private, leak

    def infer_latents(self, batch, generator, latent_steps=0, posterior=None):
        known = torch.stack(list(batch.views.values())).sum(0)[:, :10] + 0.05 * randn(
            generator, (len(batch.present), 10), torch.zeros(1)
        )
        noise = randn(generator, known.shape, known)
        shared, own = (noise, known) if self.leak else (known, noise)
        return {"shared": shared} | (dict.fromkeys(self.modalities, own) if self.private else {})


def test_codes_that_hold_the_class_are_read_and_noise_is_at_chance():
    """Chance is 0.1. Train and test items are the same ones with other draws of noise, so nothing can be memorised; 5
    binomial standard errors of the 300 items (the three probes are not counted as independent): false alarm < 1e-6."""
    dataset = known_dataset()
    results = probed(Coder(dataset), dataset)
    assert results["latent_classification"].value == 1.0
    assert results["private_leakage"].value == pytest.approx(0.1, abs=5 * (0.1 * 0.9 / 300) ** 0.5)
    leaking = probed(Coder(dataset, leak=True), dataset)
    assert leaking["private_leakage/a"].value == 1.0
    assert leaking["latent_classification/a"].value < 0.3


def test_without_private_latents_there_is_no_leakage():
    dataset = known_dataset(100)
    results = probed(Coder(dataset, private=False), dataset)
    assert set(results) == {"latent_classification", *(f"latent_classification/{name}" for name in "abc")}
    assert results["latent_classification"].n == 100


def test_rows_that_lack_a_modality_have_no_code_of_it():
    dataset = known_dataset(100)
    present = torch.ones(100, 3, dtype=torch.bool)
    present[:40, 0] = False
    present[:, 2] = False
    rows = Split(dataset.test.views, present, dataset.test.labels)
    partial = replace(dataset, train=rows, test=rows)
    results = probed(Coder(partial, private=False), partial)
    assert results["latent_classification/a"].n == 60
    assert results["latent_classification/b"].n == 100
    assert "latent_classification/c" not in results


def test_test_codes_are_standardised_by_the_training_codes():
    """Test items of one class alone: by their own mean they would lie in the middle, and half of them be misread."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    train = (2.0 * labels - 1)[:, None] + 0.1 * torch.randn(200, 1, generator=generator)
    test = 1 + 0.1 * torch.randn(100, 1, generator=generator)
    assert linear_hits(train, labels, test, torch.ones(100, dtype=torch.int64)).all()
    near = 0.5 + 0.001 * torch.randn(100, 1, generator=generator)  # nor by their own scale
    assert linear_hits(train, labels, near, torch.ones(100, dtype=torch.int64)).all()


def test_the_probe_is_indifferent_to_the_scale_and_place_of_codes():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 4
    x = torch.randn(200, 3, generator=generator) + labels[:, None].float()
    hits = linear_hits(x[:100], labels[:100], x[100:], labels[100:])
    moved = x * torch.tensor([1e-3, 1.0, 1e3]) + 7
    assert (hits == linear_hits(moved[:100], labels[:100], moved[100:], labels[100:])).float().mean() > 0.97
