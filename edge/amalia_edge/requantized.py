"""A header as it would be at another level, near enough to say whether that file would fit.

Sizes are never below the real ones: convert knows the whole recipes, and this room does not know convert.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

from amalia_edge.gguf import BLOCKS, Header, TensorInfo

# Level → block types of most matrices, of those that keep more in half the layers, and of the output; most bits first
LEVELS = {
    "Q8_0": ("Q8_0", "Q8_0", "Q8_0"),
    "Q6_K": ("Q6_K", "Q6_K", "Q6_K"),
    "Q5_K_M": ("Q5_K", "Q6_K", "Q6_K"),
    "Q4_K_M": ("Q4_K", "Q6_K", "Q6_K"),
    "Q4_0": ("Q4_0", "Q4_0", "Q6_K"),
    "Q3_K_M": ("Q3_K", "Q5_K", "Q6_K"),
}
_KEEP_MORE = ("attn_v.weight", "ffn_down.weight", "ffn_down_exps.weight", "attn_qkv.weight")
# What is taken where rows are no whole blocks of 256
_NARROW = {"Q3_K": "IQ4_NL", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
_SIZES = {name: (weights, nbytes) for name, weights, nbytes in BLOCKS.values()}


def smaller_levels(header: Header) -> Iterator[tuple[str, Header]]:
    """Give the header at each level that is smaller than it is, the largest first."""
    for level in LEVELS:
        other = at_level(header, level)
        if other.weight_bytes < 0.98 * header.weight_bytes:
            yield level, other


def at_level(header: Header, level: str) -> Header:
    layers = header.number("block_count", 1)
    tied = not any(tensor.name == "output.weight" for tensor in header.tensors)
    tensors = tuple(_tensor(tensor, level, layers, tied=tied) for tensor in header.tensors)
    return dataclasses.replace(header, tensors=tensors)


def _tensor(tensor: TensorInfo, level: str, layers: int, *, tied: bool) -> TensorInfo:
    if len(tensor.shape) < 2 or not tensor.name.endswith("weight") or tensor.kind in ("F32", "I32"):
        return tensor
    most, more, output = LEVELS[level]
    inside = re.match(r"blk\.(\d{1,4})\.", tensor.name)
    kind = most
    if tensor.name == "output.weight" or (tied and tensor.name == "token_embd.weight"):
        kind = output
    elif inside and tensor.name.endswith(_KEEP_MORE) and (_keeps(int(inside[1]), layers) or level == "Q3_K_M"):
        kind = more
    elif level == "Q3_K_M" and tensor.name.endswith("attn_output.weight"):
        kind = "Q4_K"
    if tensor.shape[0] % _SIZES[kind][0]:
        kind = _NARROW.get(kind, "F16")
    if tensor.shape[0] % _SIZES[kind][0]:
        kind = "F16"
    weights, nbytes = _SIZES[kind]
    return dataclasses.replace(tensor, kind=kind, nbytes=math.prod(tensor.shape) // weights * nbytes)


def _keeps(layer: int, layers: int) -> bool:
    """Say whether a mixture's layer keeps more: the first and last eighth, and every third between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
