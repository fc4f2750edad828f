"""Rows as they are read."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from amalia_bench import report
from amalia_bench.machine import Machine
from amalia_bench.records import speed_row
from amalia_bench.speed import Case

from .conftest import measurement

LONG = Path("AMALIA-9B-0626-DPO-with-a-very-long-name-Q4_K_M.gguf")


@pytest.fixture
def rows(machine: Machine) -> list[dict[str, Any]]:
    cases = (Case(prompt=512), Case(generated=128))
    return [speed_row(measurement(case, path), machine) for case in cases for path in (Path("toy-Q8_0.gguf"), LONG)]


def printed(rows: list[dict[str, Any]], machine: Machine) -> list[str]:
    text = io.StringIO()
    Console(file=text, width=report.WIDTH, highlight=False).print(report.table(rows, machine))
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
    start = next(index for index, line in enumerate(lines) if line.startswith("toy-Q8_0"))
    assert "pp512" in lines[start]
    assert "tg128" in lines[start + 1]
    assert "toy" not in lines[start + 1]


@pytest.mark.parametrize(
    ("mean", "stdev", "shown"),
    [(18.518, 0.043, "18.52 ± 0.04"), (221.34, 1.25, "221.3 ± 1.2"), (12345.6, 67.2, "12346 ± 67")],
)
def test_a_rate_has_the_digits_it_bears(mean: float, stdev: float, shown: str) -> None:
    assert report.rate(mean, stdev) == shown


def test_markdown_has_a_row_for_each_test_and_its_machine(rows: list[dict[str, Any]], machine: Machine) -> None:
    text = report.markdown(rows, machine)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(rows)
    assert len({line.count("|") for line in lines}) == 1
    assert "A CPU" in text


def test_markdown_survives_a_bar_in_a_name(machine: Machine) -> None:
    row = speed_row(measurement(path=Path("a|b.gguf")), machine)
    assert "a\\|b" in report.markdown([row], machine)


def test_csv_reads_back_and_leaves_the_samples_out(rows: list[dict[str, Any]]) -> None:
    found = list(csv.DictReader(io.StringIO(report.comma_separated(rows))))
    assert [row["test"] for row in found] == ["pp512", "pp512", "tg128", "tg128"]
    assert float(found[0]["avg_ts"]) == rows[0]["avg_ts"]
    assert not [name for name in found[0] if name.startswith("samples")]


def test_json_is_a_bare_list_and_json_lines_are_its_rows(rows: list[dict[str, Any]]) -> None:
    assert json.loads(report.json_array(rows)) == rows
    assert [json.loads(line) for line in report.json_lines(rows).splitlines()] == rows
