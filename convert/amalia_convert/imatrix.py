"""Importance data, collected: a text is read by the model, and what meets each weight is squared and added up.

The text is cut into chunks of one context each. Every chunk is read alone, from an empty cache, with BOS in place of its first
token where the vocabulary wants one. All as llama-imatrix does it, so that the figures agree.
"""

import hashlib
import math
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from amalia_convert.importance import Collected, Sums, write_imatrix
from amalia_convert.metadata import string
from amalia_convert.writer import hash_file
from amalia_edge import console
from amalia_edge.decision import VERSION
from amalia_edge.errors import ConvertError, ModelCorrupt, ModelUnsupported, UsageError
from amalia_edge.gguf import Header, read_header
from amalia_edge.graph import WatchedContext
from amalia_edge.model import LoadConfig, Model
from amalia_edge.store import find

CALIBRATION = Path(__file__).parent / "calibration.txt"  # European Portuguese, written for this project
SMALLEST_CHUNK = 16  # tokens
_BLOCK_WEIGHT = re.compile(r"blk\.\d+\..+")


@dataclass(frozen=True)
class ImatrixConfig:
    """Which model reads what, and where the result goes."""

    model: str
    texts: tuple[Path, ...] = (CALIBRATION,)
    out: Path | None = None  # None: NAME.imatrix.gguf in the working folder
    replace: bool = False
    chunk_size: int = 512  # tokens
    chunks: int | None = None  # None: as many as the text has
    gpu_layers: int = LoadConfig.gpu_layers
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.chunk_size < SMALLEST_CHUNK:
            raise UsageError("ctx-size", f"{self.chunk_size}", f"at least {SMALLEST_CHUNK} tokens")
        if self.chunks is not None and self.chunks < 1:
            raise UsageError("chunks", f"{self.chunks}", "give a number above zero")


@dataclass(frozen=True)
class Summary:
    """What was collected."""

    path: Path
    tensors: int
    chunks: int
    tokens: int
    perplexity: float  # over the second half of each chunk
    perplexity_error: float  # one standard error

    def __str__(self) -> str:
        read = f"{self.tensors} tensors, {self.chunks} chunks of {self.tokens // self.chunks} tokens"
        return f"{read}, perplexity {self.perplexity:.2f} ± {self.perplexity_error:.2f}"


def collect_imatrix(config: ImatrixConfig) -> Summary:
    """Let a model read texts, and write how much each column of its weights matters; the file is whole or absent."""
    path = find(config.model)
    header = read_header(path)
    _check_model(header, config)
    out = config.out or Path(f"{path.stem}.imatrix.gguf")
    _check_target(out, (path, *config.texts), replace=config.replace)
    raw = [read_text(text) for text in config.texts]
    load = LoadConfig(context=config.chunk_size, gpu_layers=config.gpu_layers, threads=config.threads)
    digest = _hash(path)  # which also brings the weights into memory, for the loading
    with Model.open(path, load) as model:
        text = "\n".join(content.decode().removesuffix("\n") for content in raw)
        chunks = cut(model.prompt(text), config)
        with console.progress("reading", len(chunks), in_bytes=False) as bar:
            collector, losses = collect(model, chunks, lambda: bar.advance(1))
    provenance = {
        "amalia.imatrix.text.sha256": string(tuple(hashlib.sha256(content).hexdigest() for content in raw)),
        "amalia.imatrix.model.name": string(header.name),
        "amalia.imatrix.model.file": string(_file_name(path)),
        "amalia.imatrix.model.sha256": string(digest),
        "amalia.imatrix.library": string(f"llama-cpp-python {VERSION}"),
    }
    names = tuple(_file_name(text) for text in config.texts)
    write_imatrix(out, Collected(collector.sums, names, len(chunks), config.chunk_size, provenance))
    perplexity = math.exp(min(losses.mean(), 700))  # above it there is no float
    error = perplexity * float(losses.std()) / math.sqrt(max(1, len(losses) - 1))
    return Summary(out, len(collector.sums), len(chunks), len(chunks) * config.chunk_size, perplexity, error)


def read_text(path: Path) -> bytes:
    """Read a text that is not empty and is UTF-8."""
    try:
        content = path.read_bytes()
        content.decode()
    except OSError as error:
        raise UsageError(str(path), f"cannot be read ({error.strerror})", "give a text file") from None
    except UnicodeDecodeError as error:
        raise UsageError(str(path), f"byte {error.start}: not UTF-8", "save the text as UTF-8") from None
    if not content.strip():
        raise UsageError(str(path), "empty", "give a text to read")
    return content


def cut(ids: list[int], config: ImatrixConfig) -> list[list[int]]:
    """Cut a text into chunks of one context; what is left at the end is not read."""
    size = config.chunk_size
    if len(ids) < 2 * size:
        found, advice = f"{len(ids)} tokens, at least {2 * size} needed", "give more text, or a smaller --ctx-size"
        raise UsageError("text", found, advice)
    count = min(len(ids) // size, config.chunks or len(ids))
    return [ids[start : start + size] for start in range(0, count * size, size)]


class Collector:
    """Add up the squares that meet each column of each block's weights."""

    def __init__(self) -> None:
        self.sums: dict[str, Sums] = {}

    def wants(self, weight: str) -> bool:
        return _BLOCK_WEIGHT.fullmatch(weight) is not None

    def see(self, weight: str, rows: NDArray[np.float32]) -> None:
        squares = np.einsum("tc,tc->c", rows, rows)
        if not np.isfinite(squares).all():
            raise ModelCorrupt(weight, "meets activations that are infinite or no number", "try the 16-bit model")
        sums = self.sums.setdefault(weight, Sums(np.zeros(rows.shape[1])))
        sums.squares += squares
        sums.rows += len(rows)


def collect(
    model: Model, chunks: list[list[int]], advance: Callable[[], None] = lambda: None
) -> tuple[Collector, NDArray[np.float64]]:
    """Let the model read each chunk; give the sums, and the loss (nats) of each token in the chunks' second halves."""
    collector, losses = Collector(), []
    size, step = len(chunks[0]), model.config.batch
    state = WatchedContext(model, size, collector)
    try:
        for chunk in chunks:
            begin = [model.vocabulary.begin] if model.vocabulary.adds_begin else chunk[:1]
            ids = begin + chunk[1:]
            state.truncate(0)
            for start in range(0, size, step):
                count = min(step, size - start)
                # Every token's logits: for all others, the last block's feed-forward would not be computed.
                state.decode(ids[start : start + count], start, every=True)
                logits = state.logits(count, model.vocabulary.size)
                told = range(max(start, size // 2), min(start + count, size - 1))
                losses += [_loss(logits[place - start], ids[place + 1]) for place in told]
            advance()
    finally:
        state.close()
    if not np.isfinite(losses).all():
        raise ModelCorrupt(model.header.path.name, "its logits are infinite or no number", "try the 16-bit model")
    return collector, np.array(losses)


def _loss(logits: NDArray[np.float32], token: int) -> float:
    top = logits.max()
    return float(np.log(np.exp(logits - top).sum(dtype=np.float64)) + top - logits[token])


def _check_model(header: Header, config: ImatrixConfig) -> None:
    for tensor in header.tensors:
        if len(tensor.shape) > 2 and math.prod(tensor.shape[2:]) > 1 and _BLOCK_WEIGHT.fullmatch(tensor.name):
            found = f"{tensor.name} is a stack of matrices, as of experts"
            raise ModelUnsupported(header.path.name, found, "use llama-imatrix; its file is read here too")
    if 0 < header.trained_context < config.chunk_size:
        found = f"{config.chunk_size} tokens, the model was trained for {header.trained_context}"
        raise UsageError("ctx-size", found, "give a smaller --ctx-size")


def _check_target(out: Path, sources: Sequence[Path], *, replace: bool) -> None:
    """Refuse before hours of work what could not be written after them, or would be written over what is read."""
    if out.is_dir():
        raise UsageError(str(out), "a folder", "name a file with --out")
    if out.exists() and any(source.exists() and out.samefile(source) for source in sources):
        raise UsageError(str(out), "is the model, or a text that is read", "name another --out")
    if out.exists() and not replace:
        raise UsageError(str(out), "already there", "replace it with --force, or name another --out")
    try:
        tempfile.TemporaryFile(dir=out.parent).close()
    except OSError as error:
        raise ConvertError(str(out.parent), f"cannot be written ({error.strerror})", "name another --out") from None


def _hash(path: Path) -> str:
    with console.progress("hashing", path.stat().st_size) as bar:
        return hash_file(path, bar.advance)


def _file_name(path: Path) -> str:
    return os.fsencode(path.name).decode("utf-8", "replace")
