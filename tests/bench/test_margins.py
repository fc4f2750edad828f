"""Margins against sums made by hand and against a plain loop, token by token."""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from amalia_bench.margins import (
    SHORT,
    ContextReader,
    Margin,
    Scorer,
    Spelt,
    common,
    continued,
    log_probability,
    spell,
    spell_all,
)
from amalia_bench.pairs import Pair
from amalia_edge.context import Context
from amalia_edge.errors import BenchError
from amalia_edge.model import LoadConfig, Model

CONFIG = LoadConfig(threads=1, context=256, batch=16, micro_batch=16)


def pair(european: str, brazilian: str, context: str = "") -> Pair:
    return Pair("clitics-001", "clitics", "categorical", european, brazilian, "a / b", "neutral", context, "")


PAIRS = [
    pair("O pai disse-me que vinha.", "O pai me disse que vinha."),
    pair("Ele foi para casa num autocarro.", "Ele foi para casa em um ônibus.", "Era tarde."),
    pair("Queres vir?", "Você quer vir?", "A Ana fala com o filho."),
]


class Counted:
    """A reader of eight tokens: after a token t, the logit of token u is (t + 1) · u / 8."""

    def __init__(self, forgetful: bool = True) -> None:
        self.held: list[int] = []
        self.taken = 0
        self._forgetful = forgetful

    def read(self, ids: Sequence[int], start: int) -> None:
        assert start == len(self.held), "positions must follow each other"
        self.held += ids
        self.taken += len(ids)

    def tell(self, ids: Sequence[int], start: int) -> Iterable[NDArray[np.float32]]:
        for place, token in enumerate(ids):
            self.read([token], start + place)
            yield (token + 1) * np.arange(8, dtype=np.float32) / 8

    def truncate(self, keep: int) -> bool:
        if keep and not self._forgetful:
            return False
        del self.held[keep:]
        return True


def by_hand(ids: list[int], first: int) -> float:
    total = 0.0
    for before, token in zip(ids[first - 1 :], ids[first:], strict=False):
        weights = [math.exp((before + 1) * other / 8) for other in range(8)]
        total += math.log(weights[token] / sum(weights))
    return total


@pytest.fixture(scope="module")
def model(tiny: Path) -> Iterator[Model]:
    with Model.open(tiny, CONFIG) as opened:
        yield opened


@pytest.fixture
def reader(model: Model) -> Iterator[ContextReader]:
    context = Context(model.pointer, 256, 1, CONFIG, every=True)
    yield ContextReader(context, CONFIG.batch, model.vocabulary.size)
    context.close()


def plain(model: Model, ids: list[int], first: int) -> float:
    """Read a text from its beginning one token at a time, and add up what each was given."""
    context = Context(model.pointer, 256, 1, CONFIG)
    total = 0.0
    for place, token in enumerate(ids[:-1]):
        context.decode([token], place)
        if place + 1 >= first:
            row = context.row(0, model.vocabulary.size).astype(np.float64)
            total += float(row[ids[place + 1]] - np.log(np.exp(row).sum()))
    context.close()
    return total


def test_a_margin_is_the_difference_of_the_sums_after_the_context() -> None:
    spelt = Spelt([1, 2, 3, 4, 7], [1, 2, 3, 6, 5, 7], first=2)
    margin = Scorer(Counted()).score(PAIRS[0], spelt)
    assert margin.nats == pytest.approx(by_hand(spelt.european, 2) - by_hand(spelt.brazilian, 2), abs=1e-6)


def test_per_byte_each_wording_is_divided_by_its_own_length() -> None:
    spelt = Spelt([1, 2, 3, 4], [1, 2, 5, 4, 4], first=1)
    margin = Scorer(Counted()).score(pair("é sim", "abcdefgh"), spelt)  # six bytes, eight bytes
    assert margin.per_byte == pytest.approx(by_hand([1, 2, 3, 4], 1) / 6 - by_hand([1, 2, 5, 4, 4], 1) / 8, abs=1e-6)


def test_one_wording_may_begin_the_other() -> None:
    spelt = Spelt([1, 2, 3], [1, 2, 3, 4], first=1)
    margin = Scorer(Counted()).score(PAIRS[0], spelt)
    assert margin.nats == pytest.approx(-by_hand([3, 4], 1), abs=1e-6)


def test_what_two_pairs_share_is_read_once() -> None:
    reader = Counted()
    scorer = Scorer(reader)
    prompt = [1, 2, 3, 4, 5, 6, 7, 1, 2, 3]
    scorer.score(PAIRS[0], Spelt([*prompt, 4, 5], [*prompt, 6, 5], first=len(prompt)))
    before = reader.taken
    scorer.score(PAIRS[1], Spelt([*prompt, 2, 3], [*prompt, 3, 3], first=len(prompt)))
    assert reader.taken - before == 4  # the prompt's last token and one more, for each wording


@pytest.mark.parametrize("length", [2, SHORT, SHORT + 1, SHORT + 2, 100])
def test_a_context_of_any_length_is_read(length: int) -> None:
    before = [place % 8 for place in range(length)]
    spelt = Spelt([*before, 4, 7], [*before, 6, 5], first=length)
    margin = Scorer(Counted()).score(PAIRS[0], spelt)
    assert margin.nats == pytest.approx(by_hand(spelt.european, length) - by_hand(spelt.brazilian, length), abs=1e-5)


@pytest.mark.parametrize(("length", "taken"), [(100, [2, 2]), (5, [6, 2])])
def test_a_long_prompt_is_read_without_logits_and_a_short_one_with_what_follows(length: int, taken: list[int]) -> None:
    asked: list[int] = []

    class Listening(Counted):
        def tell(self, ids: Sequence[int], start: int) -> Iterable[NDArray[np.float32]]:
            asked.append(len(ids))
            yield from super().tell(ids, start)

    prompt = [1] * length
    Scorer(Listening()).score(PAIRS[0], Spelt([*prompt, 4, 5], [*prompt, 6, 5], first=length))
    assert asked == taken


def test_a_model_that_cannot_forget_a_part_reads_all_again() -> None:
    spelt = Spelt([1, 2, 3, 4, 7], [1, 2, 3, 6, 5, 7], first=2)
    kept, forgotten = (Scorer(Counted(forgetful)).score(PAIRS[0], spelt) for forgetful in (True, False))
    assert kept == forgotten


def test_logits_that_are_no_numbers_name_the_pair() -> None:
    class Broken(Counted):
        def tell(self, ids: Sequence[int], start: int) -> Iterable[NDArray[np.float32]]:
            for row in super().tell(ids, start):
                yield row * np.float32(np.nan)

    with pytest.raises(BenchError, match="clitics-001: the model's logits are no numbers"):
        Scorer(Broken()).score(PAIRS[0], Spelt([1, 2, 3], [1, 2, 4], first=1))


def test_large_logits_do_not_overflow() -> None:
    assert log_probability(np.array([3e4, 3e4], np.float32), 0) == pytest.approx(-math.log(2))


@pytest.mark.parametrize("prompt", ["bare", "default"])
def test_margins_are_those_of_a_plain_loop(model: Model, reader: ContextReader, prompt: str) -> None:
    scorer = Scorer(reader)
    for one, spelt in zip(PAIRS, spell_all(model, prompt, PAIRS), strict=True):
        european, brazilian = plain(model, spelt.european, spelt.first), plain(model, spelt.brazilian, spelt.first)
        ours, theirs = len(one.european.encode()), len(one.brazilian.encode())
        margin = Margin(european - brazilian, european / ours - brazilian / theirs)
        assert scorer.score(one, spelt) == pytest.approx(margin, abs=2e-3)


def test_a_wording_against_itself_has_no_margin(model: Model, reader: ContextReader) -> None:
    same = pair("A casa é alta.", "A casa é alta.")
    (spelt,) = spell_all(model, "bare", [same])
    assert Scorer(reader).score(same, spelt) == (0, 0)


def test_the_context_is_read_and_not_scored(model: Model) -> None:
    (spelt,) = spell_all(model, "bare", [PAIRS[1]])
    assert model.vocabulary.decode(spelt.european[: spelt.first]) == "Era tarde."
    assert model.vocabulary.decode(spelt.european[spelt.first :]) == " Ele foi para casa num autocarro."


def test_a_bare_pair_stands_after_the_beginning_of_text(model: Model) -> None:
    (spelt,) = spell_all(model, "bare", [PAIRS[0]])
    assert (spelt.european[0], spelt.brazilian[0], spelt.first) == (model.vocabulary.begin, model.vocabulary.begin, 1)


def test_under_the_default_prompt_a_pair_is_the_assistants_answer(model: Model) -> None:
    (spelt,) = spell_all(model, "default", [PAIRS[0]])
    before = model.conversation([{"role": "user", "content": "Uma frase, por favor."}])
    assert spelt.european[: spelt.first] == before
    assert model.vocabulary.decode(spelt.european[spelt.first :]) == PAIRS[0].european


def test_something_always_stands_before_what_is_scored() -> None:
    spelt = spell(pair("ab", "cd"), [], lambda text: [ord(letter) for letter in text])
    assert spelt.first == 1


def test_an_answer_begins_as_a_line_does(model: Model) -> None:
    assert continued(model.vocabulary, "O pai") == model.vocabulary.encode("\nO pai")[1:]


def test_what_two_texts_have_in_common() -> None:
    assert [common([1, 2, 3], [1, 2, 4]), common([1], [1, 2]), common([], [1])] == [2, 1, 0]
