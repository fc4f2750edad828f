"""Where a figure was measured: the machine and the library, without which no table is shown."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from amalia_edge.console import megabytes, plain

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Place:
    """A machine and the libllama on it; two rows may stand in one table if these are equal."""

    machine: str
    library: str
    features: str

    def __str__(self) -> str:
        return f"{self.machine}; {self.library}"


def place(row: Row) -> Place:
    """Read where a row was measured; rows of format 1 name a processor only."""
    library = row.get("library")
    if not isinstance(library, Mapping):
        built = f" built by {row['compiler']}" if row.get("compiler") else ""
        return Place(
            machine(row),
            plain(f"{row.get('build_commit', 'library not named')}{built}"),
            plain(str(row.get("features", ""))),
        )
    built = f" built by {library['compiler']}" if library.get("compiler") else ""
    features = " ".join(map(str, library.get("features", ())))
    devices = [str(name) for name in library.get("devices", ()) if not str(name).startswith("CPU")]
    beside = f" on {', '.join(devices)}" if devices else ""
    return Place(machine(row), plain(f"{library.get('version', 'library not named')}{built}{beside}"), plain(features))


def machine(row: Row) -> str:
    """Name a row's machine, with all that a speed depends on and nothing that changes from day to day."""
    told = row.get("machine")
    if not isinstance(told, Mapping):
        return plain(
            ", ".join(filter(None, (str(row.get("cpu_info", "")), str(row.get("gpu_info", ""))))) or "machine not named"
        )
    parts = [
        str(told.get("cpu", "")),
        f"{told.get('cores')} cores" if told.get("cores") else "",
        megabytes(told["memory"]) if isinstance(told.get("memory"), int | float) else "",
        *map(str, told.get("gpus", ())),
        str(told.get("board", "")),
    ]
    return plain(", ".join(filter(None, parts)))


def by_place(rows: Iterable[Row]) -> dict[Place, list[Row]]:
    """Part rows by where they were measured, in their order."""
    found: dict[Place, list[Row]] = {}
    for row in rows:
        found.setdefault(place(row), []).append(row)
    return found
