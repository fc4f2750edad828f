"""A LoRA adapter adds what its matrices say, and one that libllama would abort on never reaches it."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from amalia_edge.adapter import Adapter, apply_adapters, load_adapters
from amalia_edge.context import Context
from amalia_edge.errors import ModelError, UsageError
from amalia_edge.gguf import read_header
from amalia_edge.model import LoadConfig, Model
from models import FEED_FORWARD, HIDDEN, VOCABULARY, tiny_model

CONFIG = LoadConfig(context=64, threads=1, micro_batch=16, cache_keys="f32", cache_values="f32", flash_attention="off")
RANK, ALPHA = 4, 6.0
IDS = [1, 261, 262, 263, 264, 265]
Pairs = dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]


def matrix(rows: int, columns: int, seed: int = 0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal((rows, columns)) * 0.2).astype(np.float32)


PAIRS: Pairs = {
    "blk.0.attn_q.weight": (matrix(RANK, HIDDEN, 1), matrix(HIDDEN, RANK, 2)),
    "blk.1.ffn_down.weight": (matrix(RANK, FEED_FORWARD, 3), matrix(HIDDEN, RANK, 4)),
    "output.weight": (matrix(RANK, HIDDEN, 5), matrix(VOCABULARY, RANK, 6)),
}
LOOKED_UP: Pairs = {"token_embd.weight": (matrix(VOCABULARY, RANK, 7), matrix(HIDDEN, RANK, 8))}


def write_adapter(path: Path, pairs: Pairs, *, architecture: str = "llama", only: str = "ab", **keys: Any) -> Path:
    """Write an adapter as llama.cpp's converter does; `keys` are added, `__` standing for a dot."""
    writer = gguf.GGUFWriter(path, architecture)
    keys = {"general__type": "adapter", "adapter__type": "lora", "adapter__lora__alpha": ALPHA, **keys}
    for key, value in keys.items():
        name = key.replace("__", ".")
        if isinstance(value, str):
            writer.add_string(name, value)
        elif isinstance(value, list):
            writer.add_array(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif value is not None:
            writer.add_float32(name, value)
    for target, (first, second) in pairs.items():
        for letter, values in (("a", first), ("b", second)):
            if letter in only:
                writer.add_tensor(f"{target}.lora_{letter}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def merge(model: Path, target: str, delta: NDArray[np.float32]) -> None:
    """Add to a weight of an F32 model, in its file."""
    tensor = next(one for one in read_header(model).tensors if one.name == target)
    weights = np.memmap(model, np.float32, "r+", tensor.offset, tensor.shape[::-1])
    weights += delta
    weights.flush()


def logits(path: Path, *adapters: Adapter) -> NDArray[np.float32]:
    with Model.open(path, CONFIG) as model:
        pointers = load_adapters(model.pointer, model.header, adapters)
        context = Context(model.pointer, CONFIG.context or 0, 1, CONFIG)
        try:
            apply_adapters(context.pointer, pointers, adapters)
            context.decode(IDS, 0)
            return context.row(len(IDS) - 1, model.vocabulary.size).copy()
        finally:
            context.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("whole") / "whole.gguf", kind="F32")


@pytest.fixture(scope="module")
def model(whole: Path) -> Iterator[Model]:
    with Model.open(whole, CONFIG) as opened:
        yield opened


def refusal(path: Path, model: Model) -> str:
    with pytest.raises(ModelError) as caught:
        load_adapters(model.pointer, model.header, [Adapter(path)])
    return str(caught.value)


def test_an_adapter_is_what_merging_it_would_be(whole: Path, tmp_path: Path) -> None:
    adapter = Adapter(write_adapter(tmp_path / "lora.gguf", PAIRS | LOOKED_UP), 0.75)
    merged = tmp_path / "merged.gguf"
    merged.write_bytes(whole.read_bytes())
    for target, (first, second) in PAIRS.items():
        merge(merged, target, np.float32(0.75 * ALPHA / RANK) * second @ first)
    for target, (first, second) in LOOKED_UP.items():
        merge(merged, target, np.float32(0.75 * ALPHA / RANK) * first @ second.T)
    plain, adapted, wanted = logits(whole), logits(whole, adapter), logits(merged)
    assert np.abs(adapted - wanted).max() < 1e-3
    assert np.abs(adapted - plain).max() > 0.1


def test_scales_of_two_adapters_add_up(whole: Path, tmp_path: Path) -> None:
    one = write_adapter(tmp_path / "one.gguf", PAIRS)
    twice = logits(whole, Adapter(one, 0.5), Adapter(one, 0.25))
    assert np.abs(twice - logits(whole, Adapter(one, 0.75))).max() < 1e-3


def test_a_scale_of_zero_changes_nothing(whole: Path, tmp_path: Path) -> None:
    adapter = Adapter(write_adapter(tmp_path / "lora.gguf", PAIRS), 0)
    assert np.array_equal(logits(whole, adapter), logits(whole))


def test_an_adapter_without_alpha_is_taken_as_it_is(whole: Path, tmp_path: Path) -> None:
    bare = write_adapter(tmp_path / "bare.gguf", PAIRS, adapter__lora__alpha=None)
    even = write_adapter(tmp_path / "even.gguf", PAIRS, adapter__lora__alpha=float(RANK))
    assert np.abs(logits(whole, Adapter(bare)) - logits(whole, Adapter(even))).max() < 1e-3


@pytest.mark.parametrize(("keys", "found"), [
    ({"architecture": "qwen2"}, "'qwen2'"),
    ({"general__type": "model"}, "LoRA"),
    ({"general__type": None}, "LoRA"),
    ({"adapter__type": "control_vector"}, "LoRA"),
    ({"general__type": 3}, "LoRA"),  # a number, at which libllama aborts
    ({"adapter__type": 3}, "LoRA"),
    ({"adapter__lora__alpha": 3}, "alpha"),
    ({"adapter__lora__alpha": math.nan}, "alpha"),
    ({"adapter__alora__invocation_tokens": [1, 2]}, "parts of a text"),
    ({"only": "a"}, "of the two"),
    ({"only": "b"}, "of the two"),
    ({"only": ""}, "none"),
])  # fmt: skip
def test_what_is_no_lora_adapter_of_this_model_is_refused(
    model: Model, tmp_path: Path, keys: dict[str, Any], found: str
) -> None:
    assert found in refusal(write_adapter(tmp_path / "lora.gguf", PAIRS, **keys), model)


@pytest.mark.parametrize(("target", "first", "second"), [
    ("blk.0.attn_q.weight", (RANK, HIDDEN + 1), (HIDDEN, RANK)),
    ("blk.0.attn_q.weight", (RANK, HIDDEN), (HIDDEN + 1, RANK)),
    ("blk.0.attn_q.weight", (RANK, HIDDEN), (HIDDEN, RANK + 1)),
    ("blk.0.attn_q.weight", (HIDDEN, RANK), (RANK, HIDDEN)),  # as an early tool of llama.cpp's wrote them
    ("blk.0.attn_norm.weight", (RANK, HIDDEN), (1, RANK)),
    ("blk.9.attn_q.weight", (RANK, HIDDEN), (HIDDEN, RANK)),
    ("token_embd.weight", (VOCABULARY, RANK), (HIDDEN, RANK + 1)),  # libllama looks at these two apart, and aborts
    ("token_embd.weight", (RANK, HIDDEN), (VOCABULARY, RANK)),
])  # fmt: skip
def test_matrices_that_do_not_fit_the_weight_are_refused(
    model: Model, tmp_path: Path, target: str, first: tuple[int, int], second: tuple[int, int]
) -> None:
    path = write_adapter(tmp_path / "lora.gguf", {target: (matrix(*first), matrix(*second))})
    assert target in refusal(path, model)


def test_an_adapter_for_an_embedding_that_is_also_the_output_is_refused(model: Model, tmp_path: Path) -> None:
    tied = [tensor for tensor in model.header.tensors if tensor.name != "output.weight"]
    adapter = Adapter(write_adapter(tmp_path / "lora.gguf", LOOKED_UP))
    with pytest.raises(ModelError, match="output is the same matrix"):
        load_adapters(model.pointer, dataclasses.replace(model.header, tensors=tuple(tied)), [adapter])


def test_numbers_libllama_cannot_multiply_are_refused(model: Model, tmp_path: Path) -> None:
    pairs = {target: (first.astype(np.float64), second) for target, (first, second) in PAIRS.items()}
    assert "of type F64" in refusal(write_adapter(tmp_path / "lora.gguf", pairs), model)  # type: ignore[arg-type]


def test_a_whole_model_is_no_adapter(whole: Path, model: Model) -> None:
    assert "LoRA" in refusal(whole, model)


def test_an_adapter_that_was_cut_is_refused(model: Model, tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "lora.gguf", PAIRS)
    path.write_bytes(path.read_bytes()[:-100])
    assert "lora.gguf" in refusal(path, model)


def test_an_adapter_that_is_not_there_is_refused(model: Model, tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "lora.gguf", model)


def test_a_file_and_its_scale_are_told_apart(tmp_path: Path) -> None:
    odd = tmp_path / "a:2"
    odd.touch()
    assert Adapter.parse("x.gguf") == Adapter(Path("x.gguf"), 1)
    assert Adapter.parse("x.gguf:0.5") == Adapter(Path("x.gguf"), 0.5)
    assert Adapter.parse("c:x.gguf") == Adapter(Path("c:x.gguf"), 1)
    assert Adapter.parse(str(odd)) == Adapter(odd, 1)
    assert Adapter.parse(f"{odd}:-3") == Adapter(odd, -3)


@pytest.mark.parametrize("scale", ["nan", "inf", "1e9"])
def test_a_scale_out_of_range_is_refused(scale: str) -> None:
    with pytest.raises(UsageError, match="lora"):
        Adapter.parse(f"x.gguf:{scale}")
