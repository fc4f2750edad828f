"""A model file, opened: weights, vocabulary, and the settings it runs with."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from amalia_edge import native
from amalia_edge.adapter import apply_adapters, load_adapters
from amalia_edge.answer import MARKS, AnswerForm, AnswerReader, Delta, answer_form
from amalia_edge.calls import call_form, tool_schema
from amalia_edge.chat import Message, Tool, encode, with_system
from amalia_edge.engine import Engine, Piece
from amalia_edge.errors import ModelUnsupported, UsageError
from amalia_edge.gguf import Header, read_header
from amalia_edge.host import this_host
from amalia_edge.known_templates import choose_template
from amalia_edge.load_config import LoadConfig
from amalia_edge.plan import Plan, make_plan
from amalia_edge.sampler import SamplingConfig
from amalia_edge.vocab import Vocabulary

__all__ = ["LoadConfig", "Model"]

RECOMMENDED = {
    "temperature": "temp", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p",
    "repeat_penalty": "penalty_repeat", "repeat_last": "penalty_last_n",
}  # our names → those after general.sampling.  # fmt: skip


class Model:
    """Weights and vocabulary in memory; open with `with Model.open(path) as model`."""

    def __init__(self, header: Header, plan: Plan, pointer: Any) -> None:
        self.header, self.plan, self.config, self.pointer = header, plan, plan.config, pointer
        self.vocabulary = Vocabulary(pointer, shown=MARKS)
        self._adapters: list[Any] = []
        self._engine: Engine | None = None

    @classmethod
    def open(
        cls, path: str | Path, config: LoadConfig | None = None, progress: Callable[[float], None] | None = None
    ) -> "Model":
        """Check the file's header and that it fits the machine, then let libllama load it.

        `progress` hears of the share that is loaded.
        """
        header = read_header(Path(path))
        if header.metadata.get("tokenizer.ggml.model") in ("no_vocab", "none"):
            raise ModelUnsupported(header.path.name, "no vocabulary in it", "convert it with its tokenizer")
        config = config or LoadConfig()
        longest = header.longest_context
        if longest is not None and (config.context or 0) > longest:
            raise UsageError("context", f"{config.context} tokens, {longest} positions in the model", "ask for fewer")
        plan = make_plan(header, config, this_host())
        model = cls(header, plan, native.open_model(header.parts, plan.config, progress))
        try:
            model._adapters = load_adapters(model.pointer, header, plan.config.adapters)
        except BaseException:
            model.close()
            raise
        return model

    @property
    def context(self) -> int:
        """Give the context each sequence of this model runs with, in tokens."""
        assert self.config.context is not None
        return self.config.context

    @property
    def threads(self) -> int:
        assert self.config.threads is not None
        return self.config.threads

    def adapt(self, context: Any) -> None:
        """Put this model's adapters into a context that was made of it."""
        apply_adapters(context, self._adapters, self.config.adapters)

    @property
    def engine(self) -> Engine:
        """Give this model's own engine, made at first use."""
        if self._engine is None:
            if self.header.metadata.get(f"{self.header.architecture}.attention.causal") is False:
                raise ModelUnsupported(
                    self.header.path.name, "it reads whole texts, and writes none", "use amalia embed"
                )
            self._engine = Engine(self)
        return self._engine

    @property
    def sampling(self) -> SamplingConfig:
        """Give the sampling the model's makers recommend in its metadata, else the defaults."""
        told = SamplingConfig()
        for ours, theirs in RECOMMENDED.items():
            value = self.header.metadata.get(f"general.sampling.{theirs}")
            if isinstance(value, (int, float)) and math.isfinite(value):
                whole = isinstance(getattr(told, ours), int)
                setting: dict[str, Any] = {ours: int(value) if whole else float(value)}
                with contextlib.suppress(UsageError):  # what makes no sense in a file is passed over
                    told = dataclasses.replace(told, **setting)
        return told

    def template(self, tools: Sequence[Tool] = ()) -> str:
        """Give the chat template: the one asked for by name, else the file's own, else one its control tokens tell of."""
        metadata, control = self.header.metadata, self.vocabulary.control
        return choose_template(metadata, control, self.config.chat_template, tools=bool(tools))

    def chat(
        self,
        messages: Sequence[Message],
        sampling: SamplingConfig | None = None,
        tools: Sequence[Tool] = (),
        *,
        must_call: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> Iterator[Piece]:
        """Answer a conversation, piece by piece: words in `text`, thoughts in `reasoning`, tool calls in `calls`.

        The model's default system prompt is used unless the conversation brings one. With `must_call` the answer is one
        call, held to the tools' schemas. `variables` are the template's own switches.
        """
        ids, reader = self.conversation(messages, tools, variables), self.reader(tools, variables)
        if must_call:
            from amalia_edge.schema import JsonSchema

            calls = call_form(self.template(tools))
            ids = [*ids, *self.vocabulary.encode(calls.opens, control=True)]  # the answer goes on from there
            reader = AnswerReader(AnswerForm(calls=calls), tools)
            reader.push(calls.opens)
            sampling = dataclasses.replace(sampling or self.sampling, grammar=JsonSchema(tool_schema(tools, calls)))
        for piece in self.complete(ids, sampling):
            deltas = reader.push(piece.text)
            if piece.finish:
                deltas += reader.finish()
            yield _told(piece, deltas)

    def reader(self, tools: Sequence[Tool] = (), variables: Mapping[str, Any] | None = None) -> AnswerReader:
        """Give a reader that tells an answer's words, thoughts and calls apart, as this model writes them."""
        return AnswerReader(answer_form(self.template(tools), variables), tools)

    def conversation(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), variables: Mapping[str, Any] | None = None
    ) -> list[int]:
        """Give a conversation's ids, ready for the answer, with the default system prompt where one is due."""
        template = self.template(tools)
        return encode(with_system(messages, self.header), template, self.vocabulary, tools, variables)

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


def _told(piece: Piece, deltas: Sequence[Delta]) -> Piece:
    """Give a piece with what its text turned out to be."""
    if list(deltas) == [Delta(content=piece.text)]:
        return piece
    return piece._replace(
        text="".join(delta.content for delta in deltas),
        reasoning="".join(delta.reasoning for delta in deltas),
        calls=tuple(delta.call for delta in deltas if delta.call),
    )
