"""A model of a given geometry with random but finite weights, made without a checkpoint: for speed and memory, never for words.

    write_synthetic(Path("amalia.gguf"), "amalia-9b", "Q4_K_M")

The file is what the converter would write of such a checkpoint, to the byte's place; only its weights and its vocabulary are
made up. A few rows are quantized by ggml for each block type and row length, and repeated from a different row on for each
tensor, so that it is written as fast as the disk takes it, and a few megabytes are held at a time.
"""

import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from amalia_convert.blocks import DEMANDING, BlockType
from amalia_convert.conversion import open_draft
from amalia_convert.level_table import find_level, level_table
from amalia_convert.metadata import Metadata, boolean, float32, int32, string, uint32
from amalia_convert.plan import OutputPlan, PlannedTensor, plan_output
from amalia_convert.recipe import Recipe
from amalia_convert.shape import find_shape
from amalia_convert.writer import existing_folder, hidden
from amalia_edge.console import megabytes
from amalia_edge.errors import BenchError, DoesNotFit, ModelUnsupported
from amalia_edge.quantizer import quantize_rows

POOL = 1 << 18  # weights quantized for each block type and row length
POOL_OF_SLOW = 1 << 13  # of the types whose quantizers search a grid for each block
PIECE = 1 << 23  # bytes written at once
MARK = "amalia.synthetic"  # a key in the file's header: what it answers means nothing
CONTROL = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")  # ids 0 to 4, as in AMÁLIA
SYLLABLES = tuple(a + b for a, b in itertools.product("bcdfglmnprstvxz", "aeiou"))
LEAST_VOCABULARY = len(CONTROL) + 256 + len(SYLLABLES)
_UNKNOWN, _CONTROL, _BYTE, _NORMAL = 2, 3, 6, 1  # llama.cpp's kinds of token


def write_synthetic(path: Path, shape: str, level: str, advance: Callable[[int], None] = lambda _: None) -> None:
    """Write a model of a named shape, or of a config.json, at any level; the same bytes each time.

    `advance` hears of bytes. The file is whole or absent.
    """
    plan = plan_synthetic(path, shape, level)
    check_disk(plan)
    place, pool = hidden(path, "partial"), _Pool(seed=0)
    try:
        with place.open("wb") as file:
            file.write(plan.header)
            for tensor in plan.tensors:
                file.write(bytes(tensor.offset - file.tell()))
                for piece in _content(tensor, pool):
                    file.write(piece.data)
                    advance(len(piece))
            file.write(bytes(plan.nbytes - file.tell()))
        place.replace(path)
    except OSError as problem:
        raise BenchError(str(path), f"cannot be written ({problem.strerror})", "name another --folder") from None
    finally:
        place.unlink(missing_ok=True)


def plan_synthetic(path: Path, shape: str, level: str) -> OutputPlan:
    """Lay out the file; levels that need importance data get it made up, too."""
    draft = open_draft(find_shape(shape))
    size = next(tensor.shape[0] for tensor in draft.tensors if tensor.name == "token_embd.weight")
    if size < LEAST_VOCABULARY:
        found = f"a vocabulary of {size}, and a synthetic one has at least {LEAST_VOCABULARY}"
        raise ModelUnsupported(shape, found, "give a shape with a larger vocab_size")
    chosen = find_level(level)
    needs = any(row.name == chosen.name and row.needs_importance for row in level_table())
    names = frozenset(tensor.name for tensor in draft.tensors) if needs else None
    return plan_output(
        Recipe(chosen, importance=names), path, replace(draft, metadata=draft.metadata | _vocabulary(size))
    )


def check_disk(plan: OutputPlan) -> None:
    """Refuse what the disk cannot hold before a byte is written."""
    folder = existing_folder(plan.path.parent)
    free = shutil.disk_usage(folder).free
    if plan.nbytes > free:
        found = f"needs {megabytes(plan.nbytes)} for a while, {megabytes(free)} are free"
        raise DoesNotFit(str(folder), found, "free some space, name another --folder, or choose a smaller --level")


def _content(tensor: PlannedTensor, pool: "_Pool") -> Iterator[NDArray[np.uint8]]:
    """Give a tensor's bytes in pieces: random matrices, norms of ones, biases of zeros, and what a configuration tells."""
    if tensor.source.stored is None:
        yield np.frombuffer(tensor.source.made, np.uint8)
    elif len(tensor.shape) == 1:
        value = 0 if tensor.name.endswith(".bias") else 1
        yield np.full(tensor.shape, value, np.float32).view(np.uint8)
    else:
        yield from pool.rows(tensor.block, tensor.weights // tensor.shape[-1], tensor.shape[-1])


class _Pool:
    """Quantized rows of each block type and row length, made once."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._rows: dict[tuple[BlockType, int], NDArray[np.uint8]] = {}

    def rows(self, block: BlockType, count: int, columns: int) -> Iterator[NDArray[np.uint8]]:
        """Give `count` rows in pieces, beginning somewhere in the pool and going round."""
        key = (block, columns)
        if key not in self._rows:
            self._rows[key] = self._make(block, columns)
        pool = self._rows[key]
        start = int(self._random.integers(len(pool)))
        several = np.concatenate([pool[start:], pool[:start]])
        several = np.tile(several, (max(1, min(PIECE // several.nbytes, count // len(pool))), 1))
        for done in range(0, count, len(several)):
            yield several[: count - done].reshape(-1)

    def _make(self, block: BlockType, columns: int) -> NDArray[np.uint8]:
        many = POOL_OF_SLOW if block in DEMANDING else POOL
        weights = self._random.standard_normal((max(1, many // columns), columns), np.float32)
        return quantize_rows(int(block), weights / np.float32(columns**0.5), np.ones(columns, np.float32))


def _vocabulary(size: int) -> Metadata:
    """Make up a vocabulary of `size` tokens: control, bytes, a space, then words of one syllable and more."""
    tokens = [*CONTROL, *(f"<0x{byte:02X}>" for byte in range(256))]
    made = ["▁", *(_word(number) for number in range(size - len(tokens) - 1))]
    kinds = [_UNKNOWN, *[_CONTROL] * (len(CONTROL) - 1), *[_BYTE] * 256, *[_NORMAL] * len(made)]
    return {
        "tokenizer.ggml.model": string("llama"),
        "tokenizer.ggml.pre": string("default"),
        "tokenizer.ggml.tokens": string((*tokens, *made)),
        "tokenizer.ggml.scores": float32((*[0.0] * len(tokens), *(-float(rank) for rank in range(len(made))))),
        "tokenizer.ggml.token_type": int32(tuple(kinds)),
        "tokenizer.ggml.unknown_token_id": uint32(0),
        "tokenizer.ggml.bos_token_id": uint32(1),
        "tokenizer.ggml.padding_token_id": uint32(2),
        "tokenizer.ggml.eos_token_id": uint32(4),
        "tokenizer.ggml.add_bos_token": boolean(True),
        "tokenizer.ggml.add_space_prefix": boolean(False),
        MARK: boolean(True),
    }


def _word(number: int) -> str:
    """Spell a number in syllables, each number in its own way."""
    syllables = [SYLLABLES[number % len(SYLLABLES)]]
    while number := number // len(SYLLABLES):
        syllables.append(SYLLABLES[number % len(SYLLABLES)])
    return "▁" + "".join(reversed(syllables))
