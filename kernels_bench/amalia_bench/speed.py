"""How fast a model reads and writes here: llama-bench's two tests, decode alone beside the engine that people use.

`pp512` reads a prompt of 512 random tokens, `tg128` writes 128 tokens. Each is measured twice in turn: as llama-bench
does, calls of llama_decode and nothing else; and through `amalia_edge.engine`, greedy sampling and text included.
Models take turns (A B A B), so that a machine that slows down slows all of them alike.
"""

import contextlib
import datetime
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from amalia_bench.clock import Sample, Timing
from amalia_bench.machine import Library
from amalia_edge.errors import UsageError
from amalia_edge.model import LoadConfig

MEMORY_PER_FILE_BYTE = 2.0  # with AMX or repacking the weights are copied beside the mapped file


@dataclass(frozen=True)
class Case:
    """One test: a prompt that is read, or tokens that are written."""

    prompt: int = 0
    generated: int = 0

    @property
    def name(self) -> str:
        return f"pp{self.prompt}" if self.prompt else f"tg{self.generated}"

    @property
    def tokens(self) -> int:
        return self.prompt or self.generated


@dataclass(frozen=True)
class SpeedConfig:
    """What to measure, and how often; 0 leaves a test out."""

    prompts: tuple[int, ...] = (512,)
    generations: tuple[int, ...] = (128,)
    repetitions: int = 5
    delay_s: float = 0.0  # rest before each measurement, so that a small machine cools
    load: LoadConfig = field(default_factory=LoadConfig)

    def __post_init__(self) -> None:
        if self.repetitions < 1:
            raise UsageError("repetitions", f"{self.repetitions}", "give a number above zero")
        if not 0 <= self.delay_s < 86_400:
            raise UsageError("delay", f"{self.delay_s}", "give seconds, zero or more")
        if any(count < 0 for count in (*self.prompts, *self.generations)):
            raise UsageError("-p, -n", "a count below zero", "give tokens, as in -p 512 -n 128")
        if not self.cases:
            raise UsageError("-p, -n", "nothing to measure", "give tokens, as in -p 512 -n 128")

    @property
    def cases(self) -> tuple[Case, ...]:
        read = [Case(prompt=count) for count in self.prompts if count]
        return (*read, *(Case(generated=count) for count in self.generations if count))

    @property
    def context(self) -> int:
        """Give the tokens the longest test holds, and one more, for the engine ends where its context does."""
        return max(case.tokens for case in self.cases) + 1


@dataclass(frozen=True)
class Facts:
    """What is known of a model once it is loaded and has run a first time."""

    path: Path
    description: str  # libllama's own: "llama 1B Q8_0"
    name: str
    level: str
    nbytes: int  # of the weights
    parameters: int
    threads: int
    batch: int
    load_s: float  # from the file to a context that is ready for its first token
    peak_rss: int  # bytes: Python, weights, cache and buffers of the engine
    library: Library


@dataclass(frozen=True)
class Turn:
    """One repetition of one test on one model."""

    decode: Sample
    engine: Sample
    first_token_ns: int


@dataclass(frozen=True)
class Measurement:
    """One test on one model, all repetitions."""

    facts: Facts
    case: Case
    decode: Timing
    engine: Timing
    first_token: Timing
    load: LoadConfig
    interleaved: bool
    started: str  # UTC


class Subject(Protocol):
    """A loaded model that can be measured."""

    facts: Facts

    def measure(self, case: Case) -> Turn: ...


Opener = Callable[[Path, SpeedConfig], AbstractContextManager[Subject]]


def measure_speed(
    paths: Sequence[Path],
    config: SpeedConfig,
    opener: Opener,
    available: int | None = None,
    watch: Callable[[], None] = lambda: None,
) -> Iterator[Measurement]:
    """Measure models in turns where `available` bytes hold them all, else one after the other.

    `watch` is called `steps(paths, config)` times: after each loading and after each measurement.
    """
    groups = [list(paths)] if fit_together(paths, available) else [[path] for path in paths]
    for group in groups:
        with contextlib.ExitStack() as stack:
            subjects = []
            for path in group:
                subjects.append(stack.enter_context(opener(path, config)))
                watch()
            yield from _in_turns(subjects, config, watch)


def steps(paths: Sequence[Path], config: SpeedConfig) -> int:
    return len(paths) * (1 + len(config.cases) * config.repetitions)


def fit_together(paths: Sequence[Path], available: int | None) -> bool:
    """Say whether all models may be in memory at once."""
    if len(paths) < 2 or not available:
        return True
    wanted = sum(path.stat().st_size for path in paths if path.is_file()) * MEMORY_PER_FILE_BYTE
    return wanted <= available


def _in_turns(subjects: list[Subject], config: SpeedConfig, watch: Callable[[], None]) -> Iterator[Measurement]:
    for case in config.cases:
        started = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        turns: list[list[Turn]] = [[] for _ in subjects]
        for _, (subject, taken) in itertools.product(
            range(config.repetitions), list(zip(subjects, turns, strict=True))
        ):
            if config.delay_s:
                time.sleep(config.delay_s)
            taken.append(subject.measure(case))
            watch()
        for subject, taken in zip(subjects, turns, strict=True):
            yield Measurement(
                facts=subject.facts,
                case=case,
                decode=Timing(tuple(turn.decode for turn in taken)),
                engine=Timing(tuple(turn.engine for turn in taken)),
                first_token=Timing(tuple(Sample(1, turn.first_token_ns) for turn in taken)),
                load=config.load,
                interleaved=len(subjects) > 1,
                started=started,
            )
