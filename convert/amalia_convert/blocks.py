"""How weights lie in memory: ggml's block types, as far as weights can be quantized into them."""

from enum import IntEnum

from amalia_edge.errors import UsageError
from amalia_edge.gguf import BLOCKS


class BlockType(IntEnum):
    """A way to store a row; the numbers are ggml's."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    IQ2_XXS = 16
    IQ2_XS = 17
    IQ3_XXS = 18
    IQ1_S = 19
    IQ4_NL = 20
    IQ3_S = 21
    IQ2_S = 22
    IQ4_XS = 23
    IQ1_M = 29
    BF16 = 30
    TQ1_0 = 34
    TQ2_0 = 35
    MXFP4 = 39
    NVFP4 = 40
    Q1_0 = 41
    Q2_0 = 42

    @property
    def weights(self) -> int:
        """Count the weights of one block: rows are whole blocks."""
        return BLOCKS[self][1]

    @property
    def quantized(self) -> bool:
        return self.weights > 1

    def nbytes(self, weights: int) -> int:
        """Count the bytes of a row."""
        return weights // self.weights * BLOCKS[self][2]


B = BlockType
# Where a row is no whole number of blocks, a type of smaller blocks and at least the quality takes its place.
NARROWER = {
    B.Q2_0: B.Q4_0, B.Q2_K: B.Q4_0, B.Q3_K: B.Q4_0, B.TQ1_0: B.Q4_0, B.TQ2_0: B.Q4_0,
    B.Q4_K: B.Q5_0, B.Q5_K: B.Q5_1, B.Q6_K: B.Q8_0,
    B.IQ1_S: B.IQ4_NL, B.IQ1_M: B.IQ4_NL, B.IQ2_XXS: B.IQ4_NL, B.IQ2_XS: B.IQ4_NL, B.IQ2_S: B.IQ4_NL,
    B.IQ3_XXS: B.IQ4_NL, B.IQ3_S: B.IQ4_NL, B.IQ4_XS: B.IQ4_NL,
}  # fmt: skip
# Without importance data ggml's quantizers of the first three abort, and those of the others make garbage.
ABORTING = (B.IQ1_S, B.IQ2_XXS, B.IQ2_XS)
DEMANDING = (*ABORTING, B.IQ1_M, B.IQ2_S, B.IQ3_XXS)


def find_block(name: str) -> BlockType:
    """Find a block type by its name, in capitals or not, or list the ones there are."""
    try:
        return BlockType[name.upper()]
    except KeyError:
        listed = ", ".join(BlockType.__members__)
        raise UsageError(f"block type {name[:40]!r}", "there is no such type", f"types: {listed}") from None
