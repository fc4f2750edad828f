"""One llama context: its memory, its batch and its threads.

Each sequence has a stream of keys and values of its own (`kv_unified` off): what others decode beside it changes no
token of its answer.
"""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from amalia_edge.errors import Cancelled, DecodeError, DoesNotFit, LibraryMissing
from amalia_edge.large_pages import prefer_large_pages
from amalia_edge.memory import output_room
from amalia_edge.native import (
    CACHE_TYPES,
    FLASH_ATTENTION,
    ThreadpoolParameters,
    expect_failure,
    held_interrupts,
    library,
    reasons,
)

DECODE_CODES = {1: "no room left in the context", -1: "an invalid batch"}
ABORTED = 2


class Threadpool:
    """Threads that wait between decodes instead of being started at each one."""

    def __init__(self, threads: int, *, patient: bool = True) -> None:
        """Start threads that look for work for a while before they sleep, or, without patience, sleep at once."""
        handle = library()._lib
        self._new = self._function("ggml_threadpool_new", ctypes.c_void_p, ctypes.POINTER(ThreadpoolParameters))
        self._free = self._function("ggml_threadpool_free", None, ctypes.c_void_p)
        parameters = handle.ggml_threadpool_params_default(threads)
        if not patient:
            parameters.poll = 0
        self.pointer: int | None = self._new(ctypes.byref(parameters))
        if not self.pointer:
            raise DoesNotFit("threads", f"{threads} could not be started", "load with fewer --threads")

    @staticmethod
    def _function(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
        """Ask the CPU backend itself for a function: right whether it is linked in or was loaded by path."""
        handle = library()._lib
        register = handle.ggml_backend_dev_backend_reg(handle.ggml_backend_dev_by_type(0))
        address = handle.ggml_backend_reg_get_proc_address(register, name.encode())
        if not address:
            raise LibraryMissing(name, "not in this build of libggml", "run: amalia setup --rebuild")
        return ctypes.CFUNCTYPE(result, *arguments)(address)

    def attach(self, context: Any) -> None:
        library()._lib.llama_attach_threadpool(context, self.pointer, self.pointer)

    def close(self) -> None:
        if self.pointer:
            self._free(self.pointer)
            self.pointer = None


class Chunk(NamedTuple):
    """Tokens of one sequence, from a position on; the logits after the last of them may be wanted."""

    ids: Sequence[int]
    start: int
    sequence: int
    last: bool


class ContextSettings(Protocol):
    """What of a LoadConfig concerns a context."""

    @property
    def batch(self) -> int: ...
    @property
    def micro_batch(self) -> int: ...
    @property
    def cache_keys(self) -> str: ...
    @property
    def cache_values(self) -> str: ...
    @property
    def flash_attention(self) -> str: ...
    @property
    def sequences(self) -> int: ...
    @property
    def large_pages(self) -> bool: ...


class Context:
    """One llama context with its batch and its threads; a decode is all that happens for a token."""

    def __init__(
        self,
        model: Any,
        size: int,
        threads: int,
        config: ContextSettings,
        on_node: Any = None,
        *,
        every: bool = False,
    ) -> None:
        """Make room for `size` tokens in each sequence, and for the logits of one of them at a time, or of `every` one.

        A callback for every node of the graph, as graph.py makes it, may be given as `on_node`: then there is room for
        the logits of every token. Whoever made the callback keeps it alive.
        """
        bindings = self._library = library()
        parameters = bindings.llama_context_default_params()
        parameters.n_ctx, parameters.n_seq_max, parameters.kv_unified = size * config.sequences, config.sequences, False
        if config.sequences > 1:  # libllama pads what each sequence has
            parameters.n_ctx = -(-size // 256) * 256 * config.sequences
        together = config.sequences if every else 1  # how many sequences' tokens are read at once
        self._room = max(min(config.batch, size * together), config.sequences)
        parameters.n_batch, parameters.n_ubatch = self._room, min(config.micro_batch, self._room)
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.type_k, parameters.type_v = CACHE_TYPES[config.cache_keys], CACHE_TYPES[config.cache_values]
        parameters.flash_attn_type = FLASH_ATTENTION[config.flash_attention]
        parameters.no_perf = True
        self._every = every or on_node is not None
        if not self._every:
            # Room for a whole batch's is libllama's default: 0.2 GB at 128,000 tokens.
            parameters.n_outputs_max = output_room(config.sequences)
        if on_node is not None:
            parameters.cb_eval = on_node
        interrupts: list[BaseException] = []
        with reasons() as why, held_interrupts(interrupts.append):
            self.pointer = bindings.llama_init_from_model(model, parameters)
            if interrupts:
                if self.pointer:
                    bindings.llama_free(self.pointer)
                raise interrupts[0]
            if not self.pointer:
                raise DoesNotFit(
                    "context", f"{size} tokens: {why()}", "load with a smaller --ctx-size, or an f16 cache"
                )
        if config.large_pages:
            prefer_large_pages()  # for what a decode computes in, which is untouched yet
        try:
            # Many tokens are read at once, and another model may be next: waiting threads would take its cores.
            self._threads = Threadpool(threads, patient=not every)
        except BaseException:
            bindings.llama_free(self.pointer)
            raise
        self._threads.attach(self.pointer)
        self._memory = bindings.llama_get_memory(self.pointer)
        self._logits_at = bindings._lib["llama_get_logits_ith"]
        self._logits_at.argtypes, self._logits_at.restype = (ctypes.c_void_p, ctypes.c_int32), ctypes.c_void_p
        self._rows: dict[int, NDArray[np.float32]] = {}  # by their addresses, which seldom change: wrapping is dear
        self._make_batch()
        self._shifting = False  # what was shifted is moved at the next decode, of whatever sequence, which must end
        self._stop: Callable[[], bool] | None = None
        self._interrupts: list[BaseException] = []
        self._on_abort = bindings.ggml_abort_callback(self._wants_stop)

    def _make_batch(self) -> None:
        """Lay the batch out in arrays of our own, which numpy fills and C reads."""
        self._tokens, self._positions, self._counts, self._places = (np.zeros(self._room, np.int32) for _ in range(4))
        self._outputs = np.zeros(self._room, np.int8)
        self._counts[:] = 1
        self._pointers = (self._places.ctypes.data + 4 * np.arange(self._room)).astype(np.uintp)  # int32 **seq_id
        batch = self._batch = self._library.llama_batch()
        arrays: dict[str, NDArray[Any]] = {
            "token": self._tokens,
            "pos": self._positions,
            "n_seq_id": self._counts,
            "seq_id": self._pointers,
            "logits": self._outputs,
        }
        for name, array in arrays.items():
            kind = type(getattr(batch, name))
            setattr(batch, name, ctypes.cast(array.ctypes.data, kind))

    def decode(
        self,
        ids: Sequence[int],
        start: int,
        *,
        every: bool = False,
        last: bool = True,
    ) -> None:
        """Read ids of the first sequence at the positions from `start` on; keep the logits after the last, or every one."""
        assert self._every or not every, "libllama aborts when there are more logits than room was made for"
        count = self._batch.n_tokens = len(ids)
        if count == 1:
            self._tokens[0], self._positions[0], self._places[0] = ids[0], start, 0
        else:
            self._tokens[:count] = ids
            self._positions[:count] = np.arange(start, start + count)
            self._places[:count] = 0
            self._outputs[: count - 1] = every
        self._outputs[count - 1] = last or every
        self._decode()

    def decode_chunks(self, chunks: Sequence[Chunk], stop: Callable[[], bool] | None = None) -> None:
        """Read chunks of several sequences in one batch; an output row is that of the last token's place in it.

        `stop` is asked again and again while the CPU works; once it says so the decode is `Cancelled`, and Ctrl-C ends it
        likewise.
        """
        count = 0
        for ids, start, sequence, last in chunks:
            end = count + len(ids)
            self._tokens[count:end] = ids
            self._positions[count:end] = np.arange(start, start + len(ids))
            self._places[count:end] = sequence
            self._outputs[count : end - 1], self._outputs[end - 1] = False, last
            count = end
        self._batch.n_tokens = count
        if stop is None:
            self._decode()
            return
        with self._stoppable(stop):
            self._decode()

    def decode_each(self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int]) -> None:
        """Read one token of each of several sequences; output row i speaks of the i-th."""
        count = self._batch.n_tokens = len(tokens)
        if count == 1:  # the common case, and a whole array is dearer
            self._tokens[0], self._positions[0], self._places[0] = tokens[0], positions[0], sequences[0]
        else:
            self._tokens[:count], self._positions[:count], self._places[:count] = tokens, positions, sequences
        self._outputs[:count] = 1
        self._decode()

    def decode_together(
        self, ids: NDArray[np.int32], start: int, wanted: int, stop: Callable[[], bool] | None = None
    ) -> None:
        """Read ids (sequences, tokens) of as many sequences at the positions from `start` on.

        The logits after the last `wanted` of each are kept: those of sequence 0 first.
        """
        assert self._every or wanted == 0, "libllama aborts when there are more logits than room was made for"
        sequences, length = ids.shape
        count = self._batch.n_tokens = ids.size
        self._tokens[:count] = ids.ravel()
        self._positions[:count] = np.tile(np.arange(start, start + length), sequences)
        self._places[:count] = np.repeat(np.arange(sequences), length)
        self._outputs[:count] = np.tile(np.arange(length) >= length - wanted, sequences)
        if stop is None:
            self._decode()
            return
        with self._stoppable(stop):
            self._decode()

    def _decode(self) -> None:
        code = self._library.llama_decode(self.pointer, self._batch)
        if code == ABORTED:
            raise Cancelled("llama_decode", "aborted", "start the answer again")
        if code:
            raise DecodeError("llama_decode", DECODE_CODES.get(code, f"code {code}"), "start the answer again")
        self._shifting = False

    @contextmanager
    def _stoppable(self, stop: Callable[[], bool]) -> Iterator[None]:
        """Let C ask at every node whether to go on: cheap beside many tokens, too dear beside one."""
        self._stop = stop
        self._interrupts.clear()
        try:
            self._library.llama_set_abort_callback(self.pointer, self._on_abort, None)
            with held_interrupts(self._interrupts.append):
                yield
        finally:
            self._stop = None
            expect_failure(False)
            self._library.llama_set_abort_callback(self.pointer, self._library.ggml_abort_callback(), None)
            if self._interrupts:
                raise self._interrupts[0]

    def _wants_stop(self, _data: Any) -> bool:
        try:
            asked = bool(self._interrupts) or (self._stop is not None and self._stop())
            wanted = asked and not self._shifting
        except BaseException as reason:  # C cannot pass it on
            self._interrupts.append(reason)
            wanted = True
        if wanted:
            expect_failure(True)
        return wanted

    def logits(self, count: int, vocabulary: int) -> NDArray[np.float32]:
        """Give the logits (tokens, vocabulary) of a `decode` with `every`; they last until the next one."""
        return np.ctypeslib.as_array(self._library.llama_get_logits(self.pointer), (count, vocabulary))

    def row(self, index: int, vocabulary: int) -> NDArray[np.float32]:
        """Give libllama's own logits of one output row, to look at or to change, until the next decode."""
        address = self._logits_at(self.pointer, index)
        found = self._rows.get(address)
        if found is None:
            if len(self._rows) > 2 * self._room:
                self._rows.clear()
            pointer = ctypes.cast(address, ctypes.POINTER(ctypes.c_float))
            found = self._rows[address] = np.ctypeslib.as_array(pointer, (vocabulary,))
        return found

    def truncate(self, keep: int, sequence: int = 0) -> bool:
        """Forget a sequence's positions from `keep` on; False where this kind of model cannot forget a part."""
        return bool(self._library.llama_memory_seq_rm(self._memory, sequence, keep, -1))

    def copy(self, source: int, target: int) -> None:
        """Make one sequence's memory another's, whole; the bytes move at the next decode."""
        self._library.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    @property
    def recurrent(self) -> bool:
        """Say whether some layers keep a state that cannot be taken back by a few tokens."""
        model = self._library.llama_get_model(self.pointer)
        return bool(self._library.llama_model_is_recurrent(model) or self._library.llama_model_is_hybrid(model))

    @property
    def windowed(self) -> bool:
        """Say whether some layers look back over a window only."""
        return bool(self._library.llama_model_n_swa(self._library.llama_get_model(self.pointer)))

    def shift(self, sequence: int, start: int, count: int) -> bool:
        """Forget `count` positions from `start` on, and move what follows to their place; False where that cannot be."""
        can = self._library.llama_memory_can_shift(self._memory)
        if not can or not self._library.llama_memory_seq_rm(self._memory, sequence, start, start + count):
            return False
        self._library.llama_memory_seq_add(self._memory, sequence, start + count, -1, -count)
        self._shifting = True
        return True

    def saved(self, sequence: int) -> NDArray[np.uint8]:
        """Give what the memory holds of a sequence, as bytes to restore it from."""
        size = self._library.llama_state_seq_get_size(self.pointer, sequence)
        data = np.empty(size, np.uint8)
        target = ctypes.cast(data.ctypes.data, ctypes.POINTER(ctypes.c_uint8))
        written = self._library.llama_state_seq_get_data(self.pointer, target, size, sequence)
        return data[:written]

    def restore(self, sequence: int, data: NDArray[np.uint8]) -> bool:
        """Put saved bytes into a sequence; they must be whole: libllama aborts on others. False if it refuses them."""
        source = ctypes.cast(data.ctypes.data, ctypes.POINTER(ctypes.c_uint8))
        return bool(self._library.llama_state_seq_set_data(self.pointer, source, data.nbytes, sequence))

    def close(self) -> None:
        if self.pointer is not None:
            self._library.llama_free(self.pointer)
            self._threads.close()
            self.pointer = None
