"""Texts, windows and logits as the tests of the quality measurement need them: small, and the same each time."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from amalia_bench.divergence import BaseLogits, Tokens, diverge
from amalia_bench.logits_file import Layout, LogitsWriter
from amalia_bench.perplexity import Rows, scored
from amalia_bench.texts import Text, read_text

CONTEXT, VOCABULARY = 16, 37  # an odd vocabulary has a code of padding in each row


def logits(rows: int, vocabulary: int = VOCABULARY, seed: int = 0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal((rows, vocabulary)) * 6).astype(np.float32)


def rows_of(values: NDArray[np.float32], window: int = 0, first: int = 0) -> Rows:
    targets = np.arange(len(values), dtype=np.int32) * 5 % values.shape[1]
    return Rows(window, first, targets, values)


def compared(base: NDArray[np.float32], level: NDArray[np.float32], window: int = 0) -> Tokens:
    return diverge(BaseLogits(base), rows_of(level, window), "level.gguf")


def layout(windows: int = 3, context: int = CONTEXT, vocabulary: int = VOCABULARY, seed: int = 1) -> Layout:
    draw = np.random.default_rng(seed)
    return Layout(context, vocabulary, draw.integers(0, vocabulary, (windows, context), dtype=np.int32))


def write_windows(path: Path, held: Layout, begin: int = 0, end: int | None = None) -> Path:
    """Write windows, each with logits of its own, the same whenever it is written."""
    with LogitsWriter(path, held, begin) as writer:
        for window in range(begin, held.windows if end is None else end):
            writer.write(rows_of(logits(scored(held.context), held.vocabulary, seed=window), window), "base.gguf")
    return path


def text_file(folder: Path, words: int = 100) -> Text:
    """Give a text; in the tiny models' vocabulary a letter is about a token."""
    path = folder / "fado.txt"
    path.write_text(" ".join(f"fado{number % 7} saudade é" for number in range(words)), "utf-8")
    return read_text(path)
