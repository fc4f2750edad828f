"""Questions put to a model: what is scored, what it writes, and how it stands beside the base."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from amalia_bench import tasks
from amalia_bench.machine import Machine
from amalia_bench.questions import Question, Questions
from amalia_bench.tasks import Answer, Asker, Measured, TasksConfig, ask, measure_tasks, spell, steps, summarise
from amalia_edge.context import Context
from amalia_edge.errors import BenchError, NotComparable
from amalia_edge.model import LoadConfig, Model
from models import tiny_model

CONFIG = TasksConfig(threads=1, context=256, batch=32)
LETTERS = "\0\x01\x02 abcdefghijklmnopqrstuvwxyz?.-:)\nABR"  # the fake's vocabulary, its first the beginning of a text


def encode(text: str) -> list[int]:
    return [LETTERS.index(letter) for letter in text.replace("á", "\x01\x02")]


class Parrot:
    """A reader that knows one text by heart: each letter of it is the likeliest to come next, by `sure` nats."""

    def __init__(self, text: str, sure: float = 2.0, forgets: bool = True) -> None:
        self.text, self.sure, self.forgets = text, sure, forgets
        self.held: list[int] = []
        self.fed = 0

    def read(self, ids: Sequence[int], start: int) -> None:
        assert start == len(self.held)
        self.held += ids
        self.fed += len(ids)

    def tell(self, ids: Sequence[int], start: int) -> Iterator[NDArray[np.float32]]:
        for place, token in enumerate(ids):
            self.read([token], start + place)
            said = "".join(LETTERS[one] for one in self.held[1:])
            logits = np.zeros(len(LETTERS), np.float32)
            follows = self.text[len(said)] if self.text.startswith(said) and len(said) < len(self.text) else "\0"
            logits[LETTERS.index(follows)] = self.sure
            yield logits

    def truncate(self, keep: int) -> bool:
        if keep and not self.forgets:
            return False
        self.held = self.held[:keep]
        return True

    def bytes_of(self, token: int) -> bytes:
        return {1: b"\xc3", 2: b"\xa1"}.get(token, LETTERS[token].encode())  # the two bytes of á

    def ends(self, token: int) -> bool:
        return token == 0


def choice(prompt: str, *options: str, answer: int = 0) -> Question:
    return Question("own.jsonl:1", prompt, options, answer)


def asked(item: Question, parrot: Parrot, kind: str = "choice", prompt: str = "continuation") -> Answer:
    spelt = spell(item, kind, TasksConfig(prompt=prompt), encode, [0])
    asker = Asker(parrot, parrot)
    return asker.choose(item, spelt) if kind == "choice" else asker.complete(item, spelt)


def letter(sure: float, known: bool) -> float:
    """Give the log-probability of a letter that the parrot expects, or of another."""
    return (sure if known else 0.0) - math.log(math.exp(sure) + len(LETTERS) - 1)


def test_the_option_the_model_expects_is_its_answer() -> None:
    parrot = Parrot("onde? aqui")
    assert asked(choice("onde?", "aqui", "alem"), parrot).right
    assert not asked(choice("onde?", "aqui", "alem", answer=1), Parrot("onde? aqui")).right


def test_an_options_likelihood_is_the_sum_over_its_tokens() -> None:
    answer = asked(choice("onde?", "ali", "cubo"), Parrot("onde? ali"))
    assert answer.nats == pytest.approx(4 * letter(2.0, True), rel=1e-6)  # a space and three letters


def test_a_long_option_may_be_the_likeliest_per_byte_alone() -> None:
    answer = asked(choice("onde?", "aqui no fim da rua", "x"), Parrot("onde? aqui no fim da rua", sure=3.0))
    assert (answer.right, answer.right_per_byte) == (False, True)


def test_letters_are_scored_after_all_options() -> None:
    text = "onde?\nA) aqui\nB) ali\nResposta: B"
    spelt = spell(choice("onde?", "aqui", "ali"), "choice", TasksConfig(prompt="letters"), encode, [0])
    assert ["".join(LETTERS[one] for one in ids[1:]) for ids in spelt.options] == [text[:-1] + "A", text]
    assert asked(choice("onde?", "aqui", "ali", answer=1), Parrot(text), prompt="letters").right


def test_an_option_follows_an_opening_bracket_without_a_space() -> None:
    spelt = spell(choice("a (", "b", "c"), "choice", TasksConfig(), lambda text: [ord(one) for one in text], [0])
    assert spelt.options[0] == [0, *map(ord, "a (b")]


def test_all_options_are_scored_from_the_same_token_on() -> None:
    def merged(text: str) -> list[int]:
        """Cut a text so that the question's end becomes one with an option's beginning."""
        return [ord(one) for one in text.replace("? a", "\u00e1")]

    spelt = spell(choice("onde?", "cubo", "ali"), "choice", TasksConfig(), merged, [0])
    assert spelt.first == 5  # the beginning and o, n, d, e: `?` is one token with `a` in the second option


def test_a_question_is_read_once_for_all_its_options() -> None:
    parrot = Parrot("onde? aqui")
    asked(choice("onde?", "aqui", "alem"), parrot)
    assert parrot.fed == len("\0onde? aqu") + len("? ale")  # the last letter of each is only looked up


def test_a_model_that_cannot_forget_a_part_reads_all_again() -> None:
    item = choice("onde?", "aqui", "alem")
    assert asked(item, Parrot("onde? aqui", forgets=False)) == asked(item, Parrot("onde? aqui"))


@pytest.mark.parametrize(
    ("text", "word", "right"),
    [
        ("abre a porta.", "porta", True),
        ("abre a porta", "porta.", True),  # the end of the answer ends the word
        ("abre a portas", "porta", False),
        ("abre a guarda-sol.", "guarda", False),
        ("abre a guarda-sol.", "guarda-sol", True),
        ("abre a porta-", "porta", True),
        ("abre aporta.", "porta", False),  # the sentence's own last word went on
        ("abre a p\x01\x02.", "pá", True),
        ("abre a ... porta ", "porta", True),
    ],
)
def test_a_last_word_is_what_the_model_writes(text: str, word: str, right: bool) -> None:
    assert asked(choice("abre a", word), Parrot(text), kind="cloze").right is right


def test_case_does_not_count_in_a_last_word() -> None:
    assert asked(choice("abre a", "b"), Parrot("abre a B."), kind="cloze").right


def test_a_last_word_has_a_likelihood_too() -> None:
    answer = asked(choice("abre a", "porta"), Parrot("abre a porta."), kind="cloze")
    assert answer.nats == pytest.approx(6 * letter(2.0, True), rel=1e-6)


def test_nothing_is_written_after_the_end() -> None:
    parrot = Parrot("abre a")
    assert not asked(choice("abre a", "porta"), parrot, kind="cloze").right
    assert len(parrot.held) == len("\0abre a")


def test_a_model_that_writes_no_end_is_stopped() -> None:
    parrot = Parrot("abre a" + " " * 200)
    assert not asked(choice("abre a", "porta"), parrot, kind="cloze").right
    assert len(parrot.held) < 60


def test_letters_of_several_bytes_do_not_end_a_word() -> None:
    assert not tasks._has_words(" pá", 1)
    assert tasks._has_words(" pá,", 1)


def test_logits_that_are_no_number_are_named_by_their_question() -> None:
    with pytest.raises(BenchError, match=r"own\.jsonl:1: the model's logits are no numbers"):
        asked(choice("onde?", "aqui", "ali"), Parrot("onde? aqui", sure=math.nan))


def answers(pattern: str) -> list[Answer | None]:
    """Write answers as letters: right, wrong, left out."""
    return [None if one == "-" else Answer(one == "r", one == "w", -2.0 if one == "r" else -3.0) for one in pattern]


def questions(count: int, kind: str = "choice") -> Questions:
    options = ("a", "b") if kind == "choice" else ("a",)
    item = Question("own.jsonl:1", "?", options, 0)
    return Questions("own.jsonl", "00", kind, (item,) * count)  # type: ignore[arg-type]


def test_figures_are_shares_of_the_questions_answered() -> None:
    told = summarise(questions(5), answers("rrrw-"), None)
    assert (told["items"], told["left_out"], told["accuracy"], told["accuracy_per_byte"]) == (4, 1, 0.75, 0.25)
    assert (told["nats"], told["chance"], told["delta"]) == (-2.25, 0.5, None)


def test_a_difference_is_of_what_both_answered() -> None:
    told = summarise(questions(6), answers("rwwr-r"), answers("rrrw-w"))
    assert (told["accuracy"], told["base_accuracy"], told["delta"]) == (0.6, 0.6, 0.0)
    told = summarise(questions(4), answers("rrww"), answers("-rrr"))
    assert (told["items"], told["base_accuracy"], told["agreement"]) == (3, 1.0, pytest.approx(1 / 3))
    assert told["delta"] == pytest.approx(-2 / 3)


def test_no_difference_in_ten_questions_is_not_certainty() -> None:
    low, high = summarise(questions(10), answers("r" * 10), answers("r" * 10))["delta_ci95"]
    assert (low, high) == pytest.approx((-0.231, 0.231), abs=1e-3)


def test_a_cloze_has_no_figure_per_byte_and_no_chance() -> None:
    told = summarise(questions(4, "cloze"), answers("rrrw"), answers("rrrw"))
    assert told["chance"] is None
    assert not [name for name in told if "per_byte" in name]


def test_questions_that_are_all_too_long_are_refused() -> None:
    with pytest.raises(BenchError, match="every question is too long"):
        summarise(questions(2), answers("--"), None)


EXAM = Questions(
    "exam.jsonl",
    "11",
    "choice",
    (
        Question("exam.jsonl:1", "Qual é a cor do mar?", ("azul", "verde como o campo"), 0),
        Question("exam.jsonl:2", "Ao fim da rua há", ("uma igreja.", "uma loja.", "um rio."), 2),
        Question("exam.jsonl:3", "palavra " * 400, ("sim", "não"), 0),
    ),
)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("level") / "tiny-F16.gguf", kind="F16", seed=1)


def test_a_likelihood_is_that_of_the_whole_text_less_that_of_its_beginning(tiny: Path) -> None:
    first = next(ask(tiny, EXAM, CONFIG))
    assert first is not None
    with Model.open(tiny, LoadConfig(context=256, threads=1)) as model:
        context = Context(model.pointer, 256, 1, model.config, every=True)
        ids = model.prompt("Qual é a cor do mar? azul")
        context.decode(ids, 0, every=True)
        logits = context.logits(len(ids), model.vocabulary.size).astype(np.float64)
        context.close()
        start = len(model.prompt("Qual é a cor do mar?"))
    rows, targets = logits[start - 1 : -1], np.array(ids[start:])
    expected = rows[np.arange(len(targets)), targets] - np.log(np.exp(rows).sum(1))
    assert first.nats == pytest.approx(expected.sum(), rel=1e-4)


def test_a_question_too_long_for_the_context_is_left_out(tiny: Path) -> None:
    assert [answer is None for answer in ask(tiny, EXAM, CONFIG)] == [False, False, True]


def measure(paths: list[Path], base: Path | None, machine: Machine, known: list[Measured] | None = None) -> list[Measured]:  # fmt: skip
    return list(measure_tasks(EXAM, paths, base, CONFIG, machine, [one.row for one in known or []]))


def test_the_base_comes_first_and_the_others_are_set_against_it(tiny: Path, other: Path, machine: Machine) -> None:
    first, second = (one.row for one in measure([other], tiny, machine))
    assert (first["kind"], first["task"], first["against"], first["delta"]) == ("tasks", "choice", None, None)
    assert (second["model"]["level"], second["against"], second["base"]["file"]) == ("F16", "Q8_0", tiny.name)
    assert second["base_accuracy"] == first["accuracy"]


def test_a_record_says_how_the_questions_were_put(tiny: Path, machine: Machine) -> None:
    (row,) = (one.row for one in measure([tiny], None, machine))
    assert (row["prompt"], row["chat_template"], row["system"]) == ("continuation", False, None)
    assert (row["file"], row["file_sha256"], row["items"], row["left_out"], row["complete"]) == (
        "exam.jsonl", "11", 2, 1, True,
    )  # fmt: skip


def test_what_is_known_is_taken_over_and_the_rest_measured(tiny: Path, other: Path, machine: Machine) -> None:
    known = measure([other], tiny, machine)
    again = measure([other], tiny, machine, known)
    assert [one.fresh for one in again] == [False, False]
    partly = measure([other], tiny, machine, known[:1])
    assert [one.fresh for one in partly] == [False, True]
    assert partly[1].row["delta_nats"] == pytest.approx(known[1].row["delta_nats"], abs=1e-5)


def test_a_record_against_another_base_is_not_taken_over(tiny: Path, other: Path, machine: Machine) -> None:
    alone = measure([other], None, machine)
    assert [one.fresh for one in measure([other], tiny, machine, alone)] == [True, True]


def test_a_record_against_another_base_of_the_same_name_is_not_taken_over(
    tiny: Path, other: Path, tmp_path: Path, machine: Machine
) -> None:
    namesake = tiny_model(tmp_path / tiny.name, kind="Q8_0", seed=3)
    known = measure([other], namesake, machine)
    assert [one.fresh for one in measure([other], tiny, machine, known)] == [True, True]


def test_every_model_is_set_against_the_base_and_not_against_the_one_before(
    tiny: Path, other: Path, machine: Machine
) -> None:
    *_, last = measure([other, tiny], tiny, machine)
    assert (last.row["delta_nats"], last.row["agreement"]) == (0.0, 1.0)


def test_what_was_answered_before_an_interrupt_is_told(tiny: Path, machine: Machine) -> None:
    def stop(_steps: int) -> None:
        raise KeyboardInterrupt

    found = []
    with pytest.raises(KeyboardInterrupt):
        for one in measure_tasks(EXAM, [tiny], None, CONFIG, machine, watch=stop):
            found.append(one.row)
    assert [(row["items"], row["complete"]) for row in found] == [(1, False)]


def test_what_was_stopped_is_measured_again(tiny: Path, machine: Machine) -> None:
    (known,) = measure([tiny], None, machine)
    stopped = Measured({**known.row, "complete": False}, True)
    assert [one.fresh for one in measure([tiny], None, machine, [stopped])] == [True]


def test_a_base_of_another_vocabulary_is_refused(tiny: Path, tmp_path: Path, machine: Machine) -> None:
    stranger = tiny_model(tmp_path / "other.gguf", kind="Q8_0", pieces=("mar",))
    with pytest.raises(NotComparable, match="its vocabulary is not that of"):
        measure([stranger], tiny, machine)


def test_progress_is_counted_in_questions(tiny: Path, machine: Machine) -> None:
    seen: list[int] = []
    list(measure_tasks(EXAM, [tiny], None, CONFIG, machine, watch=seen.append))
    assert sum(seen) == steps(EXAM, [tiny], None) == 3
