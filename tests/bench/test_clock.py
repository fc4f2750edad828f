"""Samples, their mean and their spread; quiet before the next one."""

import pytest

from amalia_bench.clock import Sample, Timing, settle, spread


def timing(*seconds: float) -> Timing:
    return Timing(tuple(Sample(100, round(one * 1e9)) for one in seconds))


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


def test_drift_is_the_last_thirds_rate_over_the_first_thirds() -> None:
    assert timing(1, 1, 9, 9, 9, 2, 2).drift == pytest.approx((50 + 50 + 100 / 9) / (100 + 100 + 100 / 9))
    assert timing(1, 5, 2).drift == pytest.approx(0.5)


def test_two_samples_have_no_drift() -> None:
    assert timing(1, 2).drift is None
    assert timing(1, 2).slowed is None


def test_a_machine_that_slows_down_is_told_from_noise() -> None:
    assert timing(1, 1, 1, 1.2, 1.3).slowed is True
    assert timing(1, 1.4, 1, 1.2, 1.3).slowed is False  # one early sample was as slow
    assert timing(1, 1, 1, 1.02, 1.03).slowed is False  # by too little
    assert timing(1.3, 1.2, 1, 1, 1).slowed is False


def test_four_samples_are_too_few_to_say_that_it_slowed_down() -> None:
    assert timing(1, 1, 2, 2).slowed is None


def test_a_ratio_is_taken_within_each_pair() -> None:
    ratio = timing(1, 2).over(timing(2, 2))
    assert ratio.values == (2, 1)
    assert (ratio.mean, ratio.stdev) == (1.5, pytest.approx(0.5**0.5))
