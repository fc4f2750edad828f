"""A user's file of questions: multiple choice as in the PHEB exams, last words as in CALAME-PT.

One JSON object on each line, or one array of them. A choice has `question`, `choices` or `options` (texts, or texts by
their letters, or `{"text": […], "label": […]}`) and `answer`, `label` or `answerKey` (an index from 0, a letter, or one
of the labels given); `context`, if there, stands before the question. A cloze has `sentence` and `last_word`. Other keys
are passed over.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from amalia_edge.errors import UsageError

MOST = 64 << 20  # bytes
OPTIONS, ANSWERS = ("choices", "options"), ("answer", "label", "answerKey")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
WORDS = re.compile(r"\w+(?:[-'’]\w+)*")


@dataclass(frozen=True)
class Question:
    """Something to complete, and the texts it may be completed with, of which one is right."""

    where: str  # file and line, for whoever must look at it
    prompt: str
    options: tuple[str, ...]
    answer: int  # index of the right one


@dataclass(frozen=True)
class Questions:
    """What a file asks, all of one kind; a cloze has one option, its last word."""

    file: str
    sha256: str
    kind: Literal["choice", "cloze"]
    items: tuple[Question, ...]

    @property
    def chance(self) -> float | None:
        """Give the share right of somebody who guesses; None where there is nothing to guess among."""
        return None if self.kind == "cloze" else sum(1 / len(item.options) for item in self.items) / len(self.items)


def read_questions(path: Path) -> Questions:
    """Read a file of questions, or say in which line it is none."""
    content = _content(path)
    kind: Literal["choice", "cloze"] | None = None
    items = []
    for where, found in _objects(path.name, content):
        its_kind = _kind(found, where)
        if kind not in (None, its_kind):
            raise UsageError(
                where, f"a {its_kind} among items of the other kind", "give each kind in a file of its own"
            )
        kind = its_kind
        items.append(_choice(found, where) if kind == "choice" else _cloze(found, where))
    if kind is None:
        raise UsageError(path.name, "no question in it", "give JSON lines: see amalia bench tasks --help")
    return Questions(path.name, hashlib.sha256(content).hexdigest(), kind, tuple(items))


def words(text: str) -> list[str]:
    """Give a text's words, bare of case and punctuation."""
    return [word.casefold() for word in WORDS.findall(text)]


def _content(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise UsageError(path.name, "not a file", "give a file of JSON lines")
    try:
        with path.open("rb") as file:
            content = file.read(MOST + 1)
    except OSError as problem:
        raise UsageError(path.name, problem.strerror or "unreadable", "give a file of JSON lines") from None
    if len(content) > MOST:
        raise UsageError(path.name, f"more than {MOST >> 20} MiB", "give a part of it")
    return content


def _objects(name: str, content: bytes) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Give each object and where it stands: a line, or a place in the array."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        before = content.count(b"\n", 0, problem.start)
        raise UsageError(f"{name}:{before + 1}", "not UTF-8", "save it as UTF-8") from None
    if text.lstrip().startswith("["):
        for item, found in enumerate(_json(text, name, 0), 1):
            yield _object(found, f"{name}: item {item}")
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _object(_json(line, name, number), f"{name}:{number}")


def _json(text: str, name: str, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as problem:
        where = f"{name}:{line or problem.lineno}"
        raise UsageError(
            where, f"no JSON: {problem.msg} at column {problem.colno}", "one object on each line"
        ) from None
    except (RecursionError, ValueError):
        raise UsageError(
            f"{name}:{line or 1}", "nested too deep, or a number too long", "one object on each line"
        ) from None


def _object(found: Any, where: str) -> tuple[str, Mapping[str, Any]]:
    if not isinstance(found, dict):
        raise UsageError(where, "not a JSON object", 'write {"question": …, "choices": […], "answer": 0}')
    return where, found


def _kind(found: Mapping[str, Any], where: str) -> Literal["choice", "cloze"]:
    if ("question" in found) == ("sentence" in found):
        keys = ", ".join(list(found)[:6]) or "none"
        raise UsageError(where, f"the keys are {keys}", "give question, choices and answer; or sentence and last_word")
    return "choice" if "question" in found else "cloze"


def _choice(found: Mapping[str, Any], where: str) -> Question:
    prompt = _text(found, "question", where)
    if "context" in found:
        prompt = f"{_text(found, 'context', where)}\n\n{prompt}"
    labels, options = _options(found[_only(found, OPTIONS, where)], where)
    answer = found[_only(found, ANSWERS, where)]
    return Question(where, prompt, options, _index(answer, labels, where))


def _cloze(found: Mapping[str, Any], where: str) -> Question:
    sentence, last = _text(found, "sentence", where), _text(found, "last_word", where)
    wanted = words(last)
    if not wanted:
        raise UsageError(where, f"last_word is {last!r}", "give a word")
    if words(sentence)[-len(wanted) :] == wanted:
        raise UsageError(where, f"the sentence ends in {last!r} already", "leave the last word out of it")
    return Question(where, sentence, (last,), 0)


def _text(found: Mapping[str, Any], key: str, where: str) -> str:
    value = found.get(key)
    if not isinstance(value, str) or not value.strip():
        raise UsageError(where, f"no text in {key!r}", f'write "{key}": "…"')
    return value.strip()


def _only(found: Mapping[str, Any], names: Sequence[str], where: str) -> str:
    there = [name for name in names if name in found]
    if len(there) != 1:
        raise UsageError(where, f"{' and '.join(there) or 'none'} of {', '.join(names)}", "give one of them")
    return there[0]


def _options(value: Any, where: str) -> tuple[Sequence[str], tuple[str, ...]]:
    """Give the options' labels and their texts."""
    labels: Any = LETTERS
    if isinstance(value, dict) and set(value) == {"text", "label"}:
        labels, value = value["label"], value["text"]
    elif isinstance(value, dict):
        labels, value = list(value), list(value.values())
    if not _are_texts(value) or not 2 <= len(value) <= len(LETTERS):
        raise UsageError(where, "the options are not texts", f"give 2 to {len(LETTERS)} of them, none empty")
    if labels is not LETTERS and (not _are_texts(labels) or len(set(labels)) != len(value)):
        raise UsageError(where, "the options' labels are not one for each", "give each option a label of its own")
    return labels[: len(value)], tuple(option.strip() for option in value)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(part, str) and part.strip() for part in value)


def _index(answer: Any, labels: Sequence[str], where: str) -> int:
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(labels):
        return answer
    if isinstance(answer, str) and answer.strip() and answer.strip() in list(labels):
        return list(labels).index(answer.strip())
    told = f"the answer is {json.dumps(answer, ensure_ascii=False)[:40]}, of {len(labels)} options"
    raise UsageError(where, told, f"give an index from 0 to {len(labels) - 1}, or one of {', '.join(labels)}")
