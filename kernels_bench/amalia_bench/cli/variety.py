"""`amalia bench variety`: build a config, call one function, print."""

from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from amalia_bench import records, variety_table
from amalia_bench.machine import this_machine
from amalia_bench.margins import PROMPTS
from amalia_bench.pairs import read_pairs
from amalia_bench.variety import VarietyConfig, measure_variety, steps
from amalia_edge import __version__
from amalia_edge.build import cache_folder
from amalia_edge.console import emit, emit_failure, err, progress
from amalia_edge.errors import AmaliaError
from amalia_edge.store import find

INTERRUPTED = 130


@click.command()
@click.argument("base")
@click.argument("levels", nargs=-1)
@click.option("--pairs", "pairs_at", type=click.Path(path_type=Path, exists=True), help="Your own pairs: a file or folder.")  # fmt: skip
@click.option(
    "--prompt",
    type=click.Choice((*PROMPTS, "both")),
    default="both",
    show_default=True,
    help="Bare text, or an answer under the default system prompt.",
)
@click.option(
    "--answers",
    metavar="N",
    default=VarietyConfig.answers,
    show_default=True,
    help="Also answer N everyday questions and count Brazilian markers.",
)
@click.option(
    "-t", "--threads", type=int, envvar="LLAMA_ARG_THREADS", show_envvar=True, help="Threads. [default: physical cores]"
)
@click.option(
    "-ngl",
    "--n-gpu-layers",
    "gpu_layers",
    default=VarietyConfig.gpu_layers,
    envvar="LLAMA_ARG_N_GPU_LAYERS",
    show_envvar=True,
    help="Layers on the GPU; -1: all.",
)
@click.option(
    "--records", "records_at", type=click.Path(path_type=Path, dir_okay=False), help="Append each measurement to FILE."
)
@click.option("--resume", is_flag=True, help="Take over what --records FILE already holds.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: {schema, command, result}.")
@click.version_option(__version__, prog_name="amalia")
def variety(
    base: str,
    levels: tuple[str, ...],
    pairs_at: Path | None,
    prompt: str,
    answers: int,
    threads: int | None,
    gpu_layers: int,
    records_at: Path | None,
    resume: bool,
    as_json: bool,
) -> int:
    """Measure whether LEVELs of a model are drawn towards Brazilian Portuguese, beside BASE.

    BASE and LEVEL are GGUF files or stored names. Minimal pairs are scored; see kernels_bench.
    """
    config = VarietyConfig(
        prompts=PROMPTS if prompt == "both" else (prompt,), answers=answers, threads=threads, gpu_layers=gpu_layers
    )
    paths, pairs = [find(name) for name in (base, *levels)], read_pairs(pairs_at)
    known, rows = records.take_up(records_at, resume), []
    ended, notes = 0, cache_folder() / "variety"
    try:
        with progress("scoring", steps(paths, pairs, config), in_bytes=False) as bar:
            for row, fresh in measure_variety(paths, pairs, config, this_machine(), known, bar.advance, notes):
                rows.append(row)
                if fresh and records_at:
                    records.append(records_at, row)
    except KeyboardInterrupt:
        err.print("Interrupted: the same command goes on with the pair it was at; --records FILE keeps what was ended.")
        if not rows:
            raise
        ended = INTERRUPTED
    except AmaliaError as error:  # what came before it is true
        if as_json:
            emit_failure("bench variety", error, {"rows": rows})
            return error.exit_code
        _print(rows)
        raise
    if as_json:
        emit("bench variety", {"rows": rows})
    else:
        _print(rows)
    return ended


def _print(rows: Sequence[records.Row]) -> None:
    if rows:
        files = {row["model"]["sha256"] for row in rows}
        screen = Console(width=None if len(files) > 5 else variety_table.WIDTH, highlight=False)
        screen.print(variety_table.table(rows))
        screen.print(f"\n{variety_table.sentence(rows)}", soft_wrap=True)
