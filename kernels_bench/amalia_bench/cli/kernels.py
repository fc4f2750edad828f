"""`amalia bench kernels`: build a config, call one function, print."""

import dataclasses
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from amalia_bench import kernels_table
from amalia_bench.cli.report import write_shared
from amalia_bench.kernels import OPERATIONS, Bench, Kernel, KernelsConfig, Task, tasks
from amalia_bench.machine import Library, Machine, loaded_library, this_machine
from amalia_bench.matrices import model_matrices
from amalia_bench.records import Row, append, record, take_up
from amalia_convert.blocks import BlockType, find_block
from amalia_edge import __version__
from amalia_edge.console import emit, emit_failure, progress
from amalia_edge.errors import AmaliaError, BenchError, UsageError

SHAPE = "amalia-9b"
DRAWN = ("mat_vec", "mat_mat")  # below the roofline


@click.command()
@click.option("--shape", default=SHAPE, show_default=True, metavar="NAME|FILE", help="A shape, config.json or model.")
@click.option("--type", "types", multiple=True, metavar="TYPE,…", help="Block types. [default: the model's, or a few]")
@click.option("--all", "every", is_flag=True, help="All block types.")
@click.option("--op", "operations", multiple=True, metavar="OP,…", help=f"Of {', '.join(OPERATIONS)}. [default: all]")
@click.option("--device", default=KernelsConfig.device, show_default=True, help="A device that libllama lists.")
@click.option(
    "-t", "--threads", type=click.IntRange(1, 512), envvar="LLAMA_ARG_THREADS", show_envvar=True,
    help="Threads. [default: physical cores]",
)  # fmt: skip
@click.option(
    "-r", "--repetitions", type=click.IntRange(1), default=KernelsConfig.repetitions, show_default=True,
    help="Times each kernel is run.",
)  # fmt: skip
@click.option(
    "-b", "--batch", type=click.IntRange(2, 4096), default=KernelsConfig.batch, show_default=True,
    help="Columns of the second matrix.",
)  # fmt: skip
@click.option("--records", type=click.Path(path_type=Path, dir_okay=False), help="Append each measurement to FILE.")
@click.option("--resume", is_flag=True, help="Leave out what --records holds of this machine already.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw the roofline: FILE.svg or .png.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: {schema, command, result}.")
@click.version_option(__version__, prog_name="amalia")
def kernels(shape: str, records: Path | None, resume: bool, plot: Path | None, as_json: bool, **settings: Any) -> int:
    """Measure each block type's kernels at a model's shapes, against what this machine can give."""
    matrices, own_types = model_matrices(shape)
    config = _config(settings, own_types)
    if plot:
        _check_plot(plot, config.operations)
    machine = this_machine()
    held = take_up(records, resume)
    with Bench(config) as bench:
        log = _Log(records, shape, machine, loaded_library())
        wanted = tasks(config, matrices)
        log.take_up(held, bench, wanted)
        known = {_key(kernel) for kernel in log.kernels}
        try:
            _measure(bench, [task for task in wanted if _key(task) not in known], log)
        except (AmaliaError, KeyboardInterrupt) as stopped:  # what came before it is true
            if as_json and isinstance(stopped, AmaliaError):
                emit_failure("bench kernels", stopped, _result(log))
                return stopped.exit_code
            _show(log, bench, as_json)
            raise
        wrong = _wrong(log.kernels)
        if wrong and as_json:
            emit_failure("bench kernels", wrong, _result(log))
            return wrong.exit_code
        _show(log, bench, as_json)
    if wrong:
        raise wrong
    if plot:
        _draw(log.rows, plot)
    return 0


class _Log:
    """What was measured: as figures, as rows, and as lines of a file."""

    def __init__(self, file: Path | None, shape: str, machine: Machine, library: Library) -> None:
        self._file, self._shape, self.machine, self._library = file, shape, machine, library
        self.kernels: list[Kernel] = []
        self.rows: list[Row] = []

    def add(self, kernel: Kernel) -> None:
        self.kernels.append(kernel)
        self.rows.append(self.write("kernels", dataclasses.asdict(kernel) | {"shape": self._shape}))

    def write(self, kind: str, body: dict[str, Any]) -> Row:
        row = record(kind, body, self.machine, self._library)
        if self._file:
            append(self._file, row)
        return row

    def take_up(self, held: Sequence[Row], bench: Bench, wanted: Sequence[Task]) -> None:
        """Take over what is wanted and held already, of this machine, library, device and number of threads."""
        library, keys = json.loads(json.dumps(dataclasses.asdict(self._library))), set(map(_key, wanted))
        here = library, self.machine.cpu, bench.backend.name, bench.threads
        for row in held:
            if row["kind"] == "kernels":
                there = row["library"], row["machine"]["cpu"], row["device"], row["threads"]
                if there == here and _key(_kernel(row)) in keys:
                    self.rows.append(row)
                    self.kernels.append(_kernel(row))


def _config(settings: dict[str, Any], own_types: Sequence[str]) -> KernelsConfig:
    every, types, operations = settings.pop("every"), settings.pop("types"), settings.pop("operations")
    names = tuple(find_block(name).name for name in _words(types)) or tuple(own_types) or KernelsConfig.types
    chosen = tuple(_words(operations)) or KernelsConfig.operations
    unknown = [name for name in chosen if name not in OPERATIONS]
    if unknown:
        raise UsageError(f"--op {unknown[0][:40]!r}", "there is no such operation", f"of: {', '.join(OPERATIONS)}")
    return KernelsConfig(
        types=tuple(BlockType.__members__) if every else names,
        operations=chosen,
        threads=settings.pop("threads") or KernelsConfig.threads,
        **settings,
    )


def _words(values: Iterable[str]) -> list[str]:
    """Read names with commas between them, in one option or several; each counts once."""
    return list(dict.fromkeys(part.strip() for value in values for part in value.split(",") if part.strip()))


def _measure(bench: Bench, wanted: Sequence[Task], log: _Log) -> None:
    with progress("measuring", len(wanted) + 1, in_bytes=False) as bar:
        limits = bench.find_limits() if wanted else bench.limits
        if limits.bandwidth:
            log.write("bandwidth", dataclasses.asdict(limits.bandwidth))
        for task in wanted:
            bar.advance(1)
            found = bench.measure(task)
            if found is not None:  # the device has a kernel for it
                log.add(found)
        bar.advance(1)


def _show(log: _Log, bench: Bench, as_json: bool) -> None:
    if as_json:
        emit("bench kernels", _result(log))
    else:
        shown = kernels_table.table(log.kernels, bench.limits, log.machine)
        Console(width=kernels_table.WIDTH, highlight=False).print(shown)


def _result(log: _Log) -> dict[str, Any]:
    return {"machine": dataclasses.asdict(log.machine), "rows": log.rows}


def _check_plot(file: Path, operations: Sequence[str]) -> None:
    """Refuse what could not be drawn or written, before minutes of measuring."""
    if file.suffix not in (".svg", ".png"):
        raise UsageError(f"--plot {file.name}", "neither .svg nor .png", "end the name in one of them")
    if not set(DRAWN) & set(operations):
        raise UsageError("--plot", "nothing to draw", f"measure one of {', '.join(DRAWN)} too")
    if not os.access(file.parent, os.W_OK) or not file.parent.is_dir():
        raise UsageError(f"--plot {file}", "no folder one can write to", "name a file in a folder that is there")


def _draw(rows: Sequence[Row], file: Path) -> None:
    from amalia_bench.pictures import pictures

    drawn = next((picture for picture in pictures(rows) if picture.name == "roofline"), None)
    if drawn is None:  # the device has no kernel for any of these types
        raise BenchError(f"--plot {file.name}", "nothing to draw", "measure other types: --type Q8_0,Q4_K")
    write_shared(file, drawn.png() if file.suffix == ".png" else drawn.alone())


def _wrong(found: Sequence[Kernel]) -> BenchError | None:
    """Find a kernel that computes something else than float64 does, however fast it is."""
    for kernel in found:
        if kernel.wrong:
            where = f"{kernel.type} {kernel.operation} in {kernel.buffer} memory"
            error = f"an error of {kernel.error:.1e}, where {kernel.error_limit:.1e} is allowed"
            return BenchError(where, error, "run: amalia setup --rebuild")
    return None


def _key(one: Task | Kernel) -> tuple[object, ...]:
    """Tell what is measured: a quantizer is given fewer rows than the matrix has."""
    rows, columns, kind = (
        (one.matrix.rows, one.matrix.columns, one.kind.name)
        if isinstance(one, Task)
        else (one.rows, one.columns, one.type)
    )
    return one.operation, kind, 0 if one.operation == "quantize" else rows, columns, one.batch


def _kernel(row: Row) -> Kernel:
    told = {field.name: row[field.name] for field in dataclasses.fields(Kernel)}
    return Kernel(**told | {"samples_ns": tuple(row["samples_ns"]), "matrices": tuple(row["matrices"])})
