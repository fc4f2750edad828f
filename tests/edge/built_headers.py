"""Headers of no file: any geometry, any block type, in memory."""

import math
from dataclasses import dataclass
from pathlib import Path

from amalia_edge.gguf import BLOCKS, Header, TensorInfo

_SIZES = {name: (weights, nbytes) for name, weights, nbytes in BLOCKS.values()}


@dataclass(frozen=True)
class Geometry:
    layers: int = 4
    head: int = 64
    heads: int = 8
    heads_kv: int = 2
    feed_forward: int = 1024
    vocabulary: int = 4096
    trained: int = 32768
    kind: str = "Q8_0"
    tied: bool = False


def built_header(geometry: Geometry) -> Header:
    """Give the header of a Llama of this geometry."""
    width, kept = geometry.head * geometry.heads, geometry.head * geometry.heads_kv
    sides = {"attn_q": (width, width), "attn_k": (width, kept), "attn_v": (width, kept), "attn_output": (width, width),
             "ffn_gate": (width, geometry.feed_forward), "ffn_up": (width, geometry.feed_forward),
             "ffn_down": (geometry.feed_forward, width), "attn_norm": (width,), "ffn_norm": (width,)}  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (width, geometry.vocabulary),
        "output_norm.weight": (width,),
    }
    if not geometry.tied:
        shapes["output.weight"] = (width, geometry.vocabulary)
    for layer in range(geometry.layers):
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in sides.items()}
    numbers = {
        "context_length": geometry.trained, "embedding_length": width, "block_count": geometry.layers,
        "feed_forward_length": geometry.feed_forward, "attention.head_count": geometry.heads,
        "attention.head_count_kv": geometry.heads_kv,
    }  # fmt: skip
    metadata = {"general.architecture": "llama", "general.name": "Built"}
    tensors, offset = [], 4096
    for name, shape in shapes.items():
        weights, nbytes = _SIZES["F32" if len(shape) == 1 else geometry.kind]
        size = math.prod(shape) // weights * nbytes
        tensors.append(TensorInfo(name, shape, "F32" if len(shape) == 1 else geometry.kind, offset, size))
        offset += size
    return Header(
        Path("built.gguf"), 3, metadata | {f"llama.{key}": number for key, number in numbers.items()}, tuple(tensors), 4096, offset
    )  # fmt: skip
