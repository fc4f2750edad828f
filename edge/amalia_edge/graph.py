"""libllama's graph, watched while it is computed: which weight is multiplied with which rows.

For every node the library asks whether we want to see it (`ask`), and shows those we wanted once they are computed. We look
at the input of matrix multiplications: node = weight (columns, outputs) · rows (columns, tokens).
"""

import ctypes
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from amalia_edge import native
from amalia_edge.context import Context
from amalia_edge.errors import LibraryMissing
from amalia_edge.model import Model

F32 = 0  # enum ggml_type
OBJECT = 32  # bytes of struct ggml_object, which ggml_tensor_overhead() counts beside the tensor


class Tensor(ctypes.Structure):
    """struct ggml_tensor, of which we read kind, sides, strides and sources; `check_layout` holds it against the library."""

    _fields_ = (
        ("kind", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("sides", ctypes.c_int64 * 4),  # the row length first
        ("strides", ctypes.c_size_t * 4),  # bytes
        ("operation", ctypes.c_int),
        ("parameters", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("sources", ctypes.c_void_p * 10),
        ("view_source", ctypes.c_void_p),
        ("view_offset", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
        ("extra", ctypes.c_void_p),
        ("padding", ctypes.c_char * 8),
    )


class ArenaParameters(ctypes.Structure):
    """struct ggml_init_params"""

    _fields_ = (("nbytes", ctypes.c_size_t), ("memory", ctypes.c_void_p), ("without_data", ctypes.c_bool))


class Observer(Protocol):
    """Who looks on."""

    def wants(self, weight: str) -> bool: ...

    def see(self, weight: str, rows: NDArray[np.float32]) -> None:
        """Take the rows (tokens, columns) that meet a weight; the array is the observer's to keep."""


class WatchedContext(Context):
    """A context whose multiplications an observer sees; its exceptions, and Ctrl-C, come out of `decode`."""

    def __init__(self, model: Model, size: int, observer: Observer) -> None:
        bindings = native.library()
        self._observer, self._handle = observer, bindings._lib
        declare(self._handle)
        check_layout(self._handle)
        self._failures: list[BaseException] = []  # C cannot pass them on
        self._on_node = bindings.ggml_backend_sched_eval_callback(self._look)
        super().__init__(model.pointer, size, model.threads, model.config, self._on_node)

    def _decode(self) -> None:
        self._failures.clear()
        try:
            with native.held_interrupts(self._failures.append):
                super()._decode()
        finally:
            if self._failures:
                raise self._failures[0]

    def _look(self, pointer: int, ask: bool, _data: Any) -> bool:
        try:
            if not self._failures:
                node = Tensor.from_address(pointer)
                return self._wants(node) if ask else self._show(node)
        except BaseException as reason:
            self._failures.append(reason)
        return ask  # after a failure: ask to see the next node, and there say stop

    def _wants(self, node: Tensor) -> bool:
        if self._handle.ggml_op_desc(ctypes.byref(node)) != b"MUL_MAT":
            return False
        return Tensor.from_address(node.sources[1]).kind == F32 and self._observer.wants(self._name(node))

    def _show(self, node: Tensor) -> bool:
        self._observer.see(self._name(node), read_rows(self._handle, node.sources[1]))
        return True

    def _name(self, node: Tensor) -> str:
        return weight_name(self._handle.ggml_get_name(node.sources[0]).decode("utf-8", "replace"))


def weight_name(name: str) -> str:
    """Give a weight's own name: a copy of it on another device is called `CUDA0#name#0`."""
    parts = name.split("#")
    return parts[1] if len(parts) > 1 else name


def read_rows(handle: Any, pointer: int) -> NDArray[np.float32]:
    """Copy activations, wherever they lie, into rows (tokens, columns)."""
    tensor = Tensor.from_address(pointer)
    content = np.empty(handle.ggml_nbytes(pointer), np.uint8)
    handle.ggml_backend_tensor_get(pointer, content.ctypes.data, 0, content.nbytes)
    sides, strides = tuple(tensor.sides)[::-1], tuple(tensor.strides)[::-1]
    rows: NDArray[np.float32] = np.ndarray(sides, np.float32, content, 0, strides)
    return rows.reshape(-1, sides[-1])


def check_layout(handle: Any) -> None:
    """Build a multiplication and read it back: a layout that drifted is refused here, and never misread."""
    nbytes = handle.ggml_tensor_overhead()
    arena = handle.ggml_init(ArenaParameters(nbytes * 8, None, True))
    try:
        weight, rows = (handle.ggml_new_tensor_2d(arena, F32, 96, count) for count in (7, 5))
        handle.ggml_set_name(weight, b"a weight")
        node = Tensor.from_address(handle.ggml_mul_mat(arena, weight, rows))
        source = Tensor.from_address(rows)
        sound = (
            nbytes == OBJECT + ctypes.sizeof(Tensor)
            and (node.kind, tuple(node.sides), tuple(node.strides)) == (F32, (7, 5, 1, 1), (4, 28, 140, 140))
            and (source.kind, tuple(source.sides), tuple(source.strides)) == (F32, (96, 5, 1, 1), (4, 384, 1920, 1920))
            and tuple(node.sources) == (weight, rows, *[None] * 8)
            and Tensor.from_address(weight).name == b"a weight"
            and handle.ggml_op_desc(ctypes.byref(node)) == b"MUL_MAT"
        )
    finally:
        handle.ggml_free(arena)
    if not sound:
        raise LibraryMissing("llama-cpp-python: ggml_tensor", "layout differs from ours", "run: amalia setup --rebuild")


def declare(handle: Any) -> None:
    """Bind what is called here and in `backend`: one function cannot be bound twice with different structs."""
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    declarations: dict[str, tuple[Any, list[Any]]] = {
        "ggml_init": (pointer, [ArenaParameters]),
        "ggml_free": (None, [pointer]),
        "ggml_tensor_overhead": (size, []),
        "ggml_new_tensor_2d": (pointer, [pointer, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]),
        "ggml_mul_mat": (pointer, [pointer, pointer, pointer]),
        "ggml_set_name": (pointer, [pointer, ctypes.c_char_p]),
        "ggml_get_name": (ctypes.c_char_p, [pointer]),
        "ggml_op_desc": (ctypes.c_char_p, [pointer]),
        "ggml_nbytes": (size, [pointer]),
        "ggml_backend_tensor_get": (None, [pointer, pointer, size, size]),
    }
    for name, (result, arguments) in declarations.items():
        function = getattr(handle, name)
        function.restype, function.argtypes = result, arguments
