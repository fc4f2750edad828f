"""Which Hub architecture is which GGUF architecture: names, hyper-parameters and transforms, as rows of a table."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from amalia_convert.checkpoint import Checkpoint
from amalia_convert.configuration import configuration
from amalia_convert.metadata import Metadata, Value, float32, uint32
from amalia_convert.rope import Rope, read_rope
from amalia_convert.shard import StoredTensor
from amalia_edge.errors import CheckpointIncomplete, ModelUnsupported, TensorUnmapped

LAYER_LIMIT = 512  # libllama's own; above it the library aborts
HEAD_LIMIT = 1 << 16  # weights; the longest known heads have 512
DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}  # a configuration's word: safetensors' word
ROPE_FACTORS = "rope_freqs.weight"


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
    rope: Rope
    tied: bool

    @property
    def sizes(self) -> dict[str, int]:
        """Name the lengths a tensor's side can have."""
        queries, keys = self.heads * self.head_dim, self.heads_kv * self.head_dim
        return {"hidden": self.hidden, "feed_forward": self.feed_forward, "vocabulary": self.vocabulary,
                "queries": queries, "keys": keys, "head": self.head_dim}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One tensor: its name on the Hub and in GGUF, its sides, and what happens to its rows.

    `promised` says when it must be there: always, where the output is not the embedding ("untied"), or where the
    configuration holds true under that key; if it is there without a promise, it is converted all the same.
    """

    hub: str
    gguf: str
    sides: tuple[str, ...]
    paired: bool = False  # each head's rows are put into GGUF's RoPE order
    promised: str = "always"


@dataclass(frozen=True)
class Family:
    """A Hub architecture's row of the table; names in `layer` go on from `model.layers.N.` and `blk.N.`."""

    gguf: str
    layer: tuple[Row, ...]
    sized: bool = False  # GGUF names the vocabulary's size and RoPE's dimensions
    head_dim: bool = True  # GGUF names a head's length even where the configuration does not
    head_default: int | None = None  # a head's length if none is told; None: the hidden size is shared among the heads
    rope_factors: bool = False  # libllama reads rope_freqs.weight


@dataclass(frozen=True)
class MappedTensor:
    """A tensor of the GGUF: stored in the checkpoint, or made from the configuration alone."""

    name: str
    stored: StoredTensor | None = None
    rope_rows: int = 0  # the head length over which its rows are reordered; 0: they stay
    made: bytes = b""  # f32, where it is not stored
    settled: bool = False  # from a GGUF: what no level touches keeps its type, where a checkpoint's vectors become f32

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.made) // 4,) if self.stored is None else self.stored.shape


_OUTSIDE = (
    Row("model.embed_tokens.weight", "token_embd.weight", ("vocabulary", "hidden")),
    Row("model.norm.weight", "output_norm.weight", ("hidden",)),
    Row("lm_head.weight", "output.weight", ("vocabulary", "hidden"), promised="untied"),
)
_SHARED = (
    Row("input_layernorm.weight", "attn_norm.weight", ("hidden",)),
    Row("post_attention_layernorm.weight", "ffn_norm.weight", ("hidden",)),
    Row("mlp.gate_proj.weight", "ffn_gate.weight", ("feed_forward", "hidden")),
    Row("mlp.up_proj.weight", "ffn_up.weight", ("feed_forward", "hidden")),
    Row("mlp.down_proj.weight", "ffn_down.weight", ("hidden", "feed_forward")),
)
_LLAMA = Family(
    gguf="llama",
    layer=(
        *_SHARED,
        Row("self_attn.q_proj.weight", "attn_q.weight", ("queries", "hidden"), paired=True),
        Row("self_attn.k_proj.weight", "attn_k.weight", ("keys", "hidden"), paired=True),
        Row("self_attn.v_proj.weight", "attn_v.weight", ("keys", "hidden")),
        Row("self_attn.o_proj.weight", "attn_output.weight", ("hidden", "queries")),
        Row("self_attn.q_proj.bias", "attn_q.bias", ("queries",), paired=True, promised="attention_bias"),
        Row("self_attn.k_proj.bias", "attn_k.bias", ("keys",), paired=True, promised="attention_bias"),
        Row("self_attn.v_proj.bias", "attn_v.bias", ("keys",), promised="attention_bias"),
        Row("self_attn.o_proj.bias", "attn_output.bias", ("hidden",), promised="attention_bias"),
        Row("mlp.gate_proj.bias", "ffn_gate.bias", ("feed_forward",), promised="mlp_bias"),
        Row("mlp.up_proj.bias", "ffn_up.bias", ("feed_forward",), promised="mlp_bias"),
        Row("mlp.down_proj.bias", "ffn_down.bias", ("hidden",), promised="mlp_bias"),
    ),
    sized=True,
    rope_factors=True,
)
_QWEN2 = Family(
    gguf="qwen2",
    layer=(
        *_SHARED,
        # libllama reads these as square: a head_dim of its own would not be obeyed.
        Row("self_attn.q_proj.weight", "attn_q.weight", ("hidden", "hidden")),
        Row("self_attn.k_proj.weight", "attn_k.weight", ("keys", "hidden")),
        Row("self_attn.v_proj.weight", "attn_v.weight", ("keys", "hidden")),
        Row("self_attn.o_proj.weight", "attn_output.weight", ("hidden", "hidden")),
        Row("self_attn.q_proj.bias", "attn_q.bias", ("hidden",)),
        Row("self_attn.k_proj.bias", "attn_k.bias", ("keys",)),
        Row("self_attn.v_proj.bias", "attn_v.bias", ("keys",)),
    ),
    head_dim=False,
)
_QWEN3 = Family(
    gguf="qwen3",
    layer=(
        *_SHARED,
        Row("self_attn.q_proj.weight", "attn_q.weight", ("queries", "hidden")),
        Row("self_attn.k_proj.weight", "attn_k.weight", ("keys", "hidden")),
        Row("self_attn.v_proj.weight", "attn_v.weight", ("keys", "hidden")),
        Row("self_attn.o_proj.weight", "attn_output.weight", ("hidden", "queries")),
        Row("self_attn.q_norm.weight", "attn_q_norm.weight", ("head",)),
        Row("self_attn.k_norm.weight", "attn_k_norm.weight", ("head",)),
        Row("self_attn.q_proj.bias", "attn_q.bias", ("queries",), promised="attention_bias"),
        Row("self_attn.k_proj.bias", "attn_k.bias", ("keys",), promised="attention_bias"),
        Row("self_attn.v_proj.bias", "attn_v.bias", ("keys",), promised="attention_bias"),
    ),
    head_default=128,
)

FAMILIES = {
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _LLAMA,
    "Qwen2ForCausalLM": _QWEN2,
    "Qwen3ForCausalLM": _QWEN3,
}
_IGNORED = (".rotary_emb.inv_freq", ".attention.masked_bias", ".attention.bias")  # tables made from the configuration


def find_family(checkpoint: Checkpoint) -> Family:
    """Find the row of a checkpoint's architecture, or name the ones there are."""
    where, named = configuration(checkpoint).where, checkpoint.config.get("architectures")
    if not isinstance(named, list) or not named or not isinstance(named[0], str):
        raise CheckpointIncomplete(where, "names no architecture", "wanted architectures: [...]")
    if named[0] not in FAMILIES:
        found = f"the architecture {named[0][:80]!r} is not one we convert"
        raise ModelUnsupported(where, found, f"known: {', '.join(FAMILIES)}")
    if checkpoint.config.get("quantization_config"):
        found = "the checkpoint is already quantized (quantization_config)"
        raise ModelUnsupported(where, found, "take the bf16, f16 or f32 weights")
    activation = checkpoint.config.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        found = f"the activation {str(activation)[:40]!r} is not SwiGLU's"
        raise ModelUnsupported(where, found, "take a model whose hidden_act is silu")
    return FAMILIES[named[0]]


def read_shape(checkpoint: Checkpoint) -> Shape:
    """Read the configuration's numbers, each within what libllama bears."""
    config = configuration(checkpoint)
    heads, hidden = config.whole("num_attention_heads"), config.whole("hidden_size")
    heads_kv = config.whole("num_key_value_heads", default=heads)
    default = find_family(checkpoint).head_default
    if default is None and not config.has("head_dim") and hidden % heads:
        found = f"hidden_size {hidden} is not whole heads, of which there are {heads}"
        raise ModelUnsupported(config.where, found, "wanted hidden_size to be a multiple, or a head_dim")
    head_dim = config.whole("head_dim", default=default or hidden // heads, most=HEAD_LIMIT)
    if heads % heads_kv or head_dim % 2:
        found = f"{heads} heads of {head_dim}, {heads_kv} for keys and values"
        raise ModelUnsupported(config.where, found, "wanted an even length, and heads in whole groups")
    return Shape(
        layers=config.whole("num_hidden_layers", most=LAYER_LIMIT),
        hidden=hidden,
        feed_forward=config.whole("intermediate_size"),
        heads=heads,
        heads_kv=heads_kv,
        head_dim=head_dim,
        vocabulary=config.whole("vocab_size"),
        context=config.whole("max_position_embeddings"),
        epsilon=config.real("rms_norm_eps"),
        rope=read_rope(config, head_dim),
        tied=checkpoint.config.get("tie_word_embeddings") is True,
    )


def describe(checkpoint: Checkpoint, family: Family, shape: Shape) -> Metadata:
    """Write the hyper-parameters under GGUF's keys, in the order in which llama.cpp's converter writes them."""
    keys: dict[str, Value] = {
        "block_count": uint32(shape.layers),
        "context_length": uint32(shape.context),
        "embedding_length": uint32(shape.hidden),
        "feed_forward_length": uint32(shape.feed_forward),
        "attention.head_count": uint32(shape.heads),
        "attention.head_count_kv": uint32(shape.heads_kv),
        **shape.rope.keys,
        "rope.freq_base": float32(shape.rope.base),
        "attention.layer_norm_rms_epsilon": float32(shape.epsilon),
    }
    if family.head_dim or configuration(checkpoint).has("head_dim"):
        keys |= {"attention.key_length": uint32(shape.head_dim), "attention.value_length": uint32(shape.head_dim)}
    if family.sized:
        keys |= {"vocab_size": uint32(shape.vocabulary), "rope.dimension_count": uint32(shape.head_dim)}
    return {f"{family.gguf}.{key}": value for key, value in keys.items()}


def map_tensors(checkpoint: Checkpoint, family: Family, shape: Shape) -> list[MappedTensor]:
    """Give every tensor its GGUF name, in the order llama-quantize writes: no layer first, then by name.

    A checkpoint without shards is a configuration alone: its tensors are the ones that weights of it would hold.
    """
    stored = checkpoint.tensors if checkpoint.shards else imagine_tensors(checkpoint, family, shape)
    mapped, missing = _make_tensors(checkpoint, family, shape), []
    for row, layer in _expand(family, shape):
        tensor = stored.pop(row.hub, None)
        if tensor is not None:
            _check_shape(tensor, row, shape)
            mapped.append((layer, MappedTensor(row.gguf, tensor, shape.head_dim if row.paired else 0)))
        elif _is_promised(row, checkpoint, shape):
            missing.append(row.hub)
    if missing:
        found = f"{len(missing)} tensors are missing, the first: {missing[0]}"
        raise CheckpointIncomplete(str(checkpoint.folder), found, "download the weights again")
    unknown = [tensor for tensor in stored.values() if not tensor.name.endswith(_IGNORED)]
    if unknown:
        found = f"{len(unknown)} tensors have no place in a {family.gguf} GGUF, the first: {unknown[0].name[:80]}"
        raise TensorUnmapped(str(unknown[0].path), found, "check that config.json names the right architecture")
    return [tensor for _, tensor in sorted(mapped, key=lambda pair: (pair[0], pair[1].name))]


def imagine_tensors(checkpoint: Checkpoint, family: Family, shape: Shape) -> dict[str, StoredTensor]:
    """List the tensors that weights of this configuration would hold, all at offset 0 of no file."""
    named = checkpoint.config.get("torch_dtype", checkpoint.config.get("dtype"))
    dtype = DTYPES.get(str(named), "BF16")
    element, path = 4 if dtype == "F32" else 2, checkpoint.folder / "config.json"
    tensors = {}
    for row, _ in _expand(family, shape):
        if _is_promised(row, checkpoint, shape):
            sides = tuple(shape.sizes[side] for side in row.sides)
            tensors[row.hub] = StoredTensor(row.hub, dtype, sides, path, 0, element * math.prod(sides))
    return tensors


def rope_order(rows: int, head_dim: int) -> NDArray[np.intp]:
    """Give the source row of each GGUF row: the Hub keeps a head's rotated halves apart, GGUF pair by pair."""
    halves = np.arange(rows, dtype=np.intp).reshape(-1, 2, head_dim // 2)  # (heads, half, pair)
    order: NDArray[np.intp] = halves.swapaxes(1, 2).reshape(rows)
    return order


def _expand(family: Family, shape: Shape) -> list[tuple[Row, int]]:
    """List every row under its whole names, with its layer (−1 for a tensor outside the layers)."""
    pairs = [(row, -1) for row in _OUTSIDE]
    for layer in range(shape.layers):
        hub, gguf = f"model.layers.{layer}.", f"blk.{layer}."
        pairs += [(replace(row, hub=hub + row.hub, gguf=gguf + row.gguf), layer) for row in family.layer]
    return pairs


def _is_promised(row: Row, checkpoint: Checkpoint, shape: Shape) -> bool:
    if row.promised == "untied":
        return not shape.tied
    return row.promised == "always" or checkpoint.config.get(row.promised) is True


def _make_tensors(checkpoint: Checkpoint, family: Family, shape: Shape) -> list[tuple[int, MappedTensor]]:
    if not shape.rope.factors:
        return []
    if not family.rope_factors:
        found = f"a {family.gguf} GGUF has no place for llama3's RoPE factors"
        raise ModelUnsupported(configuration(checkpoint).where, found, "take a model with another RoPE scaling")
    return [(-1, MappedTensor(ROPE_FACTORS, made=shape.rope.factors))]


def _check_shape(tensor: StoredTensor, row: Row, shape: Shape) -> None:
    wanted = tuple(shape.sizes[side] for side in row.sides)
    if tensor.shape != wanted:
        found = f"tensor {tensor.name} is {list(tensor.shape)}, and config.json makes it {list(wanted)}"
        raise CheckpointIncomplete(str(tensor.path), found, "take both from the same model")
    if tensor.dtype not in DTYPES.values():
        found = f"tensor {tensor.name} is {tensor.dtype}"
        raise ModelUnsupported(str(tensor.path), found, "take the bf16, f16 or f32 weights")
