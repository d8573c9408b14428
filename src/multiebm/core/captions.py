"""Captions as words and punctuation marks and back, the vocabulary of many, and what tells captions from classes."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNKNOWN_MARK = "<unk>"  # as which a word that training had not is read, and written
LEAST_WORDS = 3  # of a cell on average, from which texts may be captions
_PLAIN = re.compile(r"<unk>|[^\W_]+(?:['’\-][^\W_]+)*|[^\w\s]|_")
_JOINS = "'’-"  # between two letters they are part of a word
_CLOSING, _OPENING = frozenset(".,;:!?%)]}…»"), frozenset("([{«#$£€")  # no space before, none after


def clean(text: str) -> str:
    """Return a text in composed characters (Unicode's NFC) and small letters."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).lower())


def words_of(text: str) -> list[str]:
    """Return the words of a caption in small letters, and its punctuation marks, each by itself.

    An apostrophe or a hyphen between letters is part of a word; a combining mark goes with what it stands on.
    """
    text = clean(text)
    return _PLAIN.findall(text) if text.isascii() else _any_script(text)


def _any_script(text: str) -> list[str]:
    found: list[str] = []
    last = " "  # the sort of the character before: a letter (w), a sign, or a space
    for i, character in enumerate(text):
        sort = _sort(character)
        if sort == "m":
            if last != " ":  # else it stands on nothing
                found[-1] += character
            continue
        joins = character in _JOINS and last == "w" and i + 1 < len(text) and _sort(text[i + 1]) == "w"
        if sort == "w" or joins:
            found[-1:] = [found[-1] + character] if last == "w" else [*found[-1:], character]
            last = "w"
        else:
            found += [character] if sort == "s" else []
            last = sort
    return _marks_whole(found)


def _marks_whole(found: list[str]) -> list[str]:
    """Return tokens with the three of a mark for an unknown word as one."""
    whole: list[str] = []
    for token in found:
        whole.append(token)
        if whole[-3:] == ["<", "unk", ">"]:
            whole[-3:] = [UNKNOWN_MARK]
    return whole


def _sort(character: str) -> str:
    """Return w for a letter or digit, m for a mark that combines, a space for white space, s for any other sign."""
    if character.isalnum():
        return "w"
    if character.isspace():
        return " "
    return "m" if unicodedata.category(character) in ("Mn", "Mc", "Me", "Cf") else "s"


def joined(words: Iterable[str]) -> str:
    """Return words and marks as a caption, of which `words_of` gives the same words again."""
    text, open_ = "", True
    for word in words:
        text += word if open_ or word in _CLOSING else f" {word}"
        open_ = word in _OPENING
    return text


def frequent(captions: Iterable[Sequence[str]], least: int, most: int) -> tuple[str, ...]:
    """Return the `most` frequent words that captions, each split into words, have at least `least` times, in the order
    of the alphabet, whatever their numbers: other captions of the same words have the same vocabulary.
    """
    counts = Counter(word for words in captions for word in words if word != UNKNOWN_MARK)
    ranked = sorted(counts.items(), key=lambda of: (-of[1], of[0]))
    return tuple(sorted(word for word, n in ranked[:most] if n >= least))


def are_captions(cells: NDArray[Any]) -> bool:
    """Return whether texts [N] are captions, which put words together anew: several words each, and more different
    texts than different words. Names of classes, of rows and of people are not.
    """
    texts = [cell.decode(errors="replace") if isinstance(cell, bytes) else cell for cell in cells]
    texts = [str(text) for text in texts if isinstance(text, str | np.str_) and text.strip()]
    if len(set(texts)) < 2:
        return False
    said = [text.lower().split() for text in texts]
    several = sum(map(len, said)) >= LEAST_WORDS * len(said)
    return several and len(set(texts)) > len({word for words in said for word in words})
