"""`amalia bench all`: one command for every figure of a model."""

import contextlib
import shlex
import sys
from pathlib import Path

import click

from amalia_bench.everything import EverythingConfig, commands, make_levels, told_levels
from amalia_edge import __version__
from amalia_edge.console import emit, err


@click.command("all")
@click.argument("model")
@click.option(
    "--levels",
    default=",".join(EverythingConfig.levels),
    show_default=True,
    metavar="LEVEL,…",
    help="Levels to make and measure.",
)
@click.option(
    "-o",
    "--out",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=EverythingConfig.folder,
    show_default=True,
    help="Folder for the records and the report.",
)
@click.option("--quick", is_flag=True, help="A first answer: a part of the texts, wider intervals.")
@click.option("-r", "--repetitions", type=int, help="Times each speed test is run. [default: 5]")
@click.option("--answers", default=EverythingConfig.answers, show_default=True, help="Questions to answer, to count Brazilian markers.")  # fmt: skip
@click.option("--imatrix", "importance", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Importance data, from amalia imatrix or llama-imatrix.")  # fmt: skip
@click.option("-n", "--dry-run", is_flag=True, help="Say which commands it takes, and run none.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: {schema, command, result}.")
@click.version_option(__version__, prog_name="amalia")
@click.pass_context
def everything(
    context: click.Context,
    model: str,
    levels: str,
    folder: Path,
    quick: bool,
    repetitions: int | None,
    answers: int,
    importance: Path | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Convert MODEL to several levels; measure speed, quality and variety; write the report.

    MODEL is a 16-bit GGUF, a checkpoint's folder, org/name on the Hub, or fadinho. What was stopped goes on.
    """
    wanted = tuple(filter(None, levels.split(",")))
    config = EverythingConfig(model, wanted, folder, quick, repetitions, answers, importance)
    base, files = told_levels(config) if dry_run else make_levels(config)
    steps = commands(config, base, files)
    lines = [shlex.join(["amalia", "bench", *words]) for words in steps]
    if dry_run:
        emit("bench all", {"commands": lines}) if as_json else click.echo("\n".join(lines))
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    bench = context.parent.command if context.parent else None
    assert isinstance(bench, click.Group)
    for words, line in zip(steps, lines, strict=True):
        err.print(f"\n{line}", style="bold", markup=False, highlight=False, soft_wrap=True)
        command = bench.get_command(context, words[0])
        assert command is not None
        with contextlib.redirect_stdout(sys.stderr if as_json else sys.stdout):
            code = command.main(words[1:], prog_name=f"amalia bench {words[0]}", standalone_mode=False)
        if code:
            return int(code)
    if as_json:
        emit("bench all", {"records": str(config.records), "report": str(folder / "report.html")})
    else:
        click.echo(f"Open {folder / 'report.html'}; the figures are in {config.records}.")
    return 0
