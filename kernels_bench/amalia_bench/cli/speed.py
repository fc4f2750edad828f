"""The command line of this room: build a config, call one function, print."""

import dataclasses
from typing import Any

import click
from rich.console import Console

from amalia_bench import report
from amalia_bench.machine import this_machine
from amalia_bench.records import speed_row
from amalia_bench.speed import SpeedConfig, fit_together, measure_speed, steps
from amalia_bench.subject import open_remote
from amalia_edge import __version__
from amalia_edge.console import emit, err, progress
from amalia_edge.errors import ModelNotFound
from amalia_edge.model import LoadConfig
from amalia_edge.store import find

FORMATS = ("table", "md", "json", "jsonl", "csv")


def _counts(context: click.Context, option: click.Parameter, value: str) -> tuple[int, ...]:
    """Read token counts with commas between them: 512 or 128,512."""
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(
            f"{value!r}: give a count, or counts with commas between them", context, option
        ) from None


def _shown(counts: tuple[int, ...]) -> str:
    return ",".join(map(str, counts))


@click.group()
@click.version_option(__version__, prog_name="amalia")
def bench() -> None:
    """Measure what this machine gives, and what a quantization cost."""


@bench.command()
@click.argument("models", nargs=-1)
@click.option("-m", "--model", "model_options", multiple=True, help="A model, if not given as MODEL; may be repeated.")
@click.option(
    "-p",
    "--n-prompt",
    "prompts",
    callback=_counts,
    metavar="N,…",
    default=_shown(SpeedConfig.prompts),
    show_default=True,
    help="Prompt lengths, tokens; 0: none.",
)
@click.option(
    "-n",
    "--n-gen",
    "generations",
    callback=_counts,
    metavar="N,…",
    default=_shown(SpeedConfig.generations),
    show_default=True,
    help="Tokens to generate; 0: none.",
)
@click.option("-r", "--repetitions", default=SpeedConfig.repetitions, show_default=True, help="Times each test is run.")
@click.option(
    "--delay", "delay_s", default=SpeedConfig.delay_s, show_default=True, help="Seconds of rest before each run."
)
@click.option(
    "-t", "--threads", type=int, envvar="LLAMA_ARG_THREADS", show_envvar=True, help="Threads. [default: physical cores]"
)
@click.option(
    "-b",
    "--batch-size",
    "batch",
    default=LoadConfig.batch,
    envvar="LLAMA_ARG_BATCH",
    show_default=True,
    show_envvar=True,
    help="Tokens in a batch.",
)
@click.option(
    "-ub",
    "--ubatch-size",
    "micro_batch",
    default=LoadConfig.micro_batch,
    envvar="LLAMA_ARG_UBATCH",
    show_default=True,
    show_envvar=True,
    help="Tokens computed at once.",
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
    "-fa",
    "--flash-attn",
    "flash_attention",
    default=LoadConfig.flash_attention,
    envvar="LLAMA_ARG_FLASH_ATTN",
    show_default=True,
    show_envvar=True,
    help="Flash attention: on, off or auto.",
)
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(FORMATS),
    default="table",
    show_default=True,
    help="json and jsonl print llama-bench's bare rows.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: {schema, command, result}.")
@click.version_option(__version__, prog_name="amalia")
def speed(models: tuple[str, ...], model_options: tuple[str, ...], form: str, as_json: bool, **settings: Any) -> int:  # fmt: skip
    """Measure how fast each MODEL reads a prompt and writes an answer.

    MODEL is a GGUF file, a stored name (AMALIA-9B-0626-DPO:Q4_K_M) or fadinho. Several take turns.
    """
    names = (*model_options, *models)
    if not names:
        raise ModelNotFound("MODEL", "none given", "give a GGUF file, a stored name, or fadinho")
    paths, config, machine = [find(name) for name in names], _config(settings), this_machine()
    if not fit_together(paths, machine.available):
        err.print("Too large to be in memory together: measured one after the other, not in turns.")
    with progress("measuring", steps(paths, config), in_bytes=False) as bar:
        measured = list(measure_speed(paths, config, open_remote, machine.available, lambda: bar.advance(1)))
    rows = [speed_row(measurement, machine) for measurement in measured]
    if as_json:
        emit("bench speed", {"machine": dataclasses.asdict(machine), "rows": rows})
    elif form == "table":
        Console(width=report.WIDTH, highlight=False).print(report.table(rows, machine))
    elif form == "md":
        print(report.markdown(rows, machine))
    else:
        print({"json": report.json_array, "jsonl": report.json_lines, "csv": report.comma_separated}[form](rows))
    return 0


def _config(settings: dict[str, Any]) -> SpeedConfig:
    load = LoadConfig(**{name: settings.pop(name) for name in LoadConfig.__dataclass_fields__ if name in settings})
    return SpeedConfig(load=load, **settings)
