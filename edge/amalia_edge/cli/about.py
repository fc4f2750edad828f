"""`amalia setup`, `inspect` and `doctor`: the build, a file, this machine."""

import contextlib
import sys
from pathlib import Path

import click

from amalia_edge.cli.options import JSON, VERSION
from amalia_edge.console import as_text, emit, out
from amalia_edge.errors import LibraryMissing
from amalia_edge.store import find


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

    MODEL is a GGUF file, a stored name (AMALIA-9B-0626-DPO:Q4_K_M) or fadinho. Only its header is read.
    """
    from amalia_edge import summary
    from amalia_edge.gguf import read_header

    header = read_header(find(model))
    if as_json:
        emit("inspect", summary.summarise(header))
    elif template:
        print("\n".join(summary.template_lines(header)))
    else:
        print(as_text(summary.facts(header)))
        out.print(summary.type_table(header))
        print(as_text(summary.other_facts(header)))
        if tensors:
            out.print(summary.tensor_table(header))
    return 0


@click.command()
@click.option("--record", "record_file", type=click.Path(path_type=Path), help="Write this machine's description to FILE (.tar.gz), without names or serial numbers.")  # fmt: skip
@JSON
@VERSION
def doctor(record_file: Path | None, as_json: bool) -> int:
    """Tell what this machine is and what could go wrong."""
    from amalia_edge import device

    if record_file is not None:
        written = device.record(record_file)
        emit("doctor", {"recorded": str(written)}) if as_json else print(f"recorded: {written}")
        return 0
    diagnosis = device.examine()
    if as_json:
        emit("doctor", diagnosis.as_dict())
        return 0
    print(as_text(diagnosis.lines()))
    for hazard in diagnosis.hazards:
        print(f"\n! {hazard}")
    return 0
