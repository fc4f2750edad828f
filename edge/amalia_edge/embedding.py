"""Texts → vectors: what a model makes of each text's tokens, pooled and of length one."""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amalia_edge import native
from amalia_edge.context import DECODE_CODES, Threadpool
from amalia_edge.errors import ContextFull, DecodeError, DoesNotFit, ModelUnsupported, UsageError
from amalia_edge.model import Model

POOLINGS = ("mean", "cls", "last")
POOLING_TYPES = {0: "mean", 1: "mean", 2: "cls", 3: "last"}  # enum llama_pooling_type; 0: the model has none of its own
NO_POOLING = 0  # LLAMA_POOLING_TYPE_NONE: libllama's own would pool each micro-batch by itself
MOST_AT_ONCE = 64  # texts in one batch

Text = str | Sequence[int]


def embed(model: Model, texts: Sequence[Text], *, pooling: str | None = None) -> NDArray[np.float32]:
    """Give the vectors (texts, width) of texts or of their ids; `pooling` is the model's own, else the mean."""
    ids = [_ids(model, text) for text in texts]
    with Embedder(model, pooling, room=max(map(len, ids), default=1)) as embedder:
        return embedder.embed(ids)


def token_ids(model: Model, text: str) -> list[int]:
    """Give a text's ids, with the first and last token that the vocabulary wants around a text."""
    vocabulary = model.vocabulary
    begin = [vocabulary.begin] if vocabulary.adds_begin else []
    return begin + vocabulary.encode(text) + ([vocabulary.end] if vocabulary.adds_end else [])


class Embedder:
    """A context that makes vectors; open with `with Embedder(model) as embedder`."""

    def __init__(self, model: Model, pooling: str | None = None, room: int | None = None) -> None:
        """Take texts of at most `room` tokens: the model's context, unless told."""
        bindings = self._library = native.library()
        self._model, self.pooling = model, _pooling(model, pooling)
        self.room = min(room or model.context, model.context)
        self.width = int(bindings.llama_model_n_embd_out(model.pointer))
        config = model.config
        self._cells = max(self.room, min(config.micro_batch, model.context))  # of all the texts in one batch
        causal = model.header.metadata.get(f"{model.header.architecture}.attention.causal", True)
        self._chunk = min(config.micro_batch, self._cells) if causal else self._cells  # all see all: all at once
        self._most = min(MOST_AT_ONCE, self._chunk)  # libllama aborts on more sequences than a batch has tokens
        parameters = bindings.llama_context_default_params()
        parameters.n_ctx, parameters.n_seq_max, parameters.kv_unified = self._cells, self._most, True
        parameters.n_batch = parameters.n_ubatch = self._chunk
        parameters.n_threads = parameters.n_threads_batch = model.threads
        parameters.type_k = native.CACHE_TYPES[config.cache_keys]
        parameters.type_v = native.CACHE_TYPES[config.cache_values]
        parameters.flash_attn_type = native.FLASH_ATTENTION[config.flash_attention]
        parameters.embeddings, parameters.no_perf = True, True
        if model.header.number("pooling_type"):
            parameters.pooling_type = NO_POOLING
        with native.reasons() as why:
            self.pointer: Any = bindings.llama_init_from_model(model.pointer, parameters)
            if not self.pointer:
                raise DoesNotFit("context", f"{self._cells} tokens: {why()}", "embed shorter texts")
        try:
            self._threads = Threadpool(model.threads)
        except BaseException:
            bindings.llama_free(self.pointer)
            raise
        self._threads.attach(self.pointer)
        model.adapt(self.pointer)
        self._batch = bindings.llama_batch_init(self._chunk, 0, 1)

    def embed(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        """Give the vectors (texts, width) of texts or of their ids, each of length one."""
        ids = [_ids(self._model, text) for text in texts]
        for place, found in enumerate(ids):
            if not found:
                raise UsageError(f"texts[{place}]", "no tokens", "give a text")
            if len(found) > self.room:
                told = f"{len(found)} tokens, {self.room} of context"
                raise ContextFull(f"texts[{place}]", told, "shorten it, or load with a larger --ctx-size")
        vectors = [self._pooled(group) for group in self._groups(ids)]
        pooled = np.concatenate(vectors) if vectors else np.empty((0, self.width))
        length = np.linalg.norm(pooled, axis=1, keepdims=True)
        return (pooled / np.where(length > 0, length, 1)).astype(np.float32)

    def _groups(self, ids: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
        """Put as many texts together as the cells hold."""
        group: list[Sequence[int]] = []
        for text in ids:
            if group and (sum(map(len, group)) + len(text) > self._cells or len(group) == self._most):
                yield group
                group = []
            group.append(text)
        if group:
            yield group

    def _pooled(self, group: list[Sequence[int]]) -> NDArray[np.float64]:
        """Read a group of texts chunk by chunk; pooling is a weighted sum, so that no chunk need be kept."""
        lengths = [len(text) for text in group]
        tokens = np.concatenate([np.asarray(text, np.int32) for text in group])
        positions = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
        owners = np.repeat(np.arange(len(group), dtype=np.int32), lengths)
        ends = np.repeat(lengths, lengths)
        weights = {"mean": 1 / ends, "cls": positions == 0, "last": positions == ends - 1}[self.pooling]
        self._library.llama_memory_clear(self._library.llama_get_memory(self.pointer), False)
        pooled = np.zeros((len(group), self.width))
        for start in range(0, len(tokens), self._chunk):
            part = slice(start, start + self._chunk)
            rows = self._rows(tokens[part], positions[part], owners[part])
            share = np.zeros((len(group), len(rows)))
            share[owners[part], np.arange(len(rows))] = weights[part]
            pooled += share @ rows
        return pooled

    def _rows(
        self, tokens: NDArray[np.int32], positions: NDArray[np.int32], owners: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """Decode a chunk; give each token's vector (tokens, width), which lasts until the next one."""
        batch, count = self._batch, len(tokens)
        batch.n_tokens = count
        as_array = np.ctypeslib.as_array
        as_array(batch.token, (count,))[:] = tokens
        as_array(batch.pos, (count,))[:] = positions
        as_array(batch.n_seq_id, (count,))[:] = as_array(batch.logits, (count,))[:] = 1
        for row, owner in enumerate(owners.tolist()):
            batch.seq_id[row][0] = owner
        code = self._library.llama_decode(self.pointer, batch)
        if code:
            raise DecodeError("llama_decode", DECODE_CODES.get(code, f"code {code}"), "try again")
        return as_array(self._library.llama_get_embeddings(self.pointer), (count, self.width))

    def close(self) -> None:
        if self.pointer is not None:
            self._library.llama_batch_free(self._batch)
            self._library.llama_free(self.pointer)
            self._threads.close()
            self.pointer = None

    def __enter__(self) -> "Embedder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _ids(model: Model, text: Text) -> Sequence[int]:
    return token_ids(model, text) if isinstance(text, str) else text


def _pooling(model: Model, wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in POOLINGS:
            raise UsageError("pooling", f"{wanted!r}", "one of " + ", ".join(POOLINGS))
        return wanted
    own = model.header.number("pooling_type")
    if own not in POOLING_TYPES:
        raise ModelUnsupported("pooling", f"type {own} of the model's own", "choose one of " + ", ".join(POOLINGS))
    return POOLING_TYPES[own]
