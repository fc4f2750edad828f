"""Whether a quantization pulls a model towards Brazilian Portuguese: minimal pairs scored on a base and on its levels.

Categorical pairs and gradients are told apart: of the first, the Brazilian wording is wrong in Portugal, of the others
both are heard there. A level is set against the base pair by pair, and each pair is one block of the interval.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from amalia_bench import answers as answering
from amalia_bench.identity import Identity, identify
from amalia_bench.intervals import block_bootstrap, paired, paired_shares, proportion
from amalia_bench.machine import Machine, loaded_library
from amalia_bench.margins import PROMPTS, TURN, ContextReader, Margin, Scorer, spell_all
from amalia_bench.markers import count
from amalia_bench.notes import Notes
from amalia_bench.pairs import CLASSES, STRENGTHS, Pair, hash_of
from amalia_bench.records import Row, record
from amalia_edge.chat import default_system
from amalia_edge.context import Context
from amalia_edge.errors import BenchError, NotComparable, UsageError
from amalia_edge.gguf import read_header
from amalia_edge.model import LoadConfig, Model

ANSWER_STEPS = 20  # an answer takes about as long as so many pairs
DIGITS = 6  # of a margin in a record


@dataclass(frozen=True)
class VarietyConfig:
    """What to score, and how."""

    prompts: tuple[str, ...] = PROMPTS
    answers: int = 0  # questions answered under the default prompt
    limit: int = 160  # tokens of an answer
    context: int = 1024  # tokens that the longest pair or answer may need, with its prompt
    batch: int = 128  # tokens, whose logits are held at once: 65 MB at 128,000 of them
    threads: int | None = None
    gpu_layers: int = LoadConfig.gpu_layers

    def __post_init__(self) -> None:
        if self.answers < 0 or self.limit < 1:
            raise UsageError("--answers", f"{self.answers}", "give a number of answers, zero or more")
        if self.answers and "default" not in self.prompts:
            raise UsageError("--answers", "not with --prompt bare", "give --prompt default: a chat answers questions")


class Measured(NamedTuple):
    row: Row
    fresh: bool  # not from a file of records


def measure_variety(
    paths: Sequence[Path],
    pairs: Sequence[Pair],
    config: VarietyConfig,
    machine: Machine,
    known: Sequence[Row] = (),
    watch: Callable[[int], None] = lambda steps: None,
    notes: Path | None = None,
) -> Iterator[Measured]:
    """Score pairs on the first model, then on the others, each beside the first; one row for each model and prompt.

    Rows in `known` of the same file, base, pairs and settings are taken over. `watch` hears of `steps` in all. What of a
    row is known when it is stopped stays in the folder `notes`, and the next run goes on from there.
    """
    identities = [identify(path) for path in paths]
    questions = answering.read_questions() if config.answers else []
    if len(questions) < config.answers:
        raise UsageError("--answers", f"{config.answers}, and there are {len(questions)} questions", "ask for fewer")
    for other in identities[1:]:
        _comparable(identities[0], other, config.prompts)
    run = _Run(pairs, config, machine, identities[0], questions[: config.answers], watch, notes)
    for path, identity in zip(paths, identities, strict=True):
        yield from run.measure(path, identity, known)


def steps(paths: Sequence[Path], pairs: Sequence[Pair], config: VarietyConfig) -> int:
    return len(paths) * (len(config.prompts) * len(pairs) + ANSWER_STEPS * config.answers)


def summarise(pairs: Sequence[Pair], margins: Sequence[Margin], base: Sequence[Margin] | None) -> dict[str, Any]:
    """Give `classes` and `gradients`, figures by class, and `overall`: all categorical pairs."""
    strength, group = np.array([pair.strength for pair in pairs]), np.array([pair.group for pair in pairs])
    values, others = np.array(margins), None if base is None else np.array(base)  # (pairs, 2)

    def told(kind: str, name: str | None = None) -> dict[str, Any] | None:
        here = (strength == kind) & ((group == name) if name else True)
        return {"strength": kind, **_figures(values[here], None if others is None else others[here])} if here.any() else None  # fmt: skip

    by_class = {kind: {name: found for name in CLASSES if (found := told(kind, name))} for kind in STRENGTHS}
    return {"classes": by_class["categorical"], "overall": told("categorical"), "gradients": by_class["gradient"]}


def _figures(values: NDArray[np.float64], base: NDArray[np.float64] | None) -> dict[str, Any]:
    """Give a class's figures of margins (pairs, 2): in nats, and per byte."""
    each = np.arange(len(values))
    prefers = values > 0
    share, nats, per_byte = proportion(prefers[:, 0]), block_bootstrap(values[:, 0], each), block_bootstrap(values[:, 1], each)  # fmt: skip
    figures = {
        "pairs": len(values),
        "prefers_european": share.mean,
        "prefers_european_ci95": share.bounds,
        "prefers_european_per_byte": float(prefers[:, 1].mean()),
        "margin": nats.mean,
        "margin_ci95": nats.bounds,
        "margin_per_byte": per_byte.mean,
        "margin_per_byte_ci95": per_byte.bounds,
        **dict.fromkeys(("delta_margin", "delta_margin_ci95", "delta_prefers_european", "delta_prefers_european_ci95")),
    }
    if base is not None:
        moved, turned = paired(values[:, 0], base[:, 0], each), paired_shares(prefers[:, 0], base[:, 0] > 0)
        figures |= {"delta_margin": moved.mean, "delta_margin_ci95": moved.bounds}
        figures |= {"delta_prefers_european": turned.mean, "delta_prefers_european_ci95": turned.bounds}
    return figures


@dataclass
class _Run:
    """One measurement of several models, and what of the base the others are set against."""

    pairs: Sequence[Pair]
    config: VarietyConfig
    machine: Machine
    base: Identity
    questions: Sequence[answering.Question]
    watch: Callable[[int], None]
    notes: Path | None
    base_margins: dict[str, list[Margin]] = dataclasses.field(default_factory=dict)  # by prompt

    def measure(self, path: Path, identity: Identity, known: Sequence[Row]) -> Iterator[Measured]:
        todo = []
        for prompt in self.config.prompts:
            row = self._found(known, identity, self._settings(prompt, path, identity))
            if row is None:
                todo.append(prompt)
                continue
            self.watch(self._steps(prompt))
            self._keep(prompt, [Margin(*row["margins"][pair.id]) for pair in self.pairs])
            yield Measured(row, fresh=False)
        if not todo:
            return
        with Model.open(path, self._load(path)) as model:
            for prompt in todo:
                row = self._row(model, prompt, self._settings(prompt, path, identity), identity)
                yield Measured(row, fresh=True)

    def _row(self, model: Model, prompt: str, settings: Mapping[str, Any], identity: Identity) -> Row:
        notes = self._notes(settings, identity)
        margins = self._margins(model, prompt, notes)
        base = self.base_margins.get(prompt)
        self._keep(prompt, margins)
        body: dict[str, Any] = {**settings, **summarise(self.pairs, margins, base)}
        body["generated"] = self._generated(model, notes) if self._answers(prompt) else None
        body["base"] = None if settings["against"] is None else dataclasses.asdict(self.base)
        body["gradient_pairs"] = sorted(pair.id for pair in self.pairs if pair.strength == "gradient")
        body["margins"] = {
            pair.id: [round(value, DIGITS) for value in margin]
            for pair, margin in zip(self.pairs, margins, strict=True)
        }
        notes.forget()
        return record("variety", body, self.machine, loaded_library(), identity)

    def _notes(self, settings: Mapping[str, Any], identity: Identity) -> Notes:
        """Open the notes of a row, which are of these settings, this file and this library."""
        of = [settings, identity.sha256, dataclasses.asdict(loaded_library()), self.config.gpu_layers, self._asked()]
        key = hashlib.sha256(json.dumps(of).encode()).hexdigest()
        return Notes(self.notes / f"{key[:32]}.jsonl" if self.notes else None)

    def _margins(self, model: Model, prompt: str, notes: Notes) -> list[Margin]:
        spelt = spell_all(model, prompt, self.pairs)
        size, longest = self._load(model.header.path).context or 0, 0
        for pair, one in zip(self.pairs, spelt, strict=True):
            needed = max(len(one.european), len(one.brazilian))
            longest = max(longest, needed)
            if needed > size:
                raise BenchError(pair.id, f"{needed} tokens, and the context has {size}", "shorten the pair")
        config = dataclasses.replace(model.config, batch=self.config.batch, micro_batch=self.config.batch)
        context = Context(model.pointer, min(size, longest), model.threads, config, every=True)
        try:
            model.adapt(context.pointer)
            scorer = Scorer(ContextReader(context, min(self.config.batch, size), model.vocabulary.size))
            for pair, one in zip(self.pairs, spelt, strict=True):
                if pair.id not in notes:
                    notes[pair.id] = scorer.score(pair, one)
                self.watch(1)
            return [Margin(*notes[pair.id]) for pair in self.pairs]
        finally:
            context.close()

    def _generated(self, model: Model, notes: Notes) -> dict[str, Any]:
        names = [f"answer to {question.id}" for question in self.questions]
        for name, question in zip(names, self.questions, strict=True):
            if name not in notes:
                notes[name] = answering.answer(model, question, self.config.limit)
            self.watch(ANSWER_STEPS)
        return {**answering.count_answers([notes[name] for name in names], count), **self._asked()}

    def _asked(self) -> dict[str, Any]:
        return {"questions_sha256": answering.hash_of(self.questions), "sampling": "greedy", "limit": self.config.limit}

    def _settings(self, prompt: str, path: Path, identity: Identity) -> dict[str, Any]:
        default = prompt == "default"
        return {
            "prompt": prompt,
            "system": default_system(read_header(path)) if default else None,
            "turn": TURN if default else None,
            "pairs_sha256": hash_of(self.pairs),
            "against": None if identity is self.base else self.base.level,
        }

    def _found(self, known: Sequence[Row], identity: Identity, settings: Mapping[str, Any]) -> Row | None:
        """Give the last row that says what would be measured anew."""
        base = None if settings["against"] is None else self.base.sha256
        for row in reversed(known):
            generated = row.get("generated") or {}
            asked = self._asked() if self._answers(settings["prompt"]) else {}
            if (
                row["kind"] == "variety"
                and row.get("model", {}).get("sha256") == identity.sha256
                and (row.get("base") or {}).get("sha256") == base
                and all(row.get(key) == value for key, value in settings.items())
                and all(generated.get(key) == value for key, value in asked.items())
                and set(row.get("margins", ())) == {pair.id for pair in self.pairs}
            ):
                return row
        return None

    def _answers(self, prompt: str) -> bool:
        return bool(self.questions) and prompt == "default"

    def _steps(self, prompt: str) -> int:
        return len(self.pairs) + ANSWER_STEPS * len(self.questions) * self._answers(prompt)

    def _keep(self, prompt: str, margins: list[Margin]) -> None:
        self.base_margins.setdefault(prompt, margins)  # the base comes first

    def _load(self, path: Path) -> LoadConfig:
        longest = read_header(path).longest_context
        context = min(self.config.context, longest or self.config.context)
        return LoadConfig(context=context, threads=self.config.threads, gpu_layers=self.config.gpu_layers)


def _comparable(base: Identity, other: Identity, prompts: Sequence[str]) -> None:
    """Refuse two files that are no levels of one model."""
    same = {"vocabulary": base.vocabulary_sha256 == other.vocabulary_sha256}
    if "default" in prompts:
        same["chat template"] = base.template_sha256 == other.template_sha256
    for what, holds in same.items():
        if not holds:
            raise NotComparable(other.file, f"another {what} than {base.file}", "give levels of one model")
