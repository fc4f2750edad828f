"""The roofline of writing: a token cannot come sooner than the bytes it needs come from memory.

    share = bytes read per token × tokens per second ÷ memory bandwidth measured in the same run

Bytes read per token are
- the weights, each once: but for the embedding, of which one row is looked up; where it is the output too (tied), it is read
  whole. Of a mixture of experts only those that are used for a token count;
- the keys and values of the tokens before it, taken at the middle of what is generated: 512 tokens of context and 128 to
  write are 576 tokens of cache. A layer that sees only a window of them counts as if it saw them all, which is what
  libllama's cache is read like; states of recurrent layers count once.
Activations, at most a few hundred kilobytes, stay in the processor's cache and are left out.

A share of 1 is the limit of this machine: no kernel can be faster, only a smaller level. A share above 1 means that the
weights, or some of them, stay in the processor's cache, and that memory is no limit for this model.
Reading a prompt uses each weight for many tokens at once and is limited by arithmetic: it has no share here.
"""

from amalia_edge.gguf import Header
from amalia_edge.memory import CACHE_BITS, Model, read_shape

PER_LAYER = "per_layer_token_embd.weight"


def bytes_per_token(header: Header, context: float, cache_keys: str = "f16", cache_values: str = "f16") -> int:
    """Count what must be read to write one token after `context` others."""
    return weights_read(header) + int(context * cache_bytes(header, cache_keys, cache_values)) + _states(header)


def weights_read(header: Header) -> int:
    """Count the bytes of weights that one token needs."""
    tied = Model(header, ()).tied
    experts, used = header.number("expert_count"), header.number("expert_used_count")
    total = 0.0
    for tensor in header.tensors:
        if tensor.name == PER_LAYER or (tensor.name == "token_embd.weight" and not tied):
            continue
        spared = experts > 0 and "_exps." in tensor.name
        total += tensor.nbytes * (used / experts if spared else 1)
    return int(total)


def cache_bytes(header: Header, cache_keys: str, cache_values: str) -> float:
    """Count the bytes of keys and values that are kept of one token."""
    shape = read_shape(header)
    return (CACHE_BITS[cache_keys] * sum(shape.keys) + CACHE_BITS[cache_values] * sum(shape.values)) / 8


def _states(header: Header) -> int:
    return 4 * sum(read_shape(header).states)


def share(nbytes: int, tps: float, gbps: float) -> float:
    """Give the share of the bandwidth (10⁹ bytes/s) that was used."""
    return nbytes * tps / (gbps * 1e9)
