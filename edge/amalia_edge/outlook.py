"""What `amalia doctor MODEL` tells: the plan for a file, or for every level of a geometry that nobody has downloaded yet."""

import dataclasses
import re
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from amalia_edge import machine
from amalia_edge.console import megabytes, plain
from amalia_edge.errors import DoesNotFit, LibraryMissing, ModelNotFound, ModelUnsupported, UsageError
from amalia_edge.gguf import Header
from amalia_edge.hazards import hazards
from amalia_edge.host import Host, recorded_host, this_host
from amalia_edge.load_config import LoadConfig
from amalia_edge.plan import Plan, make_plan
from amalia_edge.simulate import Simulation, simulate

MOST_RECORDED = 64 << 20  # bytes of a recorded machine, unpacked
_SHAPE = re.compile(r"[a-z0-9][a-z0-9.-]{0,40}")


@dataclass(frozen=True)
class LevelRow:
    """One level of a geometry on a machine."""

    level: str
    nbytes: int
    fits: bool  # as wished
    context: int | None  # tokens it would have: as wished, or with --fit; None where nothing fits
    cache: str
    needed: int  # bytes, as wished or with --fit; as wished where nothing fits

    @property
    def verdict(self) -> str:
        if self.fits:
            return "yes"
        return "with --fit" if self.context else "no"


def find_headers(name: str) -> dict[str, Header] | None:
    """Give the headers of every level of a shape or a config.json, the largest first; None where it is neither."""
    if not (_SHAPE.fullmatch(name) or name.endswith(".json")):
        return None
    for point in entry_points(group="amalia.shapes"):
        try:
            found: dict[str, Header] = point.load()(name)
            return found
        except ModelNotFound:
            if name.endswith(".json"):
                raise
    return None


def level_rows(headers: dict[str, Header], wish: LoadConfig, host: Host) -> Iterator[LevelRow]:
    """Plan every level as wished; where that does not fit, say what --fit would make of it."""
    wish = dataclasses.replace(wish, forced=False)
    for level, header in headers.items():
        try:
            plan = make_plan(header, dataclasses.replace(wish, fit=False), host)
            yield _row(level, header, plan, fits=True)
        except DoesNotFit as refusal:
            needed = refusal.shortage.needed if refusal.shortage else 0
            try:
                yield _row(level, header, make_plan(header, dataclasses.replace(wish, fit=True), host), fits=False)
            except DoesNotFit:
                yield LevelRow(level, header.file_size, False, None, "", needed)


def _row(level: str, header: Header, plan: Plan, *, fits: bool) -> LevelRow:
    return LevelRow(level, header.file_size, fits, plan.config.context, plan.config.cache_keys, plan.needed)


@dataclass(frozen=True)
class Check:
    """What a plan predicts beside what libllama's own simulation says, in bytes."""

    predicted: int
    simulated: int

    def __str__(self) -> str:
        return f"{megabytes(self.simulated)} by its own simulation, {megabytes(self.predicted)} predicted"


def check(path: Path, header: Header, plan: Plan) -> Check | None:
    """Ask libllama for its figures: weights as they are in the file, cache and compute; None where it cannot say."""
    try:
        told: Simulation = simulate(path, plan.config)
    except ModelUnsupported:
        return None
    kept = sum(one.cache + one.compute for one in plan.needs)
    return Check(header.weight_bytes + kept, told.total)


@contextmanager
def recorded_machine(file: Path) -> Iterator[machine.Machine]:
    """Look at a recorded machine: a folder, or the .tar.gz that `amalia doctor --record` wrote."""
    if (file / "machine.json").is_file():
        yield machine.look(file)
    elif file.is_file():
        with tempfile.TemporaryDirectory(prefix="amalia-machine-") as folder:
            _unpack(file, Path(folder))
            yield machine.look(Path(folder) / "machine")
    else:
        raise UsageError(str(file), "no recorded machine", "record one there with: amalia doctor --record FILE.tar.gz")


def _unpack(file: Path, folder: Path) -> None:
    """Write out the plain files of a recording, below `folder` and nowhere else."""
    left = MOST_RECORDED
    try:
        with tarfile.open(file, "r:gz") as tar:
            for entry in tar:
                inside = (folder / entry.name).resolve()
                left -= entry.size
                if not entry.isfile() or not inside.is_relative_to(folder.resolve()) or left < 0:
                    raise UsageError(str(file), f"holds {plain(entry.name)[:80]!r}", "take one that doctor recorded")
                inside.parent.mkdir(parents=True, exist_ok=True)
                content = tar.extractfile(entry)
                inside.write_bytes(content.read() if content else b"")
    except (tarfile.TarError, zlib.error, OSError, EOFError) as problem:
        raise UsageError(str(file), f"no recorded machine ({problem})", "record it again") from None
    if not (folder / "machine" / "machine.json").is_file():
        raise UsageError(str(file), "no recorded machine", "record it again with: amalia doctor --record FILE.tar.gz")


def examine(file: Path | None) -> tuple[Host, tuple[str, ...]]:
    """Give this machine, or a recorded one, as a plan sees it, and what there takes the memory a model needs."""
    if file is None:
        return _here(), tuple(hazards(machine.glance(), None, None))
    with recorded_machine(file) as seen:
        return recorded_host(seen, file.name), tuple(hazards(seen, None, None))


def _here() -> Host:
    """Ask the library; where it is not built yet, say what a build for this machine would find."""
    try:
        return this_host()
    except LibraryMissing:
        return recorded_host(machine.look(), "this machine, once amalia setup has run")


def as_dict(plan: Plan, found: Check | None, host: Host) -> dict[str, Any]:
    return plan.as_dict() | {"simulation": dataclasses.asdict(found) if found else None, "machine": host.name}
