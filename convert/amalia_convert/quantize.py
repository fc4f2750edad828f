"""Rows → blocks, in parallel: each piece is read once, and gives its blocks to every output."""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from amalia_convert.checkpoint import Piece
from amalia_convert.families import MappedTensor, rope_order
from amalia_convert.levels import BlockType
from amalia_convert.plan import OutputPlan, PlannedTensor
from amalia_convert.writer import Target
from amalia_edge.errors import Unquantizable
from amalia_edge.native import quantize_rows

PIECE_WEIGHTS = 1 << 20  # 4 MiB as f32: it stays in a core's cache share, and a bar moves smoothly

_AS_STORED = {"F32": BlockType.F32, "F16": BlockType.F16, "BF16": BlockType.BF16}
_LAYOUT: dict[str, np.dtype[np.unsignedinteger]] = {
    "F32": np.dtype("<u4"), "F16": np.dtype("<u2"), "BF16": np.dtype("<u2"),
}  # fmt: skip
_EXPONENT = {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}  # all ones: not a number, or infinite


@dataclass(frozen=True)
class Faults:
    """Count the values no block can hold."""

    nans: int = 0
    infinities: int = 0

    def __add__(self, other: "Faults") -> "Faults":
        return Faults(self.nans + other.nans, self.infinities + other.infinities)

    def __bool__(self) -> bool:
        return bool(self.nans or self.infinities)


class Quantizer:
    """Turn pieces of the checkpoint into blocks of every output, at the offsets the plans give."""

    def __init__(self, outputs: list[tuple[OutputPlan, Target]]) -> None:
        self._places: dict[str, list[tuple[PlannedTensor, Target]]] = {}
        for plan, target in outputs:
            for tensor in plan.tensors:
                self._places.setdefault(tensor.source.stored.name, []).append((tensor, target))

    def __call__(self, piece: Piece) -> Faults:
        """Quantize and write one piece, or count what is wrong with it and write nothing."""
        dtype, columns = piece.tensor.dtype, piece.tensor.shape[-1]
        bits = np.frombuffer(piece.content, _LAYOUT[dtype]).reshape(-1, columns)  # (rows, columns)
        faults = _count_faults(bits, dtype)
        if faults:
            return faults  # ggml would abort on some of them
        places = self._places[piece.tensor.name]
        if places[0][0].source.rope_rows:
            bits = bits[rope_order(len(bits), places[0][0].source.rope_rows)]
        rows = widen(bits, dtype)
        for tensor, target in places:
            blocks = bits if _AS_STORED[dtype] is tensor.block else _quantize(tensor, rows)
            target.write(tensor.offset + piece.first * tensor.row_nbytes, np.ascontiguousarray(blocks).data)
        return faults


def rows_per_piece(tensor: MappedTensor) -> int:
    """Count the rows of a piece: whole heads where their rows change places."""
    rows = max(1, PIECE_WEIGHTS // tensor.stored.shape[-1])
    return max(1, rows // tensor.rope_rows) * tensor.rope_rows if tensor.rope_rows else rows


def widen(bits: NDArray[np.unsignedinteger], dtype: str) -> NDArray[np.float32]:
    """Give stored weights as f32, exactly."""
    if dtype == "F32":
        return bits.view("<f4").astype(np.float32, copy=False)
    if dtype == "F16":
        return bits.view("<f2").astype(np.float32)
    wide = bits.astype(np.uint32)
    wide <<= 16  # bf16 is the upper half of f32
    return wide.view(np.float32)


def run_all(
    pieces: Iterable[Piece], work: Callable[[Piece], Faults], threads: int, advance: Callable[[int], None]
) -> None:
    """Work on pieces in parallel, a few ahead of the slowest, and stop at the first tensor with faults."""
    waiting: deque[tuple[Piece, Future[Faults]]] = deque()
    tally: tuple[str, Faults] = ("", Faults())

    def settle() -> None:
        nonlocal tally
        piece, future = waiting.popleft()
        faults = future.result()
        if piece.tensor.name != tally[0]:
            _refuse(*tally)  # a tensor is refused when all of it has been counted
            tally = piece.tensor.name, Faults()
        tally = tally[0], tally[1] + faults
        advance(len(piece.content))

    with ThreadPoolExecutor(threads) as pool:
        try:
            for piece in pieces:
                waiting.append((piece, pool.submit(work, piece)))
                if len(waiting) > 2 * threads:
                    settle()
            while waiting:
                settle()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    _refuse(*tally)


def _quantize(tensor: PlannedTensor, rows: NDArray[np.float32]) -> NDArray[np.generic]:
    if tensor.block is BlockType.F32:
        return rows
    blocks = quantize_rows(int(tensor.block), rows)
    if tensor.block is BlockType.F16:
        over = int(np.isinf(blocks.view("<f2")).sum())
        if over:
            found = f"{over} values beyond 65504, which f16 cannot hold"
            raise Unquantizable(f"tensor {tensor.name}", found, "choose BF16, or a quantized level")
    return blocks


def _count_faults(bits: NDArray[np.unsignedinteger], dtype: str) -> Faults:
    exponent = bits.dtype.type(_EXPONENT[dtype])
    special = (bits & exponent) == exponent
    if not special.any():
        return Faults()
    mantissa = bits.dtype.type(_EXPONENT[dtype] & -_EXPONENT[dtype]) - bits.dtype.type(1)
    nans = int(np.count_nonzero(bits[special] & mantissa))
    return Faults(nans, int(special.sum()) - nans)


def _refuse(name: str, faults: Faults) -> None:
    if faults:
        found = f"{faults.nans} values are not a number and {faults.infinities} are infinite"
        raise Unquantizable(f"tensor {name}", found, "the checkpoint is damaged, or its training diverged")
