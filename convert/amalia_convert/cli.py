"""`amalia convert`."""

import dataclasses
from pathlib import Path

import click

from amalia_convert.conversion import ConvertConfig
from amalia_convert.conversion import convert as convert_checkpoint
from amalia_convert.receipt import Receipt
from amalia_edge import __version__, console

_DEFAULTS = ConvertConfig("")


@click.command()
@click.argument("source")
@click.option("--to", "levels", default=",".join(_DEFAULTS.levels), show_default=True, metavar="LEVEL,…",
              help="Levels to write in one pass: F32, BF16, F16, Q8_0 … Q2_K.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Folder for the files.  [default: $XDG_DATA_HOME/amalia/models]")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace files that are already there.")
@click.option("-t", "--threads", type=click.IntRange(1, 1024), help="Threads.  [default: all cores]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.version_option(__version__, prog_name="amalia")
def convert(source: str, levels: str, out: Path | None, force: bool, threads: int | None, as_json: bool) -> None:
    """Turn a checkpoint into GGUF files.

    SOURCE is a folder in the Hub's layout, or fadinho.
    """
    names = tuple(name.strip() for name in levels.split(",") if name.strip())
    config = ConvertConfig(source, names, out, force, threads)
    receipts = convert_checkpoint(config)
    if as_json:
        outputs = [{"path": str(config.folder / receipt.output), **dataclasses.asdict(receipt)} for receipt in receipts]
        console.emit("convert", {"outputs": outputs})
    else:
        _show(config, receipts)


def _show(config: ConvertConfig, receipts: list[Receipt]) -> None:
    from rich import box
    from rich.table import Table

    table = Table("file", "level", box=box.SIMPLE)
    for heading in ("size", "bits per weight", "seconds"):
        table.add_column(heading, justify="right")
    for receipt in receipts:
        size, bits = console.megabytes(receipt.nbytes), f"{receipt.bits_per_weight:.2f}"
        table.add_row(receipt.output, receipt.level, size, bits, f"{receipt.seconds:.1f}")
    console.out.print(table)
    console.out.print(f"In {config.folder}. Next:", markup=False)
    console.out.print(f'  amalia run {config.folder / receipts[-1].output} "Olá! O que podes fazer?"', markup=False)
