"""A text as a model reads it: in windows of ids, the same for the base and for every level."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from amalia_bench.logits_file import LogitsFile
from amalia_bench.perplexity import LEAST_WINDOWS, cut, scored
from amalia_bench.texts import Text, embedded
from amalia_edge.errors import BenchError, NotComparable, UsageError
from amalia_edge.model import Model


@dataclass(frozen=True)
class Passage:
    """What is read of a text."""

    name: str
    sha256: str | None  # None: only its tokens are known
    windows: NDArray[np.int32]  # (windows, context)
    windows_of_text: int

    @property
    def context(self) -> int:
        return int(self.windows.shape[1])

    @property
    def rows(self) -> int:
        """Give how many tokens are scored."""
        return len(self.windows) * scored(self.context)


def passage(model: Model, text: Text, context: int, most: int | None) -> Passage:
    """Cut a text into windows of a model's ids: all of it, or its first part."""
    whole = cut(model.prompt(text.text), context, text.name)
    return Passage(text.name, text.sha256, whole[:most], len(whole))


def require_same_ids(model: Model, texts: Sequence[Text], passages: Sequence[Passage], most: int | None) -> None:
    """Refuse a level that splits a text into other tokens than its base."""
    for text, read in zip(texts, passages, strict=True):
        if not np.array_equal(passage(model, text, read.context, most).windows, read.windows):
            found = f"its tokens of {text.name} are not the base's"
            raise NotComparable(model.header.path.name, found, "give levels that were made of one model")


def passage_of_file(model: Model, file: LogitsFile, texts: Sequence[Text], most: int | None) -> Passage:
    """Give the text a logits file was made of: the one that was named, else one of ours, else its bare tokens."""
    context, held = file.layout.context, file.layout.tokens
    if len(texts) > 1:
        raise UsageError("text", f"{len(texts)} texts, and a logits file is made of one", "give one --text, or none")
    if len(held) < LEAST_WINDOWS:
        raise BenchError(file.path.name, "one window in it", f"make it of at least {LEAST_WINDOWS * context} tokens")
    if texts:
        whole = passage(model, texts[0], context, None)
        begin = whole.windows[: len(held)]  # --chunks, or --quick
        file.require_windows(begin, texts[0].name)
        return Passage(whole.name, whole.sha256, begin[:most], whole.windows_of_text)
    for text in embedded().values():
        ids = np.array(model.prompt(text.text), np.int32)
        if np.array_equal(ids[: held.size], held.ravel()):
            return Passage(text.name, text.sha256, held[:most], len(ids) // context)
    return Passage(file.path.name, None, held[:most], len(held))
