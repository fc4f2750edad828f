"""Level = a rule: which block type each tensor gets (Q4_K_M is a mixture). The rules are llama-quant.cpp's."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum

from amalia_edge.errors import UsageError


class BlockType(IntEnum):
    """How weights lie in memory; the numbers are ggml's."""

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
    IQ4_NL = 20
    IQ4_XS = 23
    BF16 = 30

    @property
    def weights(self) -> int:
        """Count the weights of one block: rows are whole blocks."""
        return _BLOCKS[self][0]

    @property
    def quantized(self) -> bool:
        return self.weights > 1

    def nbytes(self, weights: int) -> int:
        """Count the bytes of a row."""
        return weights // self.weights * _BLOCKS[self][1]


B = BlockType
_BLOCKS = {  # weights per block, bytes per block
    B.F32: (1, 4), B.F16: (1, 2), B.BF16: (1, 2),
    B.Q4_0: (32, 18), B.Q4_1: (32, 20), B.Q5_0: (32, 22), B.Q5_1: (32, 24), B.Q8_0: (32, 34), B.IQ4_NL: (32, 18),
    B.Q2_K: (256, 84), B.Q3_K: (256, 110), B.Q4_K: (256, 144), B.Q5_K: (256, 176), B.Q6_K: (256, 210),
    B.IQ4_XS: (256, 136),
}  # fmt: skip
# Where a row is no whole number of 256-blocks, a 32-block of at least the quality takes its place.
_NARROWER = {
    B.Q2_K: B.Q4_0, B.Q3_K: B.Q4_0, B.Q4_K: B.Q5_0, B.Q5_K: B.Q5_1, B.Q6_K: B.Q8_0, B.IQ4_XS: B.IQ4_NL,
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where in the model a tensor stands, as far as a mixture asks."""

    layer: int
    layers: int
    groups: int  # query heads per key head

    @property
    def first_eighth(self) -> bool:
        return self.layer < self.layers // 8

    @property
    def deserves_more(self) -> bool:
        """Tell whether the layer is among the first or last eighth, or every third between (llama.cpp's rule)."""
        return self.first_eighth or self.layer >= 7 * self.layers // 8 or (self.layer - self.layers // 8) % 3 == 2


Rule = Callable[[Place], BlockType | None]  # None: the level's own block type


@dataclass(frozen=True)
class Level:
    """A named quantization: its block type, GGUF's number for it, and what some tensors get instead."""

    name: str
    file_type: int
    block: BlockType
    values: Rule = field(default=lambda place: None)  # attn_v
    down: Rule = field(default=lambda place: None)  # ffn_down
    attention: Rule = field(default=lambda place: None)  # attn_output


def _always(block: BlockType) -> Rule:
    return lambda place: block


def _more(block: BlockType) -> Rule:
    return lambda place: block if place.deserves_more else None


def _first_eighth(block: BlockType) -> Rule:
    return lambda place: block if place.first_eighth else None


def _grouped(block: BlockType, otherwise: BlockType | None = None) -> Rule:
    return lambda place: block if place.groups >= 4 else otherwise


_IQ4 = {"values": _grouped(B.Q5_K), "down": _first_eighth(B.Q5_K)}

LEVELS = {
    level.name: level
    for level in (
        Level("F32", 0, B.F32),
        Level("BF16", 32, B.BF16),
        Level("F16", 1, B.F16),
        Level("Q8_0", 7, B.Q8_0),
        Level("Q6_K", 18, B.Q6_K),
        Level("Q5_K_M", 17, B.Q5_K, values=_more(B.Q6_K), down=_more(B.Q6_K)),
        Level("Q5_K_S", 16, B.Q5_K),
        Level("Q5_1", 9, B.Q5_1),
        Level("Q5_0", 8, B.Q5_0),
        Level("Q4_K_M", 15, B.Q4_K, values=_more(B.Q6_K), down=_more(B.Q6_K)),
        Level("Q4_K_S", 14, B.Q4_K, values=lambda at: B.Q5_K if at.layer < 4 else None, down=_first_eighth(B.Q5_K)),
        Level("Q4_1", 3, B.Q4_1),
        Level("Q4_0", 2, B.Q4_0),
        Level("IQ4_NL", 25, B.IQ4_NL, **_IQ4),
        Level("IQ4_XS", 30, B.IQ4_XS, **_IQ4),
        Level("Q3_K_L", 13, B.Q3_K, _always(B.Q5_K), _always(B.Q5_K), _always(B.Q5_K)),
        Level(
            "Q3_K_M", 12, B.Q3_K,
            values=lambda at: B.Q5_K if at.layer < 2 else B.Q4_K,
            down=lambda at: B.Q5_K if at.layer < at.layers // 16 else B.Q4_K,
            attention=_always(B.Q4_K),
        ),
        Level("Q3_K_S", 11, B.Q3_K),
        Level("Q2_K", 10, B.Q2_K, _grouped(B.Q4_K, otherwise=B.Q3_K), _always(B.Q3_K), _always(B.Q3_K)),
    )
}  # fmt: skip


def find_level(name: str) -> Level:
    """Find a level by its name, in capitals or not, or list the ones there are."""
    level = LEVELS.get(name.upper())
    if level is None:
        raise UsageError(f"--to {name[:40]}", "there is no such level", f"levels: {', '.join(LEVELS)}")
    return level


def choose_block(level: Level, name: str, shape: tuple[int, ...], place: Place, *, tied: bool) -> BlockType:
    """Choose a tensor's block type by its GGUF name, its shape (rows, columns) and its place."""
    if len(shape) < 2 or not name.endswith(".weight") or name.endswith("_norm.weight"):
        return B.F32
    if not level.block.quantized:
        return level.block
    columns = shape[-1]
    return _fit(_mixed(level, name, columns, place, tied=tied), columns)


def _mixed(level: Level, name: str, columns: int, place: Place, *, tied: bool) -> BlockType:
    # Tied models read their embedding as the output too, so it gets what the output would.
    if name == "output.weight" or (tied and name == "token_embd.weight"):
        return B.Q8_0 if columns % level.block.weights or level.block is B.Q8_0 else B.Q6_K
    if name.endswith("attn_v.weight"):
        block = level.values(place) or level.block
        # A 70B Llama shares one value head among eight queries: more bits there cost next to nothing.
        return B.Q5_K if place.layers == 80 and place.groups > 1 and block in (B.Q3_K, B.Q4_K) else block
    if name.endswith("ffn_down.weight"):
        return level.down(place) or level.block
    if name.endswith("attn_output.weight"):
        return level.attention(place) or level.block
    return level.block


def _fit(block: BlockType, columns: int) -> BlockType:
    """Fall back to a narrower block where the row is not whole blocks, and to F16 where none fits."""
    if columns % block.weights == 0:
        return block
    narrower = _NARROWER.get(block, block)
    return narrower if columns % narrower.weights == 0 else B.F16
