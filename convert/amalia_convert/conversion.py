"""A checkpoint becomes GGUF at one or more levels, each weight read once."""

import hashlib
import json
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from amalia_convert.blocks import find_block
from amalia_convert.card import describe_source
from amalia_convert.checkpoint import Checkpoint, open_checkpoint, read_json
from amalia_convert.families import describe, find_family, map_tensors, read_shape
from amalia_convert.gguf_source import open_gguf
from amalia_convert.importance import Importance, describe_importance, read_imatrix
from amalia_convert.journal import Mark
from amalia_convert.levels import find_level
from amalia_convert.parity import check_parity
from amalia_convert.pipeline import Pair, write_blocks, write_header
from amalia_convert.plan import Draft, OutputPlan, check_disk, plan_output
from amalia_convert.quantize import Settings
from amalia_convert.receipt import Receipt, peak_memory, read_receipt, receipt_path, versions, write_receipt
from amalia_convert.recipe import Geometry, Recipe, parse_tensor_type
from amalia_convert.source import Source, bring, find_source, hash_texts
from amalia_convert.vocab import describe_vocabulary
from amalia_convert.writer import Target, make_folder, peek
from amalia_edge import console
from amalia_edge.errors import ConvertError, HubError, UsageError
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
        return models_folder() if self.out is None else self.out

    @property
    def cores(self) -> int:
        if self.threads is not None:
            return self.threads
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Made:
    """What all outputs of a conversion were made of, and how it went."""

    config: ConvertConfig
    source: Source
    importance: Importance | None
    mark: Mark
    warnings: list[str]

    def receipt(self, output: OutputPlan) -> Receipt:
        asked = ("tensor_types", "output_type", "embedding_type", "pure", "allow_nonfinite")
        texts = hash_texts(self.source.folder) if self.source.kind == "folder" else {}
        return Receipt(
            output=output.path.name,
            level=output.level.name,
            source=self.source.name,
            repository=self.source.repository,
            commit=self.source.commit,
            files=texts | self.mark.hashes,
            importance=self.importance.sha256 if self.importance else None,
            options={name: getattr(self.config, name) for name in asked if getattr(self.config, name)},
            sha256=self.mark.sealed[output.path.name],
            nbytes=output.nbytes,
            parameters=output.parameters,
            bits_per_weight=output.bits_per_weight,
            warnings=self.warnings,
            replaced={name: list(faults) for name, faults in self.mark.faults.items()},
            seconds=self.mark.seconds,
            peak_memory=peak_memory(),
            versions=versions(),
        )


def convert(config: ConvertConfig) -> list[Receipt]:
    """Convert a checkpoint; each file is whole or absent, and a run that was stopped is gone on with."""
    source = find_source(config.source)
    if source.kind == "config":
        raise UsageError(str(source.path), "is a configuration without weights", "--dry-run plans from it")
    source = bring(source, stream=config.stream)
    draft = open_draft(source)
    importance = read_imatrix(config.importance) if config.importance else None
    outputs = plan_outputs(config, source, draft, importance)
    settings = Settings(_values(draft, importance), config.allow_nonfinite)
    make_folder(config.folder)
    keys = [_key(config, draft, output, importance) for output in outputs]
    finished = _check_targets(outputs, keys, replace=config.replace)
    pending = [(output, key) for output, key in zip(outputs, keys, strict=True) if output.path.name not in finished]
    check_disk(config.folder, [output for output, _ in pending])
    with ExitStack() as stack:
        targets = [Target(output.path, output.nbytes, key) for output, key in pending]
        pairs = [(output, stack.enter_context(target)) for (output, _), target in zip(pending, targets, strict=True)]
        try:
            warnings, mark = _write(config, source, draft, pairs, settings)
        except (KeyboardInterrupt, HubError):
            for _, target in pairs:
                target.leave()
            raise
        for output, target in pairs:
            receipt_path(output.path).unlink(missing_ok=True)  # a receipt never speaks of another file
            target.publish()
        made = Made(config, source, importance, mark, warnings)
        for output, _ in pairs:
            write_receipt(output.path, made.receipt(output))
        for _, target in pairs:
            target.forget()
    return [read_receipt(output.path) for output in outputs]


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


def plan_outputs(
    config: ConvertConfig, source: Source, draft: Draft, importance: Importance | None = None
) -> list[OutputPlan]:
    """Lay out every output; no weight is read."""
    levels = [find_level(name) for name in dict.fromkeys(name.upper() for name in config.levels)]
    if not levels:
        raise UsageError("--to", "names no level", "for instance --to Q8_0,Q4_K_M")
    recipe = Recipe(
        levels[0],
        tuple(parse_tensor_type(text) for text in config.tensor_types),
        find_block(config.output_type) if config.output_type else None,
        find_block(config.embedding_type) if config.embedding_type else None,
        config.pure,
        frozenset(importance.values) if importance else None,
    )
    tail = describe_importance(importance) if importance else {}
    paths = {level: config.folder / source.file_name(level.name) for level in levels}
    return [plan_output(replace(recipe, level=level), path, draft, tail) for level, path in paths.items()]


def _values(draft: Draft, importance: Importance | None) -> dict[str, NDArray[np.float32]]:
    """Give the importance of every matrix it speaks of, after checking that it is of this model."""
    if importance is None:
        return {}
    matrices = [tensor for tensor in draft.tensors if len(tensor.shape) > 1]
    found = {tensor.name: importance.of(tensor.name, tensor.shape[-1]) for tensor in matrices}
    return {name: values for name, values in found.items() if values is not None}


def _write(
    config: ConvertConfig, source: Source, draft: Draft, pairs: Sequence[Pair], settings: Settings
) -> tuple[list[str], Mark]:
    """Write all files under their hidden names, and note that they are whole."""
    if all(target.mark.sealed for _, target in pairs):
        return _check_vocabulary(source, pairs), pairs[0][1].mark
    for pair in pairs:
        write_header(pair)
    warnings = _check_vocabulary(source, pairs)
    done = min(target.mark.done for _, target in pairs)
    if done:
        total = sum(shard.file.nbytes for shard in draft.shards)
        console.err.print(f"Going on from {done / total:.0%}, where the last run was stopped.", markup=False)
    mark = write_blocks(draft, pairs, settings, config.cores)
    with ThreadPoolExecutor(config.cores) as pool:
        digests = pool.map(Target.seal, [target for _, target in pairs])
        names = [output.path.name for output, _ in pairs]
        mark = replace(mark, sealed=dict(zip(names, digests, strict=True)))
    for _, target in pairs:
        target.note(mark)
    return warnings, mark


def _check_vocabulary(source: Source, pairs: Sequence[Pair]) -> list[str]:
    """Check what was written of the header as libllama will find it, and the tokens against the original's."""
    _, target = pairs[0]
    path = target.path if target.published else target.place
    read_header(path)
    return list(check_parity(path, source.folder)) if source.kind == "folder" else []


def _check_targets(outputs: Sequence[OutputPlan], keys: Sequence[str], *, replace: bool) -> set[str]:
    """Refuse targets that are in the way; give those that the stopped run of this very command had finished."""
    marks = [peek(output.path, key) for output, key in zip(outputs, keys, strict=True)]
    sealed = {name for mark in marks if mark for name in mark.sealed}
    finished = set()
    for output, mark in zip(outputs, marks, strict=True):
        if output.path.is_dir():
            raise ConvertError(str(output.path), "is a folder", "name another folder with --out")
        if not output.path.exists() or (mark and mark.sealed):
            continue
        if output.path.name in sealed and receipt_path(output.path).exists():
            finished.add(output.path.name)
        elif not replace:
            raise UsageError(str(output.path), "is already there", "--force replaces it")
    return finished


def _key(config: ConvertConfig, draft: Draft, output: OutputPlan, importance: Importance | None) -> str:
    """Name everything the bytes of an output depend on."""
    parts = [
        versions(),
        config.allow_nonfinite,
        importance.sha256 if importance else None,
        hashlib.sha256(output.header).hexdigest(),
        [(shard.file.path.name, shard.file.stamp) for shard in draft.shards],
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
