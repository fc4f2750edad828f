"""What a kernel's result is held against."""

import numpy as np
import pytest

from amalia_bench.reference import WRONG, make_weights, noise, normalised_error, quantization_limit, to_blocks, waves
from amalia_convert.blocks import DEMANDING, BlockType
from amalia_edge.backend import widen_rows

# ggml takes seconds to make ready for the others
QUICK = [kind for kind in BlockType if kind.quantized and kind not in DEMANDING]


def test_an_equal_result_has_no_error() -> None:
    assert normalised_error(noise(3, 4), noise(3, 4)) == 0.0


def test_the_error_is_a_share_of_what_is_wanted() -> None:
    assert normalised_error(np.array([3.0, 4.5]), np.array([3.0, 4.0])) == pytest.approx(0.25 / 25)


def test_the_error_counts_every_row_of_a_large_result() -> None:
    wanted = np.ones((1000, 3))
    found = wanted.copy()
    found[[0, 255, 256, 999]] += 0.5
    assert normalised_error(found, wanted) == pytest.approx(4 * 3 * 0.25 / 3000)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_an_error_beyond_every_limit(bad: float) -> None:
    assert normalised_error(np.array([1.0, bad]), np.array([1.0, 1.0])) == WRONG


def test_two_rows_that_changed_places_are_seen() -> None:
    weights = make_weights(BlockType.Q8_0, 256, 64)
    wanted = weights.product(noise(1, 64))
    first, second = 0, int(np.flatnonzero(weights.order != weights.order[0])[0])
    swapped = wanted.copy()
    swapped[:, [first, second]] = swapped[:, [second, first]]
    assert normalised_error(swapped, wanted) > 5e-4


def test_a_matrix_is_its_distinct_rows_in_their_order() -> None:
    weights = make_weights(BlockType.Q4_K, 100, 256)
    rows = widen_rows(int(BlockType.Q4_K), weights.blocks, 256)
    assert (rows == weights.rows()).all()
    activations = noise(2, 256)
    np.testing.assert_allclose(weights.product(activations), activations.astype(np.float64) @ rows.T.astype(np.float64))


def test_ggmls_limit_for_four_bits_is_that_of_its_own_test() -> None:
    row = waves(1, 4096)[0].astype(np.float64)
    limit = (0.002 * 4096) ** 2 / (row**2).sum()
    assert quantization_limit(BlockType.Q4_0) == pytest.approx(limit, rel=1e-3)


@pytest.mark.parametrize("kind", QUICK, ids=lambda kind: kind.name)
def test_every_quantizer_keeps_to_its_limit(kind: BlockType) -> None:
    rows = waves(4, 768)
    error = normalised_error(widen_rows(int(kind), to_blocks(kind, rows), 768), rows)
    assert quantization_limit(kind) / 10000 < error < quantization_limit(kind)


def test_types_that_demand_importance_are_given_some() -> None:
    assert to_blocks(BlockType.IQ3_XXS, noise(1, 256)).any()
