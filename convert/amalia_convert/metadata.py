"""GGUF's key/value pairs: what a file says of itself, each value with the type it is written as."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["uint32", "int32", "uint64", "float32", "bool", "string"]
Scalar = int | float | bool | str | bytes


@dataclass(frozen=True)
class Value:
    """One value; a tuple is written as an array of its kind."""

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
