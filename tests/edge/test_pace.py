"""Chunks sized by what others took."""

import pytest

from amalia_edge.pace import Pace


def settle(pace: Pace, seconds: float, fixed: float, each: float, rounds: int = 60) -> list[int]:
    """Read chunk after chunk on a machine that takes a fixed time for each, and some for every token."""
    sizes = []
    for _ in range(rounds):
        sizes.append(pace.fitting(seconds))
        pace.learn(sizes[-1], fixed + each * sizes[-1])
    return sizes


@pytest.mark.parametrize(
    ("seconds", "fixed", "each", "best"),
    [(0.225, 0.06, 0.0033, 48), (0.165, 0.06, 0.003, 32), (0.225, 0.0, 0.0001, 512), (0.01, 0.06, 0.003, 16)],
)
def test_it_settles_on_the_largest_size_that_fits(seconds: float, fixed: float, each: float, best: int) -> None:
    sizes = settle(Pace(512), seconds, fixed, each)
    assert max(set(sizes[-30:]), key=sizes[-30:].count) == best


def test_much_time_is_soon_made_use_of() -> None:
    assert settle(Pace(512), 1.0, 0.06, 0.0033, 5)[-1] > 200


def test_before_anything_is_known_it_asks_for_little() -> None:
    assert Pace(512).fitting(1.0) == 32
    assert Pace(8).fitting(1.0) == 8


def test_less_time_takes_less_at_once() -> None:
    pace = Pace(512)
    settle(pace, 0.225, 0.06, 0.0033)
    assert pace.fitting(0.17) == 32
    assert pace.fitting(0.05) == 16


def test_one_bad_moment_is_no_reason_to_read_less() -> None:
    pace = Pace(512)
    pace.learn(32, 9.0)  # the first one of all
    settle(pace, 0.225, 0.06, 0.0033)
    pace.learn(48, 0.3)
    assert pace.fitting(0.225) == 48


def test_a_bad_minute_is_forgotten_in_time() -> None:
    pace = Pace(512)
    settle(pace, 0.225, 0.06, 0.0033)
    pace.learn(48, 0.3)
    pace.learn(48, 0.3)
    assert pace.fitting(0.225) == 32
    assert 48 in settle(pace, 0.225, 0.06, 0.0033, 200)


def test_the_end_of_a_prompt_tells_nothing() -> None:
    pace = Pace(512)
    pace.learn(7, 9.0)
    assert pace.fitting(0.1) == 32
