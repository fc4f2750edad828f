"""Tiny random GGUF models that libllama really runs: made in a moment, the same for the same seed."""

from pathlib import Path

import gguf
import numpy as np

CONTROL = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")  # ids 0 to 4, as in AMÁLIA
LETTERS = "▁abcdefghijlmnopqrstuvxzãáâàçéêíóõôú.,?!"  # whole pieces; everything else goes through the byte tokens
VOCABULARY = len(CONTROL) + 256 + len(LETTERS)
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HIDDEN, LAYERS, HEADS, HEADS_KV, FEED_FORWARD = 256, 2, 4, 2, 512


def tiny_model(
    path: Path, *, name: str = "Tiny", kind: str = "F16", seed: int = 0, context: int = 1024,
    template: str | None = TEMPLATE, pieces: tuple[str, ...] = (),
) -> Path:  # fmt: skip
    """Write a Llama of two layers; `kind` is F32, F16 or Q8_0. Text of any kind goes through its vocabulary and back.

    `pieces` are added to the vocabulary.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_file_type({"F32": 0, "F16": 1, "Q8_0": 7}[kind])
    writer.add_context_length(context)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS_KV)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-5)
    _add_vocabulary(writer, template, pieces)
    block_type = gguf.GGMLQuantizationType[kind]
    for tensor, values in _weights(seed, VOCABULARY + len(pieces)).items():
        if values.ndim == 1:
            writer.add_tensor(tensor, values)
        else:
            writer.add_tensor(tensor, gguf.quantize(values, block_type), raw_dtype=block_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: gguf.GGUFWriter, template: str | None, more: tuple[str, ...]) -> None:
    normal = [*LETTERS, *more]
    pieces = [*CONTROL, *(f"<0x{byte:02X}>" for byte in range(256)), *normal]
    kinds = [gguf.TokenType.UNKNOWN] + [gguf.TokenType.CONTROL] * (len(CONTROL) - 1)
    kinds += [gguf.TokenType.BYTE] * 256 + [gguf.TokenType.NORMAL] * len(normal)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(pieces)
    writer.add_token_scores([0.0] * (len(CONTROL) + 256) + [-float(rank) for rank in range(len(normal))])
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_pad_token_id(2)
    writer.add_eos_token_id(4)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    if template is not None:
        writer.add_chat_template(template)


def _weights(seed: int, vocabulary: int) -> dict[str, np.ndarray]:
    """Give every tensor in f32, by its name in a GGUF; a matrix is (outputs, inputs)."""
    draw = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return draw.standard_normal((rows, columns), np.float32) / np.float32(columns**0.5)

    kept = HIDDEN // HEADS * HEADS_KV
    weights = {"token_embd.weight": matrix(vocabulary, HIDDEN), "output.weight": matrix(vocabulary, HIDDEN)}
    weights["output_norm.weight"] = np.ones(HIDDEN, np.float32)
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        weights[f"{block}attn_norm.weight"] = weights[f"{block}ffn_norm.weight"] = np.ones(HIDDEN, np.float32)
        weights[f"{block}attn_q.weight"] = matrix(HIDDEN, HIDDEN)
        weights[f"{block}attn_k.weight"] = matrix(kept, HIDDEN)
        weights[f"{block}attn_v.weight"] = matrix(kept, HIDDEN)
        weights[f"{block}attn_output.weight"] = matrix(HIDDEN, HIDDEN)
        weights[f"{block}ffn_gate.weight"] = matrix(FEED_FORWARD, HIDDEN)
        weights[f"{block}ffn_up.weight"] = matrix(FEED_FORWARD, HIDDEN)
        weights[f"{block}ffn_down.weight"] = matrix(HIDDEN, FEED_FORWARD)
    return weights
