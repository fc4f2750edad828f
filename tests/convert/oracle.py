"""libllama as the oracle: its own quantizer and tokenizer, through the same bindings the product uses."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from amalia_edge.native import library


def quantize_file(source: Path, target: Path, file_type: int) -> None:
    """Run llama_model_quantize, which is llama-quantize."""
    bindings = library()
    parameters = bindings.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread = file_type, 2
    code = bindings.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters))
    assert code == 0


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
