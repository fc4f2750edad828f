"""Write a large checkpoint of random weights, of EuroLLM-1.7B's shape unless told otherwise, to measure with.

python tests/convert/random_checkpoint.py FOLDER [--layers 24] [--shards 1]
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from checkpoints import TEMPLATE, Tiny, config, sentencepiece_model, tokenizer_config, write_json

EUROLLM = Tiny(hidden=2048, feed_forward=5632, layers=24, heads=16, heads_kv=8, head_dim=128, vocabulary=128_000)
ROWS = 1 << 22  # weights drawn at once


def shapes(tiny: Tiny) -> dict[str, tuple[int, ...]]:
    queries, keys = tiny.heads * tiny.head_dim, tiny.heads_kv * tiny.head_dim
    table: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (tiny.vocabulary, tiny.hidden)}
    for layer in range(tiny.layers):
        at = f"model.layers.{layer}"
        table |= {
            f"{at}.input_layernorm.weight": (tiny.hidden,),
            f"{at}.self_attn.q_proj.weight": (queries, tiny.hidden),
            f"{at}.self_attn.k_proj.weight": (keys, tiny.hidden),
            f"{at}.self_attn.v_proj.weight": (keys, tiny.hidden),
            f"{at}.self_attn.o_proj.weight": (tiny.hidden, queries),
            f"{at}.post_attention_layernorm.weight": (tiny.hidden,),
            f"{at}.mlp.gate_proj.weight": (tiny.feed_forward, tiny.hidden),
            f"{at}.mlp.up_proj.weight": (tiny.feed_forward, tiny.hidden),
            f"{at}.mlp.down_proj.weight": (tiny.hidden, tiny.feed_forward),
        }
    return table | {"model.norm.weight": (tiny.hidden,), "lm_head.weight": (tiny.vocabulary, tiny.hidden)}


def draw(random: np.random.Generator, shape: tuple[int, ...]) -> Iterator[bytes]:
    """Give a tensor's bf16 bytes, some millions of weights at a time."""
    count = int(np.prod(shape))
    for begin in range(0, count, ROWS):
        drawn = random.standard_normal(min(ROWS, count - begin), np.float32) * np.float32(0.02)
        yield (drawn.view(np.uint32) >> 16).astype("<u2").tobytes()


def write_shard(path: Path, tensors: dict[str, tuple[int, ...]], random: np.random.Generator) -> None:
    header, offset = {}, 0
    for name, shape in tensors.items():
        end = offset + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in tensors.values():
            file.writelines(draw(random, shape))


def write_random(folder: Path, tiny: Tiny, shards: int = 1) -> None:
    folder.mkdir(parents=True)
    write_json(folder / "config.json", config(tiny))
    write_json(folder / "tokenizer_config.json", tokenizer_config())
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    (folder / "chat_template.jinja").write_text(TEMPLATE, "utf-8")
    random, table = np.random.default_rng(tiny.seed), list(shapes(tiny).items())
    if shards == 1:
        write_shard(folder / "model.safetensors", dict(table), random)
        return
    weight_map, step = {}, -(-len(table) // shards)
    for number in range(shards):
        name = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = dict(table[number * step : (number + 1) * step])
        write_shard(folder / name, part, random)
        weight_map |= dict.fromkeys(part, name)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("folder", type=Path)
    words.add_argument("--layers", type=int, default=EUROLLM.layers)
    words.add_argument("--shards", type=int, default=1)
    told = words.parse_args()
    shape = Tiny(**{**vars(EUROLLM), "layers": told.layers})
    write_random(told.folder, shape, told.shards)
