"""An n-gram model of captions: probabilities computed by hand, sums to one, and what a perplexity says."""

from dataclasses import replace
from math import exp, log

import pytest
import torch

from multiebm.core.captions import UNKNOWN_MARK
from multiebm.evaluation.contract import mirrored
from multiebm.evaluation.fluency import BEGIN, END, WittenBell, perplexity
from multiebm.evaluation.metrics import measured
from multiebm.modalities.text import Text

CAPTIONS = [["a", "red", "bird"], ["a", "red", "bird"], ["a", "bird"]]
HISTORIES = [
    [BEGIN, BEGIN],
    [BEGIN, "a"],
    ["a", "red"],
    ["red", "bird"],
    ["bird", "red"],
    ["never", "seen"],
    ["x", "a"],
]


def test_probabilities_are_those_computed_by_hand():
    """Words: a 3, red 2, bird 3, end 3: 11 tokens of 4 kinds; V = 5 with the unknown word."""
    model = WittenBell(CAPTIONS)
    red = (2 + 4 / 5) / (11 + 4)  # no history
    assert model.probability("red", []) == pytest.approx(red)
    after_a = (2 + 2 * red) / (3 + 2)  # behind "a": red 2, bird 1
    assert model.probability("red", ["a"]) == pytest.approx(after_a)
    assert model.probability("red", [BEGIN, "a"]) == pytest.approx((2 + 2 * after_a) / (3 + 2))
    assert model.probability("red", ["bird", "a"]) == pytest.approx(after_a)  # a history never seen says nothing
    unknown = (4 / 5) / (11 + 4)
    assert model.probability(UNKNOWN_MARK, []) == pytest.approx(unknown)
    assert model.probability(UNKNOWN_MARK, ["a", "red"]) == pytest.approx(unknown * (1 / 3) * (1 / 3))


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("before", HISTORIES)
def test_probabilities_of_all_words_sum_to_one(order, before):
    model = WittenBell(CAPTIONS, order)
    assert len(model.words) == 5
    assert sum(model.probability(word, before[-(order - 1) :]) for word in model.words) == pytest.approx(1, abs=1e-12)


def test_a_caption_has_the_product_of_the_probabilities_of_its_words_and_its_end():
    model = WittenBell(CAPTIONS)
    pairs = [("a", [BEGIN, BEGIN]), ("bird", [BEGIN, "a"]), (END, ["a", "bird"])]
    expected = [log(model.probability(word, before)) for word, before in pairs]
    assert model.log_probs(["a", "bird"]) == pytest.approx(expected)
    assert model.log_probs([]) == pytest.approx([log(model.probability(END, [BEGIN, BEGIN]))])
    assert model.log_probs(["green"])[0] == pytest.approx(log(model.probability(UNKNOWN_MARK, [BEGIN, BEGIN])))


def test_the_perplexity_is_of_words_not_of_captions():
    """Two captions of 1 and 3 words: exp of the mean of four. Captions whose words are alike have no error."""
    found = perplexity([[-1.0], [-2.0, -2.0, -3.0]])
    assert found.value == pytest.approx(exp(2))
    assert found.n == 2
    assert found.standard_error == pytest.approx(exp(2) * 2**0.5 / 4)  # nats off the mean: 1 - 2 and 7 - 6
    assert perplexity([[-log(8)] * n for n in (1, 4, 9)])[:2] == pytest.approx((8, 0), abs=1e-6)


def test_ten_words_that_are_equally_likely_perplex_as_ten():
    """Captions of one word: its perplexity is 10, and its end is certain, so the root of 10 by word and end."""
    captions = [[str(i)] for i in range(10)] * 100
    model = WittenBell(captions)
    assert perplexity([model.log_probs(words) for words in captions]).value == pytest.approx(10**0.5, rel=0.02)


def test_shuffled_words_are_less_fluent_than_real_captions():
    rng = torch.Generator().manual_seed(0)
    colours, kinds = ["red", "blue", "green", "white"], ["bird", "fish", "cat"]
    real = [["a", "small", colours[i % 4], kinds[i % 3], "with", "a", "long", "tail"] for i in range(60)]
    model = WittenBell(real[:40])
    shuffled = [[words[i] for i in torch.randperm(len(words), generator=rng)] for words in real[40:]]
    plain, mixed = (perplexity([model.log_probs(words) for words in of]).value for of in (real[40:], shuffled))
    assert 1 < plain < 3
    assert mixed > 5 * plain


def test_the_ratio_of_captions_that_are_real_is_one():
    """Of a text part beside a vector: generated captions are the test items', so both perplexities are one number."""
    m = mirrored(64)
    states = m.dataset.batch("test", torch.arange(64)).views["a"]
    part = Text("b", ("one", "two", "three", "four"), 3)
    tokens = torch.stack([states[:, :4].argmax(1) + 2, torch.full((64,), 2), torch.zeros(64, dtype=torch.long)], 1)
    m.dataset.modalities["b"] = part
    for name in ("train", "test"):
        getattr(m.dataset, name).views["b"] = tokens
    text = part.to_state(tokens)
    m.model.decode = lambda latents, wanted=None: {"a": latents["shared"], "b": text[: len(latents["shared"])]}
    m.model.infer_latents = lambda batch, rng, latent_steps=0, posterior=None: {"shared": batch.views["a"]}
    m = replace(m, lite0=None)
    found = measured(m, ["fluency/generated", "fluency/real", "fluency/ratio"]).results
    assert found["fluency/generated"].value == pytest.approx(found["fluency/real"].value)  # classes are as frequent
    assert found["fluency/ratio"].value == pytest.approx(1)
    assert {"fluency/generated/ebm", "fluency/generated/completed"} <= set(found)
    assert found["fluency/real"].value == pytest.approx(4 ** (1 / 3), rel=0.02)  # one word of four; the others are sure


def test_data_without_captions_have_no_fluency_and_say_nothing_of_it():
    evaluation = measured(mirrored(16), ["fluency/real"])
    assert not evaluation.results
    assert "fluency/real" not in evaluation.skipped
