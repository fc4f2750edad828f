"""Everything that will be written, every offset, before a weight is read."""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

from amalia_convert.families import MappedTensor, Shape
from amalia_convert.levels import BlockType, Level, Place, choose_block
from amalia_convert.metadata import Metadata, uint32
from amalia_convert.writer import header_bytes, padded
from amalia_edge.console import megabytes
from amalia_edge.errors import DoesNotFit

QUANTIZATION_VERSION = 2  # ggml's GGML_QNT_VERSION: the block layouts have not changed since


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of an output; `offset` counts from the start of the file."""

    name: str
    source: MappedTensor
    shape: tuple[int, ...]  # (rows, columns), or (columns,)
    block: BlockType
    offset: int

    @property
    def row_nbytes(self) -> int:
        return self.block.nbytes(self.shape[-1])

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape[:-1]) * self.row_nbytes


@dataclass(frozen=True)
class OutputPlan:
    """One file to the byte: its header as it will be written, and where each tensor goes."""

    level: Level
    path: Path
    header: bytes
    tensors: tuple[PlannedTensor, ...]
    nbytes: int

    @property
    def parameters(self) -> int:
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        return 8 * sum(tensor.nbytes for tensor in self.tensors) / self.parameters


def plan_output(level: Level, path: Path, shape: Shape, mapped: list[MappedTensor], metadata: Metadata) -> OutputPlan:
    """Lay out one level's file."""
    tied = all(tensor.name != "output.weight" for tensor in mapped)
    tensors, offset = [], 0
    for tensor in mapped:
        place = Place(_layer(tensor.name), shape.layers, shape.heads // shape.heads_kv)
        block = choose_block(level, tensor.name, tensor.stored.shape, place, tied=tied)
        planned = PlannedTensor(tensor.name, tensor, tensor.stored.shape, block, offset)
        tensors.append(planned)
        offset += padded(planned.nbytes)
    # Last, because llama-quantize sets them anew at the end: so the whole file is the same, not only its tensors.
    levelled = metadata | {
        "general.quantization_version": uint32(QUANTIZATION_VERSION),
        "general.file_type": uint32(level.file_type),
    }
    header = header_bytes(levelled, [(one.name, one.shape, int(one.block), one.nbytes) for one in tensors])
    placed = tuple(
        PlannedTensor(one.name, one.source, one.shape, one.block, len(header) + one.offset) for one in tensors
    )
    return OutputPlan(level, path, header, placed, len(header) + offset)


def check_disk(folder: Path, outputs: list[OutputPlan]) -> None:
    """Refuse before reading what the disk cannot hold."""
    needed, free = sum(output.nbytes for output in outputs), shutil.disk_usage(folder).free
    if needed > free:
        fitting = [output.level.name for output in outputs if output.nbytes <= free]
        advice = f"alone would fit: {', '.join(fitting)}" if fitting else "free some space, or name another --out"
        raise DoesNotFit(str(folder), f"needs {megabytes(needed)}, {megabytes(free)} are free", advice)


def _layer(name: str) -> int:
    return int(name.split(".")[1]) if name.startswith("blk.") else -1
