"""`amalia bench energy`: find what tells power, put the model to work, print."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from amalia_bench import energy_table, records
from amalia_bench.energy import EnergyConfig, measure_energy
from amalia_bench.identity import Identity, identify
from amalia_bench.machine import Machine, this_machine
from amalia_bench.sensors import Source, SystemClock, Wall
from amalia_bench.sources import NAMES, choose_sources, find_sources
from amalia_bench.speed import Case
from amalia_bench.thermal import Thermometer
from amalia_bench.workload import open_load
from amalia_edge import __version__
from amalia_edge.console import emit, emit_failure, err, progress
from amalia_edge.errors import AmaliaError
from amalia_edge.load_config import LoadConfig
from amalia_edge.machine import answers
from amalia_edge.store import find

WIDTH = 120  # of the table, where nobody's terminal says
FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
MOST_ALARMS = 3  # shown; a record holds them all
INTERRUPTED = 130


def _length(*names: str, default: float, told: str) -> Callable[[Any], Any]:
    return click.option(*names, default=default, metavar="N", show_default=True, help=told)


@click.command()
@click.argument("model")
@_length("--seconds", default=EnergyConfig.seconds, told="Seconds each test is measured.")
@_length("--idle", "idle_s", default=EnergyConfig.idle_s, told="Seconds of idling before, which are subtracted.")
@_length("--warm-up", "warm_up_s", default=EnergyConfig.warm_up_s, told="Seconds of each test that are left out.")
@_length("-p", "--n-prompt", "prompt", default=EnergyConfig.prompt, told="Length of the prompts, tokens; 0: none.")
@_length("-n", "--n-gen", "generated", default=EnergyConfig.generated, told="Length of the answers, tokens; 0: none.")
@click.option(
    "-t", "--threads", type=int, envvar="LLAMA_ARG_THREADS", show_envvar=True, help="Threads. [default: physical cores]"
)
@click.option(
    "-ngl",
    "--n-gpu-layers",
    "gpu_layers",
    default=LoadConfig.gpu_layers,
    envvar="LLAMA_ARG_N_GPU_LAYERS",
    show_envvar=True,
    help="Layers on the GPU; -1: all.",
)
@click.option(
    "--source", "wanted", default="", metavar="NAME", help=f"{', '.join(NAMES)}, rapl+nvml, or wall: you read a meter."
)
@click.option("--root", type=FOLDER, default=Path("/"), metavar="FOLDER", help="Read sensors below FOLDER.")
@click.option("--records", "file", type=FILE, metavar="FILE", help="Append each measurement to FILE as it is done.")
@click.option("--resume", is_flag=True, help="Skip what FILE of --records holds already.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: {schema, command, result}.")
@click.version_option(__version__, prog_name="amalia")
def energy(model: str, wanted: str, root: Path, file: Path | None, resume: bool, as_json: bool, **settings: Any) -> int:
    """Measure the joules MODEL takes for a token, reading and writing, beyond an idle machine."""
    load = LoadConfig(threads=settings.pop("threads"), gpu_layers=settings.pop("gpu_layers"))
    config, path = EnergyConfig(load=load, **settings), find(model)
    sources = _sources(root, wanted)
    machine, identity = this_machine(root), identify(path)
    kept = records.take_up(file, resume)
    rows = [row for row in kept if _same(row, config, machine, identity, sources)]
    cases = [case for case in config.cases if case.name not in [row["test"] for row in rows]]
    stopped: BaseException | None = None
    try:
        _measure(
            path,
            config,
            cases,
            sources,
            root,
            lambda body, library: rows.append(_row(body, machine, library, identity, file)),
        )
    except (AmaliaError, KeyboardInterrupt, click.Abort) as reason:  # what was measured is told before it
        stopped = reason
    return _tell(rows, stopped, as_json)


def _sources(root: Path, wanted: str) -> list[Source]:
    """Choose what is read; say where the processor's part will be missing."""
    if wanted == "wall":
        return [Wall()]
    sources, missing = find_sources(root, answers(root), SystemClock())
    chosen = choose_sources(sources, missing, wanted)
    for gone in missing:
        if not wanted and gone.name == "rapl" and gone.remedy and [source.name for source in chosen] == ["nvml"]:
            err.print(f"The GPU's energy alone: {gone.found}; {gone.advice}.", markup=False)
    return chosen


def _same(
    row: dict[str, Any], config: EnergyConfig, machine: Machine, identity: Identity, sources: Sequence[Source]
) -> bool:
    """Say whether a record is of the same file, machine, power mode, source and settings, and was not broken off."""
    settings: dict[str, Any] = {
        "seconds_wanted": config.seconds,
        "idle_s": config.idle_s,
        "warm_up_s": config.warm_up_s,
    }
    settings |= {
        "gpu_layers": config.load.gpu_layers,
        "whole": True,
        "source": "+".join(source.name for source in sources),
    }
    if config.load.threads is not None:
        settings["threads"] = config.load.threads
    there = row.get("machine", {})
    return (
        row["kind"] == "energy"
        and row.get("test") in [case.name for case in config.cases]
        and all(row.get(name) == value for name, value in settings.items())
        and row.get("model", {}).get("sha256") == identity.sha256
        and (there.get("cpu"), there.get("board")) == (machine.cpu, machine.board)
    )


def _measure(
    path: Path,
    config: EnergyConfig,
    cases: Sequence[Case],
    sources: Sequence[Source],
    root: Path,
    keep: Callable[[dict[str, Any], Any], None],
) -> None:
    """Measure what is left to measure."""
    if not cases:
        return
    settings: dict[str, Any] = {
        "seconds_wanted": config.seconds,
        "idle_s": config.idle_s,
        "warm_up_s": config.warm_up_s,
    }
    told = _ask_watts if isinstance(sources[0], Wall) else None
    with open_load(path, config) as load, progress("measuring", config.total_s, in_bytes=False) as bar:
        facts = load.facts
        for measured in measure_energy(
            load, sources, Thermometer(root), SystemClock(), config, cases, bar.advance, told
        ):
            body = measured.body() | settings | {"threads": facts.threads, "gpu_layers": config.load.gpu_layers}
            keep(body, facts.library)


def _row(body: dict[str, Any], machine: Machine, library: Any, identity: Identity, file: Path | None) -> records.Row:
    row = records.record("energy", body, machine, library, identity)
    if file is not None:
        records.append(file, row)
    return row


def _ask_watts(doing: str) -> float:
    """Ask a person what the meter showed."""
    while True:
        watts = float(click.prompt(f"Watts the meter showed while {doing}", type=float, err=True))
        if math.isfinite(watts) and watts > 0:
            return watts
        click.echo("A meter shows more than 0 watts.", err=True)


def _tell(rows: list[records.Row], stopped: BaseException | None, as_json: bool) -> int:
    """Print what there is, then why there is no more."""
    result = {"rows": rows}
    if as_json and isinstance(stopped, AmaliaError):
        emit_failure("bench energy", stopped, result)
        return stopped.exit_code
    if as_json:
        emit("bench energy", result)
    elif rows:
        _print(rows)
    if isinstance(stopped, AmaliaError):
        raise stopped
    return 0 if stopped is None else INTERRUPTED


def _print(rows: list[records.Row]) -> None:
    console = Console(width=WIDTH, highlight=False)
    model, machine = rows[0]["model"], rows[0]["machine"]
    console.print(f"{model['file']} on {machine['cpu']}, {rows[0]['threads']} threads", markup=False)
    console.print(f"{rows[0]['source']}: {rows[0]['covers']}", markup=False)
    console.print(energy_table.table(rows))
    for row in rows:
        for note in row["notes"]:
            console.print(f"{row['test']}: {note}", markup=False)
        for seconds, alarm in row["alarms"][:MOST_ALARMS]:
            console.print(f"{row['test']}: {alarm}, after {seconds:.0f} s", markup=False)
    console.print(energy_table.advice(rows), markup=False)
