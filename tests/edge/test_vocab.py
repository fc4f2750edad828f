"""Text goes into ids and back, and control tokens only when they are asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as some

from amalia_edge import native
from amalia_edge.gguf import read_header
from amalia_edge.model import Model
from amalia_edge.vocab import CONTROL, UNKNOWN, Vocabulary
from models import VOCABULARY, tiny_model

TEXTS = some.text(some.characters(exclude_characters="\0▁", exclude_categories=("Cs",)), max_size=60)
NORMAL, USER_DEFINED = gguf.TokenType.NORMAL, gguf.TokenType.USER_DEFINED
BYTES = [*range(33, 127), *range(161, 173), *range(174, 256)]  # a byte-level vocabulary writes these as they are
LETTERS = [chr(byte) for byte in BYTES] + [chr(256 + place) for place in range(256 - len(BYTES))]


@contextmanager
def opened(path: Path) -> Iterator[Vocabulary]:
    read_header(path, model=False)
    with native.open_vocabulary(path) as pointer:
        yield Vocabulary(pointer)


def sentencepiece(folder: Path, *pieces: str, **kinds: gguf.TokenType) -> Path:
    """Write a tiny model with more pieces; `kinds` gives ids another type: `_4=NORMAL`."""
    path = tiny_model(folder / "model.gguf", pieces=pieces)
    types = read_header(path).metadata["tokenizer.ggml.token_type"]
    with path.open("r+b") as file:
        for token, kind in kinds.items():
            file.seek(types.offset + 4 * int(token[1:]))
            file.write(int(kind).to_bytes(4, "little"))
    return path


def byte_level(folder: Path, *more: str) -> Path:
    """Write a byte-level BPE vocabulary that ends in user-defined tokens."""
    path = folder / "vocabulary.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for key in ("context_length", "embedding_length", "block_count", "feed_forward_length", "head_count"):
        writer.add_uint32(f"llama.{key}", 64)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(["<|endoftext|>", *LETTERS, *more])
    writer.add_token_types([gguf.TokenType.CONTROL] + [NORMAL] * 256 + [USER_DEFINED] * len(more))
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(0)
    writer.add_add_eos_token(True)
    writer.add_array("tokenizer.ggml.suppress_tokens", [7, 9])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


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


def test_a_token_longer_than_any_buffer_is_given_whole(tmp_path: Path) -> None:
    with opened(sentencepiece(tmp_path, "b" * 1000)) as vocabulary:
        assert vocabulary.bytes_of(VOCABULARY) == b"b" * 1000
        assert vocabulary.decode([VOCABULARY, VOCABULARY]) == "b" * 2000


def test_control_tokens_are_those_libllama_takes_for_some(tmp_path: Path) -> None:
    with opened(sentencepiece(tmp_path, "<think>", _4=NORMAL, _301=USER_DEFINED)) as vocabulary:
        attributes = [vocabulary._library.llama_vocab_get_attr(vocabulary.pointer, one) for one in range(302)]
        wanted = {token for token, attribute in enumerate(attributes) if attribute & (CONTROL | UNKNOWN)}
        assert set(vocabulary.control.values()) == wanted
        assert 4 in wanted, "libllama knows <|im_end|> by its text, whatever the file says"


@pytest.mark.parametrize("text", ["<|start|>", "<|fim▁begin|>", "<| ã |>"])
def test_user_defined_tokens_that_look_like_control_are_spelt_in_plain_text(tmp_path: Path, text: str) -> None:
    for path in (sentencepiece(tmp_path, text, _301=USER_DEFINED), byte_level(tmp_path, text)):
        with opened(path) as vocabulary:
            token = vocabulary.control[text]
            assert vocabulary.encode(text, control=True) == [token]
            assert token not in vocabulary.encode(f"a{text}b")
            assert vocabulary.decode(vocabulary.encode(f"a{text}b")).replace("▁", " ") == f"a{text}b".replace("▁", " ")


def test_other_user_defined_tokens_are_letters_like_others(tmp_path: Path) -> None:
    for path in (sentencepiece(tmp_path, "<b>", _301=USER_DEFINED), byte_level(tmp_path, "<b>")):
        with opened(path) as vocabulary:
            assert "<b>" not in vocabulary.control
            assert vocabulary.size - 1 in vocabulary.encode("a<b>c")


def test_a_vocabulary_says_what_it_adds_and_what_it_never_writes(tmp_path: Path) -> None:
    with opened(byte_level(tmp_path)) as vocabulary:
        assert (vocabulary.adds_begin, vocabulary.adds_end, vocabulary.suppressed) == (False, True, (7, 9))
    with opened(sentencepiece(tmp_path)) as vocabulary:
        assert (vocabulary.adds_begin, vocabulary.adds_end, vocabulary.suppressed) == (True, False, ())
