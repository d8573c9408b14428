"""Captions spelt as words and as pieces of words, the same ones come back; which texts are captions."""

import numpy as np
import pytest
import torch

from multiebm.core.captions import are_captions, frequent, joined, words_of
from multiebm.core.errors import DataError
from multiebm.core.spelling import MARKS, Speller, learn
from multiebm.core.tokens import END, UNKNOWN, counted, ended, one_hot, tokens_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A small, RED circle.", ["a", "small", ",", "red", "circle", "."]),
        ("don't (blue-grey) birds' x!", ["don't", "(", "blue-grey", ")", "birds", "'", "x", "!"]),
        ("3.5% a_b -- c", ["3", ".", "5", "%", "a", "_", "b", "-", "-", "c"]),
        ("e\u0301te\u0301 Ünder l’été", ["été", "ünder", "l’été"]),
        ("यह कि।", ["यह", "कि", "।"]),
        ("a <UNK> b", ["a", "<unk>", "b"]),
        ("é <unk>", ["é", "<unk>"]),
        (" \t\n", []),
        ("\u0301x", ["x"]),
    ],
)
def test_words_are_in_small_letters_and_marks_by_themselves(text, words):
    assert words_of(text) == words
    assert words_of(joined(words)) == words


def test_a_caption_that_is_written_is_read_as_the_same_words_whatever_its_characters():
    draws, characters = np.random.default_rng(0), list("ab'’-.,()<>unk_ é\u0301\u200dक ि3%$\u00a0\t")
    for _ in range(3000):
        words = words_of("".join(draws.choice(characters, draws.integers(0, 9))))
        assert words_of(joined(words)) == words


def test_marks_stand_where_they_are_written():
    assert joined(["a", "(", "small", ")", "bird", ",", "red", "."]) == "a (small) bird, red."


def test_frequent_words_are_kept_in_the_order_of_the_alphabet():
    captions = [["b", "a", "c"], ["b", "a"], ["b", "d", "<unk>", "<unk>"]]
    assert frequent(captions, 1, 9) == ("a", "b", "c", "d")
    assert frequent(captions, 2, 9) == ("a", "b")
    assert frequent(captions, 2, 1) == ("b",)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([f"a {c} {s} shape" for c in ("red", "blue", "grey") for s in ("big", "small", "tiny")], True),
        (["red", "blue", "red"], False),
        (["New York City", "Salt Lake City", "New York City"], False),  # classes of several words
        (["Braund, Mr. Owen Harris", "Heikkinen, Miss. Laina", "Allen, Mr. William Henry"], False),  # names of rows
        (["a red circle"] * 9, False),
        (["", " "], False),
    ],
)
def test_captions_put_words_together_anew(texts, said):
    assert are_captions(np.array(texts, object)) is said
    assert are_captions(np.array([text.encode() for text in texts], object)) is said


def speller(*words):
    return Speller(words, (), False, "here")


def read(of, *texts, length=5):
    tokens = torch.full((len(texts), length), END)
    of.read(texts, range(len(texts)), tokens, "captions")
    return tokens


def test_tokens_are_places_in_the_vocabulary_and_the_end_fills_up(caplog):
    of = speller("red", "cat")
    assert MARKS == ("", "<unk>")
    assert read(of, "Red cat", "", "cat dog", "<unk>").tolist() == [
        [2, 3, END, END, END],
        [END] * 5,
        [3, UNKNOWN, END, END, END],
        [UNKNOWN, END, END, END, END],
    ]
    assert of.write(read(of, "Red cat", "", "cat dog")) == ["red cat", "", "cat <unk>"]
    assert "'dog' in row 2" in caplog.text


def test_unknown_words_are_told_with_the_nearest_and_long_captions_with_their_rows(caplog):
    read(speller("crimson", "green"), "green crimsn", "green " * 5, "red")
    assert "captions: 1 captions have more than 4 tokens and are cut, first rows [1]" in caplog.text
    assert "read as <unk>: 'crimsn' in row 0. Did you mean 'crimson'?; 'red' in row 2" in caplog.text


def test_many_unknown_words_are_counted_and_not_taken_for_slips(caplog):
    read(speller("crimson"), "crimsn crims one", "two three four")
    assert (
        "captions: 6 words that training had not, or too rarely, are read as <unk>: 'crimsn' in row 0; " in caplog.text
    )
    assert "'three' in row 1, and so on" in caplog.text
    assert "four" not in caplog.text
    assert "Did you mean" not in caplog.text


def test_a_caption_that_just_fits_is_not_cut(caplog):
    assert read(speller("a"), "a a a a").tolist() == [[2, 2, 2, 2, END]]
    assert not caplog.text


def test_pieces_of_words_bring_any_text_back():
    texts = ["a small red circle", "a large red square", "ein grüner Kreis"] * 5
    vocabulary, merges = learn(texts, True, 300, 2, "here")
    of = Speller(vocabulary, merges, True, "here")
    assert len(vocabulary) <= 300
    assert of.split("a small red circle") == ["a", "Ġsmall", "Ġred", "Ġcircle"]
    for text in ("a red  circle", "ein ❤️, grün!", ""):
        assert of.write(read(of, text, length=40)) == [text]
    assert of.write(torch.tensor([[UNKNOWN, END]])) == [""]


def test_without_the_package_pieces_of_words_say_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(
        DataError, match=r'here: got tokens: bpe.*pip install "multiebm\[captions\]", or declare tokens'
    ):
        learn(["a b"], True, 300, 1, "here")


def test_no_word_that_is_there_often_enough_is_refused():
    with pytest.raises(DataError, match="here: got 2 captions and no word that occurs 2 times.*min_count: 1"):
        learn(["a b", "c d"], False, 9, 2, "here")


def test_states_are_the_nearest_captions_which_end_once():
    state = torch.zeros(2, 4, 3)
    state[0, 0, 2], state[0, 1, 0], state[0, 2, 1] = 0.4, 0.1, 9.0  # what follows an end is no word
    state[1, :, 1] = -1.0
    state[1, :, 2] = 0.5
    assert tokens_of(state).tolist() == [[2, END, END, END], [2, 2, 2, END]]
    assert ended(torch.tensor([[1, 0, 2], [2, 2, 2]])).tolist() == [[1, 0, 0], [2, 2, 0]]
    assert counted(tokens_of(state)).tolist() == [[True, True, False, False], [True, True, True, False]]
    assert torch.equal(tokens_of(one_hot(tokens_of(state), 3)), tokens_of(state))
