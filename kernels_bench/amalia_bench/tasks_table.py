"""Rows of `amalia bench tasks` → what is read: a table of 80 columns, and one sentence to act on."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

Row = Mapping[str, Any]
WIDTH = 80
FORMS = {"continuation": "each option follows the question", "letters": "a letter follows question and options"}


def table(rows: Sequence[Row]) -> RenderableType:
    """Lay rows out for a person: each model's share right, and its difference from the base."""
    first = rows[0]
    form = "the word the model writes" if first["task"] == "cloze" else FORMS[first["prompt"]]
    head = f"{first['file']}: {first['items']} questions, bare text, no system prompt; {form}"
    return Group(Text(head), Text(), _grid(rows), Text(), Text(_note(rows)))


def sentence(rows: Sequence[Row]) -> str:
    """Say what to do."""
    best, count = max(rows, key=lambda row: float(row["accuracy"])), rows[0]["items"]
    told = f"{_name(best, rows)} answers {_percent(best['accuracy'])} of {count} questions right"
    if best["chance"] is not None and best["accuracy_ci95"][0] <= best["chance"]:
        other = "letters" if best["prompt"] == "continuation" else "continuation"
        return (
            f"{told}, no better than guessing ({_percent(best['chance'])}), so that levels cannot be told apart by it: "
            f"try --prompt {other}, more questions, or a larger model."
        )
    levels = [row for row in rows if row["against"] is not None]
    if not levels:
        return f"{told}: add --base MODEL16 to see what quantization took."
    worse = [row for row in levels if _is_worse(row)]
    fine = [_name(row, rows) for row in levels if row not in worse]
    if not worse:
        seen = _points(max(_reach(row) for row in levels))
        return f"{_joined(fine)}: no loss to be seen in {count} questions, which show one of {seen} or more: choose by size and speed."
    worst = min(worse, key=lambda row: float(row["delta"]))
    told = f"{_name(worst, rows)} answers {_points(-worst['delta'])} fewer right than {worst['against']}"
    advice = f"take {_joined(fine)}" if fine else f"stay with {worst['against']}"
    return f"{told}, more than chance explains: where that matters, {advice}."


def _grid(rows: Sequence[Row]) -> Table:
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    grid.add_column("model", overflow="fold")
    names = ("right", "", "Δ", "", *(("per byte",) if rows[0]["task"] == "choice" else ()), "nats")
    for name in names:
        grid.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = [_name(row, rows), _percent(row["accuracy"]), _bounds(row["accuracy_ci95"])]
        cells += ["–" if row["delta"] is None else f"{_signed(100 * row['delta'], 1)}", _bounds(row["delta_ci95"])]
        if row["task"] == "choice":
            cells.append(_percent(row["accuracy_per_byte"]))
        grid.add_row(*cells, _signed(row["nats"], 2))
    return grid


def _note(rows: Sequence[Row]) -> str:
    lines = [
        "[95 % interval]; Δ: points more right than the base, question by question;",
        "nats: log-likelihood of the right one",
    ]
    if rows[0]["chance"] is not None:
        lines.append(f"guessing gives {_percent(rows[0]['chance'])}")
    if any(row["left_out"] for row in rows):
        lines.append(f"left out, longer than the context: {max(row['left_out'] for row in rows)}")
    if not all(row["complete"] for row in rows):
        lines.append("stopped: not every question was put")
    return "\n".join(lines)


def _is_worse(row: Row) -> bool:
    """Say whether the whole interval of the difference lies below zero."""
    high = row["delta_ci95"][1]
    return high is not None and high < 0


def _reach(row: Row) -> float:
    low, high = row["delta_ci95"]
    return 1.0 if low is None or high is None else float(high - low) / 2


def _name(row: Row, rows: Sequence[Row]) -> str:
    """Name a row by its level, and by its model where there are several."""
    model = row["model"]
    several = len({other["model"]["name"] for other in rows}) > 1
    return f"{model['name']} {model['level']}" if several else str(model["level"])


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(share: float) -> str:
    return f"{100 * share:.1f} points"


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "\u2212")


def _bounds(bounds: Sequence[float | None] | None) -> str:
    if bounds is None:
        return ""
    low, high = ("∞" if bound is None else f"{100 * bound:.1f}".replace("-", "\u2212") for bound in bounds)
    return f"[{low}, {high}]"


def _joined(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " and " * (len(names) > 1) + names[-1]
