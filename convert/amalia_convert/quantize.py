"""Rows → blocks, in parallel: each piece is read once, and gives its blocks to every output."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from amalia_convert.blocks import BlockType
from amalia_convert.checkpoint import Piece
from amalia_convert.families import MappedTensor, rope_order
from amalia_convert.journal import Faults
from amalia_convert.plan import OutputPlan, PlannedTensor
from amalia_convert.writer import Target
from amalia_edge.errors import ModelCorrupt, Unquantizable
from amalia_edge.quantizer import quantize_rows

PIECE_WEIGHTS = 1 << 20  # 4 MiB as f32: it stays in a core's cache share, and a bar moves smoothly

_LAYOUT: dict[str, np.dtype[np.unsignedinteger]] = {
    "F32": np.dtype("<u4"), "F16": np.dtype("<u2"), "BF16": np.dtype("<u2"),
}  # fmt: skip
_EXPONENT = {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}  # all ones: not a number, or infinite
NONE: Faults = (0, 0)


@dataclass(frozen=True)
class Settings:
    """What of a conversion concerns the blocks."""

    importance: Mapping[str, NDArray[np.float32]]  # by GGUF name, one value for each column
    allow_nonfinite: bool = False  # write 0 for what is no number, instead of refusing the tensor
    threads: int = 1


class Quantizer:
    """Turn pieces of the checkpoint into blocks of every output, at the offsets the plans give."""

    def __init__(self, outputs: Sequence[tuple[OutputPlan, Target]], settings: Settings) -> None:
        self._settings = settings
        self._places: dict[str, list[tuple[PlannedTensor, Target]]] = {}
        for plan, target in outputs:
            for tensor in plan.tensors:
                if tensor.source.stored is not None:
                    self._places.setdefault(tensor.source.stored.name, []).append((tensor, target))

    def __call__(self, piece: Piece) -> Faults:
        """Quantize and write one piece, or count what is wrong with it and write nothing."""
        places = [place for place in self._places[piece.tensor.name] if not _is_done(piece, place[1])]
        if not places:
            return NONE
        dtype, columns = piece.tensor.dtype, piece.tensor.shape[-1]
        bits = np.frombuffer(piece.content, _LAYOUT[dtype]).reshape(-1, columns)  # (rows, columns)
        faults = _count_faults(bits, dtype)
        if faults != NONE:
            if not self._settings.allow_nonfinite:
                return faults  # ggml would abort on some of them
            bits = _without_faults(bits, dtype)
        bits = _in_rope_order(bits, places[0][0].source)
        rows = widen(bits, dtype)
        for tensor, target in places:
            as_stored = BlockType[dtype] is tensor.block
            blocks = bits if as_stored else _quantize(tensor, rows, self._settings.importance.get(tensor.name))
            target.write(tensor.offset + piece.first * tensor.row_nbytes, np.ascontiguousarray(blocks).data)
        return faults


def rows_per_piece(tensor: MappedTensor) -> int:
    """Count the rows of a piece: whole heads where their rows change places."""
    rows = max(1, PIECE_WEIGHTS // tensor.shape[-1])
    if tensor.rope_rows and len(tensor.shape) > 1:
        return max(1, rows // tensor.rope_rows) * tensor.rope_rows
    return rows


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
    pieces: Iterable[Piece], work: Callable[[Piece], Faults], threads: int, settled: Callable[[Piece, Faults], None]
) -> None:
    """Work on pieces in parallel, a few ahead of the slowest; `settled` hears of each in the order of reading."""
    waiting: deque[tuple[Piece, Future[Faults]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for piece in pieces:
                waiting.append((piece, pool.submit(work, piece)))
                if len(waiting) > 2 * threads:
                    settled(waiting[0][0], waiting.popleft()[1].result())
            while waiting:
                settled(waiting[0][0], waiting.popleft()[1].result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


class Tally:
    """Count faults by tensor; a tensor is refused when all of it has been counted."""

    def __init__(self, *, allow: bool) -> None:
        self._allow, self._current = allow, ""
        self.faults: dict[str, Faults] = {}

    def add(self, piece: Piece, faults: Faults) -> None:
        if piece.tensor.name != self._current:
            self.check()
            self._current = piece.tensor.name
        if faults != NONE:
            nans, infinities = self.faults.get(piece.tensor.name, NONE)
            self.faults[piece.tensor.name] = nans + faults[0], infinities + faults[1]

    def check(self) -> None:
        if self.faults and not self._allow:
            name, (nans, infinities) = next(iter(self.faults.items()))
            found = f"{nans} values are not a number and {infinities} are infinite"
            advice = "the checkpoint is damaged, or its training diverged; --allow-nan writes 0 for them"
            raise Unquantizable(f"tensor {name}", found, advice)


def _is_done(piece: Piece, target: Target) -> bool:
    """Tell whether a former run wrote this piece, and that it read the same bytes then."""
    mark = target.mark
    if piece.end == mark.done and mark.prefix != piece.digest.hexdigest():
        found = "the source is not the one that the interrupted conversion read"
        raise ModelCorrupt(str(piece.tensor.path), found, "run the command again: it begins anew")
    return piece.end <= mark.done


def _in_rope_order(bits: NDArray[np.unsignedinteger], source: MappedTensor) -> NDArray[np.unsignedinteger]:
    if not source.rope_rows:
        return bits
    if len(source.shape) == 1:  # a bias: its one row holds what are rows elsewhere
        return bits[:, rope_order(bits.shape[1], source.rope_rows)]
    return bits[rope_order(len(bits), source.rope_rows)]


def _quantize(
    tensor: PlannedTensor, rows: NDArray[np.float32], importance: NDArray[np.float32] | None
) -> NDArray[np.generic]:
    if tensor.block is BlockType.F32:
        return rows
    try:
        blocks = quantize_rows(int(tensor.block), rows, importance)
    except Unquantizable as error:  # the library knows the type and not the tensor
        raise Unquantizable(f"tensor {tensor.name}", error.found, error.advice) from None
    if tensor.block is BlockType.F16:
        over = int(np.isinf(blocks.view("<f2")).sum())
        if over:
            found = f"{over} values beyond 65504, which f16 cannot hold"
            raise Unquantizable(f"tensor {tensor.name}", found, "choose BF16, or a quantized level")
    return blocks


def _count_faults(bits: NDArray[np.unsignedinteger], dtype: str) -> Faults:
    exponent = bits.dtype.type(_EXPONENT[dtype])
    magnitude = bits & bits.dtype.type((1 << 8 * bits.itemsize - 1) - 1)  # without the sign
    if magnitude.max(initial=0) < exponent:
        return NONE
    return int(np.count_nonzero(magnitude > exponent)), int(np.count_nonzero(magnitude == exponent))


def _without_faults(bits: NDArray[np.unsignedinteger], dtype: str) -> NDArray[np.unsignedinteger]:
    exponent = bits.dtype.type(_EXPONENT[dtype])
    return np.where((bits & exponent) == exponent, bits.dtype.type(0), bits)
