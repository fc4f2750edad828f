"""Kernels' figures → what is read: a table for each operation, and one sentence to act on."""

import statistics
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from amalia_bench.kernels import OPERATIONS, Kernel, Limits
from amalia_bench.machine import Machine
from amalia_edge.console import megabytes

WIDTH = 80
GOOD = 0.7  # of the bandwidth: what is left is hardly to be had
TITLES = {
    "quantize": "quantize: f32 rows → blocks",
    "dequantize": "dequantize: blocks → f32 rows",
    "mat_vec": "matrix × vector: what writing a token does",
    "mat_mat": "matrix × matrix: what reading a prompt does",
}


def table(kernels: Sequence[Kernel], limits: Limits, machine: Machine) -> RenderableType:
    """Lay measured kernels out for a person."""
    parts: list[RenderableType] = [Text(line) for line in _heading(kernels, limits, machine)]
    for operation in OPERATIONS:
        rows = [kernel for kernel in kernels if kernel.operation == operation]
        if rows:
            batch = f", {rows[0].batch} columns" if operation == "mat_mat" else ""
            parts += [Text(), Text(TITLES[operation] + batch, style="bold"), _grid(rows)]
    return Group(*parts, Text(), Text(advice(kernels)))


def advice(kernels: Sequence[Kernel]) -> str:
    """Say in one sentence what a person can do with the figures."""
    wrong = [kernel for kernel in kernels if kernel.wrong]
    if wrong:
        return f"Wrong results from {_names(wrong)}: run amalia setup --rebuild before you trust a model here."
    shares = _by_type([kernel for kernel in kernels if kernel.operation == "mat_vec"], "bandwidth_share")
    if shares:
        best, least = max(shares, key=lambda name: shares[name]), min(shares, key=lambda name: shares[name])
        if shares[least] >= GOOD:
            return f"Memory is the limit ({best} reads at {shares[best]:.0%} of its rate): only a smaller level writes faster."
        other = f", or choose {best} ({shares[best]:.0%})" if best != least else ""
        return f"{least} reads at only {shares[least]:.0%} of memory's rate: ask amalia doctor about the build{other}."
    rates = _by_type([kernel for kernel in kernels if kernel.operation == "mat_mat"], "gflops")
    if rates:
        best = max(rates, key=lambda name: rates[name])
        return f"{best} reads prompts fastest, {rates[best]:.0f} GFLOP/s: prefer it where prompts are long."
    if kernels:
        return "Add --op mat_vec to see how fast these types write on this device."
    return "Nothing was measured: choose other types with --type, or another --device."


def _heading(kernels: Sequence[Kernel], limits: Limits, machine: Machine) -> list[str]:
    lines = [f"{machine.cpu}, {machine.cores} cores, {megabytes(machine.memory)}"]
    lines += [text for text in (machine.board, ", ".join(machine.gpus)) if text]
    for kernel in kernels[:1]:
        lines.append(f"device {kernel.device}, threads used: {kernel.threads}")
    if limits.read_gbps:
        lines.append(f"memory read at {limits.read_gbps:.1f} GB/s, measured in the same run")
    if limits.peak_gflops:
        lines.append(f"best matrix × matrix with {limits.peak_type} weights: {limits.peak_gflops:.0f} GFLOP/s")
    sets = [kernel.working_set for kernel in kernels if kernel.operation == "mat_vec"]
    if sets:
        lines.append(f"each matrix × vector reads {megabytes(min(sets))} of copies before it reads one again")
    return lines


def _grid(rows: Sequence[Kernel]) -> Table:
    """Show the figures that limit an operation: bytes, or arithmetic."""
    grid = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for name in ("type", "matrix", "memory"):
        grid.add_column(name, no_wrap=True)
    arithmetic = rows[0].operation == "mat_mat"
    limits = ("GFLOP/s", "of peak") if arithmetic else ("GB/s", "of memory's")
    for name in ("time", *limits, "error"):
        grid.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        rate, share = (row.gflops, row.peak_share) if arithmetic else (row.gbps, row.bandwidth_share)
        error = f"{row.error:.0e}" + (" WRONG" if row.wrong else "")
        name = f"{row.matrices[0]} {row.rows}×{row.columns}"
        grid.add_row(row.type, name, row.buffer, _time(row.ns), f"{rate or 0:.4g}", _percent(share), error)
    return grid


def _by_type(kernels: Sequence[Kernel], figure: str) -> dict[str, float]:
    """Give each type's median over the matrices."""
    found: dict[str, list[float]] = {}
    for kernel in kernels:
        value = getattr(kernel, figure)
        if value is not None:
            found.setdefault(kernel.type, []).append(value)
    return {name: statistics.median(values) for name, values in found.items()}


def _names(kernels: Sequence[Kernel]) -> str:
    return ", ".join(dict.fromkeys(f"{kernel.type} {kernel.operation} ({kernel.buffer})" for kernel in kernels))


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _time(ns: float) -> str:
    return f"{ns / 1e6:.2f} ms" if ns >= 1e6 else f"{ns / 1e3:.1f} µs"
