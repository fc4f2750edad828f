"""Our quantizers against ggml's: the same bytes for every type they know, however odd the weights."""

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from amalia_edge import native, quantizer

Weights = NDArray[np.float32]
KINDS = {"Q2_K": 10, "Q3_K": 11, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14, "IQ4_NL": 20, "IQ4_XS": 23}
LANES = 32  # at most: so many blocks are worked on together
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
with_and_without = pytest.mark.parametrize("weighted", [False, True], ids=["plain", "importance"])


def ours(kind: int, rows: Weights, importance: Weights | None = None) -> NDArray[np.uint8]:
    return quantized(quantizer._own_quantizer(), kind, rows, importance)


def ggmls(kind: int, rows: Weights, importance: Weights | None = None) -> NDArray[np.uint8]:
    chunk = native.library()._lib.ggml_quantize_chunk
    return quantized(lambda kind, source, target, *rest: chunk(kind, source, target, 0, *rest), kind, rows, importance)


def quantized(function: Any, kind: int, rows: Weights, importance: Weights | None) -> NDArray[np.uint8]:
    """Give the blocks of each row, and behind them a row that must stay 0xEE."""
    blocks = np.full((len(rows) + 1, native.library()._lib.ggml_row_size(kind, rows.shape[1])), 0xEE, np.uint8)
    address = None if importance is None else importance.ctypes.data
    assert function(kind, rows.ctypes.data, blocks.ctypes.data, *rows.shape, address) == blocks[:-1].nbytes
    return blocks


def some_importance(columns: int, weighted: bool) -> Weights | None:
    random = np.random.default_rng(columns)
    return (random.random(columns) * 10.0 ** random.integers(-6, 6, columns)).astype(np.float32) if weighted else None


def odd_blocks() -> Weights:
    """Build blocks on which roundings tie, sums vanish or overflow, and parts of a block differ in kind."""
    normal, step = np.random.default_rng(5).standard_normal(256), np.arange(256)
    outlier = normal * 1e-3
    outlier[100] = 5
    cases = [
        np.zeros(256), -np.zeros(256), np.full(256, 0.37), np.full(256, -0.37), np.full(256, 1e-38), np.full(256, 3e38),
        (step == 100) * 2.5, (step == 100) * -2.5, outlier, -outlier, np.where(step < 128, 0, normal), normal,
        (step % 64 - 32) * 0.5, (step % 16 - 8) * 0.25, (step % 31 - 15) / 2, step / 4 - 31.75, step * 1.0, -step * 1.0,
        np.abs(normal), -np.abs(normal), np.where(step % 2, 1, -1) * 0.7, np.where(step % 2, 0, normal),
        -1 - step * 1e-5, 1 + step * 1e-7, -1 - np.abs(normal) * 1e-6, np.where(step % 3, -0.0, normal),
        normal * 10.0 ** (step % 60 - 30), np.repeat(10.0 ** np.arange(-8, 8), 16) * normal, np.tan(step * 1.0),
    ]  # fmt: skip
    cases += [normal * size for size in (1e-45, 1e-40, 1e-38, 1e-20, 1e-15, 3e-15, 1e-10, 1e-7, 1e5, 1e10, 1e18, 1e30)]
    cases += [np.clip(normal, -3, 3) * 1e38, np.full(256, 0.999e-15), np.full(256, 1.001e-15)]
    # scales halfway between two halves, and where f16 ends
    cases += [(step == 7) * -127 * half for half in (*(1 + np.arange(0.5, 32) / 1024), 65519, 65520, 65535)]
    return np.array([*cases, between_levels()], np.float32)


def between_levels() -> NDArray[np.float64]:
    """Build a block of IQ4_XS whose scales are powers of two, and whose weights lie halfway between two levels."""
    levels = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])
    borders = np.append((levels[1:] + levels[:-1]) / 2, -127)
    return np.concatenate([levels, levels, *[borders / 8] * 14])


@with_and_without
@every_kind
def test_normal_weights_of_any_scale_give_ggmls_bytes(kind: int, weighted: bool) -> None:
    random = np.random.default_rng(kind)
    rows = (random.standard_normal((40, 768)) * 10.0 ** random.integers(-6, 3, (40, 1))).astype(np.float32)
    importance = some_importance(768, weighted)
    assert np.array_equal(ours(kind, rows, importance), ggmls(kind, rows, importance))


@with_and_without
@every_kind
def test_odd_blocks_give_ggmls_bytes(kind: int, weighted: bool) -> None:
    rows, importance = odd_blocks(), some_importance(256, weighted)
    differ = (ours(kind, rows, importance) != ggmls(kind, rows, importance)).any(axis=1)
    assert not np.flatnonzero(differ).tolist()


@pytest.mark.parametrize("value", [0, 1e-36])
@every_kind
def test_importance_of_next_to_nothing_gives_ggmls_bytes(kind: int, value: float) -> None:
    rows, importance = odd_blocks(), np.full(256, value, np.float32)
    assert np.array_equal(ours(kind, rows, importance), ggmls(kind, rows, importance))


@every_kind
@settings(max_examples=60, deadline=None)
@given(arrays(np.float32, (2, 256), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_any_finite_weights_give_ggmls_bytes(kind: int, rows: Weights) -> None:
    importance = np.abs(rows[1]).clip(0, 1e6)
    assert np.array_equal(ours(kind, rows), ggmls(kind, rows))
    assert np.array_equal(ours(kind, rows, importance), ggmls(kind, rows, importance))


@every_kind
def test_any_number_of_blocks_is_written_and_nothing_behind_them(kind: int) -> None:
    rows = np.random.default_rng(2).standard_normal((2 * LANES + 1, 256)).astype(np.float32)
    expected = ggmls(kind, rows)
    for count in (1, 3, LANES // 2, LANES - 1, LANES, LANES + 1, 2 * LANES + 1):
        blocks = ours(kind, rows[:count])
        assert np.array_equal(blocks[:-1], expected[:count]) and (blocks[-1] == 0xEE).all()


def test_a_type_it_does_not_know_is_left_to_ggml() -> None:
    rows, blocks = np.ones((1, 256), np.float32), np.full(512, 0xEE, np.uint8)
    assert quantizer._own_quantizer()(8, rows.ctypes.data, blocks.ctypes.data, 1, 256, None) == 0
    assert (blocks == 0xEE).all()


def test_quantizing_asks_our_quantizers_first(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def own(kind: int, _source: int, target: int, *_rest: object) -> int:
        asked.append(kind)
        ctypes.memset(target, 7, 144)
        return 144

    monkeypatch.setattr(quantizer, "_own_quantizer", lambda: own)
    assert (quantizer.quantize_rows(12, np.ones((1, 256), np.float32)) == 7).all()
    assert asked == [12]


def test_a_library_that_setup_did_not_build_quantizes_with_ggml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.random.default_rng(3).standard_normal((2, 256)).astype(np.float32)
    quantizer._own_quantizer.cache_clear()
    try:
        monkeypatch.setattr(quantizer, "library_folder", lambda: tmp_path)
        assert quantizer._own_quantizer() is None
        assert np.array_equal(quantizer.quantize_rows(12, rows), ggmls(12, rows)[:-1])
    finally:
        quantizer._own_quantizer.cache_clear()
