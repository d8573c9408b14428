"""The judge of pictures and captions: on pairs that are made up, its ceiling lies above its floor; and what is judged
is what was drawn or completed.
"""

from dataclasses import replace

import pytest
import torch

from multiebm.core.names import Views
from multiebm.data.dataset import MultimodalDataset, Split
from multiebm.evaluation import pairs
from multiebm.evaluation.contract import mirrored
from multiebm.evaluation.measurement import Measurement
from multiebm.evaluation.metrics import measured
from multiebm.evaluation.pairs import among, bag, load_pairs, paired, retrieval, train_pairs
from multiebm.modalities import Picture
from multiebm.modalities.text import Text

WORDS = ("red", "blue", "green", "white", "large", "small", "long", "short")
N_TRAIN, N_TEST = 120, 40


class Pixels:
    """Features of a picture are its numbers."""

    calls = 0

    def features(self, views: Views) -> Views:
        Pixels.calls += 1
        return {name: view.flatten(1) for name, view in views.items() if view.dim() == 4}


def made_up(seed: int = 0) -> MultimodalDataset:
    """Pictures of 12 numbers, the first 8 of which say which words their two captions have; the others are noise."""
    rng = torch.Generator().manual_seed(seed)
    text, picture, splits = Text("said", WORDS, 9), Picture("seen", (3, 2, 2)), []
    for n in (N_TRAIN, N_TEST):
        has = torch.rand(n, 8, generator=rng) < 0.5
        pixels = torch.cat([has * 200.0, torch.rand(n, 4, generator=rng) * 255], 1).byte().view(n, 3, 2, 2)
        at = torch.arange(n).repeat_interleave(2)
        tokens = torch.zeros(2 * n, 9, dtype=torch.int64)
        for row, words in enumerate(has[at]):
            said = words.nonzero()[:, 0] + 2
            tokens[row, : len(said)] = said[torch.randperm(len(said), generator=rng)]
        present = torch.ones(2 * n, 2, dtype=torch.bool)
        splits.append(Split({"seen": pixels, "said": tokens}, present, at={"seen": at}))
    parts = {"seen": picture, "said": text}
    return MultimodalDataset("made up", parts, *splits, None, "", f"fingerprint {seed}")


@pytest.fixture(scope="module", autouse=True)
def fewer_steps():
    """Pairs so plain need fewer steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "STEPS", 120)
        patch.setattr(pairs, "RATE", 5e-3)
        yield


@pytest.fixture(scope="module")
def ceiling(tmp_path_factory):
    """A data set, a judge of it, and what is measured of real test pairs."""
    data, folder = made_up(), tmp_path_factory.mktemp("kept")
    judge = load_pairs(data, Pixels(), folder)
    return data, judge, Measurement(None, data, None, lite0=Pixels(), pairs=judge), folder


def test_real_pairs_are_told_from_shuffled_ones(ceiling):
    _, _, m, _ = ceiling
    real, shuffled = (paired(m, f"{source}/pair_score")[f"{source}/pair_score"] for source in ("real", "shuffled"))
    assert real.n == shuffled.n == N_TEST  # each picture once, of two captions
    assert real.value > 0.5 > 0.2 > shuffled.value
    assert paired(m, "real/pair_auroc")["real/pair_auroc"].value > 0.95
    one, ten = (retrieval(m, f"retrieval/at{k}") for k in (1, 10))
    assert list(one) == ["retrieval/at1", "retrieval/at1/said", "retrieval/at1/seen"]
    assert one["retrieval/at1"].value > 10 / N_TEST
    assert ten["retrieval/at10"].value > max(0.9, one["retrieval/at1"].value)


def test_a_judge_is_the_same_whenever_it_is_made_and_features_are_read_once(ceiling):
    data, judge, _, folder = ceiling
    before, calls = torch.random.get_rng_state(), Pixels.calls
    again = load_pairs(data, Pixels(), folder)
    assert torch.equal(before, torch.random.get_rng_state())
    assert Pixels.calls == calls
    assert torch.equal(judge.heads["picture"][1].weight, again.heads["picture"][1].weight)
    assert judge.words == again.words == {word: i for i, word in enumerate(sorted(WORDS))}


def test_shuffled_training_pairs_teach_nothing():
    rng = torch.Generator().manual_seed(1)
    features, at = torch.randn(200, 12, generator=rng), torch.arange(200)
    told = [[word for word, x in zip(WORDS, row, strict=False) if x > 0] for row in features]
    wrong = [told[i] for i in torch.randperm(200, generator=rng)]
    new = torch.randn(100, 12, generator=rng)
    said = [[word for word, x in zip(WORDS, row, strict=False) if x > 0] for row in new]
    scores = []
    for captions in (told, wrong):
        judge = train_pairs(("a", "b"), features, captions, at)
        scores.append(float((judge.pictures(new) * judge.captions(said)).sum(1).mean()))
    assert scores[0] > 0.5
    assert abs(scores[1]) < 0.25


def test_without_a_reader_pictures_or_captions_there_is_no_judge(tmp_path):
    data = made_up()
    assert load_pairs(data, None, tmp_path) is None
    for name in ("seen", "said"):
        parts = {n: part for n, part in data.modalities.items() if n != name}
        splits = [
            Split({n: s.views[n] for n in parts}, s.present[:, :1], at={n: v for n, v in s.at.items() if n in parts})
            for s in (data.train, data.test)
        ]
        alone = replace(data, modalities=parts, train=splits[0], test=splits[1])
        assert load_pairs(alone, Pixels(), tmp_path) is None
    assert not measured(replace(mirrored(8), lite0=None), ["pair_score", "retrieval/at1"]).results


def test_samples_and_completions_are_compared_with_what_they_belong_to(ceiling):
    """A model that gives back real items reaches the ceiling; one that draws captions of other items, the floor."""
    data, _, m, _ = ceiling
    names = ["pair_score", "completed/pair_score", "completed_ebm/pair_score", "shuffled/pair_score"]
    views = data.batch("test", torch.arange(len(data.test))).views
    model = mirrored(8).model
    model.modalities, model.states = data.modalities, torch.arange(len(data.test))[:, None].float()
    found = {}
    for name, turn in (("true", 0), ("turned", 7)):

        def decode(latents, wanted=None, turn=turn):
            rows = latents["shared"][:, 0].long()
            return {"seen": views["seen"][rows], "said": views["said"].roll(turn, 0)[rows]}

        def infer(batch, rng, latent_steps=0, posterior=None):
            seen, there = (batch.views["seen"], 0) if batch.present[0, 0] else (batch.views["said"], 1)
            whole = views["seen" if there == 0 else "said"]
            return {"shared": (whole[:, None] == seen).flatten(2).all(2).float().argmax(0)[:, None].float()}

        def refined_fill(batch, rng):
            return batch.filled(decode(infer(batch, rng)))

        model.decode, model.infer_latents, model.refined_fill = decode, infer, refined_fill
        found[name] = measured(replace(m, model=model, _made={}, skipped={}), names).results
    true, turned = found["true"], found["turned"]
    floor, top = true["shuffled/pair_score"].value, true["real/pair_score"].value
    both = [f"{way}/pair_score/{part}" for way in ("completed", "completed_ebm") for part in ("seen", "said")]
    for key in ("gen/pair_score", "ebm/pair_score", *both):
        assert true[key].value == pytest.approx(top, abs=0.1), key
    for key in ("gen/pair_score", "ebm/pair_score", "completed/pair_score/said", "completed_ebm/pair_score/said"):
        assert turned[key].value < (floor + top) / 2, key


def test_words_count_once_and_unknown_ones_do_not():
    found = bag([["a", "b", "a"], ["c"], []], {"a": 0, "b": 1})
    assert found.tolist() == [[1, 1], [0, 0], [0, 0]]


def test_the_own_one_is_among_the_k_nearest():
    alike = torch.tensor([[0.9, 0.1, 0.2], [0.5, 0.4, 0.3], [0.3, 0.2, 0.1]])
    assert among(alike, 1).tolist() == [True, False, False]
    assert among(alike, 2).tolist() == [True, True, False]
