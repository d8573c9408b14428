import json
from dataclasses import replace

import pytest
import torch
from evaluation_standins import ExactJudges, Oracle, RandomClasses, StandIn, Wobbly, known_dataset

from multiebm.core.errors import CheckpointError, ConfigError, DivergenceError
from multiebm.core.progress import listening
from multiebm.core.random import randn
from multiebm.data.dataset import MultimodalDataset, Split
from multiebm.evaluation.measurement import Measurement, chosen_items
from multiebm.evaluation.metrics import METRICS, evaluate, quick_look
from multiebm.evaluation.metrics import measured as of_measurement
from multiebm.evaluation.result import Evaluation, EvaluationSettings, load_evaluation
from multiebm.modalities import Picture

SMALL = EvaluationSettings(samples=200, items=60, sizes=(1, 2), latent_steps=2)
NO_CODES = [name for name in METRICS if "latent" not in name and name != "private_leakage"]
OF_DENSITY = (
    "fill/log_likelihood",
    "fill/coverage50",
    "fill/coverage90",
    "two_sample",
)  # around decoder means as they are


def measured(model, dataset, settings=SMALL, only=(), **more):
    return of_measurement(Measurement(model, dataset, ExactJudges(dataset), settings, **more), only)


def test_one_call_measures_everything_that_is_defined():
    dataset = known_dataset(100)
    evaluation = measured(Wobbly(dataset), dataset)
    expected = {
        *(f"{kind}/{name}" for kind in ("gen", "ebm") for name in ("joint_coherence", "label_entropy", "fcd", "fcd/c")),
        *(f"{kind}/{name}" for kind in ("cond", "cond_refined") for name in ("size1", "size2", "size2/a+b->c", "self")),
        *("cond_ebm/size1", "cond_ebm/size1/a->b", "cond/self/a", "judge/accuracy/a"),
        *("latent_classification", "latent_classification/b", "private_leakage", "private_leakage/a"),
        *("latent/kl", "latent/active_units", "latent/units"),
    }
    assert expected <= set(evaluation.results)
    assert "cond_ebm/size2" not in evaluation.results  # not asked for
    assert list(evaluation.skipped) == ["fid"]
    assert evaluation.results["gen/joint_coherence"].n == 200
    assert evaluation.results["cond/size1"].n == 60
    assert evaluation.results["cond_refined/size1"].n == 12


def test_nothing_depends_on_the_batch_size():
    dataset = known_dataset(500)
    settings = replace(SMALL, samples=1000, items=500)
    small = measured(Wobbly(dataset), dataset, settings, batch_size=50).results
    large = measured(Wobbly(dataset), dataset, settings, batch_size=500).results
    assert small.keys() == large.keys()
    assert 0 < small["ebm/joint_coherence"].value < 1
    for name, result in small.items():
        if "fcd" in name or name.startswith("fill"):  # sums of float32 numbers in another order
            assert result.value == pytest.approx(large[name].value, rel=1e-5), name
        else:
            assert result == large[name], name


def test_metrics_do_not_share_draws_so_leaving_some_out_changes_none():
    dataset = known_dataset(100)
    full = measured(Wobbly(dataset), dataset).results
    part = measured(Wobbly(dataset), dataset, replace(SMALL, sizes=(2,)), only=NO_CODES).results
    assert set(part) < set(full)
    assert all(full[name] == result for name, result in part.items())
    other = measured(Wobbly(dataset), dataset, seed=1).results
    assert other["gen/fcd"] != full["gen/fcd"]


def test_a_model_without_energy_is_measured_without_its_chain_and_says_so():
    dataset = known_dataset(100)
    evaluation = measured(Oracle(dataset), dataset)
    assert not [name for name in evaluation.results if "ebm" in name]
    assert "no energy" in evaluation.skipped["ebm"]
    assert "no energy" in evaluation.skipped["cond_ebm"]
    assert "no private latents" in evaluation.skipped["private_leakage"]


def test_without_labels_only_what_is_defined_is_measured_each_gap_with_its_reason():
    dataset = known_dataset(100, labels=False)
    evaluation = evaluate(Wobbly(dataset), dataset, None, SMALL)
    of_models = {"variety", "kl", "active_units", "units"}
    beside = {"rmse", "mean", "regression", "neighbours", "over_regression", "over_neighbours", "r2", "log_likelihood"}
    of_parts = {"coverage50", "coverage90", "learned", "match", "score"} | beside
    assert {name.split("/")[1] for name in evaluation.results if "/" in name} == {"means", *of_models, *of_parts}
    assert [name for name in evaluation.results if "/" not in name] == ["two_sample"]
    assert evaluation.trustworthy is None
    assert "no judges" in evaluation.skipped["joint_coherence, label_entropy, fcd"]
    assert "no judges of data set 'known', which has no labels" in evaluation.skipped["cond_refined"]
    assert "no labels" in evaluation.skipped["latent_classification"]
    with_exact_judges = measured(Wobbly(dataset), dataset)
    assert "gen/joint_coherence" in with_exact_judges.results
    assert "gen/label_entropy" not in with_exact_judges.results  # how many classes is not known


def test_one_modality_has_nothing_to_complete():
    dataset = known_dataset(100, names=("a",))
    evaluation = measured(Oracle(dataset), dataset)
    assert "one modality" in evaluation.skipped["cond"]
    assert "one part agrees with itself" in evaluation.skipped["joint_coherence"]
    assert not [name for name in evaluation.results if "joint_coherence" in name]


def test_a_quick_look_measures_samples_and_pairs_only():
    dataset = known_dataset(100)
    evaluation = quick_look(Wobbly(dataset), dataset, ExactJudges(dataset), n=100)
    assert {name.split("/")[0] for name in evaluation.results} == {"real", "gen", "ebm", "cond", "judge"}
    assert not [name for name in evaluation.results if "size2" in name]
    assert (
        evaluation.skipped["cond_refined"] == evaluation.skipped["latent_classification"] == "left out by the settings"
    )
    assert evaluation.provisional


def test_features_of_another_reader_are_reported_under_another_name():
    dataset = known_dataset(100)

    class Doubled:
        def features(self, views):
            return {name: 2 * view[:, :10] for name, view in views.items() if name != "b"}

    evaluation = evaluate(Wobbly(dataset), dataset, ExactJudges(dataset), SMALL, inception=Doubled())
    assert "fid" not in evaluation.skipped
    assert "gen/fid/b" not in evaluation.results
    assert evaluation.results["gen/fid/a"].value == pytest.approx(4 * evaluation.results["gen/fcd/a"].value, rel=1e-6)
    alone = of_measurement(Measurement(Wobbly(dataset), dataset, None, SMALL, inception=Doubled()), NO_CODES)
    found = {name for name in alone.results if "fid" in name}
    assert found == {f"{kind}/fid{part}" for kind in ("gen", "ebm") for part in ("", "/a", "/c")}


def test_a_network_that_reads_no_modality_leaves_its_distance_out():
    """As Inception's does, where no part is an RGB picture."""
    dataset = known_dataset(100)

    class Blind:
        def features(self, views):
            return {}

    evaluation = evaluate(Wobbly(dataset), dataset, ExactJudges(dataset), SMALL, inception=Blind())
    assert evaluation.skipped["fid"] == "no modality that its network reads"
    assert not [name for name in evaluation.results if "fid" in name]


def test_samples_that_are_not_finite_are_an_error_that_names_the_modality():
    dataset = known_dataset(100)

    class Broken(RandomClasses):
        def decode(self, latents, wanted=None):
            views = {name: torch.zeros(len(latents["shared"]), 12) for name in self.modalities}
            views["b"][3, 4] = float("nan")
            return views

    with pytest.raises(DivergenceError, match="Gen samples: 1 of 200 generated items of modality 'b'"):
        measured(Broken(dataset), dataset)


def test_the_model_is_evaluated_in_evaluation_mode_and_returned_as_it_was():
    dataset = known_dataset(50)
    model = Wobbly(dataset)
    seen = []
    model.register_module("spy", torch.nn.Identity())
    decode = model.decode
    model.decode = lambda latents, wanted=None: seen.append(model.training) or decode(latents, wanted)
    measured(model, dataset)
    assert seen
    assert not any(seen)
    assert model.training


def test_the_reference_leaves_out_absent_items():
    dataset = known_dataset(50)
    present = torch.ones(50, 3, dtype=torch.bool)
    present[:20, 1] = False
    partial = replace(dataset, test=Split(dataset.test.views, present, dataset.test.labels))
    short = {name: view[20:] for name, view in dataset.test.views.items()}
    rest = replace(dataset, test=Split(short, present[20:], dataset.test.labels[20:]))
    model, judges = RandomClasses(dataset), ExactJudges(dataset)
    seen = [Measurement(model, data, judges, SMALL) for data in (partial, rest)]
    with_gaps, without = (of_measurement(m, NO_CODES).results for m in seen)
    assert with_gaps["gen/fcd/b"] == without["gen/fcd/b"]
    assert with_gaps["gen/fcd/a"] != without["gen/fcd/a"]
    assert with_gaps["real/joint_coherence"] == without["real/joint_coherence"]
    assert without["real/joint_coherence"].n == 30


def test_real_parts_are_those_of_the_test_split():
    """Training data as the reference would flatter whoever learned them by heart; only the probe reads them, and what
    is fitted beside a model to fill parts in.
    """
    dataset = known_dataset(60)
    views = {name: view.flip(0) * 0.5 + 0.1 for name, view in dataset.train.views.items()}
    other = replace(dataset, train=Split(views, dataset.train.present, dataset.train.labels.flip(0)))
    model, judges = Wobbly(dataset), ExactJudges(dataset)
    before, after = (evaluate(model, data, judges, SMALL).results for data in (dataset, other))
    changed = {name.split("/")[0] for name in before if before[name] != after[name]}
    assert changed <= {"latent_classification", "private_leakage", "fill", "two_sample"}
    assert before["belong/match"] == after["belong/match"]
    assert before["gen/fcd"] == after["gen/fcd"] != measured(model, replace(other, test=other.train)).results["gen/fcd"]


def test_pictures_are_read_as_users_see_them_within_their_range():
    """A chain that leaves [-1, 1] by far changes nothing: `sample` and `impute` clamp, and so does what is measured."""
    names, n = ("a", "b"), 40
    pictures = {name: torch.randint(0, 256, (n, 1, 2, 2), dtype=torch.uint8) for name in names}
    rows = Split(pictures, torch.ones(n, 2, dtype=torch.bool), torch.arange(n) % 2)
    modalities = {name: Picture(name, (1, 2, 2)) for name in names}
    dataset = MultimodalDataset("pictures", modalities, rows, rows, 2, "", "pictures")
    ranges = []

    class Reader:
        accuracy = dict.fromkeys(names, 1.0)

        def predict(self, views):
            ranges.extend(float(view.abs().max()) for view in views.values())
            return {name: (view.flatten(1).sum(1) > 0).long() for name, view in views.items()}

        def features(self, views):
            return {name: view.flatten(1) for name, view in views.items()}

    class Wild(StandIn):
        def __init__(self, gain):
            super().__init__(dataset, "an energy")
            self.gain = gain

        def sample_latents(self, n, generator, temperature=None):
            return {"shared": randn(generator, (n, 4), torch.zeros(1)).sign()}

        def infer_latents(self, batch, generator, latent_steps=0, posterior=None):
            return self.sample_latents(len(batch.present), generator)

        def decode(self, latents, wanted=None):
            return {name: self.gain * latents["shared"].reshape(-1, 1, 2, 2) for name in names}

        def refine_data(self, views, generator, steps=None, clamp=None):
            return {name: 2 * view for name, view in views.items()}, None

    settings = replace(SMALL, sizes=(1,))
    seen = [Measurement(Wild(gain), dataset, Reader(), settings) for gain in (1.0, 9.0)]
    tame, wild = (of_measurement(m, [name for name in NO_CODES if name not in OF_DENSITY]).results for m in seen)
    assert tame == wild
    assert max(ranges) == 1.0


def test_listeners_hear_of_everything_that_takes_long():
    heard: dict[str, list[int | None]] = {}

    class Ear:
        def start(self, what, total):
            heard[what] = [total, 0]
            return list(heard).index(what)

        def advance(self, task, steps):
            list(heard.values())[task][1] += steps

        def end(self, task):
            pass

    dataset = known_dataset(60)
    with listening(Ear()):
        evaluation = measured(Wobbly(dataset), dataset)
    assert evaluation.results == measured(Wobbly(dataset), dataset).results
    assert heard["joint samples"] == [200, 200]
    assert heard["cond, 1 given"] == heard["cond, 2 given"] == [3 * 60, 3 * 60]
    assert heard["cond_ebm, 1 given"] == heard["cond_refined, 2 given"] == [3 * 12, 3 * 12]
    assert heard["codes"] == [3, 3]
    assert heard["real test items"] == heard["latents"] == [1, 1]


def test_a_part_of_the_test_items_is_a_random_one():
    every = torch.arange(300)
    items = chosen_items(every, 100)
    assert len(items.unique()) == 100
    assert items.max() > 250
    assert torch.equal(items, chosen_items(every, 100))
    assert torch.equal(chosen_items(every, 1000), every)


def test_an_evaluation_survives_its_file(tmp_path):
    dataset = known_dataset(60)
    evaluation = measured(Oracle(dataset), dataset)
    evaluation = replace(evaluation, seconds=round(evaluation.seconds, 2))
    file = tmp_path / "evaluation.json"
    evaluation.save(file)
    assert load_evaluation(file) == evaluation
    assert [f.name for f in tmp_path.iterdir()] == ["evaluation.json"]
    content = json.loads(file.read_text())
    assert content["judges"]["trustworthy"] is evaluation.trustworthy is False  # a tenth of the items is misread
    assert content["provisional"] is True
    assert content["results"]["cond/size1/a->b"].keys() == {"value", "standard_error", "n"}


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 0}', '{"format": 1}'])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "evaluation.json").write_text(content)
    with pytest.raises(CheckpointError, match="evaluat"):
        load_evaluation(tmp_path / "evaluation.json")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 1}, "got an evaluation of format 1, expected 2, that of this release; evaluate the run again"),
        ({"settings": {"samples": 1, "sizes": [1]}}, "settings.samples: got 1, expected"),
        ({"settings": {"sizes": [1], "refine_steps": 5}}, "settings.refine_steps: got 5, expected"),
        ({"results": {"a": {"value": "much", "standard_error": 0, "n": 1}}}, "results.a.value: got 'much', expected"),
        ({"skipped": {"a": 3}}, "skipped.a: got 3, expected"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, change, said):
    file = tmp_path / "evaluation.json"
    Evaluation({}, {}, None, "small", 0, 1.0).save(file)
    assert load_evaluation(file).settings == EvaluationSettings()
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(CheckpointError) as caught:
        load_evaluation(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert said in str(caught.value)


def test_settings_name_every_bad_count_at_once():
    with pytest.raises(ConfigError) as caught:
        EvaluationSettings(samples=1, items=-1, latent_steps=-1)
    assert len(caught.value.problems) == 3
    with pytest.raises(ConfigError, match=r"evaluation.temperature: got 2, expected 0 < T <= 1"):
        EvaluationSettings(temperature=2)
    assert "evaluation.items: got -1" in str(caught.value)
