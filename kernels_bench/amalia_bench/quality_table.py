"""What quantization cost, as a person reads it: levels below each other, texts side by side, and what to choose."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from amalia_bench.figures import NONE, bracketed, change, interval, number, percent
from amalia_edge.console import megabytes, plain

Row = Mapping[str, Any]
NEAR = 1.01  # a perplexity that rises by less is hard to notice


def table(rows: Sequence[Row]) -> Table:
    """Lay out a line for each level; each text has its loss, its divergence and its agreement.

    Print it on a console without markup: names come from files.
    """
    texts = list(dict.fromkeys(row["text"] for row in rows))
    found = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    found.add_column("level", no_wrap=True)
    found.add_column("size", justify="right", no_wrap=True)
    for text in texts:
        for what in ("perplexity", "KLD, nats", "same top"):
            found.add_column(f"{plain(text)}\n{what}", justify="right")
    for level in _levels(rows):
        by_text = {row["text"]: row for row in level}
        model = next(iter(by_text.values()))["model"]
        cells = [cell for text in texts for cell in _cells(by_text.get(text))]
        found.add_row(plain(_label(rows, model)), megabytes(model["bytes"]), *cells)
    return found


def _levels(rows: Sequence[Row]) -> list[list[Row]]:
    """Put the rows of each file together, the largest first."""
    ordered = sorted(rows, key=lambda row: -int(row["model"]["bytes"]))
    files = dict.fromkeys(row["model"]["sha256"] for row in ordered)
    return [[row for row in rows if row["model"]["sha256"] == file] for file in files]


def _label(rows: Sequence[Row], model: Row) -> str:
    """Name a level; by its file where two have the same."""
    others = {row["model"]["file"] for row in rows if row["model"]["level"] == model["level"]}
    return str(model["level"] if len(others) == 1 else model["file"])


def _cells(row: Row | None) -> tuple[str, str, str]:
    """Write a level's figures, each over its interval."""
    if row is None:
        return NONE, NONE, NONE
    ratio, between = number(row, "ppl_ratio"), interval(row, "ppl_ratio_ci95")
    loss = change(None if ratio is None else ratio - 1, between and (between[0] - 1, between[1] - 1))
    divergence = bracketed(number(row, "mean_kld"), interval(row, "kld_ci95"), 2)
    agreement = percent(number(row, "same_top"), interval(row, "same_top_ci95"))
    return loss.replace(" [", "\n["), divergence.replace(" [", "\n["), agreement.replace(" [", "\n[")


def heading(rows: Sequence[Row]) -> str:
    """Say what is compared with what, on how much."""
    about = {row["text"]: row for row in rows}
    base = rows[0]["base"].get("file") or rows[0]["base"]["logits_file"]
    read = "; ".join(
        f"{text} {row['windows']}{' of ' + str(row['windows_of_text']) if row['quick'] else ''} windows, "
        f"perplexity {row['ppl_base']:.2f} ± {row['ppl_base_stderr']:.2f}"
        for text, row in about.items()
    )
    first = "First answer, on a part of the text. " if any(row["quick"] for row in rows) else ""
    return plain(f"{first}Against {rows[0]['against']} ({base}), windows of {rows[0]['context']} tokens: {read}")


def advice(rows: Sequence[Row]) -> str:
    """Say in one sentence which level to take."""
    levels = _levels(rows)
    near = [level for level in levels if all(_highest(row) < NEAR for row in level)]
    if near:
        best = min(near, key=lambda level: level[0]["model"]["bytes"])
        why = f"the smallest of these whose perplexity surely rises by less than {_percent(NEAR - 1)}"
    else:
        best = min(levels, key=lambda level: max(row["mean_kld"] for row in level))
        why = f"the nearest to {rows[0]['against']} of these; none surely stays within {_percent(NEAR - 1)} of its perplexity"
    losses = ", ".join(f"{change(row['ppl_ratio'] - 1)} on {row['text']}" for row in best)
    sure = "; measure without --quick to be surer" if any(row["quick"] for row in rows) else ""
    return plain(f"Take {_label(rows, best[0]['model'])} ({losses}): {why}{sure}.")


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %"


def _highest(row: Row) -> float:
    between = interval(row, "ppl_ratio_ci95")
    return between[1] if between else float("inf")
