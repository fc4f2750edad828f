"""LoRA adapters in GGUF: small matrices that are added to a model's own while it runs."""

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amalia_edge import native
from amalia_edge.errors import ModelCorrupt, UsageError
from amalia_edge.gguf import Header
from amalia_edge.gguf_adapter import read_adapter

LARGEST_SCALE = 100.0


@dataclass(frozen=True)
class Adapter:
    """An adapter's file, and how much of it to add."""

    path: Path
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not -LARGEST_SCALE <= self.scale <= LARGEST_SCALE:
            advice = f"give a number from -{LARGEST_SCALE:g} to {LARGEST_SCALE:g}"
            raise UsageError("lora", f"a scale of {self.scale}", advice)

    @classmethod
    def parse(cls, text: str) -> "Adapter":
        """Read `FILE` or `FILE:SCALE`; a file of that whole name comes first, for a path may hold a colon."""
        head, _, tail = text.rpartition(":")
        try:
            scale = float(tail)
        except ValueError:
            return cls(Path(text))
        return cls(Path(text)) if not head or Path(text).is_file() else cls(Path(head), scale)


def load_adapters(model: Any, header: Header, adapters: Sequence[Adapter]) -> list[Any]:
    """Load adapters for a model, before any context is made of it; they are freed with the model, never by us."""
    bindings, loaded = native.library(), []
    for adapter in adapters:
        read_adapter(adapter.path, header)
        with native.reasons() as why:
            pointer = bindings.llama_adapter_lora_init(model, os.fsencode(adapter.path))
            if not pointer:
                raise ModelCorrupt(adapter.path.name, f"libllama refuses it: {why()}", "convert it again")
        loaded.append(pointer)
    return loaded


def apply_adapters(context: Any, pointers: Sequence[Any], adapters: Sequence[Adapter]) -> None:
    """Add loaded adapters to what a context computes, each with its scale."""
    if not pointers:
        return
    library, count = native.library(), len(pointers)
    array = (library.llama_adapter_lora_p_ctypes * count)(*pointers)
    scales = (ctypes.c_float * count)(*(adapter.scale for adapter in adapters))
    library.llama_set_adapters_lora(context, array, count, scales)
