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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import amalia_edge
from models import tiny_model

ALONE = {"LLAMA_ARG_THREADS": "1"}  # two threads wait for each other on a busy machine
AMALIA = [sys.executable, "-c", "from amalia_edge.cli.door import main; main()"]


def amalia(*words: str, stdin: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
    return subprocess.run(
        [*AMALIA, *words], capture_output=True, text=True, env={**os.environ, **ALONE, **environment}, **given  # type: ignore[call-overload]
    )  # fmt: skip


def failure(*words: str, **environment: str) -> tuple[int, str]:
    done = amalia(*words, **environment)
    assert done.stdout == "" and "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1
    return done.returncode, done.stderr


def test_the_door_lists_every_room() -> None:
    shown = amalia("--help").stdout
    assert all(f"  {name} " in shown for name in ("setup", "doctor", "convert", "run", "chat", "profiles", "bench"))


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


@contextlib.contextmanager
def at_a_terminal(home: Path, *words: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Run a command as a person would, with a home of its own; give the terminal and the process."""
    terminal, theirs = pty.openpty()
    environment = {**os.environ, **ALONE, "TERM": "xterm", "XDG_STATE_HOME": str(home)}
    with subprocess.Popen(
        [*AMALIA, *words], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, env=environment
    ) as child:
        os.close(theirs)
        try:
            yield terminal, child
        finally:
            child.kill()
            os.close(terminal)


def read_until(terminal: int, wanted: str, patience_s: float = 20) -> str:
    """Read a terminal until a pattern is found in what came since the call."""
    seen = ""
    while not re.search(wanted, seen, re.DOTALL):
        assert select.select([terminal], [], [], patience_s)[0], f"nothing more after {seen!r}"
        seen += os.read(terminal, 4096).decode("utf-8", "replace")
    return seen


PROMPT = r"\x1b\[\?2004h> $"
PASTE, ARROW_UP = b"\x1b[200~%s\x1b[201~\n", b"\x1b[A"


def test_ctrl_c_stops_an_answer_first_and_the_program_second(tiny: Path, tmp_path: Path) -> None:
    with at_a_terminal(tmp_path, "chat", str(tiny), "-c", "1024", "--temp", "0") as (terminal, child):
        read_until(terminal, PROMPT)
        os.write(terminal, b"conta uma lenda\n")
        read_until(terminal, r"lenda\r\n\x1b\S+\r.")  # the terminal's echo, and the answer has begun
        child.send_signal(signal.SIGINT)
        read_until(terminal, PROMPT)
        for _ in range(60):  # readline does not hear one that comes while it is only about to listen
            child.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(1)
                break
        assert child.returncode == 130


@dataclass
class Talk:
    """A talk at a terminal, as it was shown; what it saved, and where it keeps its history."""

    shown: dict[bytes, str]
    messages: list[dict[str, str]]
    history: Path


@pytest.fixture(scope="module")
def talk(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Talk:
    home = tmp_path_factory.mktemp("home")
    saved = home / "saved.json"
    profile = home / "um.toml"
    profile.write_text('format = 1\nsystem = "És um teste."\n[sampling]\nlimit = 3\n[page]\n')
    history = home / "amalia" / "chat_history"
    history.parent.mkdir()
    history.write_text('"pergunta de ontem"\n')
    shown = {}
    with at_a_terminal(home, "chat", str(tiny), "-c", "256", "--profile", str(profile)) as (terminal, child):
        shown[b""] = read_until(terminal, PROMPT)
        os.write(terminal, ARROW_UP)
        shown[ARROW_UP] = read_until(terminal, "ontem")
        while True:  # as above
            child.send_signal(signal.SIGINT)
            if select.select([terminal], [], [], 5)[0]:
                break
        read_until(terminal, PROMPT)
        for line in (PASTE % b"um\ndois", b"a" * 300 + b"\n", b"/system\n", b"/stats\n", f"/save {saved}\n".encode()):
            os.write(terminal, line)
            shown[line] = read_until(terminal, PROMPT)
        os.write(terminal, b"/bye\n")
        assert child.wait(60) == 0
    return Talk(shown, json.loads(saved.read_text("utf-8"))["messages"], history)


def test_a_text_pasted_at_a_terminal_is_one_question(talk: Talk) -> None:
    assert [message["content"] for message in talk.messages if message["role"] == "user"] == ["um\ndois"]


def test_a_person_goes_on_after_a_question_that_has_no_room(talk: Talk) -> None:
    assert "256 of context" in talk.shown[b"a" * 300 + b"\n"]
    assert "/reset" in talk.shown[b"a" * 300 + b"\n"]


def test_the_chats_history_is_private_and_holds_whole_questions(talk: Talk) -> None:
    assert talk.history.stat().st_mode & 0o777 == 0o600
    lines = [json.loads(line) for line in talk.history.read_text("utf-8").splitlines()]
    assert (lines[:2], lines[-1]) == (["pergunta de ontem", "um\ndois"], "/bye")


def test_the_questions_of_past_sessions_come_back_with_the_arrow_and_ctrl_c_clears_the_line(talk: Talk) -> None:
    assert talk.shown[ARROW_UP].endswith("pergunta de ontem")  # and the talk went on


def test_a_profile_gives_the_chat_its_system_prompt_and_its_sampling(talk: Talk) -> None:
    assert talk.messages[0] == {"role": "system", "content": "És um teste."}
    assert "És um teste." in talk.shown[b"/system\n"]
    assert re.search(r"(?<!\d)[0-3] tokens at ", talk.shown[b"/stats\n"])


def test_a_table_for_a_later_version_is_told_of(talk: Talk) -> None:
    assert "[page] is for a later version" in talk.shown[b""]


def test_the_command_line_goes_before_the_profile_and_the_profile_before_the_model(tiny: Path, tmp_path: Path) -> None:
    profile, guide = tmp_path / "um.toml", tmp_path / "guia.txt"
    profile.write_text('format = 1\nsystem = "um sistema"\n[sampling]\nlimit = 0\n')
    guide.write_text("um sistema bem mais comprido\n")

    def usage(*words: str) -> tuple[int, int]:
        told = json.loads(amalia("run", str(tiny), "x", "--json", "--seed", "1", *words).stdout)["result"]["usage"]
        return told["prompt_tokens"], told["completion_tokens"]

    alone, with_profile = usage("-n", "0"), usage("--profile", str(profile))
    assert with_profile[1] == 0 and with_profile[0] > alone[0]
    longer, answered = usage("--profile", str(profile), "--system-file", str(guide), "-n", "1")
    assert (longer, answered) == (with_profile[0] + len(" bem mais comprido"), 1)


def test_a_profiles_schema_holds_unless_the_command_line_constrains(tiny: Path, tmp_path: Path) -> None:
    profile = tmp_path / "um.toml"
    profile.write_text("""format = 1\nschema = '{"enum": ["sim", "talvez"]}'\n""")
    words = ("run", str(tiny), "x", "--profile", str(profile))
    assert json.loads(amalia(*words).stdout) in ("sim", "talvez")
    assert amalia(*words, "--regex", "não").stdout == "não\n"


def test_system_prompts_from_two_places_are_refused(tiny: Path) -> None:
    assert failure("run", str(tiny), "x", "-sys", "um", "--system-file", "dois.txt")[0] == 2


def test_stats_are_told_on_standard_error(tiny: Path) -> None:
    done = amalia("run", str(tiny), "olá", "-n", "2", "--stats")
    assert re.search(r"tokens at .* of 1024", done.stderr) and "tokens at" not in done.stdout


def test_profiles_are_listed_each_with_its_place_and_a_broken_one_hides_no_other(tmp_path: Path) -> None:
    mine = tmp_path / "amalia" / "profiles"
    mine.mkdir(parents=True)
    (mine / "museu.toml").write_text("format = 1\ndescription = 'o meu'\n")
    (mine / "partido.toml").write_text("format = 1\nsistem = ''\n")
    listed = json.loads(amalia("profiles", "--json", XDG_CONFIG_HOME=str(tmp_path)).stdout)["result"]
    told = {entry["name"]: entry for entry in listed}
    assert (told["museu"]["description"], told["museu"]["origin"]) == ("o meu", "yours")
    assert told["balcao"]["origin"] == "built in"
    assert "did you mean system" in told["partido"]["error"]


def test_a_profile_is_printed_whole_so_that_it_can_be_copied() -> None:
    printed = amalia("profiles", "campo-ficha").stdout
    assert printed == (Path(amalia_edge.__file__).parent / "profiles" / "campo-ficha.toml").read_text("utf-8")


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
