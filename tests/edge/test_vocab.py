"""Text goes into ids and back, and control tokens only when they are asked for."""

from hypothesis import given
from hypothesis import strategies as some

from amalia_edge.model import Model

TEXTS = some.text(some.characters(exclude_characters="\0▁", exclude_categories=("Cs",)), max_size=60)


@given(text=TEXTS)
def test_any_text_comes_back(model: Model, text: str) -> None:
    assert model.vocabulary.decode(model.vocabulary.encode(text)) == text


def test_control_text_is_plain_text_unless_asked(model: Model) -> None:
    assert 4 not in model.vocabulary.encode("<|im_end|>")
    assert model.vocabulary.encode("<|im_end|>", control=True) == [4]


def test_control_tokens_are_the_unknown_one_and_those_of_the_template(model: Model) -> None:
    assert model.vocabulary.control == {"<unk>": 0, "<s>": 1, "</s>": 2, "<|im_start|>": 3, "<|im_end|>": 4}


def test_control_tokens_stand_for_no_bytes(model: Model) -> None:
    assert model.vocabulary.bytes_of(4) == b""


def test_the_end_token_ends(model: Model) -> None:
    assert model.vocabulary.ends(4)
    assert not model.vocabulary.ends(300)


def test_a_text_longer_than_any_buffer_is_encoded_whole(model: Model) -> None:
    text = "olá mundo " * 5000
    assert model.vocabulary.decode(model.vocabulary.encode(text)) == text
