"""What `amalia bench shape` tells: speed here, memory by context, which levels fit, predictions, and one sentence."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from amalia_bench import speed_table
from amalia_bench.machine import Machine
from amalia_bench.shape import Room
from amalia_edge.console import megabytes
from amalia_edge.smaller import USEFUL_CONTEXT

Row = Mapping[str, Any]
WHOLE = ("F32", "BF16", "F16")  # levels that quantize nothing: seldom what is looked for


def table(rows: Sequence[Row], machine: Machine) -> RenderableType:
    """Lay out what was measured."""
    words = Text("random weights: its speed and memory are the model's, its words mean nothing", style="italic")
    return Group(words, Text(), speed_table.table(rows, machine))


def rooms_table(found: Sequence[Room], where: str, cache: str = "f16") -> RenderableType:
    """List every level: its file, the longest context that fits, and what each context takes."""
    grid = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    grid.add_column("level", no_wrap=True)
    contexts = sorted({context for room in found for context in room.memory})
    for name in ("file", "fits with", *(_short(context) for context in contexts)):
        grid.add_column(name, justify="right", no_wrap=True)
    for room in found:
        fits = f"{room.context} tokens" if room.fits else "no"
        needs = [megabytes(room.memory[context]) if context in room.memory else "" for context in contexts]
        grid.add_row(room.level, megabytes(room.nbytes), fits, *needs)
    return Group(Text(f"Memory on {where}, planned with a cache of {cache}", style="bold"), grid)


def _short(context: int) -> str:
    return f"{context // 1024}k" if context % 1024 == 0 else str(context)


def predictions_table(bodies: Sequence[Row]) -> RenderableType:
    """Lay out what was not measured, and say so."""
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("device", "level"):
        grid.add_column(name, overflow="fold")
    for name in ("memory GB/s", "efficiency", "predicted t/s", "fits with"):
        grid.add_column(name, justify="right", no_wrap=True)
    for body in bodies:
        spread = body["engine_stddev_ts"]
        rate = speed_table.rate(body["engine_ts"], spread)
        predicted = f"≈ {rate if spread else rate.partition(' ')[0]}"
        grid.add_row(
            body["device"],
            body["level"],
            f"{body['read_gbps']:.1f}",
            f"{body['efficiency']:.0%}",
            predicted,
            _fits(body),
        )
    sources = dict.fromkeys(body["device_source"] for body in bodies)
    efficiencies = dict.fromkeys(body["efficiency_source"] for body in bodies)
    notes = [
        "PREDICTION, not measured: nominal bandwidth × efficiency ÷ bytes per token",
        *(f"efficiency: {told}; another machine's kernels may do better or worse" for told in efficiencies),
        *(f"bandwidth: {told}" for told in sources),
    ]
    return Group(Text(notes[0], style="bold"), grid, *(Text(note) for note in notes[1:]))


def _fits(body: Row) -> str:
    if not body["fits"] and not body["memory"]:
        return "?"
    fits = body["fits"].get(body["level"])
    return f"{fits['context']} tokens" if fits else "no"


def advice(rows: Sequence[Row], predictions: Sequence[Row], found: Sequence[Room], shape: str) -> str:
    """Say in one sentence what a person can do with it."""
    for body in predictions:
        rate, fits = f"{body['engine_ts']:.1f} tokens/s", body["fits"].get(body["level"])
        if fits and fits["context"] >= USEFUL_CONTEXT:
            return f"{shape} at {body['level']} should write about {rate} on {body['device']} (a prediction), with up to {fits['context']} tokens of context: try it there with amalia bench shape."
        useful = [level for level, room in body["fits"].items() if room["context"] >= USEFUL_CONTEXT]
        if useful:
            largest = useful[0]
            return f"{shape} at {body['level']} does not fit on {body['device']}; the largest level that does is {largest}: ask again with --level {largest}."
        if body["memory"]:
            return f"No level of {shape} fits on {body['device']}: choose a smaller model."
        return f"{shape} at {body['level']} should write about {rate} on {body['device']} (a prediction): give --memory GB to learn whether it fits."
    writing = [row for row in rows if row["n_gen"] and not row["n_prompt"]]
    fits_here = {room.level: room for room in found if (room.context or 0) >= USEFUL_CONTEXT}
    if writing:
        best = max(writing, key=lambda row: row["engine_ts"])
        room = fits_here.get(best["level"])
        context = f" with up to {room.context} tokens of context" if room else ""
        return f"{shape} at {best['level']} writes {speed_table.rate(best['engine_ts'], best['engine_stddev_ts'])} tokens/s here{context}: convert it with --to {best['level']}."
    if not fits_here:
        return f"No level of {shape} fits here: choose a smaller model."
    largest = next((level for level in fits_here if level not in WHOLE), next(iter(fits_here)))
    room = fits_here[largest]
    return f"The largest quantized level of {shape} that fits here is {largest}, with up to {room.context} tokens of context: measure it with --level {largest}."
