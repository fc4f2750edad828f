"""Energy as a person reads it."""

from typing import Any

from rich.console import Console

from amalia_bench.energy_table import advice, table

ROW: dict[str, Any] = {
    "test": "tg128",
    "engine_ts": 12.3456,
    "watts": 25.04,
    "idle_watts": 5.1,
    "joules_per_token": 1.61512,
    "joules_per_token_ci95": [1.58, 1.65],
    "joules_per_token_gross": 2.0,
    "tokens_per_joule": 0.619149,
    "trace": [[0.0, None, None], [0.5, 25.0, 50.0], [1.0, 25.0, 61.4]],
    "alarms": [],
    "notes": [],
    "warm_up_s": 20.0,
    "whole": True,
}


def shown(**changes: Any) -> str:
    console = Console(width=120)
    with console.capture() as caught:
        console.print(table([ROW | changes]))
    return caught.get()


def test_a_figure_stands_with_its_interval_and_its_heat() -> None:
    assert shown().splitlines()[1].split() == [
        "tg128",
        "12.3",
        "25.0",
        "5.1",
        "1.62",
        "[1.58,",
        "1.65]",
        "0.619",
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
