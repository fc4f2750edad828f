"""Tiny random models of every architecture we run: libllama itself says, from the metadata, which tensors one has."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from amalia_edge import native

HIDDEN, FEED_FORWARD, HEADS, HEADS_KV, CONTEXT = 64, 96, 4, 2, 256
EXPERTS: dict[str, Any] = {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 64}
SHARED: dict[str, Any] = EXPERTS | {"expert_shared_feed_forward_length": 64, "expert_shared_count": 1}
LEADING: dict[str, Any] = SHARED | {"leading_dense_block_count": 1, "expert_weights_scale": 1.0}
WINDOW: dict[str, Any] = {"attention.sliding_window": 32}
LINEAR: dict[str, Any] = {
    "ssm.conv_kernel": 4, "ssm.inner_size": 128, "ssm.state_size": 32, "ssm.time_step_rank": 4, "ssm.group_count": 4,
    "full_attention_interval": 2,
}  # fmt: skip
SECTIONS: dict[str, Any] = {"rope.dimension_sections": [2, 2, 2, 0]}
UNGROUPED: dict[str, Any] = {"attention.head_count_kv": HEADS}
LENGTHS: dict[str, Any] = {"attention.key_length": 16, "attention.value_length": 16}
# architecture → the keys it has of its own, or with other values than the rest
OWN: dict[str, dict[str, Any]] = {
    "apertus": {"xielu.alpha_n": 1.0, "xielu.alpha_p": 1.0, "xielu.beta": 1.0, "xielu.eps": 1e-7}, "arcee": {},
    "arctic": EXPERTS, "baichuan": UNGROUPED | {"block_count": 32}, "bailingmoe": LEADING | {"expert_weights_norm": True},
    "bitnet": {}, "bloom": UNGROUPED, "chatglm": {}, "codeshell": UNGROUPED,
    "cohere2": WINDOW | {"logit_scale": 0.5, "block_count": 4}, "command-r": {"logit_scale": 0.5},
    "dbrx": EXPERTS | {"attention.clamp_kqv": 8.0}, "deepseek": LEADING, "ernie4_5": {}, "exaone": {}, "exaone4": {},
    "falcon": UNGROUPED, "gemma": LENGTHS, "gemma2": WINDOW | LENGTHS, "gemma3": WINDOW | LENGTHS | {"block_count": 6},
    "gemma3n": WINDOW | LENGTHS | {"block_count": 22},
    "gemma4": WINDOW | LENGTHS | {
        "block_count": 5, "attention.sliding_window_pattern": [True] * 4 + [False], "attention.key_length_swa": 16,
        "attention.value_length_swa": 16, "embedding_length_per_layer_input": 32, "rope.freq_base_swa": 1e4,
        "attention.shared_kv_layers": 0, "rope.dimension_count_swa": 16,
    },
    "glm4": {}, "glm4moe": LEADING, "gpt-oss": EXPERTS | WINDOW | LENGTHS, "gpt2": UNGROUPED,
    "gptneox": UNGROUPED | {"use_parallel_residual": True}, "granite": {"logit_scale": 4.0},
    "granitemoe": EXPERTS | {"logit_scale": 4.0}, "hunyuan-dense": {}, "hunyuan-moe": SHARED, "internlm2": {},
    "jais2": {}, "lfm2": {"shortconv.l_cache": 3, "attention.head_count_kv": [0, 2]}, "llama": {}, "maincoder": {},
    "mellum": EXPERTS, "minicpm": {}, "mistral3": {}, "mpt": UNGROUPED | {"attention.max_alibi_bias": 8.0},
    "nemotron": {}, "olmo": UNGROUPED, "olmo2": {}, "olmoe": EXPERTS | UNGROUPED, "openelm": {}, "orion": {}, "pangu-embedded": {},
    "phi2": UNGROUPED, "phi3": {}, "phimoe": EXPERTS, "plamo": UNGROUPED, "qwen": UNGROUPED, "qwen2": {},
    "qwen2moe": SHARED, "qwen3": LENGTHS, "qwen3moe": EXPERTS, "qwen3next": LINEAR | SHARED,
    "qwen35": LINEAR | SECTIONS, "qwen35moe": LINEAR | SECTIONS | SHARED, "refact": UNGROUPED, "seed_oss": {},
    "smollm3": {}, "stablelm": {}, "starcoder": UNGROUPED,
    "starcoder2": {}, "xverse": {},
}  # fmt: skip
BYTE_LEVEL = ("qwen", "qwen2", "qwen3", "qwen3moe", "qwen35", "gpt-oss", "gpt2", "starcoder2", "apertus")


@dataclass(frozen=True)
class Shape:
    """A tensor, as libllama asks for it."""

    name: str
    sides: tuple[int, ...]  # ggml's order: the row length first


def write_architecture(path: Path, architecture: str, changes: dict[str, Any] | None = None) -> Path:
    """Write a whole tiny model, with other values for some of its keys."""
    write_metadata(path, architecture, changes)
    _write(path, architecture, keys_of(architecture) | (changes or {}), tensors_of(path))
    return path


def write_metadata(path: Path, architecture: str, changes: dict[str, Any] | None = None) -> Path:
    """Write a model's metadata without its tensors; a change to None leaves the key out."""
    keys = keys_of(architecture) | (changes or {})
    _write(path, architecture, {key: value for key, value in keys.items() if value is not None}, [])
    return path


def keys_of(architecture: str) -> dict[str, Any]:
    return {
        "context_length": CONTEXT, "embedding_length": HIDDEN, "block_count": 2, "feed_forward_length": FEED_FORWARD,
        "attention.head_count": HEADS, "attention.head_count_kv": HEADS_KV, "attention.layer_norm_epsilon": 1e-5,
        "attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 1e4,
    } | OWN[architecture]  # fmt: skip


def tensors_of(path: Path) -> list[Shape]:
    """Let libllama make a model from a file that has only metadata, and note what it fills."""
    bindings = native.library()
    handle, pointer = bindings._lib, ctypes.c_void_p

    class Parameters(ctypes.Structure):
        _fields_ = (("no_alloc", ctypes.c_bool), ("context", pointer))

    handle.gguf_init_from_file.restype, handle.gguf_init_from_file.argtypes = pointer, [ctypes.c_char_p, Parameters]
    handle.ggml_get_name.restype, handle.ggml_get_name.argtypes = ctypes.c_char_p, [pointer]
    found: dict[str, Shape] = {}  # a tensor that every layer shares comes once for each

    def on_tensor(tensor: int, _data: Any) -> None:
        sides = list((ctypes.c_int64 * 4).from_address(tensor + 16))  # after its type and its buffer
        while len(sides) > 1 and sides[-1] == 1:
            sides.pop()
        name = handle.ggml_get_name(tensor).decode()
        found[name] = Shape(name, tuple(sides))

    callback = ctypes.CFUNCTYPE(None, pointer, pointer)(on_tensor)
    parameters = bindings.llama_model_default_params()
    create: Callable[..., Any] = handle.llama_model_init_from_user
    create.restype, create.argtypes = pointer, [pointer, pointer, pointer, type(parameters)]  # type: ignore[attr-defined]
    metadata = handle.gguf_init_from_file(str(path).encode(), Parameters(True, None))
    with native.reasons() as why:
        model = create(metadata, ctypes.cast(callback, pointer), None, parameters)
        assert model, why()
    bindings.llama_model_free(model)
    handle.gguf_free.argtypes = [pointer]
    handle.gguf_free(metadata)
    return list(found.values())


def _write(path: Path, architecture: str, keys: dict[str, Any], tensors: list[Shape]) -> None:
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in keys.items():
        _add(writer, key if key.startswith("xielu.") else f"{architecture}.{key}", value)
    _add_vocabulary(writer, architecture)
    draw = np.random.default_rng(0)
    for tensor in tensors:
        values = draw.standard_normal(tensor.sides[::-1], np.float32) / 8
        writer.add_tensor(tensor.name, values + 1 if len(tensor.sides) == 1 else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_uint32(key, value)


def _add_vocabulary(writer: gguf.GGUFWriter, architecture: str) -> None:
    """Add a SentencePiece vocabulary, or one of byte-level BPE."""
    normal, control = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
    if architecture in BYTE_LEVEL:
        letters = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]
        pieces = ["<|endoftext|>", "<|im_end|>", *letters, "ab", "Ġa", "ão"]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("qwen2" if architecture.startswith("qwen") else "gpt-2")
        writer.add_token_merges(["a b", "Ġ a", "Ã £"])
        writer.add_token_types([control] * 2 + [normal] * (len(pieces) - 2))
    else:
        pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "ab", "▁a", "ã"]
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores([-float(index) for index in range(len(pieces))])
        writer.add_token_types([gguf.TokenType.UNKNOWN, control, control] + [gguf.TokenType.BYTE] * 256 + [normal] * 6)
        writer.add_unk_token_id(0)
    writer.add_token_list(pieces)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(1 if architecture in BYTE_LEVEL else 2)
    writer.add_add_bos_token(True)
