"""A model at work, in a process of its own: it reads prompts or writes answers until it is told to stop.

So the one that looks at the meters disturbs nothing, and outlives a native abort with what it measured. The child tells
the tokens done, at most a few times a second.
"""

import contextlib
import dataclasses
import multiprocessing
import random
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from amalia_bench.clock import settle
from amalia_bench.energy import EnergyConfig, Step
from amalia_bench.machine import Library, loaded_library
from amalia_bench.speed import Case
from amalia_edge import errors
from amalia_edge.errors import AmaliaError, BenchError
from amalia_edge.model import Model
from amalia_edge.sampler import SamplingConfig

TELL_S = 0.25  # between two steps that are told
PATIENCE_S = 30.0  # for a child to end by itself


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of a model once it is loaded."""

    threads: int
    library: Library


@dataclasses.dataclass(frozen=True)
class _Failure:
    """One of our errors on its way out of the child."""

    kind: str
    where: str
    found: str
    advice: str


class RemoteLoad:
    """The parent's end."""

    def __init__(self, path: Path, process: Any, connection: "Connection[Any, Any]") -> None:
        self._path, self._process, self._connection = path, process, connection
        self.facts: Facts = self._answer()

    def begin(self, case: Case) -> None:
        self._send(case)

    def wait(self, until_s: float) -> list[Step]:
        """Give the steps done since the last call; come back at a step, or at that time."""
        if not self._connection.poll(max(0.0, until_s - time.monotonic())):
            return []
        return [self._answer()]

    def end(self) -> None:
        """Stop the work; where the child is gone there is nothing to stop."""
        self._send(None)
        with contextlib.suppress(BenchError):
            while isinstance(self._answer(), Step):
                pass

    def _send(self, what: Case | None) -> None:
        with contextlib.suppress(BrokenPipeError):  # a child that is gone is named by what follows
            self._connection.send(what)

    def _answer(self) -> Any:
        try:
            answer = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join(PATIENCE_S)
            code = self._process.exitcode
            cause = signal.Signals(-code).name if isinstance(code, int) and code < 0 else f"an error (exit code {code})"
            raise BenchError(self._path.name, f"its process died of {cause}", "try: amalia doctor") from None
        if isinstance(answer, _Failure):
            kind: type[AmaliaError] = getattr(errors, answer.kind)
            raise kind(answer.where, answer.found, answer.advice)
        return answer


@contextlib.contextmanager
def open_load(path: Path, config: EnergyConfig) -> Iterator[RemoteLoad]:
    """Load a model in a child process, let it run once, and end the child with the block."""
    processes = multiprocessing.get_context("spawn")
    ours, theirs = processes.Pipe()
    process = processes.Process(target=serve, args=(theirs, path, config), daemon=True)
    process.start()
    theirs.close()  # so that the child's end is the only one, and its death is heard
    try:
        yield RemoteLoad(path, process, ours)
    finally:
        ours.close()
        if process.is_alive():
            process.terminate()
        process.join()
        process.close()


def serve(connection: "Connection[Any, Any]", path: Path, config: EnergyConfig) -> None:
    """Be the child: open the model, then work at what the parent asks for until it says None, or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends us
    try:
        load = dataclasses.replace(config.load, context=config.context)
        with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError), Model.open(path, load) as model:
            worker = Worker(model)
            for case in config.cases:
                next(iter(worker.steps(case)))  # the first is slower, and its memory is touched
            settle()
            connection.send(Facts(model.threads, loaded_library()))
            while True:
                case = connection.recv()
                if case is not None:  # None may come late: the work had ended by then
                    _tell(connection, worker.steps(case))
                connection.send(None)
    except AmaliaError as error:
        with contextlib.suppress(BrokenPipeError):
            connection.send(_Failure(type(error).__name__, error.where, error.found, error.advice))


def _tell(connection: "Connection[Any, Any]", steps: Iterator[int]) -> None:
    """Work on, telling the tokens done now and then, until the parent says anything."""
    told_s = 0.0
    with contextlib.closing(steps) as working:  # type: ignore[type-var]
        for tokens in working:
            now = time.monotonic()
            if now - told_s >= TELL_S:
                connection.send(Step(now, tokens))
                told_s = now
                if connection.poll():
                    connection.recv()
                    return


class Worker:
    """A model's engine, kept busy."""

    def __init__(self, model: Model, seed: int = 1) -> None:
        self._model, self._engine, self._random = model, model.engine, random.Random(seed)

    def steps(self, case: Case) -> Iterator[int]:
        """Work without end, giving the tokens done so far after each prompt, or each token written."""
        done = 0
        while True:
            sampling = SamplingConfig(temperature=0, limit=case.generated or 1, ignore_end=True)
            sequence = self._engine.submit(self._ids(case.prompt or 1), sampling)
            for _ in self._engine.stream(sequence):
                if case.generated:
                    done += 1
                    yield done
            if case.prompt:
                done += case.prompt - sequence.reused  # the token a text begins with was still in the cache
                yield done

    def _ids(self, count: int) -> list[int]:
        """Draw random tokens after the one that begins a text, as llama-bench does."""
        vocabulary = self._model.vocabulary
        ids = [self._random.randrange(vocabulary.size) for _ in range(count)]
        return [vocabulary.begin, *ids[1:]] if vocabulary.adds_begin else ids
