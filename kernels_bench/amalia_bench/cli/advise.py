"""`amalia bench advise`: build a config, call one function, print."""

import dataclasses
from pathlib import Path

import click
from rich import box
from rich.table import Table

from amalia_bench import records
from amalia_bench.advise import Advice, Candidate, Device, Wish, find_headers, find_names, model_named
from amalia_bench.advise import advise as choose
from amalia_bench.choices import file_of
from amalia_bench.figures import NONE, bracketed, significant
from amalia_bench.machine import this_machine
from amalia_bench.place import machine
from amalia_edge import __version__
from amalia_edge.console import emit, megabytes, out, plain


@click.command()
@click.argument("model", required=False)
@click.option(
    "--records",
    "records_file",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="What was measured.",
)
@click.option(
    "-c",
    "--context",
    type=click.IntRange(min=1),
    default=Wish.context,
    show_default=True,
    help="Tokens of context it must have.",
)
@click.option(
    "--speed",
    type=click.FloatRange(min=0),
    default=Wish.speed,
    show_default=True,
    help="Tokens it must write in a second.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.version_option(__version__, prog_name="amalia")
def advise(model: str | None, records_file: Path, context: int, speed: float, as_json: bool) -> int:
    """Name the level of MODEL for this machine: the best that fits with the wanted context and speed.

    MODEL is a GGUF file, a folder of them, a stored name or a shape; it may be left out where FILE holds one model.
    """
    from amalia_edge.outlook import examine

    rows = records.read(records_file)
    host, _ = examine(None)
    name = model_named(model, rows)
    here = machine({"machine": dataclasses.asdict(this_machine())})
    files = list(dict.fromkeys(map(file_of, rows)))
    headers = find_headers(model or name, files)
    shape = name if headers and not any(key.endswith(".gguf") for key in headers) else ""
    device = Device(host, here, headers, str(records_file), shape, find_names(model or name, files))
    advice = choose(name, rows, Wish(context, speed), device)
    if as_json:
        emit("bench advise", dataclasses.asdict(advice) | {"machine": here, "budget": host.budget})
    else:
        _show(advice, here, host.budget)
    return 0


def _show(advice: Advice, here: str, budget: int) -> None:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for heading in ("level", "file", "memory", "fits", "KLD, Portuguese", "tokens/s"):
        table.add_column(heading, justify="left" if heading in ("level", "fits") else "right", no_wrap=True)
    for one in advice.candidates:
        fits = {True: "yes", False: "no", None: "?"}[one.fits]
        memory = NONE if one.needed is None else megabytes(one.needed)
        mark = "[bold]" if one == advice.choice else ""
        table.add_row(
            f"{mark}{plain(one.level)}",
            megabytes(one.nbytes),
            memory,
            fits,
            bracketed(one.loss, one.loss_between),
            _speed(one),
        )
    out.print(f"{advice.model} on {here}: {megabytes(budget)} to use", markup=False)
    out.print(table)
    for line in advice.missing:
        out.print(f"- not known: {line}", markup=False)
    out.print(_sentence(advice), markup=False)


def _speed(one: Candidate) -> str:
    return f"{significant(one.speed)}{' (random weights)' * one.predicted}"


def _sentence(advice: Advice) -> str:
    """Say which, and why, with the figures behind it."""
    choice = advice.choice
    why = [
        f"loses {significant(choice.loss)} nats"
        if choice.loss is not None
        else "is the largest file of which nothing speaks against",
        f"needs {megabytes(choice.needed)} with {advice.wish.context} tokens" if choice.needed else "",
        f"writes {significant(choice.speed)} tokens/s" if choice.speed else "",
    ]
    return f"Take {plain(choice.level)}: it {', '.join(filter(None, why))}; {plain(_start(choice))}."


def _start(choice: Candidate) -> str:
    """Name the command that starts it, or that makes it."""
    if choice.name:
        return f"amalia run {choice.name} starts it"
    if choice.file:
        return f"where its file is, amalia run {choice.word} starts it"
    return f"amalia convert MODEL16 --to {choice.level} makes it, where the trained weights are"
