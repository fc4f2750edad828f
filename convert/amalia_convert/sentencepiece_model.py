"""A SentencePiece `tokenizer.model`, and the tokens the Hub's files add to it."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from amalia_convert.checkpoint import Json, read_json
from amalia_convert.tokens import ADDED_SCORE, Token, TokenTable, TokenType, added_token, configured_tokens, encodes
from amalia_edge.errors import CheckpointIncomplete, ModelCorrupt, ModelUnsupported

MODEL = "tokenizer.model"
# What is put behind a model overrules it: protobuf merges what comes twice, and the last value holds.
PREFIX_FIELD = b"\x1a\x02\x18"  # normalizer_spec (3), two bytes long: add_dummy_prefix (3)
NOT_NORMALIZED = b"\x1a\x04\x12\x00\x20\x00"  # the same, four: no precompiled_charsmap (2), no space removed (4)
PIECE, TRAINER = 0x0A, 0x12  # protobuf's tags: the field's number, and in three bits how its value is written
TEXT, SCORE, TYPE = 0x0A, 0x15, 0x18  # of a piece
MODEL_TYPE = 0x18  # of the trainer's settings
MODEL_TYPES = {1: "unigram", 2: "BPE", 3: "word", 4: "character"}
WIDTHS = {1: 8, 5: 4}  # bytes, where the tag alone says how many


def read_sentencepiece(folder: Path, config: Json, size: int) -> TokenTable:
    """Read the pieces with their scores; of two that claim an id the one added later holds."""
    path = folder / MODEL
    processor = load_sentencepiece(path)
    pieces = list(_pieces(path, processor.serialized_model_proto()))
    if len(pieces) > size:
        found = f"has {len(pieces)} pieces, and the embedding {size} rows"
        raise CheckpointIncomplete(str(path), found, "take both from the same model")
    defined = {
        index: added_token(piece.text, special=False)
        for index, piece in enumerate(pieces)
        if piece.type == TokenType.USER_DEFINED
    }
    added = dict(_added(folder, config, size))
    found_itself = frozenset(token.text for index, token in defined.items() if index not in added)
    tokens = dict(enumerate(pieces)) | defined | added
    prefix = puts_space_first(processor, config)
    return TokenTable(path, "llama", tokens, prefix=prefix, found_itself=found_itself)


def load_sentencepiece(path: Path, overruled: bytes = b"") -> Any:  # sentencepiece has no types
    """Load a model, with fields that overrule its own."""
    import sentencepiece

    try:
        model = path.read_bytes()
        if model:  # of no bytes sentencepiece makes an object without a model
            return sentencepiece.SentencePieceProcessor(model_proto=model + overruled)
    except OSError as error:
        raise CheckpointIncomplete(str(path), f"cannot be read ({error.strerror})", "check the file") from None
    except (RuntimeError, UnicodeDecodeError):  # whatever protobuf says of it helps nobody, and may not be UTF-8
        pass
    raise ModelCorrupt(str(path), "is not a SentencePiece model", "download the file again")


def puts_space_first(processor: Any, config: Json) -> bool:
    prefix = config.get("add_prefix_space")
    if isinstance(prefix, bool):
        return prefix
    # The configuration is silent: do what the SentencePiece model itself does.
    return "".join(processor.encode("a", out_type=str)).startswith("▁")


def _pieces(path: Path, model: bytes) -> Iterator[Token]:
    """Read the pieces out of the protobuf, for the library does not say which are user-defined."""
    index, kind = 0, 1  # protobuf leaves out what has its default
    try:
        for tag, value in _fields(model):
            if tag == PIECE:
                piece = dict(_fields(value))
                (score,) = struct.unpack("<f", piece.get(SCORE, bytes(4)))
                yield Token(piece[TEXT].decode("utf-8"), score, TokenType(piece.get(TYPE, 1)))
                index += 1
            elif tag == TRAINER:
                kind = dict(_fields(value)).get(MODEL_TYPE, 1)
    except (LookupError, ValueError):
        found = f"piece {index} is not UTF-8, or of no known type"
        raise ModelCorrupt(str(path), found, "download the file again") from None
    if kind != 2:
        found = f"a {MODEL_TYPES.get(kind, kind)} model, and libllama merges by BPE"
        raise ModelUnsupported(str(path), found, "take a checkpoint with a BPE model")


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Read a protobuf message that its own library wrote: each field's tag, and its value as a number or as bytes."""
    at = 0
    while at < len(message):
        tag, at = _number(message, at)
        number, at = _number(message, at) if tag & 7 in (0, 2) else (WIDTHS[tag & 7], at)
        if tag & 7:  # the number is how many bytes there are
            yield tag, message[at : at + number]
            at += number
        else:
            yield tag, number


def _number(message: bytes, at: int) -> tuple[int, int]:
    """Read a number of seven bits a byte, the last of them below 128; gives where it ends too."""
    number = shift = 0
    while message[at] > 127:
        number, shift, at = number | (message[at] & 127) << shift, shift + 7, at + 1
    return number | message[at] << shift, at + 1


def _added(folder: Path, config: Json, size: int) -> Iterator[tuple[int, Token]]:
    for path, index, token in _listed(folder, config):
        if not 0 <= index < size:
            found = f"adds the token {index}, {token.text[:40]!a}, and the embedding has {size} rows"
            advice = f"take both from the same model, or remove {token.text[:40]!a} from {path.name}"
            raise CheckpointIncomplete(str(path), found, advice)
        yield index, token


def _listed(folder: Path, config: Json) -> Iterator[tuple[Path, int, Token]]:
    path = folder / "added_tokens.json"
    if path.is_file():
        for text, index in read_json(path).items():
            if type(index) is not int or not encodes(text):
                raise ModelCorrupt(str(path), f"{text[:40]!a} has no id", "download the file again")
            yield path, index, Token(text, ADDED_SCORE, TokenType.USER_DEFINED)
    path = folder / "tokenizer_config.json"
    for index, text, special in configured_tokens(path, config):
        yield path, index, added_token(text, special)
