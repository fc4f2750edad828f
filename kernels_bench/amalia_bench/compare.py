"""Two sides of records set against each other: differences with their intervals, and what may not be compared, refused.

Two figures speak of the same thing where text, context and base are the same (quality), pairs and prompt (variety), file
(tasks), machine and settings (speed, kernels, energy). What differs otherwise, such as the library's version, is said.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from amalia_bench.choices import file_of, latest, level_of, model_of
from amalia_bench.difference import Difference, differences
from amalia_bench.place import machine, place
from amalia_edge.errors import NotComparable

Row = Mapping[str, Any]
SETTINGS = (
    "n_threads",
    "n_batch",
    "n_ubatch",
    "type_k",
    "type_v",
    "n_gpu_layers",
    "flash_attn",
    "large_pages",
    "n_depth",
)
OF_A_MACHINE = ("n_threads", "n_gpu_layers")  # of the settings, those that another machine has otherwise
UNITS: dict[str, tuple[str, ...]] = {  # what a measurement is called within its kind
    "speed": ("test",),
    "shape": ("shape", "test"),
    "kernels": ("device", "type", "operation", "rows", "columns", "batch"),
    "bandwidth": ("threads",),
    "quality": ("text",),
    "variety": ("prompt",),
    "tasks": ("file", "prompt"),
    "energy": ("source", "test"),
}
OF_THE_MACHINE = ("speed", "shape", "kernels", "bandwidth", "energy")


@dataclass(frozen=True)
class Comparison:
    differences: tuple[Difference, ...]
    refused: tuple[str, ...]  # what is not comparable, and why
    said: tuple[str, ...]  # what else is not the same


@dataclass(frozen=True)
class Side:
    """Rows, and how they were asked for."""

    name: str
    rows: Sequence[Row]


def select(rows: Sequence[Row], wanted: str) -> list[Row]:
    """Give the rows of a level, else of a machine, that goes by this name."""
    of_level = [row for row in rows if level_of(row).lower() == wanted.lower()]
    return of_level or [row for row in rows if wanted.lower() in machine(row).lower()]


def compare(a: Side, b: Side, *, across_machines: bool = False) -> Comparison:
    """Set B against A; refuse where nothing of them speaks of the same thing."""
    found: list[Difference] = []
    refused: list[str] = []
    said: list[str] = []
    for kind in UNITS:
        for what, one, other in _matched(kind, a.rows, b.rows):
            fault = _fault(kind, one, other, across_machines=across_machines)
            if fault:
                refused.append(f"{what}: {fault}")
                continue
            apart = list(differences(kind, what, one, other))[
                : 1 if "/" in str(one.get("text")) else None
            ]  # of a register, the first figure
            found += apart
            said += _remarks(one, other) if apart else []
    if not found:
        why = refused[0] if refused else "they hold no measurement of the same kind"
        raise NotComparable(f"{a.name} and {b.name}", why, _advice(refused))
    return Comparison(tuple(found), tuple(dict.fromkeys(refused)), tuple(dict.fromkeys(said)))


def _advice(refused: Sequence[str]) -> str:
    if any("other machine" in one for one in refused):
        return "measure both on one machine, or compare with --across-machines"
    return "measure both again in the same way" if refused else "give two files in which the same was measured"


def _matched(kind: str, a: Sequence[Row], b: Sequence[Row]) -> Iterator[tuple[str, Row, Row]]:
    """Pair the rows of one kind by what was measured; by level too, unless each side has one only."""
    sides = [[row for row in latest(rows) if row["kind"] == kind and not row.get("prediction")] for rows in (a, b)]
    single = all(len({level_of(row) for row in side}) <= 1 for side in sides)

    def key(row: Row) -> tuple[str, ...]:
        unit = tuple(str(row.get(name, "")) for name in UNITS[kind])
        return unit if single else (*unit, level_of(row))

    first, second = ({key(row): row for row in side} for side in sides)
    for one in first:
        if one in second:
            yield " ".join((kind, *filter(None, one))), first[one], second[one]


def _fault(kind: str, a: Row, b: Row, *, across_machines: bool) -> str:
    """Say why two rows do not speak of the same thing; nothing where they do."""
    tests: list[tuple[str, Callable[[Row], Any]]] = []
    if kind in OF_THE_MACHINE and not across_machines:
        tests += [("machine", machine)]
    if kind in ("speed", "shape"):
        names = [name for name in SETTINGS if not (across_machines and name in OF_A_MACHINE)]
        tests += [(name, partial(_told, name=name)) for name in names]
    if kind == "quality":
        tests += [
            ("text", lambda row: _short(row.get("text_sha256"))),
            ("context", lambda row: row.get("context")),
            ("base", _base),
            ("length", _length),
            ("tokens", lambda row: _short(row.get("tokens_sha256"))),
        ]
    if kind == "variety":
        tests += [
            ("pairs", lambda row: _short(row.get("pairs_sha256"))),
            ("base", _base_or_itself(a, b)),
            ("system prompt", lambda row: row.get("system")),
        ]
    if kind == "tasks":
        tests += [("file", lambda row: _short(row.get("file_sha256"))), ("items", lambda row: row.get("items"))]
    for name, of in tests:
        if of(a) != of(b):
            return f"other {name}: {of(a)} against {of(b)}"
    return ""


def _told(row: Row, name: str) -> object:
    return row.get(name)


def _short(digest: object) -> str:
    return str(digest)[:12]


def _base(row: Row) -> str:
    base = row.get("base")
    told = base if isinstance(base, Mapping) else {}
    return (
        f"{told.get('level') or told.get('logits_file') or row.get('against')} {_short(told.get('sha256', ''))}".strip()
    )


def _base_or_itself(a: Row, b: Row) -> Callable[[Row], str]:
    """Two bases differ where both sides have one: the base itself is set against nothing."""
    return _base if a.get("against") and b.get("against") else lambda _row: ""


def _length(row: Row) -> str:
    return "quick" if row.get("quick") else "whole"


def _remarks(a: Row, b: Row) -> list[str]:
    """Say what else is not the same, though it may be compared."""
    one, other = place(a), place(b)
    said = [f"other library: {one.library} against {other.library}"] if one.library != other.library else []
    if one.library == other.library and one.features != other.features:
        said.append("the libraries were compiled with other features")
    if one.machine != other.machine:
        said.append(f"other machine: {one.machine} against {other.machine}")
    if model_of(a) != model_of(b):
        said.append(f"other model: {model_of(a)} against {model_of(b)}")
    elif level_of(a) == level_of(b) and _hash(a) and _hash(b) and _hash(a) != _hash(b):
        said.append(
            f"other files of {model_of(a)} {level_of(a)}: {file_of(a)} {_short(_hash(a))} against {file_of(b)} {_short(_hash(b))}"
        )
    return said


def _hash(row: Row) -> str:
    model = row.get("model")
    return str(model.get("sha256", "")) if isinstance(model, Mapping) else ""
