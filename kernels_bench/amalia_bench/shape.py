"""Before the download: what a model of a given geometry will do on this machine, and what on one that is not at hand.

A file of that geometry with random weights is written, measured by the same code as any other model, and deleted. What it
takes in memory, and which levels fit with which context, comes from the runtime's own plan, without writing anything. For
another machine there is a prediction: its bandwidth, times the share of the bandwidth that was reached here, over the bytes
that a token needs. It is marked as one wherever it is shown.
"""

import dataclasses
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amalia_bench import records
from amalia_bench.identity import Identity
from amalia_bench.machine import Library, Machine
from amalia_bench.place import Place, place
from amalia_bench.records import Row, record
from amalia_bench.roofline import bytes_per_token
from amalia_bench.speed import Case, Opener, SpeedConfig, Surroundings, Trial, measure_speed
from amalia_bench.speed_row import Key, key_of, make_key, speed_body
from amalia_bench.speed_run import here
from amalia_bench.subject import open_remote
from amalia_bench.synthetic import check_disk, plan_synthetic, write_synthetic
from amalia_bench.target import Target
from amalia_convert.level_table import find_level
from amalia_convert.plan import OutputPlan
from amalia_convert.shape import headers
from amalia_edge.build import cache_folder
from amalia_edge.device import usable_cores
from amalia_edge.errors import BenchError, UsageError
from amalia_edge.gguf import Header
from amalia_edge.host import Host
from amalia_edge.load_config import LoadConfig
from amalia_edge.memory import Model
from amalia_edge.placement import Trial as PlacementTrial
from amalia_edge.plan import settle
from amalia_edge.smaller import largest_context

CONTEXTS = (2048, 4096, 8192, 16384, 32768)
PREFIX = "shape-"
MOST = 10.0  # times the bandwidth; a processor's cache gives no more
WRITER = Case(generated=128)  # the test a prediction is made of


@dataclass(frozen=True)
class ShapeConfig:
    """What to find out, and how."""

    shape: str  # a name, or a config.json
    levels: tuple[str, ...] = ("Q4_K_M",)
    contexts: tuple[int, ...] = CONTEXTS
    speed: SpeedConfig = field(default_factory=lambda: SpeedConfig(repetitions=3))
    folder: Path | None = None  # None: in the cache folder, for /tmp is memory on many machines

    def __post_init__(self) -> None:
        if not self.levels or len(set(map(str.upper, self.levels))) < len(self.levels):
            raise UsageError("--level", "given twice, or not at all", "for instance --level Q4_K_M --level Q8_0")
        if any(context < 1 for context in self.contexts):
            raise UsageError("-c", "a context below one", "give tokens, as in -c 4096,8192")

    @property
    def name(self) -> str:
        """Name the shape as tables do."""
        path = Path(self.shape)
        if path.suffix != ".json":
            return self.shape
        return path.absolute().parent.name if path.stem == "config" else path.stem


@dataclass(frozen=True)
class Room:
    """What one level takes on a machine, and the longest context that fits there."""

    level: str
    nbytes: int  # of the file
    memory: Mapping[int, int]  # context → bytes
    context: int | None  # the longest that fits; None: none does
    needed: int  # bytes, at that context

    @property
    def fits(self) -> bool:
        return self.context is not None


def rooms(found: Mapping[str, Header], contexts: Sequence[int], host: Host, load: LoadConfig) -> list[Room]:
    """Plan every level on a machine, the largest first; nothing is written or loaded."""
    return [_room(level, header, contexts, host, load) for level, header in found.items()]


def _room(level: str, header: Header, contexts: Sequence[int], host: Host, load: LoadConfig) -> Room:
    trial, trained = PlacementTrial(Model(header, host.features), host), header.trained_context
    longest = trained or max(contexts)
    wish = dataclasses.replace(load, context=longest)
    config = dataclasses.replace(settle(header, wish, host), forced=False)

    def needed(context: int) -> int:
        placed = trial.seat(dataclasses.replace(config, context=context))[1]
        return sum(one.needed for one in placed.needs)

    largest = largest_context(trial, config)
    memory = {context: needed(context) for context in contexts if context <= longest}
    return Room(level, header.file_size, memory, largest, needed(largest or min((*contexts, longest))))


def fitting(found: Sequence[Room]) -> dict[str, dict[str, int]]:
    """Give what a record says: each level that fits, its longest context, and the bytes it then needs."""
    return {room.level: {"context": room.context, "bytes": room.needed} for room in found if room.context is not None}


def shape_headers(config: ShapeConfig) -> dict[str, Header]:
    """Give the header of every level, after checking that the wanted ones can be made."""
    found = headers(config.shape)
    for level in config.levels:
        find_level(level)
    return found


def measure_shape(
    config: ShapeConfig,
    machine: Machine,
    host: Host,
    *,
    opener: Opener = open_remote,
    surroundings: Surroundings | None = None,
    keep: Path | None = None,
    known: Sequence[Row] = (),
    wrote: Callable[[int], None] = lambda _: None,
    watch: Callable[[], None] = lambda: None,
) -> Iterator[Row]:
    """Write each level's file, measure it, delete it; give each row after it was appended to `keep`.

    Rows of `known` that answer what is wanted are given instead of measured again.
    """
    every = {one.level: one for one in rooms(shape_headers(config), config.contexts, host, config.speed.load)}
    check_disks(config, machine, known)
    for level, part in _parts(config, machine, known).items():
        yield from part.rows
        if not part.cases:
            continue
        with _temporary(_folder(config)) as scratch:
            path = scratch / part.plan.path.name
            write_synthetic(path, config.shape, level, wrote)
            wanted = [Trial(path, config.speed, part.cases)]
            for measurement in measure_speed(wanted, opener, surroundings or here(machine), watch):
                more = {"shape": config.name, "level": level, "synthetic": True} | _memory(every.get(level), every)
                body = speed_body(measurement, machine) | {"model_filename": path.name} | more
                model = _identity(measurement.facts.header, config, _digest(part.plan))
                row = record("shape", body, machine, measurement.facts.library, model)
                if keep is not None:
                    records.append(keep, row)
                yield row


def check_disks(config: ShapeConfig, machine: Machine, known: Sequence[Row] = ()) -> None:
    """Refuse a file that the disk cannot hold, before any is measured; what is known needs none."""
    for part in _parts(config, machine, known).values():
        if part.cases:
            check_disk(part.plan)


def check_predictable(config: ShapeConfig, host: Host) -> None:
    """Refuse what would give no efficiency to predict with, before minutes of measuring."""
    found, load, advice = shape_headers(config), config.speed.load, "give one: --efficiency 0.6"
    if not any(case.generated and not case.prompt for case in config.speed.cases):
        raise UsageError("--device", "no efficiency without a test that writes", f"{advice}, or add -n 128")
    for level in map(_level, config.levels):
        header = _predictable(found, level)
        wish = dataclasses.replace(load, context=config.speed.context)
        seated, _ = PlacementTrial(Model(header, host.features), host).seat(settle(header, wish, host))
        if seated.gpu_layers:
            raise UsageError("--device", "no efficiency is measured where a GPU has some of the layers", advice)


def _predictable(found: Mapping[str, Header], level: str) -> Header:
    if level not in found:
        raise UsageError(f"--level {level}", "needs importance data, and is not predicted", "choose another level")
    return found[level]


@dataclass(frozen=True)
class _Part:
    """One level: its file, what is known of it, and what is left to measure."""

    plan: OutputPlan
    rows: tuple[Row, ...]
    cases: tuple[Case, ...]


def _parts(config: ShapeConfig, machine: Machine, known: Sequence[Row]) -> dict[str, _Part]:
    by_key = {key_of(row): row for row in known if row["kind"] == "shape" and not row.get("prediction")}
    parts = {}
    for level in map(_level, config.levels):
        plan = plan_synthetic(_folder(config) / f"{config.name}-{level}.gguf", config.shape, level)
        keys = _keys(config, _digest(plan), machine)
        rows = tuple(by_key[key] for key in keys.values() if key in by_key)
        parts[level] = _Part(plan, rows, tuple(case for case, key in keys.items() if key not in by_key))
    return parts


def _level(name: str) -> str:
    return find_level(name).name


def _digest(plan: OutputPlan) -> str:
    """Hash a synthetic file's header: everything in the file follows from it."""
    return hashlib.sha256(plan.header).hexdigest()


def _keys(config: ShapeConfig, digest: str, machine: Machine) -> dict[Case, Key]:
    load = config.speed.load
    threads = load.threads or usable_cores()
    return {case: make_key(digest, machine.cpu, "", load, case, threads) for case in config.speed.cases}


def _memory(room: Room | None, every: Mapping[str, Room]) -> dict[str, Any]:
    memory = {str(context): nbytes for context, nbytes in room.memory.items()} if room else {}
    return {"memory": memory, "fits": fitting(list(every.values()))}


def _identity(header: Header, config: ShapeConfig, digest: str) -> Identity:
    """Say which file it was; it has no vocabulary and no template that another could share."""
    return Identity(
        file=header.path.name,
        name=config.name,
        level=header.level,
        architecture=header.architecture,
        bytes=header.file_size,
        parameters=header.parameters,
        sha256=digest,
        vocabulary_sha256="",
        template_sha256="",
    )


def predict(
    config: ShapeConfig, level: str, target: Target, measured: tuple[float, float], *, source: str
) -> dict[str, Any]:
    """Say what a machine that is not at hand would do at one level; `measured` is an efficiency and its spread."""
    found, name = headers(config.shape), _level(level)
    header, load = _predictable(found, name), config.speed.load
    efficiency, spread = measured
    if not 0 < efficiency <= MOST:
        raise UsageError("--efficiency", f"{efficiency}", "give the share of the bandwidth, above 0 and up to 1")
    share = min(efficiency, 1.0)  # above it, weights came from a processor's cache
    nbytes = bytes_per_token(header, WRITER.middle, load.cache_keys, load.cache_values)
    host = target.host
    every = rooms(found, config.contexts, host, load) if host else []
    told = {
        "prediction": True,
        "device": target.name,
        "device_title": target.title,
        "device_source": target.source,
        "shape": config.name,
        "level": name,
        "synthetic": True,
        "test": WRITER.name,
        "read_gbps": target.gbps,
        "efficiency": share,
        "efficiency_source": source,
        "bytes_per_token": nbytes,
        "engine_ts": target.gbps * 1e9 * share / nbytes,
        "engine_stddev_ts": target.gbps * 1e9 * min(spread, share) / nbytes,
    }
    return told | _memory(next((room for room in every if room.level == name), None), {one.level: one for one in every})


def prediction_record(body: Mapping[str, Any], machine: Machine, library: Library) -> Row:
    """Keep a prediction as a record of its own; the machine in it is the one it was made on."""
    return record("shape", body, machine, library)


def is_known(prediction: Row, known: Sequence[Row]) -> bool:
    """Say whether a prediction was made before: the same in all but its day and what memory was free then."""
    return any(_content(row) == _content(prediction) for row in known)


def _content(row: Row) -> tuple[Place, Row]:
    stamp = ("test_time", "machine", "library", "amalia_version")
    return place(row), {name: value for name, value in row.items() if name not in stamp}


def efficiency_of(row: Mapping[str, Any]) -> tuple[float, float] | None:
    """Give the share of the bandwidth that the engine reached in a row, and its spread; None where it tells of none."""
    gbps, nbytes = row.get("read_gbps"), row.get("bytes_per_token")
    if not gbps or not nbytes or row.get("prediction") or row.get("roofline_share") is None:
        return None
    unit = nbytes / (gbps * 1e9)
    return row["engine_ts"] * unit, row["engine_stddev_ts"] * unit


def _folder(config: ShapeConfig) -> Path:
    return config.folder.expanduser() if config.folder else cache_folder() / "shapes"


@contextmanager
def _temporary(parent: Path) -> Iterator[Path]:
    """Give a folder that is gone afterwards, whatever happens; what a killed run left goes with it."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for left in parent.glob(f"{PREFIX}*"):
            if _abandoned(left):
                shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent))
    except OSError as problem:
        raise BenchError(str(parent), f"cannot be written ({problem.strerror})", "name another --folder") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _abandoned(folder: Path) -> bool:
    """Say whether the run that made a folder is gone."""
    number = folder.name.removeprefix(PREFIX).partition("-")[0]
    if not number.isdigit():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False
