"""The vocabulary libllama reads from our GGUF gives the ids SentencePiece gives."""

from pathlib import Path

import pytest
import sentencepiece

from amalia_convert.checkpoint import Checkpoint, open_checkpoint
from amalia_convert.conversion import ConvertConfig, convert
from amalia_convert.vocab import describe_vocabulary
from amalia_edge.errors import CheckpointIncomplete, ModelCorrupt, ModelUnsupported
from checkpoints import PORTUGUESE, Tiny, sentencepiece_model, tokenizer_config, write_checkpoint, write_json
from tokenizer_files import describe, sentencepiece_json, train_sentencepiece, write_vocabulary

from .conftest import Converted
from .oracle import open_vocabulary, tokenize

SAMPLES = [
    *PORTUGUESE.splitlines(),
    PORTUGUESE,
    "À noite, ouviu-se o «fado» — 1.ª e 2.º lugar, nº 37: 12 345,67 €.",
    "Diz-me: vê-lo-ás amanhã? Fá-lo-íamos, se pudéssemos!",
    "tabulador\taqui\n\n\nlinhas  e   espaços    vários ",
    " começa por espaço",
    "😀🇵🇹 emoji, 中文, русский, ẽ́",
    "for (int i = 0; i < 10; ++i) { x[i] = 'ç'; }",
    "<|im_end|> no meio do texto",
    "a",
    " ",
    "\n",
]


@pytest.mark.parametrize("text", SAMPLES)
def test_token_ids_are_sentencepiece_s(converted: Converted, text: str) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
    with open_vocabulary(converted.path("BF16")) as vocabulary:
        assert tokenize(vocabulary, text) == processor.encode(text)


def test_a_model_that_puts_a_space_first_keeps_doing_so(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "prefixed", Tiny(layers=1, feed_forward=64, hidden=64, heads=2, head_dim=32))
    model = train_sentencepiece(normalization_rule_name="identity", remove_extra_whitespaces=False)
    (folder / "tokenizer.model").write_bytes(model)
    write_json(folder / "tokenizer_config.json", {"add_bos_token": True})  # silent about the space
    (receipt,) = convert(ConvertConfig(str(folder), ("F16",), tmp_path))
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    with open_vocabulary(tmp_path / receipt.output) as vocabulary:
        for text in ("Bom dia, avó!", "a  b"):
            assert tokenize(vocabulary, text) == processor.encode(text)


def test_the_first_five_ids_are_control_tokens(checkpoint: Path) -> None:
    entries = describe_vocabulary(open_checkpoint(checkpoint), 416)
    tokens, types = entries["tokenizer.ggml.tokens"].content, entries["tokenizer.ggml.token_type"].content
    assert isinstance(tokens, tuple) and isinstance(types, tuple)
    assert tokens[:5] == ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
    assert types[:5] == (3, 3, 3, 3, 3)
    assert tokens[400:402] == ("[PAD400]", "[PAD401]") and types[400:] == (5,) * 16  # the embedding has 16 more rows


def test_special_ids_and_flags_are_written(checkpoint: Path) -> None:
    entries = describe_vocabulary(open_checkpoint(checkpoint), 416)
    wanted = {"bos_token_id": 1, "eos_token_id": 4, "padding_token_id": 2, "unknown_token_id": 0,
              "add_bos_token": True, "add_eos_token": False, "add_space_prefix": False, "pre": "default"}  # fmt: skip
    assert {key: entries[f"tokenizer.ggml.{key}"].content for key in wanted} == wanted


def test_the_configuration_s_id_serves_where_the_tokenizer_s_is_silent(checkpoint: Path) -> None:
    write_json(checkpoint / "tokenizer_config.json", {})
    entries = describe_vocabulary(open_checkpoint(checkpoint), 416)
    assert entries["tokenizer.ggml.eos_token_id"].content == 4


def test_the_template_s_own_file_wins(checkpoint: Path) -> None:
    write_json(checkpoint / "tokenizer_config.json", tokenizer_config() | {"chat_template": "old"})
    template = (checkpoint / "chat_template.jinja").read_text("utf-8")
    assert describe_vocabulary(open_checkpoint(checkpoint), 416)["tokenizer.chat_template"].content == template
    (checkpoint / "chat_template.jinja").unlink()
    assert describe_vocabulary(open_checkpoint(checkpoint), 416)["tokenizer.chat_template"].content == "old"


def test_named_templates_keep_their_names(checkpoint: Path) -> None:
    (checkpoint / "chat_template.jinja").unlink()
    named = [{"name": "default", "template": "d"}, {"name": "tool use", "template": "t"}]
    write_json(checkpoint / "tokenizer_config.json", tokenizer_config() | {"chat_template": named})
    entries = describe_vocabulary(open_checkpoint(checkpoint), 416)
    assert entries["tokenizer.chat_template"].content == "d"
    assert entries["tokenizer.chat_template.tool_use"].content == "t"
    assert entries["tokenizer.chat_templates"].content == ("tool_use",)


def test_a_tokenizer_larger_than_the_embedding_is_refused(checkpoint: Path) -> None:
    with pytest.raises(CheckpointIncomplete, match="400 pieces, and the embedding 399 rows"):
        describe_vocabulary(open_checkpoint(checkpoint), 399)


def test_an_added_token_beyond_the_embedding_is_refused(checkpoint: Path) -> None:
    write_json(checkpoint / "added_tokens.json", {"<novo>": 416})
    with pytest.raises(
        CheckpointIncomplete, match=r"adds the token 416, '<novo>'.*remove '<novo>' from added_tokens\.json"
    ):
        describe_vocabulary(open_checkpoint(checkpoint), 416)


@pytest.mark.parametrize("decoder", [[], {"x": {}}, {"5": {}}, {"5": {"content": 3}}, {"-1": {"content": "a"}}])
def test_broken_added_tokens_are_refused(checkpoint: Path, decoder: object) -> None:
    write_json(checkpoint / "tokenizer_config.json", {"added_tokens_decoder": decoder})
    with pytest.raises(ModelCorrupt, match=r"tokenizer_config\.json"):
        describe_vocabulary(open_checkpoint(checkpoint), 416)


def test_what_is_no_sentencepiece_model_is_refused(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.model").write_bytes(b"not a model at all")
    with pytest.raises(ModelCorrupt, match="SentencePiece"):
        describe_vocabulary(open_checkpoint(checkpoint), 416)


def test_a_sentencepiece_model_of_no_bytes_is_refused(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.model").write_bytes(b"")
    with pytest.raises(ModelCorrupt, match="not a SentencePiece model"):
        describe(checkpoint, 416)


@pytest.mark.parametrize(("found", "words"), [("ç", "piece [0-9]+ is not UTF-8"), ("çé", "not a SentencePiece model")])
def test_pieces_that_are_not_utf_8_are_refused(checkpoint: Path, found: str, words: str) -> None:
    model = sentencepiece_model()
    for letter in found:  # the second time SentencePiece itself says so, in a message that is not UTF-8 either
        model = model.replace(letter.encode(), b"\xff\xfe")
    (checkpoint / "tokenizer.model").write_bytes(model)
    with pytest.raises(ModelCorrupt, match=words):
        describe(checkpoint, 416)


def test_a_unigram_model_is_refused(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.model").write_bytes(train_sentencepiece(model_type="unigram", vocab_size=340))
    with pytest.raises(ModelUnsupported, match="a unigram model, and libllama merges by BPE"):
        describe(checkpoint, 416)


def test_user_defined_pieces_of_the_model_are_recognised(tmp_path: Path) -> None:
    model = train_sentencepiece(
        user_defined_symbols=["lisboeta", "▁▁▁"], normalization_rule_name="identity", add_dummy_prefix=False,
        remove_extra_whitespaces=False,
    )  # fmt: skip
    (tmp_path / "tokenizer.model").write_bytes(model)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    with open_vocabulary(write_vocabulary(tmp_path / "x.gguf", describe(tmp_path, 400))) as vocabulary:
        for text in ("uma lisboeta", "lisboetas", "a    b"):
            assert tokenize(vocabulary, text) == processor.encode(text)


def test_a_user_defined_piece_that_means_control_is_not_recognised_in_text(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(train_sentencepiece(user_defined_symbols=["<|im_start|>"]))
    types = describe(tmp_path, 400)["tokenizer.ggml.token_type"].content
    assert isinstance(types, tuple) and types[3] == 3


def test_a_missing_tokenizer_is_said(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.model").unlink()
    with pytest.raises(CheckpointIncomplete, match=r"no tokenizer\.model and no tokenizer\.json"):
        describe(checkpoint, 416)


def test_tokens_of_one_text_are_refused_because_libllama_aborts_on_them(checkpoint: Path) -> None:
    write_json(checkpoint / "added_tokens.json", {"<s>": 405})
    with pytest.raises(ModelUnsupported, match="tokens 1 and 405 are both '<s>'"):
        describe(checkpoint, 416)


def test_a_model_without_byte_fallback_is_refused_because_libllama_aborts_on_its_texts(checkpoint: Path) -> None:
    model = train_sentencepiece(byte_fallback=False, vocab_size=300)
    (checkpoint / "tokenizer.model").write_bytes(model)
    with pytest.raises(ModelUnsupported, match="no token for the byte 0x00"):
        describe(checkpoint, 416)


def test_the_post_processor_of_a_tokenizer_json_beside_the_model_says_what_is_added(checkpoint: Path) -> None:
    write_json(checkpoint / "tokenizer_config.json", tokenizer_config() | {"add_bos_token": False})
    write_json(checkpoint / "tokenizer.json", sentencepiece_json())
    entries = describe(checkpoint, 416)
    assert entries["tokenizer.ggml.add_bos_token"].content is True
    assert entries["tokenizer.ggml.add_sep_token"].content is False


def test_of_several_ends_the_first_is_the_one(checkpoint: Path) -> None:
    write_json(checkpoint / "tokenizer_config.json", {})
    assert describe(checkpoint, 416, eos_token_id=[4, 2])["tokenizer.ggml.eos_token_id"].content == 4


def test_code_llama_s_infill_tokens_are_known_by_its_size(checkpoint: Path) -> None:
    config = {"architectures": ["LlamaForCausalLM"], "vocab_size": 32016}
    entries = describe_vocabulary(Checkpoint(checkpoint, config), 32016)
    assert entries["tokenizer.ggml.middle_token_id"].content == 32009


def test_smol_lm_begins_with_nothing_and_is_known_by_its_size(checkpoint: Path) -> None:
    config = {"architectures": ["LlamaForCausalLM"], "vocab_size": 49152}
    entries = describe_vocabulary(Checkpoint(checkpoint, config), 49152)
    assert entries["tokenizer.ggml.add_bos_token"].content is False


def test_a_user_defined_token_is_looked_for_with_its_spaces(checkpoint: Path) -> None:
    write_json(checkpoint / "tokenizer_config.json", {"added_tokens_decoder": {"405": {"content": "▁a▁b"}}})
    tokens = describe(checkpoint, 416)["tokenizer.ggml.tokens"].content
    assert isinstance(tokens, tuple) and tokens[405] == " a b"


def test_additional_templates_lie_in_their_own_folder(checkpoint: Path) -> None:
    (checkpoint / "additional_chat_templates").mkdir()
    (checkpoint / "additional_chat_templates" / "rag-2.jinja").write_text("r", "utf-8")
    assert describe(checkpoint, 416)["tokenizer.chat_template.rag_2"].content == "r"


def test_a_template_in_the_old_file_serves_where_there_is_no_other(checkpoint: Path) -> None:
    (checkpoint / "chat_template.jinja").unlink()
    write_json(checkpoint / "chat_template.json", {"chat_template": "old"})
    assert describe(checkpoint, 416)["tokenizer.chat_template"].content == "old"
