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


SCALINGS: dict[str, dict[str, object]] = {
    "linear": {"type": "linear", "factor": 2.0},  # as older configurations spell it
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "beta_fast": 16.0},
    "llama3": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 128},
}  # fmt: skip


@dataclass(frozen=True)
class Tiny:
    """The numbers of a tiny decoder."""

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
    architecture: str = "LlamaForCausalLM"
    scaling: str = ""  # a name in SCALINGS
    biased: bool = False  # biases wherever the architecture may have them

    @property
    def is_qwen(self) -> bool:
        return self.architecture.startswith("Qwen")


FRIENDLY = Tiny()
# Rows of 96 and 80: no 256-block fits, and in ffn_down no 32-block either; ungrouped heads; tied output; 17 layers.
AWKWARD = Tiny(hidden=96, feed_forward=80, layers=17, heads=3, heads_kv=3, head_dim=32, tied=True, dtype="F16")
CHECKPOINTS = {
    "friendly": FRIENDLY,
    "awkward": AWKWARD,
    "mistral": Tiny(hidden=128, feed_forward=96, layers=2, heads_kv=2, head_dim=32, architecture="MistralForCausalLM"),
    "llama3": Tiny(hidden=128, feed_forward=160, layers=2, heads=2, scaling="llama3", biased=True),
    "yarn": Tiny(hidden=96, feed_forward=160, layers=2, heads=2, scaling="yarn", dtype="F32"),
    "qwen2": Tiny(layers=2, heads_kv=2, vocabulary=464, architecture="Qwen2ForCausalLM"),
    # Heads that are longer together than the hidden state, as in Qwen3-0.6B.
    "qwen3": Tiny(hidden=128, feed_forward=288, layers=2, vocabulary=464, tied=True, architecture="Qwen3ForCausalLM"),
}


def write_checkpoint(folder: Path, tiny: Tiny = FRIENDLY) -> Path:
    """Write a whole checkpoint into a new folder."""
    folder.mkdir(parents=True)
    ids = write_tokenizer(folder, tiny)
    write_json(folder / "config.json", config(tiny) | ids)
    write_json(folder / "generation_config.json", {"eos_token_id": ids["eos_token_id"], "temperature": 0.5})
    (folder / "chat_template.jinja").write_text(TEMPLATE, "utf-8")
    (folder / "README.md").write_text(CARD, "utf-8")
    write_safetensors(folder / "model.safetensors", weights(tiny), tiny.dtype)
    return folder


def write_tokenizer(folder: Path, tiny: Tiny) -> dict[str, int]:
    """Write the tokenizer an architecture comes with; gives the ids of its special tokens."""
    if tiny.is_qwen:
        from tokenizer_files import write_byte_level_bpe

        count = write_byte_level_bpe(folder)
        return {"bos_token_id": count - 3, "eos_token_id": count - 1, "pad_token_id": count - 3}
    write_json(folder / "tokenizer_config.json", tokenizer_config())
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    return {"bos_token_id": 1, "eos_token_id": 4, "pad_token_id": 2}


def config(tiny: Tiny) -> dict[str, object]:
    own: dict[str, object] = {}
    if tiny.scaling:
        own["rope_scaling"] = SCALINGS[tiny.scaling]
    if tiny.architecture == "MistralForCausalLM":
        own["sliding_window"] = 256
    if tiny.architecture == "Qwen2ForCausalLM":
        own |= {"use_sliding_window": False, "sliding_window": 512, "max_window_layers": tiny.layers}
    return {
        "architectures": [tiny.architecture], "model_type": tiny.architecture.removesuffix("ForCausalLM").lower(),
        "hidden_act": "silu", "attention_bias": tiny.biased, "mlp_bias": tiny.biased,
        "hidden_size": tiny.hidden, "intermediate_size": tiny.feed_forward, "num_hidden_layers": tiny.layers,
        "num_attention_heads": tiny.heads, "num_key_value_heads": tiny.heads_kv, "head_dim": tiny.head_dim,
        "vocab_size": tiny.vocabulary, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 1e6,
        "tie_word_embeddings": tiny.tied, "bos_token_id": 1, "eos_token_id": 4, "pad_token_id": 2,
        "torch_dtype": "bfloat16", **own,
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
    for name, size in _vectors(tiny).items():
        table[name] = random.normal(0, 0.02, size).astype(np.float32)
    return table


def _vectors(tiny: Tiny) -> dict[str, int]:
    """Name what some architectures have beside Llama's tensors, with their lengths."""
    queries, keys = tiny.heads * tiny.head_dim, tiny.heads_kv * tiny.head_dim
    lengths: dict[str, int] = {}
    if tiny.biased or tiny.architecture == "Qwen2ForCausalLM":
        lengths |= {"self_attn.q_proj.bias": queries, "self_attn.k_proj.bias": keys, "self_attn.v_proj.bias": keys}
    if tiny.biased and not tiny.is_qwen:
        lengths |= {"self_attn.o_proj.bias": tiny.hidden, "mlp.gate_proj.bias": tiny.feed_forward,
                    "mlp.up_proj.bias": tiny.feed_forward, "mlp.down_proj.bias": tiny.hidden}  # fmt: skip
    if tiny.architecture == "Qwen3ForCausalLM":
        lengths |= {"self_attn.q_norm.weight": tiny.head_dim, "self_attn.k_norm.weight": tiny.head_dim}
    return {f"model.layers.{layer}.{name}": size for layer in range(tiny.layers) for name, size in lengths.items()}


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
