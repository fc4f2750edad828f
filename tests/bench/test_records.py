"""Records: lines that are whole or absent, and those of another version."""

import json
from pathlib import Path

import pytest

from amalia_bench.machine import Machine
from amalia_bench.records import FORMAT, Row, append, read, record
from amalia_edge.errors import BenchError

from .conftest import IDENTITY, LIBRARY


@pytest.fixture
def row(machine: Machine) -> Row:
    return record("speed", {"test": "tg128", "samples": (1, 2)}, machine, LIBRARY, IDENTITY)


def test_what_was_appended_is_read_back_in_order(row: Row, tmp_path: Path) -> None:
    file = tmp_path / "new" / "run.jsonl"
    append(file, row)
    append(file, row | {"test": "pp512"})
    assert [found["test"] for found in read(file)] == ["tg128", "pp512"]
    assert read(file)[0] == row


def test_a_record_says_what_it_belongs_to(row: Row) -> None:
    assert (row["amalia_format"], row["kind"], row["model"]["name"]) == (FORMAT, "speed", "toy")
    assert (row["machine"]["cpu"], row["library"]["compiler"]) == ("A CPU", "zig 0.16.0")


def test_half_a_line_at_the_end_is_left_out_and_closed_by_the_next(row: Row, tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    append(file, row)
    with file.open("a") as half:
        half.write('{"amalia_format": 2, "ki')
    assert len(read(file)) == 1
    append(file, row)
    with pytest.raises(BenchError, match="line 2"):
        read(file)


def test_a_line_that_is_no_record_is_named(row: Row, tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    file.write_text(json.dumps(row) + "\n[1, 2]\n" + json.dumps(row) + "\n")
    with pytest.raises(BenchError, match="line 2: not a record"):
        read(file)


def test_a_record_of_a_newer_format_is_refused(row: Row, tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    append(file, row | {"amalia_format": FORMAT + 1})
    with pytest.raises(BenchError, match=f"format {FORMAT + 1}.*update"):
        read(file)


def test_a_record_of_format_1_is_one_of_speed(tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    append(file, {"amalia_format": 1, "test": "tg128"})
    assert read(file)[0]["kind"] == "speed"


def test_a_missing_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"absent\.jsonl: No such file"):
        read(tmp_path / "absent.jsonl")
