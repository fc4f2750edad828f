"""What a model's metadata must obey before libllama sees it: each rule is a way to crash it, or to make it allocate without bound.

What libllama refuses with an error of its own is left to it: these rules stop what aborts, hangs or reads beyond its
arrays. tests/edge/header_fuzz.py looks for more: a mutant that gets past them and still crashes becomes a rule here.
"""

import math
import re
from collections.abc import Iterator
from itertools import chain

from amalia_edge.errors import ModelCorrupt, ModelUnsupported
from amalia_edge.gguf_format import ARRAY, KINDS, Array
from amalia_edge.gguf_header import Header
from amalia_edge.gguf_keys import (
    ARCHITECTURES,
    LINEAR,
    MOST_BLOCKS,
    OWN,
    PARTIAL,
    ROPE_SCALINGS,
    SHARING,
    TOKENS,
    UNROTATED,
    VARYING,
    VOCABULARIES,
    WITHOUT,
    shared_kinds,
)

FLOATS = (".bias", "_norm.weight", "conv.weight", "conv1d.weight")  # how the names of tensors end that are read as F32
READ = ("blk.", "token_", "output", "rope_", "position_", "per_layer_", "altup_")  # how the tensors' names begin
BYTE_TOKEN = 6  # enum llama_token_type
WRITTEN = ("bos", "eos", "eot", "unknown")  # special tokens that must be there; padding beyond the vocabulary is common

Fault = tuple[str, str]  # where, and what was found


def check_model(header: Header) -> None:
    """Refuse what libllama could not survive."""
    check_geometry(header)
    _raise_first(header, _vocabulary_faults(header))


def check_geometry(header: Header) -> None:
    """Refuse numbers and tensors that libllama could not survive; the vocabulary is left aside."""
    architecture = header.metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise ModelCorrupt(header.path.name, "no general.architecture", "is it a model? convert it again")
    check_architecture(header.path.name, architecture)
    if any(tensor.name.startswith(("v.", "mm.")) for tensor in header.tensors):
        found = "has its image encoder in the same file, as Ollama makes them"
        raise ModelUnsupported(header.path.name, found, "take the Hub's GGUF")
    rules = (
        _kind_faults,
        _range_faults,
        _head_faults,
        _expert_faults,
        _linear_faults,
        _section_faults,
        _window_faults,
        _tensor_faults,
    )
    _raise_first(header, chain.from_iterable(rule(header) for rule in rules))
    scaling = header.metadata.get(f"{architecture}.rope.scaling.type", "none")
    if scaling not in ROPE_SCALINGS:
        raise ModelUnsupported(header.path.name, f"RoPE scaling {scaling!r}", "known: " + ", ".join(ROPE_SCALINGS))
    vocabulary = header.metadata.get("tokenizer.ggml.model", WITHOUT[0])
    if vocabulary not in VOCABULARIES + WITHOUT:
        raise ModelUnsupported(header.path.name, f"vocabulary {vocabulary!r}", "known: " + ", ".join(VOCABULARIES))


def check_architecture(where: str, architecture: str) -> None:
    """Refuse an architecture that is not handed to libllama."""
    if architecture not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ModelUnsupported(where, f"architecture {architecture!r}", f"what can be run: {known}")


def _raise_first(header: Header, faults: Iterator[Fault]) -> None:
    for where, found in faults:
        raise ModelCorrupt(f"{header.path.name}: {where}", found, "download or convert it again")


def _kind_faults(header: Header) -> Iterator[Fault]:
    """Hold each key that libllama reads to the kinds it reads; keys it does not know may be of any."""
    own = f"{header.architecture}."
    for key, value in header.metadata.items():
        kind = header.kinds[key]
        told = KINDS[kind] if kind != ARRAY else f"{KINDS[value.kind]}[]"
        wanted = OWN[key[len(own) :]][0] if key.startswith(own) and key[len(own) :] in OWN else shared_kinds(key)
        if wanted and told not in wanted.split():
            yield key, f"is of kind {told}, wanted {wanted.replace(' ', ' or ')}"


def _range_faults(header: Header) -> Iterator[Fault]:
    """Hold the architecture's numbers to their ranges, one by one where a key has one for each layer."""
    own = f"{header.architecture}."
    for key, value in header.metadata.items():
        name = key.removeprefix(own)
        if not key.startswith((own, "xielu.")) or isinstance(value, (str, bool)):
            continue
        if name in OWN or key.endswith("epsilon"):
            _, least, most = OWN.get(name, ("", 1e-30, 0.999))
        elif isinstance(value, float):
            least, most = -1e9, 1e9
        else:
            continue
        if isinstance(value, Array) and value.count > MOST_BLOCKS:  # none is read that is longer
            yield key, f"{value.count} values, wanted at most {MOST_BLOCKS}"
        for number in header.numbers(key):
            if not least <= number <= most:  # nor is NaN
                yield key, f"{number}, wanted {least:g} to {most:g}"


def _head_faults(header: Header) -> Iterator[Fault]:
    """Find heads that do not divide as libllama takes for granted; without a width it refuses the file itself."""
    own, width = header.architecture, header.number("embedding_length")
    if not width:
        return
    heads, pairs = (_layers(header, f"attention.head_count{end}") for end in ("", "_kv"))
    pairs = pairs or heads
    for name, counts in (("head_count", heads), ("head_count_kv", pairs)):
        if own not in VARYING and (len(set(counts)) > 1 or 0 in counts):
            yield f"{own}.attention.{name}", f"{counts[:8]}, wanted one count for all layers"
    layers = max(len(heads), len(pairs))
    for head, pair in zip(_spread(heads, layers), _spread(pairs, layers), strict=False):
        if pair and head % pair:
            yield f"{own}.attention.head_count", f"{head} heads in {pair} groups"
    first = heads[0] if heads else 0
    plain = width // first if first else 0
    if first and width % first and f"{own}.attention.key_length" not in header.metadata:
        yield f"{own}.embedding_length", f"{width}, not a multiple of {first} heads"
    lengths = [header.number(f"attention.{name}_length", plain) for name in ("key", "value")]
    rotated = header.number("rope.dimension_count", lengths[0])
    yield from _length_faults(header, "", lengths, rotated)
    local = [header.number(f"attention.{name}_length_swa", lengths[0]) for name in ("key", "value")]
    yield from _length_faults(header, "_swa", local, header.number("rope.dimension_count_swa", rotated))


def _length_faults(header: Header, end: str, lengths: list[int], rotated: int) -> Iterator[Fault]:
    own, (keys, values) = header.architecture, lengths
    if keys != values or not keys:
        yield f"{own}.attention.key_length{end}", f"{keys} for keys, {values} for values"
    fits = rotated == keys or (own in PARTIAL and 0 < rotated < keys)
    if own not in UNROTATED and (rotated % 2 or not fits):
        yield f"{own}.rope.dimension_count{end}", f"{rotated} of {keys} rotated"


def _layers(header: Header, key: str) -> list[int]:
    return [count for count in header.numbers(f"{header.architecture}.{key}") if isinstance(count, int)]


def _spread(counts: list[int], layers: int) -> list[int]:
    """Give a count for each layer, where one may stand for all."""
    return counts * layers if len(counts) == 1 else counts


def _expert_faults(header: Header) -> Iterator[Fault]:
    """Find counts of experts and layers that make libllama abort."""
    own, blocks = header.architecture, header.number("block_count")
    experts, each = header.number("expert_count"), _layers(header, "expert_used_count") or [0]
    groups, groups_used = header.number("expert_group_count"), header.number("expert_group_used_count")
    if len(set(each)) > 1:
        yield f"{own}.expert_used_count", f"{each[:8]}, wanted one count for all layers"
    if each[0] > experts or (each[0] == 0) != (experts == 0):
        yield f"{own}.expert_used_count", f"{each[0]} of {experts} experts used"
    if groups and not groups < experts:
        yield f"{own}.expert_group_count", f"{groups} groups of {experts} experts"
    if groups > 1 and (experts % groups or not 0 < groups_used < groups):
        yield f"{own}.expert_group_used_count", f"{groups_used} of {groups} groups of {experts} experts used"
    if header.metadata.get(f"{own}.expert_gating_func", 1) not in range(1, 5):
        yield f"{own}.expert_gating_func", "no kind that is known"
    for name in ("nextn_predict_layers", "leading_dense_block_count", "attention.shared_kv_layers"):
        if header.number(name) >= blocks and header.number(name):
            yield f"{own}.{name}", f"{header.number(name)} of {blocks} layers"


def _linear_faults(header: Header) -> Iterator[Fault]:
    """Find shapes of linear attention that libllama divides by, and stacks that lack one of the two kinds of layers."""
    own, pairs = header.architecture, _layers(header, "attention.head_count_kv")
    if own in LINEAR:
        names = ("inner_size", "state_size", "time_step_rank", "group_count")
        inner, state, ranks, groups = (header.number(f"ssm.{name}") for name in names)
        if not groups or not inner or ranks % groups or state * ranks != inner:
            yield f"{own}.ssm.inner_size", f"{inner} for {ranks} heads of {state} in {groups} groups"
        interval, blocks = header.number("full_attention_interval", 4), header.number("block_count")
        recurrent = _layers(header, "attention.recurrent_layers") or [interval > 1, blocks < interval]
        if any(recurrent) == all(recurrent):
            yield f"{own}.full_attention_interval", "wanted layers of both kinds"
    if own == "lfm2" and (0 not in pairs or not any(pairs) or header.number("shortconv.l_cache") < 2):
        yield f"{own}.attention.head_count_kv", "wanted layers of both kinds"
    if own == "olmoe" and pairs not in ([], _layers(header, "attention.head_count")):
        yield f"{own}.attention.head_count_kv", "wanted as many as heads"


def _section_faults(header: Header) -> Iterator[Fault]:
    sections, heads = _layers(header, "rope.dimension_sections"), header.number("attention.head_count") or 1
    length = header.number("attention.key_length", header.number("embedding_length") // heads)
    rotated = header.number("rope.dimension_count", length)
    if sections and not 0 < sum(sections[:3]) <= sum(sections) <= rotated // 2:
        yield f"{header.architecture}.rope.dimension_sections", f"{sections} for {rotated} rotated"


def _window_faults(header: Header) -> Iterator[Fault]:
    """Find windows that no layer has, and layers that share the cache of one that has another window."""
    key, blocks = f"{header.architecture}.attention.sliding_window_pattern", header.number("block_count")
    told, windows = header.metadata.get(key), _layers(header, "attention.sliding_window_pattern")
    if not isinstance(told, Array):  # a period: the last of so many layers has none
        period = told if isinstance(told, int) else 5
        windows = [not period or layer % period < period - 1 for layer in range(blocks)]
    if told is not None and header.number("attention.sliding_window") and not any(windows):
        yield key, "no layer has a window"
    if header.architecture in SHARING and blocks:
        start = 20 if header.architecture == "gemma3n" else blocks - header.number("attention.shared_kv_layers")
        if start < 2 or (start < blocks and windows[start - 2 : start] != [True, False]):
            yield key, f"does not fit layers that share from number {start} on"


def _tensor_faults(header: Header) -> Iterator[Fault]:
    """Find tensors of a type that no kernel takes where they stand; libllama refuses those of names it does not know."""
    for tensor in header.tensors:
        if not tensor.name.startswith(READ):
            continue
        floats = math.prod(tensor.shape) == tensor.shape[0] or tensor.name.endswith(FLOATS)
        if tensor.kind in ("I8", "I16", "I32", "I64", "F64") or (floats and tensor.kind != "F32"):
            yield f"tensor {tensor.name}", f"of type {tensor.kind}, wanted {'F32' if floats else 'weights'}"


def _vocabulary_faults(header: Header) -> Iterator[Fault]:
    """Find what makes libllama abort while it reads a vocabulary, or tokenizes with one."""
    if header.metadata.get("tokenizer.ggml.model", WITHOUT[0]) in WITHOUT or TOKENS not in header.metadata:
        return  # libllama refuses by itself what should have one
    tokens = header.strings(TOKENS)
    if not tokens:
        yield TOKENS, "no vocabulary"
    known = set(tokens)
    if b"" in known or b"\0" in b"".join(tokens):
        tokens = list(_as_read(tokens))
        known = set(tokens)
    if len(known) != len(tokens):
        yield TOKENS, f"{len(tokens) - len(known)} texts stand more than once"
    for key in ("tokenizer.ggml.scores", "tokenizer.ggml.token_type"):
        told = header.metadata.get(key)
        if told is not None and told.count != len(tokens):
            yield key, f"{told.count} for {len(tokens)} tokens"
    if not math.isfinite(sum(header.numbers("tokenizer.ggml.scores"))):  # floats of 4 bytes: their sum cannot overflow
        yield "tokenizer.ggml.scores", "a score that is infinite or not a number"
    for key in (f"tokenizer.ggml.{name}_token_id" for name in WRITTEN):
        if header.metadata.get(key, 0) >= len(tokens):
            yield key, f"{header.metadata[key]}, and the tokens are 0 to {len(tokens) - 1}"
    yield from _byte_faults(header, tokens, known)


def _as_read(tokens: list[bytes]) -> Iterator[bytes]:
    """Give tokens as libllama reads them: up to the first NUL, and with names for those without a text."""
    for index, token in enumerate(tokens):
        yield token.partition(b"\0")[0] or b"[EMPTY_%d]" % index


def _byte_faults(header: Header, tokens: list[bytes], known: set[bytes]) -> Iterator[Fault]:
    """Find byte tokens that are misspelt, and bytes without one: libllama aborts on a text that needs it."""
    types = header.numbers("tokenizer.ggml.token_type")
    at = -1
    for _ in range(types.count(BYTE_TOKEN)):
        at = types.index(BYTE_TOKEN, at + 1)
        if not re.fullmatch(rb"<0x[0-9A-Fa-f]{2}>", tokens[at]):
            yield TOKENS, f"a byte token spelt {tokens[at][:16]!r}"
    if not set(types) <= set(range(7)):
        yield "tokenizer.ggml.token_type", f"{next(kind for kind in types if not 0 <= kind <= 6)}, wanted 0 to 6"
    if header.metadata.get("tokenizer.ggml.model") == "llama":
        absent = [byte for byte in range(256) if b"<0x%02X>" % byte not in known and bytes([byte]) not in known]
        if absent:
            yield TOKENS, f"{len(absent)} of 256 byte tokens are missing, the first: <0x{absent[0]:02X}>"
