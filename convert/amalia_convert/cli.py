"""The command line of this room: `amalia convert`, `verify` and `imatrix`."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import click

from amalia_convert.conversion import ConvertConfig
from amalia_convert.conversion import convert as convert_checkpoint
from amalia_convert.forecast import Forecast, forecast
from amalia_convert.imatrix import ImatrixConfig, collect_imatrix
from amalia_convert.level_table import level_table
from amalia_convert.receipt import Receipt
from amalia_edge import __version__, console
from amalia_edge.console import plain
from amalia_edge.errors import UsageError
from amalia_edge.store import find, models_folder

WIDE = 250  # columns of a table that is not folded, whatever the terminal
_DEFAULTS = ConvertConfig("")


@click.command()
@click.argument("source", required=False)
@click.option("--to", "levels", default=",".join(_DEFAULTS.levels), show_default=True, metavar="LEVEL,…",
              help="Levels to write in one pass; --levels lists them.")  # fmt: skip
@click.option(
    "--levels", "list_levels", is_flag=True, help="List the levels: bits per weight, and when to choose each."
)
@click.option("-o", "--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Folder for the files.  [default: $XDG_DATA_HOME/amalia/models]")  # fmt: skip
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be written, to the byte, and what it would take.")
@click.option("--force", "replace", is_flag=True, help="Replace files that are already there.")
@click.option("--stream/--no-stream", default=None,
              help="Read the Hub's weights without keeping them, or keep them.  [default: by the room there is]")  # fmt: skip
@click.option("--imatrix", "importance", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Importance data, from amalia imatrix or llama-imatrix.")  # fmt: skip
@click.option("--tensor-type", "tensor_types", multiple=True, metavar="PATTERN=TYPE",
              help="A block type for tensors whose name the pattern is found in (attn_v=q6_k); may be repeated.")  # fmt: skip
@click.option("--output-type", "--output-tensor-type", "output_type", metavar="TYPE", help="The output's block type.")
@click.option("--embedding-type", "--token-embedding-type", "embedding_type", metavar="TYPE",
              help="The embedding's block type.")  # fmt: skip
@click.option("--pure", is_flag=True, help="The level's own block type for every matrix: no mixture.")
@click.option("--allow-nan", "allow_nonfinite", is_flag=True,
              help="Write 0 for weights that are no number or infinite, instead of refusing them.")  # fmt: skip
@click.option("-t", "--threads", type=click.IntRange(1, 1024), metavar="N", help="Threads.  [default: all cores]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.version_option(__version__, prog_name="amalia")
def convert(
    source: str | None, levels: str, list_levels: bool, dry_run: bool, as_json: bool, **settings: Any
) -> None:  # fmt: skip
    """Turn a checkpoint into GGUF files.

    SOURCE is a folder in the Hub's layout, a 16-bit GGUF, org/name[@revision] on the Hub, or fadinho; with --dry-run
    also a config.json alone. What was stopped goes on where it was: type the same command again.
    """
    if list_levels:
        _show_levels(as_json)
        return
    if source is None:
        raise UsageError("convert", "no SOURCE", "for instance amalia convert fadinho")
    names = tuple(name.strip() for name in levels.split(",") if name.strip())
    config = ConvertConfig(source, names, **settings)
    if dry_run:
        _show_forecast(forecast(config), as_json)
        return
    receipts = convert_checkpoint(config)
    if as_json:
        outputs = [{"path": str(config.folder / receipt.output), **dataclasses.asdict(receipt)} for receipt in receipts]
        console.emit("convert", {"outputs": outputs})
    else:
        _show(config, receipts)


def _show(config: ConvertConfig, receipts: list[Receipt]) -> None:
    table = _table("file", "level", "size", "bits per weight", "seconds")
    for receipt in receipts:
        size, bits = console.megabytes(receipt.nbytes), f"{receipt.bits_per_weight:.2f}"
        table.add_row(receipt.output, receipt.level, size, bits, f"{receipt.seconds:.1f}")
    console.out.print(table)
    for warning in receipts[0].warnings:
        console.err.print(f"warning: {warning}", markup=False)
    console.out.print(f"In {config.folder}\nNext:", markup=False)
    stem, level = Path(receipts[-1].output).stem, receipts[-1].level
    stored = config.out is None or config.out.resolve() == models_folder().resolve()
    name = f"{stem.removesuffix(f'-{level}')}:{level}" if stored else str(config.folder / receipts[-1].output)
    console.out.print(f'  amalia run {shlex.quote(name)} "Olá! O que podes fazer?"', markup=False)


def _show_levels(as_json: bool) -> None:
    if as_json:
        console.emit("convert", {"levels": [dataclasses.asdict(row) for row in level_table()]})
        return
    table = _table("level", "bits per weight", "when", left=("level", "when"))
    for row in level_table():
        needs = "  (needs --imatrix)" if row.needs_importance else ""
        table.add_row(row.name, f"{row.bits_per_weight:.2f}", f"{row.when}{needs}")
    console.out.print(table)
    console.out.print("Bits per weight are those of AMÁLIA 9B.", markup=False)


def _show_forecast(found: Forecast, as_json: bool) -> None:
    from rich.text import Text

    if as_json:
        console.emit("convert", _forecast_object(found))
        return
    tensors = _table("tensor", "shape", *(output.level.name for output in found.outputs), left=("tensor",))
    for same in zip(*(output.tensors for output in found.outputs), strict=True):
        shape = " × ".join(map(str, same[0].shape))
        tensors.add_row(
            Text(plain(same[0].name)), shape, *(f"{tensor.block.name} {tensor.nbytes:>11,}" for tensor in same)
        )
    console.out.print(
        tensors, width=WIDE, crop=False
    )  # a name or a number that is folded can be neither read nor copied
    files = _table("file", "bytes", "", "bits per weight")
    for output in found.outputs:
        bits = f"{output.bits_per_weight:.2f}"
        files.add_row(output.path.name, f"{output.nbytes:,}", console.megabytes(output.nbytes), bits)
    console.out.print(files, width=WIDE, crop=False)
    if not found.whole:
        console.out.print("From the configuration alone: without the vocabulary, which takes some MB more.")
    lines = {
        "reads": console.megabytes(found.read)
        + f", {console.megabytes(found.to_fetch)} from the Hub" * bool(found.to_fetch),
        "memory": f"{console.megabytes(found.memory)} at the highest",
        "disk": f"{console.megabytes(found.disk_needed)} needed, {console.megabytes(found.disk_free)} free",
        "time": f"about {_duration(found.seconds)} on this machine, if the disk or the Hub can follow",
    }
    console.out.print(console.as_text(lines), markup=False)


def _forecast_object(found: Forecast) -> dict[str, Any]:
    outputs = [
        {
            "path": str(output.path),
            "level": output.level.name,
            "nbytes": output.nbytes,
            "bits_per_weight": output.bits_per_weight,
            "parameters": output.parameters,
            "tensors": [
                {
                    "name": one.name,
                    "shape": one.shape,
                    "type": one.block.name,
                    "offset": one.offset,
                    "nbytes": one.nbytes,
                }
                for one in output.tensors
            ],
        }
        for output in found.outputs
    ]
    return {**{name: value for name, value in vars(found).items() if name != "outputs"}, "outputs": outputs}


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{max(seconds, 1):.0f} s"


def _table(*headings: str, left: tuple[str, ...] = ("file", "level")) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in left else "right", overflow="fold")
    return table


@click.command()
@click.argument("file")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.version_option(__version__, prog_name="amalia")
def verify(file: str, as_json: bool) -> None:
    """Check a GGUF from end to end.

    FILE is a GGUF file or a stored name (AMALIA-9B-0626-DPO:Q4_K_M). Its header, its size, the scales of every block, its
    vocabulary, its chat template, and its SHA-256 against the receipt beside it.
    """
    from amalia_convert.verify import verify_file

    done = verify_file(find(file))
    if not as_json:
        for line in done.lines():
            console.out.print(line, markup=False)
    done.raise_faults(every=as_json)
    if as_json:
        console.emit("verify", done.as_dict())


@click.command()
@click.argument("model")
@click.option("-f", "--text", "--file", "texts", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
              help="A text to read, UTF-8; may be repeated.  [default: the European Portuguese one that comes with us]")  # fmt: skip
@click.option("-o", "--out", type=click.Path(path_type=Path), metavar="FILE",
              help="The file to write.  [default: NAME.imatrix.gguf in this folder]")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace a file that is already there.")
@click.option("-c", "--ctx-size", "chunk_size", default=ImatrixConfig.chunk_size, show_default=True, metavar="N",
              help="Tokens in a chunk; each is read alone.")  # fmt: skip
@click.option("--chunks", type=int, metavar="N", help="Chunks to read at most.  [default: the whole text]")
@click.option("-t", "--threads", type=int, envvar="LLAMA_ARG_THREADS", show_envvar=True, metavar="N",
              help="Threads.  [default: physical cores]")  # fmt: skip
@click.option("-ngl", "--gpu-layers", "--n-gpu-layers", "gpu_layers", default=ImatrixConfig.gpu_layers, metavar="N",
              envvar="LLAMA_ARG_N_GPU_LAYERS", show_envvar=True, help="Layers on the GPU; -1: all.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.version_option(__version__, prog_name="amalia")
def imatrix(model: str, texts: tuple[Path, ...], out: Path | None, force: bool, as_json: bool, **settings: Any) -> None:
    """Collect importance data: let a model read a text, and note which weights matter.

    MODEL is a GGUF file (the 16-bit one is best), a stored name or fadinho. What is written is llama.cpp's own format: for
    amalia convert --imatrix FILE, and for llama-quantize.
    """
    config = ImatrixConfig(model, texts or ImatrixConfig.texts, out, force, **settings)
    summary = collect_imatrix(config)
    if as_json:
        console.emit("imatrix", {**dataclasses.asdict(summary), "path": str(summary.path)})
        return
    console.out.print(f"{summary.path}: {summary}", markup=False)
    console.out.print(f"Next:\n  amalia convert SOURCE --imatrix {summary.path}", markup=False)
