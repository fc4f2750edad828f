"""Another program in turn with ours."""

import contextlib
import http.server
import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from amalia_bench.against import LlamaServer, Ollama, Rival, beside, find_rival, open_server
from amalia_bench.clock import Sample
from amalia_bench.speed import Case, SpeedConfig, Subject, Turn, measure_speed, trials
from amalia_edge.errors import BenchError, UsageError
from amalia_edge.load_config import LoadConfig

from .conftest import facts

FAKE = Path(__file__).with_name("fake_llama_bench.py")
CONFIG = SpeedConfig(prompts=(8,), generations=(4,), repetitions=2, load=LoadConfig(threads=1))


class Ours:
    """A subject of ours that takes 5 ms a case."""

    def __init__(self, path: Path) -> None:
        self.facts = facts(path)

    def measure(self, case: Case) -> Turn:
        sample = Sample(case.tokens, 5_000_000)
        return Turn(sample, sample, 1000)


@contextlib.contextmanager
def open_ours(path: Path, config: SpeedConfig) -> Iterator[Subject]:
    yield Ours(path)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program of that name, which runs the stand-in."""
    file = tmp_path / "llama-bench"
    file.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{FAKE}" "$@"\n')
    file.chmod(0o755)
    return file


def test_each_of_our_repetitions_has_one_of_theirs_beside_it(program: Path) -> None:
    wanted = trials([Path("m.gguf")], replace(CONFIG, depths=(0, 16)))
    measured = list(measure_speed(wanted, beside(find_rival(str(program)), open_ours)))
    assert [found.case.name for found in measured] == ["pp8", "tg4", "pp8 @ d16", "tg4 @ d16"]
    for found in measured:
        assert found.peer is not None
        assert found.decode.over(found.peer).values == pytest.approx((2, 2))


def test_their_build_is_named(program: Path) -> None:
    (found,) = measure_speed(
        trials([Path("m.gguf")], replace(CONFIG, generations=(0,))), beside(find_rival(str(program)), open_ours)
    )
    assert (found.facts.peer, found.facts.peer_program) == ("llama-bench 0c1e570", "llama-bench")


def test_a_prompt_and_an_answer_together_are_asked_for_as_one(program: Path) -> None:
    with beside(find_rival(str(program)), open_ours)(Path("m.gguf"), CONFIG) as both:
        assert both.measure(Case(8, 4)).peer == Sample(12, 10_000_000)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("broken.gguf", "exit code 1: error: failed to load model"),
        ("silent.gguf", "printed no row of tg4"),
        ("instant.gguf", "took 0 ns"),
    ],
)
def test_a_program_that_fails_is_named_with_what_it_said(program: Path, model: str, said: str) -> None:
    rival = find_rival(str(program))
    with pytest.raises(BenchError, match=said), beside(rival, open_ours)(Path(model), CONFIG) as both:
        both.measure(Case(generated=4))


def test_a_program_that_is_not_there_is_said() -> None:
    with pytest.raises(UsageError, match="neither on PATH nor as a file"):
        find_rival("llama-bench-of-nobody")


def test_a_program_on_path_is_found_by_its_name(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(program.parent))
    assert find_rival("llama-bench") == Rival("llama-bench", program)


def test_ollama_needs_the_name_it_gave_the_model() -> None:
    with pytest.raises(UsageError, match="--against-model"):
        find_rival("ollama")


def test_a_depth_is_llama_benchs_alone(tmp_path: Path) -> None:
    from amalia_bench.against import check

    with pytest.raises(UsageError, match="leave -d out"):
        check(Rival("llama-server", tmp_path), Case(generated=4, depth=16))


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers like llama-server and like ollama; notes what it was asked."""

    asked: list[dict[str, Any]]

    def do_GET(self) -> None:
        self._answer({"version": "0.9"} if "version" in self.path else {"status": "ok"})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(asked)
        if self.path == "/completion":
            count, limit = len(asked["prompt"]), asked["n_predict"]
            times = {"prompt_n": count, "prompt_ms": 2.0, "predicted_n": limit, "predicted_ms": 8.0}
            self._answer({"timings": times})
        elif asked["model"] == "unknown":
            self._answer({"error": "model 'unknown' not found"}, 404)
        elif asked["model"] == "timeless":
            self._answer({"response": "olá"})
        else:
            told = {"prompt_eval_count": 9, "prompt_eval_duration": 3_000_000, "eval_count": 4, "eval_duration": 5_000_000}  # fmt: skip
            self._answer(told)

    def _answer(self, content: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    Handler.asked = []
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_llama_servers_own_times_are_taken(address: str) -> None:
    server = LlamaServer(address, facts())
    assert server.ready()
    assert server.measure(Case(prompt=8)) == Sample(8, 2_000_000)
    assert server.measure(Case(generated=4)) == Sample(4, 8_000_000)
    assert server.measure(Case(8, 4)) == Sample(12, 10_000_000)


def test_llama_server_is_asked_as_our_engine_is(address: str) -> None:
    LlamaServer(address, facts()).measure(Case(8, 4))
    (asked,) = Handler.asked
    assert len(asked["prompt"]) == 8
    assert (asked["temperature"], asked["ignore_eos"], asked["cache_prompt"]) == (0, True, False)
    assert max(asked["prompt"]) < 50  # the rows of the embedding


def test_ollamas_own_times_are_taken(address: str) -> None:
    ollama = Ollama("amalia", facts(), CONFIG, address)
    assert ollama.name == "ollama 0.9"
    assert ollama.measure(Case(prompt=8)) == Sample(9, 3_000_000)
    assert ollama.measure(Case(generated=4)) == Sample(4, 5_000_000)
    assert [asked["raw"] for asked in Handler.asked] == [True, True]


@pytest.mark.parametrize(("model", "said"), [("unknown", "status 404: model 'unknown'"), ("timeless", "no times")])
def test_what_ollama_refuses_is_said(address: str, model: str, said: str) -> None:
    with pytest.raises(BenchError, match=said):
        Ollama(model, facts(), CONFIG, address).measure(Case(generated=4))


@pytest.mark.parametrize("told", ["localhost:eleven", "localhost:70000", "http://[::1"])
def test_an_ollama_whose_address_is_none_is_said(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", told)
    with pytest.raises(UsageError, match=r"OLLAMA_HOST=.*: not an address; give one as in 127\.0\.0\.1:11434"):
        Ollama("amalia", facts(), CONFIG)


def test_an_ollama_that_does_not_run_is_said() -> None:
    with pytest.raises(BenchError, match="ollama serve"):
        Ollama("amalia", facts(), CONFIG, "127.0.0.1:1")


def test_a_server_that_ends_at_once_is_said(tmp_path: Path) -> None:
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(BenchError, match="exit code 3"), open_server(program, Path("m.gguf"), facts(), CONFIG):
        pass
