"""What is measured, in which order."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from amalia_bench.clock import Sample
from amalia_bench.speed import (
    Case,
    Measurement,
    SpeedConfig,
    Surroundings,
    Turn,
    combinations,
    fit_together,
    measure_speed,
    trials,
)
from amalia_edge.errors import UsageError
from amalia_edge.load_config import LoadConfig

from .conftest import facts

TWO = SpeedConfig(prompts=(8,), generations=(4,), repetitions=2)


class Recorded:
    """A subject that takes no time and notes what is asked of it."""

    def __init__(self, path: Path, events: list[str]) -> None:
        self.facts, self._events = facts(path), events

    def measure(self, case: Case) -> Turn:
        self._events.append(f"{self.facts.path.stem} {case.name}")
        return Turn(Sample(case.tokens, len(self._events)), Sample(case.tokens, 1000), 500)


class Opener:
    def __init__(self) -> None:
        self.events: list[str] = []

    @contextlib.contextmanager
    def __call__(self, path: Path, config: SpeedConfig) -> Iterator[Recorded]:
        self.events.append(f"{path.stem} opens")
        yield Recorded(path, self.events)
        self.events.append(f"{path.stem} closes")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    for name in "ab":
        (tmp_path / f"{name}.gguf").write_bytes(bytes(1000))
    return [tmp_path / "a.gguf", tmp_path / "b.gguf"]


def test_the_defaults_are_llama_benchs() -> None:
    assert [case.name for case in SpeedConfig().cases] == ["pp512", "tg128"]
    assert SpeedConfig().repetitions == 5


def test_models_take_turns(files: list[Path]) -> None:
    opener = Opener()
    list(measure_speed(trials(files, TWO), opener))
    assert opener.events[2:10] == ["a pp8", "b pp8", "a pp8", "b pp8", "a tg4", "b tg4", "a tg4", "b tg4"]


def test_models_too_large_together_are_measured_one_after_the_other(files: list[Path]) -> None:
    opener = Opener()
    measured = list(measure_speed(trials(files, TWO), opener, Surroundings(3999)))
    assert opener.events.index("a closes") < opener.events.index("b opens")
    assert not any(measurement.interleaved for measurement in measured)


def test_models_that_just_fit_take_turns(files: list[Path]) -> None:
    assert fit_together(trials(files, TWO), available=4000)
    assert not fit_together(trials(files, TWO), available=3999)


def test_one_model_is_measured_whatever_its_size(files: list[Path]) -> None:
    assert fit_together(trials(files[:1], TWO), available=1)


def test_each_model_and_case_gets_one_measurement_of_all_repetitions(files: list[Path]) -> None:
    measured = list(measure_speed(trials(files, TWO), Opener()))
    assert {(found.facts.path, found.case.name) for found in measured} == {(path, name) for path in files for name in ("pp8", "tg4")}  # fmt: skip
    assert all(len(found.decode.samples) == len(found.engine.samples) == 2 for found in measured)


def test_a_measurement_holds_its_own_models_samples(files: list[Path]) -> None:
    # The fake's times count its calls: opening twice, then a, b, a, b.
    first, second = list(measure_speed(trials(files, TWO), Opener()))[:2]
    assert (first.decode.samples_ns, second.decode.samples_ns) == ([3, 5], [4, 6])


def test_the_watcher_hears_of_every_step(files: list[Path]) -> None:
    heard: list[int] = []
    wanted = trials(files, TWO)
    list(measure_speed(wanted, Opener(), watch=lambda: heard.append(1)))
    assert len(heard) == sum(trial.steps for trial in wanted) == 10


def test_models_are_closed_when_a_measurement_fails(files: list[Path]) -> None:
    closed: list[Path] = []

    @contextlib.contextmanager
    def opener(path: Path, config: SpeedConfig) -> Iterator[Recorded]:
        if path.stem == "b":
            raise UsageError("b", "broken")
        try:
            yield Recorded(path, [])
        finally:
            closed.append(path)

    with pytest.raises(UsageError):
        list(measure_speed(trials(files, TWO), opener))
    assert closed == files[:1]


def test_zero_leaves_a_test_out() -> None:
    assert [case.name for case in SpeedConfig(prompts=(0,), generations=(16, 32)).cases] == ["tg16", "tg32"]


def test_the_context_holds_the_longest_test() -> None:
    assert SpeedConfig(prompts=(64,), generations=(900,)).context == 901


def test_a_depth_counts_towards_the_context() -> None:
    assert SpeedConfig(prompts=(64,), generations=(0,), depths=(0, 1000)).context == 1065


def test_cases_are_named_as_llama_bench_names_them() -> None:
    assert Case(512, 128).name == "pp512+tg128"
    assert Case(generated=128, depth=4096).name == "tg128 @ d4096"


def test_each_depth_has_all_the_tests_and_none_twice() -> None:
    config = SpeedConfig(prompts=(8, 8), generations=(4,), pairs=((8, 4),), depths=(0, 32))
    names = [case.name for case in config.cases]
    assert names == ["pp8", "tg4", "pp8+tg4", "pp8 @ d32", "tg4 @ d32", "pp8+tg4 @ d32"]


def test_every_combination_of_settings_is_a_way_to_load() -> None:
    found = combinations(LoadConfig(), {"threads": (1, 2), "micro_batch": (64, 128, 64)})
    assert [(load.threads, load.micro_batch) for load in found] == [(1, 64), (1, 128), (2, 64), (2, 128)]
    assert combinations(LoadConfig(batch=7), {}) == [LoadConfig(batch=7)]


def test_ways_to_load_take_turns_as_models_do(files: list[Path]) -> None:
    loads = [LoadConfig(threads=1), LoadConfig(threads=2)]
    opener = Opener()
    measured = list(measure_speed(trials(files[:1], TWO, loads), opener))
    assert opener.events[:4] == ["a opens", "a opens", "a pp8", "a pp8"]
    assert [found.load.threads for found in measured] == [1, 2, 1, 2]


def test_a_trial_is_measured_in_its_own_cases_only(files: list[Path]) -> None:
    one, other = trials(files, TWO)
    rest = Case(generated=4)
    measured = list(measure_speed([one, dataclasses.replace(other, cases=(rest,))], Opener()))
    assert [(found.facts.path.stem, found.case.name) for found in measured] == [
        ("a", "pp8"),
        ("a", "tg4"),
        ("b", "tg4"),
    ]


class Fever:
    """A thermometer that rises by a degree each time it is read, and that throttled before the run and all through it."""

    def __init__(self) -> None:
        self.celsius, self.told = 40.0, iter([("before",), ("cpu0",), ("cpu0",)])

    def read(self) -> float:
        self.celsius += 1
        return self.celsius

    def throttles(self) -> tuple[str, ...]:
        return next(self.told, ())


def test_temperature_is_read_before_and_after_each_repetition(files: list[Path]) -> None:
    (found, *_) = _measured(files, Surroundings(thermometer=Fever()))
    assert found.weather.celsius == (41, 42, 43)


def test_what_throttled_meanwhile_is_told_once_and_what_did_before_is_not(files: list[Path]) -> None:
    (found, *_) = _measured(files, Surroundings(thermometer=Fever()))
    assert found.weather.alarms == ("cpu0",)


def test_a_machine_without_sensors_tells_no_temperature(files: list[Path]) -> None:
    (found, *_) = _measured(files, Surroundings())
    assert (found.weather.celsius, found.weather.alarms, found.weather.read_gbps) == ((), (), None)


def test_bandwidth_is_measured_once_before_anything_is_loaded_with_as_many_threads(files: list[Path]) -> None:
    opener = Opener()

    def bandwidth(threads: int) -> float:
        opener.events.append(f"bandwidth of {threads}")
        return 28.5

    wanted = trials(files, TWO, [LoadConfig(threads=3)])
    measured = list(measure_speed(wanted, opener, Surroundings(bandwidth=bandwidth)))
    assert {one.weather.read_gbps for one in measured} == {28.5}
    assert opener.events[:3] == ["bandwidth of 3", "a opens", "b opens"]
    assert "bandwidth of 3" not in opener.events[1:]


def _measured(files: list[Path], surroundings: Surroundings) -> list[Measurement]:
    return list(measure_speed(trials(files[:1], TWO), Opener(), surroundings))


@pytest.mark.parametrize(
    "settings",
    [
        {"prompts": (0,), "generations": (0,)},
        {"prompts": (-1,)},
        {"repetitions": 0},
        {"delay_s": -1.0},
        {"delay_s": float("nan")},
        {"depths": (-1,)},
        {"pairs": ((512, -1),)},
    ],
    ids=str,
)
def test_what_cannot_be_measured_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        SpeedConfig(**settings)  # type: ignore[arg-type]
