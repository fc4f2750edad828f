"""A GGUF from the Hub: the level that is wanted, all its parts, checked by hash and read before it is used."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from amalia_edge import console, hub, hub_blob
from amalia_edge.errors import (
    DoesNotFit,
    HubError,
    ModelCorrupt,
    ModelNotFound,
    ModelUnsupported,
    ModelUntrusted,
    Option,
    Shortage,
    UsageError,
)
from amalia_edge.gguf import read_header
from amalia_edge.gguf_format import Cursor
from amalia_edge.gguf_names import DEFAULT_LEVEL, ModelFiles, group
from amalia_edge.gguf_rules import check_architecture
from amalia_edge.hub import Repository
from amalia_edge.hub_name import HubName
from amalia_edge.hub_stream import read_range
from amalia_edge.store import find, name_on_hub

BEGINNING = 1 << 16  # bytes; the architecture is the first key, or nearly


@dataclass(frozen=True)
class Pulled:
    """What is in the Hub's cache now."""

    name: str
    level: str
    commit: str
    files: tuple[Path, ...]
    nbytes: int
    fetched: int  # bytes that were not here before


def find_or_pull(name: str) -> Path:
    """Give the file a name stands for; what is named on the Hub, and not on this machine, is fetched, and said so."""
    try:
        return find(name)
    except ModelNotFound:
        wish = name_on_hub(name)
        if wish is None or hub.is_offline():
            raise
    console.err.print(f"{wish} is not on this machine: it is fetched from {hub.endpoint()}", markup=False)
    return pull(wish).files[0]


def pull(wish: HubName) -> Pulled:
    """Bring a model into the Hub's cache, going on where an earlier attempt stopped, under a progress bar."""
    repository = hub.find_repository(wish.repository, wish.revision)
    models = group(repository.files)
    chosen = choose(wish, models, repository)
    _check_room(repository, chosen, models)
    _check_architecture(repository, chosen.files[0])
    try:
        fetched = _fetch(repository, chosen)
    except KeyboardInterrupt:
        console.err.print("Stopped. The same command goes on; amalia models lists what is here of it.", markup=False)
        raise
    files = tuple(hub.snapshot_folder(repository) / name for name in chosen.files)
    is_only = [model.level for model in models].count(chosen.level) == 1 and bool(chosen.level)
    name = str(HubName(wish.repository, wish.revision, chosen.level, "" if is_only else chosen.files[0]))
    _check_header(name, files[0])
    return Pulled(name, chosen.level, repository.commit, files, _nbytes(repository, chosen), fetched)


def choose(wish: HubName, models: list[ModelFiles], repository: Repository) -> ModelFiles:
    """Choose the one model that is wished for, or list those there are."""
    if wish.file:
        found = [model for model in models if wish.file in {*model.files, *(_last(name) for name in model.files)}]
    else:
        level = wish.level or DEFAULT_LEVEL
        found = [model for model in models if model.level == level] or [one for one in models if one.is_at(level)]
        found = found or (models if not wish.level and len(models) == 1 else [])
    if not found and hub.is_offline():
        raise hub.not_cached(wish.repository, wish.file or wish.level or DEFAULT_LEVEL)
    if not models:
        advice = f"if it holds a checkpoint: amalia convert {wish.repository}"
        raise HubError(wish.repository, "no GGUF in this repository", advice)
    if not found:
        raise HubError(str(wish), f"not there; there are {_listed(models, repository)}", "give one: user/repo:LEVEL")
    if len(found) > 1:
        files = ", ".join(model.files[0] for model in found[:12])
        raise UsageError(str(wish), f"several models: {files}", f"give the file: {wish.repository}:{found[0].files[0]}")
    if not found[0].is_whole:
        counted = f"only {len(found[0].files)} of its {found[0].count} parts are there"
        raise HubError(str(wish), counted, "see the repository's page")
    return found[0]


def _fetch(repository: Repository, chosen: ModelFiles) -> int:
    """Fetch what is not here, or not what it should be; what is here is checked by its hash again."""
    files = [repository.files[name] for name in chosen.files]
    needed = _missing(repository, chosen)
    with console.progress(repository.name, _nbytes(repository, chosen)) as bar:
        for file in files:
            path = hub.snapshot_folder(repository) / file.name
            if hub.is_cached(repository, [file.name]) and file.sha256:
                if hub_blob.is_intact(path, file, bar.advance):
                    continue
                console.err.print(f"{file.name}: not what the Hub has; it is fetched anew", markup=False)
                hub.discard(repository, file.name)
                needed += file.nbytes
            hub.fetch(repository, [file.name], bar.advance)
    hub.fetch(repository, [])  # so that the revision's name is known offline
    return needed


def _check_room(repository: Repository, chosen: ModelFiles, models: list[ModelFiles]) -> None:
    """Refuse before the start what the disk has no room for, and say which level it has room for."""
    folder = hub.cache_folder()
    free = shutil.disk_usage(next(one for one in (folder, *folder.parents) if one.is_dir())).free
    needed = _missing(repository, chosen)
    if needed <= free:
        return
    fitting = [model for model in models if model.level and _missing(repository, model) <= free]
    best = max(fitting, key=lambda model: _nbytes(repository, model), default=None)
    options = (
        [Option(f"{repository.name}:{best.level}", {"level": best.level}, _missing(repository, best))] if best else []
    )
    advice = "".join(f"{one.advice} ({console.megabytes(one.needed)}) would fit; " for one in options)
    sizes = f"{console.megabytes(needed)} needed, {console.megabytes(free)} free in {folder}"
    shortage = Shortage("disk", needed, free, tuple(options))
    raise DoesNotFit(repository.name, sizes, f"{advice}free some, or set HF_HOME to a larger disk", shortage)


def _check_architecture(repository: Repository, name: str) -> None:
    """Refuse what we do not run before it is fetched: it stands in a file's first bytes."""
    file = repository.files[name]
    if hub_blob.missing(repository, file) < file.nbytes:  # it is here, or on its way
        return
    beginning = read_range(repository, file, 0, BEGINNING)
    architecture = Cursor(Path(name), beginning).architecture()
    if architecture is not None:
        check_architecture(f"{repository.name}/{name}", architecture)


def _check_header(name: str, path: Path) -> None:
    """Read the header; what we do not run is what the Hub has all the same, and others may need it: it is not ours to remove."""
    try:
        read_header(path)
    except (ModelCorrupt, ModelUnsupported, ModelUntrusted) as fault:
        advice = "" if isinstance(fault, ModelCorrupt) else f"{fault.advice}; "
        kept = f"{advice}other programs may run it; out of the Hub's cache it goes with: amalia rm {name}"
        raise type(fault)(name, f"{fault.where}: {fault.found}", kept) from None


def _missing(repository: Repository, model: ModelFiles) -> int:
    return sum(hub_blob.missing(repository, repository.files[name]) for name in model.files)


def _nbytes(repository: Repository, model: ModelFiles) -> int:
    return sum(repository.files[name].nbytes for name in model.files)


def _listed(models: list[ModelFiles], repository: Repository) -> str:
    sized = sorted((_nbytes(repository, model), model.level or model.files[0]) for model in models)
    listed = ", ".join(f"{name} ({console.megabytes(nbytes)})" for nbytes, name in sized[:40])
    return listed + ", …" * (len(sized) > 40)


def _last(name: str) -> str:
    return name.rpartition("/")[2]
