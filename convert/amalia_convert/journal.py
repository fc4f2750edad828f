"""How far a conversion has come: lines of JSON beside the hidden file, so that the same command goes on after a kill.

The first line is the key, which changes with everything the bytes depend on; each further one is a `Mark`, added when
what it tells of lies on the disk. A line cut short by a kill is as if it were not there.
"""

import dataclasses
import json
from dataclasses import dataclass, field

Faults = tuple[int, int]  # values that are not numbers, and infinite ones


@dataclass(frozen=True)
class Mark:
    """How far the work is done."""

    done: int = 0  # bytes of the sources, through all shards, whose blocks are on the disk
    hashes: dict[str, str] = field(default_factory=dict)  # SHA-256 of the shards that have been read to their end
    prefix: str = ""  # SHA-256 of the shard that `done` lies in, up to there
    seconds: float = 0.0  # of work so far
    faults: dict[str, Faults] = field(default_factory=dict)  # by tensor, where they were allowed
    warnings: list[str] = field(default_factory=list)  # of the vocabulary
    sealed: dict[str, str] = field(default_factory=dict)  # once all is written: SHA-256 of every output of the command


def first_line(key: str) -> bytes:
    return _line({"key": key})


def mark_line(mark: Mark) -> bytes:
    return _line(dataclasses.asdict(mark))


def last_mark(content: bytes, key: str) -> Mark | None:
    """Find the last whole mark of a journal, or None where it is not ours to go on with."""
    lines = content.splitlines(keepends=True)
    if not lines or lines[0] != first_line(key):
        return None
    for line in reversed(lines[1:]):
        try:
            table = json.loads(line) if line.endswith(b"\n") else None
            if isinstance(table, dict):
                table["faults"] = {name: (int(nans), int(more)) for name, (nans, more) in table["faults"].items()}
                return Mark(**table)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue
    return Mark()


def _line(table: dict[str, object]) -> bytes:
    return json.dumps(table).encode() + b"\n"
