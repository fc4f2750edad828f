"""What machines read is one object; what people read is on standard error, and only when they watch."""

import json

import pytest

from amalia_edge.console import emit, emit_failure, megabytes, plain, progress
from amalia_edge.errors import DoesNotFit, UsageError


def test_a_result_is_one_object_with_its_schema_and_command(capsys: pytest.CaptureFixture[str]) -> None:
    emit("doctor", {"memória": 8})
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "command": "doctor", "result": {"memória": 8}}


def test_a_failure_carries_a_stable_slug(capsys: pytest.CaptureFixture[str]) -> None:
    emit_failure("run", DoesNotFit("context", "9 GB needed, 4 free", "use Q4_K_M"))
    told = {"code": "does-not-fit", "where": "context", "found": "9 GB needed, 4 free", "advice": "use Q4_K_M"}
    assert json.loads(capsys.readouterr().out)["error"] == told


def test_no_bar_is_drawn_when_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("converting", 10) as bar:
        bar.advance(5)
    assert capsys.readouterr().err == ""


def test_sizes_are_said_in_decimal_units() -> None:
    assert (megabytes(15_219_184), megabytes(5.58e9)) == ("15.2 MB", "5.58 GB")


def test_nothing_in_a_file_steers_a_terminal() -> None:
    assert plain("olá\x1b[2J\n\u202e") == "olá\ufffd[2J\ufffd\ufffd"


def test_nothing_in_an_object_steers_a_terminal_and_all_of_it_comes_back(capsys: pytest.CaptureFixture[str]) -> None:
    text = "\x9b\u202e\x7f\u2028\U000e0001 olá 🙂"
    emit("run", text)
    line = capsys.readouterr().out.removesuffix("\n")
    assert line.isprintable() and "olá 🙂" in line
    assert json.loads(line)["result"] == text


def test_a_failure_tells_what_had_come_before_it(capsys: pytest.CaptureFixture[str]) -> None:
    emit_failure("chat", UsageError("a", "b"), {"messages": []})
    assert set(json.loads(capsys.readouterr().out)) == {"schema", "command", "result", "error"}
