"""A user's questions: the forms they are read in, and the line that says which is none."""

import json
from pathlib import Path
from typing import Any

import pytest

from amalia_bench import questions
from amalia_bench.questions import Question, read_questions
from amalia_edge.errors import UsageError

CHOICE = {"question": "Quanto é dois mais dois?", "choices": ["três", "quatro"], "answer": 1}
CLOZE = {"sentence": "Pôs a chave na", "last_word": "porta."}


def written(folder: Path, *items: Any) -> Path:
    """Write JSON lines; a text is written as it is."""
    path = folder / "own.jsonl"
    path.write_text("\n".join(item if isinstance(item, str) else json.dumps(item) for item in items), "utf-8")
    return path


def read(folder: Path, *items: Any) -> tuple[Question, ...]:
    return read_questions(written(folder, *items)).items


def test_a_choice_is_a_prompt_its_options_and_the_right_one(tmp_path: Path) -> None:
    expected = Question("own.jsonl:1", "Quanto é dois mais dois?", ("três", "quatro"), 1)
    assert read(tmp_path, CHOICE) == (expected,)


def test_a_cloze_is_a_sentence_and_its_last_word(tmp_path: Path) -> None:
    assert read(tmp_path, CLOZE) == (Question("own.jsonl:1", "Pôs a chave na", ("porta.",), 0),)


@pytest.mark.parametrize(
    "change",
    [
        {"answer": "B"},
        {"answer": 1, "id": 7, "year": 2006, "is_completion": False},
        {"choices": {"A": "três", "B": "quatro"}, "answer": "B"},
        {"choices": {"a)": "três", "b)": "quatro"}, "answer": "b)"},
        {"choices": {"text": ["três", "quatro"], "label": ["1", "2"]}, "answer": "2"},
        {"question": "\nQuanto é dois mais dois? "},
    ],
)
def test_the_usual_ways_to_write_a_choice_are_one(change: dict[str, Any], tmp_path: Path) -> None:
    assert read(tmp_path, CHOICE | change) == read(tmp_path, CHOICE)


@pytest.mark.parametrize("names", [("options", "label"), ("choices", "answerKey"), ("options", "answer")])
def test_the_usual_names_of_options_and_answer_are_read(names: tuple[str, str], tmp_path: Path) -> None:
    item = {"question": CHOICE["question"], names[0]: CHOICE["choices"], names[1]: 1}
    assert read(tmp_path, item) == read(tmp_path, CHOICE)


def test_a_context_stands_before_the_question(tmp_path: Path) -> None:
    assert read(tmp_path, CHOICE | {"context": "Contas."})[0].prompt == "Contas.\n\nQuanto é dois mais dois?"


def test_an_array_is_read_like_lines(tmp_path: Path) -> None:
    (tmp_path / "exam.json").write_text(json.dumps([CHOICE, CHOICE], indent=2), "utf-8")
    found = read_questions(tmp_path / "exam.json")
    assert [item.where for item in found.items] == ["exam.json: item 1", "exam.json: item 2"]


def test_blank_lines_are_passed_over_and_counted(tmp_path: Path) -> None:
    assert [item.where for item in read(tmp_path, CLOZE, "", "  ", CLOZE)] == ["own.jsonl:1", "own.jsonl:4"]


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text(json.dumps(CHOICE), "utf-8-sig")
    assert len(read_questions(tmp_path / "own.jsonl").items) == 1


def test_a_line_separator_within_a_text_ends_no_line(tmp_path: Path) -> None:
    assert len(read(tmp_path, '{"sentence": "Uma linha\u2028e outra", "last_word": "linha"}')) == 1


def test_chance_is_one_of_each_questions_options(tmp_path: Path) -> None:
    four = CHOICE | {"choices": ["um", "dois", "três", "quatro"]}
    assert read_questions(written(tmp_path, CHOICE, four)).chance == (1 / 2 + 1 / 4) / 2


def test_words_are_bare_of_case_and_punctuation() -> None:
    assert questions.words("«Disse-lhe: É Amanhã!»") == ["disse-lhe", "é", "amanhã"]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("{", "own.jsonl:2: no JSON: .* at column 2; one object on each line"),
        ("[" * 100_000, "own.jsonl:2: nested too deep"),
        ("7", "own.jsonl:2: not a JSON object"),
        ({}, "own.jsonl:2: the keys are none"),
        ({"prompt": "?", "answer": 1}, "own.jsonl:2: the keys are prompt, answer; give question"),
        (CHOICE | CLOZE, "own.jsonl:2: the keys are question, choices, answer, sentence"),
        (CLOZE, "own.jsonl:2: a cloze among items of the other kind"),
        (CHOICE | {"question": " "}, "own.jsonl:2: no text in 'question'"),
        (CHOICE | {"context": 7}, "own.jsonl:2: no text in 'context'"),
        (CHOICE | {"options": ["a", "b"]}, "own.jsonl:2: choices and options of choices, options; give one"),
        ({"question": "?", "choices": ["a", "b"]}, "own.jsonl:2: none of answer, label, answerKey"),
        (CHOICE | {"choices": ["só"]}, "own.jsonl:2: the options are not texts; give 2 to 26"),
        (CHOICE | {"choices": ["um", ""]}, "own.jsonl:2: the options are not texts"),
        (CHOICE | {"choices": "um, dois"}, "own.jsonl:2: the options are not texts"),
        (CHOICE | {"choices": ["x"] * 27}, "own.jsonl:2: the options are not texts"),
        (
            CHOICE | {"choices": {"text": ["a", "b"], "label": ["1", "1"]}},
            "own.jsonl:2: the options' labels are not one",
        ),
        (
            CHOICE | {"answer": 2},
            "own.jsonl:2: the answer is 2, of 2 options; give an index from 0 to 1, or one of A, B",
        ),
        (CHOICE | {"answer": -1}, "own.jsonl:2: the answer is -1"),
        (CHOICE | {"answer": True}, "own.jsonl:2: the answer is true"),
        (CHOICE | {"answer": "C"}, 'own.jsonl:2: the answer is "C"'),
        (CHOICE | {"answer": "1"}, 'own.jsonl:2: the answer is "1"'),
        (CHOICE | {"answer": None}, "own.jsonl:2: the answer is null"),
    ],
)
def test_what_is_no_question_is_named_by_its_line(item: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message.replace("[", r"\[")):
        read(tmp_path, CHOICE, item)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"last_word": "…"}, "own.jsonl:1: last_word is '…'; give a word"),
        ({"last_word": None}, "own.jsonl:1: no text in 'last_word'"),
        ({"sentence": "Pôs a chave na porta"}, r"own.jsonl:1: the sentence ends in 'porta\.' already"),
    ],
)
def test_a_cloze_without_a_word_to_find_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        read(tmp_path, CLOZE | change)


def test_a_file_without_questions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"own\.jsonl: no question in it"):
        read(tmp_path, "", " ")


def test_bytes_that_are_no_text_are_named_by_their_line(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_bytes(json.dumps(CHOICE).encode() + b"\n\xff")
    with pytest.raises(UsageError, match=r"own\.jsonl:2: not UTF-8"):
        read_questions(tmp_path / "own.jsonl")


def test_a_folder_holds_no_questions(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a file; give a file of JSON lines"):
        read_questions(tmp_path)


def test_a_file_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "MOST", 10)
    with pytest.raises(UsageError, match="more than 0 MiB"):
        read(tmp_path, CHOICE)


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_questions(tmp_path / "gone.jsonl")
