"""Token bytes become text, never half a character, and nothing from a stop string on."""

from hypothesis import example, given
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


def shown(stops: tuple[str, ...], *pieces: str) -> list[str]:
    """Give what each piece led to, and at last what finish gave."""
    stream = TextStream(stops)
    return [*(stream.push(piece.encode()) for piece in pieces), stream.finish()]


def test_a_stop_string_ends_the_text_across_token_borders() -> None:
    assert shown(("\nUser:",), "olá\n", "Us", "er: eu", " sou") == ["olá", "", "", "", ""]


def test_text_that_only_began_like_a_stop_is_given_when_it_is_clear() -> None:
    assert shown(("\nUser:",), "olá\nUs", "ina de sal") == ["olá", "\nUsina de sal", ""]


def test_text_that_began_like_a_stop_is_given_at_the_end() -> None:
    assert shown(("abc",), "xab") == ["x", "ab"]


def test_a_stop_that_begins_inside_its_own_beginning_is_found() -> None:
    assert shown(("aab",), "a", "a", "a", "b", "c") == ["", "", "a", "", "", ""]


def test_the_stop_that_is_complete_first_ends_the_text_wherever_tokens_are_cut() -> None:
    assert "".join(shown(("abc", "b"), "abc")) == "".join(shown(("abc", "b"), "a", "b", "c")) == "a"


def test_a_stop_inside_a_character_cut_in_two_is_found() -> None:
    stream, raw = TextStream(("ão",)), "pão".encode()
    assert stream.push(raw[:2]) + stream.push(raw[2:]) + stream.finish() == "p"
    assert stream.stopped


def test_a_stream_says_that_it_stopped_as_soon_as_the_stop_is_whole() -> None:
    stream = TextStream(("fim",))
    stream.push(b"fi")
    assert not stream.stopped
    stream.push(b"m")
    assert stream.stopped


@given(
    text=some.text("abc", max_size=30),
    stops=some.lists(some.text("abc", min_size=1, max_size=4), min_size=1, max_size=3),
    cuts=some.lists(some.integers(0, 5)),
)
@example(text="aabab", stops=["abab", "bb"], cuts=[1, 1, 1])
def test_any_cut_of_the_text_stops_at_the_same_place(text: str, stops: list[str], cuts: list[int]) -> None:
    ends = [(place + len(stop), place) for stop in stops if (place := text.find(stop)) >= 0]
    wanted = text[: min(ends)[1]] if ends else text
    stream, said, rest = TextStream(tuple(stops)), "", text
    for cut in cuts:
        said += stream.push(rest[:cut].encode())
        rest = rest[cut:]
    assert said + stream.push(rest.encode()) + stream.finish() == wanted
    assert stream.stopped == bool(ends)


@given(text=some.text("ab", max_size=20), stop=some.text("ab", min_size=1, max_size=4))
def test_no_more_is_held_back_than_could_begin_a_stop(text: str, stop: str) -> None:
    stream = TextStream((stop,))
    said = stream.push(text.encode())
    if not stream.stopped:
        held = text[len(said) :]
        assert stop.startswith(held)
        assert not any(stop.startswith(text[place:]) for place in range(len(said)))
