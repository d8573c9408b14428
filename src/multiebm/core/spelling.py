"""Captions spelt as tokens and back: words, or pieces of words by byte-pair encoding (Sennrich et al. 2016, arXiv
1508.07909), which the package tokenizers makes.
"""

import json
import logging
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from torch import Tensor

from multiebm.core.captions import UNKNOWN_MARK, clean, frequent, joined, words_of
from multiebm.core.errors import DataError, imported
from multiebm.core.handed import SHOWN
from multiebm.core.table import nearest
from multiebm.core.tokens import END, UNKNOWN

logger = logging.getLogger("multiebm")

MARKS = ("", UNKNOWN_MARK)  # how END and UNKNOWN are written

BYTES = 256  # pieces of one byte, which every vocabulary has: no text is unknown


class Pieces:
    """A vocabulary of pieces and the merges "a b" by which bytes become them: plain values, which a file keeps."""

    def __init__(self, pieces: Sequence[str], merges: Sequence[str], where: str) -> None:
        library, self.pieces = _library(where), tuple(pieces)
        self.place = {piece: i for i, piece in enumerate(pieces)}
        self.model = library.Tokenizer(library.models.BPE(self.place, [tuple(pair.split(" ")) for pair in merges]))
        self.model.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        self.model.decoder = library.decoders.ByteLevel()

    def split(self, text: str) -> list[str]:
        """Return the pieces of a text, in small letters."""
        found: list[str] = self.model.encode(clean(text)).tokens
        return found

    def join(self, pieces: Sequence[str]) -> str:
        """Return the text that pieces make; bytes that are no character become a mark for these."""
        return str(self.model.decode([self.place[piece] for piece in pieces]))


def learn_pieces(texts: Sequence[str], most: int, least: int, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return at most `most` pieces of which texts are made, the bytes among them, and the merges that make them, in
    their order; a pair is merged that occurs at least `least` times. DataError without the package.
    """
    library = _library(where)
    model = library.Tokenizer(library.models.BPE())
    model.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(library.pre_tokenizers.ByteLevel.alphabet())
    trainer = library.trainers.BpeTrainer(
        vocab_size=most, min_frequency=least, initial_alphabet=alphabet, show_progress=False
    )
    model.train_from_iterator(map(clean, texts), trainer)
    found = json.loads(model.to_str())["model"]
    merges = tuple(pair if isinstance(pair, str) else " ".join(pair) for pair in found["merges"])
    return tuple(sorted(found["vocab"], key=found["vocab"].__getitem__)), merges


def _library(where: str) -> Any:
    got = f"{where}: got tokens: bpe, pieces of words, which the package tokenizers makes, and it is not here"
    return imported("tokenizers", DataError, f'{got}; pip install "multiebm[captions]", or declare tokens: words')


def learn(
    texts: Sequence[str], pieces: bool, most: int, least: int, where: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the vocabulary of captions, at most `most` words that occur `least` times, or pieces of words, and the
    merges that make these. DataError where there is none.
    """
    if pieces:
        return learn_pieces(texts, most, least, where)
    if words := frequent(map(words_of, texts), least, most):
        return words, ()
    raise DataError(
        f"{where}: got {len(texts)} captions and no word that occurs {least} times in them, expected some to learn; "
        "declare min_count: 1, or leave the part out"
    )


class Speller:
    """Reads captions as tokens and writes tokens as captions, by a vocabulary and, of pieces of words, its merges."""

    def __init__(self, vocabulary: tuple[str, ...], merges: tuple[str, ...], pieces: bool, where: str) -> None:
        self.vocabulary, self.every, self.where = vocabulary, (*MARKS, *vocabulary), where
        self.merges, self.by_pieces = merges, pieces
        self.place = {word: i for i, word in enumerate(self.every) if i != END}

    @cached_property
    def pieces(self) -> Pieces:
        """What splits words; DataError where the package is not here."""
        return Pieces(self.vocabulary, self.merges, self.where)

    def split(self, text: str) -> list[str]:
        """Return the words, or the pieces of words, of a caption."""
        return self.pieces.split(text) if self.by_pieces else words_of(text)

    def write(self, tokens: Tensor) -> list[str]:
        """Return tokens [N, T] as captions."""
        said = [[self.every[token] for token in row if token != END] for row in tokens.tolist()]
        if not self.by_pieces:
            return [joined(words) for words in said]
        return [self.pieces.join([piece for piece in row if piece != UNKNOWN_MARK]) for row in said]

    def read(self, texts: Sequence[str], rows: Sequence[int], tokens: Tensor, where: str) -> None:
        """Write captions into these rows of tokens [N, T]. It says which are cut, and which words it does not know."""
        length, cut, unknown = tokens.shape[1], list[int](), dict[str, int]()
        values = tokens.numpy()  # the same memory, which takes lists faster
        for row, text in zip(rows, texts, strict=True):
            words = self.split(text)
            if len(words) >= length:
                cut, words = [*cut, row], words[: length - 1]
            values[row, : len(words)] = [self.place.get(word, UNKNOWN) for word in words]
            unknown |= {word: unknown.get(word, row) for word in words if word not in self.place}
        if cut:
            logger.warning(
                "%s: %d captions have more than %d tokens and are cut, first rows %s; train with a larger length to "
                "read whole ones", where, len(cut), length - 1, cut[:SHOWN],
            )  # fmt: skip
        if unknown:
            shown, few = list(unknown)[:SHOWN], len(unknown) <= SHOWN  # few ones may be slips, many are a language
            near = {word: nearest(word, list(self.vocabulary)).removeprefix(" ") if few else "" for word in shown}
            told = "; ".join(f"{word!r} in row {unknown[word]}. {hint}".rstrip(". ") for word, hint in near.items())
            logger.warning(
                "%s: %swords that training had not, or too rarely, are read as %s: %s%s",
                where, "" if few else f"{len(unknown)} ", UNKNOWN_MARK, told, "" if few else ", and so on",
            )  # fmt: skip
