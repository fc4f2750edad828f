"""A checkpoint becomes GGUF at one or more levels, each weight read once."""

import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from amalia_convert.batch import Batch, refuse_early
from amalia_convert.blocks import find_block
from amalia_convert.card import describe_source
from amalia_convert.checkpoint import Checkpoint, LocalFile, open_checkpoint, read_json
from amalia_convert.families import describe, find_family, map_tensors, read_shape
from amalia_convert.gguf_source import open_gguf
from amalia_convert.importance import Importance, describe_importance, read_imatrix
from amalia_convert.journal import Mark
from amalia_convert.level_table import find_level
from amalia_convert.parity import check_parity
from amalia_convert.pipeline import Pair, write_blocks, write_header
from amalia_convert.plan import Draft, OutputPlan, check_disk, disk_needed, plan_output
from amalia_convert.quantize import Settings
from amalia_convert.receipt import Receipt, peak_memory, read_receipt, versions
from amalia_convert.recipe import Geometry, Recipe, check_tensor_types, parse_tensor_type
from amalia_convert.source import Source, bring, find_source, hash_texts
from amalia_convert.vocab import describe_vocabulary
from amalia_convert.writer import Target, make_folder
from amalia_edge import console
from amalia_edge.errors import UsageError
from amalia_edge.gguf import read_header
from amalia_edge.store import models_folder


@dataclass(frozen=True)
class ConvertConfig:
    """What to convert, into which levels, and where to."""

    source: str
    levels: tuple[str, ...] = ("Q4_K_M",)
    out: Path | None = None  # None: the models folder
    replace: bool = False
    threads: int | None = None  # None: all cores this process may use
    stream: bool | None = None  # None: where the disk could not hold the Hub's weights
    importance: Path | None = None  # importance data, as llama-imatrix writes it
    tensor_types: tuple[str, ...] = ()  # PATTERN=TYPE
    output_type: str | None = None
    embedding_type: str | None = None
    pure: bool = False
    allow_nonfinite: bool = False

    @property
    def folder(self) -> Path:
        return models_folder() if self.out is None else self.out.expanduser()

    @property
    def cores(self) -> int:
        if self.threads is not None:
            return self.threads
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Conversion:
    """All that is known of a conversion before a weight is read."""

    config: ConvertConfig
    source: Source
    texts: dict[str, str]  # what was read beside the weights: SHA-256
    draft: Draft
    importance: Importance | None
    outputs: tuple[OutputPlan, ...]

    def key(self, output: OutputPlan) -> str:
        """Name everything the bytes of an output depend on."""
        parts = [
            versions(),
            self.config.allow_nonfinite,
            self.importance.sha256 if self.importance else None,
            hashlib.sha256(output.header).hexdigest(),
            [(shard.file.path.name, shard.file.stamp) for shard in self.draft.shards],
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def receipt(self, output: OutputPlan, mark: Mark) -> Receipt:
        asked = ("tensor_types", "output_type", "embedding_type", "pure", "allow_nonfinite")
        return Receipt(
            output=output.path.name,
            level=output.level.name,
            source=self.source.name,
            repository=self.source.repository,
            commit=self.source.commit,
            files=self.texts | mark.hashes,
            importance=self.importance.sha256 if self.importance else None,
            options={name: getattr(self.config, name) for name in asked if getattr(self.config, name)},
            sha256=mark.sealed[output.path.name],
            nbytes=output.nbytes,
            parameters=output.parameters,
            bits_per_weight=output.bits_per_weight,
            warnings=mark.warnings,
            replaced={name: list(faults) for name, faults in mark.faults.items()},
            seconds=mark.seconds,
            peak_memory=peak_memory(),
            versions=versions(),
        )


def convert(config: ConvertConfig) -> list[Receipt]:
    """Convert a checkpoint; each file is whole or absent, and a run that was stopped is gone on with."""
    began = time.monotonic()
    work = prepare(config)
    if work.source.kind == "config":
        raise UsageError(str(work.source.path), "is a configuration without weights", "--dry-run plans from it")
    refuse_early([output.path for output in work.outputs], replace=config.replace)
    check_disk(config.folder, work.outputs)
    needed = disk_needed(work.outputs)
    shards = bring(work.draft.shards, stream=config.stream, outputs=needed, folder=config.folder)
    work = replace(work, draft=replace(work.draft, shards=shards))
    make_folder(config.folder)
    by_path = {output.path: output for output in work.outputs}
    targets = [Target(output.path, output.nbytes, work.key(output)) for output in work.outputs]
    with Batch(targets, replace=config.replace) as batch:
        if batch.unsealed:
            mark = _write(work, [(by_path[target.path], target) for target in batch.unsealed], began)
            batch.seal(mark, config.cores)
        batch.finish(lambda target: work.receipt(by_path[target.path], target.mark))
    return [read_receipt(output.path) for output in work.outputs]


def prepare(config: ConvertConfig) -> Conversion:
    """Read everything but the weights, and plan every output; of weights on the Hub only the headers are fetched."""
    source = find_source(config.source)
    texts = hash_texts(source.folder) if source.kind == "folder" else {}
    draft = open_draft(source)
    importance = read_imatrix(config.importance.expanduser()) if config.importance else None
    outputs = tuple(_plan_outputs(config, source, draft, importance))
    here = {shard.file.path.resolve() for shard in draft.shards if isinstance(shard.file, LocalFile)}
    for output in outputs:
        if output.path.resolve() in here:
            raise UsageError(str(output.path), "is the source itself", "name another folder with --out")
    return Conversion(config, source, texts, draft, importance, outputs)


def open_draft(source: Source) -> Draft:
    """Read everything but the weights."""
    if source.kind == "gguf":
        return open_gguf(source.path)
    if source.kind == "config":
        checkpoint = Checkpoint(source.folder, read_json(source.path))
    else:
        checkpoint = open_checkpoint(source.folder, source.files)
    family, shape = find_family(checkpoint), read_shape(checkpoint)
    tensors = map_tensors(checkpoint, family, shape)
    parameters = sum(math.prod(tensor.shape) for tensor in tensors if tensor.stored is not None)
    metadata = describe_source(source, checkpoint, family.gguf, parameters) | describe(checkpoint, family, shape)
    if source.kind == "folder":
        metadata |= describe_vocabulary(checkpoint, shape.vocabulary)
    geometry = Geometry(family.gguf, shape.layers, shape.heads // shape.heads_kv)
    return Draft(metadata, tensors, checkpoint.shards, geometry)


def _plan_outputs(
    config: ConvertConfig, source: Source, draft: Draft, importance: Importance | None
) -> Iterator[OutputPlan]:
    levels = [find_level(name) for name in dict.fromkeys(name.upper() for name in config.levels)]
    if not levels:
        raise UsageError("--to", "names no level", "for instance --to Q8_0,Q4_K_M")
    types = tuple(parse_tensor_type(text) for text in config.tensor_types)
    check_tensor_types(types, levels, [tensor.name for tensor in draft.tensors])
    recipe = Recipe(
        levels[0],
        types,
        find_block(config.output_type) if config.output_type is not None else None,
        find_block(config.embedding_type) if config.embedding_type is not None else None,
        config.pure,
        frozenset(_values(draft, importance)) if importance else None,
    )
    tail = describe_importance(importance) if importance else {}
    for level in dict.fromkeys(levels):
        path = config.folder / source.file_name(level.name)
        yield plan_output(replace(recipe, level=level), path, draft, tail)


def _values(draft: Draft, importance: Importance | None) -> dict[str, NDArray[np.float32]]:
    """Give the importance of every matrix it speaks of, after checking that it is of this model."""
    if importance is None:
        return {}
    matrices = [tensor for tensor in draft.tensors if len(tensor.shape) > 1]
    found = {tensor.name: importance.of(tensor.name, tensor.shape[-1]) for tensor in matrices}
    return {name: values for name, values in found.items() if values is not None}


def _write(work: Conversion, pairs: Sequence[Pair], began: float) -> Mark:
    """Write all files under their hidden names; give the mark of a pass at its end."""
    for pair in pairs:
        write_header(pair)
    _, first = pairs[0]
    read_header(first.place)  # as the runtime will find it
    warnings = check_parity(first.place, work.source.folder) if work.source.kind == "folder" else ()
    done = min(target.mark.done for _, target in pairs)
    if done:
        total = sum(shard.file.nbytes for shard in work.draft.shards)
        console.err.print(f"Going on from {done / total:.0%}, where the last run was stopped.", markup=False)
    settings = Settings(_values(work.draft, work.importance), work.config.allow_nonfinite, work.config.cores)
    return replace(write_blocks(work.draft, pairs, settings, began), warnings=list(warnings))
