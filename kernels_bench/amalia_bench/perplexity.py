"""Perplexity as llama-perplexity computes it: a text in windows, the second half of each scored.

Each window is read alone, from an empty cache, with BOS in place of its first token where the vocabulary wants one. The
logits pass by in pieces of one micro-batch, so that memory is bounded whatever the vocabulary: 512 × 128,000 × 4 bytes.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from amalia_edge.context import Context
from amalia_edge.errors import BenchError, UsageError
from amalia_edge.model import LoadConfig, Model

MICRO_BATCH = 512  # tokens computed at once, as llama-perplexity does: another number gives other last digits
SMALLEST_CONTEXT = 8  # tokens; below it next to nothing is scored
LEAST_WINDOWS = 2  # one window says nothing of the spread
DEFAULT_CONTEXT = 512  # tokens, as llama-perplexity
PIECE = 1 << 21  # logits looked at together: what stays in a processor's cache


def scored(context: int) -> int:
    """Give how many tokens of a window are scored: those after its first half, each by the logits before it."""
    return context - context // 2 - 1


def cut(ids: list[int], context: int, name: str, most: int | None = None) -> NDArray[np.int32]:
    """Cut a text's ids into windows (windows, context); what is left at the end is not read."""
    needed = LEAST_WINDOWS * context
    if len(ids) < needed:
        found = f"{len(ids)} tokens, at least {needed} needed"
        raise BenchError(name, found, f"give a longer text, or --context {_fitting(len(ids))}")
    windows = min(len(ids) // context, most or len(ids))
    return np.array(ids[: windows * context], np.int32).reshape(windows, context)


def _fitting(tokens: int) -> int:
    """Give the largest power of two that so few tokens hold often enough."""
    return max(SMALLEST_CONTEXT, 1 << max(0, (tokens // LEAST_WINDOWS).bit_length() - 1))


def load_config(context: int, threads: int | None = None, gpu_layers: int = LoadConfig.gpu_layers) -> LoadConfig:
    """Give the settings a model is loaded with to read windows; several short ones fill a micro-batch together."""
    if context < SMALLEST_CONTEXT:
        raise UsageError("context", f"{context}", f"at least {SMALLEST_CONTEXT} tokens")
    together = max(1, MICRO_BATCH // context)
    return LoadConfig(
        context=context,
        sequences=together,
        batch=MICRO_BATCH,
        micro_batch=MICRO_BATCH,
        threads=threads,
        gpu_layers=gpu_layers,
    )


class Rows(NamedTuple):
    """Some tokens of one window that are scored, in their order."""

    window: int
    first: int  # of the window's scored tokens
    targets: NDArray[np.int32]  # (rows,) what came next in the text
    logits: NDArray[np.float32]  # (rows, vocabulary) libllama's own: they last until the next rows


@dataclass(frozen=True)
class Piece:
    """What is decoded at once: tokens `start` to `end` of windows `window` to `window + count`."""

    window: int
    count: int
    start: int
    end: int

    def wanted(self, context: int) -> int:
        """Give how many tokens at the end of each window's part have logits that are of use."""
        return max(0, self.end - max(self.start, context // 2))


def pieces(begin: int, windows: int, context: int) -> Iterator[Piece]:
    """Part windows from `begin` on into micro-batches: several windows, one, or a part of one."""
    together = max(1, MICRO_BATCH // context)
    for window in range(begin, windows, together):
        for start in range(0, context, MICRO_BATCH):
            yield Piece(window, min(together, windows - window), start, min(start + MICRO_BATCH, context))


class WindowReader:
    """A model that reads windows; close it before the model."""

    def __init__(self, model: Model) -> None:
        """Take a model that was loaded with `load_config`."""
        self.model, self._vocabulary = model, model.vocabulary
        self._context = Context(model.pointer, model.context, model.threads, model.config, every=True)
        try:
            model.adapt(self._context.pointer)
        except BaseException:
            self._context.close()
            raise

    def read(self, windows: NDArray[np.int32], begin: int = 0) -> Iterator[Rows]:
        """Read windows (windows, context) from the one numbered `begin` on, and give the rows that are scored."""
        count, context = windows.shape
        ids = windows.copy()
        if self._vocabulary.adds_begin:
            ids[:, 0] = self._vocabulary.begin
        for piece in pieces(begin, count, context):
            together = slice(piece.window, piece.window + piece.count)
            if piece.start == 0:
                for sequence in range(piece.count):
                    self._context.truncate(0, sequence)
            wanted = piece.wanted(context)
            self._context.decode_together(ids[together, piece.start : piece.end], piece.start, wanted, stop=_never)
            if wanted:
                yield from self._rows(windows, piece, wanted)

    def _rows(self, windows: NDArray[np.int32], piece: Piece, wanted: int) -> Iterator[Rows]:
        """Part the logits of one decode by windows; the last token of a window has nothing after it to score."""
        context, size = windows.shape[1], self._vocabulary.size
        logits = self._context.logits(piece.count * wanted, size).reshape(piece.count, wanted, size)
        begin = piece.end - wanted
        kept = min(piece.end, context - 1) - begin
        for place in range(piece.count if kept else 0):
            targets = windows[piece.window + place, begin + 1 : begin + 1 + kept]
            yield Rows(piece.window + place, begin - context // 2, targets, logits[place, :kept])

    def close(self) -> None:
        self._context.close()

    def __enter__(self) -> "WindowReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _never() -> bool:
    return False  # so that Ctrl-C, and only that, ends a decode


def parts(rows: int, vocabulary: int) -> Iterator[slice]:
    """Part rows so that what is worked on at once stays small, whatever the vocabulary."""
    step = max(1, PIECE // vocabulary)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def log_sums(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Give the logarithm of each row's sum of exponentials (rows,); what is no number stays none."""
    top = logits.max(1, keepdims=True)
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        total = np.exp(logits - top).sum(1, dtype=np.float64)
    return np.asarray(np.log(total) + top[:, 0], np.float64)


def losses(rows: Rows) -> NDArray[np.float64]:
    """Give the negative log-likelihood (nats) of each token."""
    logits, targets = rows.logits, rows.targets
    found = [
        log_sums(logits[part]) - np.take_along_axis(logits[part], targets[part, None], 1)[:, 0]
        for part in parts(*logits.shape)
    ]
    return np.concatenate(found)


def mean_and_error(values: NDArray[np.float64]) -> tuple[float, float]:
    """Give a mean and its standard error as llama-perplexity does, as if tokens were independent."""
    error = float(values.std()) / math.sqrt(len(values) - 1) if len(values) > 1 else 0.0
    return float(values.mean()), error


def perplexity(values: NDArray[np.float64]) -> tuple[float, float]:
    """Give the perplexity of negative log-likelihoods, and its standard error."""
    mean, error = mean_and_error(values)
    value = math.exp(min(mean, 700))  # above it there is no float
    return value, value * error
