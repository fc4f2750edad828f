"""Answers to everyday questions, and the Brazilian markers in them, per thousand words."""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from amalia_bench.intervals import ratio_bootstrap
from amalia_bench.pairs import FOLDER, read_toml
from amalia_edge.chat import Message
from amalia_edge.errors import BenchError
from amalia_edge.model import Model
from amalia_edge.sampler import SamplingConfig

WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")  # disse-me is one
MOST_FOUND = 20  # markers named in a record
NONE_FOUND = -math.log(0.025)  # so many may be expected where none was found: then nothing can be resampled


@dataclass(frozen=True)
class Question:
    id: str
    subject: str  # museum, school, services …
    text: str


class Marker(Protocol):
    """A Brazilian word or form in a text."""

    @property
    def text(self) -> str: ...
    @property
    def kind(self) -> str: ...


Counting = Callable[[str], Sequence[Marker]]


def read_questions(path: Path | None = None) -> list[Question]:
    """Read the questions, in an order in which the first few already go through all subjects."""
    path = path or FOLDER / "questions.toml"
    listed = read_toml(path).get("question", [])
    if not isinstance(listed, list) or not listed:
        raise BenchError(path.name, "no questions in it", "begin each one with [[question]]")
    questions, ids = [], set()
    for place, told in enumerate(listed, 1):
        where = f"{path.name}: question {place}"
        if not isinstance(told, dict) or set(told) != {"id", "subject", "text"}:
            raise BenchError(where, "not the keys of a question", "give id, subject and text")
        if not all(isinstance(value, str) and value.strip() for value in told.values()):
            raise BenchError(where, "a key that is no text", "give id, subject and text as texts")
        if told["id"] in ids:
            raise BenchError(where, f"the id {told['id']!r} comes twice", "give each its own id")
        ids.add(told["id"])
        questions.append(Question(**told))
    return _in_turns(questions)


def hash_of(questions: Sequence[Question]) -> str:
    return hashlib.sha256(json.dumps([one.text for one in questions], ensure_ascii=False).encode()).hexdigest()


def answer(model: Model, question: Question, limit: int) -> str:
    """Give a model's likeliest answer under the product's default system prompt, cut after `limit` tokens."""
    message: Message = {"role": "user", "content": question.text}
    pieces = model.chat([message], SamplingConfig(temperature=0.0, limit=limit))
    return "".join(piece.text for piece in pieces)


def count_answers(answers: Sequence[str], count: Counting) -> dict[str, Any]:
    """Count the Brazilian markers in answers; the interval is over answers, whose words hang together."""
    words = [len(WORD.findall(text)) for text in answers]
    markers = [count(text) for text in answers]
    every = [marker for found in markers for marker in found]
    told: dict[str, Any] = {
        "answers": len(answers),
        "words": sum(words),
        "markers": len(every),
        "per_1000_words": None,  # where the model said nothing
        "per_1000_words_ci95": None,
        "by_class": dict(Counter(marker.kind for marker in every).most_common()),
        "found": dict(Counter(marker.text.lower() for marker in every).most_common(MOST_FOUND)),
    }
    if sum(words):
        each = np.arange(len(answers))
        rate = ratio_bootstrap(np.array([1000.0 * len(found) for found in markers]), np.array(words, float), each)
        bounds = rate.bounds if every else [0.0, 1000.0 * NONE_FOUND / sum(words)]
        told |= {"per_1000_words": rate.mean, "per_1000_words_ci95": bounds}
    return told


def _in_turns(questions: Sequence[Question]) -> list[Question]:
    """Take one of each subject, then another of each: any number of them from the front is a fair draw."""
    seen: Counter[str] = Counter()
    places = []
    for question in questions:
        places.append(seen[question.subject])
        seen[question.subject] += 1
    return [question for _, question in sorted(zip(places, questions, strict=True), key=lambda both: both[0])]
