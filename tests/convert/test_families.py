"""The table of families: names, numbers, and the order of rows RoPE wants."""

import contextlib
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amalia_convert.checkpoint import Checkpoint, open_checkpoint
from amalia_convert.families import MappedTensor, describe, find_family, map_tensors, read_shape, rope_order
from amalia_convert.metadata import pack
from amalia_edge.errors import AmaliaError, CheckpointIncomplete, ModelUnsupported, TensorUnmapped
from checkpoints import CHECKPOINTS, Tiny, config, weights, write_checkpoint, write_json, write_safetensors

ROPE_KEYS = ["rope_type", "type", "factor", "rope_theta", "original_max_position_embeddings", "low_freq_factor",
             "high_freq_factor", "beta_fast", "attention_factor", "partial_rotary_factor"]  # fmt: skip
TINY = Tiny(layers=2, feed_forward=64, hidden=64, heads=2, head_dim=32)


def change(folder: Path, **entries: object) -> None:
    table = config(TINY) | entries
    write_json(folder / "config.json", {key: value for key, value in table.items() if value is not ...})


def mapped(checkpoint: Checkpoint) -> list[MappedTensor]:
    return map_tensors(checkpoint, find_family(checkpoint), read_shape(checkpoint))


def mapped_names(folder: Path) -> list[str]:
    return [tensor.name for tensor in mapped(open_checkpoint(folder))]


def described(folder: Path) -> dict[str, object]:
    opened = open_checkpoint(folder)
    return {key: value.content for key, value in describe(opened, find_family(opened), read_shape(opened)).items()}


def write_family(folder: Path, name: str) -> Path:
    return write_checkpoint(folder / name, dataclasses.replace(CHECKPOINTS[name], layers=2))


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
        ("vocab_size", 2**40), ("num_attention_heads", True), ("num_attention_heads", 3), ("head_dim", 31), ("head_dim", 2**17),
        ("rms_norm_eps", 0), ("rms_norm_eps", float("nan")), ("rms_norm_eps", "1e-5"), ("rope_theta", -1),
        ("hidden_size", 64.0), ("hidden_size", 1e400), ("intermediate_size", None), ("max_position_embeddings", False),
        ("rope_theta", float("inf")), ("rms_norm_eps", 1e-40), ("num_key_value_heads", 0), ("num_key_value_heads", 3),
        ("hidden_act", "gelu"), ("partial_rotary_factor", 0.5), ("architectures", []), ("architectures", "Llama"),
        ("quantization_config", {"bits": 4}),
    ],
)  # fmt: skip
def test_a_number_that_cannot_be_is_refused(checkpoint: Path, key: str, value: object) -> None:
    change(checkpoint, **({"num_key_value_heads": 2} | {key: value}))
    with pytest.raises(AmaliaError) as caught:
        opened = open_checkpoint(checkpoint)
        find_family(opened), read_shape(opened)
    assert caught.value.exit_code in (3, 6)


def test_heads_without_a_length_must_share_the_hidden_state_evenly(checkpoint: Path) -> None:
    change(checkpoint, head_dim=..., num_attention_heads=3, num_key_value_heads=3)
    with pytest.raises(ModelUnsupported, match="hidden_size 64 is not whole heads, of which there are 3"):
        read_shape(open_checkpoint(checkpoint))


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


def test_a_promised_bias_that_is_missing_is_named(checkpoint: Path) -> None:
    change(checkpoint, attention_bias=True)
    with pytest.raises(CheckpointIncomplete, match=r"8 tensors are missing, the first: .*q_proj\.bias"):
        mapped_names(checkpoint)


def test_a_missing_output_is_an_error_unless_it_is_tied(checkpoint: Path) -> None:
    table = weights(TINY)
    del table["lm_head.weight"]
    write_safetensors(checkpoint / "model.safetensors", table)
    with pytest.raises(CheckpointIncomplete, match="lm_head"):
        mapped_names(checkpoint)
    change(checkpoint, tie_word_embeddings=True)
    assert "output.weight" not in mapped_names(checkpoint)


def test_an_output_beside_a_tied_embedding_is_kept(checkpoint: Path) -> None:
    change(checkpoint, tie_word_embeddings=True)
    assert "output.weight" in mapped_names(checkpoint)  # as llama.cpp does


def test_mistral_is_llama_to_gguf(tmp_path: Path) -> None:
    folder = write_family(tmp_path, "mistral")
    entries = described(folder)
    assert entries["llama.attention.head_count_kv"] == 2 and "llama.attention.sliding_window" not in entries
    paired = {tensor.name for tensor in mapped(open_checkpoint(folder)) if tensor.rope_rows}
    assert paired == {f"blk.{layer}.attn_{which}.weight" for layer in range(2) for which in "qk"}


def test_the_biases_of_queries_and_keys_change_places_with_their_rows(tmp_path: Path) -> None:
    opened = open_checkpoint(write_family(tmp_path, "llama3"))
    biases = {tensor.name: tensor.rope_rows for tensor in mapped(opened) if "0.attn" in tensor.name}
    assert [biases[f"blk.0.attn_{which}.bias"] for which in ("q", "k", "v", "output")] == [64, 64, 0, 0]


def test_only_llama_s_files_name_the_vocabulary_s_size_and_rope_s_dimensions(tmp_path: Path) -> None:
    keys = {name: {key.partition(".")[2] for key in described(write_family(tmp_path, name))} for name in CHECKPOINTS}
    assert keys["mistral"] - keys["qwen3"] == {"vocab_size", "rope.dimension_count"}
    assert keys["qwen3"] == keys["qwen2"] == keys["friendly"] - {"vocab_size", "rope.dimension_count"}


def test_qwen2_has_biases_and_keeps_its_rows(tmp_path: Path) -> None:
    folder = write_family(tmp_path, "qwen2")
    tensors = mapped(open_checkpoint(folder))
    assert {tensor.name for tensor in tensors if tensor.name.endswith(".bias")} == {
        f"blk.{layer}.attn_{which}.bias" for layer in range(2) for which in "qkv"
    }
    assert not any(tensor.rope_rows for tensor in tensors)


def test_qwen3_has_a_norm_for_queries_and_one_for_keys(tmp_path: Path) -> None:
    folder = write_family(tmp_path, "qwen3")
    names = mapped_names(folder)
    assert {"blk.1.attn_q_norm.weight", "blk.1.attn_k_norm.weight"} < set(names) and "output.weight" not in names
    assert described(folder)["qwen3.attention.key_length"] == 64


def test_llama_names_a_head_s_length_even_where_the_configuration_does_not(checkpoint: Path) -> None:
    change(checkpoint, head_dim=...)
    assert described(checkpoint)["llama.attention.value_length"] == 32


def test_qwen2_names_a_head_s_length_only_with_the_configuration(tmp_path: Path) -> None:
    folder = write_family(tmp_path, "qwen2")
    table = config(dataclasses.replace(CHECKPOINTS["qwen2"], layers=2))
    assert described(folder)["qwen2.attention.key_length"] == 64
    write_json(folder / "config.json", table | {"head_dim": None})
    assert not [key for key in described(folder) if "length" in key and "attention" in key]


def test_qwen3_s_heads_have_128_weights_where_nothing_says_how_many(tmp_path: Path) -> None:
    tiny = Tiny(layers=1, heads=3, heads_kv=1, head_dim=128, architecture="Qwen3ForCausalLM")
    folder = write_checkpoint(tmp_path / "odd", tiny)
    write_json(folder / "config.json", config(tiny) | {"head_dim": None})
    assert mapped_names(folder) and described(folder)["qwen3.attention.key_length"] == 128


def test_heads_of_another_length_do_not_fit_qwen2(tmp_path: Path) -> None:
    tiny = Tiny(layers=1, head_dim=32, vocabulary=464, architecture="Qwen2ForCausalLM")
    with pytest.raises(CheckpointIncomplete, match=r"q_proj\.weight is \[128, 256\], .* makes it \[256, 256\]"):
        mapped_names(write_checkpoint(tmp_path / "odd", tiny))


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_configuration_alone_foretells_every_tensor(tmp_path: Path, name: str) -> None:
    opened = open_checkpoint(write_family(tmp_path, name))
    imagined = mapped(Checkpoint(opened.folder, opened.config))
    assert [(one.name, one.shape, one.rope_rows, one.made) for one in imagined] == [
        (one.name, one.shape, one.rope_rows, one.made) for one in mapped(opened)
    ]


@pytest.mark.parametrize(
    ("entries", "dtype", "nbytes"),
    [({}, "BF16", 128), ({"torch_dtype": "float32"}, "F32", 256), ({"torch_dtype": ..., "dtype": "float16"}, "F16", 128)],
)  # fmt: skip
def test_imagined_tensors_have_the_configuration_s_precision(
    checkpoint: Path, entries: dict[str, object], dtype: str, nbytes: int
) -> None:
    change(checkpoint, **entries)
    opened = open_checkpoint(checkpoint)
    tensors = {tensor.name: tensor.stored for tensor in mapped(Checkpoint(opened.folder, opened.config))}
    norm = tensors["output_norm.weight"]
    assert norm is not None and (norm.dtype, norm.nbytes) == (dtype, nbytes)


NUMBERS = st.one_of(
    st.integers(), st.floats(), st.integers(0, 600), st.floats(0, 16), st.sampled_from([1e29, 2**31 - 1])
)
JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=4), st.sampled_from(["yarn", "llama3", "linear"])),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.sampled_from(ROPE_KEYS), inner)),
    max_leaves=8,
)


@settings(deadline=None, max_examples=300)
@given(data=st.data(), name=st.sampled_from(list(CHECKPOINTS)))
def test_no_configuration_makes_anything_but_our_errors(data: st.DataObject, name: str) -> None:
    table = config(dataclasses.replace(CHECKPOINTS[name], layers=1))
    keys = [*table, "rope_scaling", "rope_parameters", "partial_rotary_factor", "original_max_position_embeddings"]
    changed = table | data.draw(st.dictionaries(st.sampled_from(keys), JUNK, min_size=1, max_size=3))
    checkpoint = Checkpoint(Path("model"), changed)
    with contextlib.suppress(AmaliaError):
        pack(describe(checkpoint, find_family(checkpoint), read_shape(checkpoint)))
        assert all(math.isfinite(sum(np.frombuffer(tensor.made, "<f4"))) for tensor in mapped(checkpoint))
