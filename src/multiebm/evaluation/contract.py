"""What a metric and a set of judges of your own have to do, as test classes to inherit (`multiebm.testing`)."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor

from multiebm.core.batch import Batch
from multiebm.core.names import Views
from multiebm.core.random import Randomness, randn
from multiebm.data import MultimodalDataset, Rows, from_arrays
from multiebm.distributions.families import FAMILIES
from multiebm.distributions.mixture import Mixture
from multiebm.evaluation.measurement import JudgesLike, Measurement
from multiebm.evaluation.metrics import METRICS, NEEDS, measured
from multiebm.evaluation.result import EvaluationSettings, Result
from multiebm.models.model import MultimodalModel
from multiebm.priors.standard import StandardPrior

CLASSES, SIZE = 4, 6  # a part is its class, one-hot, a normal number, and another that says whether the item is misread
FEW, MANY = 64, 1600  # items; errors of the latter are a fifth
_TOLERANCE = 1e-4  # of float32, in sums over items


def misread(states: Tensor, share: float) -> Tensor:
    """Return states [B, SIZE], about a `share` of them with the next class."""
    turned = torch.cat([states[:, :CLASSES].roll(1, 1), states[:, CLASSES:]], 1)
    cut = torch.distributions.Normal(0, 1).icdf(torch.tensor(max(share, 1e-6)))
    return torch.where(states[:, -1:] < cut, turned, states)


class _Noiseless:
    """What is assumed of parts that a decoder gives as they are: a density of width 1, and draws without noise."""

    def log_density(self, x: Tensor, mean: Tensor) -> Tensor:
        return -0.5 * (x - mean).square().sum(1)

    def sample(self, mean: Tensor, rng: Randomness) -> Tensor:
        return mean


class _Mirror:
    """A model whose code is the item, of data whose parts are equal; `wrong`: the share of codes and of parts "b" that
    show another class. Its data chain leaves samples as they are, and its private latents are noise.
    """

    training, device, energy, energy_learned = False, torch.device("cpu"), "one that is flat", True
    interaction_learned, diffusion = False, None

    def __init__(self, dataset: MultimodalDataset, wrong: float) -> None:
        self.modalities, self.wrong = dataset.modalities, wrong
        self.states = dataset.batch("test", torch.arange(len(dataset.test))).views["a"]
        parts = dict.fromkeys("ab", _Noiseless())
        self.inference = self
        self.generator = SimpleNamespace(prior=StandardPrior("normal", SIZE), likelihoods=parts, temperature=1.0)

    def train(self, mode: bool = True) -> None:
        pass  # it has nothing to switch

    def sample_latents(self, n: int, rng: Randomness, temperature: float | None = None) -> dict[str, Tensor]:
        return {"shared": self.states[:n]}

    def infer_latents(
        self, batch: Batch, rng: Randomness, latent_steps: int = 0, posterior: object = None
    ) -> dict[str, Tensor]:
        seen = torch.stack(list(batch.views.values())).sum(0) / batch.present.sum(1, keepdim=True)
        noise = randn(rng, (len(seen), 2), seen)
        return {"shared": misread(seen, self.wrong), "a": noise, "b": noise}

    def decode(self, latents: dict[str, Tensor], wanted: Tensor | None = None) -> Views:
        return {"a": latents["shared"], "b": misread(latents["shared"], self.wrong)}

    def refine_data(self, views: Views, rng: Randomness, clamp: Tensor | Views | None = None) -> tuple[Views, None]:
        return views, None

    def likeliest(self, means: Views) -> Views:
        return means

    def refined_samples(self, latents: dict[str, Tensor], rng: Randomness, temperature: float | None) -> Views:
        return self.refine_data(self.decode(latents), rng)[0]

    def refined_fill(self, batch: Batch, rng: Randomness) -> Views:
        return batch.filled(self.decode(self.infer_latents(batch, rng)))

    def match_states(self, batch: Batch) -> Tensor:
        return -(batch.views["a"] - misread(batch.views["b"], self.wrong)).square().sum(1)

    score_states = match_states

    def given(self, batch: Batch) -> SimpleNamespace:
        """Return the posterior N(code, 1/4) of every item."""
        loc = torch.stack(list(batch.views.values())).mean(0)[None]
        members = torch.ones(1, len(batch.views), dtype=torch.bool)
        half = torch.full_like(loc, 0.5)
        return SimpleNamespace(shared=Mixture(loc, half, torch.zeros(loc.shape[:2]), members, FAMILIES["normal"]))


class _Reader:
    """Reads the class of a state; of real items, it is told, correctly in a share `right`. Features are the states."""

    def __init__(self, right: float) -> None:
        self.accuracy = dict.fromkeys("ab", right)

    def predict(self, views: Views) -> dict[str, Tensor]:
        return {name: view[:, :CLASSES].argmax(1) for name, view in views.items()}

    def features(self, views: Views) -> dict[str, Tensor]:
        return views


def mirrored(n: int, wrong: float = 0.0) -> Measurement:
    """Return n test items of equal parts before a model that gives them back, but for a share `wrong`."""
    classes = torch.arange(n) % CLASSES
    numbers = torch.randn(n, SIZE - CLASSES, generator=torch.Generator().manual_seed(0))
    view = torch.cat([torch.nn.functional.one_hot(classes, CLASSES), numbers], 1).numpy()
    rows = Rows({"a": view, "b": view}, classes.numpy())
    data = from_arrays(rows.views, {name: {"kind": "vector"} for name in rows.views}, rows.labels, test=rows)
    model, reader = cast(MultimodalModel, _Mirror(data, wrong)), _Reader(1 - wrong)
    return Measurement(model, data, reader, EvaluationSettings(n, n, (1,), 1), 0, reader, n, (reader,), reader)


class MetricContract:
    """Set `name`, the row of `METRICS` (entry point group `multiebm.metrics`)."""

    name: str
    measurement: Callable[..., Measurement] = staticmethod(mirrored)

    def results(self, n: int, wrong: float = 0.0) -> dict[str, Result]:
        """Return what it measures on n items of which a share `wrong` is another than it should be."""
        evaluation = measured(self.measurement(n, wrong), [self.name])
        assert evaluation.results, evaluation.skipped.get(self.name, "no result and no reason")
        return evaluation.results

    def test_its_row_says_what_it_means_and_needs(self) -> None:
        """Title, meaning, a best value within its span, and needs that the table knows."""
        row = METRICS[self.name]
        assert row.title
        assert row.meaning
        assert row.best is None or row.span[0] <= row.best <= row.span[1]
        assert set(row.needs) <= set(NEEDS)

    def test_perfect_data_have_the_perfect_value_and_worse_ones_a_worse(self) -> None:
        """Samples, completions and codes that are the data, and such of which every fifth shows another class."""
        best = METRICS[self.name].best
        if best is None:
            return
        perfect, worse = (
            max(abs(result.value - best) for result in self.results(FEW, wrong).values()) for wrong in (0.0, 0.2)
        )
        assert perfect < _TOLERANCE
        assert worse > perfect

    def test_values_lie_in_their_span_and_more_items_have_smaller_errors(self) -> None:
        """Of imperfect data; where there is no error, as of a count, there is none of more items."""
        low, high = METRICS[self.name].span
        few, many = self.results(FEW, 0.2), self.results(MANY, 0.2)
        for name, result in (*few.items(), *many.items()):
            assert low - _TOLERANCE <= result.value <= high + _TOLERANCE, name
        assert few.keys() == many.keys()
        for name, result in many.items():
            assert result.n > few[name].n, name
            assert result.standard_error < few[name].standard_error or few[name].standard_error == 0, name


class JudgesContract:
    """Return from `judges` what reads the test split of `dataset`."""

    def dataset(self) -> MultimodalDataset:
        """Return data with labels."""
        raise NotImplementedError("dataset: got none, expected a method that returns data with labels; write it")

    def judges(self) -> JudgesLike:
        """Return judges of some of its modalities."""
        raise NotImplementedError("judges: got none, expected a method that returns judges; write it")

    def states(self) -> tuple[JudgesLike, Views]:
        """Return the judges, and the test items [N, ...] that they read."""
        data, judges = self.dataset(), self.judges()
        views = data.batch("test", torch.arange(len(data.test))).views
        return judges, {name: views[name] for name in judges.accuracy}

    def test_their_accuracy_is_a_share_by_modality(self) -> None:
        """Of modalities of the data, in their order."""
        accuracy = self.judges().accuracy
        assert list(accuracy) == [name for name in self.dataset().modalities if name in accuracy]
        assert all(0 <= share <= 1 for share in accuracy.values())

    def test_an_item_is_read_alike_in_any_batch(self) -> None:
        """Labels int64 [B] of the classes, features [B, F] that are finite; no random number is drawn."""
        judges, views = self.states()
        before, first = torch.random.get_rng_state(), {name: view[:1] for name, view in views.items()}
        reads: list[Any] = [(judges.predict(seen), judges.features(seen)) for seen in (views, first)]
        assert torch.equal(before, torch.random.get_rng_state())
        for name, view in views.items():
            labels, features = reads[0][0][name], reads[0][1][name]
            assert (labels.dtype, labels.shape) == (torch.int64, view.shape[:1]), name
            assert 0 <= int(labels.min()) <= int(labels.max()) < (self.dataset().n_classes or 0), name
            assert features.isfinite().all(), name
            assert torch.equal(reads[1][0][name], labels[:1]), name
            torch.testing.assert_close(reads[1][1][name], features[:1], rtol=1e-4, atol=1e-5)

    def test_what_is_present_is_read_as_well_as_the_accuracy_says(self) -> None:
        """On the test items that have the modality and a known class."""
        data = self.dataset()
        judges, views = self.states()
        assert data.test.labels is not None
        for name, labels in judges.predict(views).items():
            counted = data.test.there(name) & (data.test.labels >= 0)
            share = (labels.cpu() == data.test.labels)[counted].double().mean()
            assert abs(float(share) - judges.accuracy[name]) < _TOLERANCE, name
