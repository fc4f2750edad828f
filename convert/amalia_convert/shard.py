"""One safetensors file: its header, believed only after every number in it has been checked.

A file is a little-endian u64 (the header's length), the header (a JSON object), and the tensors' bytes:

    {"__metadata__": {"format": "pt"}, "model.norm.weight": {"dtype": "BF16", "shape": [256], "data_offsets": [0, 512]}}

Offsets count from the header's end, and cover the rest of the file without a hole or an overlap.
"""

import json
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from amalia_edge.errors import CheckpointIncomplete, ModelCorrupt

HEADER_LIMIT = 100_000_000  # bytes; the format's own limit
DIMENSION_LIMIT = 8
SIZE_LIMIT = 2**63  # bytes; no tensor is larger, and no sum of sizes overflows a file offset

# Bits of one element. Only some can be converted (families.py); the others may lie in a sound file.
ELEMENT_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


@dataclass(frozen=True)
class StoredTensor:
    """Say where a tensor's bytes lie; `offset` counts from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]  # (rows, columns), or (columns,)
    path: Path  # of its file; for a file that is not here, the name it goes by
    offset: int
    nbytes: int

    @property
    def rows(self) -> int:
        return math.prod(self.shape[:-1])


def parse_tensors(path: Path, size: int, read: Callable[[int, int], bytes]) -> list[StoredTensor]:
    """List a safetensors file's tensors in the order of their bytes, or say which byte or name breaks the format.

    `read(offset, nbytes)` gives bytes of the file, which is `size` bytes long; fewer where it ends.
    """
    length = _header_length(path, read(0, 8), size)
    header = _parse(path, read(8, length))
    start = 8 + length
    header.pop("__metadata__", None)
    tensors = sorted((_tensor(path, name, entry, start) for name, entry in header.items()), key=_by_place)
    _check_cover(path, tensors, start, size)
    return tensors


def _header_length(path: Path, prefix: bytes, size: int) -> int:
    if len(prefix) < 8:
        raise CheckpointIncomplete(str(path), f"is {size} bytes long; a header takes at least 8", _AGAIN)
    (length,) = struct.unpack("<Q", prefix)
    if length > HEADER_LIMIT:
        raise ModelCorrupt(str(path), f"byte 0: a header of {length} bytes, the limit is {HEADER_LIMIT}", _AGAIN)
    if length > size - 8:
        raise CheckpointIncomplete(str(path), f"byte 8: wanted {length} bytes of header, {size - 8} left", _AGAIN)
    return int(length)


def _parse(path: Path, text: bytes) -> dict[str, object]:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        table: dict[str, object] = {}
        for name, value in pairs:
            if name in table:
                raise ModelCorrupt(str(path), f"header: {name[:80]!r} stands twice", _AGAIN)
            table[name] = value
        return table

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ModelCorrupt(str(path), f"byte 8: the header is not JSON ({str(error)[:120]})", _AGAIN) from None
    if not isinstance(header, dict):
        raise ModelCorrupt(str(path), f"byte 8: the header is a {type(header).__name__}, not an object", _AGAIN)
    return header


def _tensor(path: Path, name: str, entry: object, start: int) -> StoredTensor:
    def broken(found: str) -> ModelCorrupt:
        return ModelCorrupt(str(path), f"tensor {name[:80]!r}: {found}", _AGAIN)

    if not name.isprintable():  # surrogates and control characters could not even be printed in an error
        raise broken("a name that cannot be printed")
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise broken("wants dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    bits = ELEMENT_BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        raise broken(f"dtype {str(dtype)[:40]!r} is not one the format knows")
    if not _are_counts(shape) or len(shape) > DIMENSION_LIMIT:
        raise broken(f"shape {str(shape)[:80]} is not a list of at most {DIMENSION_LIMIT} sizes")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise broken(f"data_offsets {str(offsets)[:80]} are not a beginning and an end")
    size = math.prod(shape) * bits
    span = offsets[1] - offsets[0]
    if size != 8 * span:
        raise broken(f"shape {str(shape)[:80]} of {dtype} takes {size} bits, its offsets span {span} bytes")
    return StoredTensor(name, dtype, tuple(shape), path, start + offsets[0], span)


def _are_counts(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < SIZE_LIMIT for item in value)


def _by_place(tensor: StoredTensor) -> tuple[int, int]:
    return tensor.offset, tensor.nbytes  # an empty tensor lies before the one that begins at the same byte


def _check_cover(path: Path, tensors: list[StoredTensor], start: int, size: int) -> None:
    end = start
    for tensor in tensors:
        if tensor.offset != end:
            fault = "overlaps the tensor before it" if tensor.offset < end else "leaves a hole before it"
            raise ModelCorrupt(str(path), f"byte {tensor.offset}: tensor {tensor.name!r} {fault} (byte {end})", _AGAIN)
        end += tensor.nbytes
    if end > size:
        raise CheckpointIncomplete(str(path), f"ends at byte {size}; its header announces {end}", _AGAIN)
    if end < size:
        raise ModelCorrupt(str(path), f"byte {end}: {size - end} bytes after the last tensor", _AGAIN)


_AGAIN = "download or copy the file again"
