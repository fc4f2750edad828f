"""`amalia run`, `chat` and `embed` in this process: which model, what is told, what a failure leaves."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from amalia_edge.cli.door import _mend_streams, run_door
from amalia_edge.cli.embed import embed
from amalia_edge.cli.talk import _replier
from amalia_edge.model import Model
from models import TEMPLATE, tiny_model


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_ARG_THREADS", "1")
    say(monkeypatch, "")


def say(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    code = run_door([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_the_model_that_is_named_goes_before_the_variable(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLAMA_ARG_MODEL", "/none")
    assert told(capsys, "chat", str(tiny))[0] == told(capsys, "chat", "-m", str(tiny))[0] == 0
    assert "/none" in told(capsys, "chat")[1]["error"]["where"]


def test_texts_are_embedded_by_the_model_that_is_named_either_way(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLAMA_ARG_MODEL", "/none")
    for words in ([str(tiny), "olá"], ["-m", str(tiny), "olá"]):
        embed.main(words, standalone_mode=False)
        assert len(capsys.readouterr().out.splitlines()) == 1


def test_two_models_are_one_too_many(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = told(capsys, "chat", "-m", str(tiny), "outro")
    assert (code, printed["error"]["where"]) == (2, "outro")


def test_what_the_model_thought_is_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny_model(tmp_path / "thinks.gguf", template=TEMPLATE + "<think>{# </think> #}")
    result = told(capsys, "run", str(path), "olá", "-n", "6", "--seed", "1")[1]["result"]
    assert result["reasoning"] and not result["text"]


def test_a_question_that_fails_leaves_the_answers_before_it(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say(monkeypatch, "olá\n" + "muito " * 400)
    code, printed = told(capsys, "chat", str(tiny), "-n", "4", "-c", "128")
    assert (code, printed["error"]["code"]) == (4, "context-full")
    assert [message["role"] for message in printed["result"]["messages"]] == ["user", "assistant"]


def test_a_system_prompt_beside_raw_is_refused(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = told(capsys, "run", str(tiny), "olá", "--raw", "-sys", "x")
    assert (code, printed["error"]["where"]) == (2, "--system-prompt")


def test_switches_come_from_llama_cpps_variable(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLAMA_ARG_CHAT_TEMPLATE_KWARGS", "[]")
    assert told(capsys, "run", str(tiny), "olá")[1]["error"]["where"] == "--chat-template-kwargs"


def test_an_answer_nobody_began_to_read_keeps_no_place(model: Model) -> None:
    reply = _replier(model, {"variables": {}, "limit": 2})
    first = reply([{"role": "user", "content": "olá"}]).counts
    second = reply([{"role": "user", "content": "adeus"}])
    assert (first.finish, model.engine.active) == ("cancelled", 1)
    list(second.pieces)


def test_a_terminal_without_a_letter_shows_a_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", narrow)
    monkeypatch.setattr(sys, "stderr", None)
    _mend_streams()
    print("olá", flush=True)
    print("ninguém", file=sys.stderr)
    sys.stderr.close()
    assert narrow.buffer.getvalue() == b"ol?\n"  # type: ignore[attr-defined]
