"""A checkpoint becomes GGUF at one or more levels, each weight read once."""

import math
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from amalia_convert.card import describe_source
from amalia_convert.checkpoint import Checkpoint, Reader, open_checkpoint
from amalia_convert.families import MappedTensor, describe, find_family, map_tensors, read_shape
from amalia_convert.levels import find_level
from amalia_convert.plan import OutputPlan, check_disk, plan_output
from amalia_convert.quantize import Quantizer, rows_per_piece, run_all
from amalia_convert.receipt import Receipt, peak_memory, receipt_path, versions, write_receipt
from amalia_convert.source import Source, find_source, hash_file, source_files
from amalia_convert.vocab import describe_vocabulary
from amalia_convert.writer import Target, make_folder
from amalia_edge import console
from amalia_edge.errors import ConvertError, UsageError
from amalia_edge.store import models_folder


@dataclass(frozen=True)
class ConvertConfig:
    """What to convert, into which levels, and where to."""

    source: str
    levels: tuple[str, ...] = ("Q4_K_M",)
    out: Path | None = None  # None: the models folder
    replace: bool = False
    threads: int | None = None  # None: all cores this process may use

    @property
    def folder(self) -> Path:
        return models_folder() if self.out is None else self.out


def convert(config: ConvertConfig) -> list[Receipt]:
    """Convert a checkpoint; each file is whole or absent, whatever happens."""
    started = time.monotonic()
    source = find_source(config.source)
    checkpoint = open_checkpoint(source.folder)
    mapped, outputs = plan_conversion(config, source, checkpoint)
    make_folder(config.folder)
    _check_targets(outputs, replace=config.replace)
    check_disk(config.folder, outputs)
    texts = {path.name: hash_file(path) for path in source_files(source.folder) if path.suffix != ".safetensors"}
    reader = Reader(checkpoint, {tensor.stored.name: rows_per_piece(tensor) for tensor in mapped})
    hashes = _write(outputs, reader, sum(tensor.stored.nbytes for tensor in mapped), config.threads or _cores())
    receipts = [
        Receipt(
            output=output.path.name,
            level=output.level.name,
            source=source.name,
            repository=source.repository,
            files=texts | reader.hashes,
            sha256=sha256,
            nbytes=output.nbytes,
            parameters=output.parameters,
            bits_per_weight=output.bits_per_weight,
            seconds=time.monotonic() - started,
            peak_memory=peak_memory(),
            versions=versions(),
        )
        for output, sha256 in zip(outputs, hashes, strict=True)
    ]
    for output, receipt in zip(outputs, receipts, strict=True):
        write_receipt(output.path, receipt)
    return receipts


def plan_conversion(
    config: ConvertConfig, source: Source, checkpoint: Checkpoint
) -> tuple[list[MappedTensor], list[OutputPlan]]:
    """Plan every output of a conversion; no weight is read."""
    levels = [find_level(name) for name in dict.fromkeys(name.upper() for name in config.levels)]
    if not levels:
        raise UsageError("--to", "names no level", "for instance --to Q8_0,Q4_K_M")
    family, shape = find_family(checkpoint), read_shape(checkpoint)
    mapped = map_tensors(checkpoint, family, shape)
    parameters = sum(math.prod(tensor.stored.shape) for tensor in mapped)
    metadata = (
        describe_source(source, checkpoint, family.gguf, parameters)
        | describe(checkpoint, family, shape)
        | describe_vocabulary(checkpoint, shape.vocabulary)
    )
    folder = config.folder
    return mapped, [
        plan_output(level, folder / source.file_name(level.name), shape, mapped, metadata) for level in levels
    ]


def _check_targets(outputs: list[OutputPlan], *, replace: bool) -> None:
    for output in outputs:
        if output.path.is_dir():
            raise ConvertError(str(output.path), "is a folder", "name another folder with --out")
        if output.path.exists() and not replace:
            raise UsageError(str(output.path), "is already there", "--force replaces it")


def _write(outputs: list[OutputPlan], reader: Reader, nbytes: int, threads: int) -> list[str]:
    with ExitStack() as stack:
        targets = [stack.enter_context(Target(output.path, output.nbytes)) for output in outputs]
        for output, target in zip(outputs, targets, strict=True):
            target.write(0, output.header)
        names = ", ".join(output.level.name for output in outputs)
        with console.progress(names, nbytes) as bar:
            run_all(reader.pieces(), Quantizer(list(zip(outputs, targets, strict=True))), threads, bar.advance)
        hashes = []
        for target in targets:
            receipt_path(target.path).unlink(missing_ok=True)  # a receipt never speaks of another file
            hashes.append(target.finish())
    return hashes


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
