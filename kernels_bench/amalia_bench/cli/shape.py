"""`amalia bench shape`: build a config, call one function, print."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from amalia_bench.cli.speed import counts, shown
from amalia_bench.machine import loaded_library, this_machine
from amalia_bench.records import Row, append, take_up
from amalia_bench.shape import (
    CONTEXTS,
    Room,
    ShapeConfig,
    check_disks,
    check_predictable,
    efficiency_of,
    fitting,
    is_known,
    measure_shape,
    predict,
    prediction_record,
    rooms,
    shape_headers,
)  # fmt: skip
from amalia_bench.shape_table import advice, predictions_table, rooms_table, table
from amalia_bench.speed import SpeedConfig, trials
from amalia_bench.speed_table import WIDTH
from amalia_bench.synthetic import plan_synthetic
from amalia_bench.target import Target, find_target
from amalia_convert.level_table import find_level
from amalia_edge.console import emit, emit_failure, err, progress
from amalia_edge.errors import AmaliaError, UsageError
from amalia_edge.host import this_host
from amalia_edge.load_config import LoadConfig

DEFAULTS = ShapeConfig("amalia-9b")
COMMON = ("BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M", "Q2_K")


@click.command()
@click.argument("shape")
@click.option(
    "--level",
    "levels",
    multiple=True,
    default=DEFAULTS.levels,
    show_default=True,
    metavar="LEVEL",
    help="A level to write and measure; may be repeated.",
)
@click.option(
    "-c",
    "--contexts",
    callback=counts,
    metavar="N,…",
    default=shown(CONTEXTS),
    show_default=True,
    help="Contexts to plan memory for, tokens.",
)
@click.option(
    "-p",
    "--n-prompt",
    "prompts",
    callback=counts,
    metavar="N,…",
    default=shown(SpeedConfig.prompts),
    show_default=True,
    help="Prompt lengths, tokens; 0: none.",
)
@click.option(
    "-n",
    "--n-gen",
    "generations",
    callback=counts,
    metavar="N,…",
    default=shown(SpeedConfig.generations),
    show_default=True,
    help="Tokens to generate; 0: none.",
)
@click.option(
    "-r", "--repetitions", default=DEFAULTS.speed.repetitions, show_default=True, help="Times each test is run."
)
@click.option(
    "-t", "--threads", type=int, envvar="LLAMA_ARG_THREADS", show_envvar=True, help="Threads. [default: physical cores]"
)
@click.option(
    "-ctk",
    "--cache-type-k",
    "cache_keys",
    default=LoadConfig.cache_keys,
    envvar="LLAMA_ARG_CACHE_TYPE_K",
    show_default=True,
    show_envvar=True,
    help="Type of the keys' cache.",
)
@click.option(
    "-ctv",
    "--cache-type-v",
    "cache_values",
    default=LoadConfig.cache_values,
    envvar="LLAMA_ARG_CACHE_TYPE_V",
    show_default=True,
    show_envvar=True,
    help="Type of the values' cache.",
)
@click.option("--plan", "only_plan", is_flag=True, help="Write and measure nothing: only which levels fit.")
@click.option(
    "--device", "devices", multiple=True, metavar="NAME", help="Predict for a machine not at hand; may be repeated."
)
@click.option("--bandwidth", type=float, metavar="GB/s", help="That machine's memory bandwidth.")
@click.option("--memory", type=float, metavar="GB", help="That machine's memory.")
@click.option(
    "--efficiency", type=float, metavar="SHARE", help="Predict with this share of the bandwidth; measure nothing here."
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the file lies meanwhile. [default: the cache folder]",
)
@click.option(
    "--records",
    "keep",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Append each measurement to FILE as it is done.",
)
@click.option("--resume", is_flag=True, help="Skip what FILE of --records holds already.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: {schema, command, result}.")
def shape(
    shape: str, levels: tuple[str, ...], contexts: tuple[int, ...], folder: Path | None, keep: Path | None, as_json: bool,
    **settings: Any,
) -> int:  # fmt: skip
    """Find out what a model of SHAPE will do on this device, before it is downloaded.

    SHAPE is a name (amalia-9b, eurollm-1.7b, …) or a config.json. A file of that geometry with random weights is
    written, measured and deleted again.
    """
    only_plan, devices, efficiency = (settings.pop(name) for name in ("only_plan", "devices", "efficiency"))
    bandwidth, memory, resume = (settings.pop(name) for name in ("bandwidth", "memory", "resume"))
    targets = [find_target(name, bandwidth, memory) for name in devices]
    if (bandwidth or memory or efficiency) and not targets:
        raise UsageError("--bandwidth, --memory, --efficiency", "no --device named", "name the machine: --device NAME")
    if len(targets) > 1 and (bandwidth or memory):
        raise UsageError("--bandwidth, --memory", f"{len(targets)} devices named", "give them for one --device")
    load = LoadConfig(**{name: settings.pop(name) for name in ("threads", "cache_keys", "cache_values")})
    levels = tuple(find_level(name).name for name in levels)
    config = ShapeConfig(shape, levels, contexts, SpeedConfig(load=load, **settings), folder)
    machine, host = this_machine(), this_host()
    found = rooms(shape_headers(config), contexts, host, load)
    known = take_up(keep, resume)
    measures = not only_plan and efficiency is None
    predicts = targets if measures or efficiency is not None else []
    if measures and predicts:
        check_predictable(config, host)
    rows: list[Row] = []
    told: list[Row] = []
    stopped: AmaliaError | KeyboardInterrupt | None = None
    try:
        if measures:
            check_disks(config, machine, known)
            _measure(config, rows, keep, known)
        for target in predicts:
            told += _predictions(config, target, rows, efficiency)
    except (AmaliaError, KeyboardInterrupt) as reason:  # what was measured is shown before it
        stopped = reason
    if isinstance(stopped, AmaliaError) and not rows:
        raise stopped
    for body in told:
        prediction = prediction_record(body, machine, loaded_library())
        if keep is not None and not is_known(prediction, known):
            append(keep, prediction)
    said = advice(rows, told, found, config.name)
    if as_json:
        fits = {"memory": {room.level: room.memory for room in found}, "fits": fitting(found)}
        result = {"machine": dataclasses.asdict(machine), "rows": rows, "predictions": told, **fits, "advice": said}
        if isinstance(stopped, AmaliaError):
            emit_failure("bench shape", stopped, result)
            return stopped.exit_code
        emit("bench shape", result)
    else:
        console = Console(width=WIDTH, highlight=False)
        if rows:
            console.print(table(rows, machine))
            console.print()
        cache = " and ".join(dict.fromkeys((load.cache_keys, load.cache_values)))
        console.print(rooms_table(_listed(found, config), "this machine", cache))
        for target in targets:
            if there := target.host:
                every = rooms(shape_headers(config), contexts, there, load)
                console.print()
                console.print(rooms_table(_listed(every, config), target.title or target.name, cache))
        if told:
            console.print()
            console.print(predictions_table(told))
        console.print(f"\n{said}", markup=False, soft_wrap=True)
    if isinstance(stopped, KeyboardInterrupt):
        err.print("Stopped; the file is deleted, and what was measured is above.", markup=False)
    if stopped is not None:
        raise stopped
    return 0


def _measure(config: ShapeConfig, rows: list[Row], keep: Path | None, known: Sequence[Row]) -> None:
    """Measure every level under one bar: half of each level's length is for writing, half for measuring."""
    machine, host = this_machine(), this_host()
    for level in config.levels:
        one = dataclasses.replace(config, levels=(level,))
        nbytes, steps = (
            plan_synthetic(Path("x.gguf"), config.shape, level).nbytes,
            trials([Path()], config.speed)[0].steps,
        )
        with progress(f"writing and measuring {level}", 2 * nbytes, in_bytes=False) as bar:
            share = nbytes / steps
            watch = partial(bar.advance, share)
            found = measure_shape(one, machine, host, keep=keep, known=known, wrote=bar.advance, watch=watch)
            for row in found:  # one by one: Ctrl-C keeps those that are there
                rows.append(row)


def _predictions(config: ShapeConfig, target: Target, rows: Sequence[Row], efficiency: float | None) -> Iterator[Row]:
    """Predict each level with what was given, or with what the same level reached here."""
    for level in config.levels:
        if efficiency is not None:
            yield predict(config, level, target, (efficiency, 0.0), source="given with --efficiency")
            continue
        same = [row for row in rows if row["level"] == level and row["n_gen"] and not row["n_prompt"]]
        reached = next((found for row in same if (found := efficiency_of(row))), None)
        if reached is None:
            raise UsageError(
                f"--device {target.name}", f"no efficiency measured here for {level}", "give one: --efficiency 0.6"
            )
        where = f"measured here at {level}, of the bandwidth measured here"
        yield predict(config, level, target, reached, source=where)


def _listed(found: Sequence[Room], config: ShapeConfig) -> list[Room]:
    """Keep the levels that were asked for and the common ones: 24 lines would hide them."""
    return [room for room in found if room.level in (*COMMON, *config.levels)]
