"""The one decode loop: ids go in, pieces of text come out.

An engine owns one llama context. It is single-threaded: whoever holds it calls `step()` again and again, and no step
lasts longer than one batch. What the context still remembers of the sequence before is reused where the next one
begins alike, so that a conversation's turns are not read anew each time.
"""

import time
from collections.abc import Iterator
from collections.abc import Sequence as Ids
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from amalia_edge.context import Context
from amalia_edge.errors import Busy, ContextFull, UsageError
from amalia_edge.sampler import Sampler, SamplingConfig
from amalia_edge.text import TextStream

Finish = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Piece:
    """What one token added: its text, which may be empty inside a character, and the reason if it was the last."""

    text: str
    token: int | None
    finish: Finish | None = None


@dataclass
class Sequence:
    """A request in flight: the prompt's ids, then those generated."""

    ids: list[int]
    prompt_tokens: int
    sampling: SamplingConfig
    decoded: int = 0  # how many of `ids` the context has seen
    reused: int = 0  # how many of them it had seen before
    finish: Finish | None = None
    prefill_s: float = 0.0
    decode_s: float = 0.0
    _sampler: Any = None
    _text: TextStream = field(default_factory=TextStream)

    @property
    def seed(self) -> int:
        return int(self._sampler.seed)

    @property
    def generated(self) -> int:
        return len(self.ids) - self.prompt_tokens

    @property
    def decode_tps(self) -> float:
        """Give tokens per second after the first one, whose time is the prefill's; the end token counts, it is decoded."""
        steps = self.generated - 1 + (self.finish == "stop")
        return steps / self.decode_s if self.decode_s and steps > 0 else 0.0


class Loaded(Protocol):
    """What an engine needs of a model."""

    pointer: Any
    config: Any
    vocabulary: Any

    @property
    def context(self) -> int: ...

    @property
    def threads(self) -> int: ...


class Engine:
    def __init__(self, model: Loaded) -> None:
        self._model = model
        self.context = model.context
        self._state = Context(model.pointer, model.context, model.threads, model.config)
        self._chunk = min(model.config.micro_batch, model.config.batch, self.context)  # so that a step is short
        self._active: Sequence | None = None
        self._held: list[int] = []  # the ids whose keys and values the context still holds

    def submit(self, ids: Ids[int], sampling: SamplingConfig) -> Sequence:
        """Take a request; it advances with each `step()`."""
        if self._active is not None:
            raise Busy("engine", "one sequence is under way", "wait for its end, or cancel it")
        if not ids:
            raise UsageError("prompt", "no tokens", "give a text")
        if len(ids) >= self.context:
            found = f"{len(ids)} tokens of prompt, {self.context} of context"
            raise ContextFull("prompt", found, f"shorten it, or load with --ctx-size above {len(ids)}")
        sequence = Sequence(list(ids), len(ids), sampling, _sampler=Sampler(sampling))
        if sampling.limit == 0:
            sequence.finish = "length"
        sequence.decoded = sequence.reused = self._rewind(sequence.ids)
        self._active = sequence
        return sequence

    def step(self) -> list[Piece]:
        """Decode the next batch of the active sequence; give the piece it led to, if any."""
        sequence = self._active
        if sequence is None:
            return []
        if sequence.finish is not None:
            return [self._end(sequence, sequence.finish)]
        started = time.perf_counter()
        reading = sequence.decoded < sequence.prompt_tokens
        chunk = sequence.ids[sequence.decoded : sequence.decoded + self._chunk]
        try:
            self._state.decode(chunk, sequence.decoded)
        except BaseException:  # Ctrl-C too: what was read before this chunk is kept
            if not self._state.truncate(len(self._held)):
                self._state.truncate(0)
                self._held.clear()
            self.cancel(sequence)
            raise
        sequence.decoded += len(chunk)
        self._held += chunk
        pieces = [self._next(sequence)] if sequence.decoded == len(sequence.ids) else []
        elapsed = time.perf_counter() - started
        if reading:
            sequence.prefill_s += elapsed
        else:
            sequence.decode_s += elapsed
        return pieces

    def _next(self, sequence: Sequence) -> Piece:
        """Sample the token after the last decoded one; the very last token of an answer is never fed back."""
        token = sequence._sampler.sample(self._state.pointer, -1)
        if not sequence.sampling.ignore_end and self._model.vocabulary.ends(token):
            return self._end(sequence, "stop", token)
        text = sequence._text.push(self._model.vocabulary.bytes_of(token))
        sequence.ids.append(token)
        if sequence.generated == sequence.sampling.limit or len(sequence.ids) == self.context:
            return self._end(sequence, "length", token, text)
        return Piece(text, token)

    def _end(self, sequence: Sequence, finish: Finish, token: int | None = None, text: str = "") -> Piece:
        sequence.finish = finish
        sequence._sampler.close()
        self._active = None
        return Piece(text + sequence._text.finish(), token, finish)

    def stream(self, sequence: Sequence) -> Iterator[Piece]:
        """Step until the sequence ends; leaving early cancels it."""
        try:
            while self._active is sequence:
                yield from self.step()
        finally:
            self.cancel(sequence)

    def cancel(self, sequence: Sequence) -> None:
        if self._active is sequence:
            self._end(sequence, "cancelled")

    def _rewind(self, ids: list[int]) -> int:
        """Keep what the context holds of these ids' beginning; one token is always decoded anew, for its logits."""
        same = 0
        for held, wanted in zip(self._held, ids[:-1], strict=False):
            if held != wanted:
                break
            same += 1
        del self._held[same:]
        if not self._state.truncate(same):
            self._state.truncate(0)
            self._held.clear()
        return len(self._held)

    def close(self) -> None:
        if self._active is not None:
            self.cancel(self._active)
        self._state.close()
