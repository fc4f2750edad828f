"""The screen: lines broken between words, and nothing in an answer that steers a terminal."""

import contextlib
import os
import pty
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from amalia_edge.screen import DIM, PLAIN, Screen, Wrap, harmless

LINES = st.text(alphabet="ab -1.`\n\té", max_size=200)


def wrapped(text: str, width: int = 20, piece: int = 1) -> str:
    wrap = Wrap(width)
    return "".join(wrap.push(text[at : at + piece]) for at in range(0, len(text), piece)) + wrap.finish()


def test_a_line_breaks_before_the_word_that_has_no_room() -> None:
    assert wrapped("o rato roeu a rolha do rei") == "o rato roeu a rolha\ndo rei"


def test_a_line_may_be_as_long_as_the_screen() -> None:
    assert wrapped("12345678901234567 20 x") == "12345678901234567 20\nx"


def test_a_word_longer_than_a_line_is_not_broken() -> None:
    assert wrapped("veja " + "x" * 30 + " aqui") == "veja\n" + "x" * 30 + "\naqui"


def test_the_texts_own_newlines_stay() -> None:
    assert wrapped("um\n\n  dois\n") == "um\n\n  dois\n"


def test_a_list_goes_on_below_its_first_word() -> None:
    assert wrapped("- o rato roeu a rolha do rei da") == "- o rato roeu a\n  rolha do rei da"
    assert wrapped("10. o rato roeu a rolha do rei") == "10. o rato roeu a\n    rolha do rei"


def test_a_dash_inside_a_text_is_no_list() -> None:
    assert wrapped("o rato roeu a rolha - do rei da Rússia também") == "o rato roeu a rolha\n- do rei da Rússia\ntambém"


def test_code_between_fences_is_not_broken() -> None:
    code = "```python\nprint('o rato roeu a rolha do rei')\n```\n"
    assert wrapped(code + "o rato roeu a rolha do") == code + "o rato roeu a rolha\ndo"


def test_wide_characters_take_two_columns() -> None:
    assert wrapped("你好你好你好你好 你好") == "你好你好你好你好\n你好"


@given(LINES, st.integers(1, 9))
@example("a" * 15 + " b\u00a0c d" * 9, 1)
def test_only_white_space_changes_whatever_the_pieces(text: str, piece: int) -> None:
    shown = wrapped(text, 12, piece)
    assert shown.split() == text.split()
    assert shown == wrapped(text, 12, 200)


@given(LINES.filter(lambda text: "`" not in text))
def test_a_line_of_several_words_is_never_too_long(text: str) -> None:
    for line in wrapped(text.replace("\t", " "), 12).split("\n"):
        assert len(line) <= 12 or len(line.split()) == 1 or re.match(r"\s*(-|\d+\.)\s+\S+$", line)


@pytest.mark.parametrize("text", ["\x1b[2J", "\x1b]0;t\x07", "a\x08b", "\x9b2J", "\x00", "\x7f", "a\u202eb", "\u2066"])
def test_nothing_that_steers_a_terminal_gets_through(text: str) -> None:
    shown = harmless(text)
    assert "\ufffd" in shown and not re.search("[\x00-\x1f\x7f-\x9f\u202e\u2066]", shown)


def test_text_of_any_language_gets_through_whole() -> None:
    text = "não\u00a0é\tצ 你 👩‍🚀\n"
    assert harmless(text) == text
    assert harmless("um\r\ndois") == "um\ndois"


def test_in_a_pipe_an_answer_is_as_it_is_and_reasoning_is_no_answer(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.begin()
    screen.say("penso", reasoning=True)
    screen.say("\x1b[1m" + "palavra " * 30)
    screen.end()
    assert capsys.readouterr().out == "\x1b[1m" + "palavra " * 30 + "\n"


def test_a_quiet_screen_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(quiet=True)
    screen.say("nada")
    screen.end()
    assert capsys.readouterr().out == ""


def shown(monkeypatch: pytest.MonkeyPatch, *pieces: tuple[str, bool], hidden: bool = False) -> str:
    """Say pieces, each with whether it is reasoning, on a terminal of 40 columns; give what it was sent."""
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        screen = Screen(reasoning=not hidden)
        screen.begin()
        for text, reasoning in pieces:
            screen.say(text, reasoning=reasoning)
        screen.end()
    sent = b""
    with contextlib.suppress(OSError):  # how a terminal that nobody holds ends
        while more := os.read(ours, 4096):
            sent += more
    os.close(ours)
    return sent.decode().replace("\r\n", "\n")


def test_on_a_terminal_an_answer_is_wrapped_and_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = [(text, False) for text in ("\x1b[2J", "o rato roeu a ", "rolha do rei da velha Rús", "sia\n")]
    assert shown(monkeypatch, *pieces) == "\ufffd[2Jo rato roeu a rolha do rei da velha\nRússia\n\n"


def test_reasoning_is_dim_and_apart_from_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = shown(monkeypatch, ("penso logo", True), ("existo", False))
    assert sent.replace(PLAIN + DIM, "") == f"{DIM}penso logo\n\n{PLAIN}existo\n"


def test_reasoning_may_be_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, ("penso", True), ("existo", False), hidden=True) == "existo\n"


@pytest.mark.parametrize("line", ["```a```", "```a b```", "```a ``` b"])
def test_code_within_a_line_is_no_fence(line: str) -> None:
    assert "\n" in wrapped(f"{line}\n" + "palavras " * 5).removeprefix(line + "\n")
