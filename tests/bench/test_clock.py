"""Samples, their mean and their spread; quiet before the next one."""

import pytest

from amalia_bench.clock import Sample, Timing, settle, spread


def test_a_rate_is_tokens_over_seconds() -> None:
    assert Sample(tokens=128, ns=2_000_000_000).tps == 64


def test_the_mean_is_of_the_rates_and_not_the_rate_of_the_means() -> None:
    timing = Timing((Sample(100, 1_000_000_000), Sample(100, 4_000_000_000)))
    assert timing.mean_tps == pytest.approx((100 + 25) / 2)
    assert timing.mean_ns == 2_500_000_000


def test_the_spread_is_the_sample_standard_deviation() -> None:
    assert spread([1.0, 3.0]) == pytest.approx(2**0.5)


def test_a_single_value_has_no_spread() -> None:
    assert spread([7]) == 0


def test_settling_lasts_until_the_threads_use_no_more_time() -> None:
    used = iter([0.0, 0.04, 0.08, 0.0801, 9.0])
    slept: list[float] = []
    settle(step_s=0.02, used=lambda: next(used), sleep=slept.append)
    assert len(slept) == 3


def test_settling_gives_up_on_a_process_that_never_rests() -> None:
    used = iter(float(step) for step in range(1000))
    slept: list[float] = []
    settle(longest_s=1, step_s=0.1, used=lambda: next(used), sleep=slept.append)
    assert len(slept) == 10
