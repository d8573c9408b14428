"""What cannot be measured is left out, and it is said which and why: few rows, parts or labels that are not there."""

from dataclasses import replace
from math import isfinite

import pytest
import torch
from evaluation_standins import ExactJudges, Oracle, Wobbly, known_dataset

import multiebm
from multiebm.core.errors import DataError
from multiebm.data.dataset import MultimodalDataset, Split
from multiebm.evaluation.judges import JudgeSettings, readable, train_judges, unread
from multiebm.evaluation.metrics import evaluate
from multiebm.evaluation.result import EvaluationSettings
from multiebm.experiments.measure import judges_of

SMALL = EvaluationSettings(samples=20, items=60, sizes=(1, 2), latent_steps=1)
QUICK = JudgeSettings(width=4, batch_size=32, cycles=((20, 1.0),))
DECLARED = {"v": {"kind": "vector"}, "w": {"kind": "vector"}, "p": {"kind": "picture", "layout": "chw"}}


def rows(n: int, classes: int = 2, hidden: str = "") -> multiebm.data.Rows:
    generator = torch.Generator().manual_seed(n)
    labels = torch.arange(n) % classes
    views = {name: (labels[:, None] + 0.1 * torch.randn(n, 2, generator=generator)).numpy() for name in "vw"}
    views["p"] = torch.randint(0, 256, (n, 1, 8, 8), generator=generator, dtype=torch.uint8).numpy()
    present = {name: torch.full((n,), name != hidden).numpy() for name in views}
    return multiebm.data.Rows(views, labels.numpy(), present)


def dataset_of(train, test) -> MultimodalDataset:
    return multiebm.from_arrays(train.views, DECLARED, train.labels, train.present, test=test)


def measured(dataset):
    """By judges that learn for an instant, of a model that has not learned: what is asked here is what is measured."""
    model = multiebm.build("arrays-mmvaeplus", dataset)
    judges = train_judges(dataset, 0, QUICK) if readable(dataset) else None
    evaluation = evaluate(model, dataset, judges, SMALL)
    assert all(isfinite(number) for result in evaluation.results.values() for number in result)
    assert not set(evaluation.results) & set(evaluation.skipped)
    return evaluation


@pytest.mark.parametrize(("n_train", "n_test"), [(1, 1), (2, 1), (1, 2), (3, 1), (2, 2)])
def test_the_smallest_sets_are_measured_as_far_as_they_go(n_train, n_test):
    evaluation = measured(dataset_of(rows(n_train), rows(n_test)))
    judged = n_train > 1  # or there is one class only
    assert ("gen/joint_coherence" in evaluation.results) == ("cond/size1" in evaluation.results) == judged
    assert (
        ("gen/fcd" in evaluation.results) == ("gen/variety" in evaluation.results and judged) == (judged and n_test > 1)
    )
    assert ("latent_classification" in evaluation.results) == judged
    assert ("latent/active_units" in evaluation.results) == (n_test > 1)
    if judged and n_test == 1:
        assert evaluation.skipped["fcd/v"] == "1 real part(s) in the test split, and it needs 2"
        assert evaluation.results["cond/size1"].n == 1
        assert evaluation.results["latent/kl"][1:] == (0.0, 1)  # one item says nothing of its own error
    if not judged:
        assert "one class only where 'v' is present" in evaluation.skipped["joint_coherence, label_entropy, fcd"]
        assert "one class only" in evaluation.skipped["cond"]
        assert "1 class(es) in its training rows" in evaluation.skipped["latent_classification/v"]


@pytest.mark.parametrize("where", ["train", "test", "both"])
def test_a_part_absent_from_a_split_is_left_out_and_the_others_are_measured(where):
    hidden = [rows(n, hidden="w" if where in (split, "both") else "") for split, n in (("train", 20), ("test", 12))]
    evaluation = measured(dataset_of(*hidden))
    counts = f"{0 if where != 'test' else 20} of 20 training and {0 if where != 'train' else 12} of 12 test rows"
    assert evaluation.skipped["judge/accuracy/w"] == (
        f"the data set has 'w' with a known label in {counts}; what judges read leaves this part out"
    )
    assert set(evaluation.accuracy) == {"v", "p"}
    assert evaluation.results["real/joint_coherence"].n == 12  # of the parts that judges read
    assert "gen/fcd/v" in evaluation.results
    assert not [name for name in evaluation.results if name.endswith("->w")]
    if where != "train":
        assert evaluation.skipped["cond given w"] == "0 of 12 labelled test items have that"
        assert "0 real part(s)" in evaluation.skipped["variety/w"]
        assert "latent_classification/w" in evaluation.skipped
        assert not [name for name in evaluation.results if "/w->" in name or "+w->" in name]
    else:
        assert evaluation.results["cond/size1/w->v"].n == 12


def test_parts_never_seen_together_are_named_once():
    dataset = known_dataset(40)
    present = torch.ones(40, 3, dtype=torch.bool)
    present[:20, 0] = False
    present[20:, 1] = False
    partial = replace(dataset, test=Split(dataset.test.views, present, dataset.test.labels))
    evaluation = evaluate(Oracle(partial), partial, ExactJudges(dataset), SMALL)
    named = [name for name in evaluation.skipped if "given" in name]
    assert named == ["cond given a+b", "cond_refined given a+b", "fill a given b", "fill b given a"]
    assert evaluation.skipped["real/joint_coherence"] == "no test item has all parts that judges read"
    assert evaluation.results["cond/size1/a->b"].n == 20
    assert "cond/size2/a+b->c" not in evaluation.results


def test_nothing_present_at_all_leaves_samples_alone():
    dataset = known_dataset(30)
    empty = Split(dataset.test.views, torch.zeros(30, 3, dtype=torch.bool), dataset.test.labels)
    evaluation = evaluate(Wobbly(dataset), replace(dataset, test=empty), ExactJudges(dataset), SMALL)
    assert evaluation.skipped["latent"] == "no test item has a part"
    assert {name for name in evaluation.skipped if name.startswith("cond given")} == {
        f"cond given {name}" for name in "abc"
    }
    assert "gen/joint_coherence" in evaluation.results
    assert unread(replace(dataset, test=empty)).keys() == {"a", "b", "c"}


def test_where_splits_share_no_class_no_judge_is_trained():
    """As in zero-shot splits: it could read nothing right."""
    train, test = rows(20), rows(12)
    evaluation = measured(dataset_of(train, replace(test, labels=test.labels + 2)))
    assert "has no class that is in both splits" in evaluation.skipped["cond"]
    assert "cond/size1" not in evaluation.results


def test_nan_behind_the_mask_changes_no_result():
    dataset = dataset_of(rows(20), rows(12))
    present = torch.ones(12, 3, dtype=torch.bool)
    present[:5, 0] = False
    hidden = {**dataset.test.views, "v": dataset.test.views["v"].clone()}
    hidden["v"][:5] = torch.nan
    model, judges = multiebm.build("arrays-mmvaeplus", dataset), train_judges(dataset, 0, QUICK)
    zero, nan = (
        evaluate(model, replace(dataset, test=Split(views, present, dataset.test.labels)), judges, SMALL)
        for views in (dataset.test.views, hidden)
    )
    assert zero.results == nan.results
    assert zero.results["gen/fcd/v"] != evaluate(model, dataset, judges, SMALL).results["gen/fcd/v"]


def test_one_class_has_no_judges_and_no_entropy(tmp_path, monkeypatch):
    monkeypatch.setenv("MULTIEBM_CACHE", str(tmp_path))
    dataset = dataset_of(rows(20, classes=1), rows(12, classes=1))
    assert judges_of(dataset, "cpu") is None
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match="one class only.*expected labels of two classes or more"):
        train_judges(dataset)
    evaluation = measured(dataset)
    assert "one class only" in evaluation.skipped["joint_coherence, label_entropy, fcd"]
    assert "latent/kl" in evaluation.results
    constant = replace(known_dataset(30, marked=0), n_classes=1)
    zeros = Split(constant.test.views, constant.test.present, torch.zeros(30, dtype=torch.int64))
    constant = replace(constant, train=zeros, test=zeros)
    seen = evaluate(Wobbly(constant), constant, ExactJudges(constant), SMALL)
    assert seen.skipped["label_entropy"] == "1 known class(es) among the labels, and it needs 2"


def unknown_labels(dataset: MultimodalDataset, rows: torch.Tensor) -> MultimodalDataset:
    labels = torch.where(rows, -1, dataset.test.labels)
    split = Split(dataset.test.views, dataset.test.present, labels)
    return replace(dataset, train=split, test=split)


def test_items_of_unknown_class_are_neither_learned_from_nor_counted():
    dataset = dataset_of(rows(40), rows(40))
    some = unknown_labels(dataset, torch.arange(40) < 15)
    known = replace(some, train=take(some.train, torch.arange(15, 40)), test=take(some.test, torch.arange(15, 40)))
    few, all_known = (train_judges(data, 0, QUICK) for data in (some, known))
    assert few.accuracy == all_known.accuracy
    for name, network in few.networks.items():
        assert torch.equal(network.head.weight, all_known.networks[name].head.weight)
    results = evaluate(multiebm.build("arrays-mmvaeplus", dataset), some, few, SMALL).results
    assert results["cond/size1/v->w"].n == results["latent_classification/v"].n == results["judge/accuracy/v"].n == 25
    assert results["real/joint_coherence"].n == results["latent/kl"].n == 40  # these ask for no class


def test_unknown_classes_do_not_count_as_misread():
    dataset = known_dataset(60, marked=0)
    some = unknown_labels(dataset, torch.arange(60) % 3 == 0)
    results = evaluate(Oracle(some), some, ExactJudges(dataset), SMALL).results
    assert results["cond/size1"] == (1.0, 0.0, 40)
    assert results["gen/label_entropy"].value > 0.5
    none = unknown_labels(dataset, torch.ones(60, dtype=torch.bool))
    evaluation = evaluate(Oracle(none), none, ExactJudges(dataset), SMALL)
    assert evaluation.skipped["cond"] == "no test labels that are known in data set 'known'"
    assert "0 class(es)" in evaluation.skipped["latent_classification/a"]
    assert evaluation.skipped["label_entropy"] == "no known class(es) among the labels, and it needs 2"


def take(split: Split, rows: torch.Tensor) -> Split:
    return Split({name: view[rows] for name, view in split.views.items()}, split.present[rows], split.labels[rows])


def test_evenly_spread_classes_have_entropy_one_whatever_their_names():
    """Years as labels: five classes, and a largest label of 1994."""
    dataset = known_dataset(500, marked=0)
    years = 1990 + dataset.test.labels % 5
    split = Split(dataset.test.views, dataset.test.present, years)
    dated = replace(dataset, train=split, test=split, n_classes=1995)

    class Dated(ExactJudges):
        def predict(self, views):
            return {name: 1990 + label % 5 for name, label in super().predict(views).items()}

    class Even(Oracle):
        def sample_latents(self, n, generator, temperature=None):
            return {"shared": torch.arange(n)[:, None].float()}

    results = evaluate(Even(dated), dated, Dated(dataset), replace(SMALL, samples=500)).results
    assert results["gen/label_entropy"].value == pytest.approx(1.0)


def test_an_energy_without_a_step_is_not_measured():
    dataset = known_dataset(40)
    model = Wobbly(dataset)
    model.energy_learned = False
    evaluation = evaluate(model, dataset, ExactJudges(dataset), SMALL)
    for name in ("ebm", "cond_ebm"):
        assert evaluation.skipped[name] == "the energy has not had a step of training, so its chain says nothing"
    assert not [name for name in evaluation.results if "ebm" in name]
    real = dataset_of(rows(20), rows(12))
    untrained = evaluate(multiebm.build("arrays", real), real, None, SMALL)
    assert "has not had a step" in untrained.skipped["ebm"]
    assert "gen/variety" in untrained.results


def test_a_judge_whose_accuracy_is_unknown_is_none():
    dataset = dataset_of(rows(20), rows(12, hidden="p"))
    assert readable(dataset) == ["v", "w"]
    assert set(train_judges(dataset, 0, QUICK).networks) == {"v", "w"}


def test_judges_of_some_parts_are_cached_as_those_of_all_are(tmp_path, caplog):
    from multiebm.evaluation.stored_judges import load_judges

    dataset = dataset_of(rows(20, hidden="v"), rows(12))
    first, again = (load_judges(dataset, tmp_path, settings=QUICK) for _ in range(2))
    assert first.accuracy.keys() == again.accuracy.keys() == {"w", "p"}
    assert torch.equal(first.networks["p"].head.weight, again.networks["p"].head.weight)
    assert not caplog.records
