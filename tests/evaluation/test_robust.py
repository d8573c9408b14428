"""Judges that learn and read under noise and blur: what they see, how they read, and what is made of several sets."""

from dataclasses import asdict, replace

import pytest
import torch
from evaluation_standins import MARK, ExactJudges, Oracle, RandomClasses, Wobbly, known_dataset
from test_judges import stripes

import multiebm
from multiebm.core.errors import ConfigError
from multiebm.core.files import sha256_of_json
from multiebm.core.random import item_generators, make_generator
from multiebm.evaluation.judges import JudgeSettings, RobustSettings, train_judges
from multiebm.evaluation.measurement import Measurement
from multiebm.evaluation.metrics import measured
from multiebm.evaluation.result import EvaluationSettings, mean_of_items
from multiebm.evaluation.stored_judges import _STORE, cache_key
from multiebm.modalities import Picture, Vector
from multiebm.modalities.base import NOISE
from multiebm.modalities.category import Category
from multiebm.nn.pictures import blurred
from multiebm.nn.precision import fastest_precision

QUICK = RobustSettings(width=4, batch_size=32, cycles=((60, 1.0),))
ASKED = EvaluationSettings(400, 300, (1, 2))


class Marked(ExactJudges):
    """Judges that never misread."""

    def predict(self, views):
        return {name: view[:, :10].argmax(1) for name, view in views.items()}


def test_a_picture_is_blurred_by_a_known_window():
    dot = torch.zeros(1, 2, 5, 5)
    dot[0, 1, 2, 2] = 16
    found = blurred(dot)
    window = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])
    assert torch.equal(found[0, 1, 1:4, 1:4], window)
    assert float(found.sum()) == 16
    torch.testing.assert_close(blurred(torch.full((2, 3, 4, 6), 0.3)), torch.full((2, 3, 4, 6), 0.3))
    line = torch.tensor([[[[0.0, 4.0, 0.0]]]])
    assert blurred(line).tolist() == [[[[2.0, 2.0, 2.0]]]]  # the edge is reflected; one row has no neighbours
    one = torch.rand(1, 1, 1, 1)
    assert torch.equal(blurred(one), one)


def test_noise_has_a_deviation_of_each_items_own_up_to_the_most_and_half_of_the_pictures_are_blurred():
    n = 4000
    vector = Vector("m", (50,))
    moved = vector.disturb(torch.zeros(n, 50), make_generator(0))
    deviation = moved.std(1)
    assert float(deviation.mean()) == pytest.approx(NOISE / 2, rel=0.03)  # uniform on [0, NOISE]
    assert float(deviation.square().mean()) == pytest.approx(NOISE**2 / 3, rel=0.05)
    checks = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1  # which blur turns to grey
    seen = Picture("m", (1, 8, 8)).disturb(checks.expand(600, 1, 8, 8), make_generator(0))
    kept = (seen * checks).mean((1, 2, 3))
    assert float((kept > 0.5).float().mean()) == pytest.approx(0.5, abs=0.09)
    assert float(kept[kept <= 0.5].mean()) == pytest.approx(0, abs=0.02)
    assert float(kept[kept > 0.5].mean()) == pytest.approx(1, abs=0.02)
    category = Category("m", (("a", "b"), ("x", "y", "z")), missing="nan")
    state = torch.tensor([[1.0, 0, torch.nan, torch.nan, torch.nan]]).repeat(50, 1)
    shown = category.disturb(state, make_generator(0))
    torch.testing.assert_close(shown[:, :2].sum(1), torch.ones(50))
    assert shown[:, 2:].isnan().all()
    alike = vector.disturb(torch.zeros(3, 50), item_generators(0, 3))
    assert torch.equal(alike[1:], vector.disturb(torch.zeros(2, 50), item_generators(0, 2, 1)))


def test_robust_judges_read_under_noise_what_plain_ones_do_not_and_alike_in_any_batch():
    dataset = stripes(180)
    plain, robust = (train_judges(dataset, 0, how) for how in (JudgeSettings(4, 32, cycles=((60, 1.0),)), QUICK))
    assert robust.accuracy.keys() == plain.accuracy.keys()
    assert robust.accuracy["picture"] > 0.95
    views = dataset.batch("test", torch.arange(180)).views
    noise = 1.2 * torch.randn(views["picture"].shape, generator=make_generator(0))
    loud = {"picture": views["picture"] + noise}
    right = [float((j.predict(loud)["picture"] == dataset.test.labels).double().mean()) for j in (plain, robust)]
    assert right[1] > right[0] + 0.05
    network = robust.networks["picture"]
    probabilities = network.read(views["picture"])
    torch.testing.assert_close(probabilities.sum(1), torch.ones(180))
    torch.testing.assert_close(network.read(views["picture"][7:9]), probabilities[7:9])
    assert torch.equal(robust.predict(views)["picture"], probabilities.argmax(1))
    share = float((robust.predict(views)["picture"] == dataset.test.labels).double().mean())
    assert robust.accuracy["picture"] == share


def test_plain_judges_keep_their_place_in_the_cache_and_robust_ones_have_their_own():
    dataset, plain = stripes(), JudgeSettings()
    of = [_STORE.version, dataset.fingerprint, asdict(plain), 0, fastest_precision("cpu")]
    assert set(asdict(plain)) == {"width", "batch_size", "learning_rate", "label_smoothing", "cycles"}
    assert cache_key(dataset, 0, plain) == sha256_of_json(of)[:24]
    keys = {cache_key(dataset, seed, how) for seed in (0, 1) for how in (plain, RobustSettings())}
    assert len(keys) == 4


def test_several_sets_give_the_mean_and_move_no_other_number():
    dataset = known_dataset()
    plain, sure = ExactJudges(dataset), Marked(dataset)
    without = measured(Measurement(Wobbly(dataset), dataset, plain, ASKED)).results
    same = measured(Measurement(Wobbly(dataset), dataset, plain, ASKED, robust=(plain,))).results
    both = measured(Measurement(Wobbly(dataset), dataset, plain, ASKED, robust=(plain, sure))).results
    assert {name: same[name] for name in without} == without
    assert {name: both[name] for name in without} == without
    for name in same.keys() - without.keys():
        assert "robust" in name
    for source in ("real", "gen", "ebm"):
        found, expected = same[f"{source}/robust_coherence"], without[f"{source}/joint_coherence"]
        assert found.value == pytest.approx(expected.value)
        assert found.standard_error == pytest.approx(expected.standard_error)
    for way in ("cond", "cond_ebm"):
        own = {name: result for name, result in without.items() if name.startswith(f"{way}/")}
        assert own == {n: same[f"robust_{n}"] for n in own}
    assert both["judge/robust/a"].value == pytest.approx((plain.accuracy["a"] + 1) / 2)


def test_a_mean_over_sets_by_hand():
    """Real items agree for judges that never misread, and for others where no part is marked or all are."""
    dataset = known_dataset()
    marks = torch.stack([view[:, MARK] for view in dataset.test.views.values()]).sum(0)
    share = float(((marks == 0) | (marks == 3)).double().mean())
    plain, sure = ExactJudges(dataset), Marked(dataset)
    model = Oracle(dataset)
    found = measured(Measurement(model, dataset, plain, ASKED, robust=(sure, plain))).results
    assert found["real/joint_coherence"].value == pytest.approx(share)
    assert found["real/robust_coherence"].value == pytest.approx((1 + share) / 2)
    read = torch.stack([torch.ones(300), (marks == 0) | (marks == 3)], 1)  # [N, S]
    expected = mean_of_items(read[:, None])
    assert found["real/robust_coherence"] == pytest.approx(expected)
    assert expected.standard_error > float(read.mean(1).std(correction=0)) / 300**0.5  # judges differ, too
    assert found["robust_cond/size1"].value == pytest.approx((1 + found["cond/size1"].value) / 2)
    calls = len(model.calls)
    again = Oracle(dataset)
    measured(Measurement(again, dataset, plain, ASKED))
    assert calls == len(again.calls)  # what is completed is completed once for all judges


def test_without_robust_judges_there_is_nothing_of_them():
    dataset = known_dataset()
    found = measured(Measurement(RandomClasses(dataset), dataset, ExactJudges(dataset), ASKED))
    assert not any("robust" in name for name in found.results)
    assert not any("robust" in name for name in found.skipped)


def test_sets_of_other_seeds_give_the_mean_of_all_shares_and_leave_features_alone():
    dataset = known_dataset()
    plain, sure = ExactJudges(dataset), Marked(dataset)
    one, other, both = (
        measured(Measurement(Wobbly(dataset), dataset, first, ASKED, others=others, robust=(plain, sure)))
        for first, others in ((plain, ()), (sure, ()), (plain, (sure,)))
    )
    assert (one.judge_sets, both.judge_sets) == ((1, 2), (2, 2))
    shares = [name for name in one.results if name.startswith(("cond", "judge/accuracy")) or "joint_coherence" in name]
    assert {"real/joint_coherence", "ebm/joint_coherence", "cond/size1", "cond_ebm/self/a"} <= set(shares)
    for name in shares:
        mean = (one.results[name].value + other.results[name].value) / 2
        assert both.results[name].value == pytest.approx(mean), name
        assert both.results[name].n == one.results[name].n
    for name in ("gen/fcd", "ebm/fcd/a", "gen/robust_coherence", "robust_cond/size1", "latent_classification"):
        assert both.results[name] == one.results[name]
    assert both.results["real/joint_coherence"] == pytest.approx(both.results["real/robust_coherence"])
    assert both.accuracy == pytest.approx({k: (v + 1) / 2 for k, v in plain.accuracy.items()})


@pytest.fixture
def asked(monkeypatch):
    """Sets of judges that were asked for, by seed and kind; those that stand in misread a tenth unless told."""
    seen: list[tuple[int, type]] = []

    def load(dataset, folder, wanted, device="cpu"):
        seen.extend((seed, type(how)) for seed, how in wanted)
        return [Marked(dataset) if load.sure else ExactJudges(dataset) for _ in wanted]

    load.sure = True
    monkeypatch.setattr("multiebm.experiments.measure.load_sets", load)
    monkeypatch.setattr("multiebm.experiments.api.MultimodalModel", RandomClasses)  # stands in for one
    return seen, load


def found_by(**sets):
    dataset = known_dataset()
    return multiebm.evaluate(RandomClasses(dataset), dataset, EvaluationSettings(20, 20), progress=False, **sets)


def test_unless_asked_there_are_three_sets_and_a_robust_one_where_judges_can_be_trusted(asked):
    seen, load = asked
    found = found_by()
    plain, robust = [(seed, JudgeSettings) for seed in range(3)], [(0, RobustSettings)]
    assert seen == [*plain, *robust]
    assert found.judge_sets == (3, 1)
    assert found.results["gen/robust_coherence"].value == pytest.approx(found.results["gen/joint_coherence"].value)
    seen.clear()
    load.sure = False  # judges that misread a tenth
    assert found_by().judge_sets == (1, 0)
    assert seen == plain[:1]


def test_arguments_say_how_many_sets_there_are(asked):
    seen, load = asked
    load.sure = False
    assert found_by(judges=2, robust_judges=3).judge_sets == (2, 3)
    assert [seed for seed, how in seen if how is RobustSettings] == [0, 1, 2]
    assert [seed for seed, how in seen if how is JudgeSettings] == [0, 1]
    seen.clear()
    found = found_by(judges=1, robust_judges=0)
    assert len(seen) == 1
    assert "gen/robust_coherence" not in found.results
    with pytest.raises(ConfigError, match="judges: got 0, expected"):
        found_by(judges=0)


def test_where_classes_are_read_off_exactly_no_judges_are_trained(asked):
    seen, _ = asked
    dataset = known_dataset()
    exact = replace(dataset, exact=ExactJudges(dataset))
    found = multiebm.evaluate(RandomClasses(exact), exact, EvaluationSettings(20, 20), progress=False)
    assert (seen, found.judge_sets) == ([], (1, 0))
