"""What belongs together and what looks real: areas and accuracies that are known."""

from dataclasses import replace
from math import sqrt
from types import SimpleNamespace

import pytest
import sklearn.metrics
import torch

from multiebm.core.random import randn
from multiebm.data.dataset import MultimodalDataset, Split
from multiebm.evaluation.belonging import FEATURES, auroc, told_apart
from multiebm.evaluation.measurement import Measurement
from multiebm.evaluation.metrics import measured
from multiebm.evaluation.result import EvaluationSettings
from multiebm.modalities import Vector
from small_models import small_model, vectors

N = 400


def test_areas_by_hand():
    """Of 1, 2, 3 against 0, 2, 4: 1 of 3 pairs, one and a half, two; (1 + 1.5 + 2) / 9."""
    found = auroc(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 2.0, 4.0]))
    assert found.value == pytest.approx(4.5 / 9)
    assert found.n == 3
    assert auroc(torch.zeros(5), torch.zeros(5)) == (0.5, 0.0, 5)  # ties count a half
    assert auroc(torch.arange(5.0) + 10, torch.arange(5.0)) == (1.0, 0.0, 5)
    assert auroc(torch.arange(5.0), torch.arange(5.0) + 10) == (0.0, 0.0, 5)


def test_areas_are_those_of_scikit_learn_ties_included():
    draws = torch.Generator().manual_seed(0)
    true, other = (torch.randint(0, 8, (60,), generator=draws) + shift for shift in (1, 0))
    expected = sklearn.metrics.roc_auc_score([1] * 60 + [0] * 60, torch.cat([true, other]).numpy())
    assert auroc(true, other).value == pytest.approx(expected, abs=1e-12)
    assert 0.5 < expected < 0.9


def test_the_area_of_equal_distributions_is_a_half_within_its_error_and_the_error_is_right():
    """200 repetitions of 100 pairs: their deviation is the error said, within 20 % (sd of a sd of 200: 5 %)."""
    draws = torch.Generator().manual_seed(0)
    found = [auroc(*torch.randn(2, 100, generator=draws)) for _ in range(200)]
    values = torch.tensor([result.value for result in found])
    said = sum(result.standard_error for result in found) / len(found)
    assert abs(float(values.mean()) - 0.5) < 4 * said / sqrt(200)
    assert float(values.std()) == pytest.approx(said, rel=0.2)
    assert said == pytest.approx(sqrt(1 / 600), rel=0.1)  # 1 / 12 (1 / n + 1 / m)


def data(noise: float = 0.1, n: int = N) -> MultimodalDataset:
    """Two parts that are one number, but for noise."""
    draws = torch.Generator().manual_seed(1)
    z = torch.randn(n, 1, generator=draws)
    views = {name: z + noise * torch.randn(n, 1, generator=draws) for name in "ab"}
    split = Split(views, torch.ones(n, 2).bool())
    return MultimodalDataset("pairs", vectors(a=1, b=1), split, split, None, "", "pairs")


def model_of(match=None, score=None, scale: float = 1.0, energy: object = None, learned: bool = False):
    """What `belong` and `two_sample` need of a model: samples are pairs of one standard normal number."""
    modalities = vectors(a=1, b=1)

    def sample(mean, rng):
        return mean + 0.1 * randn(rng, tuple(mean.shape), mean)

    return SimpleNamespace(
        modalities=modalities,
        device=torch.device("cpu"),
        training=False,
        train=lambda mode: None,
        energy=energy,
        energy_learned=learned,
        interaction_learned=False,
        diffusion=None,
        match_states=match,
        score_states=score,
        likeliest=lambda means: means,
        generator=SimpleNamespace(
            likelihoods=dict.fromkeys(modalities, SimpleNamespace(sample=sample)), temperature=1.0
        ),
        sample_latents=lambda n, rng, temperature: scale * randn(rng, (n, 1), torch.zeros(1)),
        decode=lambda z, wanted=None: dict.fromkeys(modalities, z),
    )


def results(model, dataset, *names: str):
    return measured(Measurement(model, dataset, None, EvaluationSettings(2000, N)), names)


def near(batch):
    return -(batch.views["a"] - batch.views["b"]).square()[:, 0]


def test_a_match_that_sees_the_distance_tells_foreign_parts_and_one_that_sees_nothing_does_not():
    found = results(model_of(near), data(1e-3), "belong/match").results
    assert found["belong/match"].value > 0.99
    assert found.keys() == {"belong/match", "belong/match/a", "belong/match/b"}
    blind = results(model_of(lambda batch: torch.zeros(len(batch.present))), data(), "belong/match").results
    assert blind["belong/match"] == (0.5, 0.0, N)
    # a part that is the same in all rows: a foreign one is the own one
    same = data()
    split = Split(same.test.views | {"b": torch.zeros(N, 1)}, same.test.present)
    equal = results(model_of(near), replace(same, train=split, test=split), "belong/match").results
    assert equal["belong/match/b"].value == 0.5


class ByThirds:
    """A part belongs by minus its distance from the mean of the others."""

    def by_part(self, views, present):
        seen = torch.where(present, torch.cat(list(views.values()), 1), torch.nan)  # [B, 3]
        rest = torch.stack([seen[:, [k for k in range(3) if k != i]].nanmean(1) for i in range(3)], 1)
        return -(seen - rest).square()


def test_the_foreign_part_of_three_is_found_and_its_number_is_lower_than_its_own_items():
    draws = torch.Generator().manual_seed(1)
    z = 10 * torch.randn(N, 1, generator=draws)
    present = torch.ones(N, 3, dtype=torch.bool)
    present[:50, 2] = False
    views = {name: z + 0.1 * torch.randn(N, 1, generator=draws) for name in "abc"}
    dataset = MultimodalDataset("triples", vectors(a=1, b=1, c=1), *[Split(views, present)] * 2, None, "", "triples")
    model = model_of()
    assert not results(model, dataset, "belong/part", "belong/found").results  # no energy of interaction
    model.interaction_learned, model.interaction = True, ByThirds()
    found = results(model, dataset, "belong/part", "belong/found").results
    assert [found[f"belong/found/{name}"].n for name in "abc"] == [N, N, N - 50]
    assert found["belong/found/c"].value > 0.97
    m = Measurement(model, dataset, None, EvaluationSettings(2000, N))
    batch = dataset.batch("test", torch.arange(50, N))
    batch = batch.select(torch.randperm(N - 50, generator=m.rng("belong/part")))
    foreign = batch.views | {"c": batch.views["c"].roll(1, 0)}
    own, moved = (ByThirds().by_part(of, batch.present) for of in (batch.views, foreign))
    assert found["belong/part/c"] == auroc(own[:, 2], moved[:, 2])
    assert found["belong/found/c"].value == pytest.approx(float((moved.argmin(1) == 2).double().mean()))
    assert found["belong/part"].value == pytest.approx(sum(found[f"belong/part/{k}"].value for k in "abc") / 3)


def test_only_complete_items_are_scored_and_items_with_two_parts_are_matched():
    whole = data()
    present = whole.test.present.clone()
    present[:100, 0] = False
    part = replace(whole, test=Split(whole.test.views, present))
    found = results(model_of(near, near), part, "belong/match", "belong/score").results
    assert found["belong/score/a"].n == found["belong/match/a"].n == N - 100
    nobody = replace(whole, test=Split(whole.test.views, torch.tensor([[True, False]]).expand(N, 2)))
    none = results(model_of(near, near), nobody, "belong/match", "belong/score")
    assert not none.results
    assert none.skipped["belong/match/a"] == "fewer than two test items have it beside another part"
    assert none.skipped["belong/score/a"] == ("fewer than two test items lack no part and no cell, and it needs such")


def test_an_energy_that_has_not_learned_scores_nothing():
    found = results(model_of(near, near, energy="one"), data(), "belong/score")
    assert not found.results
    assert "has not had a step of training" in found.skipped["belong/score"]
    learned = results(model_of(near, near, energy="one", learned=True), data(), "belong/score").results
    assert learned["belong/score"].value > 0.8


def test_samples_of_the_same_distribution_cannot_be_told_and_those_of_another_can():
    """800 rows of which half are samples: chance is 0.5 within sqrt(0.25 / 800) = 0.018, four times."""
    right = results(model_of(), data(), "two_sample").results["two_sample"]
    assert right.value < 0.5 + 4 * 0.018
    assert right.n == 2 * N
    wide = results(model_of(scale=20.0), data(), "two_sample").results
    assert min(wide["two_sample"].value, wide["two_sample/means"].value) > 0.85
    # each part as it should be, but the two do not belong together
    apart = model_of()
    apart.decode = lambda z, wanted=None: {"a": z, "b": -z}
    assert results(apart, data(), "two_sample").results["two_sample"].value > 0.85


def test_halves_of_the_same_rows_cannot_be_told_and_shifted_ones_can():
    """400 rows in all: chance is 0.5 within sqrt(0.25 / 400) = 0.025, four times."""
    whole = data()
    m = Measurement(model_of(), whole, None)
    rows = whole.batch("test", torch.arange(N))
    first, second = rows.select(torch.arange(0, N, 2)), rows.select(torch.arange(1, N, 2))
    assert abs(told_apart(m, first, second).value - 0.5) < 4 * 0.025
    shifted = second._replace(views={name: view + 5 for name, view in second.views.items()})
    assert told_apart(m, first, shifted).value > 0.95
    assert told_apart(m, first, first).value == 0.5  # the same rows, in the same folds


@pytest.mark.parametrize(("rows", "value"), [(6, None), (20, 0.0)])
def test_wide_parts_of_few_or_equal_training_rows_are_told_apart(rows: int, value: float | None):
    """More columns than components, of which few rows have few and equal ones none; nothing is warned of."""
    draws = torch.Generator().manual_seed(0)
    wide = {"v": Vector("v", (FEATURES + 6,))}
    train, test = (torch.randn(n, FEATURES + 6, generator=draws) for n in (rows, 80))
    train = train if value is None else torch.full_like(train, value)
    splits = [Split({"v": of}, torch.ones(len(of), 1).bool()) for of in (train, test)]
    m = Measurement(model_of(), MultimodalDataset("wide", wide, *splits, None, "", "wide"), None)
    real = m.dataset.batch("test", torch.arange(80))
    assert told_apart(m, real, real).value == 0.5
    far = real._replace(views={"v": real.views["v"] + 9})
    assert told_apart(m, real, far).value > 0.95


def test_gaps_of_real_rows_do_not_give_samples_away():
    """Half of the real rows lack a part, and so do their samples."""
    whole = data()
    present = whole.test.present.clone()
    present[::2, 0] = False
    split = Split(whole.test.views, present)
    found = results(model_of(), replace(whole, train=split, test=split), "two_sample").results
    assert found["two_sample"].value < 0.5 + 4 * 0.018


def test_a_few_rows_are_too_few_to_tell():
    few = data(n=8)
    assert results(model_of(), few, "two_sample").skipped["two_sample"] == "8 test items, and it needs 10"


def test_a_model_matches_and_scores_states_as_raw_values():
    model = small_model(vectors(a=2, b=3))
    views = {"a": torch.randn(5, 2), "b": torch.randn(5, 3)}
    batch = SimpleNamespace(views=views, present=torch.ones(5, 2).bool())
    with torch.no_grad():
        torch.testing.assert_close(model.eval().match(views), model.match_states(batch))
        torch.testing.assert_close(model.score(views), model.score_states(batch))
