"""ggml's backends as they are: a device, the memory it offers for weights, and graphs of single operations.

libllama chooses for each weight the first kind of memory whose kernels can multiply with it: AMX tiles, rows woven into one
another, or plain rows. `Backend.choose` does the same, so that what is computed here runs on the kernels a model runs on.
"""

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amalia_edge import native
from amalia_edge.context import Threadpool
from amalia_edge.errors import DecodeError, DoesNotFit, LibraryMissing, UsageError
from amalia_edge.graph import F32, ArenaParameters, Tensor, check_layout, declare
from amalia_edge.large_pages import prefer_large_pages

I32 = 26  # enum ggml_type
CPU = 0  # enum ggml_backend_dev_type
WEIGHTS = 1  # enum ggml_backend_buffer_usage
BATCH = 512  # rows libllama asks with, whether a kind of memory can multiply
MULTIPLY, LOOK_UP = "multiply", "look up"


@dataclass(frozen=True)
class BufferType:
    """A kind of memory: rows lie in it as its own kernels want them."""

    name: str  # CPU, CPU_REPACK, AMX, CUDA0
    pointer: int
    device: int


class Arena:
    """Descriptions of tensors and of what is computed from them; it holds no weight."""

    def __init__(self, tensors: int) -> None:
        self._handle = _handle()
        nbytes = self._handle.ggml_tensor_overhead() * tensors + self._handle.ggml_graph_overhead_custom(tensors, False)
        self._tensors = tensors
        self._pointer = self._handle.ggml_init(ArenaParameters(nbytes, None, True))
        if not self._pointer:
            raise DoesNotFit("graph", f"no room for {tensors} tensors", "ask for fewer")

    def __enter__(self) -> "Arena":
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.ggml_free(self._pointer)

    def matrix(self, kind: int, rows: int, columns: int) -> int:
        """Describe a matrix of ggml type `kind`."""
        return int(self._handle.ggml_new_tensor_2d(self._pointer, kind, columns, rows))

    def indices(self, count: int) -> int:
        return int(self._handle.ggml_new_tensor_1d(self._pointer, I32, count))

    def multiply(self, weight: int, rows: int) -> int:
        """Describe weight (outputs, columns) · rows (tokens, columns) → (tokens, outputs)."""
        return int(self._handle.ggml_mul_mat(self._pointer, weight, rows))

    def look_up(self, weight: int, indices: int) -> int:
        """Describe rows of a weight as f32, as an embedding is read."""
        return int(self._handle.ggml_get_rows(self._pointer, weight, indices))

    def graph(self, nodes: Sequence[int]) -> int:
        """Put operations one after the other."""
        graph = self._handle.ggml_new_graph_custom(self._pointer, self._tensors, False)
        for node in nodes:
            self._handle.ggml_build_forward_expand(graph, node)
        return int(graph)


class Buffer:
    """Memory of one kind, into which tensors are put by their offset."""

    def __init__(self, kind: BufferType, nbytes: int, *, weights: bool = False) -> None:
        self._handle = _handle()
        self.kind, self.nbytes = kind, nbytes
        self._pointer = self._handle.ggml_backend_buft_alloc_buffer(kind.pointer, nbytes)
        if not self._pointer:
            raise DoesNotFit(f"{kind.name} memory", f"{nbytes / 1e9:.2f} GB wanted", "free memory, or ask for less")
        prefer_large_pages()
        if weights:
            self._handle.ggml_backend_buffer_set_usage(self._pointer, WEIGHTS)
        self._start = self._handle.ggml_backend_buffer_get_base(self._pointer)

    def __enter__(self) -> "Buffer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._pointer:
            self._handle.ggml_backend_buffer_free(self._pointer)
            self._pointer = None

    def place(self, tensor: int, offset: int = 0) -> None:
        """Give a tensor its memory, which may be another one's too."""
        if offset + size_in(self.kind, tensor) > self.nbytes or offset % alignment(self.kind):
            raise DoesNotFit(f"{self.kind.name} memory", f"no room at byte {offset}", "make the buffer larger")
        status = self._handle.ggml_backend_tensor_alloc(self._pointer, tensor, self._start + offset)
        if status:
            raise DecodeError(f"{self.kind.name} memory", f"a tensor is refused, status {status}", "report this")


class Backend:
    """One device, ready to compute, with as many threads as it was given where it has any."""

    def __init__(self, device: str, threads: int) -> None:
        self._handle = _handle()
        check_layout(self._handle)
        self._device = _find(device)
        self.name = _text(self._handle.ggml_backend_dev_name(self._device))
        self.is_cpu = self._handle.ggml_backend_dev_type(self._device) == CPU
        self._pool: Threadpool | None = None
        self._pointer = self._handle.ggml_backend_dev_init(self._device, None)
        if not self._pointer:
            raise DecodeError(f"device {self.name}", "does not start", "run: amalia doctor")
        number = ctypes.c_int
        set_threads = self._own("ggml_backend_set_n_threads", None, ctypes.c_void_p, number)
        if set_threads:
            set_threads(self._pointer, threads)
        set_pool = self._own("ggml_backend_cpu_set_threadpool", None, ctypes.c_void_p, ctypes.c_void_p)
        if self.is_cpu and set_pool:
            self._pool = Threadpool(threads)
            set_pool(self._pointer, self._pool.pointer)

    def __enter__(self) -> "Backend":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._pointer:
            self._handle.ggml_backend_free(self._pointer)
            self._pointer = None
        if self._pool:
            self._pool.close()

    @property
    def plain(self) -> BufferType:
        """Give the device's own memory, where activations lie."""
        return self._type(self._handle.ggml_backend_dev_buffer_type(self._device))

    def weight_types(self) -> list[BufferType]:
        """List the kinds of memory for weights in libllama's order: on a CPU the special ones first, on a GPU its own."""
        return [*self._special(), self.plain] if self.is_cpu else [self.plain, *self._special()]

    def choose(self, kind: int, rows: int, columns: int, operation: str = MULTIPLY) -> BufferType | None:
        """Choose the memory that libllama would put such a weight into; None if the device has no kernel for it."""
        return next(
            (found for found in self.weight_types() if self._supports(found, kind, rows, columns, operation)), None
        )

    def compute(self, graph: int) -> None:
        """Compute a graph to its end; releases the GIL."""
        status = self._handle.ggml_backend_graph_compute(self._pointer, graph)
        if status:
            raise DecodeError(f"device {self.name}", f"a graph failed with status {status}", "free memory on it")

    def size_of(self, memory: BufferType, kind: int, rows: int, columns: int) -> int:
        """Count the bytes a weight takes in that memory, up to where the next may begin."""
        with Arena(1) as arena:
            nbytes, step = size_in(memory, arena.matrix(kind, rows, columns)), alignment(memory)
        return -(-nbytes // step) * step

    def memory_free(self) -> int:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._handle.ggml_backend_dev_memory(self._device, ctypes.byref(free), ctypes.byref(total))
        return free.value

    def _special(self) -> Iterator[BufferType]:
        list_them = self._own("ggml_backend_dev_get_extra_bufts", ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)
        found = list_them(self._device) if list_them else None
        index = 0
        while found and found[index]:
            yield self._type(found[index])
            index += 1

    def _type(self, pointer: int) -> BufferType:
        return BufferType(_text(self._handle.ggml_backend_buft_name(pointer)), pointer, self._device)

    def _supports(self, memory: BufferType, kind: int, rows: int, columns: int, operation: str) -> bool:
        """Ask as libllama asks: with the operation, and an empty buffer of that kind behind the weight."""
        with Arena(4) as arena:
            weight = arena.matrix(kind, rows, columns)
            if operation == MULTIPLY:
                node = arena.multiply(weight, arena.matrix(F32, BATCH, columns))
            else:
                node = arena.look_up(weight, arena.indices(BATCH))
            empty = self._handle.ggml_backend_buft_alloc_buffer(memory.pointer, 0)
            Tensor.from_address(weight).buffer = empty
            supported = bool(self._handle.ggml_backend_dev_supports_op(self._device, node))
            Tensor.from_address(weight).buffer = None
            self._handle.ggml_backend_buffer_free(empty)
        return supported

    def _own(self, name: str, result: Any, *arguments: Any) -> Any:
        """Ask the backend itself for a function that only it has; None if it has none of that name."""
        registry = self._handle.ggml_backend_dev_backend_reg(self._device)
        address = self._handle.ggml_backend_reg_get_proc_address(registry, name.encode()) if registry else None
        return ctypes.CFUNCTYPE(result, *arguments)(address) if address else None


def size_in(kind: BufferType, tensor: int) -> int:
    """Count the bytes a tensor takes in that memory: sums may be kept beside the weights."""
    return int(_handle().ggml_backend_buft_get_alloc_size(kind.pointer, tensor))


def alignment(kind: BufferType) -> int:
    return int(_handle().ggml_backend_buft_get_alignment(kind.pointer))


def copy(source: int, target: int, kind: BufferType) -> None:
    """Copy a tensor to another of its type and shape in the same memory, as it lies there: special kinds give none back."""
    handle = _handle()
    if handle.ggml_backend_dev_type(kind.device) == CPU:
        ctypes.memmove(Tensor.from_address(target).data, Tensor.from_address(source).data, size_in(kind, source))
    else:
        handle.ggml_backend_tensor_copy(source, target)


def write(tensor: int, content: NDArray[Any]) -> None:
    """Fill a tensor; memory of a special kind lays the blocks out anew."""
    handle, content = _handle(), np.ascontiguousarray(content)
    wanted = handle.ggml_nbytes(tensor)
    if content.nbytes != wanted:
        raise DecodeError("tensor", f"{content.nbytes} bytes for one of {wanted}", "report this")
    handle.ggml_backend_tensor_set(tensor, content.ctypes.data, 0, wanted)


def read(tensor: int) -> NDArray[np.float32]:
    """Copy an f32 tensor out, as (rows, columns)."""
    handle, shape = _handle(), Tensor.from_address(tensor).sides[1::-1]
    content = np.empty(tuple(shape), np.float32)
    handle.ggml_backend_tensor_get(tensor, content.ctypes.data, 0, content.nbytes)
    return content


def widen_rows(kind: int, blocks: NDArray[np.uint8], columns: int) -> NDArray[np.float32]:
    """Give the weights that blocks stand for, by ggml's plain reference code: rows (count, columns)."""
    if kind == F32:
        return np.ascontiguousarray(blocks).view(np.float32).reshape(-1, columns)
    traits = _TypeTraits.from_address(_handle().ggml_get_type_traits(kind))
    if not traits.to_float:
        raise LibraryMissing(f"ggml type {kind}", "nothing here reads its blocks", "choose another type")
    to_float = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(traits.to_float)
    blocks = np.ascontiguousarray(blocks)
    rows = np.empty((len(blocks), columns), np.float32)
    for index in range(len(blocks)):
        to_float(blocks[index].ctypes.data, rows[index].ctypes.data, columns)
    return rows


class _TypeTraits(ctypes.Structure):
    """struct ggml_type_traits"""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("weights", ctypes.c_int64),
        ("interleave", ctypes.c_int64),
        ("nbytes", ctypes.c_size_t),
        ("quantized", ctypes.c_bool),
        ("to_float", ctypes.c_void_p),
        ("from_float", ctypes.c_void_p),
    )


def _find(name: str) -> int:
    handle = _handle()
    found = {}
    for index in range(handle.ggml_backend_dev_count()):
        pointer = handle.ggml_backend_dev_get(index)
        found[_text(handle.ggml_backend_dev_name(pointer))] = pointer
    for known, pointer in found.items():
        if known.lower() == name.lower():
            return int(pointer)
    raise UsageError(f"device {name[:40]!r}", "libllama lists none of that name", f"devices: {', '.join(found)}")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")


@lru_cache(maxsize=1)
def _handle() -> Any:
    """Load the library, and bind what llama_cpp leaves out."""
    handle = native.library()._lib
    declare(handle)
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64
    declarations: dict[str, tuple[Any, list[Any]]] = {
        "ggml_get_type_traits": (pointer, [ctypes.c_int]),
        "ggml_new_tensor_1d": (pointer, [pointer, ctypes.c_int, number]),
        "ggml_get_rows": (pointer, [pointer, pointer, pointer]),
        "ggml_graph_overhead_custom": (size, [size, ctypes.c_bool]),
        "ggml_new_graph_custom": (pointer, [pointer, size, ctypes.c_bool]),
        "ggml_build_forward_expand": (None, [pointer, pointer]),
        "ggml_backend_buft_name": (ctypes.c_char_p, [pointer]),
        "ggml_backend_buft_alloc_buffer": (pointer, [pointer, size]),
        "ggml_backend_buft_get_alignment": (size, [pointer]),
        "ggml_backend_buft_get_alloc_size": (size, [pointer, pointer]),
        "ggml_backend_buffer_free": (None, [pointer]),
        "ggml_backend_buffer_get_base": (pointer, [pointer]),
        "ggml_backend_buffer_set_usage": (None, [pointer, ctypes.c_int]),
        "ggml_backend_tensor_alloc": (ctypes.c_int, [pointer, pointer, pointer]),
        "ggml_backend_tensor_copy": (None, [pointer, pointer]),
        "ggml_backend_tensor_set": (None, [pointer, pointer, size, size]),
        "ggml_backend_dev_init": (pointer, [pointer, ctypes.c_char_p]),
        "ggml_backend_dev_buffer_type": (pointer, [pointer]),
        "ggml_backend_dev_supports_op": (ctypes.c_bool, [pointer, pointer]),
        "ggml_backend_free": (None, [pointer]),
        "ggml_backend_graph_compute": (ctypes.c_int, [pointer, pointer]),
    }
    for name, (result, arguments) in declarations.items():
        function = getattr(handle, name)
        function.restype, function.argtypes = result, arguments
    return handle
