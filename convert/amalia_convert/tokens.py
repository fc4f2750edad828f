"""The tokens of a vocabulary as GGUF holds them: text, score and kind, and what the Hub's files add to them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from amalia_convert.checkpoint import Json
from amalia_edge.errors import CheckpointIncomplete, ModelCorrupt, ModelUnsupported

ADDED_SCORE, UNUSED_SCORE = -1000.0, -10000.0  # what llama.cpp's converter writes

SURROGATE = re.compile("[\ud800-\udfff]")


class TokenType(IntEnum):
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Token:
    text: str
    score: float
    type: TokenType


@dataclass(frozen=True)
class TokenTable:
    """What one tokenizer file says: its tokens by id, and how libllama is to use them."""

    path: Path
    model: str  # "llama": merges by score; "gpt2": merges by their list
    tokens: dict[int, Token]
    pre: str = "default"
    merges: tuple[str, ...] = ()
    prefix: bool = False  # a space goes before the text
    found_itself: frozenset[str] = frozenset()  # user-defined tokens that only the SentencePiece model knows of


def added_token(text: str, special: bool) -> Token:
    """Make a token that was added to the trained ones."""
    if special or _looks_special(text):
        return Token(text, ADDED_SCORE, TokenType.CONTROL)
    # libllama looks for user-defined tokens in the text before spaces are escaped
    return Token(text.replace("▁", " "), ADDED_SCORE, TokenType.USER_DEFINED)


def _looks_special(text: str) -> bool:
    """Recognise tokens that were meant as control tokens and not marked so (llama.cpp's list)."""
    marks = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))
    return text in ("<pad>", "<mask>", "<2mass>", "[@BOS@]") or any(
        text.startswith(begin) and text.endswith(end) for begin, end in marks
    )


def configured_tokens(path: Path, config: Json) -> Iterator[tuple[int, str, bool]]:
    """List the tokens tokenizer_config.json adds: id, text, and whether it is special."""
    decoder = config.get("added_tokens_decoder", {})
    if not isinstance(decoder, dict):
        raise ModelCorrupt(str(path), "added_tokens_decoder is not an object", "download the file again")
    for index, entry in decoder.items():
        if not (index.isascii() and index.isdecimal() and len(index) < 10) or not isinstance(entry, dict):
            raise ModelCorrupt(str(path), f"added token {index[:40]!r} is not an id and an object", "download it again")
        text = entry.get("content")
        if not isinstance(text, str) or not encodes(text):
            raise ModelCorrupt(str(path), f"added token {index} has no text", "download the file again")
        yield int(index), text, bool(entry.get("special"))


def complete(table: TokenTable, size: int) -> list[Token]:
    """Fill the table up to the embedding's rows, and refuse what libllama would die of."""
    last = max(table.tokens, default=-1)
    if last >= size:
        found = f"has the token {last}, and the embedding {size} rows"
        raise CheckpointIncomplete(str(table.path), found, "take both from the same model")
    unused = (Token(f"[PAD{index}]", UNUSED_SCORE, TokenType.UNUSED) for index in range(size))
    tokens = [table.tokens.get(index, filler) for index, filler in enumerate(unused)]
    seen: dict[str, int] = {}
    for index, token in enumerate(tokens):
        if "\0" in token.text:
            found = f"token {index} holds a zero byte, and a GGUF's readers stop at one"
            raise ModelUnsupported(str(table.path), found, "take another model")
        if seen.setdefault(token.text, index) != index:  # libllama aborts the process on it
            found = f"tokens {seen[token.text]} and {index} are both {token.text[:40]!a}"
            raise ModelUnsupported(str(table.path), found, "take another model")
    for byte in range(256 if table.model == "llama" else 0):
        if f"<0x{byte:02X}>" not in seen:  # libllama aborts at the first letter that is no token
            found = f"has no token for the byte 0x{byte:02X}: libllama cannot read every text with it"
            raise ModelUnsupported(str(table.path), found, "take a model with byte fallback")
    return tokens


def encodes(text: str) -> bool:
    """Say whether a text is UTF-8 once written: JSON can hold half a surrogate pair."""
    return text.isascii() or not SURROGATE.search(text)
