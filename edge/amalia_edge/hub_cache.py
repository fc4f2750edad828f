"""The GGUFs in the Hub's cache: listed, and removed without taking what another snapshot needs."""

import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from amalia_edge import hub
from amalia_edge.errors import HubError
from amalia_edge.gguf_names import ModelFiles, group, split_level
from amalia_edge.stored_model import StoredModel

_FOLDER = re.compile(r"models--(?P<user>[\w.-]+?)--(?P<name>[\w.-]+)", re.ASCII)
SHORT = 8  # letters of a commit, where people read it


def cached_models() -> list[StoredModel]:
    """List the GGUFs of every repository, and what stopped downloads have left."""
    found: list[StoredModel] = []
    for storage in _entries(hub.cache_folder()):
        if name := _FOLDER.fullmatch(storage.name):
            found += _of_repository(storage, f"{name['user']}/{name['name']}")
    return found


def remove_cached(model: StoredModel) -> int:
    """Take a model's files out of the cache; give the bytes that this has freed."""
    if any(path.name.endswith(".incomplete") and is_locked(path) for path in model.files):
        raise HubError(model.name, "is being fetched now", "wait for it to end, or stop it")
    try:
        freed = sum(_remove(path) for path in model.files)
        for path in model.files:
            _tidy(path.parent)
        return freed
    except OSError as problem:
        raise HubError(model.name, problem.strerror or str(problem), f"check {hub.cache_folder()}") from None


def is_locked(path: Path) -> bool:
    """Tell whether another process has a file for itself."""
    with suppress(OSError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _of_repository(storage: Path, name: str) -> Iterator[StoredModel]:
    """List a repository's models; the newest commit that holds one has it under the plain name."""
    refs = _refs(storage / "refs")
    commits = [path for path in _entries(storage / "snapshots") if path.is_dir()]
    commits.sort(key=lambda path: ("main" in refs.get(path.name, ()), _modified(path)), reverse=True)
    seen: set[str] = set()
    for snapshot in commits:
        revisions = [snapshot.name[:SHORT], *refs.get(snapshot.name, ()), snapshot.name]
        for files, tag in _tagged(snapshot):
            keys = [f"{name}@{revision}" for revision in revisions]
            if tag not in seen:
                base = split_level(files.name.rpartition("/")[2])[0]
                keys = [name, *keys, name.partition("/")[2], base]
            seen.add(tag)
            yield _model(snapshot, files, tuple(dict.fromkeys(keys)), tag)
    for path in _entries(storage / "blobs"):
        if path.name.endswith(".incomplete"):
            fault = "a download that was stopped, or goes on now; amalia pull goes on with it"
            yield StoredModel((name,), f"{path.name[:SHORT]}.incomplete", "", "hub", (path,), _size(path), fault)


def _tagged(snapshot: Path) -> list[tuple[ModelFiles, str]]:
    """List a commit's models, each with what tells it from the others: its level, else its file."""
    models = group(path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*"))
    levels = [files.level for files in models]
    return [
        (files, files.level if files.level and levels.count(files.level) == 1 else files.files[0]) for files in models
    ]


def _model(snapshot: Path, files: ModelFiles, keys: tuple[str, ...], tag: str) -> StoredModel:
    paths = tuple(snapshot / name for name in files.files)
    fault = "" if all(path.is_file() for path in paths) else "its content is gone from the Hub's cache"
    if not files.is_whole:
        fault = f"{len(paths)} of {files.count} parts are here; amalia pull goes on with it"
    return StoredModel(keys, tag, files.level, "hub", paths, sum(map(_size, paths)), fault)


def _remove(path: Path) -> int:
    """Remove a file or a link, and what the link leads to where nothing else in the cache leads there."""
    cache = hub.cache_folder()
    target = _target(path)
    nbytes = 0 if target else path.lstat().st_size
    path.unlink()
    if target is None or not target.is_relative_to(cache) or not target.exists():
        return nbytes
    storage = cache / target.relative_to(cache).parts[0]
    # Content is linked to by its repository's snapshots; or, where repositories share it, by the blobs of all.
    holders = storage.glob("snapshots/**/*") if storage.name != "blobs" else cache.glob("models--*/blobs/*")
    return 0 if target in map(_target, holders) else _remove(target)


def _tidy(folder: Path) -> None:
    """Remove folders that have become empty, up to the snapshot's own."""
    with suppress(OSError):  # something else lies there
        while "snapshots" in folder.relative_to(hub.cache_folder()).parts[1:-1]:
            folder.rmdir()
            folder = folder.parent


def _target(path: Path) -> Path | None:
    return Path(os.path.normpath(path.parent / path.readlink())) if path.is_symlink() else None


def _refs(folder: Path) -> dict[str, list[str]]:
    """Read what commits are called: commit → names."""
    names: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*")):
        with suppress(OSError, ValueError):
            if path.is_file():
                names.setdefault(path.read_text("ascii").strip(), []).append(path.relative_to(folder).as_posix())
    return names


def _entries(folder: Path) -> Iterable[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:  # it is not there, or may not be entered
        return ()


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
