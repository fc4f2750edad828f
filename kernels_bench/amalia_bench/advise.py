"""Which level for this device: the best in words that fits with the wanted context and writes as fast as is wanted.

What fits is the runtime's own plan for each file, or for the geometry of a model nobody has downloaded yet; what a level
loses and how fast it writes is what records say. What they do not say is named, with the command that would measure it.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amalia_bench.choices import Choice, choices, level_of, model_of
from amalia_bench.figures import number
from amalia_edge.console import megabytes
from amalia_edge.errors import AmaliaError, BenchError, DoesNotFit
from amalia_edge.gguf import Header, read_header
from amalia_edge.host import Host
from amalia_edge.load_config import LoadConfig
from amalia_edge.plan import make_plan

Row = Mapping[str, Any]


FULL = ("BF16", "F16", "F32")
MOST_NAMED = 4  # levels in a command


@dataclass(frozen=True)
class Wish:
    """What a level is wanted for."""

    context: int = 4096  # tokens
    speed: float = 0.0  # tokens written in a second, at least


@dataclass(frozen=True)
class Candidate:
    """One level, and what is known of it on this machine."""

    level: str
    file: str
    name: str  # by which a command finds the file; empty where it is not on this machine
    nbytes: int
    loss: float | None  # mean KLD in Portuguese, nats
    loss_between: tuple[float, float] | None
    speed: float | None  # tokens/s
    predicted: bool  # the speed was not measured on this file: it is of random weights in its geometry, or computed
    needed: int | None  # bytes, with the wanted context
    fits: bool | None  # None where nothing tells

    @property
    def word(self) -> str:
        """Give what stands for it in a command."""
        return self.name or shlex.quote(self.file)

    def is_fast_enough(self, wish: Wish) -> bool | None:
        if not wish.speed:
            return True
        return None if self.speed is None else self.speed >= wish.speed


@dataclass(frozen=True)
class Advice:
    model: str
    wish: Wish
    choice: Candidate
    candidates: tuple[Candidate, ...]
    missing: tuple[str, ...]  # what is not known, and the command that would measure it


def advise(model: str, rows: Sequence[Row], wish: Wish, device: "Device") -> Advice:
    """Name the level; refuse where none fits or none is fast enough."""
    found = candidates(model, rows, wish, device)
    fitting = [one for one in found if one.fits is not False]
    if not fitting:
        least = min(found, key=lambda one: one.needed or one.nbytes)
        told = f"no level fits with {wish.context} tokens: {least.level} needs {megabytes(least.needed or least.nbytes)}, {megabytes(device.host.budget)} free"  # fmt: skip
        raise DoesNotFit(model, told, "ask for less with --context, or choose a smaller model")
    fast = [one for one in fitting if one.is_fast_enough(wish)]
    if not fast:
        raise _too_slow(model, fitting, wish, device)
    choice = min(fast, key=_badness)
    return Advice(model, wish, choice, tuple(found), tuple(_missing(fitting, choice, wish, device)))


def _badness(one: Candidate) -> tuple[bool, bool, float, int]:
    """Order candidates: those known to fit, those whose loss is known, the least loss, and else the larger file."""
    return one.fits is None, one.loss is None, one.loss or 0.0, -one.nbytes


def _too_slow(model: str, fitting: Sequence[Candidate], wish: Wish, device: "Device") -> AmaliaError:
    measured = [one for one in fitting if one.speed is not None]
    if not measured:
        return BenchError(
            model, "no speed was measured on this machine", f"measure it: {device.speed_command(fitting)}"
        )
    best = max(measured, key=lambda one: one.speed or 0.0)
    found = f"no level that fits writes {wish.speed:g} tokens/s here; the fastest measured, {best.level}, writes {best.speed:.3g}"  # fmt: skip
    return DoesNotFit(model, found, f"ask for --speed {best.speed or 0:.2g}, or choose a smaller model")


def _missing(found: Sequence[Candidate], choice: Candidate, wish: Wish, device: "Device") -> list[str]:
    said = []
    if unread := [one for one in found if one.loss is None]:
        if device.shape:
            command = "amalia bench all MODEL16, where the trained weights are"
        else:
            base = next((one.word for one in found if one.level in FULL), "BASE")
            files = " ".join(one.word for one in unread[:MOST_NAMED] if one.word != base)
            command = f"amalia bench quality {base} {files} --records {device.records}"
        said.append(f"loss of {_levels(unread)}: {command}")
    better = [
        one
        for one in found
        if one.speed is None and (one is choice or (wish.speed and _badness(one) < _badness(choice)))
    ]
    if better:
        said.append(f"speed of {_levels(better)} here: {device.speed_command(better)}")
    elif choice.predicted:
        said.append(f"speed of {choice.level} itself: {device.speed_command([choice])}")
    if unknown := [one for one in found if one.fits is None]:
        said.append(
            f"memory of {_levels(unknown)}: amalia doctor {unknown[0].word} -c {wish.context}, where the file is"
        )
    return said


def _levels(found: Sequence[Candidate]) -> str:
    return ", ".join(one.level for one in found[:MOST_NAMED]) + " and others" * (len(found) > MOST_NAMED)


@dataclass(frozen=True)
class Device:
    """This machine: what may be had of its memory, how its records name it, and which headers lie on it."""

    host: Host
    machine: str
    headers: Mapping[str, Header]  # by level or by file's name
    records: str  # the file's name, for commands
    shape: str = ""  # where the headers are of a geometry that nobody has downloaded
    names: Mapping[str, str] = field(default_factory=dict)  # by file's name: how a command is told of it

    def speed_command(self, found: Sequence[Candidate]) -> str:
        if self.shape:
            levels = " ".join(f"--level {one.level}" for one in found[:MOST_NAMED])
            return f"amalia bench shape {self.shape} {levels} --records {self.records}"
        return f"amalia bench speed {' '.join(one.word for one in found)} --records {self.records}"


def candidates(model: str, rows: Sequence[Row], wish: Wish, device: Device) -> list[Candidate]:
    """Say of every level in the records, and of every one whose header is at hand, what is known here."""
    real = [one for one in choices(rows, device.machine) if not one.synthetic]
    told = {one.level: one for one in real if one.model == model} or _of_geometry(real, device.headers)
    for level, header in device.headers.items():
        if level not in told and not level.endswith(".gguf"):
            told[level] = Choice(model, level, "", header.file_size, header.parameters)
    if not told:
        raise BenchError(model, "no level of it is in the records", f"measure it: amalia bench all {model}")
    return sorted((_candidate(one, rows, wish, device) for one in told.values()), key=lambda one: -one.nbytes)


def _of_geometry(found: Sequence[Choice], headers: Mapping[str, Header]) -> dict[str, Choice]:
    """Give the levels of the one model in the records that has a shape's number of weights."""
    sizes = {header.parameters for header in headers.values()}
    same = [one for one in found if one.parameters in sizes]
    return {one.level: one for one in same} if len({one.model for one in same}) == 1 else {}


def _candidate(one: Choice, rows: Sequence[Row], wish: Wish, device: Device) -> Candidate:
    stand_in = None if one.speed else _stand_in(one, rows, device.machine)
    header = device.headers.get(one.file) or device.headers.get(one.level)
    needed, fits = _memory(header, wish, device.host) if header else _recorded_memory(one, rows, wish, device)
    speed, full = one.speed or stand_in, one.level in FULL  # nothing is lost in what the others are measured against
    loss = 0.0 if full else one.loss()
    name = device.names.get(one.file, "")
    return Candidate(one.level, one.file, name, one.nbytes, loss, one.loss_between(), speed, stand_in is not None, needed, fits)  # fmt: skip


def _stand_in(one: Choice, rows: Sequence[Row], machine: str) -> float | None:
    """Give the speed of random weights in the same geometry at the same level here, where that was measured."""
    same = [other for other in choices(rows, machine) if other.synthetic and other.level == one.level]
    close = [other for other in same if other.model == one.model or other.parameters == one.parameters]
    return next((other.speed for other in close if other.speed), None)


def _memory(header: Header, wish: Wish, host: Host) -> tuple[int, bool]:
    """Ask the runtime's plan what a file takes with the wanted context, and whether it fits."""
    config = LoadConfig(context=wish.context)
    try:
        return make_plan(header, config, host).needed, True
    except DoesNotFit as refusal:
        return (refusal.shortage.needed if refusal.shortage else header.weight_bytes), False


def _recorded_memory(one: Choice, rows: Sequence[Row], wish: Wish, device: Device) -> tuple[int | None, bool | None]:
    """Look in shape records for what a level takes, where its file is not at hand."""
    for row in rows:
        same = row["kind"] == "shape" and level_of(row) == one.level and not row.get("prediction")
        size = number(row.get("model") or {}, "parameters")
        if same and (model_of(row) == one.model or size == one.parameters):
            contexts = sorted((int(context), context) for context in row.get("memory") or {})
            enough = next((name for tokens, name in contexts if tokens >= wish.context), None)
            if enough and (needed := number(row, "memory", enough)):
                return int(needed), needed <= device.host.budget
    return None, None


def find_headers(model: str, names: Sequence[str]) -> dict[str, Header]:
    """Find the headers of a shape's levels, or of files of these names: beside MODEL, here, or stored."""
    from amalia_edge.outlook import find_headers as of_shape
    from amalia_edge.store import models

    if (shape := of_shape(model)) is not None:
        return shape
    paths = [*_beside(model, names), *(file for stored in models() for file in stored.files if file.name in names)]
    found: dict[str, Header] = {}
    for one in paths:
        if one.name not in found and one.is_file():
            try:
                found[one.name] = read_header(one)
            except AmaliaError:
                continue  # a broken file is no candidate
    return found


def find_names(model: str, files: Sequence[str]) -> dict[str, str]:
    """Name files as every command takes them: a path, a stored name, or that of a source, which makes them."""
    from amalia_edge.gguf_names import split_level
    from amalia_edge.store import models, sources

    found = {path.name: str(path) for path in _beside(model, files)}
    for stored in models():
        if stored.files and not stored.fault:
            found.setdefault(stored.files[0].name, stored.name)
    for file in files:
        stem, level = split_level(Path(file).stem)
        if stem in sources():
            found.setdefault(file, f"{stem}:{level}")
    return {file: shlex.quote(name) for file, name in found.items() if file in files}


def _beside(model: str, files: Sequence[str]) -> list[Path]:
    """Give those of the files that lie beside MODEL, in it, or else here."""
    path = Path(model).expanduser()
    folder = path if path.is_dir() else path.parent if path.is_file() else Path()
    return [folder / file for file in files if file and (folder / file).is_file()]


def model_named(word: str | None, rows: Sequence[Row]) -> str:
    """Name the model that is meant: the only one in the records, or the one that goes by this word."""
    known = list(dict.fromkeys(one.model for one in choices(rows) if not one.synthetic or one.model == word))
    if word is None:
        if len(known) == 1:
            return known[0]
        raise BenchError(
            "MODEL",
            f"{len(known)} models in the records",
            "name one: " + ", ".join(known[:5]) if known else "measure one first",
        )
    stem = Path(word).name.partition(":")[0].lower()
    close = [name for name in known if stem in (name.lower(), name.lower().replace(" ", "-"))]
    of_files = [one.model for one in choices(rows) if not one.synthetic and one.file.lower() == stem]
    return (close or of_files or [Path(word).name if word.endswith(".json") else word])[0]
