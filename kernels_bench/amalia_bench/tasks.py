"""What a model knows and what a quantization took of it: a user's questions, answered by likelihood.

Each option is read as what follows the question, from the first token in which options or question differ, so that the
figures are the log-odds of whole texts however the vocabulary cuts them. The headline takes the likeliest option; beside
it stands the likeliest **per byte** of the option, since a long one is less likely for its length alone. A cloze is
answered by what the model writes by itself, one greedy word. Bare text always: no chat template, no system prompt.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from amalia_bench.identity import Identity, identify
from amalia_bench.intervals import block_bootstrap, paired, paired_shares, proportion
from amalia_bench.machine import Machine, loaded_library
from amalia_bench.margins import ContextReader, Reader, common, log_probability
from amalia_bench.quality import require_same_model
from amalia_bench.questions import LETTERS, WORDS, Question, Questions, words
from amalia_bench.records import Row, record
from amalia_edge.context import Context
from amalia_edge.errors import BenchError
from amalia_edge.model import LoadConfig, Model

PROMPTS = ("continuation", "letters")
MOST_WRITTEN = 24  # tokens of a greedy word: the longest in a dictionary, letter by letter
GLUED = "«(“‘[-"  # what a word follows without a space
DIGITS = 6  # of a log-likelihood in a record


@dataclass(frozen=True)
class TasksConfig:
    """How questions are put."""

    prompt: str = "continuation"  # an option follows the question; or a letter follows question and lettered options
    context: int = 4096  # tokens; a question that needs more is left out
    batch: int = 128  # tokens, whose logits are held at once: 65 MB at 128,000 of them
    threads: int | None = None
    gpu_layers: int = LoadConfig.gpu_layers


class Answer(NamedTuple):
    """How a question was answered."""

    right: bool
    right_per_byte: bool
    nats: float  # log-likelihood of the right option


class Measured(NamedTuple):
    row: Row
    fresh: bool  # not from a file of records


class Words(Protocol):
    """What of a vocabulary is needed to read what a model writes."""

    def bytes_of(self, token: int) -> bytes: ...
    def ends(self, token: int) -> bool: ...


@dataclass(frozen=True)
class Spelt:
    """A question in ids: what is read of it alone, then each option to its end; what is scored begins at `first`."""

    opening: list[int]
    options: tuple[list[int], ...]
    first: int

    @property
    def length(self) -> int:
        return max(len(self.opening) + MOST_WRITTEN, *map(len, self.options))


def spell(
    item: Question, kind: str, config: TasksConfig, encode: Callable[[str], list[int]], before: list[int]
) -> Spelt:
    """Put a question and its options into ids, after those that stand `before` every text."""
    prompt, follows = item.prompt, item.options
    if kind == "choice" and config.prompt == "letters":
        listed = "".join(f"\n{letter}) {option}" for letter, option in zip(LETTERS, item.options, strict=False))
        prompt, follows = f"{prompt}{listed}\nResposta:", tuple(LETTERS[: len(item.options)])
    between = "" if prompt[-1] in GLUED else " "
    opening = [*before, *encode(prompt)]
    options = tuple([*before, *encode(f"{prompt}{between}{option}")] for option in follows)
    return Spelt(opening, options, max(1, min(common(opening, option) for option in options)))


class Asker:
    """Puts questions to a model; what two texts in a row begin with is read once."""

    def __init__(self, reader: Reader, vocabulary: Words) -> None:
        self._reader, self._vocabulary = reader, vocabulary
        self._held: list[int] = []

    def choose(self, item: Question, spelt: Spelt) -> Answer:
        """Answer by the likeliest option; of equals it is the first."""
        nats = np.array([self._nats(option, spelt.first, item) for option in spelt.options])
        per_byte = nats / [len(option.encode()) for option in item.options]
        right, right_per_byte = (int(scores.argmax()) == item.answer for scores in (nats, per_byte))
        return Answer(right, right_per_byte, float(nats[item.answer]))

    def complete(self, item: Question, spelt: Spelt) -> Answer:
        """Answer with the word the model writes by itself; case and punctuation do not count."""
        nats = self._nats(spelt.options[item.answer], spelt.first, item)
        wanted = words(item.options[item.answer])
        text = self._write(spelt.opening, lambda written: _has_words(written, len(wanted)))
        grown = item.prompt[-1].isalnum() and text[:1].isalnum()  # the sentence's own last word went on
        right = not grown and words(text)[: len(wanted)] == wanted
        return Answer(right, right, nats)

    def _nats(self, ids: Sequence[int], first: int, item: Question) -> float:
        """Give the log-likelihood of the ids from place `first` on, by all that stand before."""
        self._read(ids, first - 1)
        rows = self._reader.tell(ids[first - 1 : -1], first - 1)
        nats = sum(log_probability(row, token) for row, token in zip(rows, ids[first:], strict=True))
        self._held = list(ids[:-1])
        if not np.isfinite(nats):
            raise BenchError(item.where, "the model's logits are no numbers", "convert the model again")
        return nats

    def _write(self, ids: Sequence[int], enough: Callable[[str], bool]) -> str:
        """Go on from ids greedily until the text is enough."""
        self._read(ids, len(ids) - 1)
        written, text, token = [*ids], b"", ids[-1]
        while len(written) < len(ids) + MOST_WRITTEN and not enough(text.decode("utf-8", "ignore")):
            for row in self._reader.tell([token], len(written) - 1):
                token = int(row.argmax())
            self._held = [*written]
            if self._vocabulary.ends(token):
                break
            written.append(token)
            text += self._vocabulary.bytes_of(token)
        return text.decode("utf-8", "ignore")

    def _read(self, ids: Sequence[int], count: int) -> None:
        """Have the first `count` ids in memory, and nothing else."""
        keep = min(common(self._held, ids), count)
        if keep < len(self._held) and not self._reader.truncate(keep):
            self._reader.truncate(0)
            keep = 0
        self._held = []  # until it is read
        self._reader.read(ids[keep:count], keep)


def _has_words(text: str, count: int) -> bool:
    """Say whether a text has so many words, none of which may still grow."""
    found = list(WORDS.finditer(text))
    rest = text[found[count - 1].end() :] if len(found) >= count else ""
    return len(found) > count or rest not in ("", "-", "'", "’")


def ask(path: Path, questions: Questions, config: TasksConfig) -> Iterator[Answer | None]:
    """Put a file's questions to a model, one after the other; None for one that is too long for it."""
    load = LoadConfig(
        context=min(config.context, 512), batch=config.batch, micro_batch=config.batch,
        threads=config.threads, gpu_layers=config.gpu_layers,
    )  # fmt: skip
    with Model.open(path, load) as model:
        vocabulary = model.vocabulary
        before = [vocabulary.begin] if vocabulary.adds_begin else vocabulary.encode("\n")
        every = [spell(item, questions.kind, config, vocabulary.encode, before) for item in questions.items]
        most = min(config.context, model.header.trained_context or config.context)
        size = max((spelt.length for spelt in every if spelt.length <= most), default=1)
        context = Context(model.pointer, size, model.threads, model.config, every=True)
        try:
            asker = Asker(ContextReader(context, min(config.batch, size), vocabulary.size), vocabulary)
            answer = asker.choose if questions.kind == "choice" else asker.complete
            for item, spelt in zip(questions.items, every, strict=True):
                yield answer(item, spelt) if spelt.length <= most else None
        finally:
            context.close()


def summarise(
    questions: Questions, answers: Sequence[Answer | None], base: Sequence[Answer | None] | None
) -> dict[str, Any]:
    """Give the figures of the questions that were answered; beside the base's, of those that both answered."""
    others: Sequence[Answer | None] = answers if base is None else base
    both = [(one, other) for one, other in zip(answers, others, strict=False) if one is not None and other is not None]
    if not both:
        raise BenchError(questions.file, "every question is too long for the model", "give --context, or shorter ones")
    ours, theirs = (np.array(side, np.float64) for side in zip(*both, strict=True))  # (questions, 3)
    each, names = np.arange(len(both)), ("accuracy", "accuracy_per_byte", "nats")
    figures: dict[str, Any] = {"items": len(both), "left_out": len(answers) - len(both), "chance": questions.chance}
    for name, own, other in zip(names, ours.T, theirs.T, strict=True):
        if name == "accuracy_per_byte" and questions.kind == "cloze":
            continue
        found = block_bootstrap(own, each) if name == "nats" else proportion(own)
        figures |= {name: found.mean, f"{name}_ci95": found.bounds}
        suffix = name.removeprefix("accuracy")
        delta = f"delta_{suffix}".replace("__", "_").rstrip("_")
        figures |= {f"base_{name}": None, delta: None, f"{delta}_ci95": None}
        if base is not None:
            moved = paired(own, other, each) if name == "nats" else paired_shares(own, other)
            figures |= {f"base_{name}": float(other.mean()), delta: moved.mean, f"{delta}_ci95": moved.bounds}
    if base is not None:
        figures["agreement"] = float((ours[:, 0] == theirs[:, 0]).mean())
    return figures


def measure_tasks(
    questions: Questions,
    paths: Sequence[Path],
    base: Path | None,
    config: TasksConfig,
    machine: Machine,
    known: Sequence[Row] = (),
    watch: Callable[[int], None] = lambda steps: None,
) -> Iterator[Measured]:
    """Put questions to the base, if there is one, then to each model beside it; one row for each.

    Rows in `known` of the same file, base, questions and settings are taken over. Ctrl-C gives what was answered so far
    as a row that is not `complete`, and goes on its way.
    """
    identities = {path: identify(path) for path in paths}
    run = _Run(questions, config, machine, None if base is None else identify(base), watch)
    if base is not None and run.base is not None:
        for identity in identities.values():
            require_same_model(run.base, identity)
        yield from run.measure(base, run.base, known)
    for path, identity in identities.items():
        yield from run.measure(path, identity, known)


def steps(questions: Questions, paths: Sequence[Path], base: Path | None) -> int:
    return len(questions.items) * (len(paths) + (base is not None))


@dataclass
class _Run:
    """One measurement of several models, and what the base answered."""

    questions: Questions
    config: TasksConfig
    machine: Machine
    base: Identity | None
    watch: Callable[[int], None]
    base_answers: list[Answer | None] | None = field(default=None)

    def measure(self, path: Path, identity: Identity, known: Sequence[Row]) -> Iterator[Measured]:
        told = self._settings(identity)
        for row in known:
            if _is_same(row, identity, told):
                self.watch(len(self.questions.items))
                self._keep([None if one is None else _read(one) for one in row["answers"]])
                yield Measured(row, False)
                return
        answers: list[Answer | None] = []
        try:
            for answer in ask(path, self.questions, self.config):
                answers.append(answer)
                self.watch(1)
        except KeyboardInterrupt:
            if any(answers) and (self.base_answers is not None or self.base is None):
                yield Measured(self._row(identity, told, answers), True)
            raise
        row = self._row(identity, told, answers)
        self._keep(answers)
        yield Measured(row, True)

    def _keep(self, answers: list[Answer | None]) -> None:
        if self.base is not None and self.base_answers is None:
            self.base_answers = answers

    def _settings(self, identity: Identity) -> dict[str, Any]:
        against = self.base if self.base_answers is not None else None
        return {
            "file": self.questions.file,
            "file_sha256": self.questions.sha256,
            "task": self.questions.kind,
            "prompt": self.config.prompt if self.questions.kind == "choice" else "continuation",
            "chat_template": False,
            "system": None,
            "context": self.config.context,
            "gpu_layers": self.config.gpu_layers,
            "against": None if against is None else against.level,
            "base": None
            if against is None
            else {"sha256": against.sha256, "file": against.file, "level": against.level},
        }

    def _row(self, identity: Identity, told: dict[str, Any], answers: list[Answer | None]) -> Row:
        spread = {
            "complete": len(answers) == len(self.questions.items),
            "answers": [
                None if one is None else [one.right, one.right_per_byte, round(one.nats, DIGITS)] for one in answers
            ],
        }
        body = {**told, **summarise(self.questions, answers, self.base_answers), **spread}
        return record("tasks", body, self.machine, loaded_library(), identity)


def _is_same(row: Row, identity: Identity, told: dict[str, Any]) -> bool:
    """Say whether a record is of this model, these questions and settings, and whole."""
    same = row["kind"] == "tasks" and row["model"]["sha256"] == identity.sha256
    return same and bool(row["complete"]) and all(row.get(key) == told[key] for key in told)


def _read(told: Sequence[Any]) -> Answer:
    return Answer(bool(told[0]), bool(told[1]), float(told[2]))
