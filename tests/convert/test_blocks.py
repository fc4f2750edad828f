"""Quantized rows have llama-quantize's bytes in every block type, with importance data and without."""

import os
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from amalia_convert.blocks import ABORTING, DEMANDING, BlockType, find_block
from amalia_convert.levels import LEVELS
from amalia_convert.recipe import Recipe
from amalia_edge.errors import Unquantizable, UsageError
from amalia_edge.gguf import BLOCKS, read_header
from amalia_edge.native import library
from amalia_edge.quantizer import quantize_rows

from .oracle import quantize_by

B = BlockType
SLOW = () if os.environ.get("AMALIA_ALL_TESTS") else (B.IQ1_S, B.IQ1_M, B.IQ2_S, B.IQ2_XS)  # tables of 20 s
QUANTIZED = [block for block in BlockType if block.quantized and block not in SLOW]


@dataclass(frozen=True)
class Quantized:
    """Weights, and what llama-quantize makes of them."""

    rows: NDArray[np.float32]
    importance: NDArray[np.float32] | None
    blocks: dict[BlockType, bytes]


@pytest.fixture(scope="session", params=["importance", "none"])
def quantized(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    folder, rows, importance = tmp_path_factory.mktemp("blocks"), _rows(), None
    if request.param == "importance":
        importance = (np.random.default_rng(6).standard_normal(512) ** 2).astype(np.float32)
        importance[5:40] = 0
    kinds = {f"as.{block.name}.weight": block for block in QUANTIZED if _is_possible(block, importance)}
    _write(folder / "model.gguf", dict.fromkeys(kinds, rows))
    recipe = Recipe(LEVELS["Q8_0"], tuple((rf"as\.{block.name}\.", block) for block in kinds.values()))
    data = {} if importance is None else dict.fromkeys(kinds, importance)
    assert quantize_by(recipe, folder / "model.gguf", folder / "out.gguf", data)
    content = (folder / "out.gguf").read_bytes()
    found = {
        kinds[tensor.name]: content[tensor.offset : tensor.offset + tensor.nbytes]
        for tensor in read_header(folder / "out.gguf").tensors
        if tensor.kind == kinds[tensor.name].name
    }
    return Quantized(rows, importance, found)


@pytest.mark.parametrize("block", QUANTIZED, ids=lambda block: block.name)
def test_quantized_bytes_are_llama_quantize_s(quantized: Quantized, block: BlockType) -> None:
    if _is_possible(block, quantized.importance):
        ours = quantize_rows(int(block), quantized.rows, quantized.importance)
        assert ours.tobytes() == quantized.blocks[block]


def test_importance_changes_the_bytes() -> None:
    rows = _rows()
    weights = np.linspace(0, 9, 512, dtype=np.float32)
    assert quantize_rows(int(B.Q4_K), rows).tobytes() != quantize_rows(int(B.Q4_K), rows, weights).tobytes()


def test_importance_that_lies_otherwise_in_memory_is_the_same() -> None:
    rows, wide = _rows(), np.linspace(0, 9, 1024)
    ours = [quantize_rows(int(B.Q4_K), rows, weights) for weights in (wide[::2], wide[::2].astype(np.float32))]
    assert ours[0].tobytes() == ours[1].tobytes()


@pytest.mark.parametrize("block", ABORTING, ids=lambda block: block.name)
def test_ggml_is_never_called_where_it_would_abort(block: BlockType) -> None:
    with pytest.raises(Unquantizable, match="needs importance data"):
        quantize_rows(int(block), np.ones((1, 256), np.float32))
    with pytest.raises(Unquantizable, match="no whole blocks"):
        quantize_rows(int(block), np.ones((1, 255), np.float32), np.ones(255, np.float32))
    with pytest.raises(Unquantizable, match=r"shape \(255,\) for rows of 256"):
        quantize_rows(int(block), np.ones((1, 256), np.float32), np.ones(255, np.float32))


@pytest.mark.parametrize("weight", [1e7, -1e30, np.nan])
def test_weights_too_large_for_ggml_s_tables_are_refused(weight: float) -> None:
    rows = np.ones((2, 256), np.float32)
    rows[1, 3] = weight
    with pytest.raises(Unquantizable, match=r"weights beyond 1e\+06"):
        quantize_rows(int(B.IQ3_S), rows)  # ggml would abort at 1e30
    if weight > 0:
        assert quantize_rows(int(B.Q3_K), rows).shape == (2, 110)


@pytest.mark.parametrize("value", [1e30, -1, np.nan])
def test_importance_too_large_for_ggml_s_tables_is_refused(value: float) -> None:
    importance = np.ones(256, np.float32)
    importance[5] = value
    with pytest.raises(Unquantizable, match=r"importance below 0 or beyond 1e\+15"):
        quantize_rows(int(B.IQ2_XXS), np.ones((2, 256), np.float32), importance)


def test_the_types_that_abort_are_those_ggml_names() -> None:
    handle = library()._lib
    assert {block for block in BlockType if handle.ggml_quantize_requires_imatrix(block)} == set(ABORTING)


def test_block_sizes_are_ggml_s() -> None:
    handle = library()._lib
    for block in BlockType:
        assert BLOCKS[block][0] == block.name
        assert handle.ggml_blck_size(block) == block.weights
        assert handle.ggml_row_size(block, 512) == block.nbytes(512)


def test_an_unknown_block_type_lists_the_known_ones() -> None:
    assert find_block("q6_k") is BlockType.Q6_K
    with pytest.raises(UsageError, match=r"'Q8_1'.*types: F32, .*Q6_K"):
        find_block("Q8_1")  # ggml has it, for activations: its quantizer would abort


def _rows() -> NDArray[np.float32]:
    """Draw rows, and build edge cases beside them: zeros, one value, −0, halves that land between two codes."""
    rows = np.random.default_rng(5).standard_normal((6, 512)).astype(np.float32)
    rows[1, :256], rows[2], rows[3, ::2], rows[4] = 0, 0.5, -0.0, np.round(rows[4] * 2) / 2
    return rows


def _is_possible(block: BlockType, importance: NDArray[np.float32] | None) -> bool:
    return importance is not None or block not in DEMANDING


def _write(path: Path, tensors: dict[str, NDArray[np.float32]]) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    for key, number in {"context_length": 64, "embedding_length": 512, "block_count": 1, "feed_forward_length": 512,
                        "attention.head_count": 4}.items():  # fmt: skip
        writer.add_uint32(f"llama.{key}", number)
    writer.add_layer_norm_rms_eps(1e-5)
    for name, rows in tensors.items():
        writer.add_tensor(name, rows)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
