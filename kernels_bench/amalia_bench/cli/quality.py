"""`amalia bench quality`: build a config, call one function, print."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from amalia_bench import quality_table, records
from amalia_bench.logits_file import is_logits_file
from amalia_bench.machine import Machine, loaded_library, room, this_machine
from amalia_bench.quality import Estimate, Measured, QualityConfig, Watch, Wish, measure_quality
from amalia_bench.texts import Text, embedded, read_text
from amalia_edge import __version__
from amalia_edge.console import emit, emit_failure, err, megabytes, out, plain, progress
from amalia_edge.errors import AmaliaError, ModelNotFound, UsageError
from amalia_edge.store import find

WIDTH = 130  # columns of the table, where it is not shown in a terminal


@click.command()
@click.argument("base")
@click.argument("levels", nargs=-1)
@click.option("--text", "texts", multiple=True, metavar="FILE|NAME", help="A text to read, or pt-PT, en, pt-PT/news …; may be repeated. [default: pt-PT and en]")  # fmt: skip
@click.option("-c", "--context", "--ctx-size", type=int, help="Tokens in a window. [default: 512]")
@click.option("--quick", is_flag=True, help=f"Read the first {QualityConfig.quick_windows} windows of each text only.")
@click.option("--logits", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Keep the base's log-probabilities in FILE, or take them from it; of several texts in one each: base.logits becomes base.pt-PT.logits, base.en.logits.")  # fmt: skip
@click.option("--keep-logits", is_flag=True, help="Keep them in the cache, for the next time.")
@click.option("--records", "records_file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Append each figure to FILE.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Take over what --records FILE already holds.")
@click.option("-t", "--threads", type=int, envvar="LLAMA_ARG_THREADS", help="Threads. [default: physical cores]")
@click.option("-ngl", "--n-gpu-layers", "gpu_layers", default=QualityConfig.gpu_layers, envvar="LLAMA_ARG_N_GPU_LAYERS", help="Layers on the GPU; -1: all.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: {schema, command, result}.")
@click.version_option(__version__, prog_name="amalia")
def quality(
    base: str, levels: tuple[str, ...], texts: tuple[str, ...], records_file: Path | None, resume: bool, as_json: bool,
    **settings: Any,
) -> int:  # fmt: skip
    """Measure what each LEVEL lost against BASE, token by token.

    BASE is the 16-bit GGUF, or Q8_0 where there is no other, or a logits file of llama-perplexity's.

    What is read and how much disk it takes is said before the start, how long it takes after the first window.
    """
    if not levels:
        raise ModelNotFound("LEVEL", "none given", "name the files to compare with BASE")
    config, base_path, paths, read = QualityConfig(**settings), _base(base), list(map(find, levels)), list(map(_text, texts))  # fmt: skip
    held = [row for row in records.take_up(records_file, resume) if row["kind"] == "quality"]
    wish, machine, teller = Wish(base_path, paths, read, held), this_machine(), _Teller()
    rows: list[records.Row] = []
    stopped = False
    try:
        with progress("measuring", 1.0, in_bytes=False) as bar:
            for one in measure_quality(
                wish, config, room(machine, config.gpu_layers), Watch(teller.announce, bar.advance)
            ):
                rows.append(_row(one, machine))
                if one.fresh and records_file is not None:
                    records.append(records_file, rows[-1])
    except KeyboardInterrupt:
        stopped = True
    except AmaliaError as error:  # what came before it is true
        if as_json:
            emit_failure("bench quality", error, {"machine": dataclasses.asdict(machine), "rows": rows})
            return error.exit_code
        _print(rows, machine, as_json=False)
        raise
    finally:
        if config.logits is None and not config.keep_logits:
            teller.tell_left()
    _print(rows, machine, as_json=as_json)
    if stopped:
        err.print("Stopped: the same command goes on" + (" with --resume." if records_file else " anew; give --records FILE to keep what is measured."))  # fmt: skip
    return 130 if stopped else 0


def _row(one: Measured, machine: Machine) -> records.Row:
    return records.record("quality", one.body, machine, loaded_library(), one.level) if one.fresh else one.body


def _base(name: str) -> Path:
    path = Path(name)
    return path if is_logits_file(path) else find(name)


def _text(name: str) -> Text:
    """Give one of our texts by its name, else the file of that name."""
    ours = embedded()
    if name not in ours and not Path(name).exists():
        raise UsageError("text", f"no file {name}", "give a text file, or one of " + ", ".join(ours))
    return ours[name] if name in ours else read_text(Path(name))


class _Teller:
    """Says before the start what will be read and written, after the first window how long it will take."""

    def __init__(self) -> None:
        self._files: Sequence[Path] = ()

    def announce(self, estimate: Estimate) -> None:
        self._files = estimate.files
        if estimate.seconds is not None:
            err.print(f"About {_duration(estimate.seconds)}.")
            return
        texts = " and ".join(f"{len(read.windows)} windows of {plain(read.name)}" for read in estimate.passages)
        disk = ""
        if estimate.files:
            disk = f"; {megabytes(estimate.file_bytes)} of disk in {plain(str(estimate.files[0].parent))}"
        what = f"{texts}, {estimate.passages[0].context} tokens each, by {estimate.models} models{disk}."
        err.print(f"{what} How long it takes is said after the first window.", markup=False)

    def tell_left(self) -> None:
        """Say what a measurement that came to no end leaves on the disk."""
        left = [file for file in self._files if file.exists()]
        if left:
            nbytes, folder = sum(file.stat().st_size for file in left), plain(str(left[0].parent))
            what = f"{megabytes(nbytes)} of the base's log-probabilities stay in {folder}"
            err.print(f"{what}, until the same command comes to its end.", markup=False)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"  # fmt: skip


def _print(rows: Sequence[records.Row], machine: Machine, *, as_json: bool) -> None:
    if as_json:
        emit("bench quality", {"machine": dataclasses.asdict(machine), "rows": rows})
    elif rows:
        wide = Console(width=None if out.is_terminal else WIDTH, highlight=False, markup=False)
        out.print(quality_table.heading(rows), markup=False)
        wide.print(quality_table.table(rows))
        out.print(quality_table.advice(rows), markup=False)
