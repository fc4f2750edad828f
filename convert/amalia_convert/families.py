"""Which Hub architecture is which GGUF architecture: names, hyper-parameters and transforms, as rows of a table."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from amalia_convert.checkpoint import Checkpoint, Json
from amalia_convert.metadata import Metadata, Value, float32, uint32
from amalia_convert.shard import StoredTensor
from amalia_edge.errors import CheckpointIncomplete, ModelUnsupported, TensorUnmapped

LAYER_LIMIT = 512  # libllama's own; above it the library aborts


@dataclass(frozen=True)
class Shape:
    """The numbers of a decoder that everything else follows from."""

    layers: int
    hidden: int
    feed_forward: int
    heads: int
    heads_kv: int
    head_dim: int
    vocabulary: int
    context: int
    epsilon: float
    rope_theta: float
    tied: bool

    @property
    def sizes(self) -> dict[str, int]:
        """Name the lengths a tensor's side can have."""
        queries, keys = self.heads * self.head_dim, self.heads_kv * self.head_dim
        return {"hidden": self.hidden, "feed_forward": self.feed_forward, "vocabulary": self.vocabulary,
                "queries": queries, "keys": keys}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One tensor: its name on the Hub and in GGUF (`{}` is the layer), its sides, and what happens to its rows."""

    hub: str
    gguf: str
    sides: tuple[str, ...]
    heads: Literal["", "heads", "heads_kv"] = ""  # whose rows are put into GGUF's RoPE order
    optional: Literal["", "tied", "bias"] = ""


@dataclass(frozen=True)
class Family:
    """A Hub architecture's row of the table."""

    gguf: str
    tensors: tuple[Row, ...]
    ignored: tuple[str, ...] = ()  # ends of names that carry nothing: tables computed from the configuration


@dataclass(frozen=True)
class MappedTensor:
    """A stored tensor, its name in GGUF, and the head length over which its rows are reordered (0: they stay)."""

    name: str
    stored: StoredTensor
    rope_rows: int = 0


_LLAMA = Family(
    gguf="llama",
    tensors=(
        Row("model.embed_tokens.weight", "token_embd.weight", ("vocabulary", "hidden")),
        Row("model.layers.{}.input_layernorm.weight", "blk.{}.attn_norm.weight", ("hidden",)),
        Row("model.layers.{}.self_attn.q_proj.weight", "blk.{}.attn_q.weight", ("queries", "hidden"), "heads"),
        Row("model.layers.{}.self_attn.k_proj.weight", "blk.{}.attn_k.weight", ("keys", "hidden"), "heads_kv"),
        Row("model.layers.{}.self_attn.v_proj.weight", "blk.{}.attn_v.weight", ("keys", "hidden")),
        Row("model.layers.{}.self_attn.o_proj.weight", "blk.{}.attn_output.weight", ("hidden", "queries")),
        Row("model.layers.{}.post_attention_layernorm.weight", "blk.{}.ffn_norm.weight", ("hidden",)),
        Row("model.layers.{}.mlp.gate_proj.weight", "blk.{}.ffn_gate.weight", ("feed_forward", "hidden")),
        Row("model.layers.{}.mlp.up_proj.weight", "blk.{}.ffn_up.weight", ("feed_forward", "hidden")),
        Row("model.layers.{}.mlp.down_proj.weight", "blk.{}.ffn_down.weight", ("hidden", "feed_forward")),
        Row("model.norm.weight", "output_norm.weight", ("hidden",)),
        Row("lm_head.weight", "output.weight", ("vocabulary", "hidden"), optional="tied"),
    ),
    ignored=(".rotary_emb.inv_freq", ".attention.masked_bias", ".attention.bias"),
)

FAMILIES = {"LlamaForCausalLM": _LLAMA}


def find_family(checkpoint: Checkpoint) -> Family:
    """Find the row of a checkpoint's architecture, or name the ones there are."""
    where, named = str(checkpoint.folder / "config.json"), checkpoint.config.get("architectures")
    if not isinstance(named, list) or not named or not isinstance(named[0], str):
        raise CheckpointIncomplete(where, "names no architecture", "wanted architectures: [...]")
    if named[0] not in FAMILIES:
        found = f"the architecture {named[0][:80]!r} is not one we convert"
        raise ModelUnsupported(where, found, f"known: {', '.join(FAMILIES)}")
    if checkpoint.config.get("quantization_config"):
        found = "the checkpoint is already quantized (quantization_config)"
        raise ModelUnsupported(where, found, "take the bf16, f16 or f32 weights")
    return FAMILIES[named[0]]


def read_shape(checkpoint: Checkpoint) -> Shape:
    """Read the configuration's numbers, each within what libllama bears."""
    config, where = checkpoint.config, str(checkpoint.folder / "config.json")

    def whole(key: str, default: int | None = None, most: int = 2**31 - 1) -> int:
        value = config.get(key)
        value = default if value is None else value
        if value is None:
            raise CheckpointIncomplete(where, f"has no {key}", "download the file again")
        if type(value) is not int or not 0 < value <= most:
            raise ModelUnsupported(where, f"{key} is {str(value)[:40]}", f"wanted a whole number from 1 to {most}")
        return value

    def real(key: str, value: object) -> float:
        if value is None:
            raise CheckpointIncomplete(where, f"has no {key}", "download the file again")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
            raise ModelUnsupported(where, f"{key} is {str(value)[:40]}", "wanted a positive number")
        return float(value)

    heads, hidden = whole("num_attention_heads"), whole("hidden_size")
    heads_kv = whole("num_key_value_heads", default=heads)
    head_dim = whole("head_dim", default=hidden // heads)
    if heads % heads_kv or head_dim % 2:
        found = f"{heads} heads of {head_dim}, {heads_kv} for keys and values"
        raise ModelUnsupported(where, found, "wanted an even length, and heads in whole groups")
    return Shape(
        layers=whole("num_hidden_layers", most=LAYER_LIMIT),
        hidden=hidden,
        feed_forward=whole("intermediate_size"),
        heads=heads,
        heads_kv=heads_kv,
        head_dim=head_dim,
        vocabulary=whole("vocab_size"),
        context=whole("max_position_embeddings"),
        epsilon=real("rms_norm_eps", config.get("rms_norm_eps")),
        rope_theta=real("rope_theta", _rope_theta(config, where)),
        tied=config.get("tie_word_embeddings") is True,
    )


def describe(checkpoint: Checkpoint, family: Family, shape: Shape) -> Metadata:
    """Write the hyper-parameters under GGUF's keys."""
    keys: dict[str, Value] = {
        "block_count": uint32(shape.layers),
        "context_length": uint32(shape.context),
        "embedding_length": uint32(shape.hidden),
        "feed_forward_length": uint32(shape.feed_forward),
        "attention.head_count": uint32(shape.heads),
        "attention.head_count_kv": uint32(shape.heads_kv),
        "rope.freq_base": float32(shape.rope_theta),
        "attention.layer_norm_rms_epsilon": float32(shape.epsilon),
    }
    if checkpoint.config.get("head_dim") is not None:
        keys |= {"attention.key_length": uint32(shape.head_dim), "attention.value_length": uint32(shape.head_dim)}
    keys |= {"vocab_size": uint32(shape.vocabulary), "rope.dimension_count": uint32(shape.head_dim)}
    return {f"{family.gguf}.{key}": value for key, value in keys.items()}


def map_tensors(checkpoint: Checkpoint, family: Family, shape: Shape) -> list[MappedTensor]:
    """Give every stored tensor its GGUF name, in the order llama-quantize writes: no layer first, then by name."""
    stored, mapped = dict(checkpoint.tensors), []
    missing: list[str] = []
    for row, layer in _expand(family, shape):
        name = row.hub.format(layer)
        tensor = stored.pop(name, None)
        if tensor is not None:
            _check_shape(tensor, row, shape)
            mapped.append((layer, MappedTensor(row.gguf.format(layer), tensor, shape.head_dim if row.heads else 0)))
        elif not (row.optional == "bias" or (row.optional == "tied" and shape.tied)):
            missing.append(name)
    if missing:
        found = f"{len(missing)} tensors are missing, the first: {missing[0]}"
        raise CheckpointIncomplete(str(checkpoint.folder), found, "download the weights again")
    unknown = [tensor for tensor in stored.values() if not tensor.name.endswith(family.ignored)]
    if unknown:
        found = f"{len(unknown)} tensors have no place in a {family.gguf} GGUF, the first: {unknown[0].name[:80]}"
        raise TensorUnmapped(str(unknown[0].path), found, "check that config.json names the right architecture")
    return [tensor for _, tensor in sorted(mapped, key=lambda pair: (pair[0], pair[1].name))]


def rope_order(rows: int, head_dim: int) -> NDArray[np.intp]:
    """Give the source row of each GGUF row: the Hub keeps a head's rotated halves apart, GGUF pair by pair."""
    halves = np.arange(rows, dtype=np.intp).reshape(-1, 2, head_dim // 2)  # (heads, half, pair)
    order: NDArray[np.intp] = halves.swapaxes(1, 2).reshape(rows)
    return order


def _expand(family: Family, shape: Shape) -> list[tuple[Row, int]]:
    """List every row with its layer (−1 for a tensor outside the layers), and the biases a row may have."""
    pairs = []
    for row in family.tensors:
        layers = range(shape.layers) if "{}" in row.hub else (-1,)
        rows = [row]
        if len(row.sides) == 2 and "{}" in row.hub:
            bias = row.hub.removesuffix("weight") + "bias", row.gguf.removesuffix("weight") + "bias"
            rows.append(Row(*bias, row.sides[:1], row.heads, optional="bias"))
        pairs += [(one, layer) for layer in layers for one in rows]
    return pairs


def _check_shape(tensor: StoredTensor, row: Row, shape: Shape) -> None:
    wanted = tuple(shape.sizes[side] for side in row.sides)
    if tensor.shape != wanted:
        found = f"tensor {tensor.name} is {list(tensor.shape)}, and config.json makes it {list(wanted)}"
        raise CheckpointIncomplete(str(tensor.path), found, "take both from the same model")
    if tensor.dtype not in ("BF16", "F16", "F32"):
        found = f"tensor {tensor.name} is {tensor.dtype}"
        raise ModelUnsupported(str(tensor.path), found, "take the bf16, f16 or f32 weights")
    if not math.prod(wanted):
        raise CheckpointIncomplete(str(tensor.path), f"tensor {tensor.name} is empty", "download it again")


def _rope_theta(config: Json, where: str) -> object:
    """Find RoPE's base, which newer configurations keep in rope_parameters; scaling is not converted yet."""
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(scaling, dict):
        raise ModelUnsupported(where, "rope_parameters is not an object", "download the file again")
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind != "default":
        raise ModelUnsupported(where, f"RoPE scaling {str(kind)[:40]!r} is not converted yet", "take another model")
    own = scaling.get("rope_theta")
    return config.get("rope_theta", 10000.0) if own is None else own
