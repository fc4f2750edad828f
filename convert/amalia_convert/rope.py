"""RoPE as GGUF has it: its base, the keys of its scaling, and for llama3 a factor for each pair of a head."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from amalia_convert.configuration import Configuration
from amalia_convert.metadata import Metadata, float32, string, uint32
from amalia_edge.errors import ModelUnsupported


@dataclass(frozen=True)
class Rope:
    """What a configuration says of its rotary embedding."""

    base: float
    keys: Metadata = field(default_factory=dict)  # of its scaling, without the architecture's name in front
    factors: bytes = b""  # f32, one for each pair: what the tensor rope_freqs.weight holds


def read_rope(config: Configuration, head_dim: int) -> Rope:
    """Read RoPE's base and scaling, from rope_parameters (transformers 5) or rope_scaling (before)."""
    scaling = config.part("rope_parameters" if config.has("rope_parameters") else "rope_scaling")
    base = scaling.real("rope_theta", default=config.real("rope_theta", default=10000.0))
    share = scaling.real("partial_rotary_factor", default=config.real("partial_rotary_factor", default=1.0))
    if share != 1:
        raise ModelUnsupported(scaling.where, f"RoPE turns {share} of a head", "take a model that turns all of it")
    if any(isinstance(value, dict) for value in scaling.entries.values()):
        raise ModelUnsupported(scaling.where, "has one RoPE for each kind of layer", "take a model with one for all")
    kind = scaling.entries.get("rope_type", scaling.entries.get("type", "default"))
    if kind == "default":
        return Rope(base)
    if not isinstance(kind, str) or kind not in _SCALINGS:
        found = f"RoPE scaling {str(kind)[:40]!r} is not one we convert"
        raise ModelUnsupported(scaling.where, found, f"known: default, {', '.join(_SCALINGS)}")
    if config.has("original_max_position_embeddings"):  # older configurations keep it outside
        outside = {"original_max_position_embeddings": config.entries["original_max_position_embeddings"]}
        scaling = Configuration(scaling.where, outside | scaling.entries)
    return _SCALINGS[kind](scaling, base, head_dim)


def _linear(scaling: Configuration, base: float, head_dim: int) -> Rope:
    return Rope(base, {"rope.scaling.type": string("linear"), "rope.scaling.factor": float32(scaling.real("factor"))})


def _yarn(scaling: Configuration, base: float, head_dim: int) -> Rope:
    keys = {
        "rope.scaling.type": string("yarn"),
        "rope.scaling.factor": float32(scaling.real("factor")),
        "rope.scaling.original_context_length": uint32(scaling.whole("original_max_position_embeddings")),
    }
    # As in llama.cpp, a null says that there is none: the other name is not looked for.
    attention = "attention_factor" if "attention_factor" in scaling.entries else "attn_factor"
    for key, name in {
        "yarn_ext_factor": "extrapolation_factor", "yarn_attn_factor": attention,
        "yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow",
    }.items():  # fmt: skip
        if scaling.has(name):
            keys[f"rope.scaling.{key}"] = float32(scaling.real(name))
    return Rope(base, keys)


def _llama3(scaling: Configuration, base: float, head_dim: int) -> Rope:
    """Divide slow pairs' frequencies by `factor`, leave fast ones, and pass smoothly from one to the other.

    In f32 step by step, in the order in which torch does it, so that the bits are llama.cpp's; only the power is taken
    in f64 and rounded, because f32 powers differ between machines.
    """
    one, factor = np.float32(1), np.float32(scaling.real("factor"))
    low, high = scaling.real("low_freq_factor"), scaling.real("high_freq_factor")
    context = scaling.whole("original_max_position_embeddings")
    if low >= high:
        found = f"low_freq_factor {low} is not below high_freq_factor {high}"
        raise ModelUnsupported(scaling.where, found, "download the file again")
    factors = []
    for pair in range(head_dim // 2):
        frequency = one / np.float32(base ** float(np.float32(2 * pair) / np.float32(head_dim)))
        wave = one / frequency * np.float32(2 * math.pi)  # in tokens
        if wave < context / high:
            factors.append(one)
        elif wave > context / low:
            factors.append(factor)
        else:
            smooth = (one / wave * np.float32(context) - np.float32(low)) / np.float32(high - low)
            factors.append(one / ((one - smooth) / factor + smooth))
    return Rope(base, factors=np.array(factors, "<f4").tobytes())


_SCALINGS: dict[str, Callable[[Configuration, float, int], Rope]] = {
    "linear": _linear, "yarn": _yarn, "llama3": _llama3,
}  # fmt: skip
