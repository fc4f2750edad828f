"""What is asked: one message from one line, from lines joined, or from a block."""

from collections.abc import Iterable

import pytest

from amalia_edge.errors import UsageError
from amalia_edge.keyboard import MORE, PROMPT, decode, read_message


def messages(lines: Iterable[str], *, joins: bool = True) -> list[str]:
    """Read lines to their end, as a person's or a script's."""
    left = list(lines)

    def read(_shown: str) -> str:
        if not left:
            raise EOFError
        return left.pop(0)

    heard = []
    while left:
        heard.append(read_message(read, joins=joins))
    return heard


def test_each_line_is_a_message() -> None:
    assert messages(["olá ", " adeus"]) == ["olá", "adeus"]


def test_a_backslash_at_the_end_of_a_line_goes_on() -> None:
    assert messages(["um\\", "dois\\", "três", "outra"]) == ["um\ndois\ntrês", "outra"]


def test_a_backslash_in_a_pipe_is_a_letter() -> None:
    assert messages(["C:\\", "dois"], joins=False) == ["C:\\", "dois"]


def test_a_pasted_text_is_one_message() -> None:
    assert messages(["um\ndois\n"]) == ["um\ndois"]


@pytest.mark.parametrize("joins", [True, False])
def test_a_block_is_one_message_also_in_a_pipe(joins: bool) -> None:
    assert messages(['"""', "um", "", "  dois\\", '"""', "fim"], joins=joins) == ["\n\num\n\n  dois\\\n", "fim"]


def test_a_block_may_begin_and_end_inside_lines() -> None:
    assert messages(['"""um', 'dois"""']) == ["\num\ndois"]
    assert messages(['"""um"""']) == ["\num"]


def test_a_block_is_never_a_command() -> None:
    assert messages(['"""/bye"""'])[0][0].isspace()


def test_the_end_of_input_ends_a_block() -> None:
    assert messages(['"""', "um"]) == ["\n\num"]


def test_a_person_sees_that_more_is_wanted() -> None:
    shown: list[str] = []

    def read(prompt: str) -> str:
        shown.append(prompt)
        return ["um\\", "dois"][len(shown) - 1]

    read_message(read, joins=True)
    assert shown == [PROMPT, MORE]


def test_what_is_not_utf8_is_told_with_its_byte() -> None:
    with pytest.raises(UsageError, match="byte 1 is not UTF-8"):
        decode(b"n\xe3o")


def test_an_editors_byte_order_mark_is_no_letter() -> None:
    assert decode(b"\xef\xbb\xbf/bye") == "/bye"
