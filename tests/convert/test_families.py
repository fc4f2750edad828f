"""The table of families: names, numbers, and the order of rows RoPE wants."""

from pathlib import Path

import numpy as np
import pytest

from amalia_convert.checkpoint import open_checkpoint
from amalia_convert.families import describe, find_family, map_tensors, read_shape, rope_order
from amalia_edge.errors import AmaliaError, CheckpointIncomplete, ModelUnsupported, TensorUnmapped
from checkpoints import Tiny, config, weights, write_json, write_safetensors

TINY = Tiny(layers=2, feed_forward=64, hidden=64, heads=2, head_dim=32)


def change(folder: Path, **entries: object) -> None:
    table = config(TINY) | entries
    write_json(folder / "config.json", {key: value for key, value in table.items() if value is not ...})


def mapped_names(folder: Path) -> list[str]:
    opened = open_checkpoint(folder)
    return [tensor.name for tensor in map_tensors(opened, find_family(opened), read_shape(opened))]


def test_a_head_s_halves_become_pairs() -> None:
    assert rope_order(12, 6).tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]


def test_tensors_come_in_llama_quantize_s_order(checkpoint: Path) -> None:
    names = mapped_names(checkpoint)
    assert names[:5] == [
        "output.weight", "output_norm.weight", "token_embd.weight", "blk.0.attn_k.weight", "blk.0.attn_norm.weight",
    ]  # fmt: skip
    assert len(names) == 3 + 2 * 9


def test_an_unknown_architecture_is_named_with_the_known_ones(checkpoint: Path) -> None:
    change(checkpoint, architectures=["GPTBigCodeForCausalLM"])
    with pytest.raises(ModelUnsupported, match=r"GPTBigCodeForCausalLM.*known: LlamaForCausalLM") as caught:
        find_family(open_checkpoint(checkpoint))
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    "key", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "rms_norm_eps"]
)
def test_a_key_that_is_missing_is_named(checkpoint: Path, key: str) -> None:
    change(checkpoint, **{key: ...})
    with pytest.raises(CheckpointIncomplete, match=key):
        read_shape(open_checkpoint(checkpoint))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 0), ("num_hidden_layers", 513), ("hidden_size", -64), ("hidden_size", "64"),
        ("vocab_size", 2**40), ("num_attention_heads", True), ("num_attention_heads", 3), ("head_dim", 31),
        ("rms_norm_eps", 0), ("rms_norm_eps", float("nan")), ("rms_norm_eps", "1e-5"), ("rope_theta", -1),
        ("rope_parameters", {"rope_type": "yarn", "factor": 4}), ("rope_scaling", {"type": "linear", "factor": 2}),
        ("rope_scaling", [1]), ("architectures", []), ("architectures", "Llama"), ("quantization_config", {"bits": 4}),
    ],
)  # fmt: skip
def test_a_number_that_cannot_be_is_refused(checkpoint: Path, key: str, value: object) -> None:
    change(checkpoint, num_key_value_heads=2, **{key: value})
    with pytest.raises(AmaliaError) as caught:
        opened = open_checkpoint(checkpoint)
        find_family(opened), read_shape(opened)
    assert caught.value.exit_code in (3, 6)


def test_rope_theta_is_found_where_newer_configurations_keep_it(checkpoint: Path) -> None:
    change(checkpoint, rope_theta=..., rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    opened = open_checkpoint(checkpoint)
    entries = describe(opened, find_family(opened), read_shape(opened))
    assert entries["llama.rope.freq_base"].content == 5e5


def test_a_shape_that_contradicts_the_configuration_is_named(checkpoint: Path) -> None:
    change(checkpoint, intermediate_size=96)
    with pytest.raises(CheckpointIncomplete, match=r"mlp\.\w+_proj\.weight is \[\d+, \d+\]"):
        mapped_names(checkpoint)


def test_a_missing_tensor_is_named(checkpoint: Path) -> None:
    table = weights(TINY)
    del table["model.layers.1.self_attn.k_proj.weight"]
    write_safetensors(checkpoint / "model.safetensors", table)
    with pytest.raises(CheckpointIncomplete, match=r"layers\.1\.self_attn\.k_proj"):
        mapped_names(checkpoint)


def test_a_tensor_without_a_place_is_named(checkpoint: Path) -> None:
    extra = {"model.layers.0.self_attn.q_norm.weight": np.ones(32, np.float32)}
    write_safetensors(checkpoint / "model.safetensors", weights(TINY) | extra)
    with pytest.raises(TensorUnmapped, match="q_norm"):
        mapped_names(checkpoint)


def test_computed_tables_are_left_out(checkpoint: Path) -> None:
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(16, np.float32)}
    write_safetensors(checkpoint / "model.safetensors", weights(TINY) | extra)
    assert len(mapped_names(checkpoint)) == 3 + 2 * 9


def test_biases_follow_their_weights(checkpoint: Path) -> None:
    extra = {"model.layers.0.self_attn.q_proj.bias": np.ones(64, np.float32)}
    write_safetensors(checkpoint / "model.safetensors", weights(TINY) | extra)
    assert "blk.0.attn_q.bias" in mapped_names(checkpoint)


def test_a_missing_output_is_an_error_unless_it_is_tied(checkpoint: Path) -> None:
    table = weights(TINY)
    del table["lm_head.weight"]
    write_safetensors(checkpoint / "model.safetensors", table)
    with pytest.raises(CheckpointIncomplete, match="lm_head"):
        mapped_names(checkpoint)
    change(checkpoint, tie_word_embeddings=True)
    assert "output.weight" not in mapped_names(checkpoint)
