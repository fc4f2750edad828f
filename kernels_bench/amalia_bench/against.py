"""Another program on the same model, in turn with ours: A B A B, and the ratio within each pair.

llama-bench is run once for each repetition and prints its JSON; it is set beside our bare decode, for it leaves sampling and
text out. llama-server and ollama are asked over HTTP and tell their own times; they are set beside our engine. llama-server is
started for the measurement and ended with it; an ollama that runs is asked for a model that it has.
"""

import contextlib
import http.client
import json
import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from amalia_bench.clock import Sample
from amalia_bench.speed import Case, Facts, Opener, SpeedConfig, Subject, Turn
from amalia_edge.errors import BenchError, UsageError

PROGRAMS = ("llama-bench", "llama-server", "ollama")
PATIENCE_S = 600.0  # for one answer
START_S = 120.0  # for a server to load its model
OLLAMA = "127.0.0.1:11434"


class Peer(Protocol):
    """A program that can run one case on the model it was opened with."""

    name: str  # with its version, as far as it tells

    def measure(self, case: Case) -> Sample: ...


@dataclass(frozen=True)
class Rival:
    """Which program to measure beside ours; `model` is what ollama calls the file."""

    program: str
    path: Path | None = None  # None: it is asked where it runs
    model: str = ""

    def open(self, path: Path, facts: Facts, config: SpeedConfig) -> AbstractContextManager[Peer]:
        if self.program == "ollama":
            return contextlib.nullcontext(Ollama(self.model, facts, config))
        assert self.path is not None
        if self.program == "llama-server":
            return open_server(self.path, path, facts, config)
        return contextlib.nullcontext(LlamaBench(self.path, path, facts, config))


def find_rival(wanted: str, model: str = "") -> Rival:
    """Find a program by its name on PATH, or by its path; any other program is run as if it were llama-bench."""
    name = Path(wanted).name
    program = next((known for known in PROGRAMS if known in name), "llama-bench")
    if program == "ollama":
        if not model:
            raise UsageError("--against ollama", "no model named", "give the name it has there: --against-model NAME")
        return Rival(program, None, model)
    found = shutil.which(str(Path(wanted).expanduser()))
    if found is None:
        raise UsageError(f"--against {wanted}", "found neither on PATH nor as a file", "give the program's path")
    return Rival(program, Path(found).absolute())


def beside(rival: Rival, opener: Opener) -> Opener:
    """Make an opener whose subjects measure the rival after each of our own repetitions."""

    @contextlib.contextmanager
    def open_both(path: Path, config: SpeedConfig) -> Iterator[Subject]:
        with opener(path, config) as ours, rival.open(path, ours.facts, config) as peer:
            for case in config.cases:
                check(rival, case)
            yield _Pair(ours, peer, rival.program)

    return open_both


def check(rival: Rival, case: Case) -> None:
    """Refuse what another program cannot measure by itself."""
    if rival.program != "llama-bench" and case.depth:
        raise UsageError(f"--against {rival.program}", "-d is llama-bench's alone", "leave -d out")


class _Pair:
    """Our subject and the peer, one after the other."""

    def __init__(self, ours: Subject, peer: Peer, program: str) -> None:
        self._ours, self._peer, self._program = ours, peer, program

    @property
    def facts(self) -> Facts:
        return replace(self._ours.facts, peer=self._peer.name, peer_program=self._program)

    def measure(self, case: Case) -> Turn:
        turn = self._ours.measure(case)
        return replace(turn, peer=self._peer.measure(case))


class LlamaBench:
    """llama-bench, or a program that takes its options and prints its JSON: one process for each repetition."""

    def __init__(self, program: Path, model: Path, facts: Facts, config: SpeedConfig) -> None:
        self._program, self._common = program, _options(model, facts, config)
        self.name = program.name

    def measure(self, case: Case) -> Sample:
        words = [str(self._program), *self._common, "-r", "1", "-o", "json", "-d", str(case.depth)]
        pair = ["-p", "0", "-n", "0", "-pg", f"{case.prompt},{case.generated}"]
        alone = ["-p", str(case.prompt), "-n", str(case.generated)]
        words += pair if case.prompt and case.generated else alone
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, env=_environment())
        except subprocess.TimeoutExpired:
            raise BenchError(self._program.name, f"silent for {PATIENCE_S:.0f} s", "measure fewer tokens") from None
        except OSError as problem:
            raise BenchError(str(self._program), problem.strerror or "cannot be run", "is it a program?") from None
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise BenchError(self._program.name, f"exit code {done.returncode}: {last}", "try it by itself")
        return self._read(done.stdout, case)

    def _read(self, text: str, case: Case) -> Sample:
        """Find the case's row; what is printed by a program is taken, never trusted."""
        wanted = {"n_prompt": case.prompt, "n_gen": case.generated, "n_depth": case.depth}
        try:
            rows = json.loads(text)
            row = next(row for row in rows if all(row.get(key, 0) == value for key, value in wanted.items()))
            ns = int(row["samples_ns"][0])
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, StopIteration):
            raise BenchError(self._program.name, f"printed no row of {case.name}", "is it llama-bench?") from None
        if ns <= 0:
            raise BenchError(self._program.name, f"took {ns} ns for {case.name}", "is it llama-bench?")
        self.name = f"{self._program.name} {row.get('build_commit', '')}".strip()
        return Sample(case.tokens, ns)


def _options(model: Path, facts: Facts, config: SpeedConfig) -> list[str]:
    """Say our settings in llama.cpp's words."""
    load = config.load
    flash = {"0": "off", "1": "on"}.get(load.flash_attention, load.flash_attention)
    options = {
        "-m": model, "-t": facts.threads, "-b": load.batch, "-ub": load.micro_batch, "-ctk": load.cache_keys,
        "-ctv": load.cache_values, "-fa": flash, "-ngl": load.gpu_layers if load.gpu_layers >= 0 else 999,
    }  # fmt: skip
    if not facts.on_gpu:
        options["-ngl"] = 0
    return [str(word) for pair in options.items() for word in pair]


def _environment() -> dict[str, str]:
    """Leave out what would set a peer otherwise than ours."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_ARG_")}


@contextlib.contextmanager
def open_server(program: Path, model: Path, facts: Facts, config: SpeedConfig) -> Iterator["LlamaServer"]:
    """Start llama-server on a free port of this machine, wait until it is ready, and end it with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [str(program), *_options(model, facts, config), "-c", str(config.context + 8), "-np", "1"]
    words += ["--host", "127.0.0.1", "--port", str(port)]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(words, stdin=quiet, stdout=quiet, stderr=quiet, env=_environment())
    try:
        server = LlamaServer(f"127.0.0.1:{port}", facts)
        _wait_until_ready(program.name, process, server)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(
    name: str, process: "subprocess.Popen[bytes]", server: "LlamaServer", pause: Callable[[float], None] = time.sleep
) -> None:
    end = time.monotonic() + START_S
    while not server.ready():
        if process.poll() is not None:
            raise BenchError(name, f"ended with exit code {process.returncode}", "try it by itself")
        if time.monotonic() > end:
            raise BenchError(name, f"not ready after {START_S:.0f} s", "try it by itself")
        pause(0.1)


class LlamaServer:
    """A llama-server that runs: prompts of ids, greedy, and its own times of each answer."""

    def __init__(self, address: str, facts: Facts, seed: int = 1) -> None:
        self.name, self._address, self._random = "llama-server", address, random.Random(seed)
        self._vocabulary = _vocabulary(facts)

    def ready(self) -> bool:
        try:
            return _request(self._address, "GET", "/health")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def measure(self, case: Case) -> Sample:
        ids = [self._random.randrange(self._vocabulary) for _ in range(case.prompt or 1)]
        asked = {
            "prompt": ids, "n_predict": case.generated or 1, "ignore_eos": True, "temperature": 0, "cache_prompt": False,
        }  # fmt: skip
        told = _ask(self.name, self._address, "/completion", asked)
        times = told.get("timings")
        times = times if isinstance(times, dict) else {}
        return _sample(self.name, case, {
            "read": (times.get("prompt_n"), _ns(times.get("prompt_ms"), 1e6)),
            "written": (times.get("predicted_n"), _ns(times.get("predicted_ms"), 1e6)),
        })  # fmt: skip


class Ollama:
    """An ollama that runs, and a model that it has: random words, greedy, and its own times of each answer."""

    def __init__(self, model: str, facts: Facts, config: SpeedConfig, address: str | None = None) -> None:
        self._address = address or _ollama_address()
        self._model, self._facts, self._config = model, facts, config
        self._random = random.Random(1)
        self.name = f"ollama {self._version()}".strip()

    def _version(self) -> str:
        try:
            told = json.loads(_request(self._address, "GET", "/api/version")[1])
            return str(told.get("version", "")) if isinstance(told, dict) else ""
        except (OSError, http.client.HTTPException, ValueError):
            raise BenchError("ollama", f"nobody answers at {self._address}", "start it: ollama serve") from None

    def measure(self, case: Case) -> Sample:
        words = " ".join(str(self._random.randrange(10)) for _ in range((case.prompt or 2) // 2))
        load = self._config.load
        options = {
            "num_predict": case.generated or 1, "temperature": 0, "num_thread": self._facts.threads,
            "num_ctx": self._config.context + 8, "num_batch": load.micro_batch,
        }  # fmt: skip
        asked = {"model": self._model, "prompt": words, "raw": True, "stream": False, "options": options}
        told = _ask("ollama", self._address, "/api/generate", asked)
        return _sample("ollama", case, {
            "read": (told.get("prompt_eval_count"), _ns(told.get("prompt_eval_duration"), 1)),
            "written": (told.get("eval_count"), _ns(told.get("eval_duration"), 1)),
        })  # fmt: skip


def _sample(name: str, case: Case, told: Mapping[str, tuple[Any, float]]) -> Sample:
    """Count what the case is about: tokens that were read, written, or both."""
    parts = [told["read"]] * bool(case.prompt) + [told["written"]] * bool(case.generated)
    tokens, ns = sum(count for count, _ in parts if isinstance(count, int)), sum(ns for _, ns in parts)
    if tokens <= 0 or not ns > 0:
        raise BenchError(name, f"told no times of {case.name}", "is it a version that tells them?")
    return Sample(tokens, round(ns))


def _ns(value: Any, factor: float) -> float:
    return value * factor if isinstance(value, (int, float)) else 0.0


def _vocabulary(facts: Facts) -> int:
    """Give how many ids there are: the rows of the embedding."""
    return next((one.shape[-1] for one in facts.header.tensors if one.name == "token_embd.weight"), 256)


def _ollama_address() -> str:
    told = os.environ.get("OLLAMA_HOST", "") or OLLAMA
    try:
        parts = urlsplit(told if "//" in told else f"//{told}")
        return f"{parts.hostname or '127.0.0.1'}:{parts.port or 11434}"
    except ValueError:  # a port that is no number, or brackets left open
        raise UsageError(f"OLLAMA_HOST={told[:60]}", "not an address", f"give one as in {OLLAMA}") from None


def _ask(name: str, address: str, path: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Post JSON and read JSON."""
    try:
        status, text = _request(address, "POST", path, json.dumps(content))
        told = json.loads(text)
    except (OSError, http.client.HTTPException, ValueError) as problem:
        raise BenchError(name, f"no answer at {address} ({type(problem).__name__})", "does it run?") from None
    if status != 200 or not isinstance(told, dict):
        found = str(told.get("error", "") if isinstance(told, dict) else told)[:200]
        raise BenchError(name, f"status {status}: {found}", "try it by itself")
    return told


def _request(address: str, method: str, path: str, content: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address, timeout=PATIENCE_S)
    try:
        connection.request(method, path, content, {"Content-Type": "application/json"} if content else {})
        answer = connection.getresponse()
        return answer.status, answer.read(1 << 24)
    finally:
        connection.close()
