"""Model files of any geometry that hold a header and no weights: sparse, so that 20 GB take a few blocks of disk."""

import json
import math
from pathlib import Path
from typing import Any

from amalia_convert.blocks import BlockType
from amalia_convert.metadata import Metadata, float32, string, uint32
from amalia_convert.shape import SHAPES, plan_level
from amalia_convert.writer import header_bytes, padded

# Besides the shapes we ship: tied embeddings, heads wider than the model, a narrow feed-forward
SMALL: dict[str, dict[str, Any]] = {
    "qwen3-0.6b": {
        "like": "qwen3-8b", "hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 16,
        "num_hidden_layers": 28, "tie_word_embeddings": True,
    },
    "llama-3.2-1b": {
        "like": "amalia-9b", "hidden_size": 2048, "intermediate_size": 8192, "head_dim": 64, "num_hidden_layers": 16,
        "vocab_size": 128256, "tie_word_embeddings": True, "max_position_embeddings": 131072,
    },
    "thin": {
        "like": "amalia-9b", "hidden_size": 2048, "intermediate_size": 2048, "head_dim": 64, "num_hidden_layers": 16,
        "vocab_size": 32000,
    },
}  # fmt: skip
TINY = {
    "like": "amalia-9b", "hidden_size": 512, "intermediate_size": 1024, "head_dim": 64, "num_attention_heads": 8,
    "num_key_value_heads": 2, "num_hidden_layers": 3, "vocab_size": 2048,
}  # fmt: skip
CONFIGS = {**SMALL, "tiny": TINY, "tiny-tied": {**TINY, "tie_word_embeddings": True}}


def sparse_model(folder: Path, name: str, level: str = "Q4_K_M") -> Path:
    """Write a shape's file at a level, all but the weights; libllama takes it where it need not read them."""
    wanted, config = name, {}
    if name in CONFIGS:
        config = json.loads((SHAPES / f"{CONFIGS[name]['like']}.json").read_text()) | CONFIGS[name]
        file = folder / name / "config.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(config))
        wanted = str(file)
    else:
        config = json.loads((SHAPES / f"{name}.json").read_text())
    architecture = {"Qwen3ForCausalLM": "qwen3"}.get(config["architectures"][0], "llama")
    more: Metadata = {
        "tokenizer.ggml.model": string("no_vocab"),
        f"{architecture}.vocab_size": uint32(config["vocab_size"]),
    }
    planned = plan_level(wanted, level, more)
    return _write(folder / f"{name}-{level}.gguf", planned.header, planned.nbytes)


def windowed_model(path: Path) -> Path:
    """Write a Gemma 3, whose layers see a window of the context but for every sixth."""
    width, inner, heads, heads_kv, head, layers, vocabulary = 512, 1024, 4, 2, 128, 12, 2048
    numbers = {
        "vocab_size": vocabulary, "context_length": 32768, "embedding_length": width, "block_count": layers,
        "feed_forward_length": inner, "attention.head_count": heads, "attention.head_count_kv": heads_kv,
        "attention.key_length": head, "attention.value_length": head, "attention.sliding_window": 512,
    }  # fmt: skip
    metadata: Metadata = {"general.architecture": string("gemma3"), "tokenizer.ggml.model": string("no_vocab")}
    metadata |= {f"gemma3.{key}": uint32(number) for key, number in numbers.items()}
    metadata["gemma3.attention.layer_norm_rms_epsilon"] = float32(1e-6)
    sides: dict[str, tuple[int, ...]] = {
        "attn_norm": (width,), "attn_q": (heads * head, width), "attn_k": (heads_kv * head, width),
        "attn_v": (heads_kv * head, width), "attn_output": (width, heads * head), "attn_q_norm": (head,),
        "attn_k_norm": (head,), "post_attention_norm": (width,), "ffn_norm": (width,), "ffn_gate": (inner, width),
        "ffn_up": (inner, width), "ffn_down": (width, inner), "post_ffw_norm": (width,),
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocabulary, width), "output_norm.weight": (width,)}
    shapes |= {f"blk.{layer}.{name}.weight": shape for layer in range(layers) for name, shape in sides.items()}
    blocks = {name: BlockType.F32 if len(shape) == 1 else BlockType.Q8_0 for name, shape in shapes.items()}
    tensors = [
        (name, shape, int(blocks[name]), blocks[name].nbytes(math.prod(shape))) for name, shape in shapes.items()
    ]
    header = header_bytes(metadata, tensors)
    return _write(path, header, len(header) + sum(padded(nbytes) for *_, nbytes in tensors))


def _write(path: Path, header: bytes, nbytes: int) -> Path:
    with path.open("wb") as out:
        out.write(header)
        out.truncate(nbytes)
    return path
