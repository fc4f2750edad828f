"""An adapter that does not fit its model is refused: libllama aborts on most of these."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from amalia_edge import native
from amalia_edge.errors import ModelCorrupt, ModelError, ModelUnsupported
from amalia_edge.gguf import Header, read_header
from amalia_edge.gguf_adapter import read_adapter
from amalia_edge.load_config import LoadConfig
from models import FEED_FORWARD, HIDDEN, VOCABULARY

QUERY, DOWN = "blk.0.attn_q.weight", "blk.1.ffn_down.weight"
Sides = tuple[int, ...]  # numpy's order: the row length last


@pytest.fixture(scope="module")
def base(tiny: Path) -> Header:
    return read_header(tiny)


@pytest.fixture
def adapter(tmp_path: Path) -> Callable[..., Path]:
    def write(pairs: dict[str, Sides], keys: dict[str, Any] | None = None, dtype: Any = np.float32) -> Path:
        told = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 8.0} | (keys or {})
        writer = gguf.GGUFWriter(tmp_path / "a.gguf", told.pop("general.architecture", "llama"))
        for key, value in told.items():
            {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32, list: writer.add_array}[
                type(value)
            ](key, value)
        for name, sides in pairs.items():
            writer.add_tensor(name, np.full(sides, 0.01, dtype))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return tmp_path / "a.gguf"

    return write


def pair(name: str, first: Sides, second: Sides) -> dict[str, Sides]:
    return {f"{name}.lora_a": first, f"{name}.lora_b": second}


GOOD = {
    **pair(QUERY, (4, HIDDEN), (HIDDEN, 4)),
    **pair(DOWN, (2, FEED_FORWARD), (HIDDEN, 2)),
    **pair("token_embd.weight", (VOCABULARY, 4), (HIDDEN, 4)),
    "blk.0.attn_norm.weight": (HIDDEN,),
}


def test_a_good_adapter_is_read_and_libllama_decodes_with_it(
    tiny: Path, base: Header, adapter: Callable[..., Path]
) -> None:
    header = read_adapter(adapter(GOOD), base)
    assert len(header.tensors) == len(GOOD)
    bindings = native.library()
    model = native.open_model(tiny, LoadConfig(gpu_layers=0))
    settings = bindings.llama_context_default_params()
    settings.n_ctx = 32
    context = bindings.llama_init_from_model(model, settings)
    lora = bindings.llama_adapter_lora_init(model, str(header.path).encode())
    assert bindings.llama_set_adapters_lora(context, (type(lora) * 1)(lora), 1, (native.ctypes.c_float * 1)(1.0)) == 0
    ids = (bindings.llama_token * 3)(1, 20, 30)
    assert bindings.llama_decode(context, bindings.llama_batch_get_one(ids, 3)) == 0
    bindings.llama_free(context)
    bindings.llama_model_free(model)


FOREIGN = {
    "not a LoRA adapter": {"general.type": "model"},
    "not a LoRA": {"adapter.type": "other"},
    "for the architecture 'qwen2', the model is 'llama'": {"general.architecture": "qwen2"},
    "an adapter for parts of a text": {"adapter.alora.invocation_tokens": [1, 2]},
}


@pytest.mark.parametrize("found", FOREIGN)
def test_what_is_no_adapter_for_this_model_is_unsupported(
    found: str, base: Header, adapter: Callable[..., Path]
) -> None:
    with pytest.raises(ModelUnsupported, match=found):
        read_adapter(adapter(GOOD, FOREIGN[found]), base)


@pytest.mark.parametrize("alpha", [8, float("nan"), -1.0, 1e30])
def test_an_alpha_that_is_no_sound_number_is_refused(alpha: Any, base: Header, adapter: Callable[..., Path]) -> None:
    with pytest.raises(ModelCorrupt, match=r"adapter\.lora\.alpha"):
        read_adapter(adapter(GOOD, {"adapter.lora.alpha": alpha}), base)


UNFIT: dict[str, dict[str, Sides]] = {
    "only lora_a of the two": {f"{QUERY}.lora_a": (4, HIDDEN)},
    "the model has none of that name": pair("blk.7.attn_q.weight", (4, HIDDEN), (HIDDEN, 4)),
    "neither lora_a nor lora_b": {**GOOD, "blk.0.attn_q.bias": (HIDDEN,)},
    "none of an adapter": {"blk.0.attn_norm.weight": (HIDDEN,)},
    r"\(128, 4\) and \(4, 256\) do not fit": pair(QUERY, (4, 128), (HIDDEN, 4)),
    r"\(256, 4\) and \(5, 256\) do not fit": pair(QUERY, (4, HIDDEN), (HIDDEN, 5)),
    r"\(256, 4, 3\) and \(4, 256, 2\) do not fit": pair(QUERY, (3, 4, HIDDEN), (2, HIDDEN, 4)),
    r"token_embd.weight: \(4, [0-9]+\) and \(5, 256\)": pair("token_embd.weight", (VOCABULARY, 4), (HIDDEN, 5)),
    r"attn_norm.weight: \(256, 4\)": pair("blk.0.attn_norm.weight", (4, HIDDEN), (1, 4)),
}


@pytest.mark.parametrize("found", UNFIT)
def test_matrices_that_do_not_fit_are_refused(found: str, base: Header, adapter: Callable[..., Path]) -> None:
    with pytest.raises(ModelCorrupt, match=found):
        read_adapter(adapter(UNFIT[found]), base)


def test_matrices_of_whole_numbers_are_refused(base: Header, adapter: Callable[..., Path]) -> None:
    with pytest.raises(ModelCorrupt, match="of type I32"):
        read_adapter(adapter(pair(QUERY, (4, HIDDEN), (HIDDEN, 4)), dtype=np.int32), base)


def test_an_embedding_that_is_also_the_output_cannot_be_adapted(base: Header, adapter: Callable[..., Path]) -> None:
    tied = [tensor for tensor in base.tensors if tensor.name != "output.weight"]
    header = Header(base.path, 3, base.metadata, tuple(tied), base.data_offset, base.file_size)
    with pytest.raises(ModelError, match="the model's output is the same matrix"):
        read_adapter(adapter(GOOD), header)
