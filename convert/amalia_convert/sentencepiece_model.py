"""A SentencePiece `tokenizer.model`, and the tokens the Hub's files add to it."""

from pathlib import Path
from typing import Any

from amalia_convert.checkpoint import Json, read_json
from amalia_convert.tokens import ADDED_SCORE, Token, TokenTable, TokenType, added_token, configured_tokens, encodes
from amalia_edge.errors import CheckpointIncomplete, ModelCorrupt

MODEL = "tokenizer.model"
# normalizer_spec (3), two bytes long: add_dummy_prefix (3); protobuf merges what comes twice, and the last value holds.
PREFIX_FIELD = b"\x1a\x02\x18"


def read_sentencepiece(folder: Path, config: Json, size: int) -> TokenTable:
    """Read the pieces with their scores; of two that claim an id the one added later holds."""
    path = folder / MODEL
    processor = load_sentencepiece(path)
    pieces = int(processor.vocab_size())
    if pieces > size:
        found = f"has {pieces} pieces, and the embedding {size} rows"
        raise CheckpointIncomplete(str(path), found, "take both from the same model")
    tokens = {
        index: Token(processor.id_to_piece(index), processor.get_score(index), _type(processor, index))
        for index in range(pieces)
    }
    for index, token in _added(folder, config):
        if not 0 <= index < size:
            found = f"adds the token {index}, and the embedding has {size} rows"
            raise CheckpointIncomplete(str(folder), found, "take both from the same model")
        tokens[index] = token
    return TokenTable(path, "llama", tokens, prefix=puts_space_first(processor, config))


def load_sentencepiece(path: Path, prefix: bool | None = None) -> Any:  # sentencepiece has no types
    """Load a model; `prefix` overrules it on whether a space goes before the text."""
    import sentencepiece

    overruled = b"" if prefix is None else PREFIX_FIELD + bytes([prefix])
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes() + overruled)
    except OSError as error:
        raise CheckpointIncomplete(str(path), f"cannot be read ({error.strerror})", "check the file") from None
    except RuntimeError:  # whatever protobuf says of it helps nobody
        raise ModelCorrupt(str(path), "is not a SentencePiece model", "download the file again") from None


def puts_space_first(processor: Any, config: Json) -> bool:
    prefix = config.get("add_prefix_space")
    if isinstance(prefix, bool):
        return prefix
    # The configuration is silent: do what the SentencePiece model itself does.
    return str(processor.encode("a", out_type=str)[0]).startswith("▁")


def _type(processor: Any, index: int) -> TokenType:
    if processor.is_unknown(index):
        return TokenType.UNKNOWN
    if processor.is_control(index):
        return TokenType.CONTROL
    if processor.is_unused(index):
        return TokenType.UNUSED
    return TokenType.BYTE if processor.is_byte(index) else TokenType.NORMAL


def _added(folder: Path, config: Json) -> list[tuple[int, Token]]:
    added: list[tuple[int, Token]] = []
    path = folder / "added_tokens.json"
    if path.is_file():
        for text, index in read_json(path).items():
            if type(index) is not int or not encodes(text):
                raise ModelCorrupt(str(path), f"{text[:40]!a} has no id", "download the file again")
            added.append((index, Token(text, ADDED_SCORE, TokenType.USER_DEFINED)))
    for index, text, special in configured_tokens(folder / "tokenizer_config.json", config):
        added.append((index, added_token(text, special)))
    return added
