"""A model under measurement, in a process of its own.

So its peak memory is its own, a native abort ends one measurement and not the bench, and several models can take turns.
The child is asked for one case at a time over a pipe and answers with a `Turn`; None ends it.
"""

import contextlib
import ctypes
import dataclasses
import multiprocessing
import random
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from amalia_bench.clock import Sample, settle
from amalia_bench.machine import loaded_library, peak_memory
from amalia_bench.speed import Case, Facts, SpeedConfig, Turn
from amalia_edge import errors, native
from amalia_edge.context import Context
from amalia_edge.engine import Sequence
from amalia_edge.errors import AmaliaError, BenchError
from amalia_edge.model import Model
from amalia_edge.sampler import SamplingConfig

PATIENCE_S = 30.0  # for a child to end by itself


@dataclasses.dataclass(frozen=True)
class _Failure:
    """One of our errors on its way out of the child; exceptions with three arguments do not survive pickling."""

    kind: str
    where: str
    found: str
    advice: str

    def error(self) -> AmaliaError:
        kind: type[AmaliaError] = getattr(errors, self.kind)
        return kind(self.where, self.found, self.advice)


class RemoteSubject:
    """The parent's end."""

    def __init__(self, path: Path, process: Any, connection: "Connection[Any, Any]") -> None:
        self._path, self._process, self._connection = path, process, connection
        self.facts: Facts = self._answer()

    def measure(self, case: Case) -> Turn:
        with contextlib.suppress(BrokenPipeError):  # a child that is gone is named by what follows
            self._connection.send(case)
        turn: Turn = self._answer()
        return turn

    def _answer(self) -> Any:
        try:
            answer = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join(PATIENCE_S)
            raise BenchError(
                self._path.name, f"its process died of {_cause(self._process)}", "try: amalia doctor"
            ) from None
        if isinstance(answer, _Failure):
            raise answer.error()
        return answer


def _cause(process: Any) -> str:
    code = process.exitcode
    return signal.Signals(-code).name if isinstance(code, int) and code < 0 else f"an error (exit code {code})"


@contextlib.contextmanager
def open_remote(path: Path, config: SpeedConfig) -> Iterator[RemoteSubject]:
    """Load a model in a child process, run it once, and end the child with the block."""
    processes = multiprocessing.get_context("spawn")
    ours, theirs = processes.Pipe()
    process = processes.Process(target=serve, args=(theirs, path, config), daemon=True)
    process.start()
    theirs.close()  # so that the child's end is the only one, and its death is heard
    try:
        yield RemoteSubject(path, process, ours)
        with contextlib.suppress(BrokenPipeError):
            ours.send(None)
        process.join(PATIENCE_S)
    finally:
        ours.close()
        if process.is_alive():
            process.terminate()
        process.join()
        process.close()


def serve(connection: "Connection[Any, Any]", path: Path, config: SpeedConfig) -> None:
    """Be the child: open the model, then measure what the parent asks for, until it asks for None or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends us
    try:
        with contextlib.suppress(EOFError, BrokenPipeError), LocalSubject(path, config) as subject:
            connection.send(subject.facts)
            while (case := connection.recv()) is not None:
                connection.send(subject.measure(case))
    except AmaliaError as error:
        with contextlib.suppress(BrokenPipeError):
            connection.send(_Failure(type(error).__name__, error.where, error.found, error.advice))


def _warm_up(case: Case) -> Case:
    """Give what brings the same kernels and buffers into memory, in less time."""
    return dataclasses.replace(case, generated=min(case.generated, 2))


class LocalSubject:
    """A model in this process: an engine, and beside it a bare context for decode alone."""

    def __init__(self, path: Path, config: SpeedConfig, seed: int = 1) -> None:
        self._random = random.Random(seed)
        self._library = native.library()
        started = time.perf_counter()
        self._model = Model.open(path, dataclasses.replace(config.load, context=config.context))
        self._bare: Context | None = None
        try:
            self._engine = self._model.engine
            load_s = time.perf_counter() - started
            deepest = max(case.depth for case in config.cases)
            self._before = self._ids(deepest)  # what is read before a test at some depth: always the same
            for case in config.cases:
                self._generate(_warm_up(case))
            peak_rss = peak_memory()  # before the bare context, which no user of the engine has
            context = config.context - 1
            self._bare = Context(self._model.pointer, context, self._model.threads, config.load)
            self._room, self._filled = min(config.load.batch, context), 0
            for case in config.cases:
                self._decode(_warm_up(case))
        except BaseException:
            self.close()
            raise
        settle()
        self.facts = self._facts(path, load_s, peak_rss)

    def _facts(self, path: Path, load_s: float, peak_rss: int) -> Facts:
        description = ctypes.create_string_buffer(128)
        self._library.llama_model_desc(self._model.pointer, description, len(description))
        return Facts(
            path=path,
            description=description.value.decode("utf-8", "replace"),
            header=self._model.header,
            threads=self._model.threads,
            load_s=load_s,
            peak_rss=peak_rss,
            library=loaded_library(),
            on_gpu=self._model.config.gpu_layers != 0,
        )

    def measure(self, case: Case) -> Turn:
        """Run a case once by decode alone and once through the engine, each when the other's threads sleep."""
        decode = self._decode(case)
        settle()
        engine, first_token_ns = self._generate(case)
        settle()
        return Turn(decode, engine, first_token_ns)

    def _ids(self, count: int) -> list[int]:
        """Draw random tokens after the one that begins a text, as llama-bench does."""
        vocabulary = self._model.vocabulary
        ids = [self._random.randrange(vocabulary.size) for _ in range(count)]
        return [vocabulary.begin, *ids[1:]] if vocabulary.adds_begin and ids else ids

    def _decode(self, case: Case) -> Sample:
        """Time llama_decode and nothing else: the prompt in batches, then one random token after another."""
        assert self._bare is not None
        ids = self._ids(case.tokens)
        self._fill(case.depth)
        if not case.prompt:  # wakes the threads, a good part of a short test's time; in llama-bench they are awake
            self._bare.decode(ids[:1], case.depth)
            self._library.llama_synchronize(self._bare.pointer)
            self._fill(case.depth)
        started = time.perf_counter_ns()
        self._read(ids[: case.prompt], case.depth)
        for position, token in enumerate(ids[case.prompt :], case.depth + case.prompt):
            self._bare.decode([token], position)
            self._library.llama_synchronize(self._bare.pointer)  # a GPU answers before it is done
        self._library.llama_synchronize(self._bare.pointer)
        elapsed = time.perf_counter_ns() - started
        self._filled = case.depth
        return Sample(len(ids), elapsed)

    def _fill(self, depth: int) -> None:
        """Have `depth` tokens in the memory and none behind them; those that are there already stay, where they can."""
        assert self._bare is not None
        kept = min(self._filled, depth)
        if not self._bare.truncate(kept):  # recurrent models cannot forget a part
            self._bare.truncate(0)
            kept = 0
        self._read(self._before[kept:depth], kept)
        self._filled = depth

    def _read(self, ids: list[int], start: int) -> None:
        assert self._bare is not None
        for done in range(0, len(ids), self._room):
            self._bare.decode(ids[done : done + self._room], start + done)

    def _generate(self, case: Case) -> tuple[Sample, int]:
        """Time the engine as people use it, from the ids to the last piece of text, and its first token."""
        before = self._before[: case.depth]
        if before:  # the engine then finds them in its memory, as the conversation so far
            self._run(before, 1)
        ids = [*before, *self._ids(case.prompt or 1)]
        started = time.perf_counter_ns()
        sequence, first = self._run(ids, case.generated or 1)
        elapsed, first = time.perf_counter_ns() - started, first - started
        # The token a text begins with may still be in the cache from the run before: it was not read, and is not counted.
        read = len(ids) - sequence.reused if case.prompt else 0
        if sequence.reused < case.depth and not case.prompt:  # a model that cannot forget read all of them again
            return Sample(max(1, sequence.generated - 1), elapsed - first), first
        return Sample(read + (sequence.generated if case.generated else 0), elapsed), first

    def _run(self, ids: list[int], limit: int) -> tuple[Sequence, int]:
        """Have the engine answer to the end; give when its first piece came."""
        sequence = self._engine.submit(ids, SamplingConfig(temperature=0, limit=limit, ignore_end=True))
        first, text = 0, []
        for piece in self._engine.stream(sequence):
            first = first or time.perf_counter_ns()
            text.append(piece.text)
        return sequence, first

    def close(self) -> None:
        if self._bare is not None:
            self._bare.close()
            self._bare = None
        self._model.close()

    def __enter__(self) -> "LocalSubject":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
