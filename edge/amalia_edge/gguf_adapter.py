"""A LoRA adapter's file, held against the model it is for: libllama aborts on one whose matrices do not fit."""

import math
from collections.abc import Iterator
from pathlib import Path

from amalia_edge.errors import ModelCorrupt, ModelUnsupported
from amalia_edge.gguf import Header, TensorInfo, read_header

EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"
WEIGHTS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")  # what adapters are published in
MOST_ALPHA = 1e6
_TEXT, _REAL = 8, 6  # kinds of values


def read_adapter(path: Path, base: Header) -> Header:
    """Read and check an adapter's header; refuse one that is not for this model."""
    header = read_header(path, model=False)
    told = {key: header.metadata.get(key) for key in ("general.type", "adapter.type", "general.architecture")}
    if told["general.type"] != "adapter" or told["adapter.type"] != "lora":
        raise ModelUnsupported(path.name, "not a LoRA adapter", "make one with llama.cpp's convert_lora_to_gguf.py")
    if told["general.architecture"] != base.architecture:
        found = f"for the architecture {told['general.architecture']!r}, the model is {base.architecture!r}"
        raise ModelUnsupported(path.name, found, "take the adapter made for this model")
    if "adapter.alora.invocation_tokens" in header.metadata:
        raise ModelUnsupported(path.name, "an adapter for parts of a text", "take a plain LoRA")
    for where, found in (*_alpha_faults(header), *_matrix_faults(header, base)):
        raise ModelCorrupt(f"{path.name}: {where}", found, "take the adapter made for this model, or convert it again")
    return header


def _alpha_faults(header: Header) -> Iterator[tuple[str, str]]:
    alpha = header.metadata.get("adapter.lora.alpha", 0.0)
    if header.kinds.get("adapter.lora.alpha", _REAL) != _REAL or not 0 <= alpha <= MOST_ALPHA:
        yield "adapter.lora.alpha", f"{alpha}, wanted 0 to {MOST_ALPHA:g}"


def _matrix_faults(header: Header, base: Header) -> Iterator[tuple[str, str]]:
    """Find matrices without their pair, without their place in the model, or that do not fit it."""
    matrices = {tensor.name: tensor for tensor in base.tensors}
    pairs: dict[str, dict[str, TensorInfo]] = {}
    for tensor in header.tensors:
        name, _, end = tensor.name.rpartition(".")
        if end in ("lora_a", "lora_b"):
            pairs.setdefault(name, {})[end] = tensor
        elif not tensor.name.endswith("_norm.weight"):  # which libllama passes over
            yield f"tensor {tensor.name}", "neither lora_a nor lora_b"
    if not pairs:
        yield "tensors", "none of an adapter"
    for name, pair in pairs.items():
        if len(pair) < 2:
            yield f"tensor {name}", f"only {next(iter(pair))} of the two"
        elif name not in matrices:
            yield f"tensor {name}", "the model has none of that name"
        elif name == EMBEDDING and OUTPUT not in matrices:
            yield f"tensor {name}", "the model's output is the same matrix, which libllama cannot adapt twice"
        else:
            yield from _shape_faults(matrices[name], pair["lora_a"], pair["lora_b"])


def _shape_faults(matrix: TensorInfo, first: TensorInfo, second: TensorInfo) -> Iterator[tuple[str, str]]:
    """Hold (inputs, rank) and (rank, outputs) against (inputs, outputs); the embedding's first is the other way round."""
    for tensor in (first, second):
        if tensor.kind not in WEIGHTS:
            yield f"tensor {tensor.name}", f"of type {tensor.kind}, known: {', '.join(WEIGHTS)}"
    inputs, outputs, *experts = matrix.shape if len(matrix.shape) > 1 else (*matrix.shape, 1)
    rank = second.shape[0]
    wanted = (rank, outputs) if matrix.name == EMBEDDING else (inputs, rank)
    width = inputs if matrix.name == EMBEDDING else outputs
    fits = _sides(first) == (*wanted, *experts) and _sides(second) == (rank, width, *experts)
    if len(matrix.shape) < 2 or not fits or math.prod(experts) < 1:
        yield f"tensor {matrix.name}", f"{first.shape} and {second.shape} do not fit {matrix.shape}"


def _sides(tensor: TensorInfo) -> tuple[int, ...]:
    """Give at least two sides: a rank of one leaves the second out."""
    return tensor.shape if len(tensor.shape) > 1 else (*tensor.shape, 1)
