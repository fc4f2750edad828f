"""What a GGUF's header says of a model: its numbers, its tensors, and its arrays, read from the file when asked for."""

import math
import mmap
import struct
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from amalia_edge.errors import ModelNotFound
from amalia_edge.gguf_format import SCALARS, STRING, Array, Cursor, TensorInfo


@dataclass(frozen=True)
class Header:
    path: Path  # of the first part, where the model is in parts
    version: int
    metadata: dict[str, Any]
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    file_size: int
    spans: dict[str, tuple[int, int]] = field(default_factory=dict, repr=False)  # where each key's kind and value lie
    kinds: dict[str, int] = field(default_factory=dict, repr=False)  # of each key's value, as KINDS names them
    parts: tuple[Path, ...] = ()  # the files of the model, in order: one, unless it is split
    texts: dict[int, list[bytes]] = field(default_factory=dict, repr=False, compare=False)  # while it is being checked

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
        if not isinstance(found, Array) or found.kind != STRING:
            return []
        return self.texts[found.offset] if found.offset in self.texts else self._read(found)

    def _read(self, array: Array) -> list[Any]:
        try:
            with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                cursor = Cursor(self.path, view, array.offset)
                if array.kind == STRING:
                    return cursor.strings(array.count)
                layout = f"<{array.count}{SCALARS[array.kind][1:]}"
                return list(struct.unpack(layout, cursor.take(struct.calcsize(layout))))
        except (OSError, ValueError) as problem:  # the file is gone, or empty, since its header was read
            raise ModelNotFound(str(self.path), str(problem), "leave the file in its place") from None

    @property
    def trained_context(self) -> int:
        return self.number("context_length")

    @property
    def longest_context(self) -> int | None:
        """Give the longest context that can be run, where positions are learned: libllama aborts on the one after it."""
        return next((one.shape[-1] for one in self.tensors if one.name == "position_embd.weight"), None)

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
