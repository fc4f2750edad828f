"""The matrices a model multiplies with."""

from pathlib import Path

import pytest

from amalia_bench.matrices import Matrix, distinct, model_matrices
from amalia_edge.errors import AmaliaError


def test_a_shape_is_given_once_with_the_weights_that_have_it() -> None:
    tensors = [
        ("token_embd.weight", (1000, 256)),
        ("blk.0.attn_q.weight", (256, 256)),
        ("blk.0.attn_k.weight", (128, 256)),
        ("blk.0.attn_output.weight", (256, 256)),
        ("blk.1.attn_q.weight", (256, 256)),
        ("output.weight", (1000, 256)),
    ]
    assert distinct(tensors) == [Matrix(("attn_q", "attn_output"), 256, 256), Matrix(("attn_k",), 128, 256)]


def test_what_is_no_matrix_or_a_small_one_is_left_out() -> None:
    tensors = [
        ("blk.0.attn_norm.weight", (256,)),
        ("blk.0.ffn_gate_inp.weight", (8, 256)),
        ("blk.0.ffn_up_exps.weight", (8, 512, 256)),
    ]
    assert distinct(tensors) == []


def test_amalias_layers_have_these_matrices() -> None:
    found, kinds = model_matrices("amalia-9b")
    assert {(one.rows, one.columns) for one in found} == {(4096, 4096), (1024, 4096), (12288, 4096), (4096, 12288)}
    assert next(one for one in found if "ffn_down" in one.names).columns == 12288
    assert kinds == []


def test_a_models_file_tells_its_types_too(tiny: Path) -> None:
    found, kinds = model_matrices(str(tiny))
    assert {(one.rows, one.columns) for one in found} == {(256, 256), (128, 256), (512, 256), (256, 512)}
    assert kinds == ["Q8_0"]


def test_what_is_neither_a_shape_nor_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AmaliaError, match="absent"):
        model_matrices(str(tmp_path / "absent.gguf"))
