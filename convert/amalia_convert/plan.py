"""Everything that will be written, every offset, before a weight is read."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from amalia_convert.blocks import BlockType
from amalia_convert.checkpoint import Shard
from amalia_convert.families import MappedTensor
from amalia_convert.levels import Level
from amalia_convert.metadata import Metadata, uint32
from amalia_convert.recipe import Geometry, Recipe, Tensor, choose_blocks
from amalia_convert.writer import existing_folder, header_bytes, hidden, padded
from amalia_edge.console import megabytes
from amalia_edge.errors import DoesNotFit, Unquantizable

LONGEST_ROW = 1 << 24  # weights; a row is read whole
QUANTIZATION_VERSION = 2  # ggml's GGML_QNT_VERSION: the block layouts have not changed since


@dataclass(frozen=True)
class Draft:
    """A model before its level: what all its outputs share."""

    metadata: Metadata
    tensors: Sequence[MappedTensor]
    shards: tuple[Shard, ...]
    geometry: Geometry

    @property
    def nbytes(self) -> int:
        """Count the bytes of weights that will be read."""
        return sum(tensor.stored.nbytes for tensor in self.tensors if tensor.stored is not None)


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of an output; `offset` counts from the start of the file."""

    name: str
    source: MappedTensor
    block: BlockType
    offset: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape  # (rows, columns), or (columns,)

    @property
    def weights(self) -> int:
        return math.prod(self.shape)

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
        return sum(tensor.weights for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        return 8 * sum(tensor.nbytes for tensor in self.tensors) / self.parameters


def plan_output(recipe: Recipe, path: Path, draft: Draft, tail: Metadata | None = None) -> OutputPlan:
    """Lay out one level's file; `tail` is what else the header says of how it was made."""
    for tensor in draft.tensors:
        if tensor.shape[-1] > LONGEST_ROW:
            raise Unquantizable(f"tensor {tensor.name}", f"a row of {tensor.shape[-1]} weights", "is it a model?")
    blocks = choose_blocks(recipe, [_tensor(one) for one in draft.tensors], draft.geometry)
    tensors, offset = [], 0
    for tensor in draft.tensors:
        planned = PlannedTensor(tensor.name, tensor, blocks[tensor.name], offset)
        tensors.append(planned)
        offset += padded(planned.nbytes)
    # Last, because llama-quantize sets them anew at the end: so the whole file is the same, not only its tensors.
    metadata = draft.metadata | {
        "general.quantization_version": uint32(QUANTIZATION_VERSION),
        "general.file_type": uint32(recipe.level.file_type),
        **(tail or {}),
    }
    header = header_bytes(metadata, [(one.name, one.shape, int(one.block), one.nbytes) for one in tensors])
    placed = tuple(replace(one, offset=len(header) + one.offset) for one in tensors)
    return OutputPlan(recipe.level, path, header, placed, len(header) + offset)


def disk_needed(outputs: Sequence[OutputPlan]) -> int:
    """Count the bytes the disk must still take; what an interrupted conversion wrote has its place already."""
    needed = 0
    for output in outputs:
        partial = hidden(output.path, "partial")
        needed += output.nbytes - (min(partial.stat().st_blocks * 512, output.nbytes) if partial.is_file() else 0)
    return needed


def check_disk(folder: Path, outputs: Sequence[OutputPlan]) -> None:
    """Refuse before reading what the disk cannot hold."""
    needed, free = disk_needed(outputs), shutil.disk_usage(existing_folder(folder)).free
    if needed > free:
        fitting = [output.level.name for output in outputs if output.nbytes <= free]
        advice = f"alone would fit: {', '.join(fitting)}" if fitting else "free some space, or name another --out"
        raise DoesNotFit(str(folder), f"needs {megabytes(needed)}, {megabytes(free)} are free", advice)


def _tensor(mapped: MappedTensor) -> Tensor:
    """Say what a tensor is in the 16-bit file: of a checkpoint, vectors and norms are f32 there."""
    keeps = mapped.settled or (len(mapped.shape) > 1 and not mapped.name.endswith("_norm.weight"))
    stored = BlockType[mapped.stored.dtype] if mapped.stored is not None and keeps else BlockType.F32
    return Tensor(mapped.name, mapped.shape, stored)
