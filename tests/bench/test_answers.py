"""Questions, and the markers counted in their answers."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from amalia_bench.answers import answer, count_answers, hash_of, read_questions
from amalia_edge.errors import BenchError
from amalia_edge.model import LoadConfig, Model


class Found(NamedTuple):
    text: str
    kind: str


def buses(text: str) -> list[Found]:
    return [Found(word, "lexicon") for word in text.split() if word.lower() == "ônibus"]


def test_markers_are_counted_per_thousand_words() -> None:
    told = count_answers(["O ônibus chegou cedo hoje.", "O autocarro chegou, disse-me ela."], buses)
    assert (told["words"], told["markers"], told["per_1000_words"]) == (10, 1, 100.0)


def test_markers_are_told_by_class_and_by_word() -> None:
    told = count_answers(["ônibus Ônibus"], buses)
    assert (told["by_class"], told["found"]) == ({"lexicon": 2}, {"ônibus": 2})


def test_the_interval_is_over_answers() -> None:
    spread = count_answers(["ônibus a b c"] * 20, buses)
    lumped = count_answers(["ônibus ônibus b c", "a b c d"] * 10, buses)
    assert spread["per_1000_words_ci95"] == [250.0, 250.0]
    low, high = lumped["per_1000_words_ci95"]
    assert low < 250 < high


def test_where_no_marker_was_found_there_may_still_be_some() -> None:
    assert count_answers(["a b c d"] * 250, buses)["per_1000_words_ci95"] == pytest.approx([0.0, 3.69], abs=0.01)


def test_answers_without_a_word_have_no_rate() -> None:
    assert count_answers(["", "…"], buses)["per_1000_words"] is None


def test_there_are_forty_questions_in_five_subjects() -> None:
    questions = read_questions()
    assert len(questions) >= 40
    assert {"museum", "school", "services", "cooking", "advice"} <= {question.subject for question in questions}


def test_no_question_comes_twice() -> None:
    questions = read_questions()
    assert len({question.text for question in questions}) == len(questions)


def test_the_first_questions_go_through_all_subjects() -> None:
    questions = read_questions()
    subjects = {question.subject for question in questions}
    assert Counter(question.subject for question in questions[: len(subjects)]) == dict.fromkeys(subjects, 1)


def test_other_questions_have_another_hash() -> None:
    questions = read_questions()
    assert hash_of(questions[:5]) != hash_of(questions[:6])


BAD = {
    "no questions in it": "",
    "question 1: not the keys": '[[question]]\nid = "a"\ntext = "Olá?"\n',
    "question 1: a key that is no text": '[[question]]\nid = "a"\nsubject = "x"\ntext = ""\n',
    "question 2: the id 'a' comes twice": '[[question]]\nid = "a"\nsubject = "x"\ntext = "Olá?"\n' * 2,
}


@pytest.mark.parametrize(("told", "text"), BAD.items(), ids=BAD)
def test_a_bad_file_is_named(tmp_path: Path, told: str, text: str) -> None:
    (tmp_path / "q.toml").write_text(text, "utf-8")
    with pytest.raises(BenchError, match=f"q.toml: {told}"):
        read_questions(tmp_path / "q.toml")


def test_an_answer_is_the_likeliest_and_no_longer_than_its_limit(tiny: Path) -> None:
    with Model.open(tiny, LoadConfig(threads=1, context=512)) as model:
        first, again = (answer(model, read_questions()[0], 12) for _ in range(2))
        assert first == again
        short = answer(model, read_questions()[0], 4)
    assert first.startswith(short.rstrip("\ufffd"))
    assert len(short) < len(first)
