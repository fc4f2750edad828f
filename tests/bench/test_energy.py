"""Joules for a token, on a machine written by hand: minutes pass at once, and what comes out is known beforehand."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from amalia_bench.energy import EnergyConfig, Measurement, measure_energy
from amalia_bench.sensors import Reading, Source, Wall
from amalia_bench.sources import choose_sources, find_sources
from amalia_bench.speed import Case
from amalia_bench.thermal import Thermometer
from amalia_edge.errors import BenchError, DecodeError, UsageError
from bench.power_machine import RANGE_UJ, Counter, FakeClock, FakeLoad, put, rapl_zone

WATTS = {"idling": 5.0, "reading": 40.0, "writing": 25.0}
WRITING = EnergyConfig(seconds=40, idle_s=10, warm_up_s=10, prompt=0)
BOTH = dataclasses.replace(WRITING, prompt=512)


class World:
    """A machine with one counter, a thermometer, and a model that writes ten tokens a second."""

    def __init__(self, root: Path, begins_uj: int = RANGE_UJ - 300_000_000) -> None:
        self.root, self.clock = root, FakeClock()
        self.load = FakeLoad(self.clock)
        self.zone = rapl_zone(root, "intel-rapl:0", "package-0", begins_uj)
        self.counter = Counter(self.zone / "energy_uj", self.clock, self.watts)
        self.temperature = "sys/class/thermal/thermal_zone0/temp"
        put(root, {"sys/class/thermal/thermal_zone0/type": "x86_pkg_temp", self.temperature: "50000"})
        self.more_watts: Callable[[], float] = lambda: 0.0

    def watts(self) -> float:
        return WATTS[self.load.doing] + self.more_watts()

    def at(self, seconds: float, change: Callable[[], None]) -> None:
        """Let something happen so long after the start."""
        begin, done = self.clock.now(), []

        def hear(_: float) -> None:
            if not done and self.clock.now() - begin >= seconds:
                done.append(True)
                change()

        self.clock.hears.append(hear)

    def measure(
        self, config: EnergyConfig = WRITING, sources: list[Source] | None = None, **settings: object
    ) -> list[Measurement]:
        found = sources or choose_sources(*find_sources(self.root, lambda words: None, self.clock))
        self.kept: list[Measurement] = []
        thermometer = Thermometer(self.root)
        for measured in measure_energy(self.load, found, thermometer, self.clock, config, **settings):  # type: ignore[arg-type]
            self.kept.append(measured)
        return self.kept


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


class Script(Source):
    """A source that says what it is told to, one reading after another, and then the last one for ever."""

    name, covers, period_s = "script", "what the test says", 0.5

    def __init__(self, *readings: Reading) -> None:
        self._readings = itertools.chain(readings, itertools.repeat(readings[-1]))

    def read(self) -> Reading:
        return next(self._readings)


def test_idle_power_is_subtracted_reading_and_writing_apart(world: World) -> None:
    reading, writing = world.measure(BOTH)
    assert (reading.case.name, writing.case.name) == ("pp512", "tg128")
    assert reading.idle.watts == pytest.approx(5.0, rel=1e-6)
    assert reading.per_token.mean == pytest.approx((40 - 5) / 10, rel=0.01)
    assert writing.per_token.mean == pytest.approx((25 - 5) / 10, rel=0.01)
    assert writing.watts == pytest.approx(25, rel=0.01)


def test_joules_and_tokens_are_of_the_same_seconds(world: World) -> None:
    (writing,) = world.measure()
    assert writing.seconds == pytest.approx(40, abs=0.5)
    assert writing.tokens == pytest.approx(writing.seconds * 10, abs=3)
    assert writing.joules == pytest.approx(writing.seconds * 25, rel=0.01)


def test_a_prompt_that_takes_long_is_measured_whole(world: World) -> None:
    world.load.step_s, world.load.rate = 25.0, 20.48  # 512 tokens at a time
    reading = world.measure(dataclasses.replace(BOTH, generated=0))[0]
    assert (reading.tokens, reading.seconds) == (2 * 512, 50.0)
    assert reading.per_token.mean == pytest.approx(35 / 20.48, rel=0.01)


def test_the_warm_up_is_left_out(world: World) -> None:
    begun: list[float] = []

    def hot_start() -> float:
        if world.load.doing == "idling":
            return 0.0
        begun.append(world.clock.now())
        return 100.0 if world.clock.now() - begun[0] < 8 else 0.0

    world.more_watts = hot_start
    (writing,) = world.measure()
    assert writing.per_token.mean == pytest.approx(2.0, rel=0.01)
    assert max(watts for _, watts, _ in writing.trace if watts is not None) > 100


def test_the_trace_holds_time_power_and_temperature_of_the_whole_test(world: World) -> None:
    world.at(40, lambda: put(world.root, {world.temperature: "52000"}) and None)
    (writing,) = world.measure()
    times, watts, celsius = zip(*writing.trace, strict=True)
    assert times[0] == 0
    assert times[-1] == pytest.approx(50, abs=2)
    assert watts[0] is None  # a counter's first reading
    assert watts[-1] == pytest.approx(25, rel=0.01)
    assert (celsius[0], celsius[-1]) == (50.0, 52.0)


def test_a_long_measurement_keeps_a_bounded_trace(world: World) -> None:
    world.clock.hears.clear()
    (writing,) = world.measure(dataclasses.replace(WRITING, seconds=400), [Script(Reading(watts=25.0))])
    assert 300 < len(writing.trace) <= 600


def test_throttling_is_recorded_with_its_moment_and_once(world: World) -> None:
    cooling = "sys/class/thermal/cooling_device0"
    put(world.root, {f"{cooling}/type": "cpufreq-cpu0", f"{cooling}/cur_state": "0"})
    world.at(30, lambda: put(world.root, {f"{cooling}/cur_state": "2"}) and None)
    (writing,) = world.measure()
    assert writing.alarms == [(pytest.approx(20, abs=1), "slowed by cpufreq-cpu0, step 2")]


def test_throttling_while_idle_is_not_the_works(world: World) -> None:
    counter = "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
    put(world.root, {counter: "3"})
    world.at(5, lambda: put(world.root, {counter: "9"}) and None)
    assert world.measure()[0].alarms == []


def test_a_machine_at_its_steady_state_has_no_notes(world: World) -> None:
    assert world.measure()[0].notes == ()


def test_power_that_still_rises_is_no_steady_state(world: World) -> None:
    world.more_watts = lambda: (world.clock.now() - 1000) / 10 if world.load.doing == "writing" else 0.0
    (note,) = world.measure()[0].notes
    assert note.startswith("no steady state: the power went up by ")


def test_heat_that_still_rises_is_no_steady_state(world: World) -> None:
    world.at(40, lambda: put(world.root, {world.temperature: "58000"}) and None)
    assert world.measure()[0].notes == ("no steady state: from 50 to 58 °C",)


def test_work_that_takes_no_more_than_idling_has_no_joules_for_a_token(world: World) -> None:
    world.more_watts = lambda: -20.5 if world.load.doing == "writing" else 0.0
    (writing,) = world.measure()
    body = writing.body()
    assert (body["joules_per_token"], body["tokens_per_joule"]) == (None, None)
    assert body["joules_per_token_gross"] == pytest.approx(0.45, rel=0.01)
    assert "no more than idling" in body["notes"][0]


def test_samples_of_power_are_joined_by_straight_lines(world: World) -> None:
    ramp = Script(*(Reading(watts=1.0) for _ in range(4)), *(Reading(watts=float(watts)) for watts in range(1, 100)))
    config = EnergyConfig(seconds=10, idle_s=1, warm_up_s=0, prompt=0)
    (writing,) = world.measure(config, [ramp])
    first, last = writing.trace[1][1], writing.trace[-1][1]
    assert first is not None
    assert last is not None
    assert writing.watts == pytest.approx((first + last) / 2, rel=0.03)


def test_two_sources_of_different_parts_are_added(world: World) -> None:
    (rapl,) = choose_sources(*find_sources(world.root, lambda words: None, world.clock))
    gpu = Script(Reading(watts=30.0))
    (writing,) = world.measure(WRITING, [rapl, gpu])
    assert writing.source == "rapl+script"
    assert writing.watts == pytest.approx(55, rel=0.01)
    assert writing.per_token.mean == pytest.approx(2.0, rel=0.01)


def test_the_interval_holds_what_is_true_and_grows_with_the_idlings_noise(world: World) -> None:
    quiet = world.measure()[0]
    flicker = itertools.cycle([-2.0] * 8 + [2.0] * 8)
    world.more_watts = lambda: next(flicker) if world.load.doing == "idling" else 0.0
    noisy = world.measure()[0]
    assert noisy.per_token.low < 2.0 < noisy.per_token.high
    assert noisy.idle.reach > quiet.idle.reach
    assert noisy.per_token.high - noisy.per_token.low > quiet.per_token.high - quiet.per_token.low


def test_a_machine_that_was_busy_while_it_should_idle_is_named(world: World) -> None:
    world.more_watts = lambda: 20.0 if world.load.doing == "idling" and world.clock.now() % 7 < 2 else 0.0
    assert any(note.startswith("idling was unquiet: ") for note in world.measure()[0].notes)


def test_a_counter_that_vanishes_leaves_what_was_measured_and_says_so(world: World) -> None:
    world.at(40, (world.zone / "energy_uj").unlink)
    with pytest.raises(BenchError, match=r"gone .* the counter of package-0 cannot be read"):
        world.measure()
    (writing,) = world.kept
    assert not writing.whole
    assert writing.seconds == pytest.approx(20, abs=1)  # 10 idle, 10 of warm-up
    assert writing.per_token.mean == pytest.approx(2.0, rel=0.01)
    assert writing.notes[0].startswith("broken off after 20 of 40 s")


def test_a_short_gap_is_bridged(world: World) -> None:
    file = world.zone / "energy_uj"
    world.at(40, file.unlink)
    world.at(43, lambda: file.write_text(f"{int(world.counter.energy_uj)}\n") and None)
    (writing,) = world.measure()
    assert writing.whole
    assert writing.per_token.mean == pytest.approx(2.0, rel=0.01)


def test_a_source_that_is_lost_while_idle_measures_nothing(world: World) -> None:
    world.at(3, (world.zone / "energy_uj").unlink)
    with pytest.raises(BenchError, match=r"^energy from rapl: .*cannot be read"):
        world.measure()
    assert world.load.doing == "idling"


def test_a_source_lost_in_the_warm_up_measures_nothing(world: World) -> None:
    world.at(12, (world.zone / "energy_uj").unlink)
    with pytest.raises(BenchError, match="gone"):
        world.measure()
    assert world.kept == []


def test_a_counter_that_is_reset_costs_one_sample(world: World) -> None:
    world.at(40, lambda: setattr(world.counter, "energy_uj", 0.0))
    (writing,) = world.measure()
    assert writing.per_token.mean == pytest.approx(2.0, rel=0.02)
    assert ["began anew" in alarm for _, alarm in writing.alarms] == [True]


@pytest.mark.parametrize("nonsense", ["", "-7", "many", "\x00", "1e9"])
def test_nonsense_in_a_counter_is_a_gap(world: World, nonsense: str) -> None:
    world.at(40, lambda: (world.zone / "energy_uj").write_text(nonsense) and None)  # until the next step of the clock
    (writing,) = world.measure()
    assert writing.whole
    assert writing.per_token.mean == pytest.approx(2.0, rel=0.01)


def test_ctrl_c_keeps_what_was_measured(world: World) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    world.at(40, stop)
    with pytest.raises(KeyboardInterrupt):
        world.measure()
    (writing,) = world.kept
    assert not writing.whole
    assert writing.notes == ("broken off after 20 of 40 s: stopped by hand",)


def test_a_model_that_dies_keeps_what_was_measured(world: World) -> None:
    def die() -> None:
        raise DecodeError("model.gguf", "no memory")

    world.at(40, die)
    with pytest.raises(DecodeError):
        world.measure()
    assert world.kept[0].seconds == pytest.approx(20, abs=1)


def test_a_person_may_read_the_meter(world: World) -> None:
    asked: list[str] = []

    def told(doing: str) -> float:
        asked.append(doing)
        return {"idling": 30.0, "reading": 70.0, "writing": 55.0}[doing]

    reading, writing = world.measure(BOTH, [Wall()], told=told)
    assert asked == ["idling", "reading", "writing"]
    assert reading.per_token.mean == pytest.approx(4.0)
    assert writing.per_token.mean == pytest.approx(2.5)
    assert writing.watts == pytest.approx(55)


def test_only_the_tests_that_are_wanted_are_run(world: World) -> None:
    (writing,) = world.measure(BOTH, wanted=[Case(generated=128)])
    assert writing.case.name == "tg128"


def test_the_watcher_hears_of_all_the_time(world: World) -> None:
    heard: list[float] = []
    world.measure(watch=heard.append)
    assert sum(heard) == pytest.approx(WRITING.total_s, rel=0.03)


def test_a_record_has_the_promised_keys_and_is_no_nan(world: World) -> None:
    body = world.measure()[0].body()
    promised = "source joules seconds tokens joules_per_token tokens_per_joule idle_watts watts trace alarms"
    assert set(promised.split()) <= set(body)
    assert body["tokens_per_joule"] == pytest.approx(1 / body["joules_per_token"])
    assert not any(isinstance(value, float) and math.isnan(value) for row in body["trace"] for value in row)


@pytest.mark.parametrize(
    "settings",
    [
        {"seconds": 0.0},
        {"seconds": math.nan},
        {"idle_s": -1.0},
        {"warm_up_s": 1e9},
        {"prompt": 0, "generated": 0},
        {"prompt": -1},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        EnergyConfig(**settings)  # type: ignore[arg-type]
