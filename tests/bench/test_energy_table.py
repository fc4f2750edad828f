"""Energy as a person reads it."""

import dataclasses
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from rich.console import Console

from amalia_bench import records
from amalia_bench.cli.door import bench
from amalia_bench.energy_table import advice, table
from bench.example_records import JETSON, energy_body, row

ROW: dict[str, Any] = energy_body(18.0, trace=[[0.0, None, None], [0.5, 25.0, 50.0], [1.0, 25.0, 61.4]])


def shown(**changes: Any) -> str:
    console = Console(width=120)
    with console.capture() as caught:
        console.print(table([ROW | changes]))
    return caught.get()


def test_a_figure_stands_with_its_interval_and_its_heat() -> None:
    assert shown().splitlines()[1].split() == [
        "tg128",
        "9.0",
        "18.0",
        "4.1",
        "1.54",
        "[1.51,",
        "1.58]",
        "0.647",
        "50",
        "to",
        "61",
        "no",
    ]


def test_without_a_thermometer_no_heat_is_told() -> None:
    assert "not told" in shown(trace=[[0.0, 1.0, None]])


def test_what_was_not_seen_is_no_number() -> None:
    assert "none told" in shown(joules_per_token=None, tokens_per_joule=None)


def test_the_sentence_tells_what_a_watt_hour_writes() -> None:
    assert advice([ROW | {"test": "pp512", "joules_per_token_gross": 0.1}, ROW]).startswith(
        "One watt-hour writes 1,800 tokens"
    )


def test_the_sentence_of_a_throttled_run_asks_for_a_cooler_one() -> None:
    assert "cool the machine" in advice([ROW | {"alarms": [[3.0, "core throttled 3×"]]}])


def test_the_sentence_of_an_unsettled_run_asks_for_a_longer_warm_up() -> None:
    assert "--warm-up 40" in advice([ROW | {"notes": ["no steady state: the power went up by 9%"]}])


def test_the_sentence_of_a_source_that_sees_nothing_names_others() -> None:
    assert "--source wall" in advice([ROW | {"joules_per_token": None}])


def test_the_sentence_of_a_broken_run_says_how_to_go_on() -> None:
    assert "--resume" in advice([ROW, ROW | {"whole": False}])


def test_the_sentence_of_a_busy_machine_asks_for_quiet() -> None:
    assert "Something else ran" in advice([ROW | {"notes": ["idling was unquiet: 15.9 ± 3.0 W"]}])


def test_the_sentence_names_what_compares_power_modes(tmp_path: Path) -> None:
    option = advice([ROW]).rstrip(".").rpartition(" ")[2]
    for mode in ("25W", "7W"):
        machine = dataclasses.replace(JETSON, board=f"Jetson Orin Nano, L4T 36.4.7, mode {mode}")
        records.append(tmp_path / mode, row("energy", ROW, machine=machine))
    words = ["compare", str(tmp_path / "25W"), str(tmp_path / "7W"), option]
    told = CliRunner().invoke(bench, words, catch_exceptions=False, standalone_mode=False)
    assert "J/token" in told.stdout
