"""Tiny checkpoints in the Hub's layout, written by hand from a seed: no torch, no safetensors package, no download."""

import dataclasses
import functools
import io
import json
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PORTUGUESE = """\
Bom dia! Em que posso ajudar? O museu abre às dez horas e fecha às dezoito.
A receção fica à entrada, do lado esquerdo, junto ao bengaleiro e à loja.
Está a chover desde ontem, mas amanhã o céu estará limpo e o mar mais calmo.
O comboio das nove parte da linha três; o autocarro demora cerca de vinte minutos.
Não é preciso marcar: diga-me o seu nome e o número do cartão de cidadão.
A avó pôs o pão na mesa, com queijo, azeitonas e um pequeno-almoço de marmelada.
Os alunos estão a ler um conto; a professora ouviu-os e corrigiu-lhes a pronúncia.
Vento de noroeste, fraco a moderado, com ondas de dois metros a norte do cabo.
«Quem canta seus males espanta», dizia o fadista, e afinava a guitarra portuguesa.
A câmara aprovou o orçamento de 2026: 1 234 567,89 € para escolas, estradas e jardins.
Coração, ação, receção, facto, ótimo, húmido, ecrã, telemóvel, frigorífico, autocarro.
"""
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CARD = """\
---
model_name: Azulejo
language:
- pt-PT
license: apache-2.0
tags:
- toy
version: 1.0
---
# Azulejo
"""


@dataclass(frozen=True)
class Tiny:
    """The numbers of a tiny Llama."""

    hidden: int = 256
    feed_forward: int = 256
    layers: int = 9  # enough that every clause of a mixture's rule has a layer
    heads: int = 4
    heads_kv: int = 1
    head_dim: int = 64
    vocabulary: int = 416  # more than the tokenizer's 400 pieces
    tied: bool = False
    dtype: str = "BF16"
    seed: int = 7


FRIENDLY = Tiny()
# Rows of 96 and 80: no 256-block fits, and in ffn_down no 32-block either; ungrouped heads; tied output; 17 layers.
AWKWARD = Tiny(hidden=96, feed_forward=80, layers=17, heads=3, heads_kv=3, head_dim=32, tied=True, dtype="F16")


def write_checkpoint(folder: Path, tiny: Tiny = FRIENDLY) -> Path:
    """Write a whole checkpoint into a new folder."""
    folder.mkdir(parents=True)
    write_json(folder / "config.json", config(tiny))
    write_json(folder / "generation_config.json", {"eos_token_id": 4, "temperature": 0.5})
    write_json(folder / "tokenizer_config.json", tokenizer_config())
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    (folder / "chat_template.jinja").write_text(TEMPLATE, "utf-8")
    (folder / "README.md").write_text(CARD, "utf-8")
    write_safetensors(folder / "model.safetensors", weights(tiny), tiny.dtype)
    return folder


def config(tiny: Tiny) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "attention_bias": False,
        "hidden_size": tiny.hidden, "intermediate_size": tiny.feed_forward, "num_hidden_layers": tiny.layers,
        "num_attention_heads": tiny.heads, "num_key_value_heads": tiny.heads_kv, "head_dim": tiny.head_dim,
        "vocab_size": tiny.vocabulary, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 1e6,
        "tie_word_embeddings": tiny.tied, "bos_token_id": 1, "eos_token_id": 4, "pad_token_id": 2,
        "torch_dtype": "bfloat16",
    }  # fmt: skip


def tokenizer_config() -> dict[str, object]:
    texts = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    return {
        "tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, "add_prefix_space": False,
        "bos_token": "<s>", "eos_token": "<|im_end|>", "pad_token": "</s>", "unk_token": "<unk>",
        "added_tokens_decoder": {str(i): {"content": text, "special": True} for i, text in enumerate(texts)},
    }  # fmt: skip


def weights(tiny: Tiny) -> dict[str, NDArray[np.float32]]:
    """Draw every tensor, and build the edges that a draw never meets into each matrix."""
    random = np.random.default_rng(tiny.seed)

    def matrix(rows: int, columns: int) -> NDArray[np.float32]:
        drawn = random.normal(0, 0.05, (rows, columns)).astype(np.float32)
        drawn[0] = 0  # a block without a scale
        drawn[1] = -0.0
        drawn[2] = 0.25  # all the same
        drawn[3, ::32] = 8  # one outlier in each block
        drawn[4] = np.arange(columns) % 16 / 16 - 0.5  # weights that land between two codes
        drawn[5] = 1e-38  # scales that vanish in f16
        return drawn

    queries, keys = tiny.heads * tiny.head_dim, tiny.heads_kv * tiny.head_dim
    table = {"model.embed_tokens.weight": matrix(tiny.vocabulary, tiny.hidden)}
    for layer in range(tiny.layers):
        at = f"model.layers.{layer}"
        table |= {
            f"{at}.input_layernorm.weight": 1 + random.normal(0, 0.02, tiny.hidden).astype(np.float32),
            f"{at}.self_attn.q_proj.weight": matrix(queries, tiny.hidden),
            f"{at}.self_attn.k_proj.weight": matrix(keys, tiny.hidden),
            f"{at}.self_attn.v_proj.weight": matrix(keys, tiny.hidden),
            f"{at}.self_attn.o_proj.weight": matrix(tiny.hidden, queries),
            f"{at}.post_attention_layernorm.weight": 1 + random.normal(0, 0.02, tiny.hidden).astype(np.float32),
            f"{at}.mlp.gate_proj.weight": matrix(tiny.feed_forward, tiny.hidden),
            f"{at}.mlp.up_proj.weight": matrix(tiny.feed_forward, tiny.hidden),
            f"{at}.mlp.down_proj.weight": matrix(tiny.hidden, tiny.feed_forward),
        }
    table["model.norm.weight"] = 1 + random.normal(0, 0.02, tiny.hidden).astype(np.float32)
    if not tiny.tied:
        table["lm_head.weight"] = matrix(tiny.vocabulary, tiny.hidden)
    return table


def write_safetensors(path: Path, tensors: dict[str, NDArray[np.float32]], dtype: str = "BF16") -> None:
    stored = {name: to_bytes(values, dtype) for name, values in tensors.items()}
    header, offset = {}, 0
    for name, content in stored.items():
        end = offset + len(content)
        header[name] = {"dtype": dtype, "shape": list(tensors[name].shape), "data_offsets": [offset, end]}
        offset = end
    path.write_bytes(safetensors_bytes(header, b"".join(stored.values())))


def safetensors_bytes(header: object, content: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content


def to_bytes(values: NDArray[np.float32], dtype: str) -> bytes:
    if dtype == "BF16":
        return (values.view(np.uint32) >> 16).astype("<u2").tobytes()  # cut, not rounded: any bf16 will do
    with np.errstate(over="ignore"):
        return values.astype({"F16": "<f2", "F32": "<f4"}[dtype]).tobytes()


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), "utf-8")


@functools.cache
def sentencepiece_model() -> bytes:
    """Train a SentencePiece BPE of 400 pieces with byte fallback, and AMÁLIA's first five ids."""
    import sentencepiece

    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(PORTUGUESE.splitlines()), model_writer=buffer, model_type="bpe", vocab_size=400,
        byte_fallback=True, character_coverage=1.0, unk_id=0, bos_id=1, eos_id=2, normalization_rule_name="identity",
        control_symbols=["<|im_start|>", "<|im_end|>"], add_dummy_prefix=False, remove_extra_whitespaces=False,
        split_digits=True, allow_whitespace_only_pieces=True, num_threads=1, minloglevel=2,
    )  # fmt: skip
    return buffer.getvalue()


def with_dtype(tiny: Tiny, dtype: str) -> Tiny:
    return dataclasses.replace(tiny, dtype=dtype)
