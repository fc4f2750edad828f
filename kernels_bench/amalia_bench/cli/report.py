"""`amalia bench report`: build a config, call one function, print."""

from collections.abc import Sequence
from pathlib import Path

import click

from amalia_bench import records
from amalia_bench.choices import latest
from amalia_bench.report import Report, make_report, markdown
from amalia_edge import __version__
from amalia_edge.console import emit, progress
from amalia_edge.errors import BenchError, UsageError
from amalia_edge.whole_file import write_whole

PAGE = "report.html"


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"The page, or Markdown where FILE ends in .md. [default: {PAGE}]",
)
@click.option("--md", "as_markdown", is_flag=True, help="Print Markdown; with --json, as `markdown` in the object.")
@click.option(
    "--plots",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Write each plot as SVG and PNG.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.version_option(__version__, prog_name="amalia")
def report(files: tuple[Path, ...], output: Path | None, as_markdown: bool, plots: Path | None, as_json: bool) -> int:
    """Render FILES of records as one page that needs no network, as Markdown, or as plots."""
    rows = [row for file in files for row in records.read(file)]
    if not rows:
        raise BenchError(
            ", ".join(file.name for file in files),
            "no records",
            "measure first: amalia bench speed MODEL --records FILE",
        )
    made = make_report(rows)
    if output is None and not as_markdown and plots is None:
        output = Path(PAGE)
    written = [*_write_output(made, rows, output), *_write_plots(rows, plots)]
    if as_json:
        sections = [section.name for section in made.sections]
        told = {"title": made.title, "sections": sections, "written": list(map(str, written))}
        emit("bench report", told | ({"markdown": markdown(made)} if as_markdown else {}))
        return 0
    if as_markdown:
        print(markdown(made), end="")
    click.echo(_advice(made, written), err=as_markdown)
    return 0


def _write_output(made: Report, rows: Sequence[records.Row], output: Path | None) -> list[Path]:
    if output is None:
        return []
    if output.suffix.lower() in (".md", ".markdown"):
        content = markdown(made)
    elif output.suffix.lower() in (".html", ".htm"):
        from amalia_bench.page import render
        from amalia_bench.pictures import pictures

        with progress("drawing", 1, in_bytes=False):
            content = render(made, pictures(latest(rows)))
    else:
        raise UsageError(output.name, "neither .html nor .md", "name the page, as in -o report.html")
    write_shared(output, content.encode())
    return [output]


def _write_plots(rows: Sequence[records.Row], folder: Path | None) -> list[Path]:
    if folder is None:
        return []
    from amalia_bench.pictures import pictures

    written: list[Path] = []
    drawn = pictures(latest(rows))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UsageError(f"--plots {folder}", problem.strerror or "cannot be made", "name another folder") from None
    with progress("drawing", 2 * len(drawn), in_bytes=False) as bar:
        for picture in drawn:
            for path, content in (
                (folder / f"{picture.name}.svg", picture.alone()),
                (folder / f"{picture.name}.png", picture.png()),
            ):
                write_shared(path, content)
                written.append(path)
                bar.advance(1)
    return written


def write_shared(path: Path, content: bytes) -> None:
    """Write a file that others may read, whole or not at all."""
    try:
        write_whole(path, content)
        path.chmod(0o644)
    except OSError as problem:
        raise UsageError(
            str(path), problem.strerror or "cannot be written", "name a file in a folder that is there"
        ) from None


def _advice(made: Report, written: Sequence[Path]) -> str:
    names = {section.name for section in made.sections}
    if "quality" not in names:
        return _told(written) + "No quality was measured yet: amalia bench quality BASE LEVEL… --records FILE adds it."
    if not names & {"speed", "shape"}:
        return _told(written) + "No speed was measured yet: amalia bench speed MODEL --records FILE adds it."
    pages = [path for path in written if path.suffix == ".html"]
    return (
        f"Open {pages[0]} in a browser; it needs no network."
        if pages
        else _told(written) + "amalia bench advise --records FILE names the level for this machine."
    )


def _told(written: Sequence[Path]) -> str:
    return f"Written: {', '.join(map(str, written))}. " if written else ""
