"""A large file on its way into the Hub's cache: what has arrived stays, and its hash decides.

The client that others use throws away what a stopped download has brought, and believes a file by its size. Here the bytes
wait in `blobs/SHA256.amalia.incomplete`, the same request goes on behind them, and only what has the Hub's SHA-256
becomes `blobs/SHA256`, with the snapshot's link to it.
"""

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

from amalia_edge import hub
from amalia_edge.errors import HubError
from amalia_edge.hub import HubFile, Repository
from amalia_edge.hub_stream import RemoteStream

BLOCK = 1 << 16  # bytes; what a stop may lose
ENDING = ".amalia.incomplete"

Advance = Callable[[int], None]


def bring(repository: Repository, file: HubFile, advance: Advance) -> None:
    """Bring a file that the Hub has a hash of into its cache, from the byte on that an earlier attempt reached."""
    blob, pointer = _blob(repository, file), hub.snapshot_folder(repository) / file.name
    pointer.parent.mkdir(parents=True, exist_ok=True)
    blob.parent.mkdir(parents=True, exist_ok=True)
    if not is_intact(blob, file, advance):
        with _locked(_partial(blob), f"{repository.name}/{file.name}") as partial:
            _complete(partial, repository, file, advance)
            os.fsync(partial.fileno())
            _partial(blob).replace(blob)
    _link(pointer, blob)


def is_intact(path: Path, file: HubFile, advance: Advance) -> bool:
    """Tell whether a file has the Hub's size and SHA-256; `advance` keeps what it heard only if so."""
    if not path.is_file() or path.stat().st_size != file.nbytes:
        return False
    with path.open("rb", buffering=0) as content:
        if _hash(content, advance).hexdigest() == file.sha256:
            return True
    advance(-file.nbytes)
    return False


def missing(repository: Repository, file: HubFile) -> int:
    """Count the bytes that are still to come."""
    if hub.is_cached(repository, [file.name]):
        return 0
    if file.sha256 is None:
        return file.nbytes
    blob = _blob(repository, file)
    if _size(blob) == file.nbytes:
        return 0
    return max(0, file.nbytes - _size(_partial(blob)))


def _complete(partial: FileIO, repository: Repository, file: HubFile, advance: Advance) -> None:
    """Receive what is missing; what an earlier attempt left is given up if the whole turns out wrong, and only then."""
    resumed = os.fstat(partial.fileno()).st_size > 0
    whole = _receive(partial, repository, file, advance)
    if not whole and resumed:
        whole = _receive(partial, repository, file, advance)
    if not whole:
        found = "what arrived is not what the Hub has: its SHA-256 differs"
        raise HubError(f"{repository.name}/{file.name}", found, "it was removed; give the same command again")


def _receive(partial: FileIO, repository: Repository, file: HubFile, advance: Advance) -> bool:
    """Append the rest of a file; where the hash then differs, empty it."""
    partial.seek(0)
    digest = _hash(partial, advance)
    with RemoteStream(repository, file, partial.tell()) as stream:
        while block := stream.read(BLOCK):
            _write(partial, block)
            digest.update(block)
            advance(len(block))
    if digest.hexdigest() == file.sha256:
        return True
    advance(-partial.tell())
    partial.truncate(0)
    return False


def _hash(content: FileIO, advance: Advance) -> Any:
    digest = hashlib.sha256()
    while block := content.read(1 << 20):
        digest.update(block)
        advance(len(block))
    return digest


def _write(file: FileIO, block: bytes) -> None:
    """Write a block whole: on a disk that fills up, a part of it may be taken without an error."""
    rest = memoryview(block)
    while rest:
        rest = rest[file.write(rest) :]


@contextmanager
def _locked(path: Path, where: str) -> Iterator[FileIO]:
    """Open a file to append to, alone: two that write to it would spoil each other's."""
    with path.open("ab+", buffering=0) as file:
        with suppress(OSError):  # where the file system has no locks, the hash still decides
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise HubError(where, "another process is fetching this file", "wait for it to end") from None
        if not path.exists() or not os.path.samestat(path.stat(), os.fstat(file.fileno())):
            raise HubError(where, "another process has just fetched this file", "give the same command again")
        try:
            yield file
        finally:
            if os.fstat(file.fileno()).st_size == 0:  # nothing to go on with
                path.unlink(missing_ok=True)


def _link(pointer: Path, blob: Path) -> None:
    """Let the snapshot's name lead to the content, as the Hub's clients do; where no links can be, move it there."""
    new = pointer.with_name(f".{pointer.name}.{os.getpid()}")
    try:
        new.symlink_to(os.path.relpath(blob, pointer.parent))
        new.replace(pointer)
    except OSError:
        new.unlink(missing_ok=True)
        blob.replace(pointer)


def _blob(repository: Repository, file: HubFile) -> Path:
    assert file.sha256 is not None
    return hub.storage_folder(repository.name) / "blobs" / file.sha256


def _partial(blob: Path) -> Path:
    return blob.with_name(blob.name + ENDING)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
