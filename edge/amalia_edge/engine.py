"""The one decode loop: many sequences in one llama context, a step at a time.

`submit` takes a request, `step` reads or writes the next tokens, `cancel` ends one. Nothing here waits for anything. A step
writes a token of every answer under way or reads a chunk of one prompt, by turns; where sequences share the engine a chunk
takes no longer than MOST_STEP_S. Prompts take turns too, and one that has just come is soon read. As long as nobody writes
and nobody comes, a chunk may take LONGEST_STEP_S and holds an equal share of every prompt: the weights are read once for all.

A sequence lives in a slot, whose keys and values stay when it ends. The next request takes the slot that holds the most
of its beginning, or copies it from there, and reads only the rest.
"""

import time
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Ids
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from amalia_edge.context import Chunk, Context
from amalia_edge.errors import Busy, Cancelled, ContextFull, DecodeError, OutOfTime, UsageError
from amalia_edge.messages import ToolCall
from amalia_edge.pace import Pace
from amalia_edge.sampler import Constraint, Sampler, SamplingConfig, logprobs
from amalia_edge.text import TextStream

Finish = Literal["stop", "length", "cancelled", "error"]
MOST_STEP_S = 0.25  # of reading, while others may be waiting
LONGEST_STEP_S = 1.0  # while nobody is, and whoever comes ends it
SAFETY = 0.8  # of that time: machines are noisy
MOMENT_S = 0.002  # a small model's tokens that come within it are told together
MOST_UNASKED = 8  # tokens: asking at every node whether to go on is cheap beside more of them
WORTH_COPYING = 64  # tokens: a copy moves a slot's whole memory


class Piece(NamedTuple):
    """What one token added: its text, which may be empty inside a character, and the reason if it was the last."""

    text: str
    token: int | None
    finish: Finish | None = None
    sequence: "Sequence | None" = None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()  # the likeliest tokens and their log-probabilities
    reasoning: str = ""  # what a chat's answer said before its words, apart from them
    calls: tuple[ToolCall, ...] = ()  # of tools


@dataclass(eq=False, slots=True)
class Sequence:
    """A request in flight: the prompt's ids, then those generated."""

    ids: list[int]
    prompt_tokens: int
    sampling: SamplingConfig
    decoded: int = 0  # how many of `ids` the context has seen
    reused: int = 0  # how many of them it had seen before
    generated: int = 0
    finish: Finish | None = None
    error: DecodeError | None = None  # why it ended in "error"
    prefill_s: float = 0.0
    decode_s: float = 0.0
    unwanted: bool = False  # set from anywhere, even while a step is under way: it ends as cancelled
    _submitted_s: float = field(default_factory=time.monotonic)
    _first_s: float | None = None
    _slot: "Slot | None" = field(default=None, repr=False)
    _sampler: Sampler = field(init=False, repr=False)
    _constraint: Constraint | None = None
    _text: TextStream = field(default_factory=TextStream)

    @property
    def seed(self) -> int:
        return self._sampler.seed

    @property
    def decode_tps(self) -> float:
        """Give tokens per second after the first one, whose time is the prefill's; the end token counts, it is decoded."""
        steps = self.generated - 1 + (self.finish == "stop" and not self._text.stopped)
        return steps / self.decode_s if self.decode_s and steps > 0 else 0.0

    @property
    def first_token_s(self) -> float | None:
        """Give the seconds from `submit` to the first token; None before it."""
        return None if self._first_s is None else self._first_s - self._submitted_s

    @property
    def overdue(self) -> bool:
        limit = self.sampling.deadline_s
        return limit is not None and time.monotonic() - self._submitted_s > limit

    def hopeless(self) -> bool:
        """Say whether going on is of no use to anybody."""
        return self.unwanted or (self.sampling.deadline_s is not None and self.overdue)


@dataclass(eq=False, slots=True)
class Slot:
    """A sequence's place in the context, which keeps what was read there."""

    index: int
    held: list[int] = field(default_factory=list)  # the ids whose keys and values it keeps, while nobody is in it
    exact: int | None = None  # after a shift: how many of them still have the keys and values that reading would give
    sequence: Sequence | None = None
    left: int = 0  # when it was last left, counted in sequences

    def common(self, ids: list[int]) -> int:
        """Count how many of these ids' beginning it holds; one token is always decoded anew, for its logits."""
        held = self.held if self.sequence is None else self.sequence.ids[: self.sequence.decoded]
        most = min(len(held), len(ids) - 1, len(held) if self.exact is None else self.exact)
        if held[:most] == ids[:most]:
            return most
        return next(place for place in range(most) if held[place] != ids[place])

    def would_lose(self, keep: int) -> int:
        return len(self.held) - keep


class Loaded(Protocol):
    """What an engine needs of a model."""

    pointer: Any
    config: Any
    vocabulary: Any

    @property
    def context(self) -> int: ...

    @property
    def threads(self) -> int: ...

    def adapt(self, context: Any) -> None: ...


class Engine:
    def __init__(self, model: Loaded, queue: int = 0, somebody_waits: Callable[[], bool] | None = None) -> None:
        """Make a context for as many sequences as the model's config says; `queue` more may wait.

        `somebody_waits` tells, in the middle of a step, whether there is a request to submit after it. With it, long
        chunks are read while nobody writes, and given up for whoever comes; without it, none is long.
        """
        self._vocabulary = model.vocabulary
        self.context, self._most = model.context, model.config.sequences + queue
        self._state = Context(model.pointer, model.context, model.threads, model.config)
        model.adapt(self._state.pointer)
        self._largest_chunk: int = min(model.config.micro_batch, model.config.batch, self.context)
        self._slots = [Slot(index) for index in range(model.config.sequences)]
        self._waiting: deque[Sequence] = deque()
        self._reading: deque[Sequence] = deque()
        self._writing: list[Sequence] = []  # in the order of their slots: libllama joins neighbours in one batch
        self._untold: list[Piece] = []  # pieces that came while another sequence was streamed
        self._copied: set[int] = set()  # slots whose bytes move at the next decode
        self._ended = 0  # sequences so far
        self._read_last = False  # whether the last step read
        self._read_new = False  # whether the last chunk was of a new prompt, before one under way
        self._pace = Pace(self._largest_chunk)
        can_stop = model.config.gpu_layers == 0 and not self._state.recurrent
        self._somebody_waits = somebody_waits if can_stop else None
        self._patience_s = LONGEST_STEP_S  # less for a while after somebody came: what was read of that chunk is lost

    @property
    def active(self) -> int:
        """Count the sequences that are under way or waiting."""
        return len(self._waiting) + len(self._reading) + len(self._writing)

    def submit(self, ids: Ids[int], sampling: SamplingConfig) -> Sequence:
        """Take a request; it advances with each `step()`."""
        if not self._slots:
            raise UsageError("engine", "closed", "make another one")
        if self.active >= self._most:
            raise Busy(
                "engine", f"{self.active} requests under way, {self._most} at most", "wait for an end, or cancel one"
            )
        if not ids:
            raise UsageError("prompt", "no tokens", "give a text")
        if min(ids) < 0 or max(ids) >= self._vocabulary.size:
            strange = next(token for token in ids if not 0 <= token < self._vocabulary.size)
            raise UsageError("prompt", f"token {strange} of {self._vocabulary.size}", "give ids of this model")
        if len(ids) >= self.context:
            found = f"{len(ids)} tokens of prompt, {self.context} of context"
            raise ContextFull("prompt", found, f"shorten it, or load with --ctx-size above {len(ids)}")
        sequence = Sequence(list(ids), len(ids), sampling)
        sequence._constraint = sampling.grammar.open(self._vocabulary) if sampling.grammar else None
        sequence._sampler = Sampler(sampling, self._vocabulary, ids)  # nothing after it fails: it must be closed
        sequence._text = TextStream(sampling.stop)
        self._waiting.append(sequence)
        self._admit()
        return sequence

    def step(self) -> list[Piece]:
        """Read a chunk of the prompts, or write a token of each answer, by turns; give the pieces that came of it.

        Of one answer alone, as many tokens are written as come within MOMENT_S.
        """
        pieces, self._untold = self._untold, []
        try:
            for sequence in (*self._waiting, *self._reading, *self._writing):
                if sequence.hopeless():
                    self._give_up(sequence, pieces)
            if self._waiting:
                self._admit()
            self._read_last = bool(self._reading) and not (self._writing and self._read_last)
            if self._read_last:
                self._read(pieces)
            elif self._writing:
                self._write(pieces)
        except BaseException:  # Ctrl-C: what was read before is kept, and what was said is told later
            self._untold = pieces
            for sequence in (*self._reading, *self._writing):
                self._read_again(sequence, min(sequence.decoded, len(sequence.ids) - 1))
            raise
        return pieces

    def stream(self, sequence: Sequence, on_read: Callable[[int], None] | None = None) -> Iterator[Piece]:
        """Step until the sequence ends; leaving early cancels it. `on_read` hears how much of the prompt was read."""
        try:
            while sequence.finish is None or any(piece.sequence is sequence for piece in self._untold):
                mine: list[Piece] = []
                for piece in self.step():
                    (mine if piece.sequence is sequence else self._untold).append(piece)
                if on_read is not None and not sequence.generated:
                    on_read(sequence.decoded)
                yield from mine
            if sequence.error is not None:
                raise sequence.error
        finally:
            self.cancel(sequence)

    def cancel(self, sequence: Sequence) -> None:
        """End a sequence that nobody reads any more; one that has ended is left as it is."""
        if sequence.finish is None:
            self._end(sequence, "cancelled")
        self._untold = [piece for piece in self._untold if piece.sequence is not sequence]

    def saved(self, ids: Ids[int]) -> NDArray[np.uint8] | None:
        """Give the memory of exactly these ids, to restore them from; None where no free slot holds them."""
        for slot in sorted(self._slots, key=lambda slot: len(slot.held)):  # the one that loses least by it
            holds = slot.sequence is None and slot.held[: len(ids)] == list(ids) and slot.index not in self._copied
            if holds and (slot.exact is None or slot.exact >= len(ids)) and self._rewind(slot, len(ids)) == len(ids):
                return self._state.saved(slot.index)
        return None

    def restore(self, ids: Ids[int], data: NDArray[np.uint8]) -> bool:
        """Put the saved memory of these ids into a free slot; False where there is none, or libllama refuses it."""
        free = [slot for slot in self._slots if slot.sequence is None and slot.index not in self._copied]
        if not free or len(ids) >= self.context:
            return False
        slot = min(free, key=lambda slot: (len(slot.held) > 0, slot.left))
        self._rewind(slot, 0)
        if not self._state.restore(slot.index, data):
            self._rewind(slot, 0)
            return False
        slot.held = list(ids)
        return True

    def holds(self, ids: Ids[int]) -> int:
        """Count how many tokens of a prompt's beginning would not be read anew."""
        return max((slot.common(list(ids)) for slot in self._slots), default=0)

    def close(self) -> None:
        for sequence in (*self._waiting, *self._reading, *self._writing):
            self.cancel(sequence)
        self._slots = []
        self._state.close()

    def _admit(self) -> None:
        """Give waiting sequences the free slots."""
        while self._waiting and any(slot.sequence is None for slot in self._slots):
            sequence = self._waiting.popleft()
            slot = self._slot_for(sequence.ids)
            sequence._slot, slot.sequence = slot, sequence
            sequence.decoded = sequence.reused = len(slot.held)
            self._reading.append(sequence)
            self._write_if_read(sequence)

    def _slot_for(self, ids: list[int]) -> Slot:
        """Choose a free slot, and leave in it what can be reused of these ids' beginning.

        A slot that would lose most of what it holds is spared as long as there is another: its conversation may go on.
        """
        free = [slot for slot in self._slots if slot.sequence is None]
        common = {slot: slot.common(ids) for slot in self._slots}
        spared = [slot for slot in free if slot.would_lose(common[slot]) <= common[slot]]
        if spared:
            target = max(spared, key=lambda slot: (common[slot], -slot.left, -slot.index))
        else:
            target = min(free, key=lambda slot: slot.left)
        best = max(self._slots, key=lambda slot: common[slot])
        keep = common[target]
        if common[best] - keep >= WORTH_COPYING:
            self._state.copy(best.index, target.index)
            self._copied |= {best.index, target.index}
            target.held, target.exact, keep = ids[: common[best]], None, common[best]
        self._rewind(target, keep)
        return target

    def _rewind(self, slot: Slot, keep: int) -> int:
        """Forget all but the first tokens in a slot; all of them where this kind of model cannot forget a part."""
        if not self._state.truncate(keep, slot.index):
            self._state.truncate(0, slot.index)
            keep = 0
        del slot.held[keep:]
        if slot.exact is not None and keep <= slot.exact:
            slot.exact = None
        return keep

    def _read(self, pieces: list[Piece]) -> None:
        """Read a chunk of one prompt, or an equal share of each; after a prompt's last token comes the first of its answer."""
        readers, share, hurry = self._next_chunk()
        chunks = []
        for reader in readers:
            ids = reader.ids[reader.decoded : reader.decoded + share]
            chunks.append(Chunk(ids, reader.decoded, _place(reader), reader.decoded + share == len(reader.ids)))

        def stop() -> bool:
            return (hurry is not None and hurry()) or all(reader.hopeless() for reader in readers)

        tokens = share * len(readers)
        started = time.perf_counter()
        try:
            self._state.decode_chunks(chunks, stop if tokens > MOST_UNASKED else None)
        except Cancelled:
            self._patience_s = MOST_STEP_S
            self._recover(readers, None, pieces)
            return
        except DecodeError as problem:
            self._recover(readers, problem, pieces)
            return
        self._copied.clear()
        for row, (reader, chunk) in enumerate(zip(readers, chunks, strict=True), 1):
            reader.decoded += share
            self._write_if_read(reader)
            if chunk.last:
                self._sample(reader, row * share - 1, pieces)
        elapsed = time.perf_counter() - started
        for reader in readers:
            reader.prefill_s += elapsed / len(readers)
        self._pace.learn(tokens, elapsed)
        self._patience_s = min(2 * self._patience_s, LONGEST_STEP_S)

    def _next_chunk(self) -> tuple[list[Sequence], int, Callable[[], bool] | None]:
        """Choose what is read next: of which prompts, how many tokens of each, and what may end it early."""
        most, patient = self._largest_chunk, False
        if len(self._slots) > 1:
            patient = self._somebody_waits is not None and not self._writing and self._patience_s > MOST_STEP_S
            most = self._pace.fitting(self._patience_s if patient else MOST_STEP_S * SAFETY)
        together = patient and most >= len(self._reading)
        readers = sorted(self._reading, key=_place) if together else [self._next_reader()]
        share = min(most // len(readers), *(len(reader.ids) - reader.decoded for reader in readers))
        free = any(slot.sequence is None for slot in self._slots)
        return readers, share, self._somebody_waits if patient and free else None

    def _next_reader(self) -> Sequence:
        """Choose a prompt: one that has not begun goes first, but never twice in a row before one that waits for longer.

        They stand in the order of their last turn, or of their coming.
        """
        new = next((sequence for sequence in self._reading if sequence.decoded == sequence.reused), None)
        first = self._reading[0]
        chosen = first if new is None or self._read_new else new
        self._read_new = chosen is new and first is not new
        self._reading.remove(chosen)
        self._reading.append(chosen)
        return chosen

    def _write_if_read(self, sequence: Sequence) -> None:
        """Let a sequence write once no more than one of its tokens is unread: that one goes with the answers' tokens."""
        if len(sequence.ids) - sequence.decoded <= 1:
            self._reading.remove(sequence)
            insort(self._writing, sequence, key=_place)

    def _write(self, pieces: list[Piece]) -> None:
        """Decode the last token of each answer in one batch, and sample the next ones."""
        sequences = self._writing[:]
        if len(sequences) == 1 and not self._reading and (most := self._picked_ahead(sequences[0])) > 1:
            self._write_for_a_moment(sequences[0], most, pieces)
            return
        started = time.perf_counter()
        try:
            self._state.decode_each(
                [sequence.ids[-1] for sequence in sequences],
                [sequence.decoded for sequence in sequences],
                [_place(sequence) for sequence in sequences],
            )
        except DecodeError as problem:
            self._recover(sequences, problem, pieces)
            return
        self._copied.clear()
        for row, sequence in enumerate(sequences):
            sequence.decoded += 1
            self._sample(sequence, row, pieces)
        elapsed = time.perf_counter() - started
        for sequence in sequences:
            if sequence.decoded == sequence.prompt_tokens:  # the prompt's last token was read beside the answers'
                sequence.prefill_s += elapsed
            else:
                sequence.decode_s += elapsed

    def _picked_ahead(self, sequence: Sequence) -> int:
        """Say how many tokens of an answer may be picked before the first of them is told."""
        sampling = sequence.sampling
        if not sequence.generated or sampling.stop or sampling.logprobs is not None or sequence._constraint is not None:
            return 1
        room = self.context - len(sequence.ids)
        return room if sampling.limit is None else min(room, sampling.limit - sequence.generated)

    def _write_for_a_moment(self, sequence: Sequence, most: int, pieces: list[Piece]) -> None:
        """Pick the tokens that come within a moment, then tell them: what Python does between two is dear beside few weights."""
        state, sample, place = self._state, sequence._sampler.sample, _place(sequence)
        ends = None if sequence.sampling.ignore_end else self._vocabulary.ends
        token, position, problem = sequence.ids[-1], sequence.decoded, None
        tokens: list[int] = []
        started = time.perf_counter()
        until = started + MOMENT_S
        try:
            while True:
                state.decode_each([token], [position + len(tokens)], [place])
                token = sample(state, 0)
                tokens.append(token)
                if len(tokens) == most or (ends and ends(token)) or time.perf_counter() >= until:
                    break
            self._copied.clear()
        except DecodeError as error:
            problem = error
        finally:  # Ctrl-C too: what the sampler picked it counts on
            for token in tokens:
                sequence.decoded += 1
                self._tell(sequence, token, pieces)
        sequence.decode_s += time.perf_counter() - started
        if problem is not None:
            self._recover([sequence], problem, pieces)

    def _sample(self, sequence: Sequence, row: int, pieces: list[Piece]) -> None:
        """Pick the token that output row `row` leads to."""
        sampling = sequence.sampling
        logprob: float | None = None
        top: tuple[tuple[int, float], ...] = ()
        if sampling.limit == 0:
            pieces.append(self._end(sequence, "length"))
            return
        if sequence._first_s is None:
            sequence._first_s = time.monotonic()
        if sampling.logprobs is None and sequence._constraint is None:
            token = sequence._sampler.sample(self._state, row)
        else:
            try:
                token, logprob, top = self._sample_carefully(sequence, row)
            except DecodeError as error:
                pieces.append(self._fail(sequence, error))
                return
        self._tell(sequence, token, pieces, logprob, top)

    def _tell(
        self,
        sequence: Sequence,
        token: int,
        pieces: list[Piece],
        logprob: float | None = None,
        top: tuple[tuple[int, float], ...] = (),
    ) -> None:
        """Add a token to its answer, and give what it says; the very last one is never fed back."""
        sampling = sequence.sampling
        if not sampling.ignore_end and self._vocabulary.ends(token):
            pieces.append(self._end(sequence, "stop", Piece("", token, None, sequence, logprob, top)))
            return
        text = sequence._text.push(self._vocabulary.bytes_of(token))
        sequence.ids.append(token)
        sequence.generated += 1
        piece = Piece(text, token, None, sequence, logprob, top)
        if sequence._text.stopped:
            piece = self._end(sequence, "stop", piece)
        elif sequence.generated == sampling.limit or not self._has_room(sequence):
            piece = self._end(sequence, "length", piece)
        pieces.append(piece)

    def _sample_carefully(
        self, sequence: Sequence, row: int
    ) -> tuple[int, float | None, tuple[tuple[int, float], ...]]:
        """Pick a token under a constraint, or with the log-probabilities the model gave before any."""
        count, constraint = sequence.sampling.logprobs, sequence._constraint
        logits = self._state.row(row, self._vocabulary.size)
        before = logits if constraint is None or count is None else logits.copy()
        if constraint is not None:
            constraint.mask(logits)
        token = sequence._sampler.sample(self._state, row)
        if constraint is not None:
            constraint.accept(token)
        return (token, None, ()) if count is None else (token, *logprobs(before, token, count))

    def _has_room(self, sequence: Sequence) -> bool:
        """Say whether another token can be decoded; an endless chat forgets its middle for it."""
        if len(sequence.ids) < self.context:
            return True
        slot, sampling = sequence._slot, sequence.sampling
        if sampling.overflow != "shift" or slot is None:
            return False
        keep = sequence.prompt_tokens if sampling.keep < 0 else sampling.keep
        keep = min(max(keep, int(self._vocabulary.adds_begin)), self.context - 2)
        count = (len(sequence.ids) - keep) // 2
        del sequence.ids[keep : keep + count]
        if self._state.shift(slot.index, keep, count):
            sequence.decoded -= count
            still = 0 if self._state.windowed else keep  # a window's cells may go with what was between
            slot.exact = still if slot.exact is None else min(still, slot.exact)
        else:
            self._read_again(sequence, keep)
        return True

    def _read_again(self, sequence: Sequence, keep: int) -> None:
        """Let a sequence go on from the first `keep` tokens that the context has of it."""
        assert sequence._slot is not None
        sequence.decoded = self._rewind(sequence._slot, keep)
        if len(sequence.ids) - sequence.decoded > 1 and sequence in self._writing:
            self._writing.remove(sequence)
            self._reading.append(sequence)

    def _recover(self, sequences: list[Sequence], problem: DecodeError | None, pieces: list[Piece]) -> None:
        """After a decode that failed, or was stopped: forget what it left behind, and end those that cannot go on."""
        for sequence in sequences:
            self._read_again(sequence, sequence.decoded)
            if sequence.hopeless():
                self._give_up(sequence, pieces)
            elif problem is not None:
                pieces.append(self._fail(sequence, problem))

    def _give_up(self, sequence: Sequence, pieces: list[Piece]) -> None:
        if sequence.unwanted:
            pieces.append(self._end(sequence, "cancelled"))
        else:
            found = f"{sequence.generated} tokens in {sequence.sampling.deadline_s:g} s"
            pieces.append(
                self._fail(sequence, OutOfTime("deadline", found, "allow more time, or ask for fewer tokens"))
            )

    def _fail(self, sequence: Sequence, error: DecodeError) -> Piece:
        sequence.error = error
        return self._end(sequence, "error")

    def _end(self, sequence: Sequence, finish: Finish, piece: Piece | None = None) -> Piece:
        """Take a sequence out; its slot keeps what it holds."""
        sequence._sampler.close()
        for place in (self._waiting, self._reading, self._writing):
            if sequence in place:
                place.remove(sequence)
        slot = sequence._slot
        if slot is not None:
            self._ended += 1
            slot.held, slot.left, slot.sequence = sequence.ids[: sequence.decoded], self._ended, None
        sequence.finish = finish  # last: what Ctrl-C leaves undone, a cancel does
        rest = sequence._text.finish()
        piece = piece or Piece("", None, None, sequence)
        return piece._replace(text=piece.text + rest, finish=finish)


def _place(sequence: Sequence) -> int:
    assert sequence._slot is not None
    return sequence._slot.index
