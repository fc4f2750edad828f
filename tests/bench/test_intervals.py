"""Intervals: what they hold, how often, and what they say where there is little to say."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from amalia_bench import intervals
from amalia_bench.intervals import Interval, block_bootstrap, paired, paired_shares, proportion, ratio_bootstrap
from amalia_edge.errors import BenchError

Array = NDArray[np.float64]
TEXTS, TOKENS = 400, 16  # texts drawn, tokens in a block


def dependent(draw: np.random.Generator, blocks: int) -> Array:
    """Draw a text's values: half their variance is their block's, and they lean to one side; their mean is e^0.25."""
    normal = np.repeat(draw.normal(size=blocks), TOKENS) * 0.5 + draw.normal(size=blocks * TOKENS) * 0.5
    return np.exp(normal)


def held(make: Callable[[Array, NDArray[np.int64]], Interval], blocks: int = 60) -> float:
    """Give the share of texts whose interval holds the truth."""
    draw, truth = np.random.default_rng(5), math.exp(0.25)
    names = np.repeat(np.arange(blocks), TOKENS)
    found = [make(dependent(draw, blocks), names) for _ in range(TEXTS)]
    return float(np.mean([one.low <= truth <= one.high for one in found]))


def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    assert 0.92 <= held(lambda values, blocks: block_bootstrap(values, blocks, resamples=500)) <= 0.98


def test_an_interval_that_takes_dependent_tokens_for_independent_holds_it_too_seldom() -> None:
    assert held(lambda values, _: block_bootstrap(values, np.arange(len(values)), resamples=100)) < 0.8


def test_a_handful_of_blocks_holds_the_truth_almost_as_often() -> None:
    assert 0.89 <= held(lambda values, blocks: block_bootstrap(values, blocks, resamples=500), blocks=6) <= 0.98


def test_a_share_of_dependent_hits_holds_the_truth_as_often_as_it_says() -> None:
    draw, blocks = np.random.default_rng(6), np.repeat(np.arange(40), TOKENS)
    found = []
    for _ in range(TEXTS):
        each = np.repeat(draw.beta(9, 1, size=40), TOKENS)  # a block's own share of hits; 0.9 on average
        found.append(proportion(draw.random(len(each)) < each, blocks))
    assert 0.92 <= np.mean([one.low <= 0.9 <= one.high for one in found]) <= 0.98


def test_a_smaller_confidence_holds_the_truth_less_often() -> None:
    assert 0.74 <= held(lambda values, blocks: block_bootstrap(values, blocks, resamples=500, confidence=0.8)) <= 0.86


def test_the_mean_is_of_the_values_and_not_of_the_blocks() -> None:
    assert block_bootstrap(np.array([1.0, 1.0, 1.0, 5.0]), np.array([0, 0, 0, 1])).mean == 2.0


def test_two_blocks_give_students_interval() -> None:
    found = block_bootstrap(np.array([1.0, 3.0]), np.array([0, 1]))
    assert (found.low, found.high) == pytest.approx((2 - 12.7062, 2 + 12.7062), abs=1e-3)


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.70620), (2, 4.30265), (9, 2.26216), (29, 2.04523), (999, 1.96234)]
)
def test_students_quantile_is_that_of_the_tables(freedom: int, quantile: float) -> None:
    assert intervals._student(0.975, freedom) == pytest.approx(quantile, rel=1e-5)


def test_many_blocks_of_normal_values_give_the_normal_interval() -> None:
    values = np.random.default_rng(1).normal(size=3000)
    found = block_bootstrap(values, np.arange(3000))
    half = 1.96 * values.std() / math.sqrt(3000)
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_an_interval_leans_where_the_values_lean() -> None:
    values = np.exp(np.random.default_rng(1).normal(size=40))
    found = block_bootstrap(values, np.arange(40))
    assert found.high - found.mean > 1.2 * (found.mean - found.low)


def test_the_ranks_of_the_bounds_allow_for_the_lean() -> None:
    drawn, without = np.linspace(-1, 1, 2001), np.r_[np.zeros(30), -1.0]  # one block holds the mean up
    low, high = intervals._corrected(drawn, 0.0, without, 1.96)
    # One block of 31: a = 29 / (6 √(30 · 31)) = 0.1585, the ranks Φ(z / (1 − a z)): 6.74 and 99.78 %, not 2.5 and 97.5
    assert (low, high) == pytest.approx((2 * 0.0674 - 1, 2 * 0.9978 - 1), abs=2e-4)


def test_the_names_and_the_order_of_blocks_do_not_matter() -> None:
    values, blocks = np.random.default_rng(1).normal(size=300), np.repeat(np.arange(30), 10)
    mixed = np.random.default_rng(2).permutation(300)
    found = block_bootstrap(values[mixed], 7 * blocks[mixed] - 50)
    assert vars(found) == pytest.approx(vars(block_bootstrap(values, blocks)))


def test_the_same_seed_gives_the_same_interval_and_another_one_another() -> None:
    values, blocks = np.random.default_rng(1).normal(size=300), np.repeat(np.arange(30), 10)
    assert block_bootstrap(values, blocks, seed=3) == block_bootstrap(values, blocks, seed=3)
    assert block_bootstrap(values, blocks, seed=3) != block_bootstrap(values, blocks, seed=4)


def test_joined_neighbours_give_nearly_the_same_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).normal(size=40_000)
    alone = block_bootstrap(values, np.arange(40_000))
    monkeypatch.setattr(intervals, "MOST", 400)
    assert block_bootstrap(values, np.arange(40_000)).stderr == pytest.approx(alone.stderr, rel=0.1)


def test_those_that_are_joined_are_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.repeat(np.random.default_rng(1).normal(size=400), 20)
    known = block_bootstrap(values, np.arange(8000) // 20)
    monkeypatch.setattr(intervals, "MOST", 400)
    assert block_bootstrap(values, np.arange(8000)) == known


def test_equal_values_leave_no_interval() -> None:
    assert block_bootstrap(np.full(200, 0.1), np.repeat(np.arange(20), 10)) == Interval(
        pytest.approx(0.1), pytest.approx(0.1), pytest.approx(0.1), pytest.approx(0.0, abs=1e-15)
    )  # fmt: skip


def test_differences_leave_out_what_both_readings_share() -> None:
    draw = np.random.default_rng(1)
    hard, blocks = draw.normal(size=600) * 10, np.repeat(np.arange(60), 10)
    found = paired(hard + 1 + 0.1 * draw.normal(size=600), hard, blocks)
    assert 0.97 < found.low < 1 < found.high < 1.03


def test_a_ratio_is_of_the_sums() -> None:
    found = ratio_bootstrap(np.array([1.0, 3.0]), np.array([10.0, 10.0]), np.array([0, 1]))
    assert found.mean == 0.2


def test_a_ratio_bears_blocks_that_count_for_nothing() -> None:
    above, below = np.r_[np.ones(2), np.zeros(10)], np.r_[np.full(2, 4.0), np.zeros(10)]
    found = ratio_bootstrap(above, below, np.arange(12))  # one draw in nine counts nothing
    assert (found.low, found.mean, found.high) == (0.25, 0.25, 0.25)


def test_the_root_of_the_mean_square_has_an_interval_around_it() -> None:
    values = np.random.default_rng(1).normal(size=2000) * 3
    found = block_bootstrap(values, np.repeat(np.arange(200), 10), "rms")
    assert found.low < 3 < found.high
    assert found.mean == pytest.approx(math.sqrt(np.square(values).mean()))
    assert found.stderr == pytest.approx(3 / math.sqrt(2 * 2000), rel=0.15)


def test_a_root_of_nothing_is_nothing() -> None:
    assert block_bootstrap(np.zeros(20), np.arange(20), "rms") == Interval(0.0, 0.0, 0.0, 0.0)


def test_one_block_has_no_bounds() -> None:
    found = block_bootstrap(np.array([1.0, 2.0]), np.array([4, 4]))
    assert (found.mean, found.bounds, found.stderr) == (1.5, [None, None], math.inf)


def test_a_share_of_wilsons_example() -> None:
    found = proportion(np.arange(10) < 8)  # 8 of 10: 0.490 to 0.943
    assert (found.low, found.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_all_hits_are_not_certainty() -> None:
    found = proportion(np.ones(100, bool))
    assert found.high == 1.0
    assert found.low == pytest.approx(0.963, abs=1e-3)


def test_hits_that_come_in_blocks_are_worth_less() -> None:
    hits, blocks = np.repeat(np.arange(40) % 2 == 0, 10), np.repeat(np.arange(40), 10)
    alone, together = proportion(hits), proportion(hits, blocks)
    assert together.high - together.low > 2.5 * (alone.high - alone.low)


def test_a_share_of_independent_hits_holds_the_truth_as_often_as_it_says() -> None:
    draw, blocks = np.random.default_rng(8), np.repeat(np.arange(12), TOKENS)
    found = [proportion(draw.random(len(blocks)) < 0.5, blocks) for _ in range(TEXTS)]
    assert 0.92 <= np.mean([one.low <= 0.5 <= one.high for one in found]) <= 0.97


def test_blocks_that_agree_by_chance_are_not_certainty() -> None:
    hits, blocks = np.arange(40) % 2 == 0, np.repeat(np.arange(10), 4)
    found = proportion(hits, blocks)
    assert found.stderr == pytest.approx(math.sqrt(0.5 * 0.25 / 40))


def test_a_share_in_one_block_may_be_any() -> None:
    assert proportion(np.array([True, False]), np.zeros(2)).bounds == [0.0, 1.0]


def test_a_difference_of_shares_is_that_of_the_published_formula() -> None:
    hits, base = np.r_[np.ones(53), np.zeros(36)] > 0, np.r_[np.ones(36), np.zeros(53)] > 0
    found = paired_shares(hits, base)  # 17 gained, 0 lost: 18/91 and 1/91
    up, down = 18 / 91, 1 / 91
    half = 1.959964 * math.sqrt((up + down - (up - down) ** 2) / 91)
    assert (found.mean, found.low, found.high) == pytest.approx((17 / 89, up - down - half, up - down + half), rel=1e-6)


def test_a_difference_of_shares_holds_the_truth_as_often_as_it_says() -> None:
    draw, found = np.random.default_rng(7), []
    for _ in range(TEXTS):
        turn = draw.choice(3, size=40, p=(0.1, 0.04, 0.86))  # lost, gained, the same: -0.06
        found.append(paired_shares(turn == 1, turn == 0))
    assert 0.92 <= np.mean([one.low <= -0.06 <= one.high for one in found]) <= 0.99


def test_no_difference_in_few_items_is_not_certainty() -> None:
    assert paired_shares(np.ones(10), np.ones(10)).bounds == pytest.approx([-0.231, 0.231], abs=1e-3)


def test_an_increasing_function_maps_the_bounds_and_not_what_has_none() -> None:
    found = Interval(0.0, -math.inf, 1.0, 0.5).map(math.exp, 1.0)
    assert (found.mean, found.low, found.high, found.stderr) == (1.0, -math.inf, math.e, 0.5)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_is_named(wrong: float) -> None:
    values = np.array([1.0, 2.0, wrong])
    with pytest.raises(BenchError, match="at value 2 of 3"):
        block_bootstrap(values, np.arange(3))


@pytest.mark.parametrize(
    "make",
    [lambda none: block_bootstrap(none, none), lambda none: proportion(none), lambda none: paired_shares(none, none)],
)
def test_nothing_has_no_mean(make: Callable[[NDArray[Any]], Interval]) -> None:
    with pytest.raises(BenchError, match="nothing counted; give a"):
        make(np.zeros(0))
