"""What is measured, in which order."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from amalia_bench.clock import Sample
from amalia_bench.speed import Case, SpeedConfig, Turn, fit_together, measure_speed, steps
from amalia_edge.errors import UsageError

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
    list(measure_speed(files, TWO, opener))
    assert opener.events[2:10] == ["a pp8", "b pp8", "a pp8", "b pp8", "a tg4", "b tg4", "a tg4", "b tg4"]


def test_models_too_large_together_are_measured_one_after_the_other(files: list[Path]) -> None:
    opener = Opener()
    measured = list(measure_speed(files, TWO, opener, available=3999))
    assert opener.events.index("a closes") < opener.events.index("b opens")
    assert not any(measurement.interleaved for measurement in measured)


def test_models_that_just_fit_take_turns(files: list[Path]) -> None:
    assert fit_together(files, available=4000)
    assert not fit_together(files, available=3999)


def test_one_model_is_measured_whatever_its_size(files: list[Path]) -> None:
    assert fit_together(files[:1], available=1)


def test_each_model_and_case_gets_one_measurement_of_all_repetitions(files: list[Path]) -> None:
    measured = list(measure_speed(files, TWO, Opener()))
    assert {(found.facts.path, found.case.name) for found in measured} == {(path, name) for path in files for name in ("pp8", "tg4")}  # fmt: skip
    assert all(len(found.decode.samples) == len(found.engine.samples) == 2 for found in measured)


def test_a_measurement_holds_its_own_models_samples(files: list[Path]) -> None:
    # The fake's times count its calls: opening twice, then a, b, a, b.
    first, second = list(measure_speed(files, TWO, Opener()))[:2]
    assert (first.decode.samples_ns, second.decode.samples_ns) == ([3, 5], [4, 6])


def test_the_watcher_hears_of_every_step(files: list[Path]) -> None:
    heard: list[int] = []
    list(measure_speed(files, TWO, Opener(), watch=lambda: heard.append(1)))
    assert len(heard) == steps(files, TWO) == 10


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
        list(measure_speed(files, TWO, opener))
    assert closed == files[:1]


def test_zero_leaves_a_test_out() -> None:
    assert [case.name for case in SpeedConfig(prompts=(0,), generations=(16, 32)).cases] == ["tg16", "tg32"]


def test_the_context_holds_the_longest_test() -> None:
    assert SpeedConfig(prompts=(64,), generations=(900,)).context == 901


@pytest.mark.parametrize(
    "settings",
    [
        {"prompts": (0,), "generations": (0,)},
        {"prompts": (-1,)},
        {"repetitions": 0},
        {"delay_s": -1.0},
        {"delay_s": float("nan")},
    ],
    ids=str,
)
def test_what_cannot_be_measured_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        SpeedConfig(**settings)  # type: ignore[arg-type]
