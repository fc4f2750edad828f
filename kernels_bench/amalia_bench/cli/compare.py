"""`amalia bench compare`: build a config, call one function, print."""

import dataclasses
from pathlib import Path

import click

from amalia_bench import records
from amalia_bench.compare import Comparison, Side, select
from amalia_bench.compare import compare as set_against
from amalia_bench.difference import Difference
from amalia_bench.figures import change, signed, significant
from amalia_edge import __version__
from amalia_edge.console import emit, out, plain
from amalia_edge.errors import BenchError, NotComparable

SHORT = {"A is better": "A", "B is better": "B", "no difference shown": "=", "one run, no spread": "?"}


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--across-machines", is_flag=True, help="Compare speeds and energy of two machines or power modes.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.version_option(__version__, prog_name="amalia")
def compare(a: str, b: str, across_machines: bool, as_json: bool) -> int:
    """State how B differs from A, with intervals, and refuse what is not comparable.

    A and B are files of records, or FILE:LEVEL or FILE:MACHINE for some of a file's.
    """
    first, second = _side(a), _side(b)
    if a == b:
        raise NotComparable(a, "the same on both sides", "give two files, or FILE:LEVEL twice")
    found = set_against(first, second, across_machines=across_machines)
    if as_json:
        rows = [dataclasses.asdict(one) | {"verdict": one.verdict} for one in found.differences]
        emit("bench compare", {"differences": rows, "refused": found.refused, "said": found.said})
    else:
        _show(found)
    return 0


def _side(word: str) -> Side:
    """Read a side: a file, or a level or machine of one."""
    if Path(word).exists() or ":" not in word:
        return Side(word, records.read(Path(word)))
    name, _, wanted = word.rpartition(":")
    rows = records.read(Path(name))
    kept = select(rows, wanted)
    if not kept:
        levels = sorted({str(level) for row in rows if (level := (row.get("model") or {}).get("level"))})
        raise BenchError(
            name,
            f"no level or machine {wanted!r}",
            f"it holds {', '.join(levels)}" if levels else "give the file alone",
        )
    return Side(word, kept)


def _show(found: Comparison) -> None:
    out.print(f"{'':<29}{'A':>9}{'B':>9}  {'B against A, 95 %':<27}best")
    before = ""
    for one in found.differences:
        if one.of != before:
            out.print(plain(before := one.of), style="bold", markup=False)
        name = f"  {one.figure}{' *' * one.paired}"
        line = (
            f"{plain(name):<29}{significant(one.a):>9}{significant(one.b):>9}  {_changed(one):<27}{SHORT[one.verdict]}"
        )
        out.print(line, markup=False)
    if any(one.paired for one in found.differences):
        out.print("* paired: both sides ran in turns, or read the same windows, pairs or questions", markup=False)
    for line in found.said:
        out.print(f"- {line}", markup=False)
    for line in found.refused:
        out.print(f"- not compared: {line}", markup=False)
    out.print(_advice(found), markup=False)


def _changed(one: Difference) -> str:
    if one.relative:
        return change(one.change - 1, (one.between[0] - 1, one.between[1] - 1) if one.between else None, 1)
    return signed(one.change, one.between)


def _advice(found: Comparison) -> str:
    """Say in one sentence what to make of it."""
    better = {side: [one for one in found.differences if one.verdict == f"{side} is better"] for side in "AB"}
    if not any(better.values()):
        return "No difference is larger than its interval: take the smaller file, or measure longer (-r for speed, no --quick for quality)."
    if better["A"] and better["B"]:
        return f"A is better at {_counted(better['A'])}, B at {_counted(better['B'])}: amalia bench advise weighs them for a machine."
    side = "A" if better["A"] else "B"
    return f"{side} is better at {_counted(better[side])}, the other at nothing that the intervals show: use {side}."


def _counted(found: list[Difference]) -> str:
    first = plain(f"{found[0].of} ({found[0].figure})")
    return first if len(found) == 1 else f"{first} and {len(found) - 1} more"
