"""What `--dry-run` tells: every tensor, the files to the byte, the memory and the disk, and about how long it takes."""

import os
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from amalia_convert.blocks import BlockType
from amalia_convert.conversion import ConvertConfig, prepare
from amalia_convert.plan import Draft, OutputPlan, disk_needed
from amalia_convert.quantize import rows_per_piece
from amalia_convert.source import RemoteFile
from amalia_convert.writer import existing_folder
from amalia_edge.quantizer import quantize_rows

RESIDENT = 110_000_000  # bytes: Python, numpy, libggml, the vocabulary; measured with 128,000 tokens
SAMPLE = (64, 2048)  # weights that are quantized to see how fast this machine is
SLOWEST = 0.4e6  # weights/s of the types whose tables alone take seconds to make: not worth measuring first
HASHED = 1.5e9  # bytes/s of SHA-256 with the processor's help, on one core


@dataclass(frozen=True)
class Forecast:
    """The whole plan of a conversion, before a weight is read."""

    source: str
    repository: str | None
    commit: str | None
    outputs: tuple[OutputPlan, ...]
    whole: bool  # the headers are complete: sizes are to the byte; from a configuration alone the vocabulary is missing
    read: int  # bytes of weights
    to_fetch: int  # bytes of them that are still on the Hub
    memory: int  # bytes, at the highest
    disk_needed: int  # for the outputs; weights that are kept come on top
    disk_free: int
    seconds: float  # about; without waiting for the disk or the Hub


def forecast(config: ConvertConfig) -> Forecast:
    """Plan what `convert` would do; of weights on the Hub only the headers are fetched."""
    work = prepare(config)
    return Forecast(
        source=work.source.name,
        repository=work.source.repository,
        commit=work.source.commit,
        outputs=work.outputs,
        whole=work.source.kind != "config",
        read=work.draft.nbytes,
        to_fetch=sum(shard.file.nbytes for shard in work.draft.shards if isinstance(shard.file, RemoteFile)),
        memory=_memory(work.draft, work.outputs, config.cores),
        disk_needed=disk_needed(work.outputs),
        disk_free=shutil.disk_usage(existing_folder(config.folder)).free,
        seconds=_seconds(work.draft, work.outputs, config.cores),
    )


def _memory(draft: Draft, outputs: Sequence[OutputPlan], threads: int) -> int:
    """Add up the pieces that wait, and what a thread holds beside its own: the rows as f32, and their blocks."""
    stored = [tensor for tensor in draft.tensors if tensor.stored is not None]
    weights = max((rows_per_piece(one) * one.shape[-1] for one in stored), default=0)
    headers = sum(len(output.header) for output in outputs)
    return RESIDENT + 4 * weights * (2 * threads + 1) + threads * 12 * weights + headers


def _seconds(draft: Draft, outputs: Sequence[OutputPlan], threads: int) -> float:
    """Time a small piece of every block type on this machine, and count up."""
    weights: Counter[BlockType] = Counter()
    for output in outputs:
        for tensor in output.tensors:
            weights[tensor.block] += tensor.weights
    rows = np.random.default_rng(0).normal(0, 0.02, SAMPLE).astype(np.float32)
    importance = np.ones(SAMPLE[1], np.float32)
    seconds = 0.0
    for block, count in weights.items():
        if block.name.startswith(("IQ1", "IQ2")):
            seconds += count / SLOWEST
        elif block is not BlockType.F32:
            quantize_rows(int(block), rows[:1], importance)  # tables are made at the first call
            started = time.perf_counter()
            quantize_rows(int(block), rows, importance if block.quantized else None)
            seconds += (time.perf_counter() - started) * count / rows.size
    hashed = draft.nbytes + sum(output.nbytes for output in outputs)
    return (seconds + hashed / HASHED) / min(threads, os.cpu_count() or 1)
