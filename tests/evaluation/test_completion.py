from dataclasses import replace
from math import comb, log

import pytest
import torch
from evaluation_standins import ConstantClass, ExactJudges, Oracle, RandomClasses, Wobbly, known_dataset

from multiebm.core.errors import DataError
from multiebm.data.dataset import Split
from multiebm.evaluation.completion import Conditioning, all_hits, completions, conditional_coherence, subsets_of_size
from multiebm.evaluation.measurement import Measurement
from multiebm.evaluation.result import EvaluationSettings
from multiebm.evaluation.samples import LABEL, joint_coherence, label_entropy, of

FIVE = ("m0", "m1", "m2", "m3", "m4")


def joint_labels(model, dataset, n, batch_size):
    m = Measurement(model, dataset, ExactJudges(dataset), EvaluationSettings(n), batch_size=batch_size)
    return of(m, "gen", LABEL)


def crossed(model, dataset, size, how):
    m = Measurement(model, dataset, ExactJudges(dataset), batch_size=128)
    return conditional_coherence(all_hits(m, torch.arange(len(dataset.test)), size, how)[0], how.name)


def test_joint_coherence_asks_all_modalities_to_agree():
    labels = {"a": torch.tensor([1, 2, 3, 4]), "b": torch.tensor([1, 2, 3, 0]), "c": torch.tensor([1, 0, 3, 4])}
    assert joint_coherence(labels) == pytest.approx((0.5, 0.25, 4))


def test_label_entropy_of_uniform_two_and_constant_labels():
    uniform = {"a": torch.arange(100) % 10, "b": (torch.arange(100) + 3) % 10}
    assert label_entropy(uniform, 10) == pytest.approx((1.0, 0.0, 100), abs=1e-6)
    assert label_entropy({"a": torch.arange(100) % 2}, 10).value == pytest.approx(log(2) / log(10))
    assert label_entropy({"a": torch.ones(100, dtype=torch.int64)}, 10) == (0.0, 0.0, 100)


def test_label_entropy_error_is_the_deviation_over_repeated_draws():
    """p = (0.7, 0.2, 0.1), N = 1000; deviation over 300 repeats known to 4.1 %; 5 of them, false alarm < 1e-6."""
    p, generator = torch.tensor([0.7, 0.2, 0.1]), torch.Generator().manual_seed(2)
    draws = torch.multinomial(p, 300_000, replacement=True, generator=generator).reshape(300, 1000)
    results = [label_entropy({"a": labels}, 3) for labels in draws]
    measured = torch.tensor([result.value for result in results]).std()
    assert results[0].standard_error == pytest.approx(float(measured), rel=0.21)


def test_label_entropy_error_has_its_closed_form_and_copies_of_an_item_add_nothing():
    """p = (0.7, 0.2, 0.1): sqrt(sum p (-log p - H)^2 / N) / log 3, of N = 100 items however many parts each has."""
    p = [0.7, 0.2, 0.1]
    entropy = -sum(share * log(share) for share in p)
    deviation = sum(share * (-log(share) - entropy) ** 2 for share in p) ** 0.5
    labels = torch.arange(100)
    labels = (labels >= 70).long() + (labels >= 90).long()
    expected = (entropy / log(3), deviation / 10 / log(3), 100)
    for copies in (1, 2, 5):
        assert label_entropy({str(i): labels for i in range(copies)}, 3) == pytest.approx(expected)
    assert label_entropy({"a": labels}, 6).standard_error == pytest.approx(deviation / 10 / log(6))


def test_label_entropy_of_one_class_is_refused():
    with pytest.raises(DataError, match="expected at least 2; one class has no entropy"):
        label_entropy({"a": torch.zeros(5, dtype=torch.int64)}, 1)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_every_subset_is_counted_once(size):
    subsets = subsets_of_size(list(FIVE), size)
    assert len(set(subsets)) == comb(5, size)
    results = crossed(Oracle(known_dataset(20, FIVE)), known_dataset(20, FIVE), size, Conditioning("cond"))
    pairs = [name for name in results if "->" in name]
    assert len(pairs) == comb(5, size) * (5 - size)  # 20, 30, 20, 5


@pytest.mark.parametrize("size", [0, 3, -1])
def test_a_subset_must_leave_something_to_generate(size):
    with pytest.raises(DataError, match="expected 1 to 2"):
        subsets_of_size(["a", "b", "c"], size)


@pytest.mark.parametrize("how", [Conditioning("cond"), Conditioning("x", latent_steps=3, data_chain=True)])
def test_the_perfect_oracle_is_as_coherent_as_the_judges_are_accurate(how):
    dataset = known_dataset()
    accuracy = ExactJudges(dataset).accuracy
    assert min(accuracy.values()) < 0.95
    results = crossed(Oracle(dataset, energy="yes"), dataset, 1, how)
    for source in accuracy:
        assert results[f"{how.name}/self/{source}"].value == accuracy[source]
        for target in set(accuracy) - {source}:
            assert results[f"{how.name}/size1/{source}->{target}"].value == accuracy[target]
    mean = sum(accuracy.values()) / 3
    assert results[f"{how.name}/size1"].value == pytest.approx(mean)
    assert results[f"{how.name}/self"].value == pytest.approx(mean)
    assert results[f"{how.name}/size1"].n == 300


def test_a_random_model_has_the_coherence_of_chance():
    """Five uniform labels agree with p = 1e-4: more than 8 of 10,000 has probability 1e-6. CC within 5 standard errors
    of 0.1: the 20 pairs of an item are independent here, false alarm < 1e-6."""
    dataset = known_dataset(1000, FIVE)
    model = RandomClasses(dataset)
    labels = joint_labels(model, dataset, 10_000, 2000)
    assert joint_coherence(labels).value * 10_000 <= 8
    assert label_entropy(labels, 10).value > 0.999
    result = crossed(model, dataset, 1, Conditioning("cond"))["cond/size1"]
    assert result.value == pytest.approx(0.1, abs=5 * (0.1 * 0.9 / 20_000) ** 0.5)
    assert result.standard_error == pytest.approx((0.1 * 0.9 / 20_000) ** 0.5, rel=0.15)


def test_a_constant_model_is_coherent_without_entropy():
    dataset = known_dataset(50, FIVE)
    labels = joint_labels(ConstantClass(dataset), dataset, 100, 30)
    assert joint_coherence(labels) == (1.0, 0.0, 100)
    assert label_entropy(labels, 10).value == 0.0


def test_only_the_observed_subset_is_shown_and_refined_as_told():
    dataset = known_dataset(20)
    model = Oracle(dataset)
    crossed(model, dataset, 2, Conditioning("cond_refined", latent_steps=4))
    assert model.calls == [("a,b", 4), ("a,c", 4), ("b,c", 4)]


def test_the_data_chain_starts_from_the_observed_parts_and_holds_them():
    dataset = known_dataset(40)
    how = Conditioning("cond_ebm", data_chain=True)
    (views,) = completions(Measurement(Wobbly(dataset), dataset, None), torch.arange(40), ("b",), how)
    assert torch.equal(views["b"], dataset.test.views["b"])
    assert not torch.equal(views["a"], dataset.test.views["a"])


def test_items_that_lack_an_observed_part_are_not_counted():
    dataset = known_dataset(40)
    present = torch.ones(40, 3, dtype=torch.bool)
    present[:10, 0] = False
    partial = replace(dataset, test=Split(dataset.test.views, present, dataset.test.labels))
    results = crossed(Oracle(partial), partial, 1, Conditioning("cond"))
    assert results["cond/size1/a->b"].n == 30
    assert results["cond/size1/b->a"].n == 40  # an absent target still has a label
    dataset.test.labels[:5] = -1  # nor are those of unknown class
    results = crossed(Oracle(partial), partial, 1, Conditioning("cond"))
    assert results["cond/size1/b->a"].n == 35
    present[:, 0] = False
    assert "cond/size1/a->b" not in crossed(Oracle(partial), partial, 1, Conditioning("cond"))
