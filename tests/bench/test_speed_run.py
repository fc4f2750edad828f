"""What a file of records holds already, and rows that are kept as they come."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from amalia_bench.clock import Sample
from amalia_bench.identity import identify
from amalia_bench.machine import Machine
from amalia_bench.records import Row, read
from amalia_bench.speed import Case, SpeedConfig, Subject, Surroundings, Turn, trials
from amalia_bench.speed_run import run_speed, split
from amalia_edge.load_config import LoadConfig

from .conftest import facts

CONFIG = SpeedConfig(prompts=(8,), generations=(4,), repetitions=1, load=LoadConfig(threads=2))


class Recorded:
    def __init__(self, path: Path) -> None:
        self.facts = facts(path)

    def measure(self, case: Case) -> Turn:
        if case.generated == 666:
            raise KeyboardInterrupt
        return Turn(Sample(case.tokens, 1000), Sample(case.tokens, 1000), 500)


@contextlib.contextmanager
def opener(path: Path, config: SpeedConfig) -> Iterator[Subject]:
    yield Recorded(path)


def run(tiny: Path, config: SpeedConfig, machine: Machine, keep: Path | None = None) -> Iterator[Row]:
    return run_speed(trials([tiny], config), machine, opener=opener, surroundings=Surroundings(), keep=keep)


def test_each_row_is_in_the_file_before_the_next_is_measured(tiny: Path, machine: Machine, tmp_path: Path) -> None:
    keep = tmp_path / "run.jsonl"
    counts = [len(read(keep)) for _ in run(tiny, CONFIG, machine, keep)]
    assert counts == [1, 2]


def test_what_was_measured_before_ctrl_c_is_in_the_file(tiny: Path, machine: Machine, tmp_path: Path) -> None:
    keep = tmp_path / "run.jsonl"
    config = SpeedConfig(prompts=(8,), generations=(666,), repetitions=1)
    with pytest.raises(KeyboardInterrupt):
        list(run(tiny, config, machine, keep))
    assert [row["test"] for row in read(keep)] == ["pp8"]


def test_known_tests_are_not_measured_again(tiny: Path, machine: Machine) -> None:
    (known, _) = run(tiny, CONFIG, machine)
    rows, left = split(trials([tiny], CONFIG), [known], machine)
    assert rows == [known]
    assert [case.name for trial in left for case in trial.cases] == ["tg4"]


def test_a_model_with_nothing_left_is_not_loaded(tiny: Path, machine: Machine) -> None:
    known = list(run(tiny, CONFIG, machine))
    assert split(trials([tiny], CONFIG), known, machine) == (known, [])


def test_a_record_of_other_settings_is_not_the_same_test(tiny: Path, machine: Machine) -> None:
    known = list(run(tiny, CONFIG, machine))
    other = trials([tiny], SpeedConfig(prompts=(8,), generations=(4,), load=LoadConfig(threads=2, batch=64)))
    assert split(other, known, machine) == ([], other)


def test_a_changed_file_is_measured_again(tiny: Path, machine: Machine, tmp_path: Path) -> None:
    known = list(run(tiny, CONFIG, machine))
    changed = tmp_path / tiny.name
    changed.write_bytes(tiny.read_bytes() + b"\0" * 32)
    assert identify(changed).sha256 != identify(tiny).sha256
    assert split(trials([changed], CONFIG), known, machine)[0] == []


def test_a_record_beside_another_program_is_another_test(tiny: Path, machine: Machine) -> None:
    known = list(run(tiny, CONFIG, machine))
    assert split(trials([tiny], CONFIG), known, machine, "llama-bench")[0] == []


def test_records_of_other_kinds_are_passed_over(tiny: Path, machine: Machine) -> None:
    (known, _) = run(tiny, CONFIG, machine)
    assert split(trials([tiny], CONFIG), [{**known, "kind": "shape"}, {"kind": "bandwidth"}], machine)[0] == []
