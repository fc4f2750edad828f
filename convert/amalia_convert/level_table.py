"""The levels as a person chooses among them: by name, by their bits per weight, by what they need."""

import difflib
import math
from dataclasses import dataclass
from functools import lru_cache

from amalia_convert.blocks import BlockType
from amalia_convert.levels import LEVELS, Level
from amalia_convert.recipe import Geometry, Recipe, Tensor, choose_blocks
from amalia_edge.errors import UsageError

_ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}


@dataclass(frozen=True)
class LevelRow:
    """A line of `amalia convert --levels`."""

    name: str
    bits_per_weight: float  # of AMÁLIA 9B
    needs_importance: bool
    when: str


def find_level(name: str) -> Level:
    """Find a level by its name, in capitals or not, or list the ones there are."""
    capitals = name.upper()
    level = LEVELS.get(_ALIASES.get(capitals, capitals))
    if level is None:
        listed = ", ".join(f"{row.name} {row.bits_per_weight:.2f}" for row in level_table())
        near = "".join(f"did you mean {one}? " for one in difflib.get_close_matches(capitals[:40], LEVELS, n=1))
        raise UsageError(f"--to {name[:40]}", "there is no such level", f"{near}levels, with bits per weight: {listed}")
    return level


@lru_cache(maxsize=1)
def level_table() -> tuple[LevelRow, ...]:
    """List the levels from the most bits per weight to the fewest."""
    tensors, geometry = _amalia()
    weights = [math.prod(tensor.shape) for tensor in tensors]
    rows = []
    for level in LEVELS.values():
        needs = needs_importance(level)
        names = frozenset(tensor.name for tensor in tensors) if needs else None
        blocks = choose_blocks(Recipe(level, importance=names), tensors, geometry)
        nbytes = sum(blocks[tensor.name].nbytes(count) for tensor, count in zip(tensors, weights, strict=True))
        rows.append(LevelRow(level.name, 8 * nbytes / sum(weights), needs, level.when))
    return tuple(sorted(rows, key=lambda row: -row.bits_per_weight))


def needs_importance(level: Level) -> bool:
    """Tell whether a level cannot be made without importance data."""
    try:
        choose_blocks(Recipe(level), *_amalia())
    except UsageError:
        return True
    return False


def _amalia() -> tuple[list[Tensor], Geometry]:
    """Give AMÁLIA 9B's tensors, by which levels are compared."""
    hidden, keys, feed_forward, vocabulary, layers = 4096, 1024, 12288, 128_000, 42
    sides = {
        "attn_q": (hidden, hidden), "attn_k": (keys, hidden), "attn_v": (keys, hidden),
        "attn_output": (hidden, hidden), "ffn_gate": (feed_forward, hidden), "ffn_up": (feed_forward, hidden),
        "ffn_down": (hidden, feed_forward),
    }  # fmt: skip
    shapes = {"token_embd.weight": (vocabulary, hidden), "output.weight": (vocabulary, hidden)}
    shapes |= {f"blk.{layer}.{name}.weight": shape for layer in range(layers) for name, shape in sides.items()}
    tensors = [Tensor(name, shape, BlockType.BF16) for name, shape in shapes.items()]
    return tensors, Geometry("llama", layers, hidden // keys)
