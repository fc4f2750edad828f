"""What `--dry-run` tells: every tensor, the files to the byte, the memory and the disk, and about how long it takes."""

import os
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from amalia_convert.blocks import BlockType
from amalia_convert.conversion import ConvertConfig, open_draft, plan_outputs
from amalia_convert.importance import read_imatrix
from amalia_convert.plan import Draft, OutputPlan, disk_needed
from amalia_convert.quantize import rows_per_piece
from amalia_convert.source import find_source
from amalia_edge.native import quantize_rows

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
    memory: int  # bytes, at the highest
    disk_needed: int
    disk_free: int
    seconds: float  # about; without waiting for the disk or the Hub


def forecast(config: ConvertConfig) -> Forecast:
    """Plan what `convert` would do; of weights on the Hub only the headers are fetched."""
    source = find_source(config.source)
    draft = open_draft(source)
    importance = read_imatrix(config.importance) if config.importance else None
    outputs = plan_outputs(config, source, draft, importance)
    folder = _existing(config.folder)
    return Forecast(
        source=source.name,
        repository=source.repository,
        commit=source.commit,
        outputs=tuple(outputs),
        whole=source.kind != "config",
        read=draft.nbytes,
        memory=_memory(draft, outputs, config.cores),
        disk_needed=disk_needed(outputs),
        disk_free=shutil.disk_usage(folder).free,
        seconds=_seconds(draft, outputs, config.cores),
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


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder
