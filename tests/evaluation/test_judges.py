from dataclasses import replace

import pytest
import torch

import multiebm.evaluation.judges as module
from multiebm.core.errors import ConfigError, DataError, ModalityError
from multiebm.core.progress import listening
from multiebm.data.dataset import MultimodalDataset, Split
from multiebm.data.polydigits import load_polydigits
from multiebm.evaluation.judges import (
    Judge,
    JudgeSettings,
    RobustSettings,
    present_rows,
    real_accuracy,
    train_judges,
    train_sets,
)
from multiebm.evaluation.result import Evaluation
from multiebm.modalities import Picture, Vector
from multiebm.nn.pictures import picture_body, shifted

QUICK = JudgeSettings(width=4, batch_size=32, cycles=((30, 1.0),))


def stripes(n: int = 90, labels: bool = True) -> MultimodalDataset:
    """Three classes: horizontal, vertical and no stripes in an 8x8 picture, and three clusters in a vector of 2."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(n) % 3
    ramp = torch.arange(8) % 4 < 2
    patterns = torch.stack([ramp[:, None].expand(8, 8), ramp[None, :].expand(8, 8), torch.zeros(8, 8).bool()])
    pictures = (patterns[classes][:, None] * 150 + torch.randint(0, 60, (n, 1, 8, 8), generator=generator)).byte()
    centres = torch.tensor([[0.0, 3.0], [3.0, 0.0], [-3.0, -3.0]])
    vectors = centres[classes] + 0.3 * torch.randn(n, 2, generator=generator)
    views = {"picture": pictures, "vector": vectors}
    split = Split(views, torch.ones(n, 2, dtype=torch.bool), classes if labels else None)
    modalities = {"picture": Picture("picture", (1, 8, 8)), "vector": Vector("vector", (2,))}
    return MultimodalDataset("stripes", modalities, split, split, 3 if labels else None, "", "stripes")


@pytest.fixture(scope="module")
def trained():
    return train_judges(stripes(), 0, QUICK)


def test_judges_learn_to_read_pictures_and_vectors(trained):
    dataset = stripes()
    assert trained.accuracy == {"picture": 1.0, "vector": 1.0}
    assert Evaluation({}, {}, trained.accuracy, "stripes", 0, 0.0).trustworthy
    batch = dataset.batch("test", torch.arange(90))
    read = trained.predict(batch.views)
    assert all(torch.equal(labels, dataset.test.labels) and labels.dtype == torch.int64 for labels in read.values())


def test_features_are_the_128_units_below_the_head_and_do_not_depend_on_the_batch(trained):
    views = stripes().batch("test", torch.arange(90)).views
    features = trained.features(views)
    for name, network in trained.networks.items():
        assert features[name].shape == (90, 128)
        assert torch.equal(network.head(features[name]).argmax(1), trained.predict(views)[name])
        alone = trained.features({name: views[name][:1]})[name]
        assert torch.allclose(alone, features[name][:1], atol=1e-5)


def test_the_same_seed_gives_the_same_judges_and_leaves_global_randomness_alone(trained):
    before = torch.random.get_rng_state()
    again = train_judges(stripes(), 0, QUICK)
    assert torch.equal(before, torch.random.get_rng_state())
    for name, network in trained.networks.items():
        for key, value in network.state_dict().items():
            assert torch.equal(value, again.networks[name].state_dict()[key]), key
    assert not torch.equal(
        trained.networks["vector"].head.weight, train_judges(stripes(), 1, QUICK).networks["vector"].head.weight
    )


def test_judges_do_not_depend_on_the_number_of_threads(trained, monkeypatch):
    """More threads add up in another order, and training makes another judge of that: one thread trains them all."""
    used, train = [], module._train_judge
    monkeypatch.setattr(module, "_train_judge", lambda *args: used.append(torch.get_num_threads()) or train(*args))
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        again = train_judges(stripes(), 0, QUICK)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert used == [1, 1]
    for name, network in trained.networks.items():
        for key, value in network.state_dict().items():
            assert torch.equal(value, again.networks[name].state_dict()[key]), key


def test_sets_that_are_trained_side_by_side_are_those_trained_alone():
    """Initial weights and dropout are drawn by each judge's own seed, whoever else is in training."""
    wanted = [(0, QUICK), (1, QUICK), (0, RobustSettings(4, 32, cycles=((30, 1.0),)))]
    alone = [train_judges(stripes(), seed, how) for seed, how in wanted]
    before, state = torch.get_num_threads(), torch.random.get_rng_state()
    torch.set_num_threads(3)
    try:
        found = train_sets(stripes(), wanted)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert torch.equal(state, torch.random.get_rng_state())
    for own, expected in zip(found, alone, strict=True):
        assert own.accuracy == expected.accuracy
        for name, network in own.networks.items():
            for key, value in network.state_dict().items():
                assert torch.equal(value, expected.networks[name].state_dict()[key]), (name, key)


def test_dropout_of_a_judge_is_that_of_torch_after_the_weights():
    x = torch.randn(50, 20, generator=torch.Generator().manual_seed(1))
    with torch.random.fork_rng():
        torch.manual_seed(7)
        rng = torch.Generator().set_state(torch.random.get_rng_state())
        own, torchs = module._Dropout(0.3, rng), torch.nn.Dropout(0.3)
        for _ in range(3):
            assert torch.equal(own(x), torchs(x))
    assert own.eval()(x) is x


def test_a_judge_that_fails_stops_the_others(monkeypatch):
    learn = module._learn

    def fail(network, dataset, name, *how):
        if name == "vector":
            raise DataError("of vector")
        return learn(network, dataset, name, *how)

    monkeypatch.setattr(module, "_learn", fail)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(DataError, match="of vector"):
            train_sets(stripes(), [(0, replace(QUICK, cycles=((1_000_000, 1.0),)))])  # of the picture, for hours
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_what_judges_read_depends_on_no_number_of_threads_and_keeps_the_order_of_items(trained):
    once = stripes().batch("test", torch.arange(90)).views
    views = {name: view.repeat(3, *[1] * (view.dim() - 1)) for name, view in once.items()}
    before, state = torch.get_num_threads(), torch.is_grad_enabled()
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            found.append((trained.features(views), trained.predict(views)))
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
    assert torch.is_grad_enabled() == state
    for alone, side_by_side in zip(*found, strict=True):
        for name in views:
            assert torch.equal(alone[name], side_by_side[name])
            assert not side_by_side[name].requires_grad
    whole = trained.networks["picture"].features(views["picture"]).detach()
    torch.testing.assert_close(found[1][0]["picture"], whole, atol=1e-5, rtol=1e-5)


def test_absent_rows_are_neither_learned_from_nor_counted():
    dataset = stripes()
    present = dataset.train.present.clone()
    present[:45, 1] = False
    vectors = dataset.train.views["vector"].clone()
    vectors[:45] = float("nan")
    split = Split(dataset.train.views | {"vector": vectors}, present, dataset.train.labels)
    rows = present_rows(split, "vector")
    assert len(rows) == 45
    assert split.views["vector"][rows].isfinite().all()
    judges = train_judges(replace(dataset, train=split, test=split), 0, QUICK)
    assert judges.accuracy["vector"] == 1.0
    present[:, 1] = False
    with pytest.raises(DataError, match="'vector' is present in 0 of 90 rows of a split that have a label"):
        present_rows(Split(split.views, present, split.labels), "vector")


def test_accuracy_is_of_the_test_split():
    """Of 90 test items 30 have another class than they show: judges that read all training items read 2/3 of these."""
    dataset = stripes()
    labels = dataset.test.labels.clone()
    labels[:30] = (labels[:30] + 1) % 3
    wrong = replace(dataset, test=Split(dataset.test.views, dataset.test.present, labels))
    judges = train_judges(wrong, 0, QUICK)
    assert judges.accuracy == pytest.approx({"picture": 2 / 3, "vector": 2 / 3})
    assert real_accuracy(judges.networks["vector"], dataset, dataset.modalities["vector"]) == 1.0


def test_training_says_how_far_it_is():
    heard = []

    class Ear:
        def start(self, what, total):
            heard.append((what, total))
            return 0

        def advance(self, task, steps):
            heard.append(steps)

        def end(self, task):
            pass

    with listening(Ear()):
        train_judges(stripes(), 0, QUICK)
    assert [entry for entry in heard if entry != 1] == [("judges: picture", 30), ("judges: vector", 30)]
    assert heard.count(1) == 60


def test_a_later_cycle_runs_only_while_accuracy_is_below_its_bound(trained):
    never = replace(QUICK, cycles=(*QUICK.cycles, (1000, 0.9)))
    assert torch.equal(
        train_judges(stripes(), 0, never).networks["vector"].head.weight, trained.networks["vector"].head.weight
    )
    again = replace(QUICK, cycles=(*QUICK.cycles, (10, 1.1)))
    assert not torch.equal(
        train_judges(stripes(), 0, again).networks["vector"].head.weight, trained.networks["vector"].head.weight
    )


def test_a_cycle_too_short_for_its_schedule_is_refused():
    for cycles in ((), ((9, 1.0),)):
        with pytest.raises(ConfigError, match="at least 10 steps each"):
            JudgeSettings(cycles=cycles)


def test_without_labels_there_are_no_judges():
    with pytest.raises(DataError, match="'stripes' has no labels.*judges=None"):
        train_judges(stripes(labels=False), 0, QUICK)


def test_an_unknown_modality_is_named(trained):
    with pytest.raises(ModalityError, match="'sound', expected one of picture, vector"):
        trained.predict({"sound": torch.zeros(2, 3)})


@pytest.mark.parametrize(
    "shape", [(1, 4, 4), (3, 8, 8), (3, 16, 16), (3, 28, 28), (3, 32, 32), (3, 64, 64), (3, 12, 40)]
)
def test_bodies_fit_every_picture_size(shape):
    body = picture_body(shape, 4, 128).eval()
    assert body(torch.zeros(2, *shape)).shape == (2, 128)
    judge = Judge(Picture("m", shape), 7, 4).eval()
    assert judge(torch.zeros(2, *shape)).shape == (2, 7)


def test_shifts_move_by_at_most_one_pixel_and_reach_all_nine_places():
    picture = torch.zeros(1, 1, 6, 6)
    picture[0, 0, 3, 2] = 1.0
    generator = torch.Generator().manual_seed(0)
    places = {tuple(shifted(picture, generator)[0, 0].nonzero()[0].tolist()) for _ in range(200)}
    assert places == {(r, c) for r in (2, 3, 4) for c in (1, 2, 3)}  # all nine: missed with p < 1e-9


@pytest.mark.slow
def test_polydigits_judges_read_unseen_handwriting():
    judges = train_judges(load_polydigits(16))
    assert min(judges.accuracy.values()) >= 0.96
