"""The base's log-probabilities in llama-perplexity's own file (`--kl-divergence-base`), read and written.

A header with the text's tokens, then window after window, each scored token a row of 16-bit codes. What is less likely
than e⁻¹⁶ is cut off. A file that was interrupted is continued after its last whole window.
"""

import hashlib
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from amalia_bench.divergence import ADVICE
from amalia_bench.perplexity import SMALLEST_CONTEXT, Rows, log_sums, parts, scored
from amalia_edge.errors import BenchError, NotComparable

MAGIC = b"_logits_"
HEADER = struct.Struct("<8s3i")  # magic, context, vocabulary, windows; then the tokens, int32 (windows, context)
DEPTH = np.float32(16)  # nats below the likeliest token that are kept
CODES = np.float32(65535)
LARGEST = 1 << 24  # of a context and of a vocabulary, far above any there is


@dataclass(frozen=True)
class Layout:
    """What a file holds, by its header."""

    context: int
    vocabulary: int
    tokens: NDArray[np.int32]  # (windows, context)

    @property
    def windows(self) -> int:
        return len(self.tokens)

    @cached_property
    def row(self) -> np.dtype[np.void]:
        codes = self.vocabulary + self.vocabulary % 2
        return np.dtype([("scale", "<f4"), ("least", "<f4"), ("codes", "<u2", (codes,))])

    @property
    def header_bytes(self) -> int:
        return HEADER.size + 4 * self.tokens.size

    @property
    def window_bytes(self) -> int:
        return scored(self.context) * self.row.itemsize

    @property
    def file_bytes(self) -> int:
        return self.header_bytes + self.windows * self.window_bytes

    def header(self) -> bytes:
        head = HEADER.pack(MAGIC, self.context, self.vocabulary, self.windows)
        return head + self.tokens.astype("<i4").tobytes()


def is_logits_file(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def encode(logits: NDArray[np.float32], row: np.dtype[np.void]) -> NDArray[np.void]:
    """Give rows of codes, as llama-perplexity writes them."""
    with np.errstate(
        all="ignore"
    ):  # a row in which all are alike has no scale; what is no number is found by the caller
        return _encode(logits, row)


def _encode(logits: NDArray[np.float32], row: np.dtype[np.void]) -> NDArray[np.void]:
    vocabulary = logits.shape[1]
    coded = np.zeros(len(logits), row)
    for part in parts(*logits.shape):
        values = logits[part]
        top = values.max(1, keepdims=True)
        least = np.maximum(values.min(1, keepdims=True), top - DEPTH)  # (rows, 1)
        scale = (top - least) / CODES
        coded["scale"][part] = scale[:, 0]
        coded["least"][part] = (least - top)[:, 0] - log_sums(values - top).astype(np.float32)
        codes = np.rint((values - least) * (1 / scale))
        coded["codes"][part, :vocabulary] = np.where((values > least) & (scale > 0), codes, 0)
    return coded


class Codes:
    """What a file says of some tokens, read as it is asked for."""

    floor = -float(DEPTH)

    def __init__(self, read: Callable[[slice], NDArray[np.void]], vocabulary: int) -> None:
        self._read, self._vocabulary = read, vocabulary

    def log_probabilities(self, part: slice) -> NDArray[np.float32]:
        rows = self._read(part)
        values = rows["codes"][:, : self._vocabulary].astype(np.float32)
        values *= rows["scale"][:, None]
        values += rows["least"][:, None]
        return values


class LogitsFile:
    """A file of log-probabilities, opened; every claim of its header was checked against its size."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("rb")
        except OSError as problem:
            raise BenchError(path.name, problem.strerror or "unreadable", "give a logits file") from None
        try:
            self.layout = self._layout()
        except BaseException:
            self._file.close()
            raise

    def _layout(self) -> Layout:
        name, size = self.path.name, os.fstat(self._file.fileno()).st_size
        head = self._file.read(HEADER.size)
        if head[: len(MAGIC)] != MAGIC:
            raise BenchError(name, "not a file of log-probabilities", "give what --logits or llama-perplexity wrote")
        if len(head) < HEADER.size:
            raise BenchError(name, f"cut after {size} bytes, inside its header", "make it again")
        _, context, vocabulary, windows = HEADER.unpack(head)
        if not (SMALLEST_CONTEXT <= context <= LARGEST and 0 < vocabulary <= LARGEST and windows > 0):
            found = f"{windows} windows of {context} tokens, a vocabulary of {vocabulary}"
            raise BenchError(name, found, "the file is damaged: make it again")
        wanted = 4 * windows * context
        if size - HEADER.size < wanted:
            found = f"byte {size}: its text's tokens want {wanted - (size - HEADER.size)} bytes more"
            raise BenchError(name, found, "the file was cut: make it again")
        tokens = np.frombuffer(self._file.read(wanted), "<i4").astype(np.int32).reshape(windows, context)
        if tokens.min() < 0 or tokens.max() >= vocabulary:
            raise BenchError(name, "tokens that its vocabulary does not have", "the file is damaged: make it again")
        layout = Layout(context, vocabulary, tokens)
        if size > layout.file_bytes:
            found = f"{size - layout.file_bytes} bytes more than its header tells of"
            raise BenchError(name, found, "the file is damaged: make it again")
        self.whole = (size - layout.header_bytes) // layout.window_bytes  # windows
        return layout

    def require_whole(self, wanted: int | None = None) -> None:
        """Refuse a file that was cut, unless the windows that are wanted are in it."""
        if self.whole < min(wanted or self.layout.windows, self.layout.windows):
            found = f"cut: {self.whole} of {self.layout.windows} windows in it"
            raise BenchError(self.path.name, found, "finish it: give the model as BASE and this file with --logits")

    def require_vocabulary(self, size: int, model: str) -> None:
        if self.layout.vocabulary != size:
            found = f"of a model with {self.layout.vocabulary} tokens in its vocabulary, {model} has {size}"
            raise NotComparable(self.path.name, found, "give a logits file of this model's base")

    def require_context(self, context: int) -> None:
        if self.layout.context != context:
            found = f"made with windows of {self.layout.context} tokens, not {context}"
            raise NotComparable(self.path.name, found, f"give --context {self.layout.context}, or make it again")

    def require_windows(self, windows: NDArray[np.int32], text: str) -> None:
        """Refuse a file of another context or text; one that holds more of the same text will do."""
        count, context = windows.shape
        self.require_context(context)
        held = self.layout.tokens[:count]
        if not np.array_equal(held, windows[: len(held)]):
            raise NotComparable(self.path.name, f"made of another text than {text}", "give the text it was made of")
        if len(held) < count:
            found = f"{len(held)} of {count} windows of {text}"
            raise NotComparable(self.path.name, found, "name another file with --logits, or measure with --quick")

    def base(self, rows: Rows) -> Codes:
        """Give what the file says of the tokens that a model has just read."""
        item, layout = self.layout.row.itemsize, self.layout
        start = layout.header_bytes + rows.window * layout.window_bytes + rows.first * item

        def read(part: slice) -> NDArray[np.void]:
            wanted = (part.stop - part.start) * item
            content = os.pread(self._file.fileno(), wanted, start + part.start * item)
            if len(content) < wanted:
                found = f"window {rows.window + 1}: {wanted - len(content)} bytes are gone"
                raise BenchError(self.path.name, found, "make it again")
            coded = np.frombuffer(content, layout.row)
            if not (np.isfinite(coded["scale"]).all() and np.isfinite(coded["least"]).all()):
                found = f"window {rows.window + 1}: numbers that are infinite or none"
                raise BenchError(self.path.name, found, "the file is damaged: make it again")
            return coded

        return Codes(read, layout.vocabulary)

    @cached_property
    def digest(self) -> str:
        """Hash what tells the file from others: its header and its first window."""
        head = os.pread(self._file.fileno(), self.layout.header_bytes + self.layout.window_bytes, 0)
        return hashlib.sha256(head).hexdigest()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "LogitsFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def windows_there(path: Path, layout: Layout, text: str) -> int:
    """Give how many whole windows a file has, once it is sure that they are these; a file of anything else is refused."""
    if not path.exists() or _has_only_a_beginning(path, layout):
        return 0
    with LogitsFile(path) as file:
        file.require_vocabulary(layout.vocabulary, "BASE")
        file.require_windows(layout.tokens, text)
        if file.layout.windows > layout.windows > file.whole:
            file.require_whole()  # a longer text's file is not ours to finish
        return min(file.whole, layout.windows)


def _has_only_a_beginning(path: Path, layout: Layout) -> bool:
    """Say whether a file was cut while its header was written."""
    header = layout.header()
    with path.open("rb") as file:
        found = file.read(len(header))
    return len(found) < len(header) and header.startswith(found)


class LogitsWriter:
    """A file being written, or continued after the windows that `windows_there` found in it."""

    def __init__(self, path: Path, layout: Layout, begin: int = 0) -> None:
        self.path, self.layout = path, layout
        self._row = begin * scored(layout.context)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("r+b" if path.exists() else "xb")
            if begin == 0:
                self._file.write(layout.header())
            self._file.truncate(layout.header_bytes + begin * layout.window_bytes)
            self._file.seek(0, os.SEEK_END)
        except OSError as problem:
            raise _unwritable(path, problem) from None

    def write(self, rows: Rows, where: str) -> None:
        """Add the next rows; a window is on the disk once its last row is."""
        each = scored(self.layout.context)
        assert rows.window * each + rows.first == self._row, "rows come in their order"
        coded = encode(rows.logits, self.layout.row)
        if not (np.isfinite(coded["least"]).all() and np.isfinite(coded["scale"]).all()):
            found = f"window {rows.window + 1}: logits that are infinite or no number"
            raise BenchError(where, found, ADVICE)
        try:
            self._file.write(coded.tobytes())
            self._row += len(coded)
            if self._row % each == 0:
                self._file.flush()
                os.fsync(self._file.fileno())
        except OSError as problem:
            raise _unwritable(self.path, problem) from None

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "LogitsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _unwritable(path: Path, problem: OSError) -> BenchError:
    advice = "name a file on a disk with room, with --logits"
    return BenchError(path.name, f"cannot be written ({problem.strerror})", advice)
