"""One llama context: its memory, its batch and its threads."""

import ctypes
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from amalia_edge.errors import DecodeError, DoesNotFit, LibraryMissing
from amalia_edge.native import CACHE_TYPES, FLASH_ATTENTION, ThreadpoolParameters, library, reasons

DECODE_CODES = {1: "no room left in the context", 2: "aborted", -1: "an invalid batch"}


class Threadpool:
    """Threads that wait between decodes instead of being started at each one."""

    def __init__(self, threads: int) -> None:
        handle = library()._lib
        self._new = self._function("ggml_threadpool_new", ctypes.c_void_p, ctypes.POINTER(ThreadpoolParameters))
        self._free = self._function("ggml_threadpool_free", None, ctypes.c_void_p)
        parameters = handle.ggml_threadpool_params_default(threads)
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


class Context:
    """One llama context with its batch and its threads; `decode` is all that happens for a token."""

    def __init__(self, model: Any, size: int, threads: int, config: ContextSettings, on_node: Any = None) -> None:
        """Take a callback for every node of the graph as `on_node`, as graph.py makes it; whoever made it keeps it alive."""
        bindings = self._library = library()
        parameters = bindings.llama_context_default_params()
        parameters.n_ctx, parameters.n_seq_max, parameters.kv_unified = size, 1, False
        self._room = min(config.batch, size)
        parameters.n_batch, parameters.n_ubatch = self._room, min(config.micro_batch, self._room)
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.type_k, parameters.type_v = CACHE_TYPES[config.cache_keys], CACHE_TYPES[config.cache_values]
        parameters.flash_attn_type = FLASH_ATTENTION[config.flash_attention]
        parameters.no_perf = True
        if on_node is not None:
            parameters.cb_eval = on_node
        with reasons() as why:
            self.pointer = bindings.llama_init_from_model(model, parameters)
            if not self.pointer:
                raise DoesNotFit(
                    "context", f"{size} tokens: {why()}", "load with a smaller --ctx-size, or an f16 cache"
                )
        try:
            self._threads = Threadpool(threads)
        except BaseException:
            bindings.llama_free(self.pointer)
            raise
        self._threads.attach(self.pointer)
        self._memory = bindings.llama_get_memory(self.pointer)
        self._batch = bindings.llama_batch_init(self._room, 0, 1)
        as_array = np.ctypeslib.as_array
        self._tokens = as_array(self._batch.token, (self._room,))
        self._positions = as_array(self._batch.pos, (self._room,))
        self._outputs = as_array(self._batch.logits, (self._room,))
        as_array(self._batch.n_seq_id, (self._room,))[:] = 1
        for index in range(self._room):
            self._batch.seq_id[index][0] = 0

    def decode(self, ids: list[int], start: int, *, every: bool = False) -> None:
        """Read ids at the positions from `start` on; the logits after the last one are kept, or after every one."""
        count = self._batch.n_tokens = len(ids)
        if count == 1:
            self._tokens[0], self._positions[0] = ids[0], start
        else:
            self._tokens[:count] = ids
            self._positions[:count] = np.arange(start, start + count)
            self._outputs[: count - 1] = every
        self._outputs[count - 1] = 1
        code = self._library.llama_decode(self.pointer, self._batch)
        if code:
            raise DecodeError("llama_decode", DECODE_CODES.get(code, f"code {code}"), "start the answer again")

    def logits(self, count: int, vocabulary: int) -> NDArray[np.float32]:
        """Give the logits (tokens, vocabulary) of a `decode` with `every`; they last until the next one."""
        return np.ctypeslib.as_array(self._library.llama_get_logits(self.pointer), (count, vocabulary))

    def truncate(self, keep: int) -> bool:
        """Forget all positions from `keep` on; False where this kind of model cannot forget a part."""
        return bool(self._library.llama_memory_seq_rm(self._memory, 0, keep, -1))

    def close(self) -> None:
        if self.pointer is not None:
            self._library.llama_batch_free(self._batch)
            self._library.llama_free(self.pointer)
            self._threads.close()
            self.pointer = None
