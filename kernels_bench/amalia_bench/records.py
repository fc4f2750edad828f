"""Records: each measurement one JSON line, with the machine, the library and the file it belongs to.

A line is whole or absent: half of one, which a power cut left at the end, was never a measurement. What a later version
wrote is refused, not guessed at; what an earlier one wrote is read.
"""

import dataclasses
import datetime
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from amalia_bench.identity import Identity
from amalia_bench.machine import Library, Machine
from amalia_edge import __version__
from amalia_edge.errors import BenchError, UsageError

FORMAT = 2
KINDS = ("speed", "kernels", "bandwidth", "shape", "quality", "tasks", "variety", "energy")
BEGINNING = b'{"amalia_format"'  # of a line

Row = dict[str, Any]


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def record(
    kind: str, body: Mapping[str, Any], machine: Machine, library: Library, model: Identity | None = None
) -> Row:
    """Make a measurement's row: what it belongs to, then what was measured."""
    assert kind in KINDS, kind
    stamp: Row = {
        "amalia_format": FORMAT,
        "kind": kind,
        "amalia_version": __version__,
        "test_time": now(),
        "machine": dataclasses.asdict(machine),
        "library": dataclasses.asdict(library),
    }
    if model is not None:
        stamp["model"] = dataclasses.asdict(model)
    return json.loads(json.dumps({**stamp, **body}, allow_nan=True))  # type: ignore[no-any-return]  # tuples are lists


def take_up(path: Path | None, resume: bool) -> list[Row]:
    """Make sure, before anything is measured, that rows can be added to a file; to resume, give those it holds."""
    if path is None:
        if resume:
            raise UsageError("--resume", "no --records FILE", "say which file holds what was measured")
        return []
    try:
        is_new = not path.exists()
        _open(path).close()
        if is_new:
            path.unlink()  # until there is something in it
    except OSError as problem:
        raise _unwritable(path, problem) from None
    held = read(path) if path.is_file() else []  # a device has no end
    return held if resume else []


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row to a file of records; what was there stays, but for half a line at its end."""
    line = json.dumps(row, ensure_ascii=False) + "\n"
    try:
        with _open(path) as file:
            _end_line(file)
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as problem:
        raise _unwritable(path, problem) from None


def read(path: Path) -> list[Row]:
    """Give a file's rows, in their order; half a line at the end is left out, any other that is no record is an error."""
    rows = []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip() and not _is_half(line):
                    rows.append(_parsed(line, f"{path.name}: line {number}"))
    except OSError as problem:
        raise BenchError(path.name, problem.strerror or "unreadable", "give a file of records, *.jsonl") from None
    return rows


def _open(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("ab+")


def _end_line(file: BinaryIO) -> None:
    """Have a file end where a line ends: cut half a line off, close a whole one."""
    if not file.tell():
        return
    file.seek(-1, os.SEEK_END)
    if file.read(1) == b"\n":
        return
    file.seek(0)
    content = file.read()
    end = content.rfind(b"\n") + 1
    if _is_half(content[end:]):
        file.truncate(end)
    else:
        file.write(b"\n")


def _is_half(line: bytes) -> bool:
    """Say whether a line is one of ours that was not written to its end."""
    if line.endswith(b"\n") or not BEGINNING.startswith(line[: len(BEGINNING)]):
        return False
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return True
    return False


def _unwritable(path: Path, problem: OSError) -> BenchError:
    found = f"cannot be written ({problem.strerror or problem})"
    return BenchError(str(path), found, "name another file with --records")


def _parsed(line: bytes, where: str) -> Row:
    try:
        return _checked(json.loads(line), where)
    except (ValueError, RecursionError):
        raise BenchError(where, "no JSON", "take the line out, or measure again") from None


def _checked(row: Any, where: str) -> Row:
    if not isinstance(row, dict) or not isinstance(row.get("amalia_format"), int):
        raise BenchError(where, "not a record of amalia bench", "give a file that --records wrote")
    if row["amalia_format"] > FORMAT:
        found = f"format {row['amalia_format']}, and this is amalia {__version__}, which reads up to {FORMAT}"
        raise BenchError(where, found, "update amalia-edge")
    return {"kind": "speed", **row}  # format 1 knew no other
