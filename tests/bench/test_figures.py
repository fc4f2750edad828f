"""Numbers as they are read: units, signs, intervals, and what stands where nothing was measured."""

import math

import pytest

from amalia_bench.figures import bracketed, change, interval, minus, number, percent, rate, seconds, signed, significant


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.00142, "0.00142"),
        (12.345, "12.3"),
        (1234.5, "1234"),
        (0.0, "0"),
        (-0.5, "−0.500"),
        (None, "–"),
        (1e-9, "1.00e−09"),
    ],
)
def test_a_number_has_three_digits_that_say_something(value: float | None, written: str) -> None:
    assert significant(value) == written


def test_an_interval_is_written_to_the_place_of_its_value() -> None:
    assert bracketed(0.0313, (0.03009, 0.03262)) == "0.0313 [0.0301, 0.0326]"


def test_a_value_without_an_interval_stands_alone() -> None:
    assert (bracketed(0.5, None), bracketed(None, (1, 2))) == ("0.500", "–")


def test_a_share_is_written_as_percent() -> None:
    assert percent(0.931, (0.91, 0.952)) == "93.1 % [91.0, 95.2]"


def test_a_change_has_its_sign() -> None:
    assert (change(0.0331), change(-0.001, (-0.002, 0.0))) == ("+3.31 %", "−0.10 % [−0.20, 0.00]")


def test_a_difference_is_written_to_the_place_of_the_largest() -> None:
    assert signed(-0.12, (-0.18, -0.06)) == "−0.120 [−0.180, −0.060]"


def test_nought_has_no_sign() -> None:
    assert (minus("-0.00"), minus("+0"), minus("-0.10")) == ("0.00", "0", "−0.10")


def test_a_rate_has_its_spread_and_fewer_digits_the_larger_it_is() -> None:
    assert [rate(18.523, 0.04), rate(221.31, 1.2), rate(12345.2, 67.1)] == ["18.52 ± 0.04", "221.3 ± 1.2", "12345 ± 67"]


def test_a_time_has_the_unit_people_say() -> None:
    assert [seconds(0.0252), seconds(1.24), seconds(12.3), seconds(720.0)] == ["25 ms", "1.24 s", "12 s", "12 min"]


@pytest.mark.parametrize("value", [math.nan, math.inf, "7", True, None])
def test_what_is_no_finite_number_is_none(value: object) -> None:
    assert number({"a": {"b": value}}, "a", "b") is None


def test_a_number_is_found_below_its_keys() -> None:
    assert number({"a": {"b": 7}}, "a", "b") == 7


@pytest.mark.parametrize("told", [None, [1], [1, None], "12", [1, math.inf]])
def test_what_is_no_interval_is_none(told: object) -> None:
    assert interval({"ci": told}, "ci") is None
