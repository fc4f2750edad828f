"""GGUF's key/value pairs: what a file says of itself, each value with the type it is written as."""

import struct
from dataclasses import dataclass
from typing import Literal

from amalia_edge.errors import ModelCorrupt

Kind = Literal["uint32", "int32", "uint64", "float32", "bool", "string", "raw"]
Scalar = int | float | bool | str | bytes

STRING, ARRAY = 8, 9  # GGUF's numbers for the two kinds that are not one number
_LAYOUT = {"uint32": (4, "I"), "int32": (5, "i"), "float32": (6, "f"), "bool": (7, "?"), "uint64": (10, "Q")}


@dataclass(frozen=True)
class Value:
    """One value; a tuple is written as an array of its kind, and raw bytes as another GGUF held them."""

    kind: Kind
    content: Scalar | tuple[Scalar, ...]


Metadata = dict[str, Value]  # in the order in which it is written


def uint32(content: int | tuple[int, ...]) -> Value:
    return Value("uint32", content)


def int32(content: int | tuple[int, ...]) -> Value:
    return Value("int32", content)


def float32(content: float | tuple[float, ...]) -> Value:
    return Value("float32", content)


def boolean(content: bool) -> Value:
    return Value("bool", content)


def string(content: str | bytes | tuple[str | bytes, ...]) -> Value:
    return Value("string", content)


def pack(metadata: Metadata) -> bytes:
    """Write key/value pairs as GGUF holds them: key, number of the kind, content."""
    parts: list[bytes] = []
    for key, value in metadata.items():
        try:
            parts += [pack_text(key), _pack_value(value)]
        except (UnicodeEncodeError, OverflowError, struct.error) as error:
            found = f"the value of {key[:80]!a} is one GGUF cannot hold ({str(error)[:120]})"
            advice = "look at README.md, generation_config.json and the tokenizer"
            raise ModelCorrupt("metadata", found, advice) from None
    return b"".join(parts)


def pack_text(text: str | bytes) -> bytes:
    content = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(content)) + content


def _pack_value(value: Value) -> bytes:
    content = value.content
    if value.kind == "raw":
        assert isinstance(content, bytes)
        return content
    if value.kind == "string":
        if isinstance(content, tuple):
            return struct.pack("<IIQ", ARRAY, STRING, len(content)) + b"".join(map(pack_text, content))  # type: ignore[arg-type]
        return struct.pack("<I", STRING) + pack_text(content)  # type: ignore[arg-type]
    number, letter = _LAYOUT[value.kind]
    if isinstance(content, tuple):
        return struct.pack(f"<IIQ{len(content)}{letter}", ARRAY, number, len(content), *content)
    return struct.pack(f"<I{letter}", number, content)
