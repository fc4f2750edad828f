"""Token bytes become text, never half a character."""

from hypothesis import given
from hypothesis import strategies as some

from amalia_edge.text import TextStream


def test_a_character_waits_for_its_last_byte() -> None:
    stream = TextStream()
    assert stream.push("ã".encode()[:1]) == ""
    assert stream.push("ã".encode()[1:]) == "ã"


def test_a_character_that_never_ends_becomes_a_replacement() -> None:
    stream = TextStream()
    stream.push("🙂".encode()[:3])
    assert stream.finish() == "\ufffd"


@given(some.text(), some.lists(some.integers(0, 40)))
def test_any_cut_of_the_bytes_gives_the_same_text(text: str, cuts: list[int]) -> None:
    raw, stream, said = text.encode(), TextStream(), ""
    for cut in cuts:
        said += stream.push(raw[:cut])
        raw = raw[cut:]
    assert said + stream.push(raw) + stream.finish() == text
