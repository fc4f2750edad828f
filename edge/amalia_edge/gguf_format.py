"""GGUF's layout, and a cursor over a mapped file that never steps past its end.

    "GGUF" version:u32 tensors:u64 keys:u64
    keys    × { name:string kind:u32 value }              string = length:u64 bytes; array = kind:u32 count:u64 values
    tensors × { name:string rank:u32 sides:u64[rank] type:u32 offset:u64 }
    padding to general.alignment, then the tensors' data, each at its offset

Every count is held against the bytes that are left before anything is allocated or walked.
"""

import math
import mmap
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amalia_edge.errors import ModelCorrupt, ModelUnsupported

MAGIC = b"GGUF"
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9
KINDS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "bool", "string", "array", "uint64", "int64", "float64")  # fmt: skip
# ggml type → (name, weights in a block, bytes of a block)
BLOCKS = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4),
    27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18), 42: ("Q2_0", 64, 18),
}  # fmt: skip
MOST_KEYS, MOST_TENSORS, LONGEST_NAME, DEEPEST_RANK, WIDEST_ALIGNMENT = 65_536, 65_536, 65_535, 4, 1 << 16
LONGEST_ARRAY = 1 << 22  # values; merges are the longest, twice the largest vocabulary
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class Array:
    """An array left in the file: what it holds and where; read it with `Header.strings` or `Header.numbers`."""

    kind: int
    count: int
    offset: int


@dataclass(frozen=True)
class TensorInfo:
    name: str
    shape: tuple[int, ...]  # ggml's order: the row length first
    kind: str
    offset: int  # from the start of its file
    nbytes: int
    part: int = 0  # which of `Header.parts` it lies in


@dataclass(frozen=True)
class Layout:
    """One file's header as it stands there: sound in form, its sense unchecked."""

    version: int
    metadata: dict[str, Any]
    kinds: dict[str, int]
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    size: int
    spans: dict[str, tuple[int, int]] = field(repr=False)  # where each key's kind and value lie
    texts: dict[int, list[bytes]] = field(repr=False)  # the strings of each array, by its place


class Cursor:
    """A place in a mapped file; every step is held against the file's end."""

    def __init__(self, path: Path, view: mmap.mmap | bytes, at: int = 0) -> None:
        self.path, self.view, self.size, self.at = path, view, len(view), at
        self.texts: dict[
            int, list[bytes]
        ] = {}  # the strings of each array met, by its place, so that none is walked twice

    def fail(self, found: str) -> ModelCorrupt:
        return ModelCorrupt(f"{self.path.name}: byte {self.at}", found, "download or convert it again")

    def take(self, count: int) -> bytes:
        left = self.size - self.at
        if count > left:
            raise self.fail(f"wanted {count} more, {left} left")
        self.at += count
        return self.view[self.at - count : self.at]

    def scalar(self, kind: int) -> Any:
        layout = SCALARS.get(kind)
        if layout is None:
            raise self.fail(f"unknown value kind {kind}")
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def string(self, longest: int) -> str:
        length = self.scalar(10)
        if length > longest:
            raise self.fail(f"a string of {length} bytes, at most {longest} allowed")
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise self.fail("a string that is not UTF-8") from None

    def strings(self, count: int) -> list[bytes]:
        """Read many strings: a vocabulary is a quarter of a million, so this is one loop with nothing else in it."""
        view, at, unpack = self.view, self.at, _LENGTH.unpack_from
        found: list[bytes] = []
        keep = found.append
        try:
            for _ in range(count):
                start = at + 8
                at = start + unpack(view, at)[0]
                keep(view[start:at])  # cut short where the file ends: the next length is then beyond it
        except (struct.error, OverflowError):
            at = max(at, self.size + 1)
        if at > self.size:
            raise self.fail(f"an array of {count} strings, and the file ends in number {max(1, len(found))}")
        self.at = at
        return found

    def array(self) -> Array:
        """Step over an array, after checking that it is all there."""
        kind, count = self.scalar(4), self.scalar(10)
        left, start = self.size - self.at, self.at
        if count > LONGEST_ARRAY and count <= left:
            raise self.fail(f"an array of {count} values, more than any model has")
        if kind == STRING:
            if count > left // 8:
                raise self.fail(f"an array of {count} strings in {left} bytes")
            self.texts[start] = self.strings(count)
            return Array(kind, count, start)
        layout = SCALARS.get(kind)
        if layout is None:
            raise self.fail(f"an array of unknown kind {kind}")
        width = struct.calcsize(layout)
        if count > left // width:
            raise self.fail(f"an array of {count} values in {left} bytes")
        self.at += count * width
        return Array(kind, count, start)

    def layout(self) -> Layout:
        """Read a whole header; refuse it at the byte where it breaks the format."""
        if self.take(4) != MAGIC:
            self.at = 0
            raise self.fail(f"{self.view[:4]!r}, wanted {MAGIC!r}: not a GGUF file")
        version = self.scalar(4)
        if version not in (2, 3):
            found = f"GGUF version {version}"
            raise ModelUnsupported(self.path.name, found, "versions 2 and 3 are known; convert it again")
        tensor_count, key_count = self.scalar(10), self.scalar(10)
        if key_count > MOST_KEYS or tensor_count > MOST_TENSORS:
            raise self.fail(f"{key_count} keys and {tensor_count} tensors, more than any model has")
        metadata: dict[str, Any] = {}
        kinds, spans = dict[str, int](), dict[str, tuple[int, int]]()
        for _ in range(key_count):
            key = self._key(metadata)
            start, kinds[key] = self.at, self.scalar(4)
            metadata[key] = self._value(kinds[key])
            spans[key] = start, self.at
        alignment = metadata.get("general.alignment", 32)
        if (
            kinds.get("general.alignment", 4) != 4
            or not 8 <= alignment <= WIDEST_ALIGNMENT
            or alignment & alignment - 1
        ):
            raise self.fail(f"an alignment of {alignment}")
        raw = [self._tensor() for _ in range(tensor_count)]
        data_offset = -(-self.at // alignment) * alignment
        tensors = self._placed(raw, data_offset, alignment)
        return Layout(version, metadata, kinds, tensors, data_offset, self.size, spans, self.texts)

    def architecture(self) -> str | None:
        """Find the architecture in a file's beginning, which may be cut short anywhere."""
        with suppress(ModelCorrupt):
            self.at = 16  # behind the magic, the version and the count of tensors
            for _ in range(self.scalar(10)):
                key, value = self.string(LONGEST_NAME), self._value(self.scalar(4))
                if key == "general.architecture":
                    return str(value)
        return None

    def _key(self, known: dict[str, Any]) -> str:
        key = self.string(LONGEST_NAME)
        if not key or key in known:
            raise self.fail(f"the key {key!r} twice" if key else "a key without a name")
        return self._without_nul(key)

    def _without_nul(self, name: str) -> str:
        """Refuse a name that libllama would read as another one: it stops at the first NUL."""
        if "\0" in name:
            raise self.fail(f"a NUL in the name {name!r}")
        return name

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string(self.size)
        return self.array() if kind == ARRAY else self.scalar(kind)

    def _tensor(self) -> TensorInfo:
        name = self._without_nul(self.string(LONGEST_NAME))
        rank = self.scalar(4)
        if not 1 <= rank <= DEEPEST_RANK:
            raise self.fail(f"tensor {name!r} of rank {rank}")
        shape = tuple(self.scalar(10) for _ in range(rank))
        kind, offset = self.scalar(4), self.scalar(10)
        if kind not in BLOCKS:
            where = f"{self.path.name}: tensor {name}"
            raise ModelUnsupported(where, f"block type {kind}", "a newer amalia may know it")
        label, weights, nbytes = BLOCKS[kind]
        count = math.prod(shape)
        if count == 0 or count >= 1 << 63 or shape[0] % weights:
            raise self.fail(f"tensor {name!r} of shape {shape} in blocks of {weights}")
        return TensorInfo(name, shape, label, offset, count // weights * nbytes)

    def _placed(self, raw: list[TensorInfo], data_offset: int, alignment: int) -> tuple[TensorInfo, ...]:
        """Give each tensor its place in the file, after checking that it lies inside it, aligned and on nobody else's."""
        if len({tensor.name for tensor in raw}) != len(raw):
            raise self.fail("two tensors of one name")
        placed, end, before = [], data_offset, ""
        for tensor in sorted(raw, key=lambda tensor: tensor.offset):
            start = data_offset + tensor.offset
            where = f"{self.path.name}: tensor {tensor.name}"
            if tensor.offset % alignment:
                found = f"offset {tensor.offset} is not a multiple of {alignment}"
                raise ModelCorrupt(where, found, "convert it again")
            if start < end:
                raise ModelCorrupt(where, f"begins inside {before}", "convert it again")
            if start + tensor.nbytes > self.size:
                missing = start + tensor.nbytes - self.size
                raise ModelCorrupt(where, f"the file ends {missing:,} bytes too early", "download or convert it again")
            end, before = start + tensor.nbytes, tensor.name
            placed.append(TensorInfo(tensor.name, tensor.shape, tensor.kind, start, tensor.nbytes))
        return tuple(placed)
