"""Records: lines that are whole or absent, and those of another version."""

import json
import os
from pathlib import Path

import pytest

from amalia_bench.machine import Machine
from amalia_bench.records import FORMAT, Row, append, read, record, take_up
from amalia_edge.errors import BenchError, UsageError

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


@pytest.mark.parametrize("half", ["{", '{"amalia_format": 2, "ki', '{"amalia_format": 2, "name": "Amá'])
def test_half_a_line_that_a_power_cut_left_is_read_over_and_cut_off_by_the_next(
    row: Row, tmp_path: Path, half: str
) -> None:
    file = tmp_path / "run.jsonl"
    append(file, row)
    with file.open("ab") as cut:
        cut.write(half.encode()[: -1 if half.endswith("á") else None])
    assert read(file) == [row]
    append(file, row | {"test": "pp512"})
    assert [found["test"] for found in read(file)] == ["tg128", "pp512"]


def test_half_a_line_alone_in_its_file_is_none(row: Row, tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    file.write_text('{"amalia_format": 2, "ki')
    assert read(file) == []
    append(file, row)
    assert read(file) == [row]


def test_a_whole_line_that_lost_its_end_stays(row: Row, tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    file.write_text(json.dumps(row))
    append(file, row)
    assert read(file) == [row, row]


def test_half_a_line_in_the_middle_is_named(row: Row, tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    file.write_text(json.dumps(row) + '\n{"amalia_format": 2, "ki\n' + json.dumps(row) + "\n")
    with pytest.raises(BenchError, match="line 2: no JSON"):
        read(file)


def test_a_file_that_holds_no_records_loses_nothing_and_is_refused_before_the_start(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_bytes(b"bread\nmilk")
    with pytest.raises(BenchError, match=r"notes\.txt: line 1: no JSON"):
        take_up(file, resume=False)
    append(file, {})
    assert file.read_bytes().startswith(b"bread\nmilk\n")


def test_what_a_file_holds_is_taken_up_only_to_resume(row: Row, tmp_path: Path) -> None:
    file = tmp_path / "new" / "run.jsonl"
    assert take_up(file, resume=True) == []
    append(file, row)
    assert take_up(file, resume=True) == [row]
    assert take_up(file, resume=False) == []
    assert take_up(None, resume=False) == []


def test_to_resume_a_file_is_needed() -> None:
    with pytest.raises(UsageError, match="--resume: no --records FILE"):
        take_up(None, resume=True)


@pytest.mark.parametrize("place", ["folder", "file/below.jsonl"])
def test_an_impossible_place_is_one_clear_line_before_the_start_and_later(row: Row, tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(BenchError, match=rf"{place}: cannot be written \(.+\); name another file with --records"):
        take_up(tmp_path / place, resume=False)
    with pytest.raises(BenchError, match=f"{place}: cannot be written"):
        append(tmp_path / place, row)


def test_what_cannot_be_added_to_is_one_clear_line(row: Row) -> None:
    reading, writing = os.pipe()
    try:
        with pytest.raises(BenchError, match=r"cannot be written \(.+\)"):
            take_up(Path(f"/dev/fd/{writing}"), resume=False)
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_a_full_disk_is_one_clear_line(row: Row) -> None:
    full = Path("/dev/full")
    assert take_up(full, resume=True) == []
    with pytest.raises(BenchError, match=r"/dev/full: cannot be written \(No space left on device\)"):
        append(full, row)


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
