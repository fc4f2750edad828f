"""Joules at any moment, from samples."""

from pathlib import Path

import pytest

from amalia_bench.energy_trace import PATIENCE_S, Trace
from amalia_bench.sensors import Reading
from amalia_bench.thermal import Thermometer
from bench.power_machine import FakeClock


class Script:
    """A source that says what it is told to, a reading at a time."""

    name, covers, period_s = "script", "what the test says", 1.0

    def __init__(self, *readings: Reading) -> None:
        self._readings = iter(readings)

    def read(self) -> Reading:
        return next(self._readings)


def traced(*readings: Reading, step_s: float = 1.0) -> Trace:
    """Take these readings, a second apart."""
    clock = FakeClock()
    trace = Trace([Script(*readings)], Thermometer(Path("/nowhere")), clock)
    for _ in readings[1:]:
        clock.sleep(step_s)
        trace.take()
    return trace


def test_power_is_joined_by_trapezoids() -> None:
    trace = traced(Reading(watts=10), Reading(watts=20), Reading(watts=40))
    assert [sample.joules for sample in trace.samples] == [0, 15, 45]


def test_counters_are_used_by_difference_whatever_they_begin_with() -> None:
    trace = traced(Reading(joules=500), Reading(joules=512), Reading(joules=530))
    assert [sample.joules for sample in trace.samples] == [0, 12, 30]
    assert [sample.watts for sample in trace.samples[1:]] == [12, 18]


def test_between_samples_joules_grow_evenly() -> None:
    trace = traced(Reading(joules=0), Reading(joules=10))
    assert trace.joules_at([trace.began_s + 0.25]) == [pytest.approx(2.5)]


def test_a_missing_sample_is_bridged_by_power_and_by_counter() -> None:
    gone = Reading(why="asleep")
    assert traced(Reading(watts=10), gone, Reading(watts=20)).samples[-1].joules == 30
    assert traced(Reading(joules=1), gone, Reading(joules=31)).samples[-1].joules == 30
    assert not traced(Reading(watts=10), gone, Reading(watts=20)).lost


def test_a_source_that_is_gone_for_long_ends_the_trace_for_good() -> None:
    gone = [Reading(why="asleep")] * (int(PATIENCE_S) + 1)
    trace = traced(Reading(watts=10), Reading(watts=10), *gone, Reading(watts=10))
    assert trace.lost == "asleep"
    assert trace.ends_s - trace.began_s == 1


def test_nobody_looking_for_long_ends_the_trace_too() -> None:
    trace = traced(Reading(watts=10), Reading(watts=90), step_s=60.0)
    assert trace.lost == "no reading for 60 s"
    assert len(trace.samples) == 1


def test_a_lasting_alarm_is_told_once_and_a_new_one_again() -> None:
    hot, fine = Reading(watts=1, alarms=("hot",)), Reading(watts=1)
    trace = traced(hot, hot, hot, fine, hot)
    assert trace.alarms == [(0.0, "hot"), (4.0, "hot")]


def test_the_hotter_of_thermometer_and_source_is_kept() -> None:
    assert traced(Reading(watts=1, celsius=71.0)).samples[0].celsius == 71.0


def test_rows_are_bounded_and_evenly_chosen() -> None:
    rows = traced(*[Reading(watts=1)] * 100).rows(30)
    assert [row[0] for row in rows][:3] == [0.0, 4.0, 8.0]
    assert len(rows) <= 30


def test_one_figure_may_be_told_for_the_whole() -> None:
    trace = traced(*[Reading(joules=0)] * 5)
    trace.tell(30.0)
    assert trace.samples[-1].joules == 120.0
