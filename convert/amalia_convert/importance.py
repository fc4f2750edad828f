"""Importance data: how much each column of a weight matters, in llama.cpp's GGUF format.

general.type = "imatrix", imatrix.datasets, imatrix.chunk_count, imatrix.chunk_size
NAME.in_sum2  f32 (matrices × columns)  sums of the squares that met each column of the weight NAME
NAME.counts   f32 (matrices)            how many rows of activations were summed
"""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from amalia_convert.metadata import Metadata, string, uint32
from amalia_convert.writer import hash_file, header_bytes, padded, write_whole
from amalia_edge.errors import ConvertError, ModelCorrupt, ModelNotFound, ModelUnsupported
from amalia_edge.gguf import MAGIC, Header, TensorInfo, read_header

SUMS, COUNTS = ".in_sum2", ".counts"
F32 = 0  # ggml's number
LONGEST_TEXT = 127  # bytes of a value llama-quantize can pass on
_ADVICE = "give a file that llama-imatrix or amalia imatrix wrote"


@dataclass(frozen=True)
class Importance:
    """What a quantizer needs, as llama-quantize computes it from a file: the mean square of each column's input."""

    path: Path
    sha256: str
    datasets: tuple[str, ...]
    chunks: int
    values: dict[str, NDArray[np.float32]]  # by the weight's name; (columns,), or one matrix's columns after another's

    def of(self, tensor: str, columns: int) -> NDArray[np.float32] | None:
        """Give one matrix's importance, None where nothing was collected for it; of another model's it is refused."""
        values = self.values.get(tensor)
        if values is None or len(values) == columns:
            return values
        found = f"{len(values)} columns, the model's has {columns}"
        raise ConvertError(f"{self.path.name}: {tensor}", found, "collect importance data from this model")


@dataclass
class Sums:
    """What has been added up for one weight."""

    squares: NDArray[np.float64]  # (columns,)
    rows: int = 0


@dataclass(frozen=True)
class Collected:
    """Importance data as it was collected, before it is a file."""

    sums: dict[str, Sums]
    datasets: tuple[str, ...]
    chunks: int
    chunk_size: int  # tokens
    provenance: Metadata = dataclasses.field(default_factory=dict)


def write_imatrix(path: Path, collected: Collected) -> None:
    """Write the file llama-imatrix would write, with our provenance after its own keys; whole or absent."""
    metadata = {
        "general.type": string("imatrix"),
        "imatrix.datasets": string(collected.datasets),
        "imatrix.chunk_count": uint32(collected.chunks),
        "imatrix.chunk_size": uint32(collected.chunk_size),
        **collected.provenance,
    }
    tensors: dict[str, NDArray[np.float32]] = {}
    for name, sums in sorted(collected.sums.items()):
        tensors[name + SUMS] = sums.squares.astype("<f4")
        tensors[name + COUNTS] = np.array([sums.rows], "<f4")
    rows = [(name, values.shape, F32, values.nbytes) for name, values in tensors.items()]
    content = [values.tobytes() + bytes(padded(values.nbytes) - values.nbytes) for values in tensors.values()]
    write_whole(path, header_bytes(metadata, rows) + b"".join(content))


def read_imatrix(path: Path) -> Importance:
    """Read importance data, from llama-imatrix or ours, without trusting it."""
    _check_magic(path)
    header = read_header(path, model=False)
    pairs = _pairs(header)
    missing = [key for key in ("datasets", "chunk_count", "chunk_size") if f"imatrix.{key}" not in header.metadata]
    if missing or not pairs:
        raise ModelCorrupt(path.name, f"no imatrix.{missing[0]}" if missing else "no importance data in it", _ADVICE)
    chunks = header.metadata["imatrix.chunk_count"]
    if type(chunks) is not int or not 0 <= chunks < 1 << 31:
        raise ModelCorrupt(f"{path.name}: imatrix.chunk_count", repr(chunks), _ADVICE)
    with path.open("rb", buffering=0) as file:
        values = {}
        for name in sorted(pairs):
            squares, rows = (_read(header, file.fileno(), tensor) for tensor in pairs[name])
            values[name] = _mean(f"{path.name}: {name}", squares, rows)
    datasets = tuple(text.decode("utf-8", "replace") for text in header.strings("imatrix.datasets"))
    return Importance(path, hash_file(path), datasets, chunks, values)


def describe_importance(importance: Importance) -> Metadata:
    """Give the keys llama-quantize adds to a file made with importance data, in its order and its types."""
    found = {"quantize.imatrix.file": string(_short(importance.path.name))}
    if importance.datasets:
        found["quantize.imatrix.dataset"] = string(_short(importance.datasets[0]))
    found["quantize.imatrix.entries_count"] = uint32(len(importance.values))
    if importance.chunks:
        found["quantize.imatrix.chunks_count"] = uint32(importance.chunks)
    return found


def _check_magic(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
    except OSError as error:
        raise ModelNotFound(str(path), error.strerror or str(error), _ADVICE) from None
    if magic != MAGIC:
        found = f"begins with {magic!r}: not GGUF, llama.cpp's old format perhaps"
        raise ModelUnsupported(path.name, found, "rewrite it: llama-imatrix --in-file OLD -o NEW.gguf")


def _pairs(header: Header) -> dict[str, tuple[TensorInfo, TensorInfo]]:
    """Give each weight's sums and counts, after checking that none is without the other."""
    sums_of, counts_of = (
        {tensor.name.removesuffix(end): tensor for tensor in header.tensors if tensor.name.endswith(end)}
        for end in (SUMS, COUNTS)
    )
    pairs = {}
    for name in sums_of.keys() | counts_of.keys():
        sums, counts = sums_of.get(name), counts_of.get(name)
        where = f"{header.path.name}: {name}"
        if sums is None or counts is None:
            raise ModelCorrupt(where, f"{SUMS if sums is None else COUNTS} is missing", _ADVICE)
        if not sums.kind == counts.kind == "F32":
            raise ModelCorrupt(where, f"{sums.kind} sums and {counts.kind} counts, not F32", _ADVICE)
        if sums.nbytes % counts.nbytes:
            raise ModelCorrupt(where, f"{sums.nbytes // 4} sums for {counts.nbytes // 4} counts", _ADVICE)
        pairs[name] = sums, counts
    return pairs


def _read(header: Header, descriptor: int, tensor: TensorInfo) -> NDArray[np.float32]:
    content = os.pread(descriptor, tensor.nbytes, tensor.offset)
    if len(content) < tensor.nbytes:
        raise ModelCorrupt(header.path.name, "it changed while it was read", "leave the file alone and try again")
    return np.frombuffer(content, "<f4")


def _mean(where: str, squares: NDArray[np.float32], rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divide sums by counts as llama-quantize does: whole counts, and 1 where nothing was counted."""
    for values in (squares, rows):
        bad = np.count_nonzero(~(np.isfinite(values) & (values >= 0)))
        if bad:
            raise ModelCorrupt(where, f"{bad} values that are negative, infinite or no number", "collect it again")
    whole = np.floor(rows.astype(np.float64) + 0.5).astype(np.float32)[:, None]  # C's lround
    with np.errstate(divide="ignore", invalid="ignore"):
        means = np.where(whole > 0, squares.reshape(len(whole), -1) / whole, np.float32(1))
    return means.reshape(-1)


def _short(text: str) -> str:
    return text.encode("utf-8", "replace")[:LONGEST_TEXT].decode("utf-8", "ignore")
