"""`amalia setup`, `inspect` and `doctor`: the build, a file, this machine."""

import contextlib
import dataclasses
import sys
import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from amalia_edge.cli.options import JSON, LOADING, PARALLEL, VERSION, Command, load_config, with_options
from amalia_edge.console import as_text, emit, megabytes, out
from amalia_edge.errors import LibraryMissing
from amalia_edge.load_config import LoadConfig
from amalia_edge.store import find

if TYPE_CHECKING:
    from amalia_edge.device import Diagnosis
    from amalia_edge.host import Host
    from amalia_edge.outlook import Check, LevelRow
    from amalia_edge.plan import Plan


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@VERSION
def setup(words: tuple[str, ...]) -> int:
    """Build llama-cpp-python for this machine."""
    from amalia_edge import build

    if "--json" not in words:
        return build.main(list(words))
    with contextlib.redirect_stdout(sys.stderr):
        code = build.main([word for word in words if word != "--json"])
    if code:
        raise LibraryMissing("amalia setup", f"ended with {code}", "read the lines above")
    emit("setup", dict(build.installed_build() or {}))
    return 0


@click.command()
@click.argument("model")
@click.option("--tensors", is_flag=True, help="List every tensor too.")
@click.option("--template", is_flag=True, help="Print the chat template whole, and nothing else.")
@JSON
@VERSION
def inspect(model: str, tensors: bool, template: bool, as_json: bool) -> int:
    """Show what a model file says of itself.

    MODEL is a GGUF file, a stored name (AMALIA-9B-0626-DPO:Q4_K_M) or fadinho. Only its header is read; of a file that
    can not be run it is also told why.
    """
    from amalia_edge import summary
    from amalia_edge.gguf import examine_header

    header, fault = examine_header(find(model))
    if as_json:
        emit("inspect", summary.summarise(header) | {"fault": str(fault) if fault else None})
    elif template:
        print("\n".join(summary.template_lines(header)))
    else:
        print(as_text(summary.facts(header) | ({"not run": str(fault)} if fault else {})))
        out.print(summary.type_table(header))
        print(as_text(summary.other_facts(header)))
        if tensors:
            out.print(summary.tensor_table(header))
    return 0


@click.command(cls=Command)
@click.argument("model", required=False)
@click.option(
    "--machine",
    "machine_file",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Tell it of a recorded machine: its folder or .tar.gz.",
)
@click.option(
    "--record",
    "record_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write this machine's description to FILE (.tar.gz), without names or serial numbers.",
)
@with_options(*LOADING, PARALLEL)
@JSON
@VERSION
def doctor(
    model: str | None, machine_file: Path | None, record_file: Path | None, as_json: bool, **settings: Any
) -> int:  # fmt: skip
    """Tell what this machine is and what could go wrong; with MODEL, how it would run here.

    MODEL is a GGUF file, a stored name, fadinho, or, before any download, a config.json or a shape: amalia-9b,
    eurollm-1.7b, eurollm-9b, eurollm-22b, qwen3-8b, mistral-7b, leolm-7b, minerva-7b.
    """
    from amalia_edge import device, outlook

    if record_file is not None:
        written = device.record(record_file)
        emit("doctor", {"recorded": str(written)}) if as_json else print(f"recorded: {written}")
    elif model is not None:
        _outlook(model, machine_file, load_config(settings), as_json=as_json)
    elif machine_file is not None:
        with outlook.recorded_machine(machine_file) as seen:
            _diagnosis(device.examine_recorded(seen), as_json=as_json)
    else:
        _diagnosis(device.examine(), as_json=as_json)
    return 0


def _diagnosis(found: "Diagnosis", *, as_json: bool) -> None:
    if as_json:
        emit("doctor", found.as_dict())
        return
    print(as_text(found.lines()))
    for hazard in found.hazards:
        print(f"\n! {hazard}")


def _outlook(model: str, machine_file: Path | None, wish: LoadConfig, *, as_json: bool) -> None:
    """Plan for a file, or for every level of a shape."""
    from amalia_edge import outlook
    from amalia_edge.gguf import read_header
    from amalia_edge.plan import make_plan

    host, hazards = outlook.examine(machine_file)
    headers = outlook.find_headers(model)
    if headers is not None:
        rows = list(outlook.level_rows(headers, wish, host))
        told: dict[str, Any] = {
            "model": model,
            "machine": host.name,
            "levels": [dataclasses.asdict(row) for row in rows],
        }
        show = partial(_show_levels, model, host, rows)
    else:
        header = read_header(find(model))
        plan = make_plan(header, wish, host)
        checked = outlook.check(header.path, header, plan) if machine_file is None else None
        told = outlook.as_dict(plan, checked, host)
        show = partial(_show_plan, plan, checked)
    if as_json:
        emit("doctor", told | {"hazards": hazards})
        return
    show()
    for hazard in hazards:  # not folded: a command in it is to be copied
        print(f"! {hazard}")


def _show_plan(plan: "Plan", checked: "Check | None") -> None:
    print(as_text(plan.lines() | ({"libllama": str(checked)} if checked else {})))
    for line in (*plan.reductions, *plan.reasons):
        print(textwrap.fill(line, 80, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False))


def _show_levels(model: str, host: "Host", rows: "Sequence[LevelRow]") -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    for heading in ("level", "file", "fits", "context", "cache", "needs"):
        table.add_column(heading, justify="left" if heading in ("level", "fits", "cache") else "right", no_wrap=True)
    for row in rows:
        context = str(row.context) if row.context else "-"
        table.add_row(row.level, megabytes(row.nbytes), row.verdict, context, row.cache or "-", megabytes(row.needed))
    print(f"{model} on {host.name}: {megabytes(host.budget)} to use, {megabytes(host.reserve)} left to the system")
    out.print(table)
