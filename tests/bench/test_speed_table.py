"""Rows as they are read."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from amalia_bench import speed_table
from amalia_bench.machine import Machine
from amalia_bench.speed import Case, Weather
from amalia_bench.speed_row import speed_record

from .conftest import IDENTITY, measurement

LONG = Path("AMALIA-9B-0626-DPO-with-a-very-long-name-Q4_K_M.gguf")


@pytest.fixture
def rows(machine: Machine) -> list[dict[str, Any]]:
    cases, weather = (Case(prompt=512), Case(generated=128)), Weather(read_gbps=0.001)
    return [
        speed_record(measurement(case, path, weather=weather), machine, IDENTITY) | {"in_cache": False}
        for case in cases
        for path in (Path("toy-Q8_0.gguf"), LONG)
    ]


def printed(rows: list[dict[str, Any]], machine: Machine) -> list[str]:
    text = io.StringIO()
    Console(file=text, width=speed_table.WIDTH, highlight=False).print(speed_table.table(rows, machine))
    return text.getvalue().splitlines()


def test_the_table_is_at_most_80_columns_wide(rows: list[dict[str, Any]], machine: Machine) -> None:
    slow = {
        "avg_ts": 0.0312,
        "stddev_ts": 0.0001,
        "load_s": 1234.5,
        "model_size": 18_304_638_976,
        "peak_rss": 19_000_000_000,
    }
    fast = {"avg_ts": 123456.7, "stddev_ts": 12345.6, "engine_ts": 98765.4, "engine_stddev_ts": 5432.1}
    lines = printed([{**row, **slow, **fast} for row in rows], machine)
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)  # nothing is cut off
    assert any("123457 ± 12346" in line for line in lines)


def test_the_table_names_the_machine_and_what_is_compiled_in(rows: list[dict[str, Any]], machine: Machine) -> None:
    text = "\n".join(printed(rows, machine))
    for part in ("A CPU", "2 cores", "threads used: 2", "llama-cpp-python 0.3.36", "zig 0.16.0", "AMX_INT8"):
        assert part in text


def test_a_models_rows_stand_together_under_its_name(rows: list[dict[str, Any]], machine: Machine) -> None:
    lines = printed(rows, machine)
    start = lines.index("toy-Q8_0")
    told = [next((line for line in lines[start:] if line.startswith(name)), "") for name in ("pp512", "tg128")]
    end = lines.index(LONG.stem)
    assert [lines.index(line) < end for line in told] == [True, True]


def test_settings_are_named_where_they_differ_and_only_there(rows: list[dict[str, Any]]) -> None:
    one, other = {**rows[0], "n_threads": 1}, {**rows[0], "n_threads": 4}
    assert speed_table.heading(one, [one, other]) == "toy-Q8_0 -t 1"
    assert len(speed_table.groups([one, other])) == 2
    assert speed_table.heading(one, [one]) == "toy-Q8_0"
    one, other = {**one, "large_pages": True}, {**one, "large_pages": False}
    assert speed_table.heading(other, [one, other]) == "toy-Q8_0 --large-pages off"


def test_the_share_of_the_roofline_stands_beside_writing_only(rows: list[dict[str, Any]], machine: Machine) -> None:
    lines = printed(rows, machine)
    written = rows[2]["roofline_share"]
    assert any(f"{written:.0%}" in line for line in lines if line.startswith("tg128"))
    assert not any("%" in line for line in lines if line.startswith("pp512"))


def test_a_share_above_one_is_explained(rows: list[dict[str, Any]], machine: Machine) -> None:
    text = "\n".join(printed([{**row, "roofline_share": 1.3} for row in rows], machine))
    assert "processor's cache" in text
    assert "processor's cache" not in "\n".join(printed([{**row, "roofline_share": 0.9} for row in rows], machine))


def test_of_a_model_in_the_cache_no_share_is_told(rows: list[dict[str, Any]], machine: Machine) -> None:
    text = "\n".join(printed([{**row, "roofline_share": 0.6, "in_cache": True} for row in rows], machine))
    assert "60%" not in text
    assert "fits into the processor's cache" in text


def test_another_program_stands_below_with_the_ratio_and_its_spread(rows: list[dict[str, Any]]) -> None:
    other = {"name": "llama-bench 0c1e570", "figure": "avg_ts", "avg_ts": 90.0, "stddev_ts": 1.0, "ratio": 1.0125, "ratio_stddev": 0.02}  # fmt: skip
    line = speed_table.against_line({**rows[2], "against": other})
    assert line == "toy-Q8_0 tg128: llama-bench 0c1e570 90.00 ± 1.00 t/s; our decode is 1.012 ± 0.020 × of it"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"throttled": True, "drift": 0.8}, "slowed down by 20% during tg128: cool the machine"),
        ({"throttled": True, "drift": None}, "slowed down during tg128: cool the machine"),
        ({"roofline_share": 0.9}, "only a smaller level would write sooner"),
        ({"roofline_share": 0.5}, "50% of what this memory allows: try other -t"),
        ({"roofline_share": 1.4}, "from the processor's cache"),
        ({"roofline_share": 0.5, "in_cache": True}, "from the processor's cache"),
        ({"roofline_share": None}, "what its level loses, amalia bench quality tells"),
    ],
    ids=str,
)
def test_the_last_line_says_what_to_do(rows: list[dict[str, Any]], change: dict[str, Any], said: str) -> None:
    advice = speed_table.advice([rows[0], {**rows[2], **change}])
    assert said in advice
    assert advice.endswith(".")


def test_with_prompts_alone_the_last_line_speaks_of_reading(rows: list[dict[str, Any]]) -> None:
    assert "a page of 500 tokens takes 2.0 s" in speed_table.advice(rows[:1])


@pytest.mark.parametrize(
    ("mean", "stdev", "shown"),
    [(18.518, 0.043, "18.52 ± 0.04"), (221.34, 1.25, "221.3 ± 1.2"), (12345.6, 67.2, "12346 ± 67")],
)
def test_a_rate_has_the_digits_it_bears(mean: float, stdev: float, shown: str) -> None:
    assert speed_table.rate(mean, stdev) == shown


def test_markdown_has_a_row_for_each_test_and_its_machine(rows: list[dict[str, Any]], machine: Machine) -> None:
    text = speed_table.markdown(rows, machine)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(rows)
    assert len({line.count("|") for line in lines}) == 1
    assert "A CPU" in text


def test_markdown_survives_a_bar_in_a_name(machine: Machine) -> None:
    row = speed_record(measurement(path=Path("a|b.gguf")), machine, IDENTITY)
    assert "a\\|b" in speed_table.markdown([row], machine)


def test_csv_reads_back_and_leaves_the_samples_out(rows: list[dict[str, Any]]) -> None:
    found = list(csv.DictReader(io.StringIO(speed_table.comma_separated(rows))))
    assert [row["test"] for row in found] == ["pp512", "pp512", "tg128", "tg128"]
    assert float(found[0]["avg_ts"]) == rows[0]["avg_ts"]
    assert not {"samples_ts", "machine", "model", "alarms"} & set(found[0])


def test_json_is_a_bare_list_and_json_lines_are_its_rows(rows: list[dict[str, Any]]) -> None:
    assert json.loads(speed_table.json_array(rows)) == rows
    assert [json.loads(line) for line in speed_table.json_lines(rows).splitlines()] == rows


def test_comma_separated_lines_tell_the_ratio_to_another_program(rows: list[dict[str, Any]]) -> None:
    beside = {
        "program": "llama-bench",
        "name": "llama-bench b1",
        "ratio": 1.01,
        "ratio_stddev": 0.02,
        "figure": "avg_ts",
    }
    told = speed_table.comma_separated([rows[0], rows[1] | {"against": beside}])
    found = [(row["against"], row["against_ratio"]) for row in csv.DictReader(io.StringIO(told))]
    assert found == [("", ""), ("llama-bench b1", "1.01")]
