"""The matrices a model multiplies with: the distinct shapes of its layers."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from amalia_convert.shape import plan_level, shape_names
from amalia_edge.errors import BenchError
from amalia_edge.gguf import read_header
from amalia_edge.store import find

SMALLEST = 64  # rows: what has fewer (a router, a gate) takes no time
_WEIGHT = re.compile(r"blk\.\d+\.(?P<name>\w+)\.weight")


@dataclass(frozen=True)
class Matrix:
    """One shape, and the weights that have it."""

    names: tuple[str, ...]  # attn_q, attn_output
    rows: int  # outputs
    columns: int

    def __str__(self) -> str:
        return f"{self.names[0]} {self.rows}×{self.columns}"


def model_matrices(wanted: str) -> tuple[list[Matrix], list[str]]:
    """Give the matrices of a shape, a config.json or a model, and the block types they have in the model's file."""
    if wanted in shape_names() or wanted.endswith(".json"):
        tensors = [(tensor.name, tensor.shape, "") for tensor in plan_level(wanted, "Q8_0").tensors]
    else:
        tensors = [(tensor.name, tensor.shape[::-1], tensor.kind) for tensor in read_header(find(wanted)).tensors]
    found = distinct((name, shape) for name, shape, _ in tensors)
    if not found:
        raise BenchError(wanted, "its layers have no matrices", "give a model that writes text")
    kinds = [kind for name, shape, kind in tensors if kind and len(shape) == 2 and _WEIGHT.fullmatch(name)]
    return found, list(dict.fromkeys(kinds))


def distinct(tensors: Iterable[tuple[str, tuple[int, ...]]]) -> list[Matrix]:
    """Gather the shapes (rows, columns) of all layers, each once."""
    shapes: dict[tuple[int, int], dict[str, None]] = {}
    for name, shape in tensors:
        part = _WEIGHT.fullmatch(name)
        if part and len(shape) == 2 and shape[0] >= SMALLEST:
            shapes.setdefault((shape[0], shape[1]), {})[part["name"]] = None
    return [Matrix(tuple(names), rows, columns) for (rows, columns), names in shapes.items()]
