"""Captions: raw values are tokens int64 [N, T], END from the end on; users hand over strings and get strings. States
are one-hot float32 [N, T, V].

A chain moves states, and what it ends at becomes the nearest caption. The energy reads the nearest caption all along,
with a straight-through gradient (`nn.text`). With `text_mode: frozen` a chain leaves captions as they are.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from multiebm.core.captions import are_captions
from multiebm.core.cells import decoded, is_text, texts_in
from multiebm.core.errors import DataError
from multiebm.core.handed import Array, Handed, Mask, in_columns
from multiebm.core.random import Randomness, rand
from multiebm.core.spelling import BYTES, MARKS, Speller, learn
from multiebm.core.tokens import END, UNKNOWN, counted, one_hot, tokens_of
from multiebm.distributions.likelihoods import Observation
from multiebm.distributions.sentences import Causal, Sentences
from multiebm.modalities.base import (
    NOISE,
    Columns,
    Modality,
    Scale,
    Shows,
    is_number,
    unknown_keys,
)
from multiebm.modalities.category import SMOOTHED, Shares
from multiebm.modalities.gaps import missing_problems
from multiebm.nn.text import CnnDecoder, Judge, TextTrunk, TransformerDecoder, TransformerEncoder, cnn_encoder

MIN_COUNT, LEARNED = 2, {"words": 5000, "bpe": 1000}  # times that a token occurs; tokens of either sort at most
MOST_TOKENS, LARGEST_STATE = 20_000, 2**22  # of a vocabulary; numbers of a state, 16 MB
SHARE_WHOLE, LONGEST = 0.99, 64  # captions of training that are not cut, and tokens of one, unless declared
HELD = 1000.0  # times its state that a chain gets of a caption that is to stay: more than any noise
REGRESSED, STEPS = 20, 50  # tokens of a position for logistic regression, else shares; its steps: more predict worse
WIDTH = 64  # that the memory of networks grows with at a position
Tokens = Literal["words", "bpe"]
Mode = Literal["langevin", "frozen"]


class Shown(Shares):
    """Make what a network says of each position [B, T * V] probabilities of tokens [B, T, V]."""

    def __init__(self, length: int, size: int) -> None:
        super().__init__((size,) * length)

    def forward(self, x: Tensor) -> Tensor:
        """Return a softmax over the tokens of each position, [B, T, V], in float32."""
        return x.float().view(len(x), len(self.sizes), -1).softmax(2)


@dataclass(frozen=True)
class TextNetworks:
    """Encoders and decoders of captions."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    kind: Annotated[
        Literal["cnn", "transformer"], Field(description="convolutions over words, or two layers of attention")
    ] = "cnn"
    width: Annotated[PositiveInt, Field(description="channels at each word")] = 64


@dataclass(frozen=True)
class Text(Modality):
    """`vocabulary`: the words, or with `tokens` bpe the pieces of words and the `merges` that make these. `length`:
    tokens of a caption, its end included. `text_mode`: what a chain in data space does with captions.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    kind: ClassVar[str] = "text"
    shows: ClassVar[Shows] = "text"
    networks: ClassVar[type] = TextNetworks
    numbers: ClassVar[bool] = False
    linked: ClassVar[bool] = True
    speaks: ClassVar[bool] = True
    intervals: ClassVar[bool] = False
    likelihoods: ClassVar[Mapping[str, Scale]] = {"causal": "none", "categorical": "none"}

    name: str
    vocabulary: Annotated[tuple[str, ...], Field(min_length=1, max_length=MOST_TOKENS)]
    length: PositiveInt
    tokens: Tokens = "words"
    merges: tuple[str, ...] = field(default=(), repr=False)
    columns: tuple[str, ...] = ()
    missing: Literal["nan"] | None = field(default=None, repr=False)
    text_mode: Mode = field(default="langevin", repr=False)

    @property
    def words(self) -> int:
        """V, the tokens: those of the vocabulary, the end mark and the unknown mark."""
        return len(MARKS) + len(self.vocabulary)

    @property
    def shape(self) -> tuple[int, int]:  # type: ignore[override]
        """(T, V)."""
        return self.length, self.words

    @property
    def raw_shape(self) -> tuple[int]:
        """(T,), tokens."""
        return (self.length,)

    @property
    def still(self) -> bool:  # type: ignore[override]
        """Whether captions are frozen."""
        return self.text_mode == "frozen"

    @property
    def places(self) -> int:
        """What the memory of its networks grows with: channels, or if these are few part of the probabilities."""
        return self.length * max(WIDTH, self.words // 8)

    @property
    def handed_columns(self) -> tuple[str, ...]:
        """The name of its column: that of training, else its own."""
        return self.columns or (self.name,)

    @cached_property
    def speller(self) -> Speller:
        """What reads captions and writes them."""
        return Speller(self.vocabulary, self.merges, self.tokens == "bpe", f"modality {self.name!r}")

    def give(self, raw: Tensor, given: Handed | None = None, there: Tensor | None = None) -> Array:
        """Return tokens [..., N, T] as an array of strings [..., N]; where a caption was handed over, that one."""
        said = np.array(self.speller.write(raw.reshape(-1, self.length)), object).reshape(raw.shape[:-1])
        if given is not None and there is not None:
            for row in np.flatnonzero(there.numpy() & ~given.hidden.reshape(len(there), -1).all(1)):
                said[..., row] = decoded(given.values.reshape(len(there))[row])
        return said.astype(str)

    def average(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Return of draws [K, N, T] the caption that most of them are, the first of several, and which share is not."""
        alike = (draws[:, None] == draws).all(3).sum(1)  # [K, N], draws that are the same
        most, first = alike.max(0)
        return draws[first, torch.arange(draws.shape[1])], 1 - most / len(draws)

    # values

    @classmethod
    def infer(cls, part: Handed) -> dict[str, Any] | None:
        """Take texts [N] or [N, 1] of several words, which they put together anew."""
        values = part.values
        if part.was == "categories" or values.dtype.kind not in "OUS" or values.shape[1:] not in ((), (1,)):
            return None
        return {} if are_captions(values.reshape(-1)[~part.hidden.reshape(-1)]) else None

    def describe(self) -> str:
        """Return, say, "captions of up to 11 of 40 words"."""
        what = "words" if self.tokens == "words" else "pieces of words"
        return f"captions of up to {self.length - 1} of {len(self.vocabulary):,} {what}"

    def constant(self, raw: Tensor) -> list[str]:
        """Return none: positions are no columns."""
        return []

    def keep(self, part: Handed) -> Array:
        """Return captions as strings [N], empty where they are missing; one of no words is a space."""
        cells = zip(part.values.reshape(-1), part.hidden.reshape(-1), strict=True)
        return np.array(["" if gone or not is_text(cell) else decoded(cell) or " " for cell, gone in cells], str)

    @classmethod
    def declaration_problems(cls, where: str, declared: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with {missing, tokens, min_count, vocabulary, length, text_mode}, all optional."""
        problems = missing_problems(where, declared)
        for key, known in (("tokens", get_args(Tokens)), ("text_mode", get_args(Mode))):
            if declared.get(key, known[0]) not in known:
                problems.append(f"{where}.{key}: got {declared[key]!r}, expected {' or '.join(known)}; correct it")
        least = BYTES + 1 if declared.get("tokens") == "bpe" else 1
        for key, low, high in (("min_count", 1, None), ("vocabulary", least, MOST_TOKENS), ("length", 1, None)):
            n = declared.get(key, low)
            if not is_number(n) or n != int(n) or n < low or (high is not None and n > high):
                span = f"at least {low:,}" if high is None else f"{low:,} to {high:,}"
                problems.append(f"{where}.{key}: got {n!r}, expected a whole number, {span}; correct it")
        keys = ["kind", "missing", "columns", "tokens", "min_count", "vocabulary", "length", "text_mode"]
        return problems + unknown_keys(where, declared, keys)

    @classmethod
    def declare(cls, name: str, declared: Mapping[str, Any], part: Handed, where: str) -> Self:
        """Return the modality of captions [N] or [N, 1]: the words that they have often enough, and their length."""
        if part.values.shape[1:] not in ((), (1,)):
            got = part.values.shape
            raise DataError(f"{where}: got shape {got}, expected a caption a row, (N,); make a part of each column")
        missing, mode = declared.get("missing"), declared.get("text_mode", "langevin")
        columns = part.columns or tuple(declared.get("columns", ()))
        made = cls(name, ("",), 1, columns=columns, missing=missing, text_mode=mode)
        part = made.hide(part)
        texts = texts_in(part.values.reshape(-1), np.flatnonzero(~part.hidden.reshape(-1)), where)
        sort, least = declared.get("tokens", "words"), int(declared.get("min_count", MIN_COUNT))
        vocabulary, merges = learn(texts, sort == "bpe", int(declared.get("vocabulary", LEARNED[sort])), least, where)
        made = cls(name, vocabulary, 1, sort, merges, columns, missing, mode)
        words = [len(made.speller.split(text)) for text in texts]
        usual = math.ceil(float(np.quantile(words, SHARE_WHOLE))) + 1
        length = int(declared.get("length", min(LONGEST, usual)))
        if (size := length * made.words) > LARGEST_STATE:
            raise DataError(
                f"{where}: got captions of {length:,} tokens out of {made.words:,}, {size:,} numbers each, expected at "
                f"most {LARGEST_STATE:,}; declare a smaller length or vocabulary"
            )
        return cls(name, vocabulary, length, sort, merges, columns, missing, mode)

    def read(self, part: Handed, present: Mask, where: str) -> Tensor:
        """Return captions [N] as tokens int64 [N, T]; END in rows that are not `present`. It says which are cut, and
        which words training had not.
        """
        if part.values.shape[1:] not in ((), (1,)):
            got = part.values.shape
            raise DataError(f"{where}: got shape {got}, expected a caption a row, (N,); hand over strings")
        values = in_columns(part, self.columns, 1, where).values[:, 0]
        raw, rows = torch.full((len(values), self.length), END), np.flatnonzero(present)
        self.speller.read(texts_in(values, rows, where), rows.tolist(), raw, where)
        return raw

    def to_state(self, raw: Tensor) -> Tensor:
        """Return tokens [B, T] as one-hot states [B, T, V]."""
        return one_hot(raw, self.words)

    def to_raw(self, state: Tensor) -> Tensor:
        """Return the tokens of states [B, T, V]: the largest of each position, END from the first END on."""
        return tokens_of(state)

    def as_given(self, raw: Tensor) -> Tensor:
        """Return tokens [B, T] as they are."""
        return raw

    def show(self, raw: Tensor) -> list[str]:
        """Return a caption an item."""
        return self.speller.write(raw)

    # networks

    def encoder(self, n_out: int, networks: TextNetworks) -> nn.Module:
        """Return convolutions or a transformer, [B, T, V] -> [B, n_out]."""
        made = cnn_encoder if networks.kind == "cnn" else TransformerEncoder
        return made(*self.shape, networks.width, n_out)

    def decoder(self, n_in: int, networks: TextNetworks) -> nn.Module:
        """Return convolutions or a transformer, and a softmax at each position: [B, n_in] -> [B, T, V]."""
        made = CnnDecoder if networks.kind == "cnn" else TransformerDecoder
        return nn.Sequential(made(*self.shape, networks.width, n_in), Shown(*self.shape))

    def energy_trunk(self, together: Sequence[Modality], width: int) -> nn.Module:
        """Return convolutions over the words of each caption: [B, T, V] each -> [B, width]."""
        captions = [m for m in together if isinstance(m, Text)]
        return TextTrunk([m.shape for m in captions], width, [m.text_mode == "langevin" for m in captions])

    def judge_trunk(self, width: int, n_features: int) -> nn.Module:
        """Return one convolution, of which the largest value of all positions counts: [B, T, V] -> [B, n_features]."""
        return Judge(self.words, width, n_features)

    def disturb(self, state: Tensor, rng: Randomness) -> Tensor:
        """Return states [B, T, V] whose words are others with a probability drawn for each item, up to NOISE."""
        tokens = tokens_of(state)
        swap = rand(rng, tokens.shape, state) < NOISE * rand(rng, (len(state), 1), state)
        return one_hot(torch.where(swap & (tokens != END), self._any_word(tokens, rng, state), tokens), self.words)

    def corrupt(self, state: Tensor, rng: torch.Generator) -> Tensor:
        """Return what no item has: states [B, T, V] with other words, each as likely, or their own ones shuffled."""
        tokens = tokens_of(state)
        inside = tokens != END
        order = rand(rng, tokens.shape, state).masked_fill(~inside, 2.0).argsort(1)
        shuffle = rand(rng, (len(state), 1), state) < 0.5
        other = torch.where(shuffle, tokens.gather(1, order), self._any_word(tokens, rng, state))
        return one_hot(torch.where(inside, other, END), self.words)

    def _any_word(self, tokens: Tensor, rng: Randomness, like: Tensor) -> Tensor:
        return UNKNOWN + (rand(rng, tokens.shape, like) * (self.words - UNKNOWN)).long().clamp_max(self.words - 2)

    # density and chain

    def likelihood(self, family: str, scale: float | Literal["learned"], weight: float) -> Observation:
        """Return the categorical p(x | mean) of each token, given the words before it or not; it has no scale."""
        return Causal(self.words, weight) if family == "causal" else Sentences(weight)

    def relax(self, state: Tensor) -> Tensor:
        """Return what a chain moves of states [B, T, V]: these, or where they are frozen what it cannot move far."""
        return HELD * self.seen(state) if self.still else state

    def noise(self, like: Tensor, rng: Randomness) -> Tensor:
        """Return noise [B, T, V] from which a chain may start; a frozen caption stays what it then is."""
        drawn = super().noise(like, rng)
        return drawn if self.text_mode == "langevin" else self.relax(drawn)

    def settle(self, moved: Tensor) -> Tensor:
        """Return the nearest captions to [B, T, V], one-hot."""
        return self.seen(moved)

    def seen(self, state: Tensor) -> Tensor:
        """Return the captions that states [B, T, V] are read as, one-hot."""
        return one_hot(tokens_of(state), self.words)

    # how a part that was filled in is judged

    def judged(self, state: Tensor) -> Tensor:
        """Return captions [B, T, V] as one-hot states, NaN where they are missing."""
        return self.seen(state).where(~state.isnan(), torch.nan)

    def expected(self, mean: Tensor) -> Tensor:
        """Return the probabilities of tokens as they are, [B, T, V]."""
        return mean

    def errors(self, true: Tensor, predicted: Tensor, spread: Tensor) -> dict[str, Tensor]:
        """Return log loss in nats and whether the likeliest token is right, of each position up to the end [N, T], and
        whether the whole caption is right [N, 1]. Probabilities are moved by SMOOTHED towards equal ones.
        """
        tokens, gone = tokens_of(true), true.isnan().any(2)
        told = counted(tokens) & ~gone
        share = (1 - SMOOTHED) * predicted.gather(2, tokens[..., None])[..., 0] + SMOOTHED / self.words
        right, whole = (predicted.argmax(2) == tokens).float(), (tokens_of(predicted) == tokens).all(1).float()
        found = {name: of.where(told, torch.nan) for name, of in (("log_loss", -share.log()), ("accuracy", right))}
        return found | {"exact": whole.where(~gone.all(1), torch.nan)[:, None]}

    def regress(self, x: Columns, y: Columns, new: Columns) -> Columns:
        """Fit tokens y [N, T * V] of each position to x [N, F]; return their probabilities by new x [M, F], [M, T * V].

        By logistic regression where a position has two to REGRESSED tokens; else these have their shares.
        """
        from sklearn.linear_model import LogisticRegression  # late: scikit-learn takes a second to import

        rows = ~np.isnan(y).any(1)
        tokens, found = y[rows].reshape(-1, *self.shape).argmax(2), np.zeros((len(new), *self.shape))
        for position, said in enumerate(tokens.T if rows.any() else ()):
            classes, counts = np.unique(said, return_counts=True)
            found[:, position, classes] = counts / len(said)
            if 2 <= len(classes) <= REGRESSED:
                with warnings.catch_warnings():  # steps that have not converged are no news here
                    warnings.simplefilter("ignore")
                    made = LogisticRegression(max_iter=STEPS).fit(x[rows], said)
                found[:, position, classes] = made.predict_proba(new)
        return found.reshape(len(new), -1)
