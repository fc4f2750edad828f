"""`amalia bench card`: build a config, call one function, print."""

import dataclasses
from pathlib import Path

import click

from amalia_bench import records
from amalia_bench.card import Provenance, missing, model_card, of_header
from amalia_bench.cli.report import write_shared
from amalia_edge import __version__
from amalia_edge.console import emit


@click.command()
@click.option(
    "--records",
    "files",
    type=click.Path(path_type=Path),
    required=True,
    multiple=True,
    metavar="FILE",
    help="What was measured; may be repeated.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where the card goes, as in README.md. [default: printed]",
)
@click.option("--model", help="Which model, where the records hold several.")
@click.option("--from", "source", metavar="GGUF", help="Read licence and base model from this file.")
@click.option("--license", help="The licence, as the Hub names it: apache-2.0.")
@click.option("--base-model", metavar="USER/NAME", help="What the files were made from.")
@click.option("--repository", metavar="USER/NAME", help="Where the files will be.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.version_option(__version__, prog_name="amalia")
def card(
    files: tuple[Path, ...],
    output: Path | None,
    model: str | None,
    source: str | None,
    as_json: bool,
    **given: str | None,
) -> int:
    """Write a GGUF repository's model card from FILE: which file to choose, how to run it, where it comes from."""
    rows = [row for file in files for row in records.read(file)]
    provenance = dataclasses.replace(_told(source), **{name: value for name, value in given.items() if value})
    text, lacking = model_card(rows, provenance, model), missing(provenance)
    if output is not None:
        write_shared(output, text.encode())
    if as_json:
        emit("bench card", {"written": str(output) if output else None, "card": text, "missing": lacking})
        return 0
    if output is None:
        print(text, end="")
    what = f"{output} is written" if output else "This is the card"
    more = f"give {', '.join(lacking)} to complete it." if lacking else "read it once, then upload it beside the files."
    click.echo(f"{what}: {more}", err=output is None)
    return 0


def _told(source: str | None) -> Provenance:
    """Read what a file says of itself."""
    if source is None:
        return Provenance()
    from amalia_edge.gguf import read_header
    from amalia_edge.store import find

    return of_header(read_header(find(source)))
