"""Write a random Llama of EuroLLM-1.7B's shape, 1.66 billion weights, at any level: for speed, where words do not matter.

    python kernels_bench/checks/random_model.py /tmp/random-Q8_0.gguf --level Q8_0

The blocks are finite and hold what quantized normal weights hold: a few rows are quantized by ggml for each block type and
row length, and repeated from a different row on for each tensor. Takes seconds, and the memory of the largest tensor.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / room) for room in ("edge", "convert", "kernels_bench")]

from amalia_convert.blocks import BlockType  # noqa: E402
from amalia_convert.level_table import find_level  # noqa: E402
from amalia_convert.levels import LEVELS  # noqa: E402
from amalia_convert.recipe import Geometry, Recipe, Tensor, choose_blocks  # noqa: E402
from amalia_edge.quantizer import quantize_rows  # noqa: E402

POOL = 1 << 20  # weights quantized for each block type and row length
CONTROL = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")


@dataclass(frozen=True)
class Shape:
    """EuroLLM-1.7B: 1.66 billion weights."""

    hidden: int = 2048
    layers: int = 24
    heads: int = 16
    heads_kv: int = 8
    feed_forward: int = 5632
    vocabulary: int = 128_000
    context: int = 4096

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Give each tensor's name and its shape (rows, columns)."""
        hidden, kept = self.hidden, self.hidden // self.heads * self.heads_kv
        yield "token_embd.weight", (self.vocabulary, hidden)
        yield "output.weight", (self.vocabulary, hidden)
        yield "output_norm.weight", (hidden,)
        sides: dict[str, tuple[int, ...]] = {
            "attn_norm": (hidden,),
            "attn_q": (hidden, hidden),
            "attn_k": (kept, hidden),
            "attn_v": (kept, hidden),
            "attn_output": (hidden, hidden),
            "ffn_norm": (hidden,),
            "ffn_gate": (self.feed_forward, hidden),
            "ffn_up": (self.feed_forward, hidden),
            "ffn_down": (hidden, self.feed_forward),
        }
        for layer in range(self.layers):
            for name, shape in sides.items():
                yield f"blk.{layer}.{name}.weight", shape


class Pool:
    """Quantized rows of each block type and row length, made once."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._rows: dict[tuple[BlockType, int], NDArray[np.uint8]] = {}

    def take(self, block: BlockType, rows: int, columns: int) -> NDArray[np.uint8]:
        """Give `rows` rows, beginning somewhere in the pool and going round."""
        key = (block, columns)
        if key not in self._rows:
            weights = self._random.standard_normal((max(1, POOL // columns), columns), np.float32)
            self._rows[key] = quantize_rows(int(block), weights / np.float32(columns**0.5))
        pool = self._rows[key]
        start = int(self._random.integers(len(pool)))
        return pool[(np.arange(rows) + start) % len(pool)]


def write(path: Path, level_name: str, shape: Shape, seed: int = 0) -> int:
    """Write the model and give the number of its weights."""
    level, pool = find_level(level_name), Pool(seed)
    writer = gguf.GGUFWriter(path, "llama")
    _describe(writer, shape, level.file_type)
    blocks: list[tuple[BlockType, tuple[int, ...]]] = []
    weights = 0
    tensors = [
        Tensor(name, sides, BlockType.BF16 if len(sides) > 1 else BlockType.F32) for name, sides in shape.tensors()
    ]
    geometry = Geometry("llama", shape.layers, shape.heads // shape.heads_kv)
    chosen = choose_blocks(Recipe(level), tensors, geometry)
    for name, sides in shape.tensors():
        block = chosen[name]
        blocks.append((block, sides))
        weights += int(np.prod(sides))
        kind = gguf.GGMLQuantizationType(int(block))
        row = block.nbytes(sides[-1])
        if len(sides) == 1:
            writer.add_tensor_info(name, sides, np.dtype(np.float32), row)
        else:  # gguf wants the shape in bytes, and makes weights of it
            writer.add_tensor_info(name, (sides[0], row), np.dtype(np.uint8), sides[0] * row, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for block, sides in blocks:
        one = len(sides) == 1
        writer.write_tensor_data(np.ones(sides, np.float32) if one else pool.take(block, *sides))
    writer.close()
    return weights


def _describe(writer: gguf.GGUFWriter, shape: Shape, file_type: int) -> None:
    writer.add_name("Random EuroLLM-1.7B")
    writer.add_file_type(file_type)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads_kv)
    writer.add_rope_dimension_count(shape.hidden // shape.heads)
    writer.add_rope_freq_base(1e4)
    writer.add_layer_norm_rms_eps(1e-5)
    tokens = [*CONTROL, *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [gguf.TokenType.UNKNOWN] + [gguf.TokenType.CONTROL] * (len(CONTROL) - 1) + [gguf.TokenType.BYTE] * 256
    fillers = [f"▁w{number}" for number in range(shape.vocabulary - len(tokens))]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([*tokens, *fillers])
    writer.add_token_scores([0.0] * len(tokens) + [-float(rank) for rank in range(len(fillers))])
    writer.add_token_types(kinds + [gguf.TokenType.NORMAL] * len(fillers))
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(4)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)


def main() -> None:
    words = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    words.add_argument("path", type=Path, metavar="FILE.gguf")
    words.add_argument("--level", default="Q8_0", choices=LEVELS, metavar="LEVEL", help="such as Q8_0 or Q4_K_M")
    words.add_argument("--layers", type=int, default=Shape.layers, help="fewer make a smaller model")
    words.add_argument("--vocabulary", type=int, default=Shape.vocabulary)
    order = words.parse_args()
    weights = write(order.path, order.level, Shape(layers=order.layers, vocabulary=order.vocabulary))
    print(f"{order.path}: {weights:,} weights, {order.path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
