"""What `amalia inspect` tells: a GGUF's header for a person or a machine; no weight is read, no library loaded."""

import math
from collections.abc import Iterator
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from amalia_edge.console import megabytes, plain
from amalia_edge.gguf import BLOCKS, KINDS, MOST_BLOCKS, Array, Header

EXAMPLE = 8192  # tokens; the context whose cost is told
SHORT = 72  # letters of a text that is only shown in part
TEMPLATE = "tokenizer.chat_template"
PROVENANCE = ("general.source.", "general.base_model.", "quantize.imatrix.")
_LAYOUT = {name: (weights, nbytes) for name, weights, nbytes in BLOCKS.values()}


def summarise(header: Header) -> dict[str, Any]:
    """Give everything the header says, for a machine; an array is told as `string[128000]`."""
    lengths, tokens = head_lengths(header), header.metadata.get("tokenizer.ggml.tokens")
    metadata = {key: _telling(value) for key, value in header.metadata.items()}
    return {
        "path": str(header.path),
        "nbytes": header.file_size,
        "parts": max(1, len(header.parts)),
        "version": header.version,
        "alignment": header.metadata.get("general.alignment", 32),
        "data_offset": header.data_offset,
        "name": header.name,
        "architecture": header.architecture,
        "level": header.level,
        "parameters": header.parameters,
        "bits_per_weight": header.bits_per_weight,
        "context_length": header.trained_context,
        "layers": header.number("block_count"),
        "heads": per_layer(header, "attention.head_count"),
        "heads_kv": heads_kv(header),
        "key_length": lengths[0],
        "value_length": lengths[1],
        "cache_bytes_per_token": {kind: cache_cost(header, kind) for kind in ("f16", "q8_0")},
        "vocabulary": {
            "size": tokens.count if isinstance(tokens, Array) else 0,
            "model": metadata.get("tokenizer.ggml.model", ""),
            "pre": metadata.get("tokenizer.ggml.pre", ""),
            "special": special_tokens(header),
        },
        "chat_template": metadata.get(TEMPLATE),
        "types": types(header),
        "metadata": metadata,
        "tensors": [
            {
                "name": one.name,
                "type": one.kind,
                "shape": one.shape,
                "nbytes": one.nbytes,
                "offset": one.offset,
                "part": one.part,
            }
            for one in header.tensors
        ],
    }


def per_layer(header: Header, key: str) -> list[int]:
    """Give a count for each layer, of which a file tells one for all of them or one for each."""
    told = [count for count in header.numbers(f"{header.architecture}.{key}") if type(count) is int]
    layers = min(header.number("block_count"), MOST_BLOCKS)  # it may be a file that is not run
    return told if len(told) != 1 else told * layers


def heads_kv(header: Header) -> list[int]:
    """Give the heads of keys and values in each layer: as many as of queries where the file does not say."""
    return per_layer(header, "attention.head_count_kv") or per_layer(header, "attention.head_count")


def head_lengths(header: Header) -> tuple[int, int]:
    """Give the length of a head's keys and of its values."""
    heads = max(per_layer(header, "attention.head_count"), default=0)
    plain = header.number("embedding_length") // heads if heads > 0 else 0
    return header.number("attention.key_length", plain), header.number("attention.value_length", plain)


def cache_cost(header: Header, kind: str) -> int | None:
    """Count the bytes one token takes in the KV cache; None where heads are no whole blocks of that type."""
    weights, nbytes = _LAYOUT[kind.upper()]
    lengths = head_lengths(header)
    if any(length % weights for length in lengths):
        return None
    return sum(heads_kv(header)) * sum(lengths) // weights * nbytes


def special_tokens(header: Header) -> dict[str, dict[str, Any]]:
    """Give the id and the text of each special token, under the name the file gives it: `bos`, `eos` …"""
    begin, end = "tokenizer.ggml.", "_token_id"
    texts = header.strings("tokenizer.ggml.tokens")
    found = {}
    for key, token in header.metadata.items():
        if key.startswith(begin) and key.endswith(end) and isinstance(token, int):
            text = texts[token].decode("utf-8", "replace") if 0 <= token < len(texts) else None
            found[key[len(begin) : -len(end)]] = {"id": token, "text": text}
    return found


def types(header: Header) -> list[dict[str, Any]]:
    """Count the tensors of each block type, the type with the most bytes first."""
    rows: dict[str, dict[str, Any]] = {}
    for tensor in header.tensors:
        row = rows.setdefault(tensor.kind, {"type": tensor.kind, "tensors": 0, "weights": 0, "nbytes": 0})
        row["tensors"] += 1
        row["weights"] += math.prod(tensor.shape)
        row["nbytes"] += tensor.nbytes
    return sorted(rows.values(), key=lambda row: -row["nbytes"])


def facts(header: Header) -> dict[str, str]:
    """Give what a person asks first: a name and a line each, none of which steers a terminal."""
    told = summarise(header)
    vocabulary, lengths, template = (
        told["vocabulary"],
        (told["key_length"], told["value_length"]),
        told["chat_template"],
    )
    parts = f" in {told['parts']} parts" if told["parts"] > 1 else ""
    special = (f"{name} {token['id']} {_short(token['text'])}" for name, token in vocabulary["special"].items())
    shown = {
        "file": told["path"],
        "name": _short(told["name"]),
        "architecture": _short(told["architecture"]),
        "level": f"{told['level']}, {told['bits_per_weight']:.2f} bits per weight",
        "parameters": f"{told['parameters']:,}",
        "size": f"{megabytes(told['nbytes'])} ({told['nbytes']:,} bytes)" + parts,
        "format": f"GGUF {told['version']}, data from byte {told['data_offset']:,}, aligned to {told['alignment']}",
        "context": f"{told['context_length']:,} tokens trained for",
        "layers": f"{told['layers']}, {header.number('embedding_length'):,} wide",
        "heads": f"{_span(told['heads'])}, {_span(told['heads_kv'])} for keys and values, of {_span(lengths)}",
        "vocabulary": f"{vocabulary['size']:,} tokens, {_short(vocabulary['model'])} {_short(vocabulary['pre'])}",
        "special tokens": ", ".join(special),
        **{f"KV cache, {kind}": _cache_line(cost) for kind, cost in told["cache_bytes_per_token"].items()},
        "chat template": "none" if template is None else f"{len(str(template)):,} characters: {_short(template)}",
    }
    shown |= {key: _short(value) for key, value in told["metadata"].items() if key.startswith(PROVENANCE)}
    return {plain(name): plain(value) for name, value in shown.items()}


def other_facts(header: Header) -> dict[str, str]:
    """Give every other key of the header, a line each."""
    others = {
        key: value for key, value in header.metadata.items() if key != TEMPLATE and not key.startswith(PROVENANCE)
    }
    return {plain(key): _short(_telling(value)) for key, value in others.items()}


def type_table(header: Header) -> Table:
    table = Table("type", box=box.SIMPLE)
    for heading in ("tensors", "weights", "bytes", "share"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in types(header):
        share = row["nbytes"] / header.weight_bytes
        table.add_row(row["type"], f"{row['tensors']:,}", f"{row['weights']:,}", f"{row['nbytes']:,}", f"{share:.1%}")
    return table


def tensor_table(header: Header) -> Table:
    """List every tensor; the shape in ggml's order, the row length first."""
    table = Table(box=box.SIMPLE)
    table.add_column("tensor", overflow="fold")
    table.add_column("type", no_wrap=True)
    for heading in ("shape", "bytes", "offset"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in header.tensors:
        shape = " × ".join(map(str, one.shape))
        table.add_row(Text(plain(one.name)), one.kind, shape, f"{one.nbytes:,}", f"{one.offset:,}")
    return table


def template_lines(header: Header) -> Iterator[str]:
    """Give the chat template whole, line by line."""
    template = header.metadata.get(TEMPLATE)
    for line in template.split("\n") if isinstance(template, str) else ():
        yield plain(line)


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return plain(text if len(text) <= SHORT else f"{text[:SHORT]} …")


def _telling(value: Any) -> Any:
    """Give a value as JSON can hold it, an array by its kind and length."""
    if isinstance(value, Array):
        return f"{KINDS[value.kind]}[{value.count}]"
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value  # JSON knows no NaN


def _span(counts: list[int] | tuple[int, int]) -> str:
    least, most = min(counts, default=0), max(counts, default=0)
    return f"{least}" if least == most else f"{least} to {most}"


def _cache_line(cost: int | None) -> str:
    if cost is None:
        return "the heads are no whole blocks of it"
    return f"{cost:,} B per token, {megabytes(cost * EXAMPLE)} for {EXAMPLE:,}"
