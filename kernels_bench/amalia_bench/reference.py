"""What a kernel's result is held against: float64, and the errors ggml's own tests allow.

Quantizers are given ggml's own test row, 0.1 + 2 cos i, in many phases. Multiplications are given uniformly random numbers,
as in ggml's test too: rows of cosines are so alike that a product with all of them may nearly vanish. A matrix repeats a
few rows in an irregular order: its product is known in float64 at little cost, and a row in the wrong place is seen.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from amalia_convert.blocks import DEMANDING, BlockType
from amalia_edge.backend import widen_rows
from amalia_edge.quantizer import quantize_rows

DISTINCT, AT_ONCE = 64, 256  # rows
PRODUCT_LIMIT = 5e-4  # ggml's test-backend-ops: normalised mean squared error of a multiplication
EXACT_LIMIT = 1e-7  # the same of looking up rows
WRONG = 1e9  # stands for what is no number

# ggml's test-quantize-fns: √Σd² ÷ n of 4096 weights. It has no limit for the IQ1 and IQ2 types that need importance data:
# theirs are those of the others with as many bits.
_ROOT, _POWER = 4096, 0.1**2 + 2.0**2 / 2  # its weights, and their mean square
_LIMITS = {
    "Q1_0": 0.025, "IQ1_S": 0.025, "IQ1_M": 0.025,
    "TQ1_0": 0.01, "TQ2_0": 0.01, "Q2_0": 0.01, "IQ2_XXS": 0.01,
    "Q2_K": 0.0075, "IQ2_S": 0.0075, "IQ2_XS": 0.0075,
    "IQ3_XXS": 0.005, "Q3_K": 0.004, "IQ3_S": 0.004, "NVFP4": 0.003,
}  # fmt: skip
_LIMIT = 0.002  # of all other types


def quantization_limit(kind: BlockType) -> float:
    """Give the largest normalised squared error that ggml allows its quantizer."""
    return float(_LIMITS.get(kind.name, _LIMIT) ** 2 * _ROOT / _POWER)


def waves(count: int, columns: int) -> NDArray[np.float32]:
    """Make rows for a quantizer (count, columns), none like another."""
    phases = np.sqrt(2.0) * np.arange(count)[:, None]
    return np.asarray(0.1 + 2.0 * np.cos(np.arange(columns) + phases), np.float32)


def noise(count: int, columns: int) -> NDArray[np.float32]:
    """Make rows for a multiplication (count, columns), the same for the same sides."""
    return np.random.default_rng((count, columns)).uniform(-1, 1, (count, columns)).astype(np.float32)


def normalised_error(found: NDArray[np.floating], wanted: NDArray[np.floating]) -> float:
    """Give Σ(found - wanted)² ÷ Σ wanted², in float64, a few rows at a time."""
    total, power = 0.0, 0.0
    for first in range(0, len(wanted), AT_ONCE):
        exact = wanted[first : first + AT_ONCE].astype(np.float64)
        total += float(((found[first : first + AT_ONCE].astype(np.float64) - exact) ** 2).sum())
        power += float((exact**2).sum())
    error = total / power
    return error if math.isfinite(error) else WRONG


@dataclass(frozen=True)
class Weights:
    """A matrix in blocks, and what its product must be."""

    blocks: NDArray[np.uint8]  # (rows, bytes of a row)
    order: NDArray[np.int64]  # which of the distinct rows each row is
    exact: NDArray[np.float32]  # (distinct, columns): what the blocks stand for

    def product(self, activations: NDArray[np.float32]) -> NDArray[np.float64]:
        """Multiply activations (tokens, columns) → (tokens, rows), in float64."""
        distinct = activations.astype(np.float64) @ self.exact.astype(np.float64).T
        return np.ascontiguousarray(distinct[:, self.order])

    def rows(self) -> NDArray[np.float32]:
        return self.exact[self.order]


def make_weights(kind: BlockType, rows: int, columns: int) -> Weights:
    blocks = to_blocks(kind, noise(DISTINCT, columns))
    order = np.random.default_rng(rows).integers(0, DISTINCT, rows)
    return Weights(blocks[order], order, widen_rows(int(kind), blocks, columns))


def to_blocks(kind: BlockType, rows: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Quantize rows as `amalia convert` does; where importance data is needed, all columns are as important."""
    if kind is BlockType.F32:
        return rows.view(np.uint8)
    return quantize_rows(int(kind), rows, np.ones(rows.shape[1], np.float32) if kind in DEMANDING else None)
