"""Rows → what is read: a table of 80 columns, Markdown, CSV, JSON."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from amalia_bench.machine import Machine
from amalia_bench.records import SAMPLES
from amalia_edge.console import megabytes

Row = Mapping[str, Any]
WIDTH = 80


def machine_lines(machine: Machine, rows: Sequence[Row]) -> list[str]:
    """Name the machine and the library the figures belong to."""
    threads = ", ".join(dict.fromkeys(f"{row['n_threads']}" for row in rows))
    lines = [f"{machine.cpu}, {machine.cores} cores, {megabytes(machine.memory)}; threads used: {threads}"]
    lines += [text for text in (machine.board, ", ".join(machine.gpus)) if text]
    for row in rows[:1]:
        built = f" built by {row['compiler']}" if row["compiler"] else ""
        lines.append(f"{row['build_commit']}{built}: {row['features']}")
    return lines


def table(rows: Sequence[Row], machine: Machine) -> RenderableType:
    """Lay rows out for a person; a model's size, loading and memory stand in its first row only."""
    grid = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    grid.add_column("model", overflow="fold")
    for heading in ("size", "load", "memory"):
        grid.add_column(heading, justify="right", no_wrap=True)
    grid.add_column("test", no_wrap=True)
    grid.add_column("decode t/s", justify="right", no_wrap=True)
    grid.add_column("engine t/s", justify="right", no_wrap=True)
    before = ""
    for row in sorted(rows, key=lambda row: _order(rows, row)):
        same, before = row["model_filename"] == before, row["model_filename"]
        facts = ("", "", "", "") if same else (_model(row), megabytes(row["model_size"]), _seconds(row["load_s"]), megabytes(row["peak_rss"]))  # fmt: skip
        rates = (rate(row["avg_ts"], row["stddev_ts"]), rate(row["engine_ts"], row["engine_stddev_ts"]))
        grid.add_row(*facts, row["test"], *rates)
    note = (
        f"\nmean ± standard deviation of {_repetitions(rows)}\n"
        "decode: llama_decode alone, as llama-bench measures; engine: sampling and text included"
    )
    return Group(*(Text(line) for line in machine_lines(machine, rows)), Text(), grid, Text(note))


def _order(rows: Sequence[Row], row: Row) -> int:
    """Keep a model's rows together, in the order in which the models were given."""
    return [other["model_filename"] for other in rows].index(row["model_filename"])


def _repetitions(rows: Sequence[Row]) -> str:
    count = max((len(row["samples_ts"]) for row in rows), default=0)
    return f"{count} run{'s' * (count != 1)}"


def _model(row: Row) -> str:
    return Path(row["model_filename"]).stem


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 100 else f"{value:.0f} s"


def rate(mean: float, stdev: float) -> str:
    """Give a rate with its spread, in as many digits as it bears: 18.52 ± 0.04, 221.3 ± 1.2, 12345 ± 67."""
    digits = 2 if mean < 100 else 1 if mean < 1000 else 0
    return f"{mean:.{digits}f} ± {stdev:.{digits}f}"


def markdown(rows: Sequence[Row], machine: Machine) -> str:
    """Give llama-bench's Markdown columns, then ours, and the machine below."""
    headings = ("model", "size", "params", "backend", "threads", "test", "t/s", "engine t/s", "load", "memory")
    lines = ["| " + " | ".join(headings) + " |", "| --- " + "| ---: " * (len(headings) - 1) + "|"]
    for row in rows:
        cells = (
            _model(row).replace("|", "\\|"),
            megabytes(row["model_size"]),
            f"{row['model_n_params'] / 1e6:.2f} M",
            row["backends"],
            f"{row['n_threads']}",
            row["test"],
            rate(row["avg_ts"], row["stddev_ts"]),
            rate(row["engine_ts"], row["engine_stddev_ts"]),
            _seconds(row["load_s"]),
            megabytes(row["peak_rss"]),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *machine_lines(machine, rows)])


def comma_separated(rows: Sequence[Row]) -> str:
    """Give one line per row, without the lists of samples, every value quoted, as llama-bench does."""
    text = io.StringIO()
    names = [name for name in (rows[0] if rows else ()) if name not in SAMPLES]
    text.write(",".join(names) + "\n")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([row[name] for name in names] for row in rows)
    return text.getvalue().rstrip("\n")


def json_array(rows: Sequence[Row]) -> str:
    return json.dumps(list(rows), indent=2, ensure_ascii=False)


def json_lines(rows: Sequence[Row]) -> str:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
