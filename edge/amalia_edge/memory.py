"""What a model takes in memory, from its header alone: the same arithmetic that libllama does when it loads one.

Weights lie in the file's own pages, or are copied: to a GPU, or into the order that this CPU's kernels read best. Keys
and values grow with the context. What a batch computes in between is taken once, for the largest batch. Every rule here
was held against libllama's own figures (tests/edge/plan_against_libllama.py).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from amalia_edge.gguf import Header, TensorInfo
from amalia_edge.gguf_keys import LINEAR, SHARING
from amalia_edge.load_config import LoadConfig

CPU = "CPU"
PER_LAYER = "per_layer_token_embd.weight"
PAD = 256  # tokens: libllama rounds each sequence's cells up to it
CACHE_BITS = {"f32": 32.0, "f16": 16.0, "bf16": 16.0, "q8_0": 8.5, "q4_0": 4.5}  # of one key's or value's number
GEMMA3N_KEEPING = 20  # of its layers; those behind them look into their caches
CACHE_BLOCK = 32  # numbers in a block of q8_0 and q4_0
CACHE_LINE = 64  # bytes
# AMX kernels: type → (weights in a block, bytes a block grows by, for sums that are kept beside it)
_AMX = {"Q4_0": (32, 0), "Q4_1": (32, 0), "Q8_0": (32, 4), "Q4_K": (256, 4), "Q5_K": (256, 4), "Q6_K": (256, 0),
        "IQ4_XS": (256, 2), "F16": (16, 0)}  # fmt: skip
# Kernels over rows woven into one another: type → (what the CPU must have, rows that are woven), the first that applies
_WOVEN = {
    "Q4_0": (("AVX2", 8), ("DOTPROD", 4)),
    "Q4_K": (("AVX2", 8), ("DOTPROD", 8)),
    "Q2_K": (("AVX512", 8),),
    "Q5_K": (("DOTPROD", 8),),
    "Q6_K": (("DOTPROD", 8),),
    "IQ4_NL": (("AVX2", 8), ("DOTPROD", 4)),
    "MXFP4": (("AVX2", 8), ("DOTPROD", 4)),
    "Q8_0": (("DOTPROD", 4),),
}


@dataclass(frozen=True)
class Needs:
    """Bytes on one device, by what they are for."""

    device: str
    weights: int = 0  # copies: uploaded, read in, or put into another order for this CPU
    mapped: int = 0  # the file's own pages, which the system may drop and read again
    looked_up: int = 0  # of `mapped`, the embedding: one row of it is read for each token
    cache: int = 0  # keys and values
    compute: int = 0
    overhead: int = 0  # the process, the driver's own

    @property
    def anonymous(self) -> int:
        """Count what must be in memory and has no file behind it."""
        return self.weights + self.cache + self.compute + self.overhead

    @property
    def needed(self) -> int:
        """Count what must be there for the model to run at speed."""
        return self.anonymous + self.mapped - self.looked_up


@dataclass(frozen=True)
class Shape:
    """The numbers of an architecture that memory depends on."""

    layers: int
    embedding: int
    heads: int
    keys: tuple[int, ...]  # of each layer: numbers kept for one token
    values: tuple[int, ...]
    states: tuple[int, ...]  # of each layer: numbers kept for a sequence, however long it is
    queries: int  # numbers of all heads together
    feed_forward: int  # of all experts that are used together
    vocabulary: int
    masks: int  # one for the whole context, another where some layers see a window of it
    blocks: bool  # a head's keys and values are whole blocks of a coarse cache


def read_shape(header: Header) -> Shape:
    """Read what memory depends on; a file that leaves out its heads is taken to have one."""
    layers = max(1, header.number("block_count", 1))
    embedding = header.number("embedding_length")
    heads = _per_layer(header, "attention.head_count", layers, 1)
    heads_kv = _per_layer(header, "attention.head_count_kv", layers, 0)
    if not header.numbers(f"{header.architecture}.attention.head_count_kv"):
        heads_kv = heads
    most = max(1, *heads)
    key = header.number("attention.key_length") or embedding // most
    value = header.number("attention.value_length") or embedding // most
    key_swa, value_swa = (header.number(f"attention.{name}_length_swa") for name in ("key", "value"))
    windowed = _windowed(header, layers)
    kept = [count * own for count, own in zip(heads_kv, _keeping(header, layers), strict=True)]
    experts = header.number("expert_used_count")
    feed_forward = max(_per_layer(header, "feed_forward_length", layers, 0), default=0)
    if experts:
        feed_forward = max(feed_forward, experts * header.number("expert_feed_forward_length"))
    rows = {tensor.name: tensor.shape[-1] for tensor in header.tensors if len(tensor.shape) == 2}
    return Shape(
        layers=layers,
        embedding=embedding,
        heads=most,
        keys=tuple((key_swa or key if window else key) * count for window, count in zip(windowed, kept, strict=True)),
        values=tuple(
            (value_swa or value if window else value) * count for window, count in zip(windowed, kept, strict=True)
        ),
        states=tuple(0 if count else _state(header) for count in kept),
        queries=max(key, key_swa) * most,
        feed_forward=feed_forward,
        vocabulary=rows.get("token_embd.weight", header.number("vocab_size")),
        masks=2 if header.number("attention.sliding_window") else 1,
        blocks=not any(length % CACHE_BLOCK for length in (key, value, key_swa, value_swa)),
    )


def _windowed(header: Header, layers: int) -> list[bool]:
    """Tell which layers see a window, where the file says it of each: only there they may have other lengths."""
    told = header.numbers(f"{header.architecture}.attention.sliding_window_pattern")
    return list(map(bool, told[:layers])) if 1 < len(told) >= layers else [False] * layers


def _keeping(header: Header, layers: int) -> list[bool]:
    """Tell which layers keep keys and values of their own: none of linear attention, and none that look into another's."""
    if header.architecture in LINEAR:
        told = header.numbers(f"{header.architecture}.attention.recurrent_layers")
        interval = max(1, header.number("full_attention_interval", 4))
        return [not (told[layer] if len(told) >= layers else (layer + 1) % interval) for layer in range(layers)]
    shared = header.number("attention.shared_kv_layers") if header.architecture in SHARING else 0
    start = GEMMA3N_KEEPING if header.architecture == "gemma3n" else layers - shared
    return [layer < start for layer in range(layers)]


def _state(header: Header) -> int:
    """Count the numbers that a layer without keys and values keeps for a sequence: of its convolution, of its attention."""
    if length := header.number("shortconv.l_cache"):
        return (length - 1) * header.number("embedding_length")
    if header.architecture not in LINEAR:
        return 0
    inner, state, groups = (header.number(f"ssm.{name}") for name in ("inner_size", "state_size", "group_count"))
    return (header.number("ssm.conv_kernel") - 1) * (inner + 2 * groups * state) + state * inner


def _per_layer(header: Header, key: str, layers: int, default: int) -> list[int]:
    """Give a number for each layer: architectures say one for all, or an array."""
    told = header.numbers(f"{header.architecture}.{key}")
    found = [number for number in told if isinstance(number, int)] or [default]
    return (found * layers)[:layers] if len(found) == 1 else (found + [found[-1]] * layers)[:layers]


def unpredicted(header: Header) -> str:
    """Say what of a model this arithmetic does not know; nothing for an ordinary one."""
    if header.architecture in LINEAR:
        return "what its layers of linear attention compute in between is not counted"
    if header.number("ssm.state_size") or header.number("wkv.head_size"):
        return "its recurrent layers' states are not counted"
    if header.number("attention.kv_lora_rank"):
        return "its keys and values are compressed, and counted as if they were not"
    return ""


def copied_size(tensor: TensorInfo, features: Sequence[str]) -> int | None:
    """Give a matrix's bytes after libllama has put it into its CPU's favourite order; None where it is left alone."""
    columns, rows = tensor.shape[0], tensor.shape[1] if len(tensor.shape) > 1 else 0
    if ("REPACK" not in features and "AMX_INT8" not in features) or len(tensor.shape) not in (2, 3):
        return None
    if "AMX_INT8" in features and "AVX512_VNNI" in features and len(tensor.shape) == 2 and tensor.kind in _AMX:
        block, growth = _AMX[tensor.kind]
        if rows % 32 == 0 and columns % block == 0:
            return tensor.nbytes + rows * columns // block * growth
    woven = (rows % count == 0 for need, count in _WOVEN.get(tensor.kind, ()) if need in features)
    return tensor.nbytes if "REPACK" in features and any(woven) else None


@dataclass(frozen=True)
class Model:
    """A header made ready for many trials: its shape, and its tensors by layer."""

    header: Header
    features: tuple[str, ...]  # of the CPU's kernels, as libllama names them

    @cached_property
    def shape(self) -> Shape:
        return read_shape(self.header)

    @cached_property
    def _by_layer(self) -> tuple[tuple[int, int, int], ...]:
        """Sum for each layer, and at the end for the output: all bytes, those left in place, those copied for the CPU."""
        sums = [[0, 0, 0] for _ in range(self.shape.layers + 1)]
        for tensor in self.header.tensors:
            if tensor.name.startswith(("token_embd", PER_LAYER)):
                continue
            inside = re.match(r"blk\.(\d{1,4})\.", tensor.name)
            layer = min(int(inside.group(1)), self.shape.layers - 1) if inside else self.shape.layers
            copied = copied_size(tensor, self.features) if tensor.name.endswith("weight") else None
            sums[layer][0] += tensor.nbytes
            sums[layer][1] += tensor.nbytes if copied is None else 0
            sums[layer][2] += copied or 0
        return tuple((whole, left, copied) for whole, left, copied in sums)

    @cached_property
    def embedding(self) -> TensorInfo | None:
        return next((tensor for tensor in self.header.tensors if tensor.name == "token_embd.weight"), None)

    @cached_property
    def per_layer_embedding(self) -> int:
        """Count the embedding that some small models have for each layer: of it too a row is read for each token."""
        return sum(tensor.nbytes for tensor in self.header.tensors if tensor.name == PER_LAYER)

    @cached_property
    def tied(self) -> bool:
        """Say whether the embedding is the output too; libllama then has it twice where the output is copied."""
        return not any(tensor.name == "output.weight" for tensor in self.header.tensors)

    def weights(self, layers: Sequence[int], *, on_gpu: bool, copies: bool) -> tuple[int, int]:
        """Give (copied, left in the file) bytes of some layers; layer number `layers` stands for the output."""
        picked = [self._by_layer[layer] for layer in layers]
        tied = self.embedding if self.tied and self.shape.layers in layers else None
        if on_gpu:
            return sum(whole for whole, _, _ in picked) + (tied.nbytes if tied else 0), 0
        if not copies:
            return 0, sum(whole for whole, _, _ in picked)
        extra = copied_size(tied, self.features) or 0 if tied else 0
        return sum(copied for _, _, copied in picked) + extra, sum(left for _, left, _ in picked)

    def cache(self, layers: Sequence[int], config: LoadConfig) -> int:
        """Count keys and values of some layers, and the states of those without: every sequence has cells of its own.

        A layer that sees only a window has cells for the whole context too, as long as contexts are opened with libllama's
        `swa_full`, its default.
        """
        shape, cells = self.shape, padded(config.context or 0) * config.sequences
        own = [layer for layer in layers if layer < shape.layers]
        keys = CACHE_BITS[config.cache_keys] * sum(shape.keys[layer] for layer in own)
        values = CACHE_BITS[config.cache_values] * sum(shape.values[layer] for layer in own)
        states = 4 * config.sequences * sum(shape.states[layer] for layer in own)
        return int(cells * (keys + values) / 8) + states

    def compute(self, config: LoadConfig, *, output: bool, layers: bool = True) -> int:
        """Count what the largest batch holds at once: in a layer's attention, in its feed-forward, or at the output.

        `output` and `layers` say which of them this device does.
        """
        shape, tokens, context = self.shape, micro_batch(config), padded(config.context or 0)
        row = 4 * tokens  # f32: one number for each token of the batch
        plain, queries, keys = row * shape.embedding, row * shape.queries, row * max(shape.keys, default=0)
        inner, logits = row * shape.feed_forward, 4 * outputs(config) * shape.vocabulary
        if config.flash_attention in ("off", "0"):
            mask = shape.masks * tokens * context * 4
            attention = row * context * shape.heads + mask + 3 * plain + 2 * queries + 2 * keys
        else:
            mask = shape.masks * tokens * context * 2
            attention = mask + 3 * plain + 2 * queries
        spare = 2 * plain if inner > 2 * plain else 0  # what freed pieces are too small to hold
        feed_forward = mask + 2 * plain + 3 * inner + spare
        quantized = CACHE_BITS[config.cache_keys] < 16
        if quantized:
            feed_forward -= plain if spare else 0
        end = logits + (3 if quantized else 2) * plain if output else 0
        return max(end, attention if layers else 0, feed_forward if layers else 0, plain + mask)

    def logits(self, config: LoadConfig) -> int:
        """Count the buffer that the last tokens' logits are handed over in."""
        return 4 * self.shape.vocabulary * config.sequences

    @cached_property
    def largest(self) -> int:
        """Give the largest matrix: a GPU that helps the CPU with a batch holds one at a time."""
        return max((tensor.nbytes for tensor in self.header.tensors if tensor.name != PER_LAYER), default=0)


def adapters_size(config: LoadConfig) -> int:
    """Count the bytes of LoRA adapters, which are read in whole."""
    files = [adapter.path for adapter in config.adapters]
    return sum(file.stat().st_size for file in files if file.is_file())


def micro_batch(config: LoadConfig) -> int:
    """Give how many tokens are computed at once, as context.py settles it."""
    room = max(min(config.batch, config.context or config.batch), config.sequences)
    return min(config.micro_batch, room)


def outputs(config: LoadConfig) -> int:
    """Give for how many tokens of a batch there is room in the logits."""
    return min(micro_batch(config), output_room(config.sequences))


def output_room(sequences: int) -> int:
    """Give for how many tokens' logits a context makes room: one a sequence, and then as many as fill a cache line.

    Their int32 numbers lie before all that a batch computes, and libllama aligns to half a line only: with a line cut in
    two, every AVX-512 load behind it touches two of them, and prompts are read 4 % slower.
    """
    per_line = CACHE_LINE // 4
    return -(-sequences // per_line) * per_line


def padded(tokens: int) -> int:
    return -(-tokens // PAD) * PAD
