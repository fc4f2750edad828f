"""One state in a file: the key it was made under, the ids it holds, and libllama's memory of them, under one checksum.

libllama refuses few bytes, and would answer from damaged ones: what fails the checksum never reaches it. Trouble is told
as `ModelCorrupt` where a file is surely ours and broken, as `ModelUnsupported` where it is not ours.
"""

import fcntl
import hashlib
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from amalia_edge.errors import ModelCorrupt, ModelUnsupported
from amalia_edge.whole_file import sync_folder

MAGIC, FORMAT = b"AMALIAKV", 1
HEAD = struct.Struct("<8sIIQQ32s")  # magic, format, bytes of the key, ids, bytes of the memory, SHA-256 of all else
DIGEST_NBYTES = 32
BLOCK = 1 << 20  # bytes: hashed while they are still in the processor's cache

Memory = NDArray[np.uint8]


def write_state(path: Path, key: bytes, ids: Sequence[int], memory: Memory) -> bool:
    """Write a state so that it is whole or absent; False where another process is writing the same one."""
    told = HEAD.pack(MAGIC, FORMAT, len(key), len(ids), memory.nbytes, b"")[:-DIGEST_NBYTES]
    parts = (key, _bytes_of(ids), memory.data)
    hasher = hashlib.sha256(told)
    for part in parts:
        hasher.update(part)
    place = hidden(path)
    with _locked(place, os.O_CREAT) as descriptor:
        if descriptor is None:
            return False
        try:
            os.ftruncate(descriptor, 0)  # what a killed writer left
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                for part in (told, hasher.digest(), *parts):
                    file.write(part)
            os.fsync(descriptor)
            place.replace(path)
        except BaseException:
            place.unlink(missing_ok=True)
            raise
    sync_folder(path.parent)
    return True


def matching(path: Path, key: bytes, ids: Sequence[int]) -> int:
    """Count the ids a file holds where these begin with them, without reading their memory; else give 0."""
    with _opened(path) as file:
        count = _begin(path, file, key)[1]
        return count if count <= len(ids) and file.read(4 * count) == _bytes_of(ids[:count]) else 0


def read_state(path: Path, key: bytes, ids: Sequence[int]) -> Memory:
    """Read the memory of exactly these ids, after checking every byte of the file."""
    with _opened(path) as file:
        head, count, nbytes = _begin(path, file, key)
        tokens = _bytes_of(ids)
        if count != len(ids) or file.read(len(tokens)) != tokens:
            raise _broken(path, "other text than it was taken for")
        hasher = hashlib.sha256(head[:-DIGEST_NBYTES])
        hasher.update(key)
        hasher.update(tokens)
        memory = np.empty(nbytes, np.uint8)
        for start in range(0, nbytes, BLOCK):
            block = memory[start : start + BLOCK]
            if file.readinto(block.data) != block.nbytes:
                raise _broken(path, "cut while it was read")
            hasher.update(block.data)
    if hasher.digest() != head[-DIGEST_NBYTES:]:
        raise _broken(path, "not the bytes that were written")
    return memory


def file_nbytes(key: bytes, ids: Sequence[int], memory: Memory) -> int:
    return HEAD.size + len(key) + 4 * len(ids) + memory.nbytes


def hidden(path: Path) -> Path:
    """Name the neighbour that holds the bytes until they are whole; whoever has it locked writes `path`."""
    return path.with_name(f".{path.name}.partial")


def remove_if_left(partial: Path) -> None:
    """Remove what a killed writer left; of one at work nothing happens."""
    with suppress(OSError), _locked(partial) as descriptor:
        if descriptor is not None:
            partial.unlink()


@contextmanager
def _locked(path: Path, create: int = 0) -> Iterator[int | None]:
    """Open and lock a file; give None where another process holds it, or has just put it in its place."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags | create, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_there = os.fstat(descriptor).st_ino == path.stat().st_ino
        except (BlockingIOError, FileNotFoundError):
            is_there = False
        yield descriptor if is_there else None
    finally:
        os.close(descriptor)


@contextmanager
def _opened(path: Path) -> Iterator[FileIO]:
    """Open a plain file of this user's: no link is followed, and no FIFO waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise _foreign(path, "not a plain file of this user's")
        with os.fdopen(descriptor, "rb", buffering=0, closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


def _begin(path: Path, file: FileIO, key: bytes) -> tuple[bytes, int, int]:
    """Read the head and the key; give the head, the ids and the bytes of memory that follow.

    All counts must add up to the file's size before anything is made room for.
    """
    size = os.fstat(file.fileno()).st_size
    head = file.read(HEAD.size)
    if len(head) < HEAD.size or not head.startswith(MAGIC):
        raise _foreign(path, "not a state")
    _, number, key_nbytes, count, nbytes, _ = HEAD.unpack(head)
    if number != FORMAT:
        raise _broken(path, f"format {number}, not {FORMAT}")
    if HEAD.size + key_nbytes + 4 * count + nbytes != size:
        raise _broken(path, f"{size} bytes, not what it counts")
    if key_nbytes != len(key) or file.read(key_nbytes) != key:
        raise _broken(path, "made under other settings than its name says")
    return head, count, nbytes


def _bytes_of(ids: Sequence[int]) -> bytes:
    return np.asarray(ids, "<i4").tobytes()


def _foreign(path: Path, found: str) -> ModelUnsupported:
    return ModelUnsupported(path.name, found, "it is left alone, and the text read anew")


def _broken(path: Path, found: str) -> ModelCorrupt:
    return ModelCorrupt(path.name, found, "it is removed, and the text read anew")
