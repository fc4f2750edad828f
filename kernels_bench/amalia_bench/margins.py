"""What a model would rather write: the log-likelihood of a pair's European wording less that of its Brazilian one.

The headline is the **sum** over the tokens after `context`, in nats: the log-odds of the one text against the other. It
is what the model acts on when it writes, it does not depend on how the vocabulary cuts words, and whatever the two
wordings share before they part cancels out. A longer wording is less likely for its length alone (*você quer* beside
*queres*), so the margins of different classes are not to be set side by side; between a model and its quantized copy the
lengths are the same, and the difference of margins is free of them. For classes beside each other there is the margin
**per byte**: each wording's own log-likelihood by its own bytes, the European less the Brazilian.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from amalia_bench.pairs import Pair
from amalia_edge.chat import Message
from amalia_edge.context import Context
from amalia_edge.errors import BenchError
from amalia_edge.model import Model
from amalia_edge.vocab import Vocabulary

PROMPTS = ("bare", "default")
SHORT = 32  # tokens of context: their logits cost less than a decode of their own would
TURN = "Uma frase, por favor."  # what the user said: as common in Brazil as in Portugal


class Margin(NamedTuple):
    nats: float  # over all tokens after the context
    per_byte: float


@dataclass(frozen=True)
class Spelt:
    """A pair in ids: what stands before, and both wordings to their ends; what is scored begins at `first`."""

    european: list[int]
    brazilian: list[int]
    first: int


class Reader(Protocol):
    """A model's memory of one text, and what it says would come next."""

    def read(self, ids: Sequence[int], start: int) -> None:
        """Take in ids at the positions from `start` on."""

    def tell(self, ids: Sequence[int], start: int) -> Iterable[NDArray[np.float32]]:
        """Take in ids and give the logits (vocabulary,) after each; a row lasts until the next one is asked for."""

    def truncate(self, keep: int) -> bool:
        """Forget what is after the first `keep` ids; False where that cannot be."""


class ContextReader:
    """A reader that is a llama context, in pieces of its batch."""

    def __init__(self, context: Context, batch: int, vocabulary: int) -> None:
        self._context, self._batch, self._vocabulary = context, batch, vocabulary

    def read(self, ids: Sequence[int], start: int) -> None:
        for place in range(0, len(ids), self._batch):
            self._context.decode(ids[place : place + self._batch], start + place, last=False)

    def tell(self, ids: Sequence[int], start: int) -> Iterable[NDArray[np.float32]]:
        for place in range(0, len(ids), self._batch):
            piece = ids[place : place + self._batch]
            self._context.decode(piece, start + place, every=True)
            yield from self._context.logits(len(piece), self._vocabulary)

    def truncate(self, keep: int) -> bool:
        return self._context.truncate(keep)


class Scorer:
    """Scores pairs one after the other; what two texts in a row begin with is read once."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._held: list[int] = []

    def score(self, pair: Pair, spelt: Spelt) -> Margin:
        """Give a pair's margin. Both wordings are one text up to where they part."""
        parting = common(spelt.european, spelt.brazilian)
        european = self._told(spelt.european, spelt.first)
        brazilian = np.concatenate(
            (european[: max(0, parting - spelt.first)], self._told(spelt.brazilian, max(parting, spelt.first)))
        )
        ours, theirs = float(european.sum()), float(brazilian.sum())
        if not np.isfinite(ours) or not np.isfinite(theirs):
            raise BenchError(pair.id, "the model's logits are no numbers", "convert the model again")
        return Margin(ours - theirs, ours / _bytes(pair.european) - theirs / _bytes(pair.brazilian))

    def _told(self, ids: Sequence[int], first: int) -> NDArray[np.float64]:
        """Give the log-probability of each id from place `first` on, by all that stand before it."""
        if first >= len(ids):
            return np.zeros(0)
        keep = min(common(self._held, ids), first - 1)
        if keep < len(self._held) and not self._reader.truncate(keep):
            self._reader.truncate(0)
            keep = 0
        self._held = []  # until it is read
        if first - 1 - keep > SHORT:
            self._reader.read(ids[keep : first - 1], keep)
            keep = first - 1
        rows = islice(self._reader.tell(ids[keep:-1], keep), first - 1 - keep, None)
        told = np.array([log_probability(row, token) for row, token in zip(rows, ids[first:], strict=True)])
        self._held = list(ids[:-1])
        return told


def log_probability(logits: NDArray[np.float32], token: int) -> float:
    """Give log softmax of one token: (vocabulary,) in float32, summed up in float64."""
    most = float(logits.max())
    return float(logits[token]) - most - float(np.log(np.exp(logits - np.float32(most)).sum(dtype=np.float64)))


def spell(pair: Pair, before: Sequence[int], encode: Callable[[str], list[int]]) -> Spelt:
    """Put a pair into ids, after those that stand `before` it; its context is read and not scored."""
    lead = f"{pair.context} " if pair.context else ""
    european, brazilian = ([*before, *encode(lead + wording)] for wording in (pair.european, pair.brazilian))
    opening = [*before, *(encode(pair.context) if lead else [])]
    return Spelt(european, brazilian, max(1, min(common(opening, european), common(opening, brazilian))))


def spell_all(model: Model, prompt: str, pairs: Sequence[Pair]) -> list[Spelt]:
    """Put pairs into a model's ids: bare, or as an answer to a neutral turn under the product's default system prompt."""
    vocabulary = model.vocabulary
    if prompt == "bare":
        before = (
            [vocabulary.begin] if vocabulary.adds_begin else vocabulary.encode("\n")
        )  # the first token too is scored
        return [spell(pair, before, vocabulary.encode) for pair in pairs]
    turn: Message = {"role": "user", "content": TURN}
    before = model.conversation([turn])
    return [spell(pair, before, lambda text: continued(vocabulary, text)) for pair in pairs]


def continued(vocabulary: Vocabulary, text: str) -> list[int]:
    """Give the ids of a text at the beginning of a line, without the space some vocabularies put before a first word."""
    line, ids = vocabulary.encode("\n"), vocabulary.encode("\n" + text)
    return ids[len(line) :] if ids[: len(line)] == line else vocabulary.encode(text)


def common(left: Sequence[int], right: Sequence[int]) -> int:
    """Give how many ids two texts have in common at their beginning."""
    pairs = zip(left, right, strict=False)
    return next((place for place, (ours, theirs) in enumerate(pairs) if ours != theirs), min(len(left), len(right)))


def _bytes(text: str) -> int:
    return len(text.encode())
