"""Rows of `amalia bench variety` → what is read: tables of 80 columns, and one sentence to act on."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

Row = Mapping[str, Any]
WIDTH = 80
ABREAST = 3  # levels whose classes fit beside one another
HEADS = {"bare": "bare text", "default": "as an answer under the default system prompt"}
NOTE = (
    "European: pairs whose European wording is the likelier; margin: its log-odds, in\n"
    "nats; Δ: margin less the base's, below zero towards Brazil; [95 % interval];\n"
    "*: the interval leaves zero out, as one in twenty does by chance"
)


def table(rows: Sequence[Row]) -> RenderableType:
    """Lay rows out for a person: for each prompt the levels, then the classes."""
    parts: list[RenderableType] = []
    for prompt in dict.fromkeys(row["prompt"] for row in rows):
        here = [row for row in rows if row["prompt"] == prompt]
        parts += [Text(HEADS.get(prompt, prompt), style="bold"), _levels(here), Text()]
        for grid in _classes(here):
            parts += [grid, Text()]
        parts += [Text(_answers(row)) for row in here if row["generated"]]
    return Group(*parts, Text(NOTE))


def sentence(rows: Sequence[Row]) -> str:
    """Say what to do, by the rows under the default prompt where there are any."""
    prompt = "default" if any(row["prompt"] == "default" for row in rows) else "bare"
    here = [row for row in rows if row["prompt"] == prompt and row["overall"]]
    levels = [row for row in here if row["against"] is not None]
    if not here:
        return "No categorical pair was scored: add pairs of strength categorical."
    if not levels:
        base, weakest = here[0], _least(here[0], "prefers_european")
        return (
            f"{_name(base)} prefers the European wording in {_share(base['overall'])} of {base['overall']['pairs']} pairs, "
            f"least in {weakest} ({_share(base['classes'][weakest])}): give a level after it to see what it changes."
        )
    drifting = [row for row in levels if _beyond(row["overall"]) < 0]
    steady = [_level(row) for row in levels if row not in drifting]
    if not drifting:
        told = (
            f"{_joined(steady)}: no drift towards Brazilian Portuguese in {here[0]['overall']['pairs']} pairs together"
        )
        moved = _moved(levels)
        return f"{told}{moved}: read some answers of both." if moved else f"{told}: choose by size and speed."
    worst = min(drifting, key=lambda row: float(row["overall"]["delta_margin"]))
    most = _least(worst, "delta_margin")
    told = (
        f"{_level(worst)} by {_signed(worst['overall']['delta_margin'])} nats a pair, most in {most}; "
        f"{_share(worst['overall'])} European instead of {_share(here[0]['overall'])}"
    )
    advice = f"take {_joined(steady)}" if steady else f"stay with {_level(here[0])}"
    names = _joined([_level(row) for row in drifting])
    return f"{names}: a drift towards Brazilian Portuguese ({told}): where that matters, {advice}."


def _moved(levels: Sequence[Row]) -> str:
    """Name the class that moved most towards Brazil, where one did beyond chance."""
    every = [(float(told["delta_margin"]), name, row) for row in levels for name, told in row["classes"].items() if _beyond(told) < 0]  # fmt: skip
    if not every:
        return ""
    delta, name, row = min(every, key=lambda one: one[0])
    return f", but in {name} {_level(row)} moved by {_signed(delta)} nats"


def _levels(rows: Sequence[Row]) -> Table:
    grid = _grid("level", "European", "", "margin", "Δ", "")
    for row in rows:
        told = row["overall"]
        if told is None:
            continue
        cells = [_level(row), _share(told), _bounds(told["prefers_european_ci95"], 100, 1), f"{told['margin']:.2f}"]
        cells += [_delta(told), _bounds(told["delta_margin_ci95"], 1, 3)]
        grid.add_row(*cells)
    return grid


def _answers(row: Row) -> str:
    told = row["generated"]
    if told["per_1000_words"] is None:
        return f"{_level(row)}: {told['answers']} answers without a word"
    found = f"{told['markers']} Brazilian marker{'s' * (told['markers'] != 1)} in {told['words']:,} words"
    rate = f"{told['per_1000_words']:.1f} {_bounds(told['per_1000_words_ci95'], 1, 1)} in 1,000"
    return f"{_level(row)}: {told['answers']} answers, {found}: {rate}"


def _classes(rows: Sequence[Row]) -> Iterator[Table]:
    """Give each class its share on the first model, and the others' Δ, a few levels at a time; gradients apart."""
    base, *others = rows
    for start in range(0, max(1, len(others)), ABREAST):
        some = others[start : start + ABREAST]
        grid = _grid("class", "pairs", "European", *(f"Δ {_level(row)}" for row in some))
        for kind, mark in (("classes", ""), ("gradients", " (gradient)")):
            for name, told in base[kind].items():
                deltas = [_delta(row[kind][name]) for row in some]
                grid.add_row(f"{name}{mark}", f"{told['pairs']}", _share(told), *deltas)
            grid.add_section()
        yield grid


def _grid(first: str, *headings: str) -> Table:
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    grid.add_column(first, no_wrap=True)
    for heading in headings:
        grid.add_column(heading, justify="right", no_wrap=True)
    return grid


def _beyond(told: Row) -> int:
    """Say on which side of zero the whole interval of a difference lies; 0 where zero is in it."""
    low, high = told["delta_margin_ci95"] or (None, None)
    return 1 if low is not None and low > 0 else -1 if high is not None and high < 0 else 0


def _delta(told: Row) -> str:
    if told["delta_margin"] is None:
        return "–"
    return _signed(told["delta_margin"]) + ("*" if _beyond(told) else " ")


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "\u2212")


def _share(told: Row) -> str:
    return f"{100 * told['prefers_european']:.1f} %"


def _bounds(bounds: Sequence[float | None] | None, factor: float, digits: int) -> str:
    if bounds is None:
        return ""
    low, high = ("∞" if bound is None else f"{factor * bound:.{digits}f}".replace("-", "\u2212") for bound in bounds)
    return f"[{low}, {high}]"


def _least(row: Row, key: str) -> str:
    names: list[str] = list(row["classes"])
    return min(names, key=lambda name: float(row["classes"][name][key]))


def _level(row: Row) -> str:
    return str(row["model"]["level"])


def _name(row: Row) -> str:
    return f"{row['model']['name']} {_level(row)}"


def _joined(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " and " * (len(names) > 1) + names[-1]
