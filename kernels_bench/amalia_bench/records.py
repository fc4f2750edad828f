"""Records: each measurement one JSON line, with the machine, the library and the file it belongs to.

A line is whole or absent. What a later version wrote is refused, not guessed at; what an earlier one wrote is read.
"""

import dataclasses
import datetime
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amalia_bench.identity import Identity
from amalia_bench.machine import Library, Machine
from amalia_edge import __version__
from amalia_edge.errors import BenchError

FORMAT = 2
KINDS = ("speed", "kernels", "bandwidth", "shape", "quality", "tasks", "variety", "energy")

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


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row to a file of records; what was there stays, and half a line that a power cut left is closed first."""
    line = json.dumps(row, ensure_ascii=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = "\n" + line
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> list[Row]:
    """Give a file's rows, in their order; half a line at the end is left out, any other that is no record is an error."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as problem:
        raise BenchError(path.name, problem.strerror or "unreadable", "give a file of records, *.jsonl") from None
    whole = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    rows = []
    for number, line in whole:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            if number == len(lines):
                break
            raise BenchError(f"{path.name}: line {number}", "no JSON", "take the line out, or measure again") from None
        rows.append(_checked(row, f"{path.name}: line {number}"))
    return rows


def _checked(row: Any, where: str) -> Row:
    if not isinstance(row, dict) or not isinstance(row.get("amalia_format"), int):
        raise BenchError(where, "not a record of amalia bench", "give a file that --records wrote")
    if row["amalia_format"] > FORMAT:
        found = f"format {row['amalia_format']}, and this is amalia {__version__}, which reads up to {FORMAT}"
        raise BenchError(where, found, "update amalia-edge")
    return {"kind": "speed", **row}  # format 1 knew no other
