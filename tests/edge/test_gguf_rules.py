"""Each rule for a model's metadata is a file that made libllama abort, hang or read beyond its arrays."""

import math
import os
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from amalia_edge.errors import ModelCorrupt, ModelUnsupported
from amalia_edge.gguf import read_header
from amalia_edge.gguf_keys import ARCHITECTURES
from models import tiny_model

from .architectures import OWN, write_metadata

EPSILON = "attention.layer_norm_rms_epsilon"
# what is told → the architecture, and what its metadata says otherwise
NUMBERS: dict[str, tuple[str, dict[str, Any]]] = {
    "rms_epsilon: nan": ("llama", {EPSILON: math.nan}),
    "rms_epsilon: 0.0, wanted": ("llama", {EPSILON: 0.0}),
    "rms_epsilon: 1.0, wanted": ("llama", {EPSILON: 1.0}),
    "rope.freq_base: inf": ("llama", {"rope.freq_base": math.inf}),
    "rope.freq_base: -1": ("llama", {"rope.freq_base": -1.0}),
    "rope.scaling.factor: nan": ("llama", {"rope.scaling.factor": math.nan}),
    "llama.of_a_maker: nan": ("llama", {"of_a_maker": math.nan}),
    "xielu.alpha_p|xielu.*nan": ("apertus", {"xielu.alpha_p": math.nan}),
    "block_count: 0": ("llama", {"block_count": 0}),
    "block_count: 600": ("llama", {"block_count": 600}),
    "context_length: 0": ("llama", {"context_length": 0}),
    "embedding_length: 4294967295": ("llama", {"embedding_length": 0xFFFFFFFF}),
    "feed_forward_length: 1073741824": ("llama", {"feed_forward_length": [96, 1 << 30]}),
    "embedding_length is of kind string|embedding_length: is of kind string": ("llama", {"embedding_length": "x"}),
    "causal: is of kind uint32, wanted bool": ("llama", {"attention.causal": 1}),
    "rope.freq_base: is of kind uint32, wanted float32": ("llama", {"rope.freq_base": 1}),
    r"head_count: \[3, 4\], wanted one count": ("llama", {"attention.head_count": [3, 4]}),
    r"head_count_kv: \[0\], wanted one": ("llama", {"attention.head_count_kv": 0}),
    "4 heads in 3 groups": ("llama", {"attention.head_count_kv": 3}),
    "1 heads in 2 groups": ("lfm2", {"attention.head_count": 1}),
    "not a multiple of 6 heads": ("llama", {"attention.head_count": 6}),
    "16 for keys, 8 for values": ("llama", {"attention.value_length": 8}),
    "key_length: 0 for keys": ("llama", {"attention.head_count": None, "attention.head_count_kv": None}),
    "key_length_swa: 4 for keys, 16 for values": ("cohere2", {"attention.key_length_swa": 4}),
    "8 of 16 rotated": ("llama", {"rope.dimension_count": 8}),
    "15 of 16 rotated": ("phi3", {"rope.dimension_count": 15}),
    "rope.dimension_count: 0 of 16 rotated": ("glm4", {"rope.dimension_count": 0}),  # libllama hangs
    "48 of 16 rotated": ("gemma4", {"rope.dimension_count_swa": 48}),
    r"sections: \[0, 0, 0, 0\]": ("qwen35", {"rope.dimension_sections": [0, 0, 0, 0]}),
    r"sections: \[8, 8, 0, 0\] for 16": ("qwen35", {"rope.dimension_sections": [8, 8, 0, 0]}),
    "2 of 0 experts used": ("qwen3moe", {"expert_count": 0}),
    "0 of 4 experts used": ("glm4moe", {"expert_used_count": [0, 0]}),
    r"expert_used_count: \[1, 4\], wanted one count": ("olmoe", {"expert_used_count": [1, 4]}),
    "8 groups of 4 experts": ("qwen3moe", {"expert_group_count": 8}),
    "3 groups of 4 experts used": ("qwen3moe", {"expert_group_count": 3, "expert_group_used_count": 1}),
    "expert_gating_func: no kind": ("qwen3moe", {"expert_gating_func": 7}),
    "nextn_predict_layers: 2 of 2": ("llama", {"nextn_predict_layers": 2}),
    "0 for 4 heads of 32": ("qwen35", {"ssm.inner_size": 0}),
    "128 for 3 heads": ("qwen3next", {"ssm.time_step_rank": 3}),
    "full_attention_interval: wanted layers of both": ("qwen35", {"full_attention_interval": 1}),
    "interval: wanted layers of both kinds": ("qwen35", {"full_attention_interval": None}),  # of two layers no fourth
    "head_count_kv: wanted layers of both": ("lfm2", {"attention.head_count_kv": 2}),
    "kv: wanted layers of both kinds": ("lfm2", {"shortconv.l_cache": 1}),
    "wanted as many as heads": ("olmoe", {"attention.head_count_kv": 2}),
    "no layer has a window": ("gemma3", {"attention.sliding_window_pattern": [False] * 6}),
    "pattern: no layer has a window": ("gemma3", {"attention.sliding_window_pattern": 1}),
    "share from number 4 on": ("gemma4", {"attention.shared_kv_layers": 1}),
    "share from number 1 on": ("gemma4", {"block_count": 1}),
    "share from number 20 on": ("gemma3n", {"attention.sliding_window_pattern": [True] * 22}),
}


@pytest.mark.parametrize("found", NUMBERS)
def test_numbers_that_crash_libllama_are_refused(found: str, tmp_path: Path) -> None:
    architecture, changes = NUMBERS[found]
    with pytest.raises(ModelCorrupt, match=found):
        read_header(write_metadata(tmp_path / "a.gguf", architecture, changes))


def test_every_architecture_that_is_run_has_a_model_to_be_mutated() -> None:
    assert set(OWN) == ARCHITECTURES


@pytest.mark.parametrize("architecture", sorted(OWN))
def test_sound_metadata_passes(architecture: str, tmp_path: Path) -> None:
    assert read_header(write_metadata(tmp_path / "a.gguf", architecture)).architecture == architecture


SOUND: dict[str, tuple[str, dict[str, Any]]] = {
    "a key of the maker's own": ("llama", {"of_a_maker": "x", "of_another": [1.5, math.inf]}),
    "a part of each head rotated": ("phi3", {"rope.dimension_count": 8}),
    "heads that differ from layer to layer": (
        "openelm", {"attention.head_count": [2, 4], "attention.head_count_kv": [1, 2], "attention.key_length": 16,
                    "attention.value_length": 16, "feed_forward_length": [64, 96]},
    ),
    "heads longer together than the hidden state": ("llama", {"attention.key_length": 32, "attention.value_length": 32}),
    "one count of feed-forward for each layer": ("llama", {"feed_forward_length": [96, 96]}),
}  # fmt: skip


@pytest.mark.parametrize("what", SOUND)
def test_what_makers_do_is_let_through(what: str, tmp_path: Path) -> None:
    read_header(write_metadata(tmp_path / "a.gguf", *SOUND[what]))


@pytest.mark.parametrize("name", ["v.blk.0.attn_q.weight", "mm.input_projection.weight"])
def test_an_image_encoder_in_the_same_file_is_said_to_be_one(name: str, tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "gemma3")
    writer.add_tensor(name, np.zeros((4, 4), np.float32))
    close(writer)
    with pytest.raises(ModelUnsupported, match=r"its image encoder in the same file, as Ollama .*take the Hub's GGUF"):
        read_header(tmp_path / "a.gguf")


def test_another_architecture_is_refused_with_what_can_be_run(tmp_path: Path) -> None:
    gguf_writer = gguf.GGUFWriter(tmp_path / "a.gguf", "bert")
    close(gguf_writer)
    with pytest.raises(ModelUnsupported, match=r"'bert'.*llama"):
        read_header(tmp_path / "a.gguf")


def close(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [
        ("blk.0.attn_norm.weight", "F16", "F32"),
        ("blk.0.attn_q.bias", "F16", "F32"),
        ("output.weight", "I32", "weights"),
    ],
)
def test_a_tensor_of_a_type_no_kernel_takes_is_refused(name: str, kind: str, told: str, tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    shape = (4, 4) if kind == "I32" else (4,)
    writer.add_tensor(name, np.zeros(shape, {"F16": np.float16, "I32": np.int32}[kind]))
    close(writer)
    with pytest.raises(ModelCorrupt, match=f"{name}: of type {kind}, wanted {told}"):
        read_header(tmp_path / "a.gguf")


@pytest.mark.parametrize(("name", "sides"), [
    ("output_norm.weight", (256, 1)), ("rope_freqs.weight", (8, 1)), ("blk.0.attn_q_norm.weight", (16, 4)),
    ("blk.0.shortconv.conv.weight", (3, 64)), ("blk.0.ssm_conv1d.weight", (4, 256)),
])  # fmt: skip
def test_a_tensor_that_libllama_reads_as_floats_is_held_to_them_whatever_its_rank(
    name: str, sides: tuple[int, ...], tmp_path: Path
) -> None:
    for kind in (np.float32, np.float16):
        writer = gguf.GGUFWriter(tmp_path / f"{kind.__name__}.gguf", "llama")
        writer.add_tensor(name, np.zeros(sides[::-1], kind))
        close(writer)
    assert read_header(tmp_path / "float32.gguf").tensors
    with pytest.raises(ModelCorrupt, match=f"{name}: of type F16, wanted F32"):
        read_header(tmp_path / "float16.gguf")


@pytest.mark.parametrize(("key", "kind", "many"), [
    ("llama.attention.head_count", 5, 1_000_000), ("llama.attention.layer_norm_rms_epsilon", 6, 1_000_000),
])  # fmt: skip
def test_an_array_of_more_than_a_number_for_each_layer_is_not_read(
    key: str, kind: int, many: int, tmp_path: Path
) -> None:
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + text("general.architecture") + struct.pack("<I", 8) + text("llama")
    path = tmp_path / "a.gguf"
    path.write_bytes(head + text(key) + struct.pack("<IIQ", 9, kind, many))
    os.truncate(path, path.stat().st_size + 4 * many)  # a sparse file: it takes no room
    with pytest.raises(ModelCorrupt, match="1000000 values, wanted at most 512"):
        read_header(path)


def replaced(path: Path, old: bytes, new: bytes) -> Path:
    """Put other bytes of the same length in the place of the first that are like the old."""
    content = path.read_bytes()
    assert old in content and len(old) == len(new)
    path.write_bytes(content.replace(old, new, 1))
    return path


def text(word: str) -> bytes:
    return struct.pack("<Q", len(word)) + word.encode()


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "mine.gguf")


TEXTS = {
    "2 texts stand more than once|1 texts stand more than once": (text("<0x41>"), text("<0x42>")),
    "a byte token spelt b'<0x4>x'": (text("<0x41>"), text("<0x4>x")),
    "eos_token_id: 4294967295, and the tokens": (
        text("tokenizer.ggml.eos_token_id") + struct.pack("<II", 4, 4), text("tokenizer.ggml.eos_token_id") + struct.pack("<Ii", 4, -1)
    ),
    "bos_token_id: is of kind int32, wanted uint32": (
        text("tokenizer.ggml.bos_token_id") + struct.pack("<II", 4, 1), text("tokenizer.ggml.bos_token_id") + struct.pack("<II", 5, 1)
    ),
}  # fmt: skip


@pytest.mark.parametrize("found", TEXTS)
def test_a_vocabulary_that_crashes_libllama_is_refused(found: str, mine: Path) -> None:
    with pytest.raises(ModelCorrupt, match=found):
        read_header(replaced(mine, *TEXTS[found]))


def vocabulary(path: Path, *, pieces: list[str], scores: list[float], types: list[int], model: str = "llama") -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(model)
    writer.add_token_list(pieces)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    close(writer)
    return path


BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
VOCABULARIES: dict[str, dict[str, Any]] = {
    "1 of 256 byte tokens are missing, the first: <0x0A>": {
        "pieces": [piece for piece in BYTES if piece != "<0x0A>"], "scores": [0.0] * 255, "types": [6] * 255,
    },
    "scores: 255 for 256 tokens": {"pieces": BYTES, "scores": [0.0] * 255, "types": [6] * 256},
    "token_type: 257 for 256 tokens": {"pieces": BYTES, "scores": [0.0] * 256, "types": [6] * 257},
    "a score that is infinite": {"pieces": BYTES, "scores": [math.inf, -math.inf] * 128, "types": [6] * 256},
    "token_type: 9, wanted 0 to 6": {"pieces": BYTES, "scores": [0.0] * 256, "types": [6] * 255 + [9]},
    "token.*: 1 texts stand more than once": {  # libllama stops at a NUL
        "pieces": [*BYTES, "a", "a\0b"], "scores": [0.0] * 258, "types": [6] * 256 + [1, 1],
    },
    "1 texts stand more than once": {
        "pieces": ["", *BYTES, "[EMPTY_0]"], "scores": [0.0] * 258, "types": [1] + [6] * 256 + [1],
    },
}  # fmt: skip


@pytest.mark.parametrize("found", VOCABULARIES)
def test_each_way_a_vocabulary_can_be_wrong_has_its_own_words(found: str, tmp_path: Path) -> None:
    with pytest.raises(ModelCorrupt, match=found):
        read_header(vocabulary(tmp_path / "a.gguf", **VOCABULARIES[found]))


def test_a_padding_token_beyond_the_vocabulary_is_let_through(mine: Path) -> None:
    name = text("tokenizer.ggml.padding_token_id")
    header = read_header(replaced(mine, name + struct.pack("<II", 4, 2), name + struct.pack("<II", 4, 32_000)))
    assert header.metadata["tokenizer.ggml.padding_token_id"] == 32_000
