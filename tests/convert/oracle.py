"""libllama as the oracle: its own quantizer and tokenizer, through the same bindings the product uses."""

import ctypes
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amalia_convert.recipe import Recipe
from amalia_edge.native import library

Importance = Mapping[str, NDArray[np.float32]]


def quantize_file(source: Path, target: Path, file_type: int) -> None:
    """Run llama_model_quantize, which is llama-quantize."""
    parameters = library().llama_model_quantize_default_params()
    parameters.ftype = file_type
    assert _run(source, target, parameters) == 0


def quantize_by(recipe: Recipe, source: Path, target: Path, importance: Importance | None = None) -> bool:
    """Run llama_model_quantize with all that a recipe says; tell whether it did not refuse."""
    parameters, _alive = _parameters(recipe, importance or {})
    return _run(source, target, parameters) == 0


def chosen_types(recipe: Recipe, source: Path) -> dict[str, str]:
    """Let llama_model_quantize choose every tensor's type without quantizing, and read its log."""
    values = dict.fromkeys(recipe.importance or (), np.ones(1, np.float32))
    parameters, _alive = _parameters(recipe, values)
    parameters.dry_run = True
    found: dict[str, str] = {}

    class Reader(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if tensor := re.match(r"\[ *\d+/ *\d+\] (\S+) +- .*type = *(\w+)", text):
                found[tensor[1]] = tensor[2].upper()
            elif size := re.match(r"size = .* -> .*\((\w+)\)", text):
                found[next(reversed(found))] = size[1].upper()

    logger, reader = logging.getLogger("amalia.native"), Reader()
    former = logger.level, logger.propagate
    logger.addHandler(reader)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False  # pytest would format and keep every line
    try:
        assert _run(source, source.with_name("never written"), parameters) == 0
    finally:
        logger.removeHandler(reader)
        logger.setLevel(former[0])
        logger.propagate = former[1]
    return found


def _run(source: Path, target: Path, parameters: Any) -> int:
    parameters.nthread = 2
    code = library().llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters))
    return int(code)


def _parameters(recipe: Recipe, importance: Importance) -> tuple[Any, list[Any]]:
    """Give llama_model_quantize's parameters, and what must live as long as they do."""
    bindings = library()
    parameters = bindings.llama_model_quantize_default_params()
    parameters.ftype, parameters.pure = recipe.level.file_type, recipe.pure
    if recipe.output is not None:
        parameters.output_tensor_type = int(recipe.output)
    if recipe.embedding is not None:
        parameters.token_embedding_type = int(recipe.embedding)
    overrides = (bindings.llama_model_tensor_override * (len(recipe.tensor_types) + 1))()
    for entry, (pattern, block) in zip(overrides, recipe.tensor_types, strict=False):
        entry.pattern, entry.type = pattern.encode(), int(block)
    parameters.tt_overrides = overrides
    data = (bindings.llama_model_imatrix_data * (len(importance) + 1))()  # the last one, empty, ends them
    kept = [np.ascontiguousarray(values, np.float32) for values in importance.values()]
    for entry, name, values in zip(data, importance, kept, strict=False):
        entry.name, entry.size = name.encode(), values.size
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    if importance:
        parameters.imatrix = data
    return parameters, [overrides, data, kept]


@contextmanager
def open_vocabulary(path: Path) -> Iterator[Any]:
    """Load a GGUF's vocabulary alone."""
    bindings = library()
    parameters = bindings.llama_model_default_params()
    parameters.vocab_only = True
    model = bindings.llama_model_load_from_file(str(path).encode(), parameters)
    assert model, f"libllama refused {path}"
    try:
        yield bindings.llama_model_get_vocab(model)
    finally:
        bindings.llama_model_free(model)


def tokenize(vocabulary: Any, text: str) -> list[int]:
    """Give libllama's ids of a text; control tokens in it are text."""
    content = text.encode()
    room = (ctypes.c_int32 * (2 * len(content) + 8))()
    count = library().llama_tokenize(vocabulary, content, len(content), room, len(room), False, False)
    assert count >= 0
    return list(room[:count])
