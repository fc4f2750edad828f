"""RoPE's base and scaling, as GGUF has them."""

from pathlib import Path

import numpy as np
import pytest

from amalia_convert.checkpoint import Checkpoint, open_checkpoint
from amalia_convert.configuration import configuration
from amalia_convert.families import find_family, map_tensors, read_shape
from amalia_convert.rope import Rope, read_rope
from amalia_edge.errors import CheckpointIncomplete, ModelUnsupported
from checkpoints import CHECKPOINTS, SCALINGS, write_checkpoint

from .test_families import described, write_family

LLAMA31 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 8192}  # fmt: skip


def rope(head_dim: int = 64, **entries: object) -> Rope:
    return read_rope(configuration(Checkpoint(Path("model"), dict(entries))), head_dim)


def test_a_configuration_without_a_base_has_ten_thousand() -> None:
    assert rope() == Rope(10000.0) and rope(rope_scaling=None, rope_theta=None) == Rope(10000.0)


def test_newer_configurations_keep_the_base_with_the_scaling() -> None:
    assert rope(rope_parameters={"rope_type": "default", "rope_theta": 5e5}, rope_theta=1e4).base == 5e5


def test_linear_scaling_has_a_factor() -> None:
    keys = {key: value.content for key, value in rope(rope_scaling=SCALINGS["linear"]).keys.items()}
    assert keys == {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}


def test_yarn_s_keys_stand_before_the_base(tmp_path: Path) -> None:
    entries = described(write_family(tmp_path, "yarn"))
    assert list(entries)[6:11] == [
        "llama.rope.scaling.type", "llama.rope.scaling.factor", "llama.rope.scaling.original_context_length",
        "llama.rope.scaling.yarn_beta_fast", "llama.rope.freq_base",
    ]  # fmt: skip


def test_yarn_s_fine_tuning_is_kept_where_it_is_told() -> None:
    told = {"extrapolation_factor": 0.5, "attention_factor": 1.25, "beta_fast": 16, "beta_slow": 2, "attn_factor": 9}
    keys = rope(rope_scaling=SCALINGS["yarn"] | told).keys
    assert [keys[f"rope.scaling.yarn_{name}"].content for name in ("ext_factor", "attn_factor")] == [0.5, 1.25]
    assert [keys[f"rope.scaling.yarn_beta_{name}"].content for name in ("fast", "slow")] == [16, 2]


def test_a_null_attention_factor_means_none() -> None:
    keys = rope(rope_scaling=SCALINGS["yarn"] | {"attention_factor": None, "attn_factor": 9}).keys
    assert "rope.scaling.yarn_attn_factor" not in keys


def test_the_original_context_may_stand_outside_the_scaling() -> None:
    scaling = {"type": "yarn", "factor": 2.0}
    keys = rope(rope_scaling=scaling, original_max_position_embeddings=4096).keys
    assert keys["rope.scaling.original_context_length"].content == 4096


def test_llama3_leaves_fast_pairs_divides_slow_ones_and_passes_smoothly() -> None:
    found = np.frombuffer(rope(128, rope_scaling=LLAMA31, rope_theta=5e5).factors, "<f4").tolist()
    waves = [2 * np.pi * 5e5 ** (2 * pair / 128) for pair in range(64)]
    assert {factor for factor, wave in zip(found, waves, strict=True) if wave < 2048} == {1.0}
    assert {factor for factor, wave in zip(found, waves, strict=True) if wave > 8192} == {8.0}
    smooth = [(8192 / wave - 1) / 3 for wave in waves if 2048 <= wave <= 8192]
    between = [factor for factor in found if 1 < factor < 8]
    assert between == pytest.approx([1 / ((1 - share) / 8 + share) for share in smooth], rel=1e-6)


# The bits are llama.cpp's converter's: against_llama_cpp.py compares such tensors whole.
@pytest.mark.parametrize(
    ("head_dim", "base", "scaling", "bits"),
    [
        (128, 5e5, LLAMA31, [1067093717, 1069995594, 1073852189, 1076654894, 1080806094, 1084767238]),
        (64, 1e6, SCALINGS["llama3"], [1066390554, 1073112697, 1080391724]),
    ],
    ids=["Llama 3.1 8B", "tiny"],
)
def test_factors_are_llama_cpp_s_to_the_bit(
    head_dim: int, base: float, scaling: dict[str, object], bits: list[int]
) -> None:
    found = np.frombuffer(rope(head_dim, rope_scaling=scaling, rope_theta=base).factors, "<f4")
    assert found[(found > 1) & (found < 8)].view("<u4").tolist() == bits


def test_factors_become_a_tensor_that_stands_among_those_outside_the_layers(tmp_path: Path) -> None:
    opened = open_checkpoint(write_family(tmp_path, "llama3"))
    tensors = map_tensors(opened, find_family(opened), read_shape(opened))
    assert [tensor.name for tensor in tensors[:4]] == [
        "output.weight", "output_norm.weight", "rope_freqs.weight", "token_embd.weight",
    ]  # fmt: skip
    assert tensors[2].stored is None and tensors[2].shape == (32,) and len(tensors[2].made) == 128


def test_factors_have_no_place_in_qwen(tmp_path: Path) -> None:
    opened = open_checkpoint(write_checkpoint(tmp_path / "odd", CHECKPOINTS["qwen2"]))
    opened.config["rope_scaling"] = SCALINGS["llama3"]
    with pytest.raises(ModelUnsupported, match="a qwen2 GGUF has no place for llama3's RoPE factors"):
        map_tensors(opened, find_family(opened), read_shape(opened))


@pytest.mark.parametrize("kind", ["dynamic", "longrope", "su", "mrope", "Yarn", 3, ["yarn"]])
def test_another_scaling_is_refused_by_name(kind: object) -> None:
    with pytest.raises(ModelUnsupported) as caught:
        rope(rope_scaling={"rope_type": kind, "factor": 2.0})
    assert str(kind) in caught.value.found and caught.value.advice == "known: default, linear, yarn, llama3"


@pytest.mark.parametrize(
    ("scaling", "missing"),
    [
        ({"type": "linear"}, "factor"), ({"type": "yarn", "original_max_position_embeddings": 64}, "factor"),
        ({"type": "yarn", "factor": 4.0}, "original_max_position_embeddings"),
        *((LLAMA31 | {key: None}, key) for key in LLAMA31 if key != "rope_type"),
    ],
)  # fmt: skip
def test_a_number_that_scaling_needs_is_named(scaling: dict[str, object], missing: str) -> None:
    with pytest.raises(CheckpointIncomplete, match=f"rope_scaling: has no {missing};"):
        rope(rope_scaling=scaling)


@pytest.mark.parametrize(
    "scaling",
    [
        {"type": "linear", "factor": 0}, {"type": "linear", "factor": float("nan")}, {"type": "linear", "factor": True},
        {"type": "linear", "factor": "2"}, {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64.5},
        SCALINGS["yarn"] | {"beta_fast": -1}, LLAMA31 | {"low_freq_factor": 4.0}, LLAMA31 | {"factor": -8},
        {"rope_theta": 0}, {"partial_rotary_factor": 0.25}, {"full_attention": {"rope_type": "default"}}, [1], "yarn",
    ],
    ids=str,
)  # fmt: skip
def test_a_scaling_that_cannot_be_is_refused(scaling: object) -> None:
    with pytest.raises(ModelUnsupported, match="rope_scaling"):
        rope(rope_scaling=scaling)
