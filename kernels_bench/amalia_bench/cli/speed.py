"""`amalia bench speed`: build trials, call one function, print."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from amalia_bench import speed_table
from amalia_bench.machine import Machine, this_machine
from amalia_bench.records import Row, take_up
from amalia_bench.speed import SpeedConfig, combinations, fit_together, trials
from amalia_edge import __version__
from amalia_edge.console import emit, emit_failure, err, progress
from amalia_edge.errors import AmaliaError, ModelNotFound
from amalia_edge.model import LoadConfig
from amalia_edge.store import find

FORMATS = ("table", "md", "json", "jsonl", "csv")
LISTED = (
    "threads",
    "batch",
    "micro_batch",
    "cache_keys",
    "cache_values",
    "gpu_layers",
    "flash_attention",
    "large_pages",
)

Decorator = Callable[[Any], Any]
Callback = Callable[[click.Context, click.Parameter, str | None], Any]


def counts(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...]:
    """Read numbers with commas between them: 512 or 128,512."""
    try:
        return tuple(int(part) for part in value.split(",")) if value else ()
    except ValueError:
        raise click.BadParameter(
            f"{value!r}: give a number, or numbers with commas between them", context, option
        ) from None


def _words(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",")) if value else ()


def _switches(context: click.Context, option: click.Parameter, value: str | None) -> tuple[bool, ...]:
    """Read on or off, or both with a comma between them."""
    words = _words(context, option, value)
    if not set(words) <= {"on", "off"}:
        raise click.BadParameter(f"{value!r}: give on, off or on,off", context, option)
    return tuple(word == "on" for word in words)


def _pairs(context: click.Context, option: click.Parameter, values: Iterable[str]) -> tuple[tuple[int, int], ...]:
    """Read PROMPT,GENERATED, which may be given more than once."""
    found = [counts(context, option, value) for value in values]
    if any(len(pair) != 2 for pair in found):
        raise click.BadParameter("give two numbers with a comma between them: 512,128", context, option)
    return tuple((pair[0], pair[1]) for pair in found)


def shown(values: Iterable[object]) -> str:
    return ",".join(map(str, values))


def _setting(short: str, long: str, name: str, told: str, callback: Callback = counts) -> Decorator:
    """Make an option for a setting of a LoadConfig: a value, or several with commas between them, each measured."""
    default = getattr(LoadConfig, name)
    return click.option(
        short,
        long,
        name,
        callback=callback,
        metavar="N,…" if callback is counts else "TYPE,…",
        default=None if default is None else str(default),
        show_default=default is not None,
        envvar={
            "threads": "LLAMA_ARG_THREADS",
            "batch": "LLAMA_ARG_BATCH",
            "micro_batch": "LLAMA_ARG_UBATCH",
            "cache_keys": "LLAMA_ARG_CACHE_TYPE_K",
            "cache_values": "LLAMA_ARG_CACHE_TYPE_V",
            "gpu_layers": "LLAMA_ARG_N_GPU_LAYERS",
            "flash_attention": "LLAMA_ARG_FLASH_ATTN",
        }[name],
        show_envvar=True,
        help=told,
    )


@click.command()
@click.argument("models", nargs=-1)
@click.option("-m", "--model", "model_options", multiple=True, help="A model, if not given as MODEL; may be repeated.")
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
    "-pg",
    "pairs",
    callback=_pairs,
    metavar="P,N",
    multiple=True,
    help="A prompt of P tokens and N to generate, together; may be repeated.",
)
@click.option(
    "-d",
    "--n-depth",
    "depths",
    callback=counts,
    metavar="N,…",
    default=shown(SpeedConfig.depths),
    show_default=True,
    help="Tokens in the context before each test.",
)
@click.option("-r", "--repetitions", default=SpeedConfig.repetitions, show_default=True, help="Times each test is run.")
@click.option(
    "--delay", "delay_s", default=SpeedConfig.delay_s, show_default=True, help="Seconds of rest before each run."
)
@_setting("-t", "--threads", "threads", "Threads. [default: physical cores]")
@_setting("-b", "--batch-size", "batch", "Tokens in a batch.")
@_setting("-ub", "--ubatch-size", "micro_batch", "Tokens computed at once.")
@_setting("-ctk", "--cache-type-k", "cache_keys", "Type of the keys' cache.", _words)
@_setting("-ctv", "--cache-type-v", "cache_values", "Type of the values' cache.", _words)
@_setting("-ngl", "--n-gpu-layers", "gpu_layers", "Layers on the GPU; -1: all.")
@_setting("-fa", "--flash-attn", "flash_attention", "Flash attention: on, off or auto.", _words)
@click.option(
    "--large-pages",
    callback=_switches,
    metavar="on,off",
    default="on",
    show_default=True,
    help="Ask the system for large pages, as amalia does and llama-bench does not.",
)
@click.option(
    "--against", metavar="PROGRAM", help="Measure in turn: llama-bench, llama-server, ollama, or a path to one."
)
@click.option("--against-model", default="", metavar="NAME", help="What ollama calls the model.")
@click.option(
    "--records",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Append each measurement to FILE as it is done.",
)
@click.option("--resume", is_flag=True, help="Skip what FILE of --records holds already.")
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(FORMATS),
    default="table",
    show_default=True,
    help="json and jsonl print records, with llama-bench's names.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: {schema, command, result}.")
@click.version_option(__version__, prog_name="amalia")
def speed(models: tuple[str, ...], model_options: tuple[str, ...], form: str, as_json: bool, **settings: Any) -> int:
    """Measure how fast each MODEL reads a prompt and writes an answer, and how far from this machine's limit.

    MODEL is a GGUF file, a stored name (AMALIA-9B-0626-DPO:Q4_K_M) or fadinho. Several take turns, and so do
    combinations of settings.
    """
    from amalia_bench.against import find_rival
    from amalia_bench.speed_run import here, run_speed, split

    names = (*model_options, *models)
    if not names:
        raise ModelNotFound("MODEL", "none given", "give a GGUF file, a stored name, or fadinho")
    keep, resume, against, theirs = (settings.pop(name) for name in ("records", "resume", "against", "against_model"))
    loads = combinations(LoadConfig(), {name: values for name in LISTED if (values := settings.pop(name))})
    wanted = trials([find(name) for name in names], SpeedConfig(**settings), loads)
    rival = find_rival(against, theirs) if against else None
    machine, known = this_machine(), take_up(keep, resume)
    rows, left = split(wanted, known, machine, rival.program if rival else "") if known else ([], wanted)
    surroundings = here(machine, left)
    if not fit_together(left, surroundings.available):
        err.print("Too large to be in memory together: measured one after the other, not in turns.")
    if rows:
        err.print(f"{len(rows)} of the tests are in {keep.name} already.", markup=False)
    stopped = False
    with progress("measuring", sum(trial.steps for trial in left), in_bytes=False) as bar:
        try:
            for row in run_speed(
                left, machine, surroundings=surroundings, rival=rival, keep=keep, watch=lambda: bar.advance(1)
            ):
                rows.append(row)
        except KeyboardInterrupt:
            stopped = True
        except AmaliaError as error:  # what came before it is true
            if not rows:
                raise
            if as_json:
                emit_failure("bench speed", error, {"rows": rows})
                return error.exit_code
            _print(rows, form, machine, as_json=False)
            raise
    if rows or not stopped:
        _print(rows, form, machine, as_json=as_json)
    if stopped:
        err.print(_stopped(len(rows), keep), markup=False)
        raise KeyboardInterrupt
    return 0


def _stopped(count: int, keep: Path | None) -> str:
    """Say what is left of a run that was stopped, and how to go on."""
    whole = f"Stopped; {count} {'test is' if count == 1 else 'tests are'} whole"
    if keep is None:
        return f"{whole}: give --records FILE, and --resume goes on from there."
    return f"{whole}, in {keep.name}: go on with the same command and --resume."


def _print(rows: list[Row], form: str, machine: Machine, *, as_json: bool) -> None:
    if as_json:
        result = {"machine": dataclasses.asdict(machine), "rows": rows, "advice": speed_table.advice(rows)}
        emit("bench speed", result)
    elif form == "table":
        console = Console(width=speed_table.WIDTH, highlight=False)
        console.print(speed_table.table(rows, machine))
        console.print(f"\n{speed_table.advice(rows)}", markup=False, soft_wrap=True)
    elif form == "md":
        print(speed_table.markdown(rows, machine))
    else:
        shapes = {
            "json": speed_table.json_array,
            "jsonl": speed_table.json_lines,
            "csv": speed_table.comma_separated,
        }
        print(shapes[form](rows))
