"""A model file, opened: weights, vocabulary, and the settings it runs with."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from amalia_edge import native
from amalia_edge.chat import Message, encode, with_system
from amalia_edge.device import usable_cores
from amalia_edge.engine import Engine, Piece
from amalia_edge.errors import ModelUnsupported, UsageError
from amalia_edge.gguf import Header, read_header
from amalia_edge.load_config import LARGEST_DEFAULT_CONTEXT, LoadConfig
from amalia_edge.sampler import SamplingConfig
from amalia_edge.vocab import Vocabulary

__all__ = ["LoadConfig", "Model"]


class Model:
    """Weights and vocabulary in memory; open with `with Model.open(path) as model`."""

    def __init__(self, header: Header, config: LoadConfig, pointer: Any) -> None:
        self.header, self.config, self.pointer = header, config, pointer
        self.vocabulary = Vocabulary(pointer)
        self._engine: Engine | None = None

    @classmethod
    def open(
        cls, path: str | Path, config: LoadConfig | None = None, progress: Callable[[float], None] | None = None
    ) -> "Model":
        """Check the file's header, then let libllama load it; `progress` hears of the share that is loaded."""
        config = config or LoadConfig()
        header = read_header(Path(path))
        if header.metadata.get("tokenizer.ggml.model") == "no_vocab":
            raise ModelUnsupported(header.path.name, "no vocabulary in it", "convert it with its tokenizer")
        return cls(header, config, native.open_model(header.path, config, progress))

    @property
    def context(self) -> int:
        """Give the context this model will run with, in tokens."""
        trained = self.header.trained_context or LARGEST_DEFAULT_CONTEXT
        return self.config.context or min(LARGEST_DEFAULT_CONTEXT, trained)

    @property
    def threads(self) -> int:
        return self.config.threads or usable_cores()

    @property
    def engine(self) -> Engine:
        """Give this model's own engine, made at first use."""
        if self._engine is None:
            self._engine = Engine(self)
        return self._engine

    @property
    def sampling(self) -> SamplingConfig:
        """Give the sampling the model's makers recommend in its metadata, else the defaults."""
        told = SamplingConfig()
        for ours, theirs in {"temperature": "temp", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"}.items():
            value = self.header.metadata.get(f"general.sampling.{theirs}")
            if isinstance(value, (int, float)) and math.isfinite(value):
                setting: dict[str, Any] = {ours: int(value) if ours == "top_k" else float(value)}
                with contextlib.suppress(UsageError):  # what makes no sense in a file is passed over
                    told = dataclasses.replace(told, **setting)
        return told

    def chat(self, messages: Sequence[Message], sampling: SamplingConfig | None = None) -> Iterator[Piece]:
        """Answer a conversation, piece by piece; the model's default system prompt is used unless it brings one."""
        return self.complete(self.conversation(messages), sampling)

    def conversation(self, messages: Sequence[Message]) -> list[int]:
        """Give a conversation's ids, ready for the answer, with the default system prompt where one is due."""
        template = self.header.metadata.get("tokenizer.chat_template")
        return encode(with_system(messages, self.header), template, self.vocabulary)

    def complete(self, ids: Sequence[int], sampling: SamplingConfig | None = None) -> Iterator[Piece]:
        """Go on from ids as they are, piece by piece; nothing begins before the first piece is asked for."""
        yield from self.engine.stream(self.engine.submit(ids, sampling or self.sampling))

    def prompt(self, text: str) -> list[int]:
        """Give a plain text's ids, after BOS where the vocabulary wants one."""
        begin = [self.vocabulary.begin] if self.vocabulary.adds_begin else []
        ids = begin + self.vocabulary.encode(text)
        if not ids:
            raise UsageError("prompt", "empty", "give a text to go on from")
        return ids

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None
        if self.pointer is not None:
            native.library().llama_model_free(self.pointer)
            self.pointer = None

    def __enter__(self) -> "Model":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
