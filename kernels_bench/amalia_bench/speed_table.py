"""Rows → what is read: a table of 80 columns, Markdown, CSV, JSON, and one sentence to act on."""

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
from amalia_edge.console import megabytes

Row = Mapping[str, Any]
WIDTH = 80
GOOD = 0.8  # of the roofline: what is left cannot be had by other settings
# What may differ between a model's rows beside the test, and how it is typed
SETTINGS = {
    "n_threads": "-t", "n_batch": "-b", "n_ubatch": "-ub", "type_k": "-ctk", "type_v": "-ctv", "n_gpu_layers": "-ngl",
    "flash_attn": "-fa", "large_pages": "--large-pages",
}  # fmt: skip


def machine_lines(machine: Machine, rows: Sequence[Row]) -> list[str]:
    """Name the machine and the library the figures belong to."""
    threads = ", ".join(dict.fromkeys(f"{row['n_threads']}" for row in rows))
    lines = [f"{machine.cpu}, {machine.cores} cores, {megabytes(machine.memory)}; threads used: {threads}"]
    lines += [text for text in (machine.board, ", ".join(machine.gpus)) if text]
    for row in rows[:1]:
        built = f" built by {row['compiler']}" if row["compiler"] else ""
        lines.append(f"{row['build_commit']}{built}: {row['features']}")
    bandwidths = dict.fromkeys(f"{row['read_gbps']:.1f}" for row in rows if row.get("read_gbps"))
    if bandwidths:
        lines.append(f"memory read at {', '.join(bandwidths)} GB/s, measured in the same run")
    return lines


def table(rows: Sequence[Row], machine: Machine) -> RenderableType:
    """Lay rows out for a person: each model, and each way to load it, under a line of its own."""
    parts: list[RenderableType] = [*(Text(line) for line in machine_lines(machine, rows)), Text()]
    for number, group in enumerate(groups(rows)):
        facts = (
            f"{megabytes(group[0]['model_size'])}, loaded in {_seconds(group[0]['load_s'])}, "
            f"{megabytes(group[0]['peak_rss'])} of memory at most"
        )
        parts += [Text(heading(group[0], rows), style="bold"), Text(f"  {facts}")]
        parts += [_grid(group, headed=number == 0), Text()]
    parts += [Text(against_line(row), overflow="fold") for row in rows if row.get("against")]
    return Group(*parts, Text(_note(rows)))


def groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Keep a model's rows of the same settings together, in the order in which the models were given."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(heading(row, rows), []).append(row)
    return list(found.values())


def heading(row: Row, rows: Sequence[Row]) -> str:
    """Name a model, and those of its settings that differ between the rows."""
    differing = {name for name in SETTINGS if len({str(other.get(name)) for other in rows}) > 1}
    return " ".join(
        [_model(row), *(f"{flag} {_typed(row.get(name))}" for name, flag in SETTINGS.items() if name in differing)]
    )


def _typed(value: object) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else f"{value}"


def _grid(rows: Sequence[Row], *, headed: bool) -> Table:
    grid = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold", show_header=headed)
    grid.add_column("test", width=21, overflow="fold")
    for name, width in (("decode t/s", 16), ("engine t/s", 16), ("of limit", 8), ("first token", 11)):
        grid.add_column(name, justify="right", no_wrap=True, width=width)
    for row in rows:
        rates = (rate(row["avg_ts"], row["stddev_ts"]), rate(row["engine_ts"], row["engine_stddev_ts"]))
        grid.add_row(row["test"], *rates, _share(row), _moment(row["first_token_s"]))
    return grid


def _note(rows: Sequence[Row]) -> str:
    count = max((len(row["samples_ts"]) for row in rows), default=0)
    lines = [
        f"mean ± standard deviation of {count} run{'s' * (count != 1)}",
        "decode: llama_decode alone, as in llama-bench; engine: sampling and text too",
    ]
    if any(row.get("roofline_share") for row in rows):
        lines.append("of limit: bytes read per token × tokens/s ÷ memory bandwidth")
    if any((row.get("roofline_share") or 0) > 1 for row in rows):
        lines.append("above 100 %: weights stay in the processor's cache, memory is no limit")
    elif any(row.get("in_cache") for row in rows):
        lines.append("in cache: this model fits into the processor's cache, memory is no limit")
    return "\n".join(lines)


def against_line(row: Row) -> str:
    """Set another program beside ours in one line."""
    other = row["against"]
    ours = "decode" if other["figure"] == "avg_ts" else "engine"
    theirs = rate(other["avg_ts"], other["stddev_ts"])
    ratio = f"{other['ratio']:.3f} ± {other['ratio_stddev']:.3f}"
    return f"{_model(row)} {row['test']}: {other['name']} {theirs} t/s; our {ours} is {ratio} × of it"


def advice(rows: Sequence[Row]) -> str:
    """Say in one sentence what a person can do with the figures."""
    if not rows:
        return "Nothing was measured: give -p or -n a number of tokens."
    hot = [row for row in rows if row["throttled"]]
    if hot:
        worst = min(hot, key=lambda row: row["drift"] or 1)
        lost = f" by {1 - worst['drift']:.0%}" if (worst["drift"] or 1) < 1 else ""
        return f"{_model(worst)} slowed down{lost} during {worst['test']}: cool the machine, or rest between runs with --delay 20."
    writing = [row for row in rows if row["n_gen"] and not row["n_prompt"]]
    if not writing:
        best = max(rows, key=lambda row: row["engine_ts"])
        return f"{_model(best)} reads {_per_second(best)}: a page of 500 tokens takes {500 / best['engine_ts']:.1f} s; add -n 128 to see how it writes."
    best = max(writing, key=lambda row: row["engine_ts"])
    said = f"{heading(best, rows)} writes {_per_second(best)}"
    share = best.get("roofline_share")
    if share is None:
        return f"{said}: what its level loses, amalia bench quality tells."
    if share > 1 or best.get("in_cache"):
        return (
            f"{said} from the processor's cache: measure the model you will use, for a larger one is limited by memory."
        )
    if share >= GOOD:
        return f"{said}, {share:.0%} of what this memory allows: only a smaller level would write sooner."
    return f"{said}, {share:.0%} of what this memory allows: try other -t, and amalia doctor for what holds it back."


def _per_second(row: Row) -> str:
    return f"{rate(row['engine_ts'], row['engine_stddev_ts'])} tokens/s"


def _model(row: Row) -> str:
    return Path(row["model_filename"]).stem


def _share(row: Row) -> str:
    if row.get("in_cache"):
        return "in cache"
    return f"{row['roofline_share']:.0%}" if row.get("roofline_share") is not None else ""


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 100 else f"{value:.0f} s"


def _moment(value: float) -> str:
    return f"{value * 1000:.1f} ms" if value < 1 else _seconds(value)


def rate(mean: float, stdev: float) -> str:
    """Give a rate with its spread, in as many digits as it bears: 18.52 ± 0.04, 221.3 ± 1.2, 12345 ± 67."""
    digits = 2 if mean < 100 else 1 if mean < 1000 else 0
    return f"{mean:.{digits}f} ± {stdev:.{digits}f}"


def markdown(rows: Sequence[Row], machine: Machine) -> str:
    """Give llama-bench's Markdown columns, then ours, and the machine below."""
    headings = (
        "model", "size", "params", "backend", "threads", "test", "t/s", "engine t/s", "of limit", "first token", "load",
        "memory",
    )  # fmt: skip
    lines = ["| " + " | ".join(headings) + " |", "| --- " + "| ---: " * (len(headings) - 1) + "|"]
    for row in rows:
        cells = (
            heading(row, rows).replace("|", "\\|"),
            megabytes(row["model_size"]),
            f"{row['model_n_params'] / 1e6:.2f} M",
            row["backends"],
            f"{row['n_threads']}",
            row["test"],
            rate(row["avg_ts"], row["stddev_ts"]),
            rate(row["engine_ts"], row["engine_stddev_ts"]),
            _share(row),
            _moment(row["first_token_s"]),
            _seconds(row["load_s"]),
            megabytes(row["peak_rss"]),
        )
        lines.append("| " + " | ".join(cells) + " |")
    beside = [against_line(row) for row in rows if row.get("against")]
    return "\n".join([*lines, "", *beside, *machine_lines(machine, rows)])


def comma_separated(rows: Sequence[Row]) -> str:
    """Give one line per row, without what is a list or has parts, every value quoted, as llama-bench does.

    Of another program measured beside ours there is its name, and the ratio.
    """
    text = io.StringIO()
    beside = {"name": "against", "ratio": "against_ratio", "ratio_stddev": "against_ratio_stddev"}
    if any(row.get("against") for row in rows):
        rows = [{**row, **{to: (row.get("against") or {}).get(key) for key, to in beside.items()}} for row in rows]
    names = [name for name, value in (rows[0] if rows else {}).items() if not isinstance(value, (list, dict))]
    text.write(",".join(names) + "\n")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([row.get(name) for name in names] for row in rows)
    return text.getvalue().rstrip("\n")


def json_array(rows: Sequence[Row]) -> str:
    return json.dumps(list(rows), indent=2, ensure_ascii=False)


def json_lines(rows: Sequence[Row]) -> str:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
