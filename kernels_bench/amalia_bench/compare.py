"""Two sides of records set against each other: differences with their intervals, and what may not be compared, refused.

Two figures speak of the same thing where text, context and base are the same (quality), pairs and prompt (variety), file
(tasks), machine and settings (speed, kernels, energy). What differs otherwise, such as the library's version, is said.
Where a side holds several models, levels or settings, each is set against its like.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from amalia_bench.choices import file_of, latest, level_of, model_of
from amalia_bench.difference import Difference, differences
from amalia_bench.place import machine, place
from amalia_edge.errors import NotComparable

Row = Mapping[str, Any]
Terms = Mapping[str, Callable[[Row], object]]  # what two rows must have in common, by its name
Way = tuple[str, ...]  # a row's terms
OF_SPEED = (
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
SETTINGS = {"speed": OF_SPEED, "shape": OF_SPEED, "kernels": ("threads",), "energy": ("threads", "gpu_layers")}
# of the settings, those that another machine has otherwise
OF_A_MACHINE = ("n_threads", "n_gpu_layers", "threads", "gpu_layers")
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
ITSELF = "itself"  # the base: it is set against nothing, and may be compared with what is set against it
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
        terms = _terms(kind, across_machines)
        for what, one, other in _matched(kind, a.rows, b.rows, terms):
            fault = _fault(one, other, terms, OF_A_MACHINE if across_machines else ())
            if fault:
                refused.append(f"{what}: {fault}")
                continue
            apart = list(differences(kind, what, one, other))[
                : 1 if "/" in str(one.get("text")) else None
            ]  # of a register, the first figure
            found += apart
            said += _remarks(kind, one, other) if apart else []
    if not found:
        why = refused[0] if refused else "they hold no measurement of the same kind"
        raise NotComparable(f"{a.name} and {b.name}", why, _advice(refused))
    return Comparison(tuple(found), tuple(dict.fromkeys(refused)), tuple(dict.fromkeys(said)))


def _advice(refused: Sequence[str]) -> str:
    if any("other machine" in one for one in refused):
        return "measure both on one machine, or compare with --across-machines"
    return "measure both again in the same way" if refused else "give two files in which the same was measured"


def _matched(kind: str, a: Sequence[Row], b: Sequence[Row], terms: Terms) -> Iterator[tuple[str, Row, Row]]:
    """Pair the rows of one kind by what was measured; by model and level too, unless each side has one only.

    Of several such rows those with the same terms are paired; where no terms are the same, the last of both.
    """
    sides = [[row for row in latest(rows) if row["kind"] == kind and not row.get("prediction")] for rows in (a, b)]
    names = [of for of in (model_of, level_of) if any(len(set(map(of, side))) > 1 for side in sides)]

    def what(row: Row) -> tuple[str, ...]:
        return (*(str(row.get(name, "")) for name in UNITS[kind]), *(of(row) for of in names))

    first, second = (_grouped(side, what) for side in sides)
    for unit in (unit for unit in first if unit in second):
        one, other = ({_way(row, terms): row for row in side[unit]} for side in (first, second))
        same = [(way, row, other[way]) for way, row in one.items() if way in other]
        last = first[unit][-1], second[unit][-1]
        for way, *pair in same or [(_way(last[0], terms), *last)]:
            yield " ".join((kind, *filter(None, unit), *_told_apart(way, one, other, terms))), pair[0], pair[1]


def _grouped(rows: Sequence[Row], key: Callable[[Row], tuple[str, ...]]) -> dict[tuple[str, ...], list[Row]]:
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def _way(row: Row, terms: Terms) -> Way:
    return tuple(str(of(row)) for of in terms.values())


def _told_apart(way: Way, one: Iterable[Way], other: Iterable[Way], terms: Terms) -> list[str]:
    """Name the terms in which a side's own rows differ."""
    several = [any(len({known[at] for known in side}) > 1 for side in (one, other)) for at in range(len(way))]
    return [f"{name} {value}" for name, value, is_one_of in zip(terms, way, several, strict=True) if is_one_of]


def _terms(kind: str, across_machines: bool) -> Terms:
    terms: dict[str, Callable[[Row], object]] = {}
    if kind in OF_THE_MACHINE and not across_machines:
        terms["machine"] = machine
    terms |= {name: partial(_told, name=name) for name in SETTINGS.get(kind, ())}
    if kind == "quality":
        terms |= {
            "text": lambda row: _short(row.get("text_sha256")),
            "context": lambda row: row.get("context"),
            "base": _base,
            "length": _length,
            "tokens": lambda row: _short(row.get("tokens_sha256")),
        }
    if kind == "variety":
        terms |= {
            "pairs": lambda row: _short(row.get("pairs_sha256")),
            "base": lambda row: _base(row) if row.get("against") else ITSELF,
            "system prompt": lambda row: row.get("system"),
        }
    if kind == "tasks":
        terms |= {"file": lambda row: _short(row.get("file_sha256")), "items": lambda row: row.get("items")}
    return terms


def _fault(a: Row, b: Row, terms: Terms, left_out: Sequence[str]) -> str:
    """Say why two rows do not speak of the same thing; nothing where they do."""
    for name, of in terms.items():
        one, other = of(a), of(b)
        if one != other and name not in left_out and ITSELF not in (one, other):
            return f"other {name}: {one} against {other}"
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


def _length(row: Row) -> str:
    return "quick" if row.get("quick") else "whole"


def _remarks(kind: str, a: Row, b: Row) -> list[str]:
    """Say what else is not the same, though it may be compared."""
    one, other = place(a), place(b)
    said = [f"other library: {one.library} against {other.library}"] if one.library != other.library else []
    if one.library == other.library and one.features != other.features:
        said.append("the libraries were compiled with other features")
    if one.machine != other.machine:
        said.append(f"other machine: {one.machine} against {other.machine}")
    apart = [name for name in SETTINGS.get(kind, ()) if a.get(name) != b.get(name)]
    said += [f"other {name}: {a.get(name)} against {b.get(name)}" for name in apart]
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
