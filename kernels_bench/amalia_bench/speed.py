"""How fast a model reads and writes here: llama-bench's tests, decode alone beside the engine that people use.

`pp512` reads a prompt of 512 random tokens, `tg128` writes 128, `pp512+tg128` does one after the other, `tg128 @ d4096`
writes after 4096 that were read before. Each is measured twice in turn: as llama-bench does, calls of llama_decode and
nothing else; and through `amalia_edge.engine`, greedy sampling and text included. Models and settings take turns
(A B A B), so that a machine that slows down slows all of them alike.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from amalia_bench.clock import Sample, Timing
from amalia_bench.machine import Library
from amalia_bench.records import now
from amalia_edge.device import usable_cores
from amalia_edge.errors import UsageError
from amalia_edge.gguf import Header
from amalia_edge.model import LoadConfig

MEMORY_PER_FILE_BYTE = 2.0  # with AMX or repacking the weights are copied beside the mapped file


@dataclass(frozen=True)
class Case:
    """One test: a prompt that is read, tokens that are written, or both; after `depth` tokens that do not count."""

    prompt: int = 0
    generated: int = 0
    depth: int = 0

    @property
    def name(self) -> str:
        parts = [f"pp{self.prompt}"] * bool(self.prompt) + [f"tg{self.generated}"] * bool(self.generated)
        return "+".join(parts) + (f" @ d{self.depth}" if self.depth else "")

    @property
    def tokens(self) -> int:
        return self.prompt + self.generated

    @property
    def middle(self) -> float:
        """Give how many tokens lie before the one in the middle of those generated."""
        return self.depth + self.prompt + self.generated / 2


@dataclass(frozen=True)
class SpeedConfig:
    """What to measure, and how often; 0 leaves a test out."""

    prompts: tuple[int, ...] = (512,)
    generations: tuple[int, ...] = (128,)
    pairs: tuple[tuple[int, int], ...] = ()  # (prompt, generated): one after the other
    depths: tuple[int, ...] = (0,)
    repetitions: int = 5
    delay_s: float = 0.0  # rest before each measurement, so that a small machine cools
    load: LoadConfig = field(default_factory=LoadConfig)

    def __post_init__(self) -> None:
        if self.repetitions < 1:
            raise UsageError("repetitions", f"{self.repetitions}", "give a number above zero")
        if not 0 <= self.delay_s < 86_400:
            raise UsageError("delay", f"{self.delay_s}", "give seconds, zero or more")
        counts = (*self.prompts, *self.generations, *self.depths, *itertools.chain(*self.pairs))
        if any(count < 0 for count in counts):
            raise UsageError("-p, -n, -pg, -d", "a count below zero", "give tokens, as in -p 512 -n 128")
        if not self.cases:
            raise UsageError("-p, -n", "nothing to measure", "give tokens, as in -p 512 -n 128")

    @property
    def cases(self) -> tuple[Case, ...]:
        """Give each test once, in llama-bench's order: depths outside, prompts, generations, pairs inside."""
        inner = [*((count, 0) for count in self.prompts), *((0, count) for count in self.generations), *self.pairs]
        every = (Case(prompt, generated, depth) for depth in self.depths for prompt, generated in inner)
        return tuple(dict.fromkeys(case for case in every if case.tokens))

    @property
    def context(self) -> int:
        """Give the tokens the longest test holds, and one more, for the engine ends where its context does."""
        return max(case.depth + case.tokens for case in self.cases) + 1


@dataclass(frozen=True)
class Facts:
    """What is known of a model once it is loaded and has run a first time."""

    path: Path
    description: str  # libllama's own: "llama 1B Q8_0"
    header: Header
    threads: int
    load_s: float  # from the file to a context that is ready for its first token
    peak_rss: int  # bytes: Python, weights, cache and buffers of the engine
    library: Library
    on_gpu: bool = False  # some of its layers are
    peer: str = ""  # the other program that was measured in turn, and its version
    peer_program: str = ""  # llama-bench, llama-server or ollama

    @property
    def name(self) -> str:
        return self.header.name

    @property
    def level(self) -> str:
        return self.header.level


@dataclass(frozen=True)
class Turn:
    """One repetition of one test on one model; `peer` is another program's, taken beside it."""

    decode: Sample
    engine: Sample
    first_token_ns: int
    peer: Sample | None = None


@dataclass(frozen=True)
class Weather:
    """What the machine went through while a test was run."""

    celsius: tuple[float, ...] = ()  # before the first repetition, and after each
    alarms: tuple[str, ...] = ()  # what throttled meanwhile, by the machine's own word
    read_gbps: float | None = None  # memory bandwidth with as many threads


@dataclass(frozen=True)
class Measurement:
    """One test on one model, all repetitions."""

    facts: Facts
    case: Case
    turns: tuple[Turn, ...]
    load: LoadConfig
    interleaved: bool
    started: str  # UTC
    weather: Weather = field(default_factory=Weather)

    @property
    def decode(self) -> Timing:
        return Timing(tuple(turn.decode for turn in self.turns))

    @property
    def engine(self) -> Timing:
        return Timing(tuple(turn.engine for turn in self.turns))

    @property
    def first_token(self) -> Timing:
        return Timing(tuple(Sample(1, turn.first_token_ns) for turn in self.turns))

    @property
    def peer(self) -> Timing | None:
        samples = tuple(turn.peer for turn in self.turns if turn.peer is not None)
        return Timing(samples) if samples else None


class Subject(Protocol):
    """A loaded model that can be measured."""

    @property
    def facts(self) -> Facts: ...
    def measure(self, case: Case) -> Turn: ...


class Thermometer(Protocol):
    """The machine's temperature, and what throttled since it was last asked."""

    def read(self) -> float | None: ...
    def throttles(self) -> tuple[str, ...]: ...


Opener = Callable[[Path, SpeedConfig], AbstractContextManager[Subject]]


@dataclass(frozen=True)
class Surroundings:
    """What of the machine a run looks at; nothing of it must be there."""

    available: int | None = None  # bytes of memory
    thermometer: Thermometer | None = None
    bandwidth: Callable[[int], float] | None = None  # threads → 10⁹ bytes/s


@dataclass(frozen=True)
class Trial:
    """One model with one way to load it, and what is to be measured of it."""

    path: Path
    config: SpeedConfig
    cases: tuple[Case, ...]

    @property
    def threads(self) -> int:
        return self.config.load.threads or usable_cores()

    @property
    def steps(self) -> int:
        return 1 + len(self.cases) * self.config.repetitions


def trials(paths: Sequence[Path], config: SpeedConfig, loads: Sequence[LoadConfig] = ()) -> list[Trial]:
    """Pair every model with every way to load it."""
    configs = [replace(config, load=load) for load in loads] or [config]
    return [Trial(path, one, one.cases) for path in paths for one in configs]


def combinations(load: LoadConfig, lists: dict[str, Sequence[object]]) -> list[LoadConfig]:
    """Give a LoadConfig for every combination of some settings' values, each once."""
    found = [replace(load, **dict(zip(lists, values, strict=True))) for values in itertools.product(*lists.values())]  # type: ignore[arg-type]
    return list(dict.fromkeys(found))


def measure_speed(
    wanted: Sequence[Trial],
    opener: Opener,
    surroundings: Surroundings | None = None,
    watch: Callable[[], None] = lambda: None,
) -> Iterator[Measurement]:
    """Measure trials in turns where memory holds them all, else one after the other.

    `watch` is called as often as the trials' `steps` say: after each loading and after each measurement.
    """
    surroundings = surroundings or Surroundings()
    groups = [list(wanted)] if fit_together(wanted, surroundings.available) else [[trial] for trial in wanted]
    for group in groups:
        # Before anything is loaded: giving so much memory back disturbs a machine for some seconds.
        bandwidths = _bandwidths(group, surroundings)
        with contextlib.ExitStack() as stack:
            subjects = []
            for trial in group:
                subjects.append((trial, stack.enter_context(opener(trial.path, trial.config))))
                watch()
            yield from _in_turns(subjects, surroundings.thermometer, bandwidths, watch)


def fit_together(wanted: Sequence[Trial], available: int | None) -> bool:
    """Say whether all models may be in memory at once."""
    if len(wanted) < 2 or not available:
        return True
    total = sum(trial.path.stat().st_size for trial in wanted if trial.path.is_file()) * MEMORY_PER_FILE_BYTE
    return total <= available


def _in_turns(
    subjects: list[tuple[Trial, Subject]],
    thermometer: Thermometer | None,
    bandwidths: Mapping[int, float],
    watch: Callable[[], None],
) -> Iterator[Measurement]:
    for case in dict.fromkeys(case for trial, _ in subjects for case in trial.cases):
        asked = [(trial, subject) for trial, subject in subjects if case in trial.cases]
        started, config = now(), asked[0][0].config
        turns: list[list[Turn]] = [[] for _ in asked]
        celsius, alarms = _look(thermometer)
        alarms = []  # of the time before
        for _, ((_, subject), taken) in itertools.product(
            range(config.repetitions), list(zip(asked, turns, strict=True))
        ):
            if config.delay_s:
                time.sleep(config.delay_s)
            taken.append(subject.measure(case))
            found, more = _look(thermometer)
            celsius, alarms = celsius + found, alarms + more
            watch()
        for (trial, subject), taken in zip(asked, turns, strict=True):
            yield Measurement(
                facts=subject.facts,
                case=case,
                turns=tuple(taken),
                load=trial.config.load,
                interleaved=len(asked) > 1,
                started=started,
                weather=Weather(tuple(celsius), tuple(dict.fromkeys(alarms)), bandwidths.get(trial.threads)),
            )


def _bandwidths(group: Sequence[Trial], surroundings: Surroundings) -> dict[int, float]:
    measure = surroundings.bandwidth
    return {count: measure(count) for count in {trial.threads for trial in group}} if measure else {}


def _look(thermometer: Thermometer | None) -> tuple[list[float], list[str]]:
    """Give the temperature, where it can be read, and what throttled since the last look."""
    if thermometer is None:
        return [], []
    celsius = thermometer.read()
    return [] if celsius is None else [celsius], list(thermometer.throttles())
