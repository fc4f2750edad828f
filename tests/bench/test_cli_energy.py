"""`amalia bench energy` from the outside, with a tiny model and the meters of a recorded machine."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from amalia_bench import records
from amalia_bench.cli.energy import _same, energy
from amalia_bench.energy import EnergyConfig
from amalia_bench.identity import identify
from amalia_bench.machine import this_machine
from amalia_bench.sensors import Rails, Wall
from amalia_edge.errors import BenchError, UsageError
from amalia_edge.load_config import LoadConfig

MACHINES = Path(__file__).parents[1] / "machines"
NANO = ("--root", str(MACHINES / "orin-nano"))
QUICK = ("--seconds", "1", "--idle", "1", "--warm-up", "0", "--n-prompt", "0", "--n-gen", "20", "-t", "1")


def run(*words: str, told: str = "") -> Result:
    return CliRunner().invoke(energy, list(words), input=told, catch_exceptions=False, standalone_mode=False)


@pytest.fixture(scope="module")
def measured(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    file = tmp_path_factory.mktemp("energy") / "records.jsonl"
    return file, json.loads(run(str(tiny), *QUICK, *NANO, "--records", str(file), "--json").output)


def test_json_is_the_envelope_with_the_records(measured: tuple[Path, dict[str, Any]]) -> None:
    file, told = measured
    assert told["command"] == "bench energy"
    assert told["result"]["rows"] == records.read(file)


def test_a_record_names_machine_file_source_and_settings(measured: tuple[Path, dict[str, Any]], tiny: Path) -> None:
    (row,) = measured[1]["result"]["rows"]
    assert (row["kind"], row["test"], row["source"], row["threads"]) == ("energy", "tg20", "rails", 1)
    assert row["model"]["file"] == tiny.name
    assert "Orin Nano" in row["machine"]["board"]
    assert row["watts"] == pytest.approx(5.64)
    assert row["tokens"] > 0
    assert row["trace"][0][2] == 48.25


def test_what_was_measured_is_not_measured_again(measured: tuple[Path, dict[str, Any]], tiny: Path) -> None:
    file, told = measured
    again = run(str(tiny), *QUICK, *NANO, "--records", str(file), "--resume", "--json")
    assert json.loads(again.output) == told
    assert len(records.read(file)) == 1


@pytest.mark.parametrize("other", [("--warm-up", "1"), ("-t", "2"), ("--seconds", "2"), ("--source", "wall")])
def test_other_settings_are_another_measurement(
    measured: tuple[Path, dict[str, Any]], tiny: Path, other: tuple[str, str]
) -> None:
    given = dict(zip(QUICK[::2], QUICK[1::2], strict=True)) | {"--source": "rails"}

    def same(words: dict[str, str]) -> bool:
        config = EnergyConfig(
            float(words["--seconds"]), 1.0, float(words["--warm-up"]), 0, 20, LoadConfig(threads=int(words["-t"]))
        )
        source = Wall() if words["--source"] == "wall" else Rails([], "")
        machine = this_machine(MACHINES / "orin-nano")
        return _same(measured[1]["result"]["rows"][0], config, machine, identify(tiny), [source])

    assert same(given)
    assert not same(given | dict([other]))


def test_a_person_reads_the_meter_and_gets_a_table_and_a_sentence(tiny: Path) -> None:
    shown = run(str(tiny), *QUICK, *NANO, "--source", "wall", told="7\nlots\n-3\n12.5\n")
    assert shown.return_value == 0
    assert "wall: everything that hangs on the meter" in shown.output
    assert "12.5" in shown.output
    assert "7.0" in shown.output
    assert "°C" in shown.output
    assert shown.output.rstrip().endswith(".")


def test_a_machine_without_meters_is_told_so_before_anything_is_loaded(tiny: Path) -> None:
    with pytest.raises(BenchError, match="not measurable here"):
        run(str(tiny), *QUICK, "--root", str(MACHINES / "mac-m2"))


def test_what_its_error_advises_can_be_typed(tiny: Path) -> None:
    with pytest.raises(UsageError) as refused:
        run(str(tiny), "-p", "0", "-n", "0")
    advised = refused.value.advice.partition("as in ")[2].split()
    context = energy.make_context("energy", [str(tiny), *advised])
    assert [context.params[name] for name in ("prompt", "generated")] == [512, 128]


def test_resuming_needs_a_file(tiny: Path) -> None:
    with pytest.raises(UsageError, match="--records FILE"):
        run(str(tiny), *QUICK, *NANO, "--resume")
