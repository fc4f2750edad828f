"""A tiny geometry as a config.json, for synthetic models that are made in a moment."""

import json
from pathlib import Path
from typing import Any

from amalia_convert.shape import SHAPES

SMALL = {
    "hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_hidden_layers": 2, "vocab_size": 512, "max_position_embeddings": 2048,
}  # fmt: skip


def small_shape(folder: Path, like: str = "amalia-9b", **more: Any) -> str:
    """Write a config.json of a family's kind, a thousandth of its size."""
    config = json.loads((SHAPES / f"{like}.json").read_text()) | SMALL | more
    file = folder / "petite" / "config.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(config))
    return str(file)
