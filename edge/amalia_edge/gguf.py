"""A GGUF header, read without trusting it, before libllama sees the file.

    "GGUF" version:u32 tensors:u64 keys:u64
    keys    × { name:string kind:u32 value }              string = length:u64 bytes; array = kind:u32 count:u64 values
    tensors × { name:string rank:u32 sides:u64[rank] type:u32 offset:u64 }
    padding to general.alignment, then the tensors' data, each at its offset

Every count is held against the bytes that are left before anything is allocated or walked.
"""

import math
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from amalia_edge.errors import ModelCorrupt, ModelNotFound, ModelUnsupported

MAGIC = b"GGUF"
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9
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
MOST_BLOCKS, MOST_EXPERTS = 512, 1024  # libllama aborts above them
ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")


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
    offset: int  # from the start of the file
    nbytes: int


@dataclass(frozen=True)
class Header:
    path: Path
    version: int
    metadata: dict[str, Any]
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    file_size: int
    spans: dict[str, tuple[int, int]] = field(default_factory=dict, repr=False)  # where each key's kind and value lie

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    @property
    def name(self) -> str:
        return str(self.metadata.get("general.name", "")) or self.path.stem

    def number(self, key: str, default: int = 0) -> int:
        """Give an architecture's own whole number: `number("context_length")` reads `llama.context_length`."""
        found = self.metadata.get(f"{self.architecture}.{key}", default)
        return found if isinstance(found, int) else default

    def numbers(self, key: str) -> list[Any]:
        """Read an array of numbers by its whole key; a number alone is a list of one, and no such key an empty one."""
        found = self.metadata.get(key)
        if isinstance(found, Array):
            return [] if found.kind == STRING else self._read(found)
        return [found] if isinstance(found, int | float) else []

    def strings(self, key: str) -> list[bytes]:
        """Read an array of strings by its whole key, as bytes, for a token need not be whole UTF-8."""
        found = self.metadata.get(key)
        return self._read(found) if isinstance(found, Array) and found.kind == STRING else []

    def _read(self, array: Array) -> list[Any]:
        try:
            with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                reader = _Reader(self.path, view, len(view))
                reader.at = array.offset
                if array.kind == STRING:
                    return [reader.take(reader.scalar(10)) for _ in range(array.count)]
                layout = f"<{array.count}{SCALARS[array.kind][1:]}"
                return list(struct.unpack(layout, reader.take(struct.calcsize(layout))))
        except (OSError, ValueError) as problem:  # the file is gone, or empty, since its header was read
            raise ModelNotFound(str(self.path), str(problem), "leave the file in its place") from None

    @property
    def trained_context(self) -> int:
        return self.number("context_length")

    @cached_property
    def parameters(self) -> int:
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    @cached_property
    def weight_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        return self.weight_bytes * 8 / self.parameters if self.parameters else 0.0

    @property
    def level(self) -> str:
        """Give the level's name by the file's own word, else by its commonest tensor type."""
        kinds: dict[str, int] = {}
        for tensor in self.tensors:
            kinds[tensor.kind] = kinds.get(tensor.kind, 0) + tensor.nbytes
        commonest = max(kinds, key=lambda kind: kinds[kind], default="?")
        return FILE_TYPES.get(self.metadata.get("general.file_type", -1), commonest)

    @property
    def is_ours(self) -> bool:
        """Say whether this is AMÁLIA or fadinho, by general.*: only they get our default system prompt."""
        names = [str(self.metadata.get(f"general.{key}", "")) for key in ("name", "basename")]
        return any(name.lower().startswith(("amalia", "amália", "fadinho")) for name in names)


FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE", 39: "NVFP4",
    40: "Q1_0", 41: "Q2_0",
}  # fmt: skip


def read_header(path: Path, *, model: bool = True) -> Header:
    """Read and check a GGUF's header; refuse it with the byte where it breaks the format.

    `model=False` is for files in the format that are no whole model: importance data, one part of a split file.
    """
    try:
        if not path.exists():
            raise ModelNotFound(str(path), "no such file", "give a GGUF file, a stored name, or fadinho")
        if not path.is_file():
            raise ModelNotFound(
                str(path), "not a file", "give a GGUF file; a checkpoint folder goes through amalia convert"
            )
        size = path.stat().st_size
        with path.open("rb") as file:
            if size < 24:
                raise ModelCorrupt(
                    str(path), f"{size} bytes, too short for a GGUF header", "download or convert it again"
                )
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                return _Reader(path, view, size).header(model=model)
    except OSError as problem:
        raise ModelNotFound(str(path), problem.strerror or str(problem), "check the file and its permissions") from None


class _Reader:
    """A cursor over the mapped file that never steps past its end."""

    def __init__(self, path: Path, view: mmap.mmap, size: int) -> None:
        self.path, self.view, self.size, self.at = path, view, size, 0

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

    def value(self) -> Any:
        kind = self.scalar(4)
        if kind == STRING:
            return self.string(self.size)
        return self.array() if kind == ARRAY else self.scalar(kind)

    def array(self) -> Array:
        kind, count = self.scalar(4), self.scalar(10)
        left = self.size - self.at
        if kind == STRING:
            if count > left // 8:
                raise self.fail(f"an array of {count} strings in {left} bytes")
            start = self.at
            for _ in range(count):
                self._skip_string()
            return Array(kind, count, start)
        layout = SCALARS.get(kind)
        if layout is None:
            raise self.fail(f"an array of unknown kind {kind}")
        width = struct.calcsize(layout)
        if count > left // width:
            raise self.fail(f"an array of {count} values in {left} bytes")
        self.at += count * width
        return Array(kind, count, self.at - count * width)

    def _skip_string(self) -> None:
        if self.size - self.at < 8:
            raise self.fail("wanted a string's length, the file ends")
        (length,) = struct.unpack_from("<Q", self.view, self.at)
        if length > self.size - self.at - 8:
            raise self.fail(f"a string of {length} bytes, {self.size - self.at - 8} left")
        self.at += 8 + length

    def header(self, *, model: bool) -> Header:
        if self.take(4) != MAGIC:
            self.at = 0
            raise self.fail(f"{self.view[:4]!r}, wanted {MAGIC!r}: not a GGUF file")
        version = self.scalar(4)
        if version not in (2, 3):
            raise ModelUnsupported(
                self.path.name, f"GGUF version {version}", "versions 2 and 3 are known; convert it again"
            )
        tensor_count, key_count = self.scalar(10), self.scalar(10)
        if key_count > MOST_KEYS or tensor_count > MOST_TENSORS:
            raise self.fail(f"{key_count} keys and {tensor_count} tensors, more than any model has")
        metadata: dict[str, Any] = {}
        spans: dict[str, tuple[int, int]] = {}
        for _ in range(key_count):
            key = self.string(LONGEST_NAME)
            if key in metadata:
                raise self.fail(f"the key {key!r} twice")
            start = self.at
            metadata[key] = self.value()
            spans[key] = start, self.at
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 8 <= alignment <= WIDEST_ALIGNMENT or alignment & (alignment - 1):
            raise self.fail(f"an alignment of {alignment}")
        raw = [self._tensor() for _ in range(tensor_count)]
        data_offset = -(-self.at // alignment) * alignment
        tensors = self._placed(raw, data_offset, alignment)
        if model:
            self._check_numbers(metadata)
        return Header(self.path, version, metadata, tensors, data_offset, self.size, spans)

    def _tensor(self) -> TensorInfo:
        name = self.string(LONGEST_NAME)
        rank = self.scalar(4)
        if not 1 <= rank <= DEEPEST_RANK:
            raise self.fail(f"tensor {name!r} of rank {rank}")
        shape = tuple(self.scalar(10) for _ in range(rank))
        kind, offset = self.scalar(4), self.scalar(10)
        if kind not in BLOCKS:
            raise ModelUnsupported(
                f"{self.path.name}: tensor {name}", f"block type {kind}", "a newer amalia may know it"
            )
        label, weights, nbytes = BLOCKS[kind]
        count = math.prod(shape)
        if count == 0 or count >= 1 << 63 or shape[0] % weights:
            raise self.fail(f"tensor {name!r} of shape {shape} in blocks of {weights}")
        return TensorInfo(name, shape, label, offset, count // weights * nbytes)

    def _placed(self, raw: list[TensorInfo], data_offset: int, alignment: int) -> tuple[TensorInfo, ...]:
        """Give each tensor its place in the file, after checking that it lies inside it, aligned and on nobody else's."""
        names = {tensor.name for tensor in raw}
        if len(names) != len(raw):
            raise self.fail("two tensors of one name")
        placed, end, before = [], data_offset, ""
        for tensor in sorted(raw, key=lambda tensor: tensor.offset):
            start = data_offset + tensor.offset
            where = f"{self.path.name}: tensor {tensor.name}"
            if tensor.offset % alignment:
                raise ModelCorrupt(
                    where, f"offset {tensor.offset} is not a multiple of {alignment}", "convert it again"
                )
            if start < end:
                raise ModelCorrupt(where, f"begins inside {before}", "convert it again")
            if start + tensor.nbytes > self.size:
                missing = start + tensor.nbytes - self.size
                raise ModelCorrupt(where, f"the file ends {missing:,} bytes too early", "download or convert it again")
            end, before = start + tensor.nbytes, tensor.name
            placed.append(TensorInfo(tensor.name, tensor.shape, tensor.kind, start, tensor.nbytes))
        return tuple(placed)

    def _check_numbers(self, metadata: dict[str, Any]) -> None:
        """Refuse the numbers that crash libllama."""
        self._check_whole(metadata)
        architecture = metadata.get("general.architecture")
        if not isinstance(architecture, str):
            raise ModelCorrupt(self.path.name, "no general.architecture", "is it a model? convert it again")
        blocks = metadata.get(f"{architecture}.block_count", 1)
        if not isinstance(blocks, int) or not 1 <= blocks <= MOST_BLOCKS:
            raise ModelCorrupt(self.path.name, f"{blocks} layers", f"1 to {MOST_BLOCKS} can be run")
        self._check_kind(metadata, architecture)
        for reason in _contradictions(metadata, architecture, blocks):
            raise ModelCorrupt(self.path.name, reason, "convert it again")
        for key, value in metadata.items():
            if isinstance(value, float) and key.startswith(f"{architecture}."):
                bad = not math.isfinite(value) or ("epsilon" in key and value <= 0)
                if bad:
                    raise ModelCorrupt(f"{self.path.name}: {key}", f"{value}", "convert it again")

    def _check_whole(self, metadata: dict[str, Any]) -> None:
        """Refuse a part of a model; only the first one says what the model is."""
        part, parts = metadata.get("split.no"), metadata.get("split.count", 1)
        if parts not in (0, 1):
            found = f"part {part + 1} of {parts}" if isinstance(part, int) else f"one of {parts} parts"
            raise ModelUnsupported(self.path.name, found, "join them: llama-gguf-split --merge FIRST OUT")

    def _check_kind(self, metadata: dict[str, Any], architecture: str) -> None:
        """Refuse what is sound and yet not for us."""
        scaling = metadata.get(f"{architecture}.rope.scaling.type", "none")
        if scaling not in ROPE_SCALINGS:
            raise ModelUnsupported(self.path.name, f"RoPE scaling {scaling!r}", "known: " + ", ".join(ROPE_SCALINGS))


def _contradictions(metadata: dict[str, Any], architecture: str, blocks: int) -> Iterator[str]:
    """Say which counts would make libllama abort; a count per layer, which is an array, is libllama's to check."""
    names = ("expert_count", "expert_used_count", "expert_group_count", "expert_group_used_count")
    told = [metadata.get(f"{architecture}.{name}", 0) for name in names]
    if all(isinstance(count, int) for count in told):
        experts, used, groups, groups_used = told
        if not 0 <= experts <= MOST_EXPERTS or not 0 <= used <= experts or (used == 0) != (experts == 0):
            yield f"{used} of {experts} experts used"
        elif groups and not (0 < groups < experts):
            yield f"{groups} groups of {experts} experts"
        elif groups > 1 and (experts % groups or not 0 < groups_used < groups):
            yield f"{groups_used} of {groups} groups of {experts} experts used"
    for name in ("nextn_predict_layers", "posnet.block_count", "convnext.block_count"):
        count = metadata.get(f"{architecture}.{name}", 0)
        if isinstance(count, int) and not 0 <= count <= blocks:
            yield f"{name} {count} of {blocks} layers"
