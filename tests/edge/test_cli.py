"""The door: what a shell sees of each command, run as a person or a script runs it."""

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from models import tiny_model

AMALIA = [sys.executable, "-c", "from amalia_edge.cli.door import main; main()"]


def amalia(*words: str, stdin: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
    return subprocess.run(
        [*AMALIA, *words], capture_output=True, text=True, env={**os.environ, **environment}, **given  # type: ignore[call-overload]
    )  # fmt: skip


def failure(*words: str, **environment: str) -> tuple[int, str]:
    done = amalia(*words, **environment)
    assert done.stdout == "" and "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1
    return done.returncode, done.stderr


def test_the_door_lists_every_room() -> None:
    shown = amalia("--help").stdout
    assert all(f"  {name} " in shown for name in ("setup", "doctor", "convert", "run", "chat", "bench"))


@pytest.mark.parametrize("words", [(), ("run",), ("chat",), ("doctor",), ("convert",), ("bench",), ("setup",)])
def test_every_command_tells_its_version(words: tuple[str, ...]) -> None:
    done = amalia(*words, "--version")
    assert (done.returncode, bool(re.match(r"amalia, version \d+\.\d+", done.stdout))) == (0, True)


def test_run_prints_the_answer_and_nothing_else(tiny: Path) -> None:
    done = amalia("run", str(tiny), "olá", "-n", "8", "--temp", "0")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\n")


def test_json_does_not_change_the_answer(tiny: Path) -> None:
    words = ("run", str(tiny), "olá", "-n", "24", "--seed", "5")
    result = json.loads(amalia(*words, "--json").stdout)["result"]
    assert result["text"] == amalia(*words).stdout.removesuffix("\n")
    assert (result["seed"], result["usage"]["completion_tokens"] <= 24) == (5, True)


def test_what_is_piped_in_is_appended_to_the_text(tiny: Path) -> None:
    words = ("run", str(tiny), "--json", "-n", "1")
    both = json.loads(amalia(*words, "resume isto", stdin="um texto\n").stdout)["result"]["usage"]["prompt_tokens"]
    written = json.loads(amalia(*words, "resume isto\n\num texto").stdout)["result"]["usage"]["prompt_tokens"]
    assert both == written


def test_the_flags_and_variables_of_llama_cpp_work(tiny: Path) -> None:
    flags = ("-m", str(tiny), "-p", "olá", "-n", "2", "-c", "128", "-ngl", "0", "-t", "1", "-b", "64", "-ub", "32",
             "-ctk", "q8_0", "-ctv", "q8_0", "-fa", "on", "--temp", "0", "--seed", "1")  # fmt: skip
    assert amalia("run", *flags).returncode == 0
    limited = amalia("run", "olá", "--json", LLAMA_ARG_MODEL=str(tiny), LLAMA_ARG_N_PREDICT="3")
    assert json.loads(limited.stdout)["result"]["usage"]["completion_tokens"] <= 3


def test_raw_continues_without_a_template(tmp_path: Path) -> None:
    bare = str(tiny_model(tmp_path / "bare.gguf", template=None))
    raw = json.loads(amalia("run", bare, "era uma vez", "--raw", "-n", "4", "--json").stdout)["result"]
    assert raw["usage"]["prompt_tokens"] == 1 + len("era uma vez")  # BOS and a letter each


def test_only_a_model_of_ours_gets_the_default_system_prompt_and_an_empty_one_removes_it(tmp_path: Path) -> None:
    def prompt_tokens(name: str, *words: str) -> int:
        path = str(tiny_model(tmp_path / f"{name}.gguf", name=name))
        return int(
            json.loads(amalia("run", path, "x", "-n", "0", "--json", *words).stdout)["result"]["usage"]["prompt_tokens"]
        )

    assert prompt_tokens("fadinho") > prompt_tokens("Outro") + 50
    assert prompt_tokens("fadinho", "-sys", "é") < prompt_tokens("fadinho")
    assert prompt_tokens("fadinho", "-sys", "") == prompt_tokens("Outro")


def test_chat_answers_each_line_of_a_pipe(tiny: Path) -> None:
    done = amalia("chat", str(tiny), "-n", "4", "--json", stdin="olá\n/help\n/reset\n\nadeus\n/bye\nmais\n")
    messages = json.loads(done.stdout)["result"]["messages"]
    assert [message["content"] for message in messages if message["role"] == "user"] == ["adeus"]
    assert "/help" in done.stderr


def test_ctrl_c_stops_an_answer_first_and_the_program_second(tiny: Path) -> None:
    terminal, theirs = pty.openpty()
    words = [*AMALIA, "chat", str(tiny), "-c", "1024", "--temp", "0"]
    with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as child:
        os.close(theirs)
        read_until(terminal, r"> $")
        os.write(terminal, b"conta uma lenda\n")
        read_until(terminal, r"lenda\r\n.")  # the terminal's echo, and the answer has begun
        child.send_signal(signal.SIGINT)
        read_until(terminal, r"\n[^\n]*> $")
        for _ in range(60):  # readline does not hear one that comes while it is only about to listen
            child.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(1)
                break
        assert child.returncode == 130
    os.close(terminal)


def read_until(terminal: int, wanted: str, patience_s: float = 60) -> None:
    """Read a terminal until a pattern is found in what came since the call."""
    seen = ""
    while not re.search(wanted, seen, re.DOTALL):
        assert select.select([terminal], [], [], patience_s)[0], f"nothing more after {seen!r}"
        seen += os.read(terminal, 4096).decode("utf-8", "replace")


def test_a_missing_model_is_one_line_and_exit_code_three(tmp_path: Path) -> None:
    code, line = failure("run", str(tmp_path / "nada.gguf"), "olá")
    assert (code, "no such file" in line) == (3, True)


def test_a_model_cut_in_half_is_one_line_and_exit_code_three(tiny: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.gguf"
    half.write_bytes(tiny.read_bytes()[: tiny.stat().st_size // 2])
    code, line = failure("run", str(half), "olá")
    assert (code, "bytes too early" in line) == (3, True)


def test_a_prompt_too_long_is_exit_code_four_with_both_counts(tiny: Path) -> None:
    code, line = failure("run", str(tiny), "a" * 500, "-c", "100")
    assert (code, "100 of context" in line) == (4, True)


def test_a_text_that_is_not_utf8_is_one_line_and_exit_code_two(tiny: Path) -> None:
    for command in ("run", "chat"):
        done = subprocess.run([*AMALIA, command, str(tiny)], input="não".encode("latin1"), capture_output=True)
        assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)


def test_a_full_disk_behind_the_answer_is_one_line(tiny: Path) -> None:
    with Path("/dev/full").open("w") as full:
        words = [*AMALIA, "run", str(tiny), "olá", "-n", "4"]
        done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_a_name_too_long_to_be_a_file_is_one_line() -> None:
    assert failure("run", "a" * 300, "olá")[0] == 3


@pytest.mark.parametrize("words", [
    ("nada",), ("run", "--nada"), ("run", "x.gguf", "olá", "--temp", "quente"), ("run", "-m", "a.gguf", "b.gguf", "olá"),
    ("run", "a.gguf", "olá", "-p", "adeus"),
])  # fmt: skip
def test_a_wrong_command_line_is_exit_code_two(words: tuple[str, ...]) -> None:
    assert failure(*words)[0] == 2


def test_errors_are_json_when_json_is_asked_for() -> None:
    done = amalia("run", "nada.gguf", "olá", "--json")
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"], set(error)) == (3, "model-not-found", {"code", "where", "found", "advice"})
    assert json.loads(amalia("bench", "speed", "nada.gguf", "--json").stdout)["command"] == "bench speed"


def test_without_the_library_every_command_says_amalia_setup(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.metadata as m\nreal = m.version\n"
        "def version(name):\n    if name == 'llama-cpp-python': raise m.PackageNotFoundError(name)\n    return real(name)\n"
        "m.version = version\n"
    )
    hidden = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    code, line = failure("run", str(tiny), "olá", PYTHONPATH=hidden)
    assert (code, "amalia setup" in line) == (5, True)


def test_the_doctor_speaks_json_and_records(tmp_path: Path) -> None:
    told = json.loads(amalia("doctor", "--json").stdout)["result"]
    assert {"machine", "library", "self_test", "hazards"} <= set(told)
    assert amalia("doctor", "--record", str(tmp_path / "me.tar.gz")).returncode == 0
    assert (tmp_path / "me.tar.gz").stat().st_size > 100
