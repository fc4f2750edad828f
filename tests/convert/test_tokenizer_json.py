"""A vocabulary converted from tokenizer.json alone gives the ids the tokenizers library gives."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amalia_convert.metadata import Metadata, pack
from amalia_convert.parity_sample import PLAIN
from amalia_edge.errors import AmaliaError, CheckpointIncomplete, ModelCorrupt, ModelUnsupported
from amalia_edge.native import open_vocabulary
from amalia_edge.vocab import Vocabulary
from checkpoints import sentencepiece_model, write_json
from tokenizer_files import (
    byte_level_bpe,
    describe,
    sentencepiece_json,
    write_byte_level_bpe,
    write_sentencepiece_json,
    write_vocabulary,
)

Tokenizer = dict[str, Any]


@pytest.mark.parametrize("regex", ["qwen2", "qwen35", "llama-bpe", "tekken", "gpt-2", "smollm"])
def test_byte_level_ids_are_the_tokenizers_library_s(tmp_path: Path, regex: str) -> None:
    size = write_byte_level_bpe(tmp_path, regex)
    entries = describe(tmp_path, size)
    assert entries["tokenizer.ggml.pre"].content == regex
    assert_same_ids(tmp_path, entries)


def test_sentencepiece_ids_are_the_tokenizers_library_s(tmp_path: Path) -> None:
    assert_same_ids(tmp_path, describe(tmp_path, write_sentencepiece_json(tmp_path)))


def test_sentencepiece_ids_with_a_space_first_are_the_tokenizers_library_s(tmp_path: Path) -> None:
    assert_same_ids(tmp_path, describe(tmp_path, write_sentencepiece_json(tmp_path, prefix=True)))


def assert_same_ids(folder: Path, entries: Metadata) -> None:
    own = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    with open_vocabulary(write_vocabulary(folder / "x.gguf", entries)) as pointer:
        vocabulary = Vocabulary(pointer)
        for text in PLAIN:
            assert vocabulary.encode(text) == own.encode(text, add_special_tokens=False).ids


def test_scores_from_merges_are_those_sentencepiece_trained(tmp_path: Path) -> None:
    entries = describe(tmp_path, write_sentencepiece_json(tmp_path))
    model = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
    trained = [model.get_score(index) for index in range(261, 400)]  # behind five control tokens and 256 bytes
    scores, texts = contents(entries, "scores"), contents(entries, "tokens")
    made = {"".join(merge.split(" ")) for merge in sentencepiece_json()["model"]["merges"]}
    wanted = [score for score, text in zip(trained, texts[261:], strict=True) if text in made]
    assert [score for score, text in zip(scores, texts, strict=True) if text in made] == wanted


def test_what_no_merge_makes_comes_after_all_that_merges_make(tmp_path: Path) -> None:
    entries = describe(tmp_path, write_sentencepiece_json(tmp_path))
    scores, texts = contents(entries, "scores"), contents(entries, "tokens")
    made = {"".join(merge.split(" ")) for merge in sentencepiece_json()["model"]["merges"]}
    assert scores[texts.index("ç")] < min(scores[texts.index(text)] for text in made)


def test_token_types_are_those_of_the_model_file(tmp_path: Path) -> None:
    types = contents(describe(tmp_path, write_sentencepiece_json(tmp_path)), "token_type")
    assert types[:5] == (3, 3, 3, 3, 3) and types[5:261] == (6,) * 256 and set(types[261:]) == {1}


def test_an_unknown_token_that_is_not_added_keeps_its_type(tmp_path: Path) -> None:
    types = contents(
        convert_changed(tmp_path, sentencepiece_json(), lambda file: file.update(added_tokens=[])), "token_type"
    )
    assert types[:2] == (2, 1)


@pytest.mark.parametrize("metaspace", [False, True])
@pytest.mark.parametrize("prefix", [False, True])
def test_the_space_first_is_read_off_the_stages(tmp_path: Path, prefix: bool, metaspace: bool) -> None:
    entries = describe(tmp_path, write_sentencepiece_json(tmp_path, prefix, metaspace))
    assert entries["tokenizer.ggml.add_space_prefix"].content is prefix


def test_merges_written_as_pairs_are_the_same_merges(tmp_path: Path) -> None:
    file = byte_level_bpe("qwen2")
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in file["model"]["merges"]]
    as_pairs = convert_changed(tmp_path, file, lambda file: file["model"].update(merges=pairs))
    as_texts = convert_changed(
        tmp_path, file, lambda file: file["model"].update(merges=[" ".join(pair) for pair in pairs])
    )
    assert as_pairs["tokenizer.ggml.merges"] == as_texts["tokenizer.ggml.merges"]


def test_a_space_inside_a_merged_token_is_spelt(tmp_path: Path) -> None:
    def change(file: Tokenizer) -> None:
        file["model"]["vocab"] |= {" ": 453, " a": 454}
        file["model"]["merges"].append([" ", "a"])

    assert contents(convert_changed(tmp_path, byte_level_bpe("qwen2"), change), "merges")[-1] == "Ġ a"


def test_llama_3_s_cuts_that_merge_whole_words_have_a_name_of_their_own(tmp_path: Path) -> None:
    entries = convert_changed(
        tmp_path, byte_level_bpe("llama-bpe"), lambda file: file["model"].update(ignore_merges=False)
    )
    assert entries["tokenizer.ggml.pre"].content == "smaug-bpe"


def test_minerva_s_vocabulary_has_its_name(tmp_path: Path) -> None:
    entries = convert_changed(
        tmp_path, byte_level_bpe("smollm"), lambda file: file["model"]["vocab"].update({"<s>": 453})
    )
    assert entries["tokenizer.ggml.pre"].content == "minerva-7b"


def test_a_split_that_keeps_what_the_pattern_finds_is_the_same_split(tmp_path: Path) -> None:
    def change(file: Tokenizer) -> None:
        file["pre_tokenizer"]["pretokenizers"][0] |= {"behavior": "Removed", "invert": True}

    assert convert_changed(tmp_path, byte_level_bpe("qwen2"), change)["tokenizer.ggml.pre"].content == "qwen2"


def test_an_unknown_cut_is_named_with_the_known_ones(tmp_path: Path) -> None:
    def change(file: Tokenizer) -> None:
        file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\w+|\W+"

    with pytest.raises(ModelUnsupported, match=r"\\w\+\|\\W\+.*libllama has no such.*llama-bpe.*qwen2"):
        convert_changed(tmp_path, byte_level_bpe("qwen2"), change)


def test_added_tokens_have_their_types(tmp_path: Path) -> None:
    added = [
        {"id": 453, "content": "<ferramenta>", "special": False},
        {"id": 454, "content": "<|x|>", "special": False},
    ]
    entries = convert_changed(tmp_path, byte_level_bpe("qwen2"), lambda file: file["added_tokens"].extend(added))
    assert contents(entries, "token_type")[449:455] == (1, 3, 3, 3, 4, 3)


def test_holes_and_the_embedding_s_further_rows_are_unused(tmp_path: Path) -> None:
    entries = convert_changed(tmp_path, byte_level_bpe("qwen2"), lambda file: file["added_tokens"].pop(1))
    assert contents(entries, "tokens")[450:454] == ("<|endoftext|>", "[PAD451]", "<|im_end|>", "[PAD453]")
    assert contents(entries, "token_type")[450:454] == (3, 5, 3, 5)


def test_special_ids_and_flags_are_written(tmp_path: Path) -> None:
    entries = describe(tmp_path, write_byte_level_bpe(tmp_path, "llama-bpe"))
    wanted = {"bos_token_id": 450, "eos_token_id": 452, "padding_token_id": 450, "add_bos_token": True,
              "add_eos_token": False}  # fmt: skip
    assert {key: entries[f"tokenizer.ggml.{key}"].content for key in wanted} == wanted


def test_a_beginning_that_libllama_would_add_by_itself_is_denied(tmp_path: Path) -> None:
    entries = convert_changed(tmp_path, byte_level_bpe("llama-bpe"), lambda file: file.update(post_processor=None))
    assert entries["tokenizer.ggml.add_bos_token"].content is False


def test_a_template_s_other_end_leaves_the_configured_one_to_end_turns(tmp_path: Path) -> None:
    write_byte_level_bpe(tmp_path)

    def change(file: Tokenizer) -> None:
        single = [{"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "<|endoftext|>"}}]
        file["post_processor"] = {"type": "TemplateProcessing", "single": single, "pair": []}

    entries = convert_changed(tmp_path, byte_level_bpe("qwen2"), change)
    assert entries["tokenizer.ggml.eos_token_id"].content == 450
    assert entries["tokenizer.ggml.eot_token_id"].content == 452


def test_a_vocabulary_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    size = write_byte_level_bpe(tmp_path)
    with pytest.raises(CheckpointIncomplete, match="token 452, and the embedding 452 rows"):
        describe(tmp_path, size - 1)


def test_a_configuration_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    size = write_byte_level_bpe(tmp_path)
    write_json(tmp_path / "tokenizer_config.json", {"added_tokens_decoder": {"450": {"content": "<s>"}}})
    with pytest.raises(CheckpointIncomplete, match=r"token 450 is '<\|endoftext\|>' here and '<s>'"):
        describe(tmp_path, size)


CHANGES: list[tuple[Callable[[Tokenizer], object], type[AmaliaError], str]] = [
    (lambda file: file.update(model=[]), ModelCorrupt, "no model"),
    (lambda file: file["model"].update(type="Unigram"), ModelUnsupported, "Unigram"),
    (lambda file: file["model"].update(dropout=0.5), ModelUnsupported, "dropout"),
    (lambda file: file["model"].update(end_of_word_suffix="</w>"), ModelUnsupported, "end_of_word_suffix"),
    (lambda file: file["model"].update(vocab={}), ModelCorrupt, "no vocabulary"),
    (lambda file: file["model"]["vocab"].update(x=True), ModelCorrupt, "'x' has no id"),
    (lambda file: file["model"]["vocab"].update(x=-1), ModelCorrupt, "'x' has no id"),
    (lambda file: file["model"]["vocab"].update(outro=7), ModelCorrupt, "'outro' have the same id"),
    (lambda file: file["model"]["vocab"].update({"\ud800": 460}), ModelCorrupt, "has no id"),
    (lambda file: file["model"]["vocab"].update({"a\0b": 460}), ModelUnsupported, "zero byte"),
    (lambda file: file["model"]["vocab"].update({"[PAD455]": 460}), ModelUnsupported, "tokens 455 and 460 are both"),
    (lambda file: file["model"]["vocab"].update(x=10**12), CheckpointIncomplete, "the embedding 470 rows"),
    (lambda file: file["model"].update(merges=[]), ModelCorrupt, "no merges"),
    (lambda file: file["model"].update(merges=["a"]), ModelCorrupt, "merge 0 is not of two"),
    (lambda file: file["model"].update(merges=[["a", 1]]), ModelCorrupt, "merge 0 is not of two"),
    (lambda file: file["model"].update(merges=["a nenhum"]), ModelCorrupt, "merge 0: 'nenhum' is no token"),
    (lambda file: file["model"].update(merges=["a \u0100"]), ModelCorrupt, "merge 0: .* is no token"),
    (lambda file: file["model"].update(ignore_merges=True), ModelUnsupported, "qwen2 with ignore_merges"),
    (lambda file: file.update(added_tokens={"a": 1}), ModelCorrupt, "not a list"),
    (lambda file: file.update(added_tokens=[3]), ModelCorrupt, "not an id and a text"),
    (lambda file: file["added_tokens"][0].update(id=3), ModelCorrupt, "another one too"),
    (lambda file: file["added_tokens"][0].update(content="a"), ModelCorrupt, "another one too"),
    (lambda file: file.update(normalizer={"type": "Lowercase"}), ModelUnsupported, "Lowercase"),
    (lambda file: file.update(normalizer={"type": "Prepend", "prepend": "▁"}), ModelUnsupported, "a space put first"),
    (lambda file: file.update(pre_tokenizer=None), ModelUnsupported, "libllama has no such"),
    (lambda file: file.update(pre_tokenizer={"type": "Whitespace"}), ModelUnsupported, "Whitespace"),
    (lambda file: file["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True), ModelUnsupported, "Byte"),
    (lambda file: file.update(post_processor={"type": "TemplateProcessing"}), ModelCorrupt, "post-processor"),
    (lambda file: file["model"].update(byte_fallback=True), ModelUnsupported, "pre-tokenizer"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "error", "words"), CHANGES)
def test_a_broken_file_is_refused(
    tmp_path: Path, change: Callable[[Tokenizer], object], error: type[AmaliaError], words: str
) -> None:
    with pytest.raises(error, match=words):
        convert_changed(tmp_path, byte_level_bpe("qwen2"), change)


def test_sentencepiece_without_a_byte_s_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnsupported, match="no token for the byte 0x41"):
        convert_changed(tmp_path, sentencepiece_json(), lambda file: file["model"]["vocab"].pop("<0x41>"))


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from(["BPE", "Sequence"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), sentencepiece_type=st.booleans())
def test_no_file_makes_anything_but_our_errors(tmp_path: Path, data: st.DataObject, sentencepiece_type: bool) -> None:
    file = sentencepiece_json(prefix=True) if sentencepiece_type else byte_level_bpe("qwen2")
    at: Any = file
    for _ in range(data.draw(st.integers(0, 5))):
        inside = at if isinstance(at, dict) else range(len(at))
        key = data.draw(st.sampled_from(list(inside)[:30])) if len(at) else None
        if key is None or not isinstance(at[key], dict | list):
            break
        at = at[key]
    if len(at):
        at[data.draw(st.sampled_from(list(at if isinstance(at, dict) else range(len(at)))[:30]))] = data.draw(JUNK)
    with contextlib.suppress(AmaliaError):
        pack(convert_changed(tmp_path, file, lambda file: None))


def convert_changed(folder: Path, file: Tokenizer, change: Callable[[Tokenizer], object]) -> Metadata:
    """Change a tokenizer and convert it for an embedding of 470 rows."""
    change(file)
    (folder / "tokenizer.json").write_text(json.dumps(file), "ascii")
    return describe(folder, 470)


def contents(entries: Metadata, key: str) -> tuple[Any, ...]:
    found = entries[f"tokenizer.ggml.{key}"].content
    assert isinstance(found, tuple)
    return found
