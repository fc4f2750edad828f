"""`amalia bench tasks`: build a config, call one function, print."""

from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from amalia_bench import records, tasks_table
from amalia_bench.machine import this_machine
from amalia_bench.questions import read_questions
from amalia_bench.tasks import PROMPTS, TasksConfig, measure_tasks, steps
from amalia_edge import __version__
from amalia_edge.console import emit, emit_failure, err, progress
from amalia_edge.errors import AmaliaError
from amalia_edge.store import find

INTERRUPTED = 130


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("models", nargs=-1, required=True)
@click.option("--base", metavar="MODEL16", help="The model to set the others against, question by question.")
@click.option(
    "--prompt",
    type=click.Choice(PROMPTS),
    default=TasksConfig.prompt,
    show_default=True,
    help="Score each option after the question, or its letter after all of them.",
)
@click.option(
    "-c",
    "--context",
    type=click.IntRange(min=64),
    default=TasksConfig.context,
    show_default=True,
    help="Tokens; longer questions are left out, and counted.",
)
@click.option(
    "-t", "--threads", type=int, envvar="LLAMA_ARG_THREADS", show_envvar=True, help="Threads. [default: physical cores]"
)
@click.option(
    "-ngl",
    "--n-gpu-layers",
    "gpu_layers",
    type=int,
    default=TasksConfig.gpu_layers,
    envvar="LLAMA_ARG_N_GPU_LAYERS",
    show_envvar=True,
    help="Layers on the GPU; -1: all.",
)
@click.option(
    "--records",
    "records_at",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Append each measurement to FILE.",
)
@click.option("--resume", is_flag=True, help="Take over what --records FILE already holds.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: {schema, command, result}.")
@click.version_option(__version__, prog_name="amalia")
def tasks(
    file: Path,
    models: tuple[str, ...],
    base: str | None,
    prompt: str,
    context: int,
    threads: int | None,
    gpu_layers: int,
    records_at: Path | None,
    resume: bool,
    as_json: bool,
) -> int:
    """Answer the questions in FILE with each MODEL, by likelihood.

    FILE is yours: JSON lines, or one array, of one kind of object.

    \b
    {"question": "…", "choices": ["…", "…"], "answer": 1}      as in the PHEB exams
    {"sentence": "…", "last_word": "…"}                        as in CALAME-PT

    choices may be called options, and be texts by letter or {"text": […],
    "label": […]}. answer may be called label or answerKey: an index from 0, a
    letter, or one of the labels. context, if there, stands before the question.

    Questions are bare text: no chat template, no system prompt.
    """
    questions, paths, base_path = read_questions(file), [find(name) for name in models], find(base) if base else None
    config = TasksConfig(prompt=prompt, context=context, threads=threads, gpu_layers=gpu_layers)
    known = records.take_up(records_at, resume)
    rows: list[records.Row] = []
    stopped = False
    try:
        with progress("asking", steps(questions, paths, base_path), in_bytes=False) as bar:
            for row, fresh in measure_tasks(questions, paths, base_path, config, this_machine(), known, bar.advance):
                rows.append(row)
                if fresh and records_at:
                    records.append(records_at, row)
    except KeyboardInterrupt:
        if not rows:
            raise
        stopped = True
        err.print("Interrupted: what was measured so far follows; --records FILE with --resume goes on from there.")
    except AmaliaError as error:  # what came before it is true
        if as_json:
            emit_failure("bench tasks", error, {"rows": rows})
            return error.exit_code
        _print(rows)
        raise
    if as_json:
        emit("bench tasks", {"rows": rows})
    else:
        _print(rows)
    return INTERRUPTED if stopped else 0


def _print(rows: Sequence[records.Row]) -> None:
    if rows:
        screen = Console(width=tasks_table.WIDTH, highlight=False)
        screen.print(tasks_table.table(rows))
        screen.print(f"\n{tasks_table.sentence(rows)}", soft_wrap=True)
