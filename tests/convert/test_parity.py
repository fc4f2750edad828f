"""A vocabulary that reads texts otherwise than its own tokenizer is refused, or warned of where llama.cpp's is the same."""

import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from amalia_convert.metadata import Metadata, boolean, float32, int32, string, uint32
from amalia_convert.parity import BEGINS, BEGINS_NOT, DECOMPOSED, NORMALIZED, PREFIXED, STRIPPED, check_parity
from amalia_convert.parity_sample import PLAIN
from amalia_edge.errors import ConvertError, ModelCorrupt
from checkpoints import sentencepiece_model, tokenizer_config, write_json
from tokenizer_files import (
    byte_level_bpe,
    describe,
    train_sentencepiece,
    write_byte_level_bpe,
    write_sentencepiece_json,
    write_vocabulary,
)

KEY = "tokenizer.ggml."
Change = Callable[[Metadata], Metadata]


def write_sentencepiece(folder: Path) -> int:
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    write_json(folder / "tokenizer_config.json", tokenizer_config())
    return 400


def check(folder: Path, size: int, change: Change = lambda entries: {}) -> tuple[str, ...]:
    """Check a folder's vocabulary under a partial file's name, with three rows more, after a change of its entries."""
    entries = describe(folder, size + 3)
    return check_parity(write_vocabulary(folder / ".x.gguf.partial", entries | change(entries)), folder)


@pytest.mark.parametrize("regex", ["llama-bpe", "gpt-2", "smollm"])
def test_byte_level_vocabularies_pass_without_a_warning(tmp_path: Path, regex: str) -> None:
    assert check(tmp_path, write_byte_level_bpe(tmp_path, regex)) == ()


def test_a_sentencepiece_model_passes_without_a_warning(tmp_path: Path) -> None:
    assert check(tmp_path, write_sentencepiece(tmp_path)) == ()


@pytest.mark.parametrize("prefix", [False, True])
def test_a_sentencepiece_json_passes_without_a_warning(tmp_path: Path, prefix: bool) -> None:
    assert check(tmp_path, write_sentencepiece_json(tmp_path, prefix)) == ()


def test_accents_that_only_the_tokenizer_composes_are_warned_of(tmp_path: Path) -> None:
    assert check(tmp_path, write_byte_level_bpe(tmp_path, "qwen2")) == (DECOMPOSED,)


def test_a_broken_tokenizer_json_beside_a_model_makes_only_our_errors(tmp_path: Path) -> None:
    size = write_sentencepiece(tmp_path)
    write_json(tmp_path / "tokenizer.json", {"added_tokens": [3]})
    assert check(tmp_path, size) == ()


def test_spaces_that_only_libllama_puts_are_warned_of(tmp_path: Path) -> None:
    assert PREFIXED in check(tmp_path, write_sentencepiece_json(tmp_path, prefix=True, metaspace=True))


def test_a_model_whose_later_parts_have_no_space_is_warned_of(tmp_path: Path) -> None:
    size = write_sentencepiece(tmp_path)
    write_json(tmp_path / "tokenizer_config.json", tokenizer_config() | {"add_prefix_space": True, "legacy": False})
    assert check(tmp_path, size) == (PREFIXED,)


def test_spaces_after_the_model_s_own_user_defined_pieces_are_warned_of(tmp_path: Path) -> None:
    model = train_sentencepiece(
        user_defined_symbols=["lisboeta"], normalization_rule_name="identity", remove_extra_whitespaces=False
    )
    (tmp_path / "tokenizer.model").write_bytes(model)
    assert check(tmp_path, 400) == (PREFIXED,)


def test_the_configuration_overrules_the_model_on_the_space_first(tmp_path: Path) -> None:
    size = write_sentencepiece(tmp_path)
    write_json(tmp_path / "tokenizer_config.json", tokenizer_config() | {"add_prefix_space": True})
    assert check(tmp_path, size) == ()


def test_text_that_only_the_tokenizer_normalizes_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(train_sentencepiece())  # NFKC, and spaces taken away
    assert check(tmp_path, 400) == (NORMALIZED,)


def test_a_sentencepiece_model_for_lower_case_alone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(train_sentencepiece(normalization_rule_name="nmt_nfkc_cf"))
    with pytest.raises(ConvertError, match="libllama reads"):
        check(tmp_path, 400)


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_tokens_that_take_the_spaces_beside_them_are_warned_of(tmp_path: Path, file: str) -> None:
    size = write_byte_level_bpe(tmp_path, "llama-bpe")
    entry = {"id": 451, "content": "<|im_start|>", "special": True, "rstrip": True}
    tokenizer = byte_level_bpe("llama-bpe")
    tokenizer["added_tokens"][1] |= entry
    added = {"added_tokens_decoder": {"451": entry}} if file == "tokenizer_config.json" else tokenizer
    write_json(tmp_path / file, added)
    assert STRIPPED.format("'<|im_start|>'") in check(tmp_path, size)


def test_a_token_first_that_only_the_tokenizer_puts_is_warned_of(tmp_path: Path) -> None:
    size = write_byte_level_bpe(tmp_path, "llama-bpe")
    assert check(tmp_path, size, lambda entries: {KEY + "add_bos_token": boolean(False)}) == (BEGINS,)


def test_a_token_first_that_only_the_file_puts_is_warned_of(tmp_path: Path) -> None:
    size = write_byte_level_bpe(tmp_path, "gpt-2")
    begins = {KEY + "add_bos_token": boolean(True), KEY + "bos_token_id": uint32(450)}
    assert check(tmp_path, size, lambda entries: begins) == (BEGINS_NOT,)


def test_one_score_for_all_tokens_is_refused(tmp_path: Path) -> None:
    size = write_sentencepiece_json(tmp_path)
    flat = {KEY + "scores": float32((-1000.0,) * (size + 3))}  # what llama.cpp's converter writes
    with pytest.raises(ConvertError, match=r"libllama reads '.+' from token \d+ on as \[.+\], its own tokenizer as \["):
        check(tmp_path, size, lambda entries: flat)


def test_a_wrong_pre_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match="libllama reads"):
        check(tmp_path, write_byte_level_bpe(tmp_path, "qwen2"), lambda entries: {KEY + "pre": string("gpt-2")})


def test_a_wrong_space_first_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match="libllama reads"):
        check(tmp_path, write_sentencepiece(tmp_path), lambda entries: {KEY + "add_space_prefix": boolean(True)})


def test_a_control_token_that_libllama_takes_for_text_is_refused(tmp_path: Path) -> None:
    def change(entries: Metadata) -> Metadata:
        types = entries[KEY + "token_type"].content
        assert isinstance(types, tuple)
        return {KEY + "token_type": int32((*types[:451], 1, *types[452:]))}  # type: ignore[arg-type]

    with pytest.raises(ConvertError, match=r"<\|im_start\|>"):
        check(tmp_path, write_byte_level_bpe(tmp_path, "llama-bpe", ("<|begin|>", "<|im_start|>", "<|fim|>")), change)


def test_a_difference_in_the_vocabulary_s_own_words_alone_is_refused(tmp_path: Path) -> None:
    file = byte_level_bpe("gpt-2")
    file["model"]["vocab"] |= {"qx": 453, "qxz": 454}  # letters no sample has beside each other
    file["model"]["merges"] += [["q", "x"], ["qx", "z"]]
    write_json(tmp_path / "tokenizer.json", file)

    def change(entries: Metadata) -> Metadata:
        merges = entries[KEY + "merges"]
        assert isinstance(merges.content, tuple)
        return {KEY + "merges": replace(merges, content=merges.content[:-1])}

    assert not any("qx" in text for text in PLAIN)
    with pytest.raises(ConvertError, match="qxz"):
        check(tmp_path, 455, change)


def test_a_file_libllama_refuses_is_named(tmp_path: Path) -> None:
    size = write_byte_level_bpe(tmp_path)
    with pytest.raises(ModelCorrupt, match=r"x\.gguf\.partial: libllama refuses its vocabulary: .*unknown"):
        check(tmp_path, size, lambda entries: {KEY + "pre": string("nenhum")})


def test_a_file_the_tokenizers_library_refuses_is_named(tmp_path: Path) -> None:
    size = write_byte_level_bpe(tmp_path)
    path = write_vocabulary(tmp_path / "x.gguf", describe(tmp_path, size))
    write_json(tmp_path / "tokenizer.json", byte_level_bpe("qwen2") | {"decoder": {"type": "Nenhum"}})
    with pytest.raises(ModelCorrupt, match=r"tokenizer\.json: the tokenizers library cannot read it"):
        check_parity(path, tmp_path)


def test_a_text_the_tokenizers_library_cannot_encode_is_named(tmp_path: Path) -> None:
    file = byte_level_bpe("gpt-2")
    del file["model"]["vocab"]["ĉ"]  # the tabulator
    file["model"]["unk_token"] = "<none>"
    write_json(tmp_path / "tokenizer.json", file)
    with pytest.raises(ModelCorrupt, match=r"tokenizer\.json: the tokenizers library cannot encode '\\t"):
        check(tmp_path, 453)


def test_the_sample_is_composed_and_has_the_awkward_cases() -> None:
    whole = "".join(PLAIN)
    assert all(unicodedata.is_normalized("NFC", text) for text in PLAIN)
    assert all(case in whole for case in ("ª", "º", "«", "»", "ção", "ÇÃO", "\t", "\r\n", "   ", "\u200d", "🇵🇹", "{"))
    assert any(text.startswith(" ") for text in PLAIN) and any(text.endswith(" ") for text in PLAIN)
