"""Rows of f32 → blocks, with ggml's own bytes: by quants.c where it was built, else by ggml itself."""

import ctypes
import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amalia_edge.errors import ModelCorrupt, Unquantizable
from amalia_edge.native import library, library_folder

GRID_TYPES = (16, 17, 18, 19, 21, 22, 29)  # IQ1 to IQ3: their quantizers abort where a sum of x³ × importance overflows
MOST_WEIGHT, MOST_IMPORTANT = 1e6, 1e15  # far beyond any model, and far from there


def quantize_rows(
    kind: int, rows: NDArray[np.float32], importance: NDArray[np.float32] | None = None
) -> NDArray[np.uint8]:
    """Quantize finite rows of f32 into blocks of ggml type `kind`, as llama-quantize does; releases the GIL."""
    handle = library()._lib
    rows = np.ascontiguousarray(rows, np.float32)
    count, columns = rows.shape
    weights = None if importance is None else np.ascontiguousarray(importance, np.float32)
    for found in _hazards(kind, rows, weights):
        raise Unquantizable(f"ggml type {kind}", found, "choose another type for the tensor")
    blocks = np.empty((count, handle.ggml_row_size(kind, columns)), np.uint8)
    address = None if weights is None else weights.ctypes.data
    own, source, target = _own_quantizer(), rows.ctypes.data, blocks.ctypes.data
    written = own(kind, source, target, count, columns, address) if own else 0
    written = written or handle.ggml_quantize_chunk(kind, source, target, 0, count, columns, address)
    if written != blocks.nbytes:
        raise ModelCorrupt("ggml_quantize_chunk", f"wrote {written} bytes, wanted {blocks.nbytes}", "report this")
    return blocks


def _hazards(kind: int, rows: NDArray[np.float32], importance: NDArray[np.float32] | None) -> Iterator[str]:
    """Say what would make ggml's quantizers abort the process, or read beyond the importance data."""
    handle, columns = library()._lib, rows.shape[1]
    if columns % handle.ggml_blck_size(kind):
        yield f"rows of {columns} weights are no whole blocks"
    if importance is None and handle.ggml_quantize_requires_imatrix(kind):
        yield "needs importance data"
    if importance is not None and importance.shape != (columns,):
        yield f"importance data of shape {importance.shape} for rows of {columns}"
    if kind in GRID_TYPES and not np.abs(rows).max(initial=0) <= MOST_WEIGHT:
        yield f"weights beyond {MOST_WEIGHT:g}"
    if (
        kind in GRID_TYPES
        and importance is not None
        and not 0 <= importance.min() <= importance.max() <= MOST_IMPORTANT
    ):
        yield f"importance below 0 or beyond {MOST_IMPORTANT:g}"


@lru_cache(maxsize=1)
def _own_quantizer() -> Any:
    """Load quants.c, which gives ggml's bytes sooner; None in a llama-cpp-python that `amalia setup` did not build."""
    path = library_folder() / f"libamalia-quants.{'dylib' if sys.platform == 'darwin' else 'so'}"
    if not path.is_file():
        return None
    function = ctypes.CDLL(str(path)).amalia_quantize_rows
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    function.restype, function.argtypes = number, [ctypes.c_int32, pointer, pointer, number, number, pointer]
    return function
